"""Owns the filled table that the benchmarks of the index share, and the writer process that works beside a reader.

python -m benchmarks.filled SEGMENT KEYS UPDATES_PER_SECOND DONE
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine import shm
from engine.clock import monotonic_ns
from engine.entries import ENTRY_DTYPE
from engine.index import LOAD_MAX
from ext import keyhash, probe

SEED = 20261123
KEY = bytes(range(16))
MESSAGE_BYTES = 40
"""About as long as what is hashed for a card."""
BATCHES_PER_SECOND = 100


def messages_of(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The message of each key number: fixed letters with the number's 8 bytes in between; uint8 (n, 40)."""
    rows = np.empty((len(numbers), MESSAGE_BYTES), np.uint8)
    rows[:] = np.frombuffer(b"\x010113001219870\x1f12345678\x1f00000000:card:--", np.uint8)
    rows[:, 24:32] = numbers.astype("<i8").view(np.uint8).reshape(-1, 8)
    return rows


def hashes_of(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The hash of each key number's message."""
    hashes = np.empty((len(numbers), 2), np.uint64)
    for start in range(0, len(numbers), 1_000_000):
        rows = messages_of(numbers[start : start + 1_000_000])
        keyhash.siphash128_rows(
            KEY, rows, np.full(len(rows), MESSAGE_BYTES, np.uint16), hashes[start : start + 1_000_000]
        )
    return hashes


def entries_of(hashes: NDArray[np.uint64], first: int = 0) -> tuple[NDArray[np.uint32], NDArray[np.void]]:
    """One entry a key; key number n is person n + 1."""
    entries = np.zeros(len(hashes), ENTRY_DTYPE)
    entries["hash"] = hashes.view("V16").reshape(-1)
    entries["gained"], entries["lost"] = 36_000, 65_535
    return np.arange(first + 1, first + 1 + len(hashes), dtype=np.uint32), entries


class Filled:
    """A table at the load of a new index with keys 0 to `keys` - 1, in memory with huge pages if they can be had."""

    def __init__(self, keys: int, form: int | None = None) -> None:
        self.keys = keys
        self.path = Path("/dev/shm") / f"shikaku-bench-{keys}-{monotonic_ns()}"
        self.lines = -(-keys * 1000 // int(4000 * LOAD_MAX)) | 1
        self.segment = shm.create(self.path, probe.segment_bytes(self.lines))
        if form is None:
            form = probe.FORM_ATOMIC16 if probe.atomic16_supported() else probe.FORM_VERSIONED
        probe.format(self.segment.buffer, form=form, lines=self.lines)
        self.segment.collapse()
        self.table = probe.Table(self.segment.buffer, writable=True)
        self.random = np.random.default_rng(SEED)
        self.hashes = hashes_of(np.arange(keys))

    def fill(self) -> None:
        """Put all keys in; in parts, because a large table's entries need as much memory as the table."""
        for start in range(0, self.keys, 1_000_000):
            self.table.insert_many(*entries_of(self.hashes[start : start + 1_000_000], start))

    def fresh(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Random key numbers that were not asked for just before, and their hashes."""
        numbers = self.random.integers(0, self.keys, count)
        return numbers, np.ascontiguousarray(self.hashes[numbers])

    def close(self) -> None:
        """Give the memory back."""
        self.table.release()
        self.segment.close()
        self.path.unlink()


class Outputs:
    """Arrays for find_many, touched beforehand: page faults are not what is measured."""

    def __init__(self, count: int) -> None:
        self.counts = np.ones(count, np.uint8)
        self.matches = np.ones(count + probe.MATCHES_MAX, probe.MATCH_DTYPE)

    def checksum(self, used: int) -> int:
        """Of the people found."""
        return int(self.matches["person"][:used].sum(dtype=np.int64))


def alternating(rounds: int, *functions: Callable[[], object]) -> list[float]:
    """Median seconds of the processor for each function, called in turn, so that all see the same machine."""
    taken: list[list[int]] = [[] for _ in functions]
    for _ in range(rounds):
        for times, function in zip(taken, functions, strict=True):
            start = time.thread_time_ns()
            function()
            times.append(time.thread_time_ns() - start)
    return [statistics.median(times) / 1e9 for times in taken]


def made_by(done: Path) -> int:
    """How many updates the writer with this file has made so far."""
    return int.from_bytes(done.read_bytes(), "little")


def write(path: str, keys: str, updates_per_second: str, done: str) -> None:
    """Put keys in and take them out again, so many a second, until killed; how many were made is in the file `done`."""
    table = probe.Table(shm.open_(Path(path), writable=True).buffer, writable=True)
    size = int(updates_per_second) // BATCHES_PER_SECOND // 2
    random = np.random.default_rng(SEED)
    turn = updates = 0
    start = monotonic_ns()
    count = os.open(done, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.pwrite(count, bytes(8), 0)
    print("ready", flush=True)
    while True:
        hashes = random.integers(0, 2**64, (size, 2), dtype=np.uint64)
        persons, entries = entries_of(hashes, int(keys) + 1)
        table.insert_many(persons, entries)
        table.remove_many(persons, entries)
        turn += 1
        updates += 2 * size
        os.pwrite(count, updates.to_bytes(8, "little"), 0)
        # A process that was stopped goes on from now and does not catch up.
        ahead = start + turn * 10**9 // BATCHES_PER_SECOND - monotonic_ns()
        if ahead > 0:
            time.sleep(ahead / 1e9)
        elif ahead < -(10**8):
            start, turn = monotonic_ns(), 0


if __name__ == "__main__":
    write(*sys.argv[1:])
