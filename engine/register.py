"""Owns the register of callers on disk: an LMDB environment of its own, changed by commands while servers read it.

Readers keep nothing in memory, so 213,000 institutions cost a worker neither time at its start nor room. A change is
one transaction, durable when the call returns; workers see `version` move and look everybody up anew. Several commands
may write at once: LMDB lets one after the other in. Layout: docs/FORMATS.md.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from engine import durable
from engine.callers import KEYS_MAX, Caller, PublicKey, Role, Scope, Status
from engine.errors import (
    CallerExistsError,
    CallerInputError,
    CallerMissingError,
    KeyMismatchError,
    RecordCorruptError,
    ShikakuError,
    StoreFullError,
    StoreMissingError,
    StorePoisonedError,
    StoreVersionError,
)

SCHEMA_VERSION: Final = 1
CALLERS_MAX: Final = 1 << 19
"""Numbers that can be given out; each has a bucket in the machine's memory."""
MAP_BYTES: Final = 4 << 30
"""Upper bound of the file (address space, not disk): half a million callers with every key that they may have."""
_READERS_MAX: Final = 1024
_FORMAT: Final = 0  # the 0.9 file format
_DATABASES: Final = ("meta", "callers", "thumbprints", "subjects", "api_keys")
_NUMBER: Final = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Caller).decode


class _Environment:
    """One open environment; LMDB may be opened only once in a process."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.writable = writable
        self.holders = 0
        self.env = lmdb.open(
            os.fspath(path),
            map_size=MAP_BYTES,
            subdir=True,
            readonly=not writable,
            create=writable,
            readahead=False,
            writemap=False,
            max_readers=_READERS_MAX,
            max_dbs=len(_DATABASES),
            max_spare_txns=4,
            mode=0o600,
            lib_version=_FORMAT,
        )
        try:
            self.dbs: dict[str, Any] = {name: self.env.open_db(name.encode(), create=writable) for name in _DATABASES}
        except BaseException:
            self.env.close()
            raise


_open: dict[str, _Environment] = {}


def exists(path: Path) -> bool:
    """Whether there is a register at `path`."""
    return (path / "data.mdb").is_file()


class Register:
    """Reads the register in any process; every call sees the latest commit.

    Raises on opening: StoreMissingError, StoreVersionError, KeyMismatchError.
    """

    _writable = False

    def __init__(self, path: Path, *, key_id: bytes) -> None:
        self._name = os.path.realpath(path)
        self._shared = self._acquire(path)
        self._env, self._dbs = self._shared.env, self._shared.dbs
        self._closed = False
        try:
            self._verify(key_id)
        except BaseException:
            self.close()
            raise

    def _acquire(self, path: Path) -> _Environment:
        if not self._writable and not exists(path):
            raise StoreMissingError(f"no register of callers at {path}: run `shikaku institutions add`")
        shared = _open.get(self._name)
        if shared is None:
            try:
                shared = _open[self._name] = _Environment(path, writable=self._writable)
            except lmdb.NotFoundError:
                raise StoreMissingError(f"the register of callers at {path} was never finished") from None
            except (lmdb.InvalidError, lmdb.VersionMismatchError):
                raise StoreVersionError("the register of callers is not in the format of this version") from None
            except lmdb.Error as error:
                raise _store_error(error) from error
        elif self._writable and not shared.writable:
            raise StorePoisonedError("this process reads the register already; open the writer before the readers")
        shared.holders += 1
        return shared

    def _verify(self, key_id: bytes) -> None:
        with self._reading() as txn:
            schema = txn.get(b"schema", db=self._dbs["meta"])
            if schema is None:
                raise StoreMissingError("the register of callers was never finished")
            if _NUMBER.unpack(schema)[0] != SCHEMA_VERSION:
                raise StoreVersionError("the register of callers has another schema than this program reads")
            if txn.get(b"key_id", db=self._dbs["meta"]) != key_id:
                raise KeyMismatchError("the master key is not the one that the register of callers was made with")

    def close(self) -> None:
        """Let go of the environment; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._shared.holders -= 1
        if self._shared.holders == 0:
            _open.pop(self._name, None)
            self._env.close()

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with self._env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise _store_error(error) from error

    @property
    def version(self) -> int:
        """Moves with every change; costs microseconds to ask for."""
        return int(self._env.info()["last_txnid"])

    def get(self, id_: str) -> Caller | None:
        """The caller with this id."""
        with self._reading() as txn:
            return self._get(txn, id_.encode())

    def by_thumbprint(self, thumbprint: bytes) -> Caller | None:
        """Whose certificate this is."""
        return self._by("thumbprints", thumbprint)

    def by_subject(self, subject: str) -> Caller | None:
        """Who has certificates with this subject."""
        return self._by("subjects", _subject_key(subject))

    def by_api_key(self, hashed: bytes) -> Caller | None:
        """Whose API key has this keyed hash."""
        return self._by("api_keys", hashed)

    def _by(self, database: str, key: bytes) -> Caller | None:
        with self._reading() as txn:
            found = txn.get(key, db=self._dbs[database])
            return None if found is None else self._get(txn, found)

    def _get(self, txn: Any, key: bytes) -> Caller | None:
        if not key or len(key) > 64:
            return None
        found = txn.get(key, db=self._dbs["callers"])
        try:
            return None if found is None else _decode(found)
        except msgspec.MsgspecError:
            raise RecordCorruptError("an entry of the register of callers cannot be read back") from None

    def callers(self) -> Iterator[Caller]:
        """All, in the order of their ids, as they are at one instant."""
        with self._reading() as txn:
            for _, value in txn.cursor(self._dbs["callers"]):
                yield _decode(value)


