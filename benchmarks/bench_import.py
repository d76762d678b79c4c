"""Owns the measurement of registration as a whole: rows of a file a second, and durable calls a second.

Import: from the file's bytes through checks, hashes, LMDB and index to visibility. References in the same run: reading
and checking the same file without applying it, and putting records of the same size into a bare LMDB environment with
one sync a chunk. Calls: groups of single-row calls; reference: as many bare LMDB puts with one sync a group.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import statistics
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import lmdb
import pytest

from benchmarks.bench_feed import feed_rows
from engine import fsck, store
from engine.config import Config
from engine.ingest import feed
from engine.ingest.registry import DeltaCall, FeedReceipt, Registry
from engine.ingest.rows import Op, Row
from engine.keys import Keys
from engine.records import Insurer, Person, Qualification, Sex
from loadtest.population.feed import generate
from loadtest.population.insurers import insurers

ROWS = {"smoke": 20_000, "standard": 200_000, "large": 1_000_000}
GROUPS = {"smoke": 10, "standard": 50, "large": 100}
CALLS_A_GROUP = 500
CALLS_A_SECOND = 10_000
"""Durable and visible, at least."""
RECORD_BYTES = 420
INSURER = "01130012"
KEYS = Keys(bytes(range(32)))


def _registry(folder: Path, rows: int) -> Registry:
    config = Config(
        data_dir=folder / "data", key_file=folder / "key", index_dir=Path("/dev/shm") / folder.name, index_keys=4 * rows
    )
    store.create(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    registry = Registry.open(config, KEYS)
    with registry.store.transaction() as txn:
        for number in {INSURER, *(each.number for each in insurers())}:
            txn.put_insurer(Insurer(number, "an insurer"))
    registry._insurers = {insurer.number: insurer for insurer in registry.store.insurers()}
    return registry


@pytest.fixture
def registry(tmp_path: Path, size: str) -> Iterator[Registry]:
    made = _registry(tmp_path, ROWS[size])
    yield made
    config = made._config
    made.close()
    assert config.index_dir is not None
    shutil.rmtree(config.index_dir)


@pytest.fixture(scope="module")
def newcomers(size: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of people who are all new, each with certificate and link code."""
    rows = feed_rows(ROWS[size])
    path = tmp_path_factory.mktemp("feed") / "newcomers.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def population(size: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample population: families, successive qualifications, losses, changes, cancellations."""
    folder = tmp_path_factory.mktemp("population")
    return generate(ROWS[size] * 4 // 5, 20261123, date(2026, 11, 23), folder).population_file


def _import(
    benchmark: Any, registry: Registry, path: Path, insurer: str | None, figure: Any, at_least: float = 0
) -> None:
    began = time.process_time()
    receipt = benchmark.pedantic(registry.import_feed, (path,), {"insurer": insurer}, rounds=1)
    cpu_seconds, seconds = time.process_time() - began, benchmark.stats.stats.mean
    figure(f"import of {path.name}, rows a second of one core", receipt.rows / cpu_seconds, at_least=at_least)
    benchmark.extra_info |= {"rows": receipt.rows, "rows_a_second": round(receipt.rows / seconds)}
    benchmark.extra_info["checksum"] = registry.store.committed_seq
    assert registry.store.committed_seq == registry.index.data_version == receipt.rows
    if receipt.rows <= 100_000:
        assert fsck.run(registry._config, KEYS).problems == []


@pytest.mark.benchmark(group="import: newcomers")
def bench_import_newcomers(benchmark: Any, registry: Registry, newcomers: Path, figure: Any) -> None:
    _import(benchmark, registry, newcomers, INSURER, figure, at_least=60_000)


@pytest.mark.benchmark(group="import: newcomers")
def bench_read_newcomers_only(benchmark: Any, newcomers: Path) -> None:
    rows = benchmark.pedantic(lambda: sum(chunk.seen for chunk in feed.read(newcomers, insurer=INSURER)), rounds=1)
    assert rows == newcomers.read_bytes().count(b"\n") - 1
    benchmark.extra_info |= {"checksum": rows, "rows_a_second": round(rows / benchmark.stats.stats.mean)}


@pytest.mark.benchmark(group="import: newcomers")
def bench_import_reference_bare_lmdb(benchmark: Any, size: str, tmp_path: Path) -> None:
    rows, chunk = ROWS[size], 10_000
    env = lmdb.open(str(tmp_path / "bare"), map_size=1 << 36)
    body = bytes(RECORD_BYTES)

    def fill() -> int:
        for first in range(0, rows, chunk):
            with env.begin(write=True) as txn:
                pairs = [(number.to_bytes(12, "big"), body) for number in range(first, first + chunk)]
                txn.cursor().putmulti(pairs, append=True)
        return int(env.stat()["entries"])

    filled = benchmark.pedantic(fill, rounds=1)
    assert filled == rows
    benchmark.extra_info |= {"checksum": filled, "rows_a_second": round(rows / benchmark.stats.stats.mean)}
    env.close()


@pytest.mark.benchmark(group="import: sample population")
def bench_import_population(benchmark: Any, registry: Registry, population: Path, figure: Any) -> None:
    _import(benchmark, registry, population, None, figure)


@pytest.mark.benchmark(group="import: sample population")
def bench_read_population_only(benchmark: Any, population: Path) -> None:
    rows = benchmark.pedantic(lambda: sum(chunk.seen for chunk in feed.read(population)), rounds=1)
    assert rows == population.read_bytes().count(b"\n") - 1
    benchmark.extra_info |= {"checksum": rows, "rows_a_second": round(rows / benchmark.stats.stats.mean)}


def _calls(groups: int) -> list[list[DeltaCall]]:
    """Single-row calls: two in three register somebody, the others end what an earlier one began."""
    made = [
        _call(at, Op.NEW if at % 3 else Op.LOSE, at if at % 3 else at - 1)
        for at in range(1, groups * CALLS_A_GROUP + 1)
    ]
    return [made[at : at + CALLS_A_GROUP] for at in range(0, len(made), CALLS_A_GROUP)]


def _call(at: int, op: Op, number: int) -> DeltaCall:
    gone = op is Op.LOSE
    held = Qualification(
        INSURER, "12", str(number), "12", str(number), "01", 36_000, 36_500 if gone else None, "03" if gone else ""
    )
    row = Row(1, op, Person("山田　太郎", "ヤマダ タロウ", Sex.MALE, 29_000, (held,), (), f"L{number}"))
    return DeltaCall(INSURER, None, None, [row], hashlib.sha256(str(at).encode()).digest())


@pytest.mark.benchmark(group="calls: durable single-row deltas")
def bench_calls_in_groups(benchmark: Any, registry: Registry, size: str, figure: Any) -> None:
    """Each group is one transaction, one sync, one publication. What else the machine does falls on some groups."""
    groups = _calls(GROUPS[size])
    seconds = []

    def apply() -> int:
        applied = 0
        for group in groups:
            start = time.perf_counter()
            applied += sum(isinstance(result, FeedReceipt) for result in registry.apply_calls(group))
            seconds.append(time.perf_counter() - start)
        return applied

    began = time.process_time()
    applied = benchmark.pedantic(apply, rounds=1)
    cpu_us = (time.process_time() - began) / applied * 1e6
    assert applied == GROUPS[size] * CALLS_A_GROUP == registry.store.committed_seq
    whole, middle = applied / benchmark.stats.stats.mean, CALLS_A_GROUP / statistics.median(seconds)
    benchmark.extra_info |= {"checksum": applied, "calls_a_second": round(whole), "cpu_us_each": round(cpu_us, 1)}
    figure("durable calls of one row a second, the median group", middle, at_least=CALLS_A_SECOND)
    if size != "smoke":
        assert middle >= CALLS_A_SECOND


@pytest.mark.benchmark(group="calls: durable single-row deltas")
def bench_calls_reference_bare_lmdb(benchmark: Any, size: str, tmp_path: Path) -> None:
    env = lmdb.open(str(tmp_path / "bare"), map_size=1 << 36)
    body = bytes(RECORD_BYTES)

    def apply() -> int:
        for group in range(GROUPS[size]):
            with env.begin(write=True) as txn:
                for at in range(CALLS_A_GROUP):
                    txn.put((group * CALLS_A_GROUP + at).to_bytes(12, "big"), body)
        return int(env.stat()["entries"])

    applied = benchmark.pedantic(apply, rounds=1)
    assert applied == GROUPS[size] * CALLS_A_GROUP
    benchmark.extra_info |= {"checksum": applied, "calls_a_second": round(applied / benchmark.stats.stats.mean)}
    env.close()
