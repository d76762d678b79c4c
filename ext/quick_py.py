"""Owns the readable specification of ext/quick: the quick way of a check, from its body to its answer."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from ext import keyhash_py, ordinary_py
from ext.pages_py import Pages

RECORD_BYTES_MAX: Final = 8192
SAYINGS_COUNT: Final = 13
_VALID, _UNKNOWN_CARD, _BRANCH_MISMATCH, _NOT_YET_GAINED, _LOST = range(5)
_UNKNOWN_CERTIFICATE: Final = 12
_KEY: Final = struct.Struct(">IQ")
_HEAD_BYTES: Final = 12
_ENTRY_BYTES: Final = 24
_TAIL_BYTES: Final = 4
_RECORD_VERSION: Final = 1
_CRC_RESIDUE: Final = 0x2144DF1C
_NOT_PLAIN: Final = 1 << 8 | 1 << 4 | 1 << 3 | 1 << 2
_BRANCH_SHIFT: Final = 9
_LOSS_SHIFT: Final = 5
_LOSS_MASK: Final = 7


class Quick:
    def __init__(
        self,
        table: Callable[[], Any],
        pages: Pages,
        key: bytes,
        today: Callable[[], int],
        insurer: Callable[[str, int], tuple[bytes, bytes]],
        words: Sequence[tuple[bytes, bytes, int]],
        *,
        looks_first: bool = False,
        notes: bool = False,
    ) -> None:
        if not isinstance(key, bytes):
            raise TypeError(f"key must be bytes, not {type(key).__name__}")
        if len(key) != 16:
            raise ValueError("key must have 16 bytes")
        if not isinstance(pages, Pages):
            raise TypeError(f"pages must be Pages, not {type(pages).__name__}")
        self._looks_first, self._notes = bool(looks_first), bool(notes)
        self._table = table
        self._pages = pages
        self._key = key
        self._today = today
        self._insurer = insurer
        self._words = [(bytes(head), bytes(advice), int(verdict)) for head, advice, verdict in words]
        if len(self._words) != SAYINGS_COUNT:
            raise ValueError(f"words must be {SAYINGS_COUNT} triples")
        self._facts: dict[str, Any] = {}

    @property
    def looks_first(self) -> bool:
        return self._looks_first

    @property
    def notes(self) -> bool:
        return self._notes

    @property
    def told(self) -> tuple[bytes, int]:
        return self._facts.get("caller", b""), self._facts.get("verdict", 0)

    def cold_key(self, data: bytes, start: int, stop: int) -> bytes | None:
        # In plain Python all is in memory, as far as anybody says.
        self.answer(data, start, stop)
        return None

    def answer(self, data: bytes, start: int, stop: int) -> bytes | None:
        ask = self._read(data, start, stop)
        return None if ask is None else self._answered(ask)

    def _saying_of(self, line: bytes) -> int | None:
        """What the verdict of an inquiry is, if memory alone decides it."""
        ask = self._read(line, 0, len(line))
        if ask is None:
            return None
        ask.verdict_only = True
        found = self._decided(ask)
        return None if found is None else found[0]

    def _read(self, data: bytes, start: int, stop: int) -> ordinary_py.Ask | None:
        # The day is asked for only if the inquiry names none, and so follows the one it is read for.
        ask, last = (ordinary_py.read(data, start, stop, day) for day in (ordinary_py.AS_OF_MIN, ordinary_py.AS_OF_MAX))
        if ask is not None and last is not None and (ask.by_certificate or last.as_of != ask.as_of):
            ask = ordinary_py.read(data, start, stop, self._today())
        return ask

    def _answered(self, ask: ordinary_py.Ask) -> bytes | None:
        """The answer to an ordinary inquiry, if it is ordinary too."""
        decided = self._decided(ask)
        if decided is None:
            return None
        saying, version, matches = decided
        head, advice, _ = self._words[saying]
        if ask.verdict_only or not matches:
            fresh_at = b"null" if ask.insurer_number is None else self._insurer(ask.insurer_number, version)[1]
            return ask.bare(head, version, fresh_at, advice)
        record = self._record(matches[0][0], version)
        insurer_number = None if record is None else ask.insurer_of(record, 0, len(record))
        if record is None or insurer_number is None:
            return None
        return ask.answer(record, 0, len(record), version, *self._insurer(insurer_number, version), advice)

    def _decided(self, ask: ordinary_py.Ask) -> tuple[int, int, list[Any]] | None:
        """What is said, as of which version, about whom; noted for the record."""
        table = self._table()
        version = self._version(table, ask)
        matches = table.find_message(self._key, ask.message)
        if version < 0 or self._version(table, ask) != version or len(matches) > 1:
            return None
        saying: int | None = _VALID
        if not matches:
            saying = _UNKNOWN_CERTIFICATE if ask.by_certificate else _UNKNOWN_CARD
        elif ask.verdict_only:
            saying = _said(ask, matches[0])
        if saying is None:
            return None
        self._facts = {
            "kind": 2 if ask.by_certificate else 1,
            "purpose": ordinary_py.PURPOSES.index(ask._purpose) + 1,
            "verdict": self._words[saying][2],
            "flags": (8 if ask.verdict_only else 0) | (2 if any(ask._consent.values()) else 0),
            "as_of": ask.as_of,
            "version": version,
            "caller": ask.institution.encode(),
            "inquiry": keyhash_py.siphash128(self._key, ask.message),
            "person": matches[0][0] if matches else None,
        }
        return saying, version, matches

    @staticmethod
    def _version(table: Any, ask: ordinary_py.Ask) -> int:
        """Records are read as of the visible version; what memory alone says must be whole at it."""
        return int(table.still() if ask.verdict_only else table.visible_seq)

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


def _said(ask: ordinary_py.Ask, match: tuple[int, int, int, int]) -> int | None:
    """What can be said of a card whose one match this is, from memory alone."""
    _, gained, lost, aux = match
    if ask.by_certificate or aux & _NOT_PLAIN:
        return None
    if ask.branch is not None and aux >> _BRANCH_SHIFT != ask.branch:
        return _BRANCH_MISMATCH
    if gained <= ask.as_of < lost:
        return _VALID
    return _NOT_YET_GAINED if gained > ask.as_of else _LOST + (aux >> _LOSS_SHIFT & _LOSS_MASK)
