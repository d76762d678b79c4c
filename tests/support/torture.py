"""Owns the processes of the torture test: one writer that never rests, readers that believe nothing.

    python -m tests.support.torture write|read|write-hot|read-hot PATH FORM SECONDS SEED

Every entry carries its own checksum: `lost` and `aux` follow from the key and `gained`, and as `aux` and `lost` are in
different words of a slot, half a slot of one entry beside half of another cannot pass. Stable keys always have at least
one entry; volatile keys come and go; each is changed again and again. A reader prints what it saw, as JSON.

`write` and `read` work on an index with its generations; `write-hot` and `read-hot` on one table of a few lines, where
every change is made under the eyes of a reader.
"""

from __future__ import annotations

import json
import random
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import shm
from engine.entries import ENTRY_DTYPE
from engine.errors import StartingError
from engine.index import IndexReader, IndexWriter
from ext import probe
from tests.support import tables
from tests.support.tables import KEY_ID, STORE_ID, Batch

STABLE = 400
VOLATILE = 4000
VERSIONS = 16
"""How many different entries a key has over time."""
FIRST_PERSON = 1000


def keys() -> NDArray[np.uint64]:
    """Stable keys first."""
    return tables.hashes(STABLE + VOLATILE, 99)


def entries_of(chosen: NDArray[np.int64], versions: NDArray[np.int64]) -> Batch:
    """The entry of each key in this version."""
    persons = (FIRST_PERSON + chosen).astype(np.uint32)
    entries = np.zeros(len(chosen), ENTRY_DTYPE)
    entries["hash"] = keys()[chosen].view("V16").reshape(-1)
    entries["gained"] = versions * 4099 + chosen
    entries["lost"] = checksum(chosen, entries["gained"], 40503)
    entries["aux"] = checksum(chosen, entries["gained"], 52711) & 0xFFFC
    return persons, entries


def checksum(chosen: Any, gained: Any, factor: int) -> Any:
    """16 bits that hang on every bit of the key's number and of `gained`."""
    return ((np.asarray(chosen, np.uint64) << np.uint64(16) | np.asarray(gained, np.uint64)) * np.uint64(
        0x9E3779B97F4A7C15 * factor % 2**64
    )) >> np.uint64(48)  # fmt: skip


@cache
def rows_of(key: int) -> frozenset[tuple[int, int, int, int]]:
    """(person, gained, lost, aux) of one key in each version."""
    return frozenset(version_rows(key))


def version_rows(key: int) -> list[tuple[int, int, int, int]]:
    """The same, in the order of versions."""
    batch = entries_of(np.full(VERSIONS, key), np.arange(VERSIONS))
    return [row for _, row in tables.rows_of(*batch)]


