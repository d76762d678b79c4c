"""Owns the measurement of building a table from arrays, of its size, and of a whole generation with its file.

The references are a dict filled with the same keys, and a stable sort by home line, which is what a table without
random writes would have to do first.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.filled import Filled, entries_of
from engine.clock import monotonic_ns
from engine.index import IndexWriter
from ext import probe

KEYS = {"smoke": 100_000, "standard": 10_000_000, "large": 40_000_000}
ROUNDS = 3
BYTES_A_KEY_MAX = 23.0
GROUP = "build: from arrays"


@pytest.fixture(scope="module")
def table(size: str) -> Iterator[Filled]:
    made = Filled(KEYS[size])
    yield made
    made.close()


def rate(benchmark: Any, keys: int) -> None:
    benchmark.extra_info["million_keys_a_second"] = round(keys / benchmark.stats.stats.median / 1e6, 2)


@pytest.mark.benchmark(group=GROUP)
def bench_build_insert_many(benchmark: Any, table: Filled, figure: Any) -> None:
    """Into an empty table whose pages are there."""
    persons, entries = entries_of(table.hashes)

    def setup() -> None:
        table.table.remove_many(persons, entries)
        table.segment.buffer[probe.HEADER_BYTES :] = bytes(len(table.segment.buffer) - probe.HEADER_BYTES)

    added = benchmark.pedantic(table.table.insert_many, (persons, entries), setup=setup, rounds=ROUNDS)
    assert added == table.keys == table.table.count == table.table.contains_many(persons, entries)
    bytes_a_key = table.segment.size_bytes / table.keys
    benchmark.extra_info["bytes_a_key"] = round(bytes_a_key, 3)
    benchmark.extra_info["checksum"] = table.table.scan()["entries"]
    assert bytes_a_key <= BYTES_A_KEY_MAX
    rate(benchmark, table.keys)
    figure(f"table, bytes a key, {table.keys:,} keys", bytes_a_key, at_most=BYTES_A_KEY_MAX)
    figure("build from arrays, M keys/s", benchmark.extra_info["million_keys_a_second"], at_least=8)


@pytest.mark.benchmark(group=GROUP)
def bench_build_generation(benchmark: Any, table: Filled) -> None:
    """With the file, its pages, huge pages, and the publication."""
    persons, entries = entries_of(table.hashes)
    directory = Path("/dev/shm") / f"shikaku-bench-index-{monotonic_ns()}"
    writer = IndexWriter.create(directory, store_id=bytes(16), key_id=bytes(8), keys=64)
    try:
        benchmark.pedantic(lambda: writer.rebuild([(persons, entries)], seq=1, keys=table.keys), rounds=ROUNDS)
        assert writer.count == table.keys and writer.check() == []
        benchmark.extra_info["huge_pages"] = writer.huge_pages
        benchmark.extra_info["checksum"] = writer.count
        rate(benchmark, table.keys)
    finally:
        writer.close()
        shutil.rmtree(directory)


@pytest.mark.benchmark(group=GROUP)
def bench_build_reference_dict(benchmark: Any, table: Filled) -> None:
    """A tenth of the keys, because ten million objects take a while; the rate is what counts."""
    count = table.keys // 10
    packed = table.hashes.tobytes()
    digests = [packed[16 * n : 16 * n + 16] for n in range(count)]
    known = benchmark.pedantic(lambda: dict(zip(digests, range(count), strict=True)), rounds=ROUNDS)
    assert len(known) == count
    benchmark.extra_info["checksum"] = len(known)
    rate(benchmark, count)


@pytest.mark.benchmark(group=GROUP)
def bench_build_reference_sort(benchmark: Any, table: Filled) -> None:
    order = benchmark.pedantic(np.argsort, (table.hashes[:, 0].copy(),), {"kind": "stable"}, rounds=ROUNDS)
    benchmark.extra_info["checksum"] = int(order[0])
    rate(benchmark, table.keys)
