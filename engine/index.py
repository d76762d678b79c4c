"""Owns the generations of the lookup table: build, publish, attach, look up, change in place, save and load.

A directory holds `CURRENT`, which names the segment in use, and the segments `index-<generation>.seg`
(docs/FORMATS.md). Invariants, with one writer (the holder of the store's lock) and any number of readers:
- A segment is complete before `CURRENT` names it; then the old one is marked RETIRED; then its file is unlinked.
  Readers look at that mark before every search and move on by themselves; what they had mapped stays readable.
- Within a change: new entries are in before the visible sequence number moves, old ones go after it. While a change
  is under way, `still()` is -1, so that a verdict from memory is not taken from half of it.
- `data_version` of the writer is the change up to which the table is whole: what recovery has to go on from.
- A writer holds the lock of its directory for its life, so that two stores with one directory cannot mix.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from engine import durable, shm
from engine.entries import ENTRY_BYTES, ENTRY_DTYPE
from engine.errors import IndexCorruptError, IndexSpaceError, KeyMismatchError, StartingError, StoreLockedError
from ext import probe

Match = tuple[int, int, int, int]
"""Person number, gained (u16), lost (u16), aux with the table's two bits cleared."""
Batch = tuple[NDArray[np.uint32], NDArray[np.void]]
"""Person numbers and, for each, one entry of ENTRY_DTYPE."""
Batches = Batch | Iterable[Batch]
"""One batch, or any number of them, for what is too large for memory."""

LOAD_MAX: Final = 0.70
"""Above it lines overflow too often; below it memory is wasted (22.9 bytes an entry here)."""
GROWTH: Final = 1.5
KEYS_MIN: Final = 64
CURRENT: Final = "CURRENT"
CLOSED: Final = "CLOSED"
NO_ENTRIES: Final[Batch] = (np.empty(0, np.uint32), np.empty(0, ENTRY_DTYPE))

_SEGMENT_NAME: Final = re.compile(r"index-([0-9a-f]{16})\.seg")
_RETIRED_OFFSET: Final = 128
_HISTORY: Final = slice(152, 160)
"""Where the header says which history of the store the table belongs to; only writers look at it."""
_SNAPSHOT = struct.Struct("<8sQQQQQ16s8s")
_SNAPSHOT_MAGIC: Final = b"SHIKSNP\x02"
_SNAPSHOT_MAGIC_1: Final = b"SHIKSNP\x01"
"""Has the counter of insurers' changes in place of the history."""
_DIGEST_BYTES: Final = 32
_CHUNK_BYTES: Final = 8 << 20
_SPOOL_ROWS: Final = 65_536
_SPOOL_HEAD = struct.Struct("<BI")
_ADDED, _REMOVED = 0, 1
_FOLLOW_TRIES: Final = 50
_FOLLOW_PAUSE_S: Final = 0.01
_LOCK_TRIES: Final = 5
_LOCK_PAUSE_S: Final = 0.02


def default_directory(store_id: bytes, data_dir: Path) -> Path:
    """Where the index of a store lives unless the settings say otherwise: memory, named after store and folder.

    A copy of a data folder has the store id of the original, and must not share its index.
    """
    folder = hashlib.blake2b(os.fsencode(os.path.realpath(data_dir)), digest_size=4).hexdigest()
    return Path("/dev/shm") / f"shikaku-{store_id.hex()[:12]}-{folder}"


def elsewhere(directory: Path, store_id: bytes) -> list[Path]:
    """Other directories in memory for the same store: of a copy, or left by a data folder that was moved or deleted."""
    found = Path("/dev/shm").glob(f"shikaku-{store_id.hex()[:12]}-*")
    return sorted(path for path in found if path != directory and path.is_dir())


