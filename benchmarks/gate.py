"""Runs the gate: head beside a base revision in turns, and head against budgets that hold on any machine.

    python -m benchmarks.gate compare BASE [--head REV]      fails on a regression beyond its allowance
    python -m benchmarks.gate budgets [NAME...]              fails on a budget that is exceeded

benchmarks/gates.toml names both. Both revisions are unpacked and built beside each other under var/gate; the operations
are head's (benchmarks/probes.py), so a base that knows nothing of the gate is measured as far as it goes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[1]
GATES = Path(__file__).with_name("gates.toml")
PROBES = Path(__file__).with_name("probes.py")
FOLDER = ROOT / "var" / "gate"
SEED = 20261123
RESAMPLES = 2_000
TURN_SECONDS = 0.06
BUILD_SECONDS = 900
MEASURES = ("bytes", "instructions", "allocations", "calls")


class GateError(Exception):
    """The gate cannot be run as asked; one line says why."""


class Budget(NamedTuple):
    """What one operation may cost at most, whatever the machine."""

    name: str
    measure: str
    at_most: float
    note: str


class Gates(NamedTuple):
    """What gates.toml says."""

    launches: int
    rounds: int
    confidence: float
    allowances: dict[str, float]
    budgets: list[Budget]


class Judged(NamedTuple):
    """Head beside base for one operation: the median ratio, its interval, and whether it passes."""

    ratio: float
    low: float
    high: float
    passes: bool


# --- gates.toml -----------------------------------------------------------------------------------------------------


def read(path: Path = GATES) -> Gates:
    """The gates as written. Raises GateError, naming the place, if something is missing, unknown or out of bounds."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise GateError(f"{path.name}: there is no such file") from None
    except tomllib.TOMLDecodeError as error:
        raise GateError(f"{path.name}: {error}") from None
    unknown = set(found) - {"compare", "allowances", "budgets"}
    if unknown:
        raise GateError(f"{path.name}: unknown table [{min(unknown)}]; known: compare, allowances, budgets")
    compare = _table(path, found, "compare")
    _only(path, "compare", compare, {"launches", "rounds", "confidence"})
    allowances = {
        name: _number(path, f"allowances.{name}", value, 0, 1)
        for name, value in _table(path, found, "allowances").items()
    }
    return Gates(
        int(_number(path, "compare.launches", compare.get("launches"), 1, 100)),
        int(_number(path, "compare.rounds", compare.get("rounds"), 3, 1_000)),
        _number(path, "compare.confidence", compare.get("confidence"), 0.5, 0.999),
        allowances,
        [_budget(path, name, value) for name, value in _table(path, found, "budgets").items()],
    )


def _budget(path: Path, name: str, value: Any) -> Budget:
    place = f"budgets.{name}"
    if not isinstance(value, dict):
        raise GateError(f"{path.name}: {place} must be a table with measure and at_most")
    _only(path, place, value, {"measure", "at_most", "note"})
    if value.get("measure") not in MEASURES:
        raise GateError(f"{path.name}: {place}.measure must be one of: {', '.join(MEASURES)}")
    at_most = _number(path, f"{place}.at_most", value.get("at_most"), 0, 1e12)
    return Budget(name, value["measure"], at_most, str(value.get("note", "")))


def _table(path: Path, found: dict[str, Any], name: str) -> dict[str, Any]:
    table = found.get(name)
    if not isinstance(table, dict):
        raise GateError(f"{path.name}: the table [{name}] is missing")
    return table


def _only(path: Path, place: str, table: dict[str, Any], known: set[str]) -> None:
    unknown = set(table) - known
    if unknown:
        raise GateError(f"{path.name}: unknown member {place}.{min(unknown)}; known: {', '.join(sorted(known))}")


