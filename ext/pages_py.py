"""Owns the readable specification of ext/pages: entries of an LMDB file, page by page."""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

_MAGIC: Final = 0xBEEFC0DE
_FORMAT: Final = 1
_TRIES: Final = 4
_LEVELS_MAX: Final = 16
_NO_PAGE: Final = 2**64 - 1
_MUTEX_BYTES: Final = 48 if platform.machine() == "aarch64" else 40
_NEWEST_AT: Final = 8 + _MUTEX_BYTES
_BRANCH, _LEAF, _OVERFLOW, _KINDS = 1, 2, 4, 0x6F
_BIG, _SUB = 1, 2
_PAGE_HEAD: Final = struct.Struct("<QHHHH")
_PAGE_HEAD_BYTES: Final = 16
_NODE_HEAD: Final = struct.Struct("<IHH")

_Entry = tuple[bytes, bytes]


class _Unsure(Exception):
    """These pages do not say; caught within this module."""


class Pages:
    def __init__(self, data: Any, lock: Any, name: bytes) -> None:
        if not isinstance(name, bytes):
            raise TypeError(f"name must be bytes, not {type(name).__name__}")
        self._name = name
        self._data, self._lock = memoryview(data).cast("B"), memoryview(lock).cast("B")
        try:
            self._page_bytes = _page_bytes(self._data, self._lock)
        except ValueError:
            self.release()
            raise

    def release(self) -> None:
        self._data.release()
        self._lock.release()

    @property
    def txnid(self) -> int:
        self._require_open()
        return ctypes.c_uint64.from_buffer_copy(self._lock, _NEWEST_AT).value

    def seek(self, wanted: bytes) -> tuple[bytes, bytes] | tuple[()] | None:
        if not isinstance(wanted, bytes):
            raise TypeError(f"wanted must be bytes, not {type(wanted).__name__}")
        self._require_open()
        for _ in range(_TRIES):
            txnid = self.txnid
            try:
                found = self._seek_as_of(txnid, wanted)
            except _Unsure:
                continue
            if self.txnid == txnid:
                return found
        return ()

    def tree(self) -> tuple[int, int, int, int] | None:
        self._require_open()
        for _ in range(_TRIES):
            txnid = self.txnid
            try:
                depth, root = self._described(txnid)
            except _Unsure:
                continue
            if self.txnid == txnid:
                return (txnid, self._page_bytes, *((0, 0) if root == _NO_PAGE else (root, depth)))
        return None

    def is_resident(self, wanted: bytes) -> bool:
        # Without a word with the system: all is in memory.
        self.seek(wanted)
        return True

    def touch(self, wanted: Iterable[bytes]) -> None:
        keys = list(wanted)
        for one in keys:
            if not isinstance(one, bytes):
                raise TypeError(f"wanted must be bytes, not {type(one).__name__}")
        self._require_open()
        for one in keys:
            self.seek(one)

    def _require_open(self) -> None:
        try:
            len(self._data)
        except ValueError:
            raise ValueError("the pages were released") from None

    def _seek_as_of(self, txnid: int, wanted: bytes) -> _Entry | None:
        depth, root = self._described(txnid)
        return self._seek(root, depth, wanted)

    def _described(self, txnid: int) -> tuple[int, int]:
        """Levels and root of the database."""
        meta = self._data[(txnid & 1) * self._page_bytes :]
        (depth, main_root, self._last_page, written) = struct.unpack_from("<H32xQQQ", meta, 94)
        if struct.unpack_from("<I", meta, 16)[0] != _MAGIC or written != txnid or self.txnid != txnid:
            raise _Unsure
        described = self._seek(main_root, depth, self._name)
        if described is None or described[0] != self._name or len(described[1]) != 48:
            raise _Unsure
        flags, depth, root = struct.unpack_from("<4xHH32xQ", described[1])
        if flags:
            raise _Unsure
        return depth, root

    def _seek(self, root: int, depth: int, wanted: bytes) -> _Entry | None:
        if root == _NO_PAGE:
            return None
        if not 0 < depth <= _LEVELS_MAX:
            raise _Unsure
        return next(self._from(root, depth, wanted), None)

    def _from(self, number: int, depth: int, wanted: bytes | None) -> Iterator[_Entry]:
        """The entries of a page and those below it, from `wanted` on."""
        kind = _LEAF if depth == 1 else _BRANCH
        page, offsets = self._open_page(number, kind)
        low, high = (0 if kind == _LEAF else 1), len(offsets)
        high = low if wanted is None else high
        while low < high:
            middle = (low + high) // 2
            key = self._node(page, offsets[middle])[3]
            if key < (wanted or b"") or (kind == _BRANCH and key == wanted):
                low = middle + 1
            else:
                high = middle
        if kind == _LEAF:
            for offset in offsets[low:]:
                yield self._entry(page, offset)
            return
        for position in range(low - 1, len(offsets)):
            size, flags, _, _ = self._node(page, offsets[position])
            yield from self._from(size | flags << 32, depth - 1, wanted if position == low - 1 else None)

    def _open_page(self, number: int, kind: int) -> tuple[memoryview, list[int]]:
        page = self._page(number, 1)
        _, _, flags, lower, _ = _PAGE_HEAD.unpack_from(page)
        if flags & _KINDS != kind or not _PAGE_HEAD_BYTES + 2 <= lower <= self._page_bytes:
            raise _Unsure
        count = (lower - _PAGE_HEAD_BYTES) // 2
        return page, list(struct.unpack_from(f"<{count}H", page, _PAGE_HEAD_BYTES))

    def _page(self, number: int, count: int) -> memoryview:
        if number + count - 1 > self._last_page or (number + count) * self._page_bytes > len(self._data):
            raise _Unsure
        return self._data[number * self._page_bytes : (number + count) * self._page_bytes]

    def _node(self, page: memoryview, at: int) -> tuple[int, int, int, bytes]:
        """What its first four bytes say, flags, where its data are, key."""
        if at < _PAGE_HEAD_BYTES or at + _NODE_HEAD.size > self._page_bytes:
            raise _Unsure
        size, flags, key_bytes = _NODE_HEAD.unpack_from(page, at)
        start = at + _NODE_HEAD.size
        if start + key_bytes > self._page_bytes:
            raise _Unsure
        return size, flags, start + key_bytes, bytes(page[start : start + key_bytes])

    def _entry(self, page: memoryview, at: int) -> _Entry:
        size, flags, start, key = self._node(page, at)
        if flags == _BIG:
            if self._page_bytes - start < 8:
                raise _Unsure
            count = -(-(size + _PAGE_HEAD_BYTES) // self._page_bytes)
            (number,) = struct.unpack_from("<Q", page, start)
            pages = self._page(number, count)
            _, _, kind, low, high = _PAGE_HEAD.unpack_from(pages)
            if kind & _KINDS != _OVERFLOW or (low | high << 16) < count:
                raise _Unsure
            return key, bytes(pages[_PAGE_HEAD_BYTES : _PAGE_HEAD_BYTES + size])
        if flags not in (0, _SUB) or size > self._page_bytes - start:
            raise _Unsure
        return key, bytes(page[start : start + size])


def _page_bytes(data: memoryview, lock: memoryview) -> int:
    if len(data) < 1024 or struct.unpack_from("<II", data, 16) != (_MAGIC, _FORMAT):
        raise ValueError("this is no LMDB file of format 0.9")
    size = int(struct.unpack_from("<I", data, 40)[0])
    if not 512 <= size <= 65536 or len(data) < 2 * size:
        raise ValueError("the LMDB file has no size of a page that can be")
    if len(lock) < _NEWEST_AT + 8 or struct.unpack_from("<I", lock)[0] != _MAGIC:
        raise ValueError("this is no lock file of LMDB")
    return size