class IndexReader:
    """Looks up entries in the current generation, and follows to the next by itself. Safe for several threads.

    `find(digest)`, `find_message(key, message)` and `find_card(key, insurer number, birth date, symbol key, number
    key)` are the compiled functions themselves: the matches of one key, by its 16-byte hash or with the hash computed
    on the way. Provisional entries are not seen. `still()`, too: the visible version if the table is whole at it; -1
    while a change is under way.

    Every match is whole. A search misses none of what a version asks for if `data_version` was that version before it
    and still is after it; if it moved, search again (docs/FORMATS.md, "Header").
    """

    __slots__ = (
        "_directory", "_identity", "_lock", "_segment", "_table", "find", "find_card", "find_message", "still",
    )  # fmt: skip

    find: Callable[[bytes], tuple[Match, ...]]
    find_card: Callable[[bytes, str, int, str, str], tuple[Match, ...]]
    find_message: Callable[[bytes, bytes], tuple[Match, ...]]
    still: Callable[[], int]

    def __init__(self, directory: Path, store_id: bytes, key_id: bytes) -> None:
        self._directory = directory
        self._identity = (store_id, key_id)
        self._lock = threading.Lock()
        self._attach()

    @classmethod
    def attach(cls, directory: Path, *, store_id: bytes, key_id: bytes) -> IndexReader:
        """Map the current generation, read-only.

        Raises: FileNotFoundError if there is none, IndexCorruptError, KeyMismatchError.
        """
        return cls(directory, store_id, key_id)

    @property
    def data_version(self) -> int:
        """The visible sequence number, as of now."""
        return self._table.visible_seq

    @property
    def insurers_version(self) -> int:
        """Moves when any insurer's record changed, as of now."""
        return self._table.insurers_version

    @property
    def generation(self) -> int:
        """Number of the generation in use."""
        return self.live().generation

    @property
    def count(self) -> int:
        """Entries in the table."""
        return self.live().count

    @property
    def huge_pages(self) -> bool:
        """Whether this mapping starts where huge pages can be used."""
        return shm.is_aligned(self._segment)

    def find_many(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
        """Look up many keys at once, without the GIL.

        Args: hashes: uint64, shape (n, 2), C-contiguous.
        Returns: the number of entries of each key, and all entries (probe.MATCH_DTYPE), key after key.
        """
        return _find_many(self.live(), hashes)

    def find_many_rows(
        self, key: bytes, rows: NDArray[np.uint8], lengths: NDArray[np.uint16]
    ) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
        """The same from messages: the first `lengths[i]` bytes of row i are hashed on the way."""
        table = self.live()
        return _gathered(
            len(rows),
            lambda start, counts, matches: table.find_many_rows(key, rows[start:], lengths[start:], counts, matches),
        )

    def refresh(self) -> bool:
        """Attach anew if CURRENT names another segment. Only needed where files were deleted by hand.

        Returns: whether a new one was attached.
        """
        with self._lock:
            if _current_name(self._directory) == self._segment.path.name:
                return False
            before = self._table
            self._attach()
            with suppress(BufferError):  # unless somebody is in it, who searches it directly looks for another
                before.release()
            return True

    def close(self) -> None:
        """Unmap. Raises BufferError while another thread searches."""
        self._table.release()
        self._segment.close()

    def live(self) -> probe.Table:
        """The table of the generation in force, for compiled code that searches it directly. Keep it no longer."""
        return self._follow() if self._table.retired else self._table

    def _follow(self) -> probe.Table:
        """Move on to the generation that took over."""
        with self._lock:
            for _ in range(_FOLLOW_TRIES):
                if not self._table.retired:
                    return self._table
                try:
                    self._attach()
                except FileNotFoundError:
                    time.sleep(_FOLLOW_PAUSE_S)
        raise StartingError("the index is being replaced", retry_after_ms=1000)

    def _attach(self) -> None:
        store_id, key_id = self._identity
        segment, table = _open_current(self._directory, store_id, key_id, follow=self._follow)
        # Searches that other threads began in the old table end there; it is unmapped when the last one has ended.
        self._segment, self._table = segment, table
        if table.form == probe.FORM_ATOMIC16:
            self.find, self.find_card, self.find_message = table.find, table.find_card, table.find_message
        else:
            self.find = _patient(table.find)
            self.find_card = _patient(table.find_card)
            self.find_message = _patient(table.find_message)
        self.still = table.still


class IndexWriter:
    """Changes the table; one in one process at a time. Sees provisional entries too."""

    __slots__ = (
        "_directory", "_identity", "_lock", "_segment", "_spool", "_spool_dir", "_spooled", "_table", "is_tidy",
    )  # fmt: skip

    def __init__(
        self, directory: Path, lock: _Lock, segment: shm.Segment, table: probe.Table, spool_dir: Path | None
    ) -> None:
        self._directory = directory
        self._lock = lock
        self._spool_dir = spool_dir or directory
        self._identity = (table.store_id, table.key_id)
        self._segment = segment
        self._table = table
        self._spool: BinaryIO | None = None
        self._spooled = 0
        closed = directory / CLOSED
        self.is_tidy = closed.is_file() and closed.read_bytes() == segment.path.name.encode()
        """Whether its last writer closed it, so that no provisional entry is left and the count is right."""
        closed.unlink(missing_ok=True)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        store_id: bytes,
        key_id: bytes,
        keys: int,
        form: int | None = None,
        spool_dir: Path | None = None,
        publish: bool = True,
    ) -> IndexWriter:
        """Publish a new, empty generation with room for so many entries, in place of whatever is there.

        Args:
            publish: False if `rebuild` is to fill the first generation that readers see; they keep what they have.
            form: probe.FORM_ATOMIC16 or FORM_VERSIONED; None: the best that this processor can do.
            spool_dir: where provisional entries are written down; None: the index's own directory.
        Raises: IndexSpaceError, StoreLockedError if another writer has this directory.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(directory) as lock:
            segment, table = _new_generation(directory, (store_id, key_id), _lines_for(keys), form)
            segment.collapse()
            table.insurers_version = _new_insurers_version()
            if publish:
                _publish_generation(directory, segment, table)
            return cls(directory, lock, segment, table, spool_dir)

    @classmethod
    def attach(cls, directory: Path, *, store_id: bytes, key_id: bytes, spool_dir: Path | None = None) -> IndexWriter:
        """Take over the current generation, and tidy up after a writer that was killed.

        Provisional entries are still there (`drop_provisional`), and `data_version` says what must be applied again.
        Raises: FileNotFoundError if there is none, IndexCorruptError, KeyMismatchError, StoreLockedError.
        """
        with _locked(directory) as lock:
            segment, table = _open_current(directory, store_id, key_id, writable=True)
            table.repair()
            _remove_other_segments(directory, segment.path.name)
            return cls(directory, lock, segment, table, spool_dir)

    @property
    def data_version(self) -> int:
        """The change up to which the table is whole; recovery applies what comes after it again.

        Readers see a later one only if a publication was cut short.
        """
        return self._table.applied_seq

    @property
    def visible_version(self) -> int:
        """The sequence number that readers see."""
        return self._table.visible_seq

    @property
    def insurers_version(self) -> int:
        """Moves when any insurer's record changed."""
        return self._table.insurers_version

    @property
    def count(self) -> int:
        """Entries, the provisional ones included."""
        return self._table.count

    @property
    def history(self) -> int:
        """The history of the store that this table was made of or last changed in; 0 until it is said."""
        return int.from_bytes(self._segment.buffer[_HISTORY], "little")

    @history.setter
    def history(self, value: int) -> None:
        self._segment.buffer[_HISTORY] = value.to_bytes(8, "little")

    @property
    def provisional_count(self) -> int:
        """Entries that only the writer sees."""
        return self._table.provisional_count

    @property
    def lines(self) -> int:
        """Lines of four slots."""
        return self._table.lines

    @property
    def generation(self) -> int:
        """Number of the generation in use."""
        return self._table.generation

    @property
    def huge_pages(self) -> bool:
        """Whether huge pages were got when this generation was built by this writer."""
        return self._segment.huge_pages

    @property
    def segment_bytes(self) -> int:
        """Size of the mapped file."""
        return self._segment.size_bytes

    def find(self, digest: bytes) -> tuple[Match, ...]:
        """The matches of one key, provisional ones included."""
        return self._table.find(digest)

    def find_many(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
        """As IndexReader.find_many, provisional entries included."""
        return _find_many(self._table, hashes)

    def add_provisional(self, persons: NDArray[np.uint32], entries: NDArray[np.void]) -> None:
        """Add entries that only the writer sees; those that are there already stay as they are.

        Raises: IndexSpaceError if the table is full (see `reserve`), probe.CrowdedError.
        """
        persons, entries = _checked(persons, entries)
        self._remember(_ADDED, persons, entries)
        _insert(self._table, persons, entries, provisional=True)

    def drop_provisional(self) -> int:
        """Remove what was added provisionally, and count the entries anew. Returns: how many were removed."""
        self._forget()
        return self._table.sweep()

    def publish(self, seq: int, *, added: Batches, removed: Batches, insurers_changed: bool) -> None:
        """Make one change visible to all readers. Returns when every reader sees it and nothing else.

        Args:
            seq: sequence number of the change, committed in the store already.
            added: entries that hold from now on; provisional ones become plain. Existing ones stay.
            removed: entries that hold no more; absent ones do not matter. An entry in both is removed.
        Publishing the same again changes nothing. A change too large for one call is published in parts under the
        `data_version` so far, and the last part under its own number; the table is not settled in between.
        Raises: IndexSpaceError, probe.CrowdedError; the table is then not settled until a later change ends.
        """
        table = self._table
        before, was_settled, provisional = table.applied_seq, table.settled_seq != -1, table.provisional_count
        changes = 0
        for persons, entries in _batches(added):
            table.unsettle()
            changes += _insert(table, persons, entries)
        if table.provisional_count == 0:
            # Nothing is left that a new generation would have to be given, so a full disk cannot hold up the rest.
            self._forget()
        if insurers_changed:
            table.insurers_version += 1
        # Readers see the change from here on.
        table.visible_seq = max(seq, table.visible_seq)
        for persons, entries in _batches(removed):
            table.unsettle()
            if self._spool is not None:
                self._remember(_REMOVED, persons, entries)
            changes += table.remove_many(persons, entries)
        unchanged = changes == 0 and table.provisional_count == provisional
        if seq > before or (was_settled and unchanged):
            table.applied_seq = max(seq, before)

    def reserve(self, extra_keys: int, entries: Callable[[], Iterable[Batch]]) -> bool:
        """Make room for so many more entries, in a new generation if the load would pass LOAD_MAX.

        Args: entries: yields all plain entries (as of `data_version`) from the store; called only if needed. What
            was added provisionally since is kept in any case.
        Returns: whether a new generation was published. Raises: IndexSpaceError (the old one stays in use).
        """
        wanted = self.count + extra_keys
        if wanted <= self.lines * probe.SLOTS_PER_LINE * LOAD_MAX:
            return False
        self._replace_generation(entries, max(wanted, int(self.count * GROWTH)), self.data_version)
        return True

    def rebuild(
        self, entries: Callable[[], Iterable[Batch]] | Iterable[Batch], *, seq: int, keys: int | None = None
    ) -> None:
        """Build a whole new generation beside the old one, and publish it.

        Args:
            entries: all entries as of `seq`, or a function that yields them (and may be called again).
            keys: room to make; if it turns out too little, `entries` must be a function.
        What was provisional is dropped. Raises: IndexSpaceError (the old generation stays in use).
        """
        self._forget()
        source = entries if callable(entries) else _once(entries)
        self._replace_generation(source, max(keys or 0, KEYS_MIN), seq, whole=True)
        self.is_tidy = True

    def contains(self, persons: NDArray[np.uint32], entries: NDArray[np.void]) -> NDArray[np.bool_]:
        """Which of these entries a search reaches, for fsck."""
        persons, entries = _checked(persons, entries)
        missing = np.zeros(len(persons), np.uint8)
        self._table.contains_many(persons, entries, missing)
        return np.equal(missing, 0)

    def check(self) -> list[str]:
        """Look for damage: one sentence for each problem. Compare `contains` and `count` with the store besides."""
        found = self._table.scan()
        problems = []
        if found["entries"] != self.count:
            problems.append(f"the index counts {self.count} entries and holds {found['entries']}")
        if found["provisional"]:
            problems.append(f"the index holds {found['provisional']} provisional entries")
        if found["torn_stripes"]:
            problems.append(f"the index has {found['torn_stripes']} stripes locked by a change that never ended")
        if self._table.retired:
            problems.append("the index in use is marked as retired")
        if self._table.settled_seq != self._table.visible_seq:
            problems.append("the index holds a change that was not applied to its end")
        if found["entries"] > self.lines * probe.SLOTS_PER_LINE * (1 + LOAD_MAX) / 2:
            problems.append("the index is loaded far beyond its bound")
        return problems

    def save(self, path: Path) -> None:
        """Write a snapshot with a checksum, in bounded memory; durable on return. Raises StoreFullError."""
        durable.write_atomic(path, self._write_snapshot, mode=0o600)

    @classmethod
    def load(
        cls,
        directory: Path,
        path: Path,
        *,
        store_id: bytes,
        key_id: bytes,
        form: int | None = None,
        spool_dir: Path | None = None,
        publish: bool = True,
    ) -> IndexWriter:
        """Publish a new generation from a snapshot.

        Args: publish: False if it must be brought up to date before readers see it (`announce`).

        Raises: FileNotFoundError, IndexCorruptError if the file is not whole or another store's, KeyMismatchError,
            IndexSpaceError, StoreLockedError. Nothing is published then.
        """
        with path.open("rb") as file:
            head = file.read(_SNAPSHOT.size)
            lines = _checked_snapshot(head, path, store_id, key_id)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(directory) as lock:
                segment, table = _new_generation(directory, (store_id, key_id), lines, form)
                try:
                    segment.collapse()
                    _read_slots(file, head, segment, lines)
                except BaseException:
                    _discard(segment, table)
                    raise
                magic, _, visible, applied, history, *_ = _SNAPSHOT.unpack(head)
                history = 0 if magic == _SNAPSHOT_MAGIC_1 else history
                segment.buffer[_HISTORY] = history.to_bytes(8, "little")
                table.visible_seq, table.insurers_version = visible, _new_insurers_version()
                table.applied_seq = applied
                table.sweep()
                if publish:
                    _publish_generation(directory, segment, table)
                return cls(directory, lock, segment, table, spool_dir)

    def announce(self) -> None:
        """Let readers see the generation in use here, if they do not yet."""
        name = self._segment.path.name.encode() + b"\n"
        with suppress(FileNotFoundError):
            if (self._directory / CURRENT).read_bytes() == name:
                return
        _publish_generation(self._directory, self._segment, None)

    def close(self) -> None:
        """Unmap; the table stays for the readers and the next writer."""
        self._forget()
        with suppress(OSError, probe.TableError):
            if self._directory.is_dir() and not self._table.provisional_count:
                (self._directory / CLOSED).write_bytes(self._segment.path.name.encode())
        self._table.release()
        self._segment.close()
        self._lock.release()

    def __del__(self) -> None:
        self._forget()

    def _replace_generation(
        self, entries: Callable[[], Iterable[Batch]], keys: int, seq: int, *, whole: bool = False
    ) -> None:
        old = self._table
        segment, table = self._build(entries, keys)
        table.insurers_version = old.insurers_version
        segment.buffer[_HISTORY] = self._segment.buffer[_HISTORY]
        table.visible_seq = max(seq, old.visible_seq)
        table.applied_seq = seq
        # What was built from everything does not go on with a change that was under way in the old one.
        if (old.settled_seq == -1 and not whole) or table.visible_seq != seq:
            table.unsettle()
        _publish_generation(self._directory, segment, table)
        old.retire()
        self._table, self._segment = table, segment

    def _build(self, entries: Callable[[], Iterable[Batch]], keys: int) -> tuple[shm.Segment, probe.Table]:
        """A filled generation that nobody knows yet; a larger one if it turns out that there are more entries."""
        while True:
            segment, table = _new_generation(self._directory, self._identity, _lines_for(keys), self._table.form)
            limit = table.lines * probe.SLOTS_PER_LINE * LOAD_MAX
            try:
                segment.collapse()
                # What is provisional comes first: it becomes plain where the store has it as such.
                for remembered, persons, batch in self._remembered():
                    if remembered == _REMOVED:
                        table.remove_many(persons, batch)
                        continue
                    if table.count + len(persons) > limit:
                        break
                    _insert(table, persons, batch, provisional=True)
                else:
                    for persons, batch in entries():
                        persons, batch = _checked(persons, batch)
                        if table.count + len(persons) > limit:
                            break
                        _insert(table, persons, batch)
                    else:
                        return segment, table
            except BaseException:
                _discard(segment, table)
                raise
            _discard(segment, table)
            keys = int(keys * GROWTH) + self._spooled + len(persons)

    # Entries cannot be moved from one table to another (a slot has not the whole hash), and the store does not list
    # provisional ones as current; so they are kept in a file of their own until they are plain, together with what
    # was removed since: it must not come back as provisional.

    def _remember(self, operation: int, persons: NDArray[np.uint32], entries: NDArray[np.void]) -> None:
        with durable.explained("writing down provisional entries"):
            if self._spool is None:
                self._spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._spool = tempfile.TemporaryFile(dir=self._spool_dir)
            self._spool.seek(0, os.SEEK_END)
            for start in range(0, len(persons), _SPOOL_ROWS):
                part = slice(start, start + _SPOOL_ROWS)
                head = _SPOOL_HEAD.pack(operation, len(persons[part]))
                self._spool.write(head + persons[part].tobytes() + entries[part].tobytes())
            self._spool.flush()
        self._spooled += len(persons)

    def _remembered(self) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.void]]]:
        if self._spool is None:
            return
        with durable.explained("writing down provisional entries"):
            self._spool.seek(0)
            while head := self._spool.read(_SPOOL_HEAD.size):
                operation, rows = _SPOOL_HEAD.unpack(head)
                persons = np.frombuffer(self._spool.read(4 * rows), np.uint32)
                yield operation, persons, np.frombuffer(self._spool.read(ENTRY_BYTES * rows), ENTRY_DTYPE)

    def _forget(self) -> None:
        if self._spool is not None:
            with suppress(OSError):  # what could not be written is thrown away here
                self._spool.close()
        self._spool, self._spooled = None, 0

    def _write_snapshot(self, file: BinaryIO) -> None:
        table = self._table
        head = _SNAPSHOT.pack(
            _SNAPSHOT_MAGIC, table.lines, table.visible_seq, table.applied_seq, self.history, table.count,
            table.store_id, table.key_id,
        )  # fmt: skip
        digest = hashlib.blake2b(head, digest_size=_DIGEST_BYTES)
        file.write(head)
        end = probe.HEADER_BYTES + table.lines * probe.LINE_BYTES
        with memoryview(self._segment.buffer) as view:
            for start in range(probe.HEADER_BYTES, end, _CHUNK_BYTES):
                with view[start : min(start + _CHUNK_BYTES, end)] as chunk:
                    digest.update(chunk)
                    file.write(chunk)
        file.write(digest.digest())