class RegisterWriter(Register):
    """Changes the register; every call is one durable transaction. Makes it if there is none."""

    _writable = True

    def __init__(self, path: Path, *, key_id: bytes) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key_id = key_id
        super().__init__(path, key_id=key_id)
        durable.fsync_directory(path)
        durable.fsync_directory(path.parent)

    def _verify(self, key_id: bytes) -> None:
        with self._writing() as txn:
            meta = self._dbs["meta"]
            if txn.get(b"schema", db=meta) is None:
                txn.put(b"schema", _NUMBER.pack(SCHEMA_VERSION), db=meta)
                txn.put(b"key_id", key_id, db=meta)
                txn.put(b"next_number", _NUMBER.pack(0), db=meta)
        super()._verify(key_id)

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        try:
            with self._env.begin(write=True) as txn:
                yield txn
        except lmdb.Error as error:
            raise _store_error(error) from error

    def add(self, id_: str, *, name: str, role: Role, scopes: tuple[Scope, ...], now_ms: int) -> Caller:
        """Register a caller. Raises CallerExistsError, StoreFullError."""
        return self.add_many([(id_, name, role, scopes)], now_ms=now_ms)[0]

    def add_many(self, given: list[tuple[str, str, Role, tuple[Scope, ...]]], *, now_ms: int) -> list[Caller]:
        """Register several callers, all or none. Raises CallerExistsError, StoreFullError."""
        meta, made = self._dbs["meta"], []
        with self._writing() as txn:
            number = _NUMBER.unpack(txn.get(b"next_number", db=meta))[0]
            for id_, name, role, scopes in given:
                if number >= CALLERS_MAX:
                    raise StoreFullError(f"the register holds {CALLERS_MAX} callers at most")
                caller = Caller(id_, number, name, role, scopes, changed_ms=now_ms)
                if not txn.put(id_.encode(), _encode(caller), overwrite=False, db=self._dbs["callers"]):
                    raise CallerExistsError("a caller with this id is registered already", field="id")
                made.append(caller)
                number += 1
            txn.put(b"next_number", _NUMBER.pack(number), db=meta)
        return made

    def change(self, id_: str, change: Callable[[Caller], Caller], *, now_ms: int) -> Caller:
        """Change a caller by a function of what it is now. Raises CallerMissingError, CallerExistsError."""
        with self._writing() as txn:
            before = self._get(txn, id_.encode())
            if before is None:
                raise CallerMissingError("no caller with this id is registered", field="id")
            after = msgspec.structs.replace(change(before), changed_ms=now_ms)
            for field, database, key_of in _LOOKED_UP:
                old, new = getattr(before, field), getattr(after, field)
                if len(new) > KEYS_MAX:
                    raise CallerInputError(f"a caller has at most {KEYS_MAX}", field=field)
                for one in set(old) - set(new):
                    txn.delete(key_of(one), db=self._dbs[database])
                for one in set(new) - set(old):
                    if not txn.put(key_of(one), id_.encode(), overwrite=False, db=self._dbs[database]):
                        raise CallerExistsError("another caller has it", field=field)
            txn.put(id_.encode(), _encode(after), db=self._dbs["callers"])
        return after

    def suspend(self, id_: str, *, now_ms: int) -> Caller:
        """Let a caller in no more; the tokens that it has are not good again when it is resumed."""
        return self.change(
            id_,
            lambda one: msgspec.structs.replace(one, status=Status.SUSPENDED, tokens_from_ms=now_ms + 1),
            now_ms=now_ms,
        )

    def resume(self, id_: str, *, now_ms: int) -> Caller:
        """Let a caller in again."""
        return self.change(id_, lambda one: msgspec.structs.replace(one, status=Status.ACTIVE), now_ms=now_ms)

    def add_keys(self, id_: str, keys: list[PublicKey], *, now_ms: int) -> Caller:
        """Give a caller keys; those that it has stay. Raises CallerExistsError for a kid that it has."""

        def added(one: Caller) -> Caller:
            names = [key.kid for key in (*one.keys, *keys)]
            if len(set(names)) < len(names):
                raise CallerExistsError("a key with this kid is registered already", field="key.kid")
            if len(names) > KEYS_MAX:
                raise CallerInputError(f"a caller has at most {KEYS_MAX}", field="keys")
            return msgspec.structs.replace(one, keys=(*one.keys, *keys))

        return self.change(id_, added, now_ms=now_ms)

    def remove_key(self, id_: str, kid: str, *, now_ms: int) -> Caller:
        """Take a key from a caller, and end the tokens that it has. Raises CallerMissingError."""

        def removed(one: Caller) -> Caller:
            left = tuple(key for key in one.keys if key.kid != kid)
            if len(left) == len(one.keys):
                raise CallerMissingError("the caller has no key with this kid", field="key.kid")
            return msgspec.structs.replace(one, keys=left, tokens_from_ms=now_ms + 1)

        return self.change(id_, removed, now_ms=now_ms)

    def add_to(self, id_: str, field: str, value: bytes | str, *, now_ms: int) -> Caller:
        """Give a caller one of its `thumbprints`, `subjects` or `api_keys`. Raises CallerExistsError."""

        def added(one: Caller) -> Caller:
            if value in getattr(one, field):
                raise CallerExistsError("the caller has it already", field=field)
            return msgspec.structs.replace(one, **{field: (*getattr(one, field), value)})

        return self.change(id_, added, now_ms=now_ms)

    def remove_from(self, id_: str, field: str, value: bytes | str, *, now_ms: int) -> Caller:
        """Take it from the caller again, and end the tokens that it has. Raises CallerMissingError."""

        def removed(one: Caller) -> Caller:
            had = getattr(one, field)
            if value not in had:
                raise CallerMissingError("the caller does not have it", field=field)
            left = tuple(each for each in had if each != value)
            return msgspec.structs.replace(one, **{field: left}, tokens_from_ms=now_ms + 1)

        return self.change(id_, removed, now_ms=now_ms)


def _subject_key(subject: str) -> bytes:
    """Subjects may be longer than a key of LMDB."""
    return hashlib.sha256(subject.encode()).digest()


def _as_it_is(key: bytes) -> bytes:
    return key


_LOOKED_UP: Final[tuple[tuple[str, str, Callable[[Any], bytes]], ...]] = (
    ("thumbprints", "thumbprints", _as_it_is),
    ("subjects", "subjects", _subject_key),
    ("api_keys", "api_keys", _as_it_is),
)


def _store_error(error: Exception) -> ShikakuError:
    """What an LMDB error means to us."""
    if isinstance(error, lmdb.MapFullError | lmdb.DiskError | lmdb.TxnFullError | lmdb.ReadersFullError):
        return StoreFullError("the register of callers has no room left; nothing was changed")
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        return RecordCorruptError("the pages of the register of callers are damaged")
    return StorePoisonedError(f"the register of callers failed: {type(error).__name__}")
