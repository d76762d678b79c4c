"""Owns the measurement of many lookups over arrays: known keys, unknown keys, and from raw messages.

The reference is what memory allows: one word of one random line of the same table for each key, with prefetch. A pass
asks for 4,000,000 random keys, fresh each time, and both sides read arrays that were just made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.filled import KEY, MESSAGE_BYTES, Filled, Outputs, alternating, messages_of

KEYS = {"smoke": 100_000, "standard": 10_000_000, "large": 40_000_000}
ASKED = {"smoke": 100_000, "standard": 4_000_000, "large": 4_000_000}
ROUNDS = 9
GROUP = "find_many: fresh random keys"


class Bench:
    """The table and the arrays of one pass."""

    def __init__(self, keys: int, asked: int) -> None:
        self.table = Filled(keys)
        self.table.fill()
        self.asked = asked
        self.outputs = Outputs(asked)
        self.lengths = np.full(asked, MESSAGE_BYTES, np.uint16)

    def known(self) -> tuple[NDArray[np.uint64], int]:
        """Hashes of keys that are there, and the checksum of their people."""
        numbers, hashes = self.table.fresh(self.asked)
        return hashes, int((numbers + 1).sum())

    def unknown(self) -> tuple[NDArray[np.uint64], int]:
        return self.table.random.integers(0, 2**64, (self.asked, 2), dtype=np.uint64), 0

    def raw(self) -> tuple[NDArray[np.uint8], int]:
        numbers, _ = self.table.fresh(self.asked)
        return messages_of(numbers), int((numbers + 1).sum())

    def find_many(self, hashes: NDArray[np.uint64]) -> int:
        done, used = self.table.table.find_many(hashes, self.outputs.counts, self.outputs.matches)
        assert done == self.asked
        return self.outputs.checksum(used)

    def find_many_rows(self, rows: NDArray[np.uint8]) -> int:
        done, used = self.table.table.find_many_rows(KEY, rows, self.lengths, self.outputs.counts, self.outputs.matches)
        assert done == self.asked
        return self.outputs.checksum(used)

    def gather(self, hashes: NDArray[np.uint64]) -> int:
        return self.table.table.gather(hashes)


@pytest.fixture(scope="module")
def bench(size: str) -> Iterator[Bench]:
    made = Bench(KEYS[size], ASKED[size])
    yield made
    made.table.close()


def measure(benchmark: Any, bench: Bench, make: Callable[[], tuple[Any, int]], run: Callable[[Any], int]) -> None:
    """Time `run`, and its ratio to the gather in alternating rounds; the sums over people are the checksum."""
    expected: list[int] = []

    def setup() -> tuple[tuple[Any], dict[str, object]]:
        arguments, checksum = make()
        expected.append(checksum)
        return (arguments,), {}

    checksum = benchmark.pedantic(run, setup=setup, rounds=ROUNDS)
    assert checksum == expected[-1]
    benchmark.extra_info["checksum"] = checksum
    ours, limit = [], []
    for _ in range(ROUNDS):
        arguments, gathered = make()[0], bench.known()[0]
        limit += alternating(1, lambda: bench.gather(gathered))  # noqa: B023 - called at once
        ours += alternating(1, lambda: run(arguments))  # noqa: B023 - called at once
    middle = ROUNDS // 2
    benchmark.extra_info["of_gather"] = round(sorted(limit)[middle] / sorted(ours)[middle], 3)
    benchmark.extra_info["millions_a_second"] = round(bench.asked / sorted(ours)[middle] / 1e6, 1)
    benchmark.extra_info["huge_pages"] = bench.table.segment.huge_pages


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_known(benchmark: Any, bench: Bench, figure: Any) -> None:
    measure(benchmark, bench, bench.known, bench.find_many)
    figure(f"find_many / gather, {bench.table.keys:,} keys", benchmark.extra_info["of_gather"], at_least=0.5)


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_unknown(benchmark: Any, bench: Bench) -> None:
    measure(benchmark, bench, bench.unknown, bench.find_many)


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_from_messages(benchmark: Any, bench: Bench, figure: Any) -> None:
    measure(benchmark, bench, bench.raw, bench.find_many_rows)
    figure(f"from identifiers / gather, {bench.table.keys:,} keys", benchmark.extra_info["of_gather"], at_least=0.3)


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_reference_gather(benchmark: Any, bench: Bench) -> None:
    def setup() -> tuple[tuple[Any], dict[str, object]]:
        return (bench.known()[0],), {}

    total = benchmark.pedantic(bench.gather, setup=setup, rounds=ROUNDS)
    assert 0 < total < 2**64
    benchmark.extra_info["checksum"] = total