class Writer:
    """Changes the index without end; finds out from the table itself what an earlier one left."""

    def __init__(self, directory: Path, form: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.version = np.full(STABLE + VOLATILE, -1)
        self.all_keys = keys()
        if (directory / "CURRENT").exists():
            self.index = IndexWriter.attach(directory, store_id=STORE_ID, key_id=KEY_ID)
            self.index.drop_provisional()
            self.adopt()
        else:
            self.index = IndexWriter.create(directory, store_id=STORE_ID, key_id=KEY_ID, keys=64, form=form)
            self.index.reserve(STABLE + VOLATILE, self.stored)
            everything = np.arange(STABLE)
            self.version[everything] = 0
            self.publish(entries_of(everything, self.version[everything]), entries_of(everything[:0], everything[:0]))

    def adopt(self) -> None:
        """Keep one entry of each key and remove what a change that was cut short left besides."""
        surplus_keys, surplus_versions = [], []
        for key in range(STABLE + VOLATILE):
            found = [match[1] for match in self.index.find(self.all_keys[key].tobytes())]
            versions = [v for v in range(VERSIONS) if (v * 4099 + key) % 2**16 in found]
            assert len(versions) == len(found), "an entry that nobody wrote"
            assert versions or key >= STABLE, "a stable key was lost"
            if versions:
                self.version[key] = versions[0]
            surplus_keys += [key] * (len(versions) - 1)
            surplus_versions += versions[1:]
        surplus = entries_of(np.array(surplus_keys, np.int64), np.array(surplus_versions, np.int64))
        self.publish(entries_of(np.arange(0), np.arange(0)), surplus)
        assert self.index.check() == []

    def publish(self, added: Batch, removed: Batch) -> None:
        seq = max(self.index.data_version, self.index.visible_version) + 1
        self.index.publish(seq, added=added, removed=removed, insurers_changed=False)

    def stored(self) -> list[Batch]:
        held = np.flatnonzero(self.version >= 0)
        return [entries_of(held, self.version[held])]

    def change(self) -> None:
        """New versions of some keys, the old ones removed; some volatile keys vanish or come."""
        chosen = np.unique(self.random.integers(0, STABLE + VOLATILE, int(self.random.integers(1, 60))))
        old = self.version[chosen]
        new = (old + 1 + self.random.integers(0, VERSIONS - 1, len(chosen))) % VERSIONS
        new[(chosen >= STABLE) & (self.random.random(len(chosen)) < 0.4)] = -1
        coming, going = new >= 0, old >= 0
        self.index.reserve(len(chosen), self.stored)
        if self.random.random() < 0.3:
            self.index.add_provisional(*entries_of(chosen[coming], new[coming]))
        self.publish(entries_of(chosen[coming], new[coming]), entries_of(chosen[going], old[going]))
        self.version[chosen] = new

    def churn(self) -> None:
        """The same change back and forth, so that most of the time is spent between two stores."""
        chosen = np.arange(STABLE, STABLE + VOLATILE)
        chosen = chosen[self.version[chosen] < 0]
        batch = entries_of(chosen, np.zeros(len(chosen), np.int64))
        empty = entries_of(chosen[:0], chosen[:0])
        self.index.reserve(len(chosen), self.stored)
        for _ in range(20):
            self.publish(batch, empty)
            self.publish(empty, batch)

    def new_generation(self) -> None:
        if self.random.random() < 0.5:
            self.index.rebuild(self.stored, seq=self.index.data_version + 1, keys=STABLE + VOLATILE)
        else:
            self.index.reserve(self.index.lines * 4, self.stored)
            if self.index.lines > 5000:
                self.index.rebuild(self.stored, seq=self.index.data_version + 1, keys=64)

    def run(self, seconds: float) -> dict[str, int]:
        changes = generations = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(50):
                self.change()
            self.churn()
            changes += 90
            if self.random.random() < 0.05:
                self.new_generation()
                generations += 1
        return {"changes": changes, "generations": generations, "problems": len(self.index.check())}


def read(directory: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Search, one key and many, until the time is up; count what cannot be."""
    chooser = random.Random(seed)
    index = IndexReader.attach(directory, store_id=STORE_ID, key_id=KEY_ID)
    all_keys = keys()
    digests = [row.tobytes() for row in all_keys]
    order = np.random.default_rng(seed).permutation(len(all_keys))
    asked = np.ascontiguousarray(all_keys[order])
    seen: dict[str, Any] = dict.fromkeys(
        ("finds", "still", "matches", "torn", "missed", "passed_over", "versions_back", "waited"), 0
    )
    last = 0

    def many(part: slice) -> None:
        before = index.data_version
        counts, matches = index.find_many(asked[part])
        moved = index.data_version != before
        torn, missed = wrong(np.repeat(order[part], counts), matches, order[part], counts, STABLE)
        seen["torn"] += torn
        seen["passed_over" if moved else "missed"] += missed
        seen["finds"] += len(counts)
        seen["still"] += len(counts) * (not moved)
        seen["matches"] += len(matches)

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            many(slice(None))
            for start in range(0, len(asked), 32):
                many(slice(start, start + 32))
            for _ in range(500):
                key = chooser.randrange(len(digests))
                before = index.data_version
                found = index.find(digests[key])
                moved = index.data_version != before
                seen["torn"] += not rows_of(key).issuperset(found)
                seen["passed_over" if moved else "missed"] += not found and key < STABLE
                seen["matches"] += len(found)
                seen["still"] += not moved
            seen["finds"] += 500
            version = index.data_version
            seen["versions_back"] += version < last
            last = version
        except StartingError:
            # Form VERSIONED while its writer is dead, or CURRENT while a new one starts.
            seen["waited"] += 1
    seen["generation"] = index.generation
    return seen


HOT = 8
HOT_LINES = 3
HOT_ASKED = 4096
SINGLE = 200


def write_hot(path: Path, form: int, seconds: float) -> dict[str, int]:
    """Replace the entries of stable keys in place, and let volatile keys take each other's slots."""
    segment = shm.create(path, probe.segment_bytes(HOT_LINES))
    probe.format(segment.buffer, form=form, lines=HOT_LINES)
    table = probe.Table(segment.buffer, writable=True)
    digests = [row.tobytes() for row in keys()[:HOT]]
    rows = [version_rows(key) for key in range(HOT)]
    for key in range(HOT):
        table.insert(digests[key], *rows[key][0])
    print("ready", flush=True)
    changes = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for version in range(VERSIONS):
            after = (version + 1) % VERSIONS
            for key in range(HOT // 2):
                table.replace(digests[key], *rows[key][version], *rows[key][after][1:])
            for key in range(HOT // 2, HOT):
                table.remove(digests[key], *rows[key][version])
            for key in reversed(range(HOT // 2, HOT)):
                table.insert(digests[key], *rows[key][after])
            changes += HOT
    return {"changes": changes, "count": table.count}


def read_hot(path: Path, seconds: float, seed: int) -> dict[str, int]:
    """Look up the few keys, as fast as can be; the seed chooses how many keys are walked."""
    table = probe.Table(shm.open_(path).buffer, walk=probe.WALKS[seed % len(probe.WALKS)])
    digests = [row.tobytes() for row in keys()[:HOT]]
    rows = [rows_of(key) for key in range(HOT)]
    order = np.arange(HOT_ASKED) % HOT
    asked = np.ascontiguousarray(keys()[order])
    counts, matches = np.zeros(HOT_ASKED, np.uint8), np.zeros(3 * HOT_ASKED, probe.MATCH_DTYPE)
    seen = {"finds": 0, "matches": 0, "torn": 0, "missed": 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, used = table.find_many(asked, counts, matches)
        assert done == HOT_ASKED
        found = matches[:used]
        torn, missed = wrong(np.repeat(order, counts), found, order, counts, HOT // 2)
        for key in range(HOT):
            for _ in range(SINGLE):
                single = table.find(digests[key])
                torn += not rows[key].issuperset(single)
                missed += not single and key < HOT // 2
        seen["torn"] += torn
        seen["missed"] += missed
        seen["finds"] += HOT_ASKED + SINGLE * HOT
        seen["matches"] += used
    return seen


def wrong(owners: Any, matches: Any, asked: Any, counts: Any, stable: int) -> tuple[int, int]:
    """How many matches are not whole, and how many stable keys have none."""
    gained = matches["gained"]
    whole = (
        (matches["person"] == FIRST_PERSON + owners)
        & (matches["lost"] == checksum(owners, gained, 40503))
        & (matches["aux"] == checksum(owners, gained, 52711) & np.uint64(0xFFFC))
    )
    return int(np.count_nonzero(~whole)), int(np.count_nonzero((counts == 0) & (asked < stable)))


def main(role: str, directory: str, form: str, seconds: str, seed: str) -> None:
    """Run one process of the test."""
    if role == "write":
        writer = Writer(Path(directory), int(form), int(seed))
        print("ready", flush=True)
        print(json.dumps(writer.run(float(seconds))), flush=True)
    elif role == "write-hot":
        print(json.dumps(write_hot(Path(directory), int(form), float(seconds))), flush=True)
    elif role == "read-hot":
        print(json.dumps(read_hot(Path(directory), float(seconds), int(seed))), flush=True)
    else:
        print(json.dumps(read(Path(directory), float(seconds), int(seed))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