def _new_insurers_version() -> int:
    """Where the counter of an index begins: at a number that no reader has met with another index."""
    return secrets.randbits(63)


# --- the writer's lock --------------------------------------------------------------------------------------------


class _Lock:
    """An exclusive lock on a directory. The system takes it back when the process ends, however it ends."""

    __slots__ = ("_descriptor",)

    def __init__(self, directory: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for remaining in reversed(range(_LOCK_TRIES)):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if remaining:
                    time.sleep(_LOCK_PAUSE_S)
        self.release()
        raise StoreLockedError(f"another writer uses the index in {directory}")

    def release(self) -> None:
        """Let go; may be repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


@contextmanager
def _locked(directory: Path) -> Iterator[_Lock]:
    """The writer's lock of a directory; released if the block fails. Raises StoreLockedError, FileNotFoundError."""
    lock = _Lock(directory)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


# --- generations --------------------------------------------------------------------------------------------------


def _lines_for(keys: int) -> int:
    # Odd, so that the steps of 1, 2, 4 and 8 lines by which keys leave a full line reach every line.
    return -(-max(keys, KEYS_MIN) * 1000 // int(probe.SLOTS_PER_LINE * LOAD_MAX * 1000)) | 1


def _generation_of(name: str) -> int | None:
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1], 16) if match else None


