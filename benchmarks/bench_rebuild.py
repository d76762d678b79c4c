"""Owns the measurement of reading all entries of a store from the disk, as a rebuild of the index does.

The reference goes from key to key through LMDB, in one process. The system is asked to forget the file before each
reading, when nobody has it mapped: pages that somebody has mapped are not forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import scan, store
from engine.store import StoreReader, StoreWriter

VERSIONS = {"smoke": 5_000, "standard": 2_000_000, "large": 10_000_000}
CHUNK = 50_000
MAP_BYTES = 1 << 36
PERSON_BYTES = 320
ROUNDS = 3
KEY_ID = bytes(8)
GROUP = "rebuild: all entries of a store"


@pytest.fixture(scope="module")
def filled(size: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One version of everybody, with two entries each."""
    path = tmp_path_factory.mktemp("rebuild") / "store"
    store.create(path, key_id=KEY_ID, map_bytes=MAP_BYTES)
    writer = StoreWriter(path, key_id=KEY_ID, map_bytes=MAP_BYTES)
    chance, person = np.random.default_rng(20261123), bytes(PERSON_BYTES)
    for first in range(1, VERSIONS[size] + 1, CHUNK):
        numbers = np.arange(first, min(first + CHUNK, VERSIONS[size] + 1))
        keys = store.version_keys(numbers, numbers.astype(np.uint64))
        records = [(key, store.pack_record(key, 0, chance.bytes(48), person)) for key in keys]
        with writer.transaction() as txn:
            txn.put_versions(records, append=True)
            txn.advance(committed_seq=int(numbers[-1]), next_person=int(numbers[-1]) + 1, next_feed=1)
    writer.close()
    yield path
    (path / "data.mdb").unlink()


def forgotten(path: Path) -> StoreReader:
    descriptor = os.open(path / "data.mdb", os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    return StoreReader(path, key_id=KEY_ID, map_bytes=MAP_BYTES)


def measure(benchmark: Any, path: Path, versions: int, read: Any) -> None:
    def read_all(reader: StoreReader) -> int:
        try:
            return sum(len(persons) for persons, _ in read(reader, versions))
        finally:
            reader.close()

    count = benchmark.pedantic(read_all, setup=lambda: ((forgotten(path),), {}), rounds=ROUNDS)
    assert count == 2 * versions
    size = (path / "data.mdb").stat().st_size
    benchmark.extra_info["megabytes_a_second"] = round(size / benchmark.stats.stats.median / 1e6)
    benchmark.extra_info["checksum"] = count


@pytest.mark.benchmark(group=GROUP)
def bench_rebuild_in_file_order(benchmark: Any, filled: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "ALONE_MAX", 0)
    measure(benchmark, filled, VERSIONS[size], scan.all_entries)


@pytest.mark.benchmark(group=GROUP)
def bench_rebuild_reference_key_by_key(benchmark: Any, filled: Path, size: str) -> None:
    measure(benchmark, filled, VERSIONS[size], StoreReader.entries)