def _number(path: Path, place: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GateError(f"{path.name}: {place} must be a number")
    if not least <= value <= most:
        raise GateError(f"{path.name}: {place} must be from {least:g} to {most:g}")
    return float(value)


# --- arithmetic -----------------------------------------------------------------------------------------------------


def judge(ratios: Sequence[float], allowance: float, confidence: float) -> Judged:
    """The median of head/base ratios, one for each pair of processes, with a bootstrap interval.

    It fails only if the whole interval lies beyond the allowance: noise widens the interval, a regression moves it.
    """
    if not ratios:
        raise ValueError("no ratios")
    low, high = interval(ratios, confidence)
    return Judged(statistics.median(ratios), low, high, low <= 1 + allowance)


def interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Where the median lies with this confidence: percentiles of the medians of resampled values; always the same."""
    chance = random.Random(SEED)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    beyond = (1 - confidence) / 2
    return medians[int(beyond * RESAMPLES)], medians[min(RESAMPLES - 1, int((1 - beyond) * RESAMPLES))]


def turn_count(elapsed_ns: int, count: int) -> int:
    """How many operations make a turn of TURN_SECONDS, when so many took so long."""
    return max(1, round(count * TURN_SECONDS * 1e9 / max(elapsed_ns, 1)))


# --- revisions ------------------------------------------------------------------------------------------------------


def commit_of(revision: str) -> str:
    """The full name of a revision. Raises GateError."""
    done = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if done.returncode:
        raise GateError(f"{revision} is no revision of this repository")
    return done.stdout.strip()


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def unpack(commit: str, place: Path) -> None:
    """Put the revision's files into an empty folder."""
    archive = place.with_suffix(".tar")
    made = _git("archive", "--format=tar", f"--output={archive}", commit)
    if made.returncode:
        raise GateError(f"{commit[:12]} cannot be unpacked: {made.stderr.strip()}")
    with tarfile.open(archive) as packed:
        # Python 3.11 has filters from 3.11.4 on only.
        packed.extraction_filter = getattr(tarfile, "data_filter", None)
        packed.extractall(place)
    archive.unlink()


def tree(commit: str) -> Path:
    """The revision's files, built in place; made once. An archive: nothing of it stays behind in the repository."""
    place = FOLDER / commit[:12]
    if (place / ".built").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    unpack(commit, place)
    print(f"gate: building {commit[:12]}", flush=True)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=place, env=environment(place), capture_output=True, text=True, timeout=BUILD_SECONDS,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise GateError(f"{commit[:12]} cannot be built: {last}")
    (place / ".built").touch()
    return place


def tidy(kept: set[Path]) -> None:
    """Remove the trees of other revisions."""
    for place in FOLDER.iterdir():
        if place not in kept:
            shutil.rmtree(place, ignore_errors=True)


def environment(place: Path) -> dict[str, str]:
    """Of a process that runs this tree's code: found first, the same hash seed, no threads of numpy's."""
    settings = {"PYTHONPATH": str(place), "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **settings, "PYTHONDONTWRITEBYTECODE": "1"}


class Probe:
    """A process in which one operation of one tree is ready."""

    def __init__(self, place: Path, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROBES), name, "serve"], cwd=place, env=environment(place), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.ready = self._process.stdout.readline() == "ready\n"

    def why_not(self) -> str:
        """What it said instead of being ready."""
        said = self._process.communicate(timeout=60)[1].strip().splitlines()
        return said[-1] if said else "it said nothing"

    def turn(self, count: int) -> int:
        """Do so many; nanoseconds of CPU time. Raises GateError if an answer was wrong."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise GateError(f"a measured operation failed: {self.why_not()}")
        return int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # The end of its input ends it: it then gives back the shared memory of its table.
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def ratios_of(name: str, base: Path, head: Path, gates: Gates) -> list[float] | str:
    """Head's CPU time beside base's: the median over the turns of each pair of processes; or why there is none.

    The same code in another process may be some percent faster or slower for as long as that lives, so turns of one
    pair are no independent measurements.
    """
    found: list[float] = []
    for _ in range(gates.launches):
        with ExitStack() as stack:
            old, new = (stack.enter_context(Probe(place, name)) for place in (base, head))
            if not new.ready:
                raise GateError(f"head cannot do {name}: {new.why_not()}")
            if not old.ready:
                return f"base has it not: {old.why_not()}"
            count = turn_count(new.turn(100), 100)
            count = turn_count(new.turn(count), count)
            old.turn(count)
            found.append(statistics.median(_turn(old, new, count, number % 2 == 0) for number in range(gates.rounds)))
    return found


def _turn(old: Probe, new: Probe, count: int, new_first: bool) -> float:
    """The ratio of one turn of each; who goes first changes from turn to turn."""
    taken = {probe: probe.turn(count) for probe in ((new, old) if new_first else (old, new))}
    return taken[new] / taken[old]


# --- the two gates --------------------------------------------------------------------------------------------------


def compare(gates: Gates, base: str, head: str) -> bool:
    """Print a line for each operation. Returns whether none has become slower than it may."""
    commits = commit_of(base), commit_of(head)
    if head == "HEAD" and _git("status", "--porcelain", "--untracked-files=no").stdout:
        print("gate: changes that are not committed are not measured", flush=True)
    old, new = (tree(commit) for commit in commits)
    tidy({old, new})
    pairs = f"{gates.launches} pairs of processes, {gates.rounds} turns each"
    print(f"gate: CPU time of {commits[1][:12]} beside {commits[0][:12]}; {pairs}")
    fine = True
    for name, allowance in gates.allowances.items():
        found = ratios_of(name, old, new, gates)
        if isinstance(found, str):
            print(f"  {name:14} not compared: {found}", flush=True)
            continue
        judged = judge(found, allowance, gates.confidence)
        fine &= judged.passes
        print(
            f"  {name:14} {judged.ratio:6.3f}  [{judged.low:.3f}, {judged.high:.3f}]  allowed {1 + allowance:.2f}  "
            f"{'passes' if judged.passes else 'REGRESSION'}",
            flush=True,
        )
    return fine


def check_budgets(gates: Gates, names: Sequence[str]) -> bool:
    """Measure and print each budget. Returns whether all are kept."""
    from benchmarks import budgets

    known = {budget.name for budget in gates.budgets}
    unknown = set(names) - known
    if unknown:
        raise GateError(f"{min(unknown)} is no budget; known: {', '.join(sorted(known))}")
    budgets.need_tools()
    fine = True
    for budget in gates.budgets:
        if names and budget.name not in names:
            continue
        found = budgets.measure(budget)
        kept = found <= budget.at_most
        fine &= kept
        print(
            f"  {budget.name:24} {found:12,.2f} {budget.measure:12} at most {budget.at_most:12,.2f}  "
            f"{'kept' if kept else 'EXCEEDED'}",
            flush=True,
        )
    return fine


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="gate", description="head beside a base, and budgets")
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("compare")
    one.add_argument("base")
    one.add_argument("--head", default="HEAD")
    ways.add_parser("budgets").add_argument("names", nargs="*")
    chosen = parser.parse_args(arguments)
    try:
        gates = read()
        if chosen.way == "compare":
            fine = compare(gates, chosen.base, chosen.head)
        else:
            fine = check_budgets(gates, chosen.names)
    except GateError as error:
        print(f"gate: {error}", file=sys.stderr)
        return 2
    print("gate: passes" if fine else "gate: FAILS")
    return 0 if fine else 1


if __name__ == "__main__":
    # By its name, as budgets.py imports it: else there were two GateErrors, and one would not be caught.
    from benchmarks.gate import main as named_main

    sys.exit(named_main(sys.argv[1:]))
