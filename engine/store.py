"""Owns the LMDB environment: its databases, the single writer, record bytes, history and schema version.

Invariants: nothing is overwritten but `meta` and `insurers`; a version with a number above `committed seq` belongs to
a feed that did not finish and is nobody's truth; there is one writer (an flock beside the environment). Never opened
with a writable map: a full disk would then kill the process. Byte layouts are drawn in docs/FORMATS.md.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
import msgspec
import numpy as np

from engine import durable, shm
from engine.entries import ENTRY_BYTES, ENTRY_DTYPE
from engine.errors import (
    KeyMismatchError,
    RecordCorruptError,
    ShikakuError,
    StoreFullError,
    StoreLockedError,
    StoreMissingError,
    StorePoisonedError,
    StoreVersionError,
)
from engine.records import Insurer, Person
from ext import pages

SCHEMA_VERSION: Final = 1
RECORD_VERSION: Final = 1
READERS_MAX: Final = 512
"""Reader slots: each worker process takes one, so this is twice the most workers that can be configured."""
ROLLBACK_CHUNK: Final = 10_000
"""Versions deleted in one transaction of a rollback."""
SCAN_VERSIONS: Final = 16_384
"""Versions whose entries are handed over at a time when everything is read for a rebuild."""
OPERATOR_SCOPE: Final = "operator"
"""The scope of feeds that are not one insurer's; eight characters, like an insurer number."""

HISTORIES_KEPT: Final = 64
"""Openings by a writer that are remembered: an index saved longer ago is built anew."""

_LMDB_FORMAT = 0  # the 0.9 file format
_DATABASES = ("meta", "versions", "changes", "insurers", "feeds", "feed_digests", "feed_numbers")
_LOCK_FILE_BYTES = 4096
"""What is looked at of LMDB's lock file, which is longer."""
_LOCK_TRIES = 5
_LOCK_PAUSE_SECONDS = 0.02
_MASK = 2**64 - 1
_VERSION_KEY = struct.Struct(">IQ")
_SEQ = struct.Struct(">Q")
_NUMBER = struct.Struct(">I")
_HISTORY = struct.Struct(">QQ")
_RECORD_HEAD = struct.Struct("<BBHQ")
_RECORD_TAIL = struct.Struct("<I")
_CHANGE_ROW = np.dtype([("seq", ">u8"), ("number", ">u4")])
_KEY_ROW = np.dtype([("number", ">u4"), ("inverted", ">u8")])
HEAD_BYTES: Final = _RECORD_HEAD.size
"""How many bytes of a record come before its entries."""
_TAIL_BYTES = _RECORD_TAIL.size
_CRC_RESIDUE = 0x2144DF1C

_decode_person = msgspec.msgpack.Decoder(Person).decode
_decode_insurer = msgspec.msgpack.Decoder(Insurer).decode


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """One feed or delta call as it was applied; a row of database `feeds`."""

    feed: int
    scope: str
    """Insurer number, or OPERATOR_SCOPE."""
    digest: bytes
    """SHA-256 of the content."""
    feed_number: int | None
    as_of: int
    rows: int
    new: int
    changed: int
    lost: int
    cancelled: int
    first_seq: int
    last_seq: int
    """first_seq - 1 for a feed without rows."""
    received_at_ms: int
    state: str = "applied"


_decode_feed = msgspec.msgpack.Decoder(Feed).decode
_encode = msgspec.msgpack.Encoder().encode


class Version(NamedTuple):
    """One stored version of one person."""

    number: int
    seq: int
    recorded_at_ms: int
    entries: bytes
    person: Person


# --- record bytes -------------------------------------------------------------------------------------------


def version_key(number: int, seq: int) -> bytes:
    """Key in `versions`: the person's versions lie together, the newest first."""
    return _VERSION_KEY.pack(number, _MASK - seq)


def version_keys(numbers: np.ndarray, seqs: np.ndarray) -> list[bytes]:
    """Keys of many people's versions. Args: seqs: u64."""
    rows = np.empty(len(numbers), _KEY_ROW)
    rows["number"] = numbers
    rows["inverted"] = np.uint64(_MASK) - seqs
    return [key for (key,) in struct.iter_unpack("12s", rows.tobytes())]