def _segments(directory: Path) -> dict[str, int]:
    found = {path.name: _generation_of(path.name) for path in directory.iterdir()}
    return {name: generation for name, generation in found.items() if generation is not None}


def _new_generation(
    directory: Path, identity: tuple[bytes, bytes], lines: int, form: int | None
) -> tuple[shm.Segment, probe.Table]:
    """An empty table under the next free number, which readers do not know yet."""
    generation = max(_segments(directory).values(), default=0) + 1
    try:
        current = _current_name(directory)
        generation = max(generation, (_generation_of(current) or 0) + 1)
    except (FileNotFoundError, IndexCorruptError):
        # Nothing readable is in use, so there is no number to stay clear of.
        pass
    if form is None:
        form = probe.FORM_ATOMIC16 if probe.atomic16_supported() else probe.FORM_VERSIONED
    segment = shm.create(directory / f"index-{generation:016x}.seg", probe.segment_bytes(lines))
    store_id, key_id = identity
    probe.format(segment.buffer, form=form, lines=lines, generation=generation, store_id=store_id, key_id=key_id)
    return segment, probe.Table(segment.buffer, writable=True, provisional=True)


def _publish_generation(directory: Path, segment: shm.Segment, table: probe.Table | None) -> None:
    """Name a generation as the current one. If that fails it is thrown away, with its table, so that none pile up."""
    name = segment.path.name
    try:
        durable.write_atomic(directory / CURRENT, name.encode() + b"\n", mode=0o600)
    except BaseException:
        if not _is_current(directory, name):
            if table is not None:
                _discard(segment, table)
            raise
        # It is named; that this may not outlast a power cut is no loss, because the segment does not either.
    # New readers attach to it from here on; those of older ones are told. What cannot be cleared away now, will be.
    with suppress(OSError):
        _remove_other_segments(directory, name)


