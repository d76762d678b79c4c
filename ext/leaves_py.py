"""Owns the readable specification of ext/leaves: children of branches, packed entries of leaves."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

_PAGE_HEAD: Final = struct.Struct("<QHHHH")
_PAGE_HEAD_BYTES: Final = 16
_NODE_HEAD: Final = struct.Struct("<IHH")
_VERSION_KEY: Final = struct.Struct(">IQ")
_LEAF_ROW: Final = struct.Struct("=III")
_PERSON: Final = struct.Struct("=I")
_BRANCH, _LEAF, _KINDS, _BIG = 1, 2, 0x6F, 1
_RECORD_VERSION: Final = 1
_RECORD_HEAD_BYTES: Final = 12
_ENTRY_BYTES: Final = 24

_Big = tuple[int, int, int, bool]


def children(page: Any, number: int) -> list[int]:
    page = memoryview(page).cast("B")
    _require_page_bytes(len(page))
    found = []
    for at in _places(page, number, _BRANCH):
        low, high, _ = _NODE_HEAD.unpack_from(page, at)
        found.append(low | high << 32)
    return found


def current(
    block: Any, page_bytes: int, first: int, numbers: bytes, follows: bytes, seq: int
) -> tuple[int, bytes, bytes, bytes, bytes, list[_Big]]:
    _require_page_bytes(page_bytes)
    if len(numbers) != 8 * len(follows):
        raise ValueError("numbers and follows must be of the same pages")
    block = memoryview(block).cast("B")
    taken = _Taken(len(follows) * (page_bytes // _ENTRY_BYTES + 1))
    before = 0
    for leaf, (number,) in enumerate(struct.iter_unpack("=Q", numbers)):
        if not 0 <= number - first < len(block) // page_bytes:
            raise ValueError("a page is not in the block")
        page = block[(number - first) * page_bytes : (number - first + 1) * page_bytes]
        before = taken.leaf(page, number, seq, before if leaf and follows[leaf] else None)
    return taken.versions, bytes(taken.persons), bytes(taken.entries), bytes(taken.firsts), bytes(taken.rows), taken.big


class _Taken:
    """What has been taken so far."""

    def __init__(self, room: int) -> None:
        self._room_bytes = room * _ENTRY_BYTES
        self._leaf = -1
        self.versions = 0
        self.persons, self.entries, self.firsts, self.rows = bytearray(), bytearray(), bytearray(), bytearray()
        self.big: list[_Big] = []

    def leaf(self, page: memoryview, number: int, seq: int, before: int | None) -> int:
        """Take one leaf. Args: before: the last person of the leaf before, if that was read just now."""
        self._leaf += 1
        last, found, first_person, first_bytes = before or 0, 0, 0, len(self.firsts)
        for position, (person, changed, value, big) in enumerate(_versions(page, number)):
            self.versions += 1
            first_person = person if position == 0 else first_person
            if changed > seq:
                continue
            is_known = person == last
            last = found = person
            if is_known:
                continue
            is_first = before is None and person == first_person
            if big:
                self.big.append((self._leaf, person, big, is_first))
            elif is_first:
                self.firsts += _entries(value, self._room_bytes - len(self.firsts))
            else:
                entries = _entries(value, self._room_bytes - len(self.entries))
                self.entries += entries
                self.persons += _PERSON.pack(person) * (len(entries) // _ENTRY_BYTES)
        self.rows += _LEAF_ROW.pack(first_person, (len(self.firsts) - first_bytes) // _ENTRY_BYTES, found)
        return found


def _require_page_bytes(size: int) -> None:
    if not 512 <= size <= 65536:
        raise ValueError("a page cannot have this size")


def _places(page: memoryview, number: int, kind: int) -> Iterator[int]:
    """Where the nodes of a page are; their heads are within it."""
    itself, _, flags, lower, _ = _PAGE_HEAD.unpack_from(page)
    if itself != number or flags & _KINDS != kind or not _PAGE_HEAD_BYTES <= lower <= len(page):
        raise ValueError(f"this is not that {'leaf' if kind == _LEAF else 'branch'} page")
    for index in range((lower - _PAGE_HEAD_BYTES) // 2):
        (at,) = struct.unpack_from("<H", page, _PAGE_HEAD_BYTES + 2 * index)
        if at < _PAGE_HEAD_BYTES or at + _NODE_HEAD.size > len(page):
            raise ValueError("a node is not within its page")
        yield at


def _versions(page: memoryview, number: int) -> Iterator[tuple[int, int, memoryview, int]]:
    """Person, change, record, and the page that has it instead (0: none)."""
    for at in _places(page, number, _LEAF):
        size, flags, key_bytes = _NODE_HEAD.unpack_from(page, at)
        start = at + _NODE_HEAD.size + _VERSION_KEY.size
        needed = 8 if flags == _BIG else size
        if key_bytes != _VERSION_KEY.size or flags not in (0, _BIG) or start + needed > len(page):
            raise ValueError("a node is not within its page")
        person, inverted = _VERSION_KEY.unpack_from(page, at + _NODE_HEAD.size)
        big = struct.unpack_from("<Q", page, start)[0] if flags == _BIG else 0
        if flags == _BIG and big == 0:
            raise ValueError("a node is not within its page")
        yield person, 2**64 - 1 - inverted, page[start : start + needed], big


def _entries(value: memoryview, room_bytes: int) -> memoryview:
    if len(value) < _RECORD_HEAD_BYTES or value[0] != _RECORD_VERSION:
        raise ValueError("a record has an unknown layout")
    size = _ENTRY_BYTES * value[1]
    if len(value) < _RECORD_HEAD_BYTES + size or size > room_bytes:
        raise ValueError("a record has an unknown layout")
    return value[_RECORD_HEAD_BYTES : _RECORD_HEAD_BYTES + size]
