"""Owns the readable specification of ext/probe: the table in the caller's buffer, in plain Python.

It reads and writes the same bytes as the compiled module and follows the same steps. It is meant for one process at a
time: Python cannot promise in which order its stores reach another one.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from ext.arrays_py import checked_array, writeable_array
from ext.canon_py import card_message
from ext.keyhash_py import siphash128

FORM_ATOMIC16 = 1
FORM_VERSIONED = 2
HEADER_BYTES = 12288
LINE_BYTES = 64
SLOTS_PER_LINE = 4
ENTRY_BYTES = 24
MATCHES_MAX = 64
WALKS = ("plain",)
MATCH_DTYPE = np.dtype([("person", "<u4"), ("gained", "<u2"), ("lost", "<u2"), ("aux", "<u2"), ("reserved", "<u2")])

_MAGIC = b"SHIKIDX\x01"
_LAYOUT_VERSION = 1
_CHECKED_BYTES = 124
_LINES_MAX = 2**40
_STRIPES = 1024
_PROVISIONAL = 1
_OVERFLOW = 2
_AUX_MASK = 0xFFFC
_UNSETTLED = 1 << 63
_TRIES_MAX = 1_000_000

# Positions of 8-byte words in the segment.
_RETIRED, _VISIBLE_SEQ, _INSURERS_VERSION = 16, 17, 18
_COUNT, _PROVISIONAL_COUNT, _APPLIED_SEQ, _REDO_SLOT, _REDO_W0, _REDO_W1 = 24, 25, 26, 27, 28, 29
_VERSIONS = 512
_SLOTS = 1536

_Row = tuple[int, int, int, int]
_Array = NDArray[Any]


class TableError(ValueError):
    pass


class TableFullError(RuntimeError):
    pass


class CrowdedError(RuntimeError):
    pass


class BusyError(RuntimeError):
    pass


def atomic16_supported() -> bool:
    return False


def segment_bytes(lines: int) -> int:
    _check_integer(lines, "lines", 1, _LINES_MAX)
    return HEADER_BYTES + lines * LINE_BYTES


def format(
    buffer: Any,
    *,
    form: int,
    lines: int,
    generation: int = 0,
    store_id: bytes = bytes(16),
    key_id: bytes = bytes(8),
) -> None:
    _check_integer(form, "form", 1, 2)
    _check_integer(generation, "generation", 0, 2**64 - 1)
    _check_sized(store_id, "store_id", 16)
    _check_sized(key_id, "key_id", 8)
    needed = segment_bytes(lines)
    with _writable_bytes(buffer) as view:
        if len(view) < needed:
            raise TableError(f"{lines} lines need {needed} bytes")
        words = [(_LAYOUT_VERSION, 4), (form, 4), (lines, 8), (generation, 8)]
        fixed = _MAGIC + b"".join(value.to_bytes(size, "little") for value, size in words)
        fixed += store_id + key_id + len(view).to_bytes(8, "little")
        fixed = fixed.ljust(_CHECKED_BYTES, b"\0")
        view[: _CHECKED_BYTES + 4] = fixed + zlib.crc32(fixed).to_bytes(4, "little")


class Table:
    def __init__(
        self,
        buffer: Any,
        *,
        writable: bool = False,
        provisional: bool = False,
        follow: Callable[[], Table] | None = None,
        walk: str = "plain",
    ) -> None:
        if walk not in WALKS:
            raise ValueError(f"walk must be one of {', '.join(WALKS)}")
        view = _writable_bytes(buffer) if writable else memoryview(buffer).cast("B")
        try:
            self.form, self.lines = _checked_header(view)
        except BaseException:
            view.release()
            raise
        self._words: memoryview | None = view[: len(view) // 8 * 8].cast("Q")
        self._view = view
        self._hidden = 0 if provisional else _PROVISIONAL
        self.writable = bool(writable)
        self._follow = follow
        self._lock = threading.Lock()

    def release(self) -> None:
        if self._words is not None:
            self._words.release()
            self._view.release()
            self._words = None

    @property
    def generation(self) -> int:
        return self._live()[3]

    @property
    def store_id(self) -> bytes:
        self._live()
        return bytes(self._view[32:48])

    @property
    def key_id(self) -> bytes:
        self._live()
        return bytes(self._view[48:56])

    @property
    def retired(self) -> bool:
        return self._live()[_RETIRED] != 0

    @property
    def visible_seq(self) -> int:
        if self.retired and self._follow is not None:
            return self._follow().visible_seq
        return self._live()[_VISIBLE_SEQ]

    @visible_seq.setter
    def visible_seq(self, value: int) -> None:
        _check_integer(value, "visible_seq", 0, 2**64 - 1)
        self._writable()[_VISIBLE_SEQ] = value

    @property
    def insurers_version(self) -> int:
        if self.retired and self._follow is not None:
            return self._follow().insurers_version
        return self._live()[_INSURERS_VERSION]

    @insurers_version.setter
    def insurers_version(self, value: int) -> None:
        _check_integer(value, "insurers_version", 0, 2**64 - 1)
        self._writable()[_INSURERS_VERSION] = value

    @property
    def settled_seq(self) -> int:
        if self.retired and self._follow is not None:
            return self._follow().settled_seq
        word = self._live()[_APPLIED_SEQ]
        return -1 if word & _UNSETTLED else word

    def still(self) -> int:
        if self.retired and self._follow is not None:
            return self._follow().still()
        visible, applied = self._live()[_VISIBLE_SEQ], self._live()[_APPLIED_SEQ]
        return visible if applied == visible else -1

    @property
    def applied_seq(self) -> int:
        return self._live()[_APPLIED_SEQ] & ~_UNSETTLED

    @applied_seq.setter
    def applied_seq(self, value: int) -> None:
        _check_integer(value, "applied_seq", 0, 2**63 - 1)
        self._writable()[_APPLIED_SEQ] = value

    def unsettle(self) -> None:
        self._writable()[_APPLIED_SEQ] |= _UNSETTLED

    @property
    def count(self) -> int:
        return self._live()[_COUNT]

    @property
    def provisional_count(self) -> int:
        return self._live()[_PROVISIONAL_COUNT]

    def retire(self) -> None:
        self._writable()[_RETIRED] = 1

    def find(self, digest: bytes) -> tuple[_Row, ...]:
        lo, hi = _digest_words(digest)
        if self._live()[_RETIRED] and self._follow is not None:
            return self._follow().find(digest)
        return tuple(self._find(lo, hi))

    def find_message(self, key: bytes, message: bytes) -> tuple[_Row, ...]:
        _check_sized(key, "key", 16)
        if not isinstance(message, bytes):
            raise TypeError("message must be bytes")
        return self.find(siphash128(key, message))

    def find_card(
        self, key: bytes, insurer_number: str, birth_date: int, symbol_key: str, number_key: str
    ) -> tuple[_Row, ...]:
        _check_sized(key, "key", 16)
        return self.find_message(key, card_message(insurer_number, birth_date, symbol_key, number_key))

    def find_many(self, hashes: _Array, counts: _Array, matches: _Array) -> tuple[int, int]:
        _check_hashes(hashes)
        _check_outputs(counts, matches, len(hashes))
        self._live()
        used = 0
        for position, (lo, hi) in enumerate(hashes.tolist()):
            if len(matches) - used < MATCHES_MAX:
                return position, used
            found = self._find(lo, hi)
            counts[position] = len(found)
            for match in found:
                matches[used] = (*match, 0)
                used += 1
        return len(hashes), used

    def find_many_rows(
        self, key: bytes, rows: _Array, lengths: _Array, counts: _Array, matches: _Array
    ) -> tuple[int, int]:
        _check_sized(key, "key", 16)
        checked_array(rows, "rows", "uint8", 2)
        checked_array(lengths, "lengths", "uint16", 1)
        if len(lengths) != len(rows):
            raise ValueError("lengths must have one element a row")
        _check_outputs(counts, matches, len(rows))
        self._live()
        if len(rows) and int(lengths.max()) > rows.shape[1]:
            raise ValueError("a length is more than the width of rows")
        digests = b"".join(
            siphash128(key, row[:length].tobytes()) for row, length in zip(rows, lengths.tolist(), strict=True)
        )
        hashes = np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2)
        return self.find_many(hashes, counts, matches)

    def gather(self, hashes: _Array, distance: int = 16) -> int:
        _check_hashes(hashes)
        _check_integer(distance, "distance", 0, 1024)
        words = self._live()
        total: int = sum(words[_SLOTS + (lo * self.lines >> 64) * 8] for lo in hashes[:, 0].tolist())
        return total % 2**64

    def insert(self, digest: bytes, person: int, gained: int, lost: int, aux: int, provisional: bool = False) -> bool:
        self._writable()
        lo, hi = _digest_words(digest)
        w1 = _date_word(person, gained, lost)
        return self._insert(lo, hi, _aux_word(aux) | (_PROVISIONAL if provisional else 0), w1)

    def remove(self, digest: bytes, person: int, gained: int, lost: int, aux: int) -> bool:
        self._writable()
        lo, hi = _digest_words(digest)
        w1 = _date_word(person, gained, lost)
        return self._remove(lo, hi, _aux_word(aux), w1)

    def replace(
        self, digest: bytes, person: int, gained: int, lost: int, aux: int, new_gained: int, new_lost: int, new_aux: int
    ) -> bool:
        words = self._writable()
        lo, hi = _digest_words(digest)
        w1, new_w1 = _date_word(person, gained, lost), _date_word(person, new_gained, new_lost)
        aux, new_aux = _aux_word(aux), _aux_word(new_aux)
        other, _ = self._locate(lo, hi, new_aux, new_w1)
        position, _ = self._locate(lo, hi, aux, w1)
        if position is None:
            return False
        if other is None:
            self._write(position, words[_SLOTS + 2 * position] & ~_AUX_MASK | new_aux, new_w1)
        elif other != position:
            self._clear(position)
        return True

    def insert_many(self, persons: _Array, entries: Any, provisional: bool = False) -> int:
        flag = _PROVISIONAL if provisional else 0
        return self._apply(
            persons, entries, lambda lo, hi, aux, w1, _: self._insert(lo, hi, aux | flag, w1), writing=True
        )

    def remove_many(self, persons: _Array, entries: Any) -> int:
        return self._apply(persons, entries, lambda lo, hi, aux, w1, _: self._remove(lo, hi, aux, w1), writing=True)

    def contains_many(self, persons: _Array, entries: Any, missing: _Array | None = None) -> int:
        if missing is not None:
            writeable_array(missing, "missing", "uint8", 1)
            if len(missing) != len(persons):
                raise ValueError("missing must have one element an entry")

        def look(lo: int, hi: int, aux: int, w1: int, row: int) -> bool:
            there = self._locate(lo, hi, aux, w1)[0] is not None
            if missing is not None:
                missing[row] = not there
            return there

        return self._apply(persons, entries, look, writing=False)

    def sweep(self) -> int:
        words = self._writable()
        swept = kept = 0
        for index in range(_SLOTS, _SLOTS + 8 * self.lines, 2):
            if words[index] < 0x10000:
                continue
            if words[index] & _PROVISIONAL:
                words[index] &= _OVERFLOW
                swept += 1
            else:
                kept += 1
        words[_COUNT], words[_PROVISIONAL_COUNT] = kept, 0
        return swept

    def repair(self) -> int:
        words = self._writable()
        repaired = 0
        position = words[_REDO_SLOT]
        for stripe in range(_STRIPES):
            if words[_VERSIONS + stripe] & 1:
                if position // 4 < self.lines and position // 4 % _STRIPES == stripe:
                    words[_SLOTS + 2 * position + 1] = words[_REDO_W1]
                    words[_SLOTS + 2 * position] = words[_REDO_W0]
                words[_VERSIONS + stripe] += 1
                repaired += 1
        return repaired

    def scan(self) -> dict[str, int]:
        words = self._live()
        slots = [words[_SLOTS + 2 * position] for position in range(4 * self.lines)]
        entries = [w0 for w0 in slots if w0 >= 0x10000]
        return {
            "entries": len(entries),
            "provisional": sum(w0 & _PROVISIONAL for w0 in entries),
            "overflowing_lines": sum(any(w0 & _OVERFLOW for w0 in slots[i : i + 4]) for i in range(0, len(slots), 4)),
            "torn_stripes": sum(words[_VERSIONS + stripe] & 1 for stripe in range(_STRIPES)),
        }

    # --- the steps --------------------------------------------------------------------------------------------

    def _live(self) -> memoryview:
        if self._words is None:
            raise ValueError("the table was released")
        return self._words

    def _writable(self) -> memoryview:
        if not self.writable:
            raise ValueError("the table is read-only")
        if self._lock.locked():
            raise RuntimeError("another thread is writing to this table")
        return self._live()

    @contextmanager
    def _writing(self) -> Iterator[memoryview]:
        words = self._writable()
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("another thread is writing to this table")
        try:
            yield words
        finally:
            self._lock.release()

    def _chain(self, lo: int) -> Iterator[int]:
        """The lines to look at for a key: on from its home line while the overflow bit of its class is set."""
        words = self._live()
        line = lo * self.lines >> 64
        for _ in range(self.lines):
            yield line
            if not words[_SLOTS + 8 * line + 2 * (lo & 3)] & _OVERFLOW:
                return
            line = (line + _stride(lo)) % self.lines

    def _find(self, lo: int, hi: int) -> list[_Row]:
        tag = _tag(hi)
        found: list[_Row] = []
        for line in self._chain(lo):
            self._await_line(line)
            for w0, w1 in self._slots(line):
                if (w0 ^ tag) < 0x10000 and not w0 & self._hidden:
                    if len(found) == MATCHES_MAX:
                        _fail_crowded()
                    found.append((w1 >> 32, w1 & 0xFFFF, w1 >> 16 & 0xFFFF, w0 & _AUX_MASK))
        return found

    def _await_line(self, line: int) -> None:
        words = self._live()
        if self.form == FORM_VERSIONED:
            for _ in range(_TRIES_MAX):
                if not words[_VERSIONS + line % _STRIPES] & 1:
                    return
            raise BusyError("a change was not finished: the writer must be started again")

    def _slots(self, line: int) -> list[tuple[int, int]]:
        words = self._live()[_SLOTS + 8 * line : _SLOTS + 8 * line + 8].tolist()
        return list(zip(words[::2], words[1::2], strict=True))

    def _locate(self, lo: int, hi: int, aux: int, w1: int) -> tuple[int | None, tuple[int | None, int, int]]:
        """The slot of exactly this entry, and (the first free slot, entries with this tag, the chain's last line)."""
        tag = _tag(hi)
        free: int | None = None
        same = line = 0
        for line in self._chain(lo):
            for position, (w0, slot_w1) in enumerate(self._slots(line)):
                if w0 < 0x10000:
                    free = line * 4 + position if free is None else free
                elif (w0 ^ tag) < 0x10000:
                    if slot_w1 == w1 and not (w0 ^ aux) & _AUX_MASK:
                        return line * 4 + position, (free, same, line)
                    same += 1
        return None, (free, same, line)

    def _extend(self, lo: int, last: int) -> int | None:
        """The next free slot behind a chain that is full; marks the lines on the way."""
        words = self._live()
        if words[_SLOTS + 8 * last + 2 * (lo & 3)] & _OVERFLOW:
            return None
        for step in range(1, self.lines):
            line = (last + step * _stride(lo)) % self.lines
            for position, (w0, _) in enumerate(self._slots(line)):
                if w0 < 0x10000:
                    for passed in range(step):
                        words[_SLOTS + 8 * ((last + passed * _stride(lo)) % self.lines) + 2 * (lo & 3)] |= _OVERFLOW
                    return line * 4 + position
        return None

    def _insert(self, lo: int, hi: int, aux: int, w1: int) -> bool:
        words = self._live()
        position, (free, same, last) = self._locate(lo, hi, aux, w1)
        if position is not None:
            if words[_SLOTS + 2 * position] & _PROVISIONAL and not aux & _PROVISIONAL:
                words[_SLOTS + 2 * position] &= ~_PROVISIONAL
                words[_PROVISIONAL_COUNT] -= 1
            return False
        if same >= MATCHES_MAX:
            _fail_crowded()
        if free is None:
            free = self._extend(lo, last)
        if free is None:
            raise TableFullError("no slot of the table is free")
        self._write(free, _tag(hi) | aux | words[_SLOTS + 2 * free] & _OVERFLOW, w1)
        words[_COUNT] += 1
        words[_PROVISIONAL_COUNT] += aux & _PROVISIONAL
        return True

    def _remove(self, lo: int, hi: int, aux: int, w1: int) -> bool:
        position, _ = self._locate(lo, hi, aux, w1)
        if position is None:
            return False
        self._clear(position)
        return True

    def _clear(self, position: int) -> None:
        words = self._live()
        words[_PROVISIONAL_COUNT] -= words[_SLOTS + 2 * position] & _PROVISIONAL
        words[_SLOTS + 2 * position] &= _OVERFLOW
        words[_COUNT] -= 1

    def _write(self, position: int, w0: int, w1: int) -> None:
        words = self._live()
        stripe = _VERSIONS + position // 4 % _STRIPES
        if self.form == FORM_VERSIONED:
            words[_REDO_SLOT], words[_REDO_W0], words[_REDO_W1] = position, w0, w1
            words[stripe] += 1
        words[_SLOTS + 2 * position + 1] = w1
        words[_SLOTS + 2 * position] = w0
        if self.form == FORM_VERSIONED:
            words[stripe] += 1

    def _apply(
        self, persons: _Array, entries: Any, step: Callable[[int, int, int, int, int], bool], *, writing: bool
    ) -> int:
        if writing:
            self._writable()
        else:
            self._live()
        checked_array(persons, "persons", "uint32", 1)
        packed = memoryview(entries).cast("B")
        if len(packed) != len(persons) * ENTRY_BYTES:
            raise ValueError(f"entries must have {ENTRY_BYTES} bytes for each person")
        rows = np.frombuffer(packed, "<u8").reshape(-1, 3).tolist()
        for *_, rest in rows:
            if rest >> 32 & 3:
                raise ValueError("the two low bits of aux belong to the table")
        applied = 0
        with self._writing() if writing else nullcontext():
            for row, (person, (lo, hi, rest)) in enumerate(zip(persons.tolist(), rows, strict=True)):
                applied += step(lo, hi, rest >> 32 & _AUX_MASK, person << 32 | rest & 0xFFFFFFFF, row)
        return applied


# --- checks ---------------------------------------------------------------------------------------------------


def _checked_header(view: memoryview) -> tuple[Literal[1, 2], int]:
    if len(view) < HEADER_BYTES:
        raise TableError("the segment is smaller than its header")
    fixed = bytes(view[:_CHECKED_BYTES])
    form, lines = int.from_bytes(fixed[12:16], "little"), int.from_bytes(fixed[16:24], "little")
    if fixed[:8] != _MAGIC:
        raise TableError("the segment has not the magic of an index")
    if int.from_bytes(fixed[8:12], "little") != _LAYOUT_VERSION:
        raise TableError("the segment has another layout version")
    if zlib.crc32(fixed) != int.from_bytes(view[_CHECKED_BYTES : _CHECKED_BYTES + 4], "little"):
        raise TableError("the header does not fit its checksum")
    if form not in (FORM_ATOMIC16, FORM_VERSIONED):
        raise TableError("the header names an unknown form")
    room = (len(view) - HEADER_BYTES) // LINE_BYTES
    if int.from_bytes(fixed[56:64], "little") != len(view) or not 1 <= lines <= room:
        raise TableError("the segment has not the size that its header says")
    return (1 if form == FORM_ATOMIC16 else 2), lines


def _writable_bytes(buffer: Any) -> memoryview:
    view = memoryview(buffer)
    if view.readonly:
        view.release()
        raise BufferError("Object is not writable.")
    return view.cast("B")


def _tag(hi: int) -> int:
    return hi & ~0xFFFF or 0x10000


def _stride(lo: int) -> int:
    """How many lines on from a full line a key of this class goes: each class has steps of its own."""
    return 1 << (lo & 3)


def _fail_crowded() -> NoReturn:
    raise CrowdedError(f"a key would have more than {MATCHES_MAX} entries")


def _check_integer(value: object, name: str, least: int, most: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}")


def _check_sized(value: object, name: str, size: int) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes")
    if len(value) != size:
        raise ValueError(f"{name} must have {size} bytes")


def _digest_words(digest: bytes) -> tuple[int, int]:
    _check_sized(digest, "digest", 16)
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _date_word(person: int, gained: int, lost: int) -> int:
    _check_integer(person, "person", 0, 2**32 - 1)
    _check_integer(gained, "gained", 0, 2**16 - 1)
    _check_integer(lost, "lost", 0, 2**16 - 1)
    return person << 32 | lost << 16 | gained


def _aux_word(aux: int) -> int:
    _check_integer(aux, "aux", 0, 2**16 - 1)
    if aux & ~_AUX_MASK:
        raise ValueError("the two low bits of aux belong to the table")
    return aux


def _check_hashes(hashes: _Array) -> None:
    checked_array(hashes, "hashes", "uint64", 2)
    if hashes.shape[1] != 2:
        raise ValueError("hashes must have the shape (n, 2)")


def _check_outputs(counts: object, matches: object, n: int) -> None:
    if len(writeable_array(counts, "counts", "uint8", 1)) != n:
        raise ValueError("counts must have one element a key")
    if not isinstance(matches, np.ndarray):
        raise TypeError("matches must be a numpy array")
    if matches.dtype != MATCH_DTYPE or matches.ndim != 1:
        raise ValueError("matches must have MATCH_DTYPE and one dimension")
    if not matches.flags.c_contiguous or not matches.flags.writeable:
        raise ValueError("matches must be C-contiguous and writeable")