def split_key(key: bytes) -> tuple[int, int]:
    """Person number and sequence number of a key in `versions`."""
    number, inverted = _VERSION_KEY.unpack(key)
    return number, _MASK - inverted


encode_person: Final[Callable[[Person], bytes]] = msgspec.msgpack.Encoder().encode
"""The MessagePack part of a record."""


def record_head(entry_count: int, recorded_at_ms: int) -> bytes:
    """How a record with so many entries begins."""
    return _RECORD_HEAD.pack(RECORD_VERSION, entry_count, 0, recorded_at_ms)


def pack_record(key: bytes, recorded_at_ms: int, entries: bytes, person: bytes) -> bytes:
    """One record: head, packed entries, the person's MessagePack, CRC-32 over key and record."""
    body = record_head(len(entries) // ENTRY_BYTES, recorded_at_ms) + entries + person
    return body + _RECORD_TAIL.pack(zlib.crc32(body, zlib.crc32(key)))


def _check_record(key: bytes, value: bytes) -> int:
    """Check a record's checksum and version. Returns where its MessagePack starts."""
    # The CRC-32 of anything followed by its own CRC-32 is always this residue: nothing has to be cut off first.
    if zlib.crc32(value, zlib.crc32(key)) != _CRC_RESIDUE:
        raise RecordCorruptError("a record fails its checksum")
    if len(value) < HEAD_BYTES + _TAIL_BYTES:
        raise RecordCorruptError("a record is too short")
    start = HEAD_BYTES + ENTRY_BYTES * value[1]
    if value[0] != RECORD_VERSION or start > len(value) - _TAIL_BYTES:
        raise RecordCorruptError("a record has an unknown layout")
    return start


def _person_of(key: bytes, value: bytes) -> Person:
    start = _check_record(key, value)
    try:
        return _decode_person(memoryview(value)[start:-_TAIL_BYTES])
    except msgspec.MsgspecError:
        raise RecordCorruptError("a record does not decode") from None


def unpack_record(key: bytes, value: bytes) -> Version:
    """Everything that one record holds. Raises RecordCorruptError."""
    person = _person_of(key, value)
    number, inverted = _VERSION_KEY.unpack(key)
    _, count, _, recorded_at_ms = _RECORD_HEAD.unpack_from(value)
    entries = bytes(value[HEAD_BYTES : HEAD_BYTES + ENTRY_BYTES * count])
    return Version(number, _MASK - inverted, recorded_at_ms, entries, person)


class Tree(NamedTuple):
    """The pages of `versions` as one commit left them."""

    file: Path
    page_bytes: int
    root: int
    levels: int
    """Of pages; 0: there is no version."""
    versions: int


# --- environment ----------------------------------------------------------------------------------------------


class _Environment:
    """One open LMDB environment; shared by all readers of one process, because LMDB may be opened only once in each."""

    def __init__(self, path: Path, map_bytes: int, *, writable: bool, create: bool = False) -> None:
        self.writable = writable
        self.holders = 0
        self.env = lmdb.open(
            os.fspath(path),
            map_size=map_bytes,
            subdir=True,
            readonly=not writable,
            create=create,
            readahead=False,  # lookups are random: reading ahead would evict what is needed
            writemap=False,
            max_readers=READERS_MAX,
            max_dbs=len(_DATABASES) + 1,
            max_spare_txns=4,  # a read transaction is renewed, not built anew
            lock=True,
            lib_version=_LMDB_FORMAT,
        )
        try:
            self.dbs: dict[str, Any] = {name: self.env.open_db(name.encode(), create=create) for name in _DATABASES}
            # Opened behind the environment and closed behind it: see shm.Window about locks.
            self.files = shm.Window(path / "data.mdb", map_bytes), shm.Window(path / "lock.mdb", _LOCK_FILE_BYTES)
        except BaseException:
            self.env.close()
            raise

    def close(self) -> None:
        """Let go of environment and files."""
        self.env.close()
        for file in self.files:
            file.close()


_open: dict[str, _Environment] = {}


def _acquire(path: Path, map_bytes: int, *, writable: bool) -> _Environment:
    if not (path / "data.mdb").is_file():
        raise StoreMissingError(f"no store at {path}: run `shikaku init`")
    name = os.path.realpath(path)
    shared = _open.get(name)
    if shared is None:
        try:
            shared = _open[name] = _Environment(path, map_bytes, writable=writable)
        except lmdb.NotFoundError:
            raise StoreMissingError(f"the store at {path} was never finished: run `shikaku init`") from None
        except (lmdb.InvalidError, lmdb.VersionMismatchError):
            raise StoreVersionError("the store is not in the LMDB format of this version") from None
        except lmdb.Error as error:
            raise _store_error(error) from error
    elif writable and not shared.writable:
        raise StoreLockedError("this process reads the store already; open the writer before the readers")
    shared.holders += 1
    return shared


def _release(path: Path, shared: _Environment) -> None:
    shared.holders -= 1
    if shared.holders == 0:
        _open.pop(os.path.realpath(path), None)
        shared.close()


def _store_error(error: Exception) -> ShikakuError:
    """What an LMDB error means to us."""
    code = getattr(error, "code", None)
    if isinstance(error, lmdb.MapFullError | lmdb.DiskError | lmdb.TxnFullError) or durable.is_full(code):
        return StoreFullError("the store has no room left (disk, quota or map_bytes); nothing was applied")
    if isinstance(error, lmdb.ReadersFullError):
        return StoreFullError("all reader slots of the store are taken")
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        return RecordCorruptError("the store's pages are damaged")
    return StorePoisonedError(f"the store failed: {type(error).__name__}")


def exists(path: Path) -> bool:
    """Whether there is a store at `path`."""
    return (path / "data.mdb").is_file()


def create(path: Path, *, key_id: bytes, map_bytes: int, now_ms: int = 0) -> bytes:
    """Make an empty store. Durable on return. Returns its id. Raises FileExistsError, StoreFullError.

    A creation that was killed half-way may be repeated.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    store_id = secrets.token_bytes(16)
    try:
        shared = _Environment(path, map_bytes, writable=True, create=True)
        try:
            with shared.env.begin(write=True, db=shared.dbs["meta"]) as txn:
                if txn.get(b"schema") is not None:
                    raise FileExistsError(f"there is a store at {path} already")
                txn.put(b"schema", _NUMBER.pack(SCHEMA_VERSION))
                txn.put(b"store_id", store_id)
                txn.put(b"key_id", key_id)
                txn.put(b"created", _SEQ.pack(now_ms))
                txn.put(b"committed_seq", _SEQ.pack(0))
                txn.put(b"next_person", _NUMBER.pack(1))
                txn.put(b"next_feed", _SEQ.pack(1))
                txn.put(b"histories", b"")
        finally:
            shared.env.close()
    except lmdb.Error as error:
        raise _store_error(error) from error
    durable.fsync_directory(path)
    durable.fsync_directory(path.parent)
    return store_id


# --- reading --------------------------------------------------------------------------------------------------


class StoreReader:
    """Reads the store in any process, without locks; every call sees the latest commit.

    Raises on opening: StoreMissingError, StoreVersionError, KeyMismatchError. No read transaction stays open between
    calls, so readers never keep the writer from reusing pages.
    """

    _writable = False

    def __init__(self, path: Path, *, key_id: bytes, map_bytes: int) -> None:
        self.path, self.key_id, self.map_bytes = path, key_id, map_bytes
        self._shared = _acquire(path, map_bytes, writable=self._writable)
        self._env = self._shared.env
        self._dbs = self._shared.dbs
        self._versions = self._dbs["versions"]
        self._closed = False
        try:
            self.store_id, self.created_ms = self._verify(key_id)
            self._touching: list[pages.Pages] = []
            data, lock = self.files = [file.buffer for file in self._shared.files]
            self.pages = pages.Pages(data, lock, b"versions")
        except BaseException:
            _release(path, self._shared)
            raise

    def _verify(self, key_id: bytes) -> tuple[bytes, int]:
        with self._reading() as txn:
            meta = self._dbs["meta"]
            if txn.get(b"schema", db=meta) is None:
                raise StoreMissingError(f"the store at {self.path} was never finished: run `shikaku init`")
            schema = _NUMBER.unpack(txn.get(b"schema", db=meta))[0]
            if schema != SCHEMA_VERSION:
                raise StoreVersionError(f"the store has schema {schema}; this program reads {SCHEMA_VERSION}")
            if txn.get(b"key_id", db=meta) != key_id:
                raise KeyMismatchError("the master key is not the one that this store was made with")
            return txn.get(b"store_id", db=meta), _SEQ.unpack(txn.get(b"created", db=meta))[0]

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with self._env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise _store_error(error) from error

    def person(self, number: int, seq: int) -> Person | None:
        """The person as known after change `seq`; None if there was no such person then. Raises RecordCorruptError."""
        found = self._entry_from(_VERSION_KEY.pack(number, _MASK - seq))
        if found is None or _VERSION_KEY.unpack(found[0])[0] != number:
            return None
        return _person_of(*found)

    def _entry_from(self, wanted: bytes) -> tuple[bytes, bytes] | None:
        """The first entry of `versions` at or behind a key: from the pages if they say, else from LMDB."""
        found = self.pages.seek(wanted)
        if found is None or found:
            return found
        with self._reading() as txn:
            cursor = txn.cursor(self._versions)
            return cursor.item() if cursor.set_range(wanted) else None

    def touch(self, keys: Sequence[bytes]) -> None:
        """Bring records (keys of `versions`) into memory. Waits for the disk without the GIL; from any thread."""
        try:
            form = self._touching.pop()
        except IndexError:
            form = pages.Pages(self.files[0], self.files[1], b"versions")
        form.touch(keys)
        self._touching.append(form)

    def size_bytes(self) -> int:
        """How large the store's file is."""
        return (self.path / "data.mdb").stat().st_size

    def people(self, numbers: Iterable[int], seq: int) -> list[Person | None]:
        """Several people as known after change `seq`, all from one snapshot."""
        found: list[Person | None] = []
        with self._reading() as txn:
            cursor = txn.cursor(self._versions)
            for number in numbers:
                version = _seek(cursor, number, seq)
                found.append(_person_of(*version) if version else None)
        return found

    def version(self, number: int, seq: int) -> Version | None:
        """The version that was current after change `seq`, with its entries."""
        with self._reading() as txn:
            found = _seek(txn.cursor(self._versions), number, seq)
            return unpack_record(*found) if found else None

    def history(self, number: int) -> list[tuple[int, int, Person]]:
        """All committed versions of a person, oldest first: (seq, recorded at in ms, person)."""
        with self._reading() as txn:
            committed = _SEQ.unpack(txn.get(b"committed_seq", db=self._dbs["meta"]))[0]
            versions = list(_versions_of(txn.cursor(self._versions), number, committed))
        return [(v.seq, v.recorded_at_ms, v.person) for v in reversed(versions)]

    def entries_since(self, numbers: Iterable[int], newest: int, before: int) -> Iterator[tuple[int, list[bytes]]]:
        """Packed entries of people's versions, from the one current at `newest` back to the one current at `before`.

        Decodes nobody. People who had no version at `newest` are left out.
        """
        with self._reading() as txn:
            cursor = txn.cursor(self._versions)
            for number in numbers:
                found = []
                more = cursor.set_range(_VERSION_KEY.pack(number, _MASK - newest))
                while more:
                    holder, inverted = _VERSION_KEY.unpack(cursor.key())
                    if holder != number:
                        break
                    value = cursor.value()
                    found.append(value[HEAD_BYTES : HEAD_BYTES + ENTRY_BYTES * value[1]])
                    more = _MASK - inverted > before and cursor.next()
                if found:
                    yield number, found

    def changed_numbers(self, after: int, upto: int, limit: int) -> list[tuple[int, int]]:
        """(seq, person number) of the changes with after < seq <= upto, at most `limit` of them, in order."""
        found: list[tuple[int, int]] = []
        with self._reading() as txn:
            cursor = txn.cursor(self._dbs["changes"])
            more = cursor.set_range(_SEQ.pack(after + 1))
            while more and len(found) < limit:
                seq = _SEQ.unpack(cursor.key())[0]
                if seq > upto:
                    break
                found.append((seq, _NUMBER.unpack(cursor.value())[0]))
                more = cursor.next()
        return found

    def insurer(self, number: str) -> Insurer | None:
        """One insurer with its freshness."""
        with self._reading() as txn:
            packed = txn.get(number.encode(), db=self._dbs["insurers"])
        return _decoded(_decode_insurer, packed) if packed is not None else None

    def insurer_since(self, number: str) -> tuple[Insurer, int] | None:
        """One insurer, and the last change of its last feed: in an earlier version it was not as fresh."""
        with self._reading() as txn:
            packed = txn.get(number.encode(), db=self._dbs["insurers"])
            if packed is None:
                return None
            insurer: Insurer = _decoded(_decode_insurer, packed)
            if insurer.last_feed is None:
                return insurer, 0
            return insurer, _decoded(
                _decode_feed, txn.get(_SEQ.pack(insurer.last_feed), db=self._dbs["feeds"])
            ).last_seq

    def insurers(self) -> list[Insurer]:
        """All insurers, by number."""
        with self._reading() as txn:
            return [_decoded(_decode_insurer, value) for _, value in txn.cursor(self._dbs["insurers"])]

    def feeds(self, *, scope: str | None = None, limit: int | None = None) -> list[Feed]:
        """Feeds applied, the newest first, of one scope or of all."""
        found: list[Feed] = []
        with self._reading() as txn:
            for _, value in txn.cursor(self._dbs["feeds"]).iterprev():
                feed = _decoded(_decode_feed, value)
                if scope is None or feed.scope == scope:
                    found.append(feed)
                if len(found) == limit:
                    break
        return found

    def feed_by_digest(self, scope: str, digest: bytes) -> Feed | None:
        """The feed that had this content, if any had."""
        with self._reading() as txn:
            return _feed_by_digest(txn, self._dbs, scope, digest)

    def last_feed_number(self, scope: str) -> int | None:
        """The highest feed number that a scope has used."""
        with self._reading() as txn:
            return _last_feed_number(txn, self._dbs, scope)

    @property
    def committed_seq(self) -> int:
        """The last change that is durable and whole."""
        return self._meta_integers()[0]

    @property
    def next_person(self) -> int:
        """The first person number not given out by what is committed."""
        return self._meta_integers()[1]

    def has_been(self, history: int, seq: int) -> bool:
        """Whether this store was at change `seq` of that history, so that what was made of it then fits it now.

        A store that was put back and then written further shares its sequence numbers, but not the history, with
        what was made of it before.
        """
        with self._reading() as txn:
            known = _histories(txn, self._dbs)
        committed = self.committed_seq
        if not known:
            # No writer that names histories has had this store yet, nor made an index of it.
            return history == 0 and seq <= committed
        ends = [began for _, began in known[1:]] + [committed]
        return any(name == history and seq <= end for (name, _), end in zip(known, ends, strict=True))

    def _meta_integers(self) -> tuple[int, int, int]:
        meta = self._dbs["meta"]
        with self._reading() as txn:
            return (
                _SEQ.unpack(txn.get(b"committed_seq", db=meta))[0],
                _NUMBER.unpack(txn.get(b"next_person", db=meta))[0],
                _SEQ.unpack(txn.get(b"next_feed", db=meta))[0],
            )

    def entries(self, seq: int, first: int = 0, end: int = 2**32) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Index entries of people as known after change `seq`, in pieces: person numbers u32, ENTRY_DTYPE.

        Args: first, end: the person numbers from `first` on, below `end`; everybody's if not said.

        Reads the packed entries only and decodes nobody. One read transaction stays open meanwhile.
        """
        keys: list[bytes] = []
        packed: list[bytes] = []
        last, beyond = -1, _NUMBER.pack(end) if end < 2**32 else b"\xff" * 5
        with self._reading() as txn:
            cursor = txn.cursor(self._versions)
            for key, value in cursor if cursor.set_range(version_key(first, _MASK)) else ():
                if key >= beyond:
                    break
                keys.append(key)
                packed.append(value[HEAD_BYTES : HEAD_BYTES + ENTRY_BYTES * value[1]])
                if len(keys) == SCAN_VERSIONS:
                    last, piece = _piece(keys, packed, seq, last)
                    yield piece
                    keys, packed = [], []
        if keys:
            yield _piece(keys, packed, seq, last)[1]

    @contextmanager
    def pinned(self) -> Iterator[Tree | None]:
        """Where the versions are in the file; no page of these is written while the block lasts.

        None if commits come too fast to tell.
        """
        for _ in range(_LOCK_TRIES):
            with self._reading() as txn:
                found = self.pages.tree()
                # A read transaction of this very commit is in LMDB's table of readers, so that all it uses is kept.
                if found is not None and found[0] == txn.id():
                    yield Tree(self.path / "data.mdb", *found[1:], int(txn.stat(self._versions)["entries"]))
                    return
        yield None

    def key_count(self, seq: int) -> int:
        """How many index entries there are after change `seq`."""
        return sum(len(persons) for persons, _ in self.entries(seq))

    def walk(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value of `versions`, raw, in one snapshot (fsck)."""
        with self._reading() as txn:
            yield from txn.cursor(self._versions)

    def versions_checked(self) -> Iterator[Version]:
        """Every version, decoded, in one snapshot. Raises RecordCorruptError at the first that is damaged."""
        for key, value in self.walk():
            yield unpack_record(key, value)

    def walk_changes(self) -> Iterator[tuple[int, int]]:
        """Every (seq, person number) of `changes` in one snapshot (fsck)."""
        with self._reading() as txn:
            for key, value in txn.cursor(self._dbs["changes"]):
                yield _SEQ.unpack(key)[0], _NUMBER.unpack(value)[0]

    def sizes(self) -> dict[str, int]:
        """Rows of each database, and bytes used of the map."""
        with self._reading() as txn:
            rows = {name: int(txn.stat(db)["entries"]) for name, db in self._dbs.items()}
        used = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        return rows | {"used_bytes": int(used)}

    def copy(self, directory: Path) -> None:
        """A consistent, compact copy of the store in an empty directory. Durable on return."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._env.copy(os.fspath(directory), compact=True)
        except lmdb.Error as error:
            raise _store_error(error) from error
        except OSError as error:
            raise durable.error_of(error, "copying the store") from error
        durable.sync_file(directory / "data.mdb")
        durable.fsync_directory(directory)

    def reader_check(self) -> int:
        """Free the slots of readers that died. Returns how many there were."""
        return int(self._env.reader_check())

    def close(self) -> None:
        """Let go of the environment."""
        if not self._closed:
            self._closed = True
            for form in (self.pages, *self._touching):
                form.release()
            _release(self.path, self._shared)


def _histories(txn: Any, dbs: dict[str, Any]) -> list[tuple[int, int]]:
    """Each history's name and the change it began at, the newest last."""
    return list(_HISTORY.iter_unpack(txn.get(b"histories", b"", db=dbs["meta"])))


def _feed_by_digest(txn: Any, dbs: dict[str, Any], scope: str, digest: bytes) -> Feed | None:
    feed_id = txn.get(scope.encode() + digest, db=dbs["feed_digests"])
    if feed_id is None:
        return None
    feed: Feed = _decoded(_decode_feed, txn.get(feed_id, db=dbs["feeds"]))
    return feed


def _last_feed_number(txn: Any, dbs: dict[str, Any], scope: str) -> int | None:
    prefix = scope.encode()
    cursor = txn.cursor(dbs["feed_numbers"])
    beyond = cursor.set_range(prefix + b"\xff" * 9)
    if not (cursor.prev() if beyond else cursor.last()) or cursor.key()[: len(prefix)] != prefix:
        return None
    return int(_SEQ.unpack(cursor.key()[len(prefix) :])[0])


def _seek(cursor: Any, number: int, seq: int) -> tuple[bytes, bytes] | None:
    wanted = _VERSION_KEY.pack(number, _MASK - seq)
    if not cursor.set_range(wanted):
        return None
    key = cursor.key()
    return (key, cursor.value()) if key[:4] == wanted[:4] else None


def _versions_of(cursor: Any, number: int, newest: int) -> Iterator[Version]:
    """A person's versions, newest first, from change `newest` on."""
    found = _seek(cursor, number, newest)
    while found is not None:
        yield unpack_record(*found)
        if not cursor.next() or _NUMBER.unpack_from(cursor.key())[0] != number:
            return
        found = (cursor.key(), cursor.value())


def _piece(keys: list[bytes], packed: list[bytes], seq: int, last: int) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
    """Entries of the newest version up to `seq` of each person behind `last`; and who is last now."""
    rows = np.frombuffer(b"".join(keys), _KEY_ROW)
    old = np.flatnonzero(np.uint64(_MASK) - rows["inverted"] <= seq)
    numbers = rows["number"][old].astype(np.int64)
    newest = numbers != np.concatenate([[last], numbers[:-1]])
    chosen = old[newest]
    if len(chosen) < len(packed):
        packed = [packed[at] for at in chosen.tolist()]
    counts = np.fromiter(map(len, packed), np.int64, len(packed)) // ENTRY_BYTES
    persons = np.repeat(numbers[newest].astype(np.uint32), counts)
    return int(numbers[-1]) if len(numbers) else last, (persons, np.frombuffer(b"".join(packed), ENTRY_DTYPE))


def _decoded(decode: Any, packed: bytes | None) -> Any:
    try:
        return decode(packed)
    except (msgspec.MsgspecError, TypeError):
        raise RecordCorruptError("a row of the store does not decode") from None


# --- writing --------------------------------------------------------------------------------------------------


class Transaction:
    """One write transaction: what it puts is durable when `StoreWriter.transaction` returns, or gone."""

    def __init__(self, txn: Any, dbs: dict[str, Any]) -> None:
        self._txn = txn
        self._dbs = dbs
        self._cursor = txn.cursor(dbs["versions"])

    def newest(self, number: int) -> Version | None:
        """A person's newest version, uncommitted ones included."""
        found = _seek(self._cursor, number, _MASK)
        return unpack_record(*found) if found else None

    def feed_by_digest(self, scope: str, digest: bytes) -> Feed | None:
        """The feed that had this content, those of this transaction included."""
        return _feed_by_digest(self._txn, self._dbs, scope, digest)

    def last_feed_number(self, scope: str) -> int | None:
        """The highest feed number that a scope has used, in this transaction included."""
        return _last_feed_number(self._txn, self._dbs, scope)

    def put_versions(self, records: Sequence[tuple[bytes, bytes]], *, append: bool) -> None:
        """Put (key, record) pairs; `append` if they are sorted and beyond every key that is there."""
        if not records:
            return
        consumed, added = self._cursor.putmulti(records, overwrite=False, append=append)
        if added != len(records):
            raise RecordCorruptError("a version exists already")

    def put_changes(self, first_seq: int, numbers: np.ndarray) -> None:
        """Say which person each of the changes from `first_seq` on concerned."""
        rows = np.empty(len(numbers), _CHANGE_ROW)
        rows["seq"] = np.arange(first_seq, first_seq + len(numbers), dtype=np.uint64)
        rows["number"] = numbers
        if len(numbers):
            pairs = list(struct.iter_unpack("8s4s", rows.tobytes()))
            consumed, added = self._txn.cursor(self._dbs["changes"]).putmulti(pairs, overwrite=False, append=True)
            if added != len(pairs):
                raise RecordCorruptError("a change has this number already")

    def put_feed(self, feed: Feed) -> None:
        """Record a feed, and the digest and number by which a replay is recognised."""
        feed_id, scope = _SEQ.pack(feed.feed), feed.scope.encode()
        self._txn.put(feed_id, _encode(feed), db=self._dbs["feeds"], append=True)
        self._txn.put(scope + feed.digest, feed_id, db=self._dbs["feed_digests"])
        if feed.feed_number is not None:
            self._txn.put(scope + _SEQ.pack(feed.feed_number), feed_id, db=self._dbs["feed_numbers"])

    def put_insurer(self, insurer: Insurer) -> None:
        """Register an insurer or replace what is known about it."""
        self._txn.put(insurer.number.encode(), _encode(insurer), db=self._dbs["insurers"])

    def advance(self, *, committed_seq: int, next_person: int, next_feed: int) -> None:
        """Move the words that say what is committed."""
        meta = self._dbs["meta"]
        self._txn.put(b"committed_seq", _SEQ.pack(committed_seq), db=meta)
        self._txn.put(b"next_person", _NUMBER.pack(next_person), db=meta)
        self._txn.put(b"next_feed", _SEQ.pack(next_feed), db=meta)

    def begin_history(self, history: int, seq: int) -> None:
        """Say that what follows change `seq` belongs to another history."""
        known = [*_histories(self._txn, self._dbs), (history, seq)][-HISTORIES_KEPT:]
        self._txn.put(b"histories", b"".join(_HISTORY.pack(*row) for row in known), db=self._dbs["meta"])

    def delete_last_changes(self, committed_seq: int, limit: int) -> int:
        """Delete at most `limit` of the newest changes above `committed_seq`, with their versions."""
        changes = self._txn.cursor(self._dbs["changes"])
        deleted = 0
        more = changes.last()
        while more and deleted < limit:
            seq = _SEQ.unpack(changes.key())[0]
            if seq <= committed_seq:
                break
            self._txn.delete(version_key(_NUMBER.unpack(changes.value())[0], seq), db=self._dbs["versions"])
            changes.delete()
            deleted += 1
            more = changes.last()
        return deleted


class StoreWriter(StoreReader):
    """The one writer of a store. Raises StoreLockedError if another process has it."""

    _writable = True

    def __init__(self, path: Path, *, key_id: bytes, map_bytes: int) -> None:
        if not exists(path):
            raise StoreMissingError(f"no store at {path}: run `shikaku init`")
        self._lock = _lock(path.parent / "writer.lock")
        self.poisoned = False
        """Set by the first write that failed for another reason than space; nothing can be written any more."""
        try:
            super().__init__(path, key_id=key_id, map_bytes=map_bytes)
        except BaseException:
            os.close(self._lock)
            raise
        self.next_feed = self._meta_integers()[2]
        self.reader_check()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Write: committed and synced when the block ends, undone when it raises.

        Raises StoreFullError (undone; the writer may go on), StorePoisonedError (this writer is finished: the state
        of the file is unknown until it is opened anew).
        """
        if self.poisoned:
            raise StorePoisonedError("an earlier write failed; the writer must be opened anew")
        try:
            with self._env.begin(write=True) as txn:
                yield Transaction(txn, self._dbs)
        except lmdb.Error as error:
            raise self._failed(self._write_error(error)) from error
        except OSError as error:
            raise self._failed(durable.error_of(error, "writing the store")) from error

    def begin_history(self) -> int:
        """Give what this writer is going to commit a name of its own, by chance, and return it (64 bits, not 0)."""
        history, committed = secrets.randbits(64) or 1, self.committed_seq
        with self.transaction() as txn:
            txn.begin_history(history, committed)
        return history

    def _write_error(self, error: lmdb.Error) -> ShikakuError:
        # LMDB reports a short write, which is what a full disk looks like, as EIO. Its transaction is undone by then
        # and no page that is in use was touched, so that a full disk is told apart by asking for room.
        if getattr(error, "code", None) == errno.EIO and not durable.has_room(self.path / "data.mdb"):
            return StoreFullError("the disk has no room left; nothing was applied")
        return _store_error(error)

    def _failed(self, error: ShikakuError) -> ShikakuError:
        self.poisoned = not isinstance(error, StoreFullError)
        return error

    def roll_back(self) -> int:
        """Delete every version above the committed sequence number. Returns how many there were.

        In bounded transactions, newest first, so that it may be cut off anywhere and started again. On a full disk
        even deleting needs pages, so that it goes on with smaller steps before it gives up with StoreFullError.
        """
        committed, total, step = self.committed_seq, 0, ROLLBACK_CHUNK
        while True:
            try:
                with self.transaction() as txn:
                    deleted = txn.delete_last_changes(committed, step)
            except StoreFullError:
                if step == 1:
                    raise
                step = max(1, step // 10)
                continue
            total += deleted
            if deleted == 0:
                return total

    def close(self) -> None:
        """Let go of the environment and of the writer's lock."""
        if not self._closed:
            super().close()
            os.close(self._lock)


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for remaining in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            # writer_is_running holds the lock for a moment to ask; a writer holds it for its life
            if remaining:
                time.sleep(_LOCK_PAUSE_SECONDS)
    os.close(descriptor)
    raise StoreLockedError("another process is the writer of this store")


def writer_is_running(path: Path) -> bool:
    """Whether a writer has the store at `path` open, in this process or another."""
    try:
        descriptor = os.open(path.parent / "writer.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
