"""Owns the measurement of many lookups over arrays: known keys, unknown keys, and from raw messages.

The reference is what memory allows: one word of one random line of the same table for each key, with prefetch. Beside
it absl's flat_hash_map (C++) holds the same keys, plainly asked and with memory fetched ahead as ours does. A pass asks
for 4,000,000 random keys, fresh each time: of a large table none is in a cache. All sides read arrays that were just
made. The large size needs about 10 GiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.filled import KEY, MESSAGE_BYTES, Filled, Outputs, alternating, messages_of
from benchmarks.peers.flat import Flat, FlatMissing

KEYS = {"smoke": 100_000, "standard": 10_000_000, "large": 100_000_000}
ASKED = {"smoke": 100_000, "standard": 4_000_000, "large": 4_000_000}
ROUNDS = 9
OF_GATHER = {"smoke": 0.5, "standard": 0.5, "large": 0.55}
OF_GATHER_FROM_MESSAGES = {"smoke": 0.3, "standard": 0.3, "large": 0.35}
OF_FLAT = 2
"""Bounds: the share of the gather's rate, ready-hashed and from messages; how many times as fast as absl's map."""
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
def bench_find_many_known(benchmark: Any, bench: Bench, size: str, figure: Any) -> None:
    measure(benchmark, bench, bench.known, bench.find_many)
    ratio = benchmark.extra_info["of_gather"]
    figure(f"find_many / gather, {bench.table.keys:,} keys", ratio, at_least=OF_GATHER[size])


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_unknown(benchmark: Any, bench: Bench) -> None:
    measure(benchmark, bench, bench.unknown, bench.find_many)


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_from_messages(benchmark: Any, bench: Bench, size: str, figure: Any) -> None:
    measure(benchmark, bench, bench.raw, bench.find_many_rows)
    ratio = benchmark.extra_info["of_gather"]
    figure(f"from identifiers / gather, {bench.table.keys:,} keys", ratio, at_least=OF_GATHER_FROM_MESSAGES[size])


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_reference_gather(benchmark: Any, bench: Bench) -> None:
    def setup() -> tuple[tuple[Any], dict[str, object]]:
        return (bench.known()[0],), {}

    total = benchmark.pedantic(bench.gather, setup=setup, rounds=ROUNDS)
    assert 0 < total < 2**64
    benchmark.extra_info["checksum"] = total


# --- absl -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flat(bench: Bench) -> Iterator[Flat]:
    """absl's map with the same keys and people.

    absl is not the project's: Debian has its headers, and `make peers` installs them. Where they are not, this peer is
    not measured, and the run says why; our own figures do not depend on it.
    """
    try:
        made = Flat(bench.table.keys)
    except FlatMissing as error:
        pytest.skip(f"absl flat_hash_map is not measured: {error}")
    made.insert(bench.table.hashes, np.arange(1, bench.table.keys + 1, dtype=np.uint32))
    yield made
    made.close()


def measure_flat(benchmark: Any, bench: Bench, flat: Flat, ahead: bool) -> float:
    """Time absl's map, and how many times as fast ours is, in alternating rounds."""
    persons = np.ones(bench.asked, np.uint32)

    def run(hashes: NDArray[np.uint64]) -> int:
        flat.find(hashes, persons, ahead=ahead)
        return int(persons.sum(dtype=np.int64))

    measure(benchmark, bench, bench.known, run)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        first, second = bench.known()[0], bench.known()[0]
        ours += alternating(1, lambda: bench.find_many(first))  # noqa: B023 - called at once
        theirs += alternating(1, lambda: run(second))  # noqa: B023 - called at once
    ratio = sorted(theirs)[ROUNDS // 2] / sorted(ours)[ROUNDS // 2]
    benchmark.extra_info["ours_times_as_fast"] = round(ratio, 2)
    benchmark.extra_info["bytes_a_key"] = round(flat.bytes / bench.table.keys, 1)
    return ratio


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_reference_flat(benchmark: Any, bench: Bench, flat: Flat, figure: Any) -> None:
    ratio = measure_flat(benchmark, bench, flat, ahead=False)
    figure(f"find_many / absl flat_hash_map, {bench.table.keys:,} keys", ratio, at_least=OF_FLAT)


@pytest.mark.benchmark(group=GROUP)
def bench_find_many_reference_flat_ahead(benchmark: Any, bench: Bench, flat: Flat, figure: Any) -> None:
    ratio = measure_flat(benchmark, bench, flat, ahead=True)
    figure(f"find_many / absl flat_hash_map fetching ahead, {bench.table.keys:,} keys", ratio, at_least=OF_FLAT)
