"""Owns the measurement of the table: build, find, find_many, bytes a key, and readers beside a writer.

Every contender of a ratio takes its turn in the same rounds, in CPU time, on fresh random keys: repeated keys sit in
the cache and flatter. References: a dict of ready-hashed bytes, and a random gather of the table's own cache lines,
which is what the memory allows.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import shm
from engine.entries import ENTRY_DTYPE
from ext import keyhash, probe

KEYS = {"smoke": 100_000, "standard": 10_000_000, "large": 20_000_000}
MANY = {"smoke": 50_000, "standard": 4_000_000, "large": 4_000_000}
SINGLE = {"smoke": 5_000, "standard": 200_000, "large": 200_000}
ROUNDS = 7
WIDTH = 32
"""An identifier of 32 bytes: about as long as a card's hashed message."""
KEY = bytes(range(16))
SEED = 20261123
LOAD = 0.70
UPDATES_A_SECOND = 50_000


class Filled:
    """A table with all keys in it, their identifiers, and how it was built."""

    def __init__(self, count: int, folder: Path) -> None:
        random = np.random.default_rng(SEED)
        self.rows = random.integers(0, 256, (count, WIDTH), np.uint8)
        self.lengths = np.full(count, WIDTH, np.uint16)
        self.hashes = np.empty((count, 2), np.uint64)
        keyhash.siphash128_rows(KEY, self.rows, self.lengths, self.hashes)
        self.persons = np.arange(1, count + 1, dtype=np.uint32)
        self.entries = np.zeros(count, ENTRY_DTYPE)
        self.entries["hash"] = self.hashes.view("V16").reshape(-1)
        self.entries["lost"] = 65_535
        self.path = folder / "table"
        lines = int(np.ceil(count / (probe.SLOTS_PER_LINE * LOAD))) | 1
        self.segment = shm.create(self.path, probe.segment_bytes(lines))
        probe.format(self.segment.buffer, form=_form(), lines=lines)
        self.segment.collapse()
        self.table = probe.Table(self.segment.buffer, writable=True)
        began = time.thread_time_ns()
        added = self.table.insert_many(self.persons, self.entries)
        self.build_ns = time.thread_time_ns() - began
        assert added == count == self.table.count

    def close(self) -> None:
        self.table.release()
        self.segment.close()
        self.path.unlink()


def _form() -> int:
    return probe.FORM_ATOMIC16 if probe.atomic16_supported() else probe.FORM_VERSIONED


@pytest.fixture(scope="module")
def filled(size: str) -> Iterator[Filled]:
    folder = Path(f"/dev/shm/shikaku-bench-{time.monotonic_ns()}")
    folder.mkdir()
    made = Filled(KEYS[size], folder)
    yield made
    made.close()
    folder.rmdir()