def _is_current(directory: Path, name: str) -> bool:
    with suppress(FileNotFoundError, IndexCorruptError):
        return _current_name(directory) == name
    return False


def _remove_other_segments(directory: Path, current: str) -> None:
    """Retire and unlink every other generation: older ones, and those that were never published."""
    durable.remove_leftovers(directory)
    for name in _segments(directory):
        if name != current:
            _retire_file(directory / name)
            (directory / name).unlink(missing_ok=True)


def _retire_file(path: Path) -> None:
    """Set the mark even in a segment that is damaged otherwise: its readers must go."""
    if path.stat().st_size < probe.HEADER_BYTES:
        return
    segment = shm.open_(path, writable=True)
    segment.buffer[_RETIRED_OFFSET : _RETIRED_OFFSET + 8] = (1).to_bytes(8, "little")
    segment.close()


def _discard(segment: shm.Segment, table: probe.Table) -> None:
    table.release()
    segment.close()
    segment.path.unlink(missing_ok=True)


def _current_name(directory: Path) -> str:
    """The file that CURRENT names. Raises FileNotFoundError, IndexCorruptError."""
    with (directory / CURRENT).open("rb") as file:
        name = file.read(64).decode("ascii", "replace").strip()
    if _generation_of(name) is None:
        raise IndexCorruptError("CURRENT of the index does not name a segment")
    return name


