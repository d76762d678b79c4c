"""Owns a real store and index in a folder, whose people a test replaces as it likes, and a verifier that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine import store as store_module
from engine.clock import Clock
from engine.days import NO_DAY
from engine.entries import CARD, ENTRY_BYTES, ENTRY_DTYPE, entries_of, pack_entry
from engine.index import IndexReader, IndexWriter
from engine.keys import Keys
from engine.records import Insurer, Person
from engine.store import StoreWriter
from engine.verification import Verifier

KEYS = Keys(bytes(range(32)))
NOON_MS = 3 * 3600 * 1000
"""Noon in Japan, in milliseconds after midnight UTC."""
_UNIX_EPOCH_DAY = 18263

Batch = tuple[NDArray[np.uint32], NDArray[np.void]]


def clock_of(day: int) -> Clock:
    """A clock that stands at noon of a day in Japan."""
    return Clock((day - _UNIX_EPOCH_DAY) * 86_400_000 + NOON_MS)


class World:
    """Store, index writer, and readers of both. Person numbers are the test's; a change is one version of the world."""

    def __init__(self, directory: Path, today: int, *, map_bytes: int = 1 << 30, keys: int = 1000) -> None:
        path = directory / "store"
        store_module.create(path, key_id=KEYS.key_id, map_bytes=map_bytes)
        self.store = StoreWriter(path, key_id=KEYS.key_id, map_bytes=map_bytes)
        identity = {"store_id": self.store.store_id, "key_id": KEYS.key_id}
        self.index = IndexWriter.create(directory / "index", keys=keys, **identity)
        self.reader = IndexReader.attach(directory / "index", **identity)
        self.people: dict[int, Person] = {}
        self.seq = 0
        self.use_clock(clock_of(today))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.reader.close()
        self.index.close()
        self.store.close()

    def use_clock(self, clock: Clock) -> None:
        """A new verifier with this clock."""
        self.verifier = Verifier(self.reader, self.store, KEYS, clock)

    def replace(self, people: Mapping[int, Person]) -> int:
        """Make these the only people, committed and visible. Returns the data version."""
        added, removed = self.commit(people)
        self.index.publish(self.seq, added=added, removed=removed, insurers_changed=False)
        return self.seq

    def commit(self, people: Mapping[int, Person]) -> tuple[Batch, Batch]:
        """The same, but left to be published: what the index gains and loses by it, for version `seq`."""
        nobody = Person("", "", next(iter(people.values())).sex, 0)
        now = {number: people.get(number, nobody) for number in sorted({*people, *self.people})}
        changed = {number: one for number, one in now.items() if self.people.get(number) != one}
        before = {number: self.people.get(number, nobody) for number in changed}
        with self.store.transaction() as txn:
            for at, (number, one) in enumerate(changed.items(), start=self.seq + 1):
                key = store_module.version_key(number, at)
                record = store_module.pack_record(
                    key, 0, entries_of(KEYS, number, one), store_module.encode_person(one)
                )
                txn.put_versions([(key, record)], append=False)
            txn.put_changes(self.seq + 1, list(changed))
            self.seq += len(changed)
            txn.advance(committed_seq=self.seq, next_person=max(now) + 1, next_feed=1)
        self.people = now
        new, old = _all_entries(changed), _all_entries(before)
        return _batch(new - old), _batch(old - new)

    def register_insurer(self, insurer: Insurer, *, publish: bool = True) -> None:
        """Put an insurer, and say so to the readers."""
        with self.store.transaction() as txn:
            txn.put_insurer(insurer)
        if publish:
            self.index.publish(self.seq, added=_batch(set()), removed=_batch(set()), insurers_changed=True)

    def plant(self, digest: bytes, number: int, *, gained: int = 1, lost: int = NO_DAY, aux: int = 0) -> None:
        """Add an index entry that no record stands behind, as a tag met by chance would look."""
        planted = _batch({(number, pack_entry(digest, gained, lost, aux, CARD))})
        self.index.publish(self.seq, added=planted, removed=_batch(set()), insurers_changed=False)

    def entries(self) -> Iterable[Batch]:
        """All entries of everybody, for a rebuild."""
        return [_batch(_all_entries(self.people))]


def _all_entries(people: Mapping[int, Person]) -> set[tuple[int, bytes]]:
    found = set()
    for number, one in people.items():
        raw = entries_of(KEYS, number, one)
        found |= {(number, raw[at : at + ENTRY_BYTES]) for at in range(0, len(raw), ENTRY_BYTES)}
    return found


def _batch(entries: set[tuple[int, bytes]]) -> Batch:
    listed = sorted(entries)
    persons = np.array([number for number, _ in listed], np.uint32)
    return persons, np.frombuffer(b"".join(entry for _, entry in listed), ENTRY_DTYPE)
