"""Owns the measurement of reading one person: the store's get, and decoding alone.

References in the same run: bare LMDB get of the same bytes by key (what the check of key, checksum and record costs on
top), and sqlite3 with the same bytes under a primary key. All return or decode the same people; checksums compare.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import lmdb
import msgspec
import numpy as np
import pytest

from engine import store
from engine.entries import entries_of
from engine.keys import Keys
from engine.records import Certificate, Person, Qualification, Sex
from engine.store import StoreReader, StoreWriter

PEOPLE = {"smoke": 10_000, "standard": 200_000, "large": 2_000_000}
READS = 10_000
"""Different people read in one round."""
KEYS = Keys(bytes(range(32)))
MAP_BYTES = 1 << 36

_decode = msgspec.msgpack.Decoder(Person).decode


def _person(number: int) -> Person:
    held = Qualification("01130012", "12345678", str(number), "12345678", str(number), "01", 36_000, copay_ratio="030")
    certificate = Certificate("CN=JPKI for user authentication,O=JPKI,C=JP", f"{number:016X}", 40_000)
    return Person(
        "山田　太郎", "ヤマダ タロウ", Sex.MALE, 20_000 + number % 20_000, (held,), (certificate,), f"L{number:015X}",
        postcode="1000013", address="東京都千代田区霞が関1-2-2",
    )  # fmt: skip


class Filled:
    """The same people in our store, in a bare LMDB environment and in sqlite3."""

    def __init__(self, folder: Path, people: int) -> None:
        self.people = people
        store.create(folder / "store", key_id=KEYS.key_id, map_bytes=MAP_BYTES)
        writer = StoreWriter(folder / "store", key_id=KEYS.key_id, map_bytes=MAP_BYTES)
        self.bare = lmdb.open(str(folder / "bare"), map_size=MAP_BYTES, readahead=False, sync=False, max_spare_txns=1)
        self.sqlite = sqlite3.connect(folder / "sqlite")
        self.sqlite.execute("create table people (number integer primary key, person blob) without rowid")
        for first in range(1, people + 1, 20_000):
            self._fill(writer, range(first, min(first + 20_000, people + 1)))
        self.sqlite.commit()
        writer.close()
        self.reader = StoreReader(folder / "store", key_id=KEYS.key_id, map_bytes=MAP_BYTES)

    def _fill(self, writer: StoreWriter, numbers: range) -> None:
        encoded = [store.encode_person(_person(number)) for number in numbers]
        keys = [store.version_key(number, number) for number in numbers]
        entries = [entries_of(KEYS, number, _decode(person)) for number, person in zip(numbers, encoded, strict=True)]
        records = [store.pack_record(*each) for each in zip(keys, [0] * len(keys), entries, encoded, strict=True)]
        with writer.transaction() as txn:
            txn.put_versions(list(zip(keys, records, strict=True)), append=True)
            txn.put_changes(numbers[0], np.array(numbers, np.uint32))
            txn.advance(committed_seq=numbers[-1], next_person=numbers[-1] + 1, next_feed=1)
        with self.bare.begin(write=True) as txn:
            rows = [(number.to_bytes(4, "big"), person) for number, person in zip(numbers, encoded, strict=True)]
            txn.cursor().putmulti(rows, append=True)
        self.sqlite.executemany("insert into people values (?, ?)", zip(numbers, encoded, strict=True))

    def close(self) -> None:
        self.reader.close()
        self.bare.close()
        self.sqlite.close()


@pytest.fixture(scope="module")
def filled(size: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    made = Filled(tmp_path_factory.mktemp("store"), PEOPLE[size])
    yield made
    made.close()


def _measure(benchmark: Any, filled: Filled, get: Callable[[int], Person | None]) -> None:
    """Read different people every round; the sum of birth dates tells whether they were the right ones."""
    chance = Random(20261123)

    def numbers() -> tuple[tuple[list[int]], dict[str, Any]]:
        return ([chance.randrange(1, filled.people + 1) for _ in range(READS)],), {}

    def read(wanted: list[int]) -> tuple[int, int]:
        return sum(get(number).birth_date for number in wanted), sum(20_000 + number % 20_000 for number in wanted)  # type: ignore[union-attr]

    found, expected = benchmark.pedantic(read, setup=numbers, rounds=8, warmup_rounds=2)
    assert found == expected
    benchmark.extra_info["checksum"] = found
    benchmark.extra_info |= {"reads_a_round": READS, "people": filled.people}


@pytest.mark.benchmark(group="store: read one person")
def bench_person_from_store(benchmark: Any, filled: Filled) -> None:
    person, newest = filled.reader.person, filled.people
    _measure(benchmark, filled, lambda number: person(number, newest))


@pytest.mark.benchmark(group="store: read one person")
def bench_person_reference_bare_lmdb(benchmark: Any, filled: Filled) -> None:
    begin = filled.bare.begin

    def get(number: int) -> Person:
        with begin(buffers=True) as txn:
            return _decode(txn.get(number.to_bytes(4, "big")))

    _measure(benchmark, filled, get)


@pytest.mark.benchmark(group="store: read one person")
def bench_person_reference_sqlite3(benchmark: Any, filled: Filled) -> None:
    execute = filled.sqlite.execute
    query = "select person from people where number = ?"
    _measure(benchmark, filled, lambda number: _decode(execute(query, (number,)).fetchone()[0]))


@pytest.mark.benchmark(group="store: decode one record")
def bench_decode_record(benchmark: Any) -> None:
    """Checksum, layout, entries and person: all that unpack_record does."""
    key, person = store.version_key(1, 1), _person(1)
    record = store.pack_record(key, 0, entries_of(KEYS, 1, person), store.encode_person(person))
    found = benchmark(store.unpack_record, key, record).person
    assert found == person
    benchmark.extra_info |= {"record_bytes": len(record), "checksum": found.birth_date}


@pytest.mark.benchmark(group="store: decode one record")
def bench_decode_reference_person_only(benchmark: Any) -> None:
    found = benchmark(_decode, store.encode_person(_person(1)))
    assert found == _person(1)
    benchmark.extra_info["checksum"] = found.birth_date