def _open_current(
    directory: Path,
    store_id: bytes,
    key_id: bytes,
    *,
    writable: bool = False,
    follow: Callable[[], probe.Table] | None = None,
) -> tuple[shm.Segment, probe.Table]:
    name = _current_name(directory)
    while True:
        try:
            segment = shm.open_(directory / name, writable=writable)
            break
        except FileNotFoundError:
            # The writer may have published another one after CURRENT was read.
            previous, name = name, _current_name(directory)
            if name == previous:
                raise
        except ValueError:
            raise IndexCorruptError("the index segment is empty") from None
    try:
        table = probe.Table(segment.buffer, writable=writable, provisional=writable, follow=follow)
    except probe.TableError as error:
        segment.close()
        raise IndexCorruptError(f"the index cannot be used: {error}") from None
    problem = _identity_problem(table.store_id, table.key_id, store_id, key_id)
    if table.generation != _generation_of(name):
        problem = IndexCorruptError("the index segment has another generation than its name")
    if problem is not None:
        table.release()
        segment.close()
        raise problem
    return segment, table


def _identity_problem(
    store_id: bytes, key_id: bytes, wanted_store_id: bytes, wanted_key_id: bytes
) -> IndexCorruptError | KeyMismatchError | None:
    if store_id != wanted_store_id:
        return IndexCorruptError("the index belongs to another store")
    if key_id != wanted_key_id:
        return KeyMismatchError("the index was made with another master key")
    return None


