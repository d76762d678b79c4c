"""Runs the comparison with what a user would pick instead, and writes the tables down.

    python -m benchmarks.peers.run [--only http|lookup] [--rounds N] [--keys N] [--docs yes|no]

Prints each table, keeps it with every round's figures in var/peers, and puts it, with its picture, into
docs/PERFORMANCE.md. Whoever cannot be measured here is a row that says why.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.peers import http, lookup, report
from benchmarks.peers.report import Group

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var" / "peers"
DOCS = ROOT / "docs"
ONLY = ("http", "lookup")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def finish(group: Group, docs: bool) -> None:
    """Print a group and write it down."""
    print(f"\n{group.title}\n\n{report.plain(report.cells(group))}\n")
    if group.bounds:
        print(report.plain(report.bound_cells(group)) + "\n", flush=True)
    report.save(group, FOLDER)
    report.draw(group, FOLDER / f"peers-{group.name}.png")
    if docs:
        report.draw(group, DOCS / f"peers-{group.name}.png")
        report.place(DOCS / "PERFORMANCE.md", group)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="peers", description="measure us beside what a user would pick instead")
    parser.add_argument("--only", choices=ONLY)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--docs", choices=("yes", "no"), default="yes")
    chosen = parser.parse_args(arguments)
    # An ended run takes its servers with it: what `with` began is undone on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    command = "make peers" + (f" ONLY={chosen.only}" if chosen.only else "")
    conditions = report.conditions(command, chosen.rounds)
    for name in [chosen.only] if chosen.only else ONLY:
        if name == "http":
            groups = [http.measure(chosen.rounds, FOLDER, say)]
        else:
            groups = lookup.measure(chosen.rounds, chosen.keys, FOLDER, say)
        for group in groups:
            group.conditions = conditions
            finish(group, chosen.docs == "yes")


if __name__ == "__main__":
    main(sys.argv[1:])
