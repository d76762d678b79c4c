"""Owns the measurement of one lookup from Python: ready-hashed, and with the hash, beside a dictionary.

The reference is a dict of ready-hashed 16-byte keys, the fastest thing that plain Python has. Keys are random and fresh
in each round, so that neither answers from the processor's cache what it was asked a moment ago.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.filled import KEY, Filled, Outputs, alternating, made_by, messages_of

KEYS = {"smoke": 100_000, "standard": 10_000_000, "large": 10_000_000}
CALLS = 100_000
ROUNDS = 9
UPDATES_A_SECOND = (50_000, 100_000)
REACHED_MIN = 0.9
"""The share of these updates that the writer must have made while readers were timed."""
SLOWED_PERCENT_MAX = 15
ROOT = Path(__file__).parents[1]


class Asked:
    """Fresh keys in every form that is asked for, and the checksum that their answers must have."""

    def __init__(self, table: Filled) -> None:
        numbers, hashes = table.fresh(CALLS)
        self.digests = [bytes(row) for row in hashes.view("V16").reshape(-1)]
        self.messages = [row.tobytes() for row in messages_of(numbers)]
        self.checksum = int((numbers + 1).sum())


@pytest.fixture(scope="module")
def table(size: str) -> Iterator[Filled]:
    made = Filled(KEYS[size])
    made.fill()
    yield made
    made.close()


@pytest.fixture(scope="module")
def dictionary(table: Filled) -> dict[bytes, int]:
    """Digest to person."""
    packed = table.hashes.tobytes()
    return {packed[16 * n : 16 * n + 16]: n + 1 for n in range(table.keys)}


def find_all(find: Callable[[bytes], Any], digests: list[bytes]) -> int:
    return sum([find(digest)[0][0] for digest in digests])


def find_all_messages(find_message: Callable[[bytes, bytes], Any], messages: list[bytes]) -> int:
    key = KEY
    return sum([find_message(key, message)[0][0] for message in messages])


def get_all(known: dict[bytes, int], digests: list[bytes]) -> int:
    return sum([known[digest] for digest in digests])


def measure(benchmark: Any, table: Filled, run: Callable[[Asked], int]) -> None:
    """Time `run` on fresh keys each round and compare its checksum."""
    asked: list[Asked] = []

    def setup() -> tuple[tuple[Asked], dict[str, object]]:
        asked.append(Asked(table))
        return (asked[-1],), {}

    checksum = benchmark.pedantic(run, setup=setup, rounds=ROUNDS)
    assert checksum == asked[-1].checksum
    benchmark.extra_info["checksum"] = checksum
    benchmark.extra_info["ns_a_lookup"] = round(benchmark.stats.stats.median / CALLS * 1e9)


def ratio_to_dict(table: Filled, dictionary: dict[bytes, int], run: Callable[[Asked], int]) -> float:
    """How many times as fast as the dictionary, in alternating rounds."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        first, second = Asked(table), Asked(table)
        ours += alternating(1, lambda: run(first))  # noqa: B023 - called at once
        theirs += alternating(1, lambda: get_all(dictionary, second.digests))  # noqa: B023 - called at once
    return round(sorted(theirs)[ROUNDS // 2] / sorted(ours)[ROUNDS // 2], 2)


@pytest.mark.benchmark(group="find: 100,000 random keys, one call each")
def bench_find_digest(benchmark: Any, table: Filled, dictionary: dict[bytes, int]) -> None:
    def run(asked: Asked) -> int:
        return find_all(table.table.find, asked.digests)

    measure(benchmark, table, run)
    benchmark.extra_info["times_as_fast_as_dict"] = ratio_to_dict(table, dictionary, run)


@pytest.mark.benchmark(group="find: 100,000 random keys, one call each")
def bench_find_message(benchmark: Any, table: Filled, dictionary: dict[bytes, int], figure: Any) -> None:
    def run(asked: Asked) -> int:
        return find_all_messages(table.table.find_message, asked.messages)

    measure(benchmark, table, run)
    ratio = benchmark.extra_info["times_as_fast_as_dict"] = ratio_to_dict(table, dictionary, run)
    figure(f"find, hash included / dict of ready-hashed bytes, {table.keys:,} keys", ratio, at_least=3)


@pytest.mark.benchmark(group="find: 100,000 random keys, one call each")
def bench_find_reference_dict(benchmark: Any, table: Filled, dictionary: dict[bytes, int]) -> None:
    measure(benchmark, table, lambda asked: get_all(dictionary, asked.digests))


@pytest.mark.benchmark(group="find: beside a writer")
@pytest.mark.parametrize("rate", UPDATES_A_SECOND)
def bench_find_beside_a_writer(
    benchmark: Any, table: Filled, tmp_path: Path, size: str, rate: int, figure: Any
) -> None:
    """Single and many lookups while another process makes so many updates a second; the same while it stands still."""
    done = tmp_path / "done"
    command = [sys.executable, "-m", "benchmarks.filled", str(table.path), str(table.keys), str(rate), str(done)]
    writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    outputs = Outputs(min(1_000_000, table.keys))
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        quiet, busy, updates, seconds = [], [], 0, 0.0
        for turn in range(2 * ROUNDS):
            os.kill(writer.pid, signal.SIGCONT if turn % 2 else signal.SIGSTOP)
            before, start = made_by(done), time.perf_counter()
            (busy if turn % 2 else quiet).append(_seconds(table, outputs))
            if turn % 2:
                updates, seconds = updates + made_by(done) - before, seconds + time.perf_counter() - start
        reached = benchmark.extra_info["updates_a_second"] = round(updates / seconds)
        slowed = [_slowed([q[which] for q in quiet], [b[which] for b in busy]) for which in (0, 1)]
        benchmark.extra_info |= dict(zip(("find_slowed_percent", "find_many_slowed_percent"), slowed, strict=True))
        figure(f"find slowed by {reached:,} updates/s (of {rate:,}), %", slowed[0], at_most=SLOWED_PERCENT_MAX)
        figure(f"find_many slowed by {reached:,} updates/s (of {rate:,}), %", slowed[1], at_most=SLOWED_PERCENT_MAX)
        asked = Asked(table)
        checksum = benchmark.pedantic(find_all, (table.table.find, asked.digests), rounds=ROUNDS)
        assert checksum == asked.checksum
        benchmark.extra_info["checksum"] = checksum
        if size != "smoke":
            assert reached >= REACHED_MIN * rate, "the writer was slower than that"
            assert slowed[0] <= SLOWED_PERCENT_MAX
    finally:
        writer.kill()
        writer.communicate()


def _seconds(table: Filled, outputs: Outputs) -> tuple[float, float]:
    asked = Asked(table)
    numbers, hashes = table.fresh(len(outputs.counts))
    (single,) = alternating(1, lambda: find_all(table.table.find, asked.digests))
    (many,) = alternating(1, lambda: table.table.find_many(hashes, outputs.counts, outputs.matches))
    assert outputs.checksum(len(numbers)) == (numbers + 1).sum()
    return single, many


def _slowed(quiet: list[float], busy: list[float]) -> float:
    middle = len(quiet) // 2
    return round((sorted(busy)[middle] / sorted(quiet)[middle] - 1) * 100, 1)