def _patient(find: Callable[..., tuple[Match, ...]]) -> Callable[..., tuple[Match, ...]]:
    """Say in the engine's terms that a killed writer left a line locked; only form VERSIONED knows that."""

    def find_or_push_back(*arguments: Any) -> tuple[Match, ...]:
        try:
            return find(*arguments)
        except probe.BusyError:
            raise StartingError("the index waits for its writer to start again", retry_after_ms=1000) from None

    return find_or_push_back


# --- entries ------------------------------------------------------------------------------------------------------


def _checked(persons: Any, entries: Any) -> Batch:
    if entries.dtype != ENTRY_DTYPE:
        raise ValueError("entries must have ENTRY_DTYPE")
    if len(persons) != len(entries):
        raise ValueError("there must be one person number for each entry")
    return np.ascontiguousarray(persons, np.uint32), np.ascontiguousarray(entries)


def _batches(batches: Batches) -> Iterator[Batch]:
    for persons, entries in [batches] if isinstance(batches, tuple) else batches:
        if len(persons):
            yield _checked(persons, entries)


def _once(batches: Iterable[Batch]) -> Callable[[], Iterable[Batch]]:
    given = False

    def entries() -> Iterable[Batch]:
        nonlocal given
        if given:
            raise IndexSpaceError("there are more entries than was said: say more, or give a function")
        given = True
        return batches

    return entries


