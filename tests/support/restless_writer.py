"""Owns the child of the kill tests: imports feeds and applies calls without end, and says what was acknowledged.

Run as `python -m tests.support.restless_writer FOLDER SEED`. Prints `ready`, then `ack <digest>` for every receipt.
Feeds register new people, lose people of earlier feeds and cancel some, across several chunks each.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random

from engine import limits
from engine.ingest import feed
from engine.ingest.registry import FeedReceipt, Registry
from tests.support import registries
from tests.support.registries import INSURERS, call, csv_line, row, write_csv

ROWS_PER_CHUNK = 60


class Restless:
    """Makes feeds and calls of which every row can be applied, whatever of the earlier ones was."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.folder = folder
        self.registry = Registry.open(registries.settings(folder, index_keys=64), registries.KEYS)
        self.known = self.registry.store.next_person - 1
        self.fresh = self.known
        self.open = self.held()

    def held(self) -> list[str]:
        """Numbers of all cards that can still be lost."""
        store = self.registry.store
        people = store.people(range(1, store.next_person), store.committed_seq)
        held = [q for person in people if person for q in person.qualifications]
        return [q.number for q in held if q.lost_on is None and q.state == 0]

    def new_numbers(self, count: int) -> list[str]:
        self.fresh += count
        salt = self.random.randrange(10**6)
        return [f"K{salt}N{number}" for number in range(self.fresh - count, self.fresh)]

    def feed(self) -> FeedReceipt:
        new = self.new_numbers(self.random.choice([3, 400, 400]))
        gone = self.taken(self.random.randrange(40))
        serials = [number.replace("K", "a").replace("N", "b") for number in new]
        lines = [csv_line(n, link=f"L{n}", serial=serial) for n, serial in zip(new, serials, strict=True)]
        again = [csv_line(f"{number}B", link=f"L{number}") for number in new[::7]]
        lose = [csv_line(number, "lose", gained="", lost="2021-01-01", reason="03") for number in gone]
        lines += again + lose
        path = write_csv(self.folder / "feed.csv", lines)
        receipt = self.registry.import_feed(path, insurer=INSURERS[0])
        self.open += new + [f"{number}B" for number in new[::7]]
        return receipt

    def calls(self) -> list[FeedReceipt]:
        made = []
        for _ in range(self.random.randrange(1, 30)):
            (number,) = self.new_numbers(1)
            born = registries.days.parse_iso("1990-01-02")
            rows = [row(number, born=born, link=f"L{number}")]
            rows += [registries.lose(gone, 37_500, born=born) for gone in self.taken(self.random.randrange(2))]
            made.append(call(*rows))
            self.open.append(number)
        return registries.applied(self.registry, *made)

    def taken(self, count: int) -> list[str]:
        """Cards to lose: each once."""
        return [self.open.pop(self.random.randrange(len(self.open))) for _ in range(min(count, len(self.open)))]

    def run(self) -> None:
        say("ready")
        while True:
            receipts = [self.feed()] if self.random.random() < 0.7 else self.calls()
            for receipt in receipts:
                say(f"ack {receipt.digest}")
            if self.random.random() < 0.05:
                self.registry.save_index()


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def main() -> None:
    # Small chunks, so that every feed takes several transactions.
    limits.FEED_ROWS_PER_CHUNK = ROWS_PER_CHUNK  # type: ignore[misc]
    feed.ROWS_PER_BLOCK_MAX = ROWS_PER_CHUNK  # type: ignore[misc]
    Restless(Path(sys.argv[1]), int(sys.argv[2])).run()


if __name__ == "__main__":
    main()
