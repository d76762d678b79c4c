"""Owns the state between rows: people as the rows applied so far leave them, before any of it is committed.

Looks through to the index and the store for everybody whom no row has touched yet. What a failing call did is undone;
what stays becomes versions, and in the end the entries to add to and to remove from the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from engine import limits, store
from engine.entries import ENTRY_BYTES, ENTRY_DTYPE, entries_of
from engine.errors import StoreFullError
from engine.ingest.apply import Known
from engine.keys import Keys
from engine.records import Person
from engine.store import Version

HASH_BYTES = 16


class Finder(Protocol):
    """What is asked of the index here."""

    def find(self, digest: bytes) -> Iterable[tuple[int, ...]]:
        """Entries under one hash, provisional ones included; the first member is the person number."""


class Change(NamedTuple):
    """One new version, before it has a sequence number."""

    number: int
    person: Person
    entries: bytes


class _Undo(NamedTuple):
    number: int
    person: Person | None
    entries: bytes
    added: list[bytes]
    next_person: int


class Workspace:
    """A view (engine/ingest/apply) that can be written to.

    Args:
        index: finds people known before; its provisional entries are seen.
        newest: the newest stored version of a person, uncommitted ones included.
        next_person: the first free person number; afterwards the first that is still free.
    """

    def __init__(self, keys: Keys, index: Finder, newest: Callable[[int], Version | None], next_person: int) -> None:
        self.next_person = next_person
        self.changes: list[Change] = []
        self.birth_moved = False
        """Whether somebody got another birth date, and with it other card hashes than the row itself shows."""
        self._keys = keys
        self._index = index
        self._newest = newest
        self._people: dict[int, Person] = {}
        self._entries: dict[int, bytes] = {}
        self._before: dict[int, bytes] = {}
        self._touched: dict[int, int] = {}
        self._by_hash: dict[bytes, list[int]] = {}
        self._undo: list[_Undo] = []

    def behind(self, digest: bytes) -> Iterator[Known]:
        found, met = self._index.find(digest), self._by_hash.get(digest)
        if not found and met is None:
            return
        numbers = {match[0] for match in found}
        numbers.update(met or ())
        for number in sorted(numbers):
            person = self._person(number)
            if person is not None:
                yield number, person

    def expect(self, number: int, digests: Iterable[bytes]) -> None:
        """Say that a person whom the store has already, and the index not yet, has these identifiers."""
        for digest in digests:
            self._by_hash.setdefault(digest, []).append(number)

    def put(self, number: int | None, person: Person) -> int:
        """Make this the newest version of a person (None: of somebody new). Returns the person number."""
        next_person = self.next_person
        if number is None:
            if next_person > limits.PERSON_NUMBER_MAX:
                raise StoreFullError("all person numbers are given out")
            number = next_person
            self.next_person = next_person + 1
            self._before[number] = self._entries[number] = b""
        known = self._people.get(number)
        self.birth_moved |= known is not None and known.birth_date != person.birth_date
        entries = entries_of(self._keys, number, person)
        added = []
        before = self._entries[number]
        for digest in hashes_of(entries) - hashes_of(before) if entries != before else ():
            self._by_hash.setdefault(digest, []).append(number)
            added.append(digest)
        self._undo.append(_Undo(number, known, before, added, next_person))
        self._people[number], self._entries[number] = person, entries
        self._touched[number] = self._touched.get(number, 0) + 1
        self.changes.append(Change(number, person, entries))
        return number

    def undo(self, length: int) -> None:
        """Take back every change after the first `length`."""
        while len(self.changes) > length:
            self.changes.pop()
            last = self._undo.pop()
            for digest in last.added:
                self._by_hash[digest].remove(last.number)
            self.next_person = last.next_person
            self._entries[last.number] = last.entries
            self._touched[last.number] -= 1
            if last.person is None:
                del self._people[last.number]
            else:
                self._people[last.number] = last.person

    def changed_persons(self) -> np.ndarray:
        """The person number of each change, u32."""
        return np.array([change.number for change in self.changes], np.uint32)

    def records(self, first_seq: int, recorded_at_ms: int) -> list[tuple[bytes, bytes]]:
        """Keys and records of all changes, numbered from `first_seq`."""
        records = []
        for seq, change in enumerate(self.changes, first_seq):
            key = store.version_key(change.number, seq)
            person = store.encode_person(change.person)
            records.append((key, store.pack_record(key, recorded_at_ms, change.entries, person)))
        return records

    def entries_found_by(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries under which people touched here are not in the index yet: person numbers, ENTRY_DTYPE."""
        pairs = []
        for number in self._changed_numbers():
            known = hashes_of(self._before[number])
            pairs += [(number, e) for e in split(self._entries[number]) if e[:HASH_BYTES] not in known]
        return as_arrays(pairs)

    def differences(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """What to add to and what to remove from the index to get from the state before to the state now."""
        added, removed = [], []
        for number in self._changed_numbers():
            before, now = split(self._before[number]), split(self._entries[number])
            added += [(number, entry) for entry in now - before]
            removed += [(number, entry) for entry in before - now]
        return as_arrays(added), as_arrays(removed)

    def _changed_numbers(self) -> list[int]:
        return [number for number, times in self._touched.items() if times]

    def _person(self, number: int) -> Person | None:
        person = self._people.get(number)
        if person is None and number < self.next_person:
            version = self._newest(number)
            if version is not None:
                person = self._people[number] = version.person
                self._entries[number] = self._before[number] = version.entries
        return person


def split(entries: bytes) -> set[bytes]:
    """Packed entries as a set."""
    return {entries[at : at + ENTRY_BYTES] for at in range(0, len(entries), ENTRY_BYTES)}


def hashes_of(entries: bytes) -> set[bytes]:
    """The hashes of packed entries."""
    return {entries[at : at + HASH_BYTES] for at in range(0, len(entries), ENTRY_BYTES)}


def as_arrays(pairs: list[tuple[int, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """(person number, packed entry) pairs as person numbers u32 and ENTRY_DTYPE."""
    persons = np.array([number for number, _ in pairs], np.uint32)
    return persons, np.frombuffer(b"".join(entry for _, entry in pairs), ENTRY_DTYPE)