def _insert(
    table: probe.Table, persons: NDArray[np.uint32], entries: NDArray[np.void], provisional: bool = False
) -> int:
    try:
        return table.insert_many(persons, entries, provisional)
    except probe.TableFullError:
        raise IndexSpaceError("the index is full: room must be reserved first") from None


def _find_many(table: probe.Table, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
    return _gathered(len(hashes), lambda start, counts, matches: table.find_many(hashes[start:], counts, matches))


def _gathered(
    n: int, look: Callable[[int, NDArray[np.uint8], NDArray[np.void]], tuple[int, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
    """Collect the answers of a lookup that may need more room than one match a key."""
    counts = np.zeros(n, np.uint8)
    parts: list[NDArray[np.void]] = []
    start = 0
    while start < n or not parts:
        matches = np.empty((n - start) + probe.MATCHES_MAX, probe.MATCH_DTYPE)
        done, used = look(start, counts[start:], matches)
        parts.append(matches[:used])
        start += done
    return counts, parts[0] if len(parts) == 1 else np.concatenate(parts)


# --- snapshots ----------------------------------------------------------------------------------------------------


def saved_state(path: Path, *, store_id: bytes, key_id: bytes) -> tuple[int, int] | None:
    """History and change of the snapshot at `path`, by its head and size; None if it could not be loaded whole.

    Nothing is read but the head: whoever loads it checks the rest.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_SNAPSHOT.size)
        _checked_snapshot(head, path, store_id, key_id)
    except (FileNotFoundError, IndexCorruptError, KeyMismatchError):
        return None
    magic, _, visible, applied, history, *_ = _SNAPSHOT.unpack(head)
    return (history, visible) if magic == _SNAPSHOT_MAGIC and applied == visible else None


def _checked_snapshot(head: bytes, path: Path, store_id: bytes, key_id: bytes) -> int:
    """Lines of the table in a snapshot whose head fits the file and the store."""
    if len(head) != _SNAPSHOT.size or head[:8] not in (_SNAPSHOT_MAGIC, _SNAPSHOT_MAGIC_1):
        raise IndexCorruptError("the file is not a snapshot of an index")
    lines: int = _SNAPSHOT.unpack(head)[1]
    if path.stat().st_size != _SNAPSHOT.size + lines * probe.LINE_BYTES + _DIGEST_BYTES or not lines:
        raise IndexCorruptError("the snapshot of the index has the wrong length")
    *_, found_store_id, found_key_id = _SNAPSHOT.unpack(head)
    problem = _identity_problem(found_store_id, found_key_id, store_id, key_id)
    if problem is not None:
        raise problem
    return lines


def _read_slots(file: BinaryIO, head: bytes, segment: shm.Segment, lines: int) -> None:
    digest = hashlib.blake2b(head, digest_size=_DIGEST_BYTES)
    position, end = probe.HEADER_BYTES, probe.HEADER_BYTES + lines * probe.LINE_BYTES
    while position < end:
        chunk = file.read(min(_CHUNK_BYTES, end - position))
        if not chunk:
            break
        digest.update(chunk)
        segment.buffer[position : position + len(chunk)] = chunk
        position += len(chunk)
    if file.read(_DIGEST_BYTES) != digest.digest():
        raise IndexCorruptError("the snapshot of the index fails its checksum")