def in_turns(
    contenders: dict[str, Callable[[NDArray[np.int64]], float]], picks: Callable[[], NDArray[np.int64]]
) -> dict:
    """Median CPU nanoseconds an operation, each contender on fresh keys in every round; wrong answers fail."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            spent[name].append(run(picks()))
    return {name: statistics.median(each) for name, each in spent.items()}


@pytest.mark.benchmark(group="find, hash included")
def bench_find_beside_dict(benchmark: Any, filled: Filled, size: str, figure: Any) -> None:
    table, rows, count = filled.table, filled.rows, SINGLE[size]
    random = np.random.default_rng(SEED + 1)
    digests = filled.hashes.view("V16").reshape(-1)
    known = dict(zip(digests.tolist(), filled.persons.tolist(), strict=True))
    found_sum = 0

    def picks() -> NDArray[np.int64]:
        return random.integers(0, len(rows), count)

    def by_table(chosen: NDArray[np.int64]) -> float:
        messages = [row.tobytes() for row in rows[chosen]]
        find = table.find_message
        began = time.thread_time_ns()
        found = [find(KEY, message) for message in messages]
        spent = time.thread_time_ns() - began
        _same([match[0][0] for match in found], filled.persons[chosen])
        return spent / count

    def by_dict(chosen: NDArray[np.int64]) -> float:
        wanted = digests[chosen].tolist()
        get = known.get
        began = time.thread_time_ns()
        found = [get(digest) for digest in wanted]
        spent = time.thread_time_ns() - began
        _same(found, filled.persons[chosen])
        return spent / count

    medians = benchmark.pedantic(lambda: in_turns({"find": by_table, "dict": by_dict}, picks), rounds=1)
    found_sum = int(filled.persons.sum())
    figure(f"dict of ready-hashed bytes / find, {len(rows):,} keys", medians["dict"] / medians["find"], at_least=3)
    benchmark.extra_info["ns"] = medians
    benchmark.extra_info["checksum"] = found_sum


@pytest.mark.benchmark(group="find_many")
def bench_find_many_beside_gather(benchmark: Any, filled: Filled, size: str, figure: Any) -> None:
    table, count = filled.table, MANY[size]
    random = np.random.default_rng(SEED + 2)
    counts, matches = np.zeros(count, np.uint8), np.zeros(count + probe.MATCHES_MAX, probe.MATCH_DTYPE)

    def picks() -> NDArray[np.int64]:
        return random.integers(0, len(filled.rows), count)

    def checked(chosen: NDArray[np.int64], run: Callable[[], tuple[int, int]]) -> float:
        began = time.thread_time_ns()
        done, used = run()
        spent = time.thread_time_ns() - began
        assert (done, used) == (count, count)
        assert np.array_equal(matches["person"][:count], filled.persons[chosen])
        return spent / count

    def from_hashes(chosen: NDArray[np.int64]) -> float:
        hashes = filled.hashes[chosen]
        return checked(chosen, lambda: table.find_many(hashes, counts, matches))

    def from_rows(chosen: NDArray[np.int64]) -> float:
        rows, lengths = filled.rows[chosen], filled.lengths[chosen]
        return checked(chosen, lambda: table.find_many_rows(KEY, rows, lengths, counts, matches))

    def gather(chosen: NDArray[np.int64]) -> float:
        hashes = filled.hashes[chosen]
        began = time.thread_time_ns()
        table.gather(hashes)
        return (time.thread_time_ns() - began) / count

    contenders = {"gather": gather, "find_many": from_hashes, "find_many_rows": from_rows}
    medians = benchmark.pedantic(lambda: in_turns(contenders, picks), rounds=1)
    at = f"{len(filled.rows):,} keys"
    figure(f"find_many / cache-line gather, {at}", medians["gather"] / medians["find_many"], at_least=0.5)
    figure(f"find_many from identifiers / gather, {at}", medians["gather"] / medians["find_many_rows"], at_least=0.3)
    benchmark.extra_info["ns"] = medians
    benchmark.extra_info["checksum"] = int(matches["person"][:count].sum(dtype=np.uint64))


@pytest.mark.benchmark(group="build")
def bench_build_beside_numpy_sort(benchmark: Any, filled: Filled, figure: Any) -> None:
    """The table was built once, for all of this module; sorting the same hashes is the reference."""
    began = time.thread_time_ns()
    benchmark.pedantic(lambda: np.sort(filled.hashes[:, 0]), rounds=1)
    sort_ns = time.thread_time_ns() - began
    count = len(filled.rows)
    figure(f"build, M keys/s, {count:,} keys", count / filled.build_ns * 1e3, at_least=8)
    figure(f"table, bytes a key, {count:,} keys", filled.segment.size_bytes / count, at_most=23)
    benchmark.extra_info["ns"] = {"build": filled.build_ns / count, "sort": sort_ns / count}
    benchmark.extra_info["checksum"] = filled.table.count


@pytest.mark.benchmark(group="readers beside a writer")
def bench_find_beside_writer(benchmark: Any, filled: Filled, size: str, figure: Any) -> None:
    """Readers' CPU time a find while another process makes 50,000 updates a second, and while it rests, in turns."""
    rows, count = filled.rows, SINGLE[size]
    random = np.random.default_rng(SEED + 3)
    context = multiprocessing.get_context("spawn")
    busy, stop, done = context.Event(), context.Event(), context.Value("q", 0)
    writer = context.Process(target=_update, args=(str(filled.path), filled.entries[:1000], busy, stop, done))
    writer.start()
    spent: dict[bool, list[float]] = {False: [], True: []}
    updates, busy_s = 0, 0.0

    def turn(disturbed: bool) -> None:
        nonlocal updates, busy_s
        (busy.set if disturbed else busy.clear)()
        time.sleep(0.1)
        messages = [row.tobytes() for row in rows[random.integers(1000, len(rows), count)]]
        find = filled.table.find_message
        before, wall = done.value, time.perf_counter()
        began = time.thread_time_ns()
        found = [find(KEY, message) for message in messages]
        spent[disturbed].append((time.thread_time_ns() - began) / count)
        if disturbed:
            updates, busy_s = updates + done.value - before, busy_s + time.perf_counter() - wall
        assert all(found)

    def turns() -> None:
        for _ in range(ROUNDS):
            turn(False)
            turn(True)

    try:
        benchmark.pedantic(turns, rounds=1)
    finally:
        stop.set()
        busy.set()
        writer.join(30)
    resting, disturbed = statistics.median(spent[False]), statistics.median(spent[True])
    rate = updates / busy_s
    figure("table updates a second beside readers", rate, at_least=UPDATES_A_SECOND * 0.9)
    figure("readers slowed by them, %", (disturbed / resting - 1) * 100, at_most=15)
    benchmark.extra_info["ns"] = {"resting": resting, "beside the writer": disturbed}
    benchmark.extra_info["checksum"] = filled.table.count


def _update(path: str, entries: NDArray[Any], busy: Any, stop: Any, done: Any) -> None:
    """Insert and remove a second entry of known keys, 100 changes every 2 ms, as long as `busy` is set."""
    segment = shm.open_(Path(path), writable=True)
    table = probe.Table(segment.buffer, writable=True)
    persons = np.full(50, 2**32 - 2, np.uint32)
    at = 0
    due = time.perf_counter()
    while not stop.is_set():
        if not busy.is_set():
            busy.wait(1)
            due = time.perf_counter()
            continue
        chosen = entries[at : at + 50]
        at = (at + 50) % 1000
        table.insert_many(persons, chosen)
        table.remove_many(persons, chosen)
        done.value += 100
        due += 100 / UPDATES_A_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
    table.release()
    segment.close()


def _same(found: list[Any], expected: NDArray[np.uint32]) -> None:
    assert np.array_equal(np.array(found, np.uint32), expected), "a fast wrong answer is no answer"
