"""Owns the measurement of what one lookup costs beside the memory read that nothing can spare it.

The reference is a chain of reads in lines of the same table (chase.c), each at an address that the one before it gave:
what a search for one key waits for at least. Both go in turns over the same memory; keys are random and fresh. The loop
that asks is measured, too, with an answer that is ready. What is left is ours: the call from Python, the search, the
match as a tuple.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_find import CALLS, Asked, find_all, find_all_messages
from benchmarks.filled import SEED, Filled, alternating
from ext import probe

SOURCE = Path(__file__).with_name("chase.c")
KEYS = {"smoke": 100_000, "standard": 10_000_000, "large": 100_000_000}
ROUNDS = 15
OWN_NS_MAX = 250
"""What a lookup of a ready hash may cost beyond one dependent read."""
GROUP = "find: 100,000 random keys beside as many dependent reads"


@pytest.fixture(scope="module")
def table(size: str) -> Iterator[Filled]:
    made = Filled(KEYS[size])
    made.fill()
    yield made
    made.close()


@pytest.fixture(scope="module")
def chase(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """The compiled chain."""
    built = tmp_path_factory.mktemp("chase") / "chase.so"
    command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", str(built), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    found = ctypes.CDLL(str(built)).chase
    found.restype, found.argtypes = ctypes.c_uint64, [ctypes.c_void_p, *[ctypes.c_uint64] * 3]
    return found


def reads(table: Filled, chase: Callable[..., int], at: int) -> int:
    """As many dependent reads as there are lookups in a round."""
    words = np.frombuffer(table.segment.buffer, np.uint64, offset=probe.HEADER_BYTES)
    return chase(words.ctypes.data, table.lines, CALLS, at)


def ready_all(digests: list[bytes], answer: tuple[tuple[int, ...], ...]) -> int:
    """The loop of `find_all` without the call: the keys are fetched, and the answer is read."""
    return sum([answer[0][0] for digest in digests])


def measure(benchmark: Any, table: Filled, chase: Callable[..., int], run: Callable[[Filled, Asked], int]) -> float:
    """Time `run`, the chain and the bare loop in turns; compare all answers.

    Returns: the median nanoseconds of a lookup beyond a read and the loop.
    """
    chance = np.random.default_rng(SEED)
    costs: list[list[float]] = []
    sums: list[int] = []

    def turn() -> None:
        asked, at = Asked(table), int(chance.integers(2**63))
        keys = asked.digests if run is by_digest else asked.messages
        parts = (
            lambda: reads(table, chase, at),
            lambda: sums.append(run(table, asked)),
            lambda: ready_all(keys, ((1, 0, 0, 0),)),
        )
        costs.append([seconds / CALLS * 1e9 for seconds in alternating(1, *parts)])
        assert sums[-1] == asked.checksum

    turn()
    costs.clear()
    benchmark.pedantic(turn, rounds=ROUNDS)
    read, lookup, loop = (round(statistics.median(one[which] for one in costs)) for which in range(3))
    own = statistics.median(ours - read - loop for read, ours, loop in costs)
    benchmark.extra_info |= {"read_ns": read, "lookup_ns": lookup, "loop_ns": loop, "own_ns": round(own)}
    benchmark.extra_info |= {"checksum": sum(sums), "huge_pages": table.segment.huge_pages}
    print(f"\n{table.keys:,} keys, ns: dependent read {read}, lookup {lookup} of which the loop {loop}, own {own:.0f}")
    return own


def by_digest(table: Filled, asked: Asked) -> int:
    return find_all(table.table.find, asked.digests)


def by_message(table: Filled, asked: Asked) -> int:
    return find_all_messages(table.table.find_message, asked.messages)


@pytest.mark.benchmark(group=GROUP)
def bench_find_beside_a_dependent_read(
    benchmark: Any, table: Filled, chase: Callable[..., int], size: str, figure: Any
) -> None:
    own = measure(benchmark, table, chase, by_digest)
    figure(f"find beyond one dependent memory read, ns, {table.keys:,} keys", own, at_most=OWN_NS_MAX)
    if size != "smoke":
        assert own <= OWN_NS_MAX


@pytest.mark.benchmark(group=GROUP)
def bench_find_message_beside_a_dependent_read(benchmark: Any, table: Filled, chase: Callable[..., int]) -> None:
    """With the hash of 40 bytes, which the bound does not count."""
    measure(benchmark, table, chase, by_message)


def bench_reference_chain_depends_on_what_is_read(benchmark: Any, table: Filled, chase: Callable[..., int]) -> None:
    """The chain goes where the table's words send it: the same way again, another way from elsewhere."""
    first = benchmark.pedantic(reads, (table, chase, 1), rounds=3)
    assert first == reads(table, chase, 1) != reads(table, chase, 2)
    benchmark.extra_info["checksum"] = first
