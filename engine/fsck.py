"""Owns the structural check of store and index: for operators, and after every kill in the crash tests.

Reads everything, writes nothing, and may run beside a live writer: then it checks the state that was committed when it
began, and looks again at whatever has moved meanwhile. Problems name changes by their sequence number, never people.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from engine import store as stores
from engine.config import Config
from engine.entries import CERTIFICATE, ENTRY_DTYPE, LINK, entries_of
from engine.errors import CorruptionError, RecordCorruptError, ShikakuError
from engine.index import IndexReader
from engine.keys import Keys
from engine.recovery import index_directory
from engine.store import StoreReader

PROBLEMS_MAX: Final = 1_000
"""Problems listed; the rest are counted."""
TRIES: Final = 10
"""How often something is looked at again while a writer keeps changing it."""
PAUSE_SECONDS: Final = 0.02


class FsckReport(msgspec.Struct):
    """What was found: problems in words (none: all is well), and how much was looked at."""

    problems: list[str] = []
    problem_count: int = 0
    counts: dict[str, int] = {}

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    def problem(self, text: str) -> None:
        """Note one more."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)


def run(config: Config, keys: Keys) -> FsckReport:
    """Check the store and, if there is one, the live index.

    Raises StoreMissingError, StoreVersionError, KeyMismatchError; whatever else is wrong is in the report.
    """
    report = FsckReport(problems=[], counts={})
    store = StoreReader(config.store_dir, key_id=keys.key_id, map_bytes=config.map_bytes)
    try:
        _Check(config, keys, store, report).run()
    except CorruptionError as error:
        report.problem(f"the check ended early: {error.detail}")
    finally:
        store.close()
    return report


