"""Owns the readable specification of ext/quick: the quick way of a check, from its body to its answer."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

from ext import ordinary_py
from ext.pages_py import Pages

RECORD_BYTES_MAX: Final = 8192
_KEY: Final = struct.Struct(">IQ")
_HEAD_BYTES: Final = 12
_ENTRY_BYTES: Final = 24
_TAIL_BYTES: Final = 4
_RECORD_VERSION: Final = 1
_CRC_RESIDUE: Final = 0x2144DF1C


class Quick:
    def __init__(
        self,
        table: Callable[[], Any],
        pages: Pages,
        key: bytes,
        today: Callable[[], int],
        insurer: Callable[[str, int], tuple[bytes, bytes]],
        advice: bytes,
    ) -> None:
        for value, name, size in ((key, "key", 16), (advice, "advice", None)):
            if not isinstance(value, bytes):
                raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
            if size is not None and len(value) != size:
                raise ValueError(f"{name} must have {size} bytes")
        if not isinstance(pages, Pages):
            raise TypeError(f"pages must be Pages, not {type(pages).__name__}")
        self._table = table
        self._pages = pages
        self._key = key
        self._today = today
        self._insurer = insurer
        self._advice = advice

    def answer(self, data: bytes, start: int, stop: int) -> bytes | None:
        # The day is asked for only if the inquiry names none, and so follows the one it is read for.
        ask, last = (ordinary_py.read(data, start, stop, day) for day in (ordinary_py.AS_OF_MIN, ordinary_py.AS_OF_MAX))
        if ask is not None and last is not None and last.as_of != ask.as_of:
            ask = ordinary_py.read(data, start, stop, self._today())
        if ask is None:
            return None
        table = self._table()
        version = table.visible_seq
        matches = table.find_message(self._key, ask.message)
        if len(matches) != 1 or table.visible_seq != version:
            return None
        record = self._record(matches[0][0], version)
        if record is None:
            return None
        name, fresh_at = self._insurer(ask.insurer_number, version)
        return ask.answer(record, 0, len(record), version, name, fresh_at, self._advice)

    def _record(self, number: int, version: int) -> bytes | None:
        """The Person of a record that is whole, in MessagePack."""
        wanted = _KEY.pack(number, 2**64 - 1 - version)
        found = self._pages.seek(wanted)
        if not found:
            return None
        key, value = found
        if len(key) != len(wanted) or key[:4] != wanted[:4] or len(value) > RECORD_BYTES_MAX:
            return None
        if len(value) < _HEAD_BYTES + _TAIL_BYTES:
            return None
        if zlib.crc32(value, zlib.crc32(key)) != _CRC_RESIDUE or value[0] != _RECORD_VERSION:
            return None
        start, stop = _HEAD_BYTES + _ENTRY_BYTES * value[1], len(value) - _TAIL_BYTES
        return value[start:stop] if start <= stop else None
