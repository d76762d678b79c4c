"""Owns the readable specification of ext/ledger: the appending of one audit log."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, Final

from ext import canon_py, keyhash_py

HEADER_BYTES: Final = 4096
LEVELS_COUNT: Final = 8
ENTRY_BYTES_MAX: Final = 204
PRIVATE_BYTES_MAX: Final = 32
_CALLER_BYTES: Final = 16
_KEY_BYTES: Final = 16
_HASH_BYTES: Final = 32
_SUMMED: Final = 60
_FILL_BYTES: Final = 1 << 20
_MARK_BYTES: Final = 64
_WAITING_BYTES_MAX: Final = 64 << 20
_KIND_IN_BATCH: Final = 2
_FIRST_DAY: Final = -700899
_LAST_DAY: Final = 2951159
_FRAME_HEAD: Final = struct.Struct("<IHBB")
_HEAD: Final = struct.Struct(">BBBBHIQQ16s16s16s32s")


class Ledger:
    def __init__(
        self,
        *,
        slot: int,
        log_id: bytes,
        folder_fd: int,
        level_fds: list[int],
        segment_fd: int,
        offset: int,
        filled: int,
        entries: int,
        nodes: list[bytes],
        segment_bytes: int,
        inquiry_key: bytes,
        code_key: bytes,
        person_key: bytes,
        fixed_ms: int | None = None,
    ) -> None:
        if not isinstance(log_id, bytes) or len(log_id) != _KEY_BYTES:
            raise ValueError(f"log_id must be {_KEY_BYTES} bytes")
        for name, key in (("inquiry_key", inquiry_key), ("code_key", code_key), ("person_key", person_key)):
            if not isinstance(key, bytes):
                raise TypeError(f"{name} must be bytes, not {type(key).__name__}")
            if len(key) != _KEY_BYTES:
                raise ValueError(f"{name} must have {_KEY_BYTES} bytes")
        self._slot, self._log_id, self._fixed_ms = slot, log_id, fixed_ms
        self._inquiry_key, self._code_key, self._person_key = inquiry_key, code_key, person_key
        self._segment_bytes = segment_bytes
        self._flushes = self._flush_ns = 0
        self._fd: int | None = None
        self._next_fd: int | None = None
        self._work = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._begin(folder_fd, level_fds, segment_fd, offset, filled, entries, nodes)

    def __del__(self) -> None:
        if hasattr(self, "_wake_fd"):
            self.close()
            self._forget()
            os.close(self._wake_fd)

    def _begin(
        self,
        folder_fd: int,
        level_fds: list[int],
        segment_fd: int,
        offset: int,
        filled: int,
        entries: int,
        nodes: list[bytes],
    ) -> None:
        """Have the writer go on from here; the segment is the ledger's from now on."""
        if len(level_fds) != LEVELS_COUNT:
            raise ValueError(f"level_fds must be {LEVELS_COUNT}")
        if entries.bit_count() != len(nodes) or any(len(one) != _HASH_BYTES for one in nodes):
            raise ValueError("nodes are not those of so many entries")
        self._folder_fd, self._level_fds = folder_fd, level_fds
        self._fd, self._at, self._filled = segment_fd, offset, filled
        self._nodes, self._leaves = list(nodes), entries
        self._head = entries, list(nodes)
        self._entries = self._durable = entries
        self._failure = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._wanted = self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _forget(self) -> None:
        for descriptor in (self._fd, self._next_fd):
            if descriptor is not None:
                os.close(descriptor)
        self._fd = self._next_fd = None

    @property
    def slot(self) -> int:
        return self._slot

    @property
    def fileno(self) -> int:
        return self._wake_fd

    @property
    def entries(self) -> int:
        return self._entries

    @property
    def flushes(self) -> tuple[int, int]:
        with self._work:
            return self._flushes, self._flush_ns

    @property
    def wants_segment(self) -> bool:
        with self._work:
            return self._next_fd is None and 2 * self._at > self._segment_bytes

    def append(
        self,
        *,
        kind: int,
        purpose: int,
        verdict: int,
        flags: int,
        as_of: int | None,
        version: int,
        caller: bytes,
        inquiry: bytes,
        person: int | None,
        body: bytes,
        mark: bytes = b"",
    ) -> int:
        if not (isinstance(caller, bytes) and isinstance(body, bytes) and isinstance(mark, bytes)):
            raise TypeError("caller, body and mark must be bytes")
        if not isinstance(inquiry, bytes) or len(inquiry) != _KEY_BYTES:
            raise ValueError(f"inquiry must be {_KEY_BYTES} bytes")
        if not (0 <= kind <= 255 and 0 <= purpose <= 255 and 0 <= verdict <= 255):
            raise ValueError("a code is out of range")
        if not 0 <= flags <= 65535:
            raise ValueError("flags are out of range")
        if as_of is not None and not _FIRST_DAY <= as_of <= _LAST_DAY:
            raise ValueError("as_of is out of range")
        if len(caller) > _CALLER_BYTES:
            raise ValueError(f"caller has at most {_CALLER_BYTES} bytes")
        digest = hashlib.sha256(body).digest()
        code = bytes(_KEY_BYTES)
        if person is not None:
            code = keyhash_py.siphash128(self._code_key, caller.ljust(_CALLER_BYTES, b"\0") + struct.pack("<Q", person))
        entry = _HEAD.pack(
            1,
            kind,
            purpose,
            verdict,
            flags,
            0 if as_of is None else int(canon_py.iso_of_day(as_of).replace("-", "")),
            time.time_ns() // 1_000_000 if self._fixed_ms is None else self._fixed_ms,
            version,
            caller,
            keyhash_py.siphash128(self._inquiry_key, inquiry),
            code,
            digest,
        )
        entry += bytes([len(mark[:_MARK_BYTES])]) + mark[:_MARK_BYTES]
        # Whose data were given is the log's own matter: a number that nobody else can read, and no two alike.
        sealed = keyhash_py.siphash128(self._person_key, digest[:16] + struct.pack("<Q", self._entries))
        number = int.from_bytes(sealed[:8], "little") ^ (0 if person is None else person + 1)
        rest = struct.pack("<HBB", len(entry), 8, 0) + entry + struct.pack("<Q", number)
        return self._put(struct.pack("<I", zlib.crc32(rest)) + rest)

    def append_answer(self, quick: Any, body: bytes, mark: bytes = b"", batch: bool = False) -> int:
        from ext.quick_py import Quick

        if not isinstance(quick, Quick):
            raise TypeError(f"quick must be Quick, not {type(quick).__name__}")
        if not quick.notes:
            raise ValueError("quick notes nothing")
        if not (isinstance(body, bytes) and isinstance(mark, bytes)):
            raise TypeError("body and mark must be bytes")
        facts = quick._facts
        return self.append(**{**facts, "kind": facts["kind"] + _KIND_IN_BATCH * batch}, body=body, mark=mark)

    def name(self, index: int) -> bytes:
        return b"%d-%d" % (self._slot, index)

    def flush(self) -> None:
        with self._work:
            self._wanted = True
            self._work.notify()

    def settle(self) -> tuple[int, int]:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass
        with self._work:
            return self._durable, self._failure

    def head(self) -> tuple[int, bytes]:
        with self._work:
            leaves, nodes = self._head
        if not nodes:
            return leaves, hashlib.sha256(b"").digest()
        root = nodes[-1]
        for one in reversed(nodes[:-1]):
            root = _node(one, root)
        return leaves, root

    def provide(self, segment_fd: int) -> None:
        with self._work:
            if self._next_fd is not None:
                raise ValueError("a segment lies ready")
            self._next_fd = segment_fd

    def cut(self) -> None:
        if self._thread is not None:
            raise ValueError("the ledger is open")
        if self._fd is not None:
            os.ftruncate(self._fd, self._at)
            os.fdatasync(self._fd)

    def resume(
        self,
        *,
        folder_fd: int,
        level_fds: list[int],
        segment_fd: int,
        offset: int,
        filled: int,
        entries: int,
        nodes: list[bytes],
    ) -> None:
        if self._thread is not None:
            raise ValueError("the ledger is open")
        self._forget()
        self._begin(folder_fd, level_fds, segment_fd, offset, filled, entries, nodes)

    def close(self) -> None:
        if self._thread is not None:
            with self._work:
                self._stopping = True
                self._work.notify()
            self._thread.join()
            self._thread = None

    def _put(self, frame: bytes) -> int:
        with self._work:
            if self._failure or self._waiting_bytes + len(frame) > _WAITING_BYTES_MAX:
                failure = errno.EIO if self._failure else errno.ENOBUFS
                raise OSError(failure, os.strerror(failure))
            self._waiting.append(frame)
            self._waiting_bytes += len(frame)
            self._entries += 1
            return self._entries - 1

    def _run(self) -> None:
        while True:
            with self._work:
                while self._failure or not self._waiting or not (self._wanted or self._stopping):
                    if self._stopping:
                        return
                    self._work.wait()
                batch, self._waiting, self._waiting_bytes, self._wanted = self._waiting, [], 0, False
                next_fd = None
                if self._next_fd is not None and self._at + sum(map(len, batch)) > self._segment_bytes:
                    next_fd, self._next_fd = self._next_fd, None
            began = time.monotonic_ns()
            failure = _failure(self._store, b"".join(batch), next_fd)
            with self._work:
                self._flushes += 1
                self._flush_ns += time.monotonic_ns() - began
                self._failure = failure
                if not failure:
                    self._durable += len(batch)
            os.eventfd_write(self._wake_fd, 1)
            if not failure and (failure := _failure(self._hash, batch)):
                with self._work:
                    self._failure = failure
                os.eventfd_write(self._wake_fd, 1)
            with self._work:
                self._head = self._leaves, list(self._nodes)

    def _store(self, data: bytes, next_fd: int | None) -> None:
        if next_fd is not None:
            header = struct.pack("<8sQ16sI", b"SHKSEG1\0", self._durable, self._log_id, self._slot)
            header = header.ljust(_SUMMED, b"\0")
            header += struct.pack("<I", zlib.crc32(header))
            _write(next_fd, header.ljust(HEADER_BYTES, b"\0"), 0)
            os.fdatasync(next_fd)
            name = f"segment-{self._durable:016x}"
            os.rename("segment-next", name, src_dir_fd=self._folder_fd, dst_dir_fd=self._folder_fd)
            os.fsync(self._folder_fd)
            assert self._fd is not None
            os.close(self._fd)
            self._fd, self._at, self._filled = next_fd, HEADER_BYTES, self._segment_bytes
        assert self._fd is not None
        if self._at + len(data) > self._filled:
            more = self._at + len(data) + _FILL_BYTES - self._filled
            _write(self._fd, bytes(more), self._filled)
            self._filled += more
        _write(self._fd, data, self._at)
        os.fdatasync(self._fd)
        self._at += len(data)

    def _hash(self, batch: list[bytes]) -> None:
        first = self._leaves
        leaves = [
            hashlib.sha256(b"\0" + frame[8 : 8 + int.from_bytes(frame[4:6], "little")]).digest() for frame in batch
        ]
        for leaf in leaves:
            self._nodes.append(leaf)
            self._leaves += 1
            height = 1
            while not self._leaves >> (height - 1) & 1:
                right = self._nodes.pop()
                self._nodes[-1] = _node(self._nodes[-1], right)
                if height % 8 == 0 and height // 8 < LEVELS_COUNT:
                    place = (self._leaves >> height) - 1
                    _write(self._level_fds[height // 8], self._nodes[-1], _HASH_BYTES * place)
                height += 1
        _write(self._level_fds[0], b"".join(leaves), _HASH_BYTES * first)


def scan(data: bytes, start: int) -> tuple[list[int], int]:
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    if not 0 <= start <= len(data):
        raise ValueError("start is not within data")
    starts, at = [], start
    while len(data) - at >= _FRAME_HEAD.size:
        checksum, length, private, spare = _FRAME_HEAD.unpack_from(data, at)
        following = at + _FRAME_HEAD.size + length + private
        if not 0 < length <= ENTRY_BYTES_MAX or private > PRIVATE_BYTES_MAX or spare or following > len(data):
            break
        if checksum != zlib.crc32(data[at + 4 : following]):
            break
        starts.append(at)
        at = following
    return starts, at


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _write(descriptor: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data, at = data[written:], at + written


def _failure(work: Callable[..., None], *given: Any) -> int:
    try:
        work(*given)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