class _Check:
    def __init__(self, config: Config, keys: Keys, store: StoreReader, report: FsckReport) -> None:
        self._config = config
        self._keys = keys
        self._store = store
        self._report = report
        self._live = stores.writer_is_running(config.store_dir)
        self._committed = store.committed_seq
        self._next_person = store.next_person
        self._insurers = {insurer.number for insurer in store.insurers()}

    def run(self) -> None:
        changes = self._changes()
        self._versions(changes)
        self._feeds()
        self._index()

    def _changes(self) -> np.ndarray:
        """Sequence numbers count up without a gap. Returns the person number of each change, by seq - 1."""
        persons, unfinished = np.zeros(self._committed, np.uint32), 0
        expected = 1
        for seq, person in self._store.walk_changes():
            if seq > self._committed:
                unfinished += 1
                continue
            if seq != expected:
                self._report.problem(f"changes {expected} to {seq - 1} are missing")
            persons[seq - 1] = person
            expected = seq + 1
        if expected != self._committed + 1:
            self._report.problem(f"changes {expected} to {self._committed} are missing")
        if unfinished and not self._live:
            self._report.problem(f"{unfinished} changes belong to a feed that was never committed")
        self._report.counts |= {"changes": self._committed, "changes_unfinished": unfinished}
        return persons

    def _versions(self, changes: np.ndarray) -> None:
        """Every version decodes, is the one that its change says, and has the entries that its person asks for."""
        seen, people, highest = 0, 0, 0
        for key, value in self._store.walk():
            number, seq = stores.split_key(key)
            if seq > self._committed:
                if not self._live:
                    self._report.problem(f"version {seq} was never committed")
                continue
            seen += 1
            people += number != highest
            highest = number
            if seq < 1 or changes[seq - 1] != number:
                self._report.problem(f"version {seq} is of another person than its change")
            self._record(key, value, seq)
        if seen != self._committed:
            self._report.problem(f"there are {seen} versions for {self._committed} changes")
        if highest >= self._next_person:
            self._report.problem("a person number was used before it was given out")
        self._report.counts |= {"versions": seen, "people": people}

    def _record(self, key: bytes, value: bytes, seq: int) -> None:
        try:
            version = stores.unpack_record(key, value)
        except RecordCorruptError as error:
            self._report.problem(f"version {seq}: {error.detail}")
            return
        if entries_of(self._keys, version.number, version.person) != version.entries:
            self._report.problem(f"version {seq} has other index entries than its person asks for")
        if not version.person.qualifications:
            self._report.problem(f"version {seq} has no qualification")
        if any(held.insurer_number not in self._insurers for held in version.person.qualifications):
            self._report.problem(f"version {seq} names an insurer that is not registered")

    def _feeds(self) -> None:
        """Feeds follow on each other and cover every change."""
        feeds = [feed for feed in reversed(self._store.feeds()) if feed.last_seq <= self._committed]
        expected = 1
        for at, feed in enumerate(feeds, 1):
            if feed.feed != at:
                self._report.problem(f"feed {at} is missing")
            if feed.first_seq != expected or feed.last_seq != feed.first_seq + feed.rows - 1:
                self._report.problem(f"feed {feed.feed} does not follow on the one before")
            if feed.new + feed.changed + feed.lost + feed.cancelled != feed.rows:
                self._report.problem(f"feed {feed.feed} does not add up")
            last = self._store.feed_by_digest(feed.scope, feed.digest)  # the last feed that had this content
            if last is None or last.feed < feed.feed or (last.scope, last.digest) != (feed.scope, feed.digest):
                self._report.problem(f"feed {feed.feed} is not found by its digest")
            expected = feed.last_seq + 1
        if expected != self._committed + 1:
            self._report.problem(f"no feed has the changes {expected} to {self._committed}")
        self._report.counts |= {"feeds": len(feeds), "insurers": len(self._insurers)}

    def _index(self) -> None:
        directory = index_directory(self._config, self._store.store_id)
        if not Path(directory).is_dir():
            return
        try:
            index = IndexReader.attach(directory, store_id=self._store.store_id, key_id=self._keys.key_id)
        except (ShikakuError, FileNotFoundError) as error:
            self._report.problem(f"the index cannot be used: {error}")
            return
        try:
            self._compare(index)
        finally:
            index.close()

    def _compare(self, index: IndexReader) -> None:
        """Every entry of everybody as visible now is in the index exactly once, and nothing else is."""
        visible, generation, count = index.data_version, index.generation, index.count
        if visible != self._committed and not self._live:
            self._report.problem(f"the index shows change {visible}, the store has {self._committed}")
        total, doubtful = 0, set()
        for persons, entries in self._store.entries(visible):
            total += len(persons)
            doubtful.update(persons[_found_times(index, persons, entries) != 1].tolist())
            self._identifiers(index, entries)
        moved = (index.data_version, index.generation) != (visible, generation)
        wrong = self._look_again(index, sorted(doubtful)) if moved else len(doubtful)
        if wrong:
            self._report.problem(f"{wrong} people's entries are not in the index exactly once")
        if not moved and count != total and not self._explained(index, visible, total):
            self._report.problem(f"the index has {index.count} entries, the store asks for {total}")
        self._report.counts["index_entries"] = total

    def _explained(self, index: IndexReader, visible: int, total: int) -> bool:
        """Whether entries in excess may be those that a live writer holds provisionally, or is just removing."""
        for _ in range(TRIES if self._live else 0):
            unfinished = self._store.changed_numbers(visible, 2**63, 1)
            if unfinished or index.data_version != visible or index.count == total:
                return True
            time.sleep(PAUSE_SECONDS)
        return False

    def _look_again(self, index: IndexReader, numbers: list[int]) -> int:
        """How many of these people's entries are wrong in a state that stood still while they were looked at."""
        for _ in range(TRIES):
            visible = index.data_version
            wrong = 0
            for number in numbers:
                version = self._store.version(number, visible)
                if version is not None:
                    entries = np.frombuffer(version.entries, ENTRY_DTYPE)
                    wrong += bool((_found_times(index, np.full(len(entries), number), entries) != 1).any())
            if not wrong or index.data_version == visible:
                break
        return wrong

    def _identifiers(self, index: IndexReader, entries: np.ndarray) -> None:
        """A link code, and a certificate, belong to one person."""
        single = entries[np.isin(entries["kind"], (CERTIFICATE, LINK))]
        counts, _ = index.find_many(_hashes(single))
        if not self._live and (counts > 1).any():
            self._report.problem(f"{int((counts > 1).sum())} certificates or link codes have several entries")


def _hashes(entries: np.ndarray) -> np.ndarray:
    packed = entries["hash"].tobytes()
    return np.frombuffer(packed, "<u8").astype(np.uint64).reshape(-1, 2)


def _found_times(index: IndexReader, persons: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """How many times each entry is in the index."""
    counts, matches = index.find_many(_hashes(entries))
    of_entry = np.repeat(np.arange(len(entries)), counts)
    same = matches["person"] == persons[of_entry]
    for name in ("gained", "lost", "aux"):
        same &= matches[name] == entries[name][of_entry]
    return np.bincount(of_entry[same], minlength=len(entries))
