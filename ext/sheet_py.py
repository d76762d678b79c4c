"""Owns the readable specification of ext/sheet: the plain lines of a CSV by the caller's plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from ext.arrays_py import writeable_array

TEXT, KANA, IDENTIFIER, NUMBER, LINK, SERIAL, DATE, POSTCODE, RATIO, BRANCH, CODE, KNOWN = range(1, 13)
LITERAL, PACKED, RAW, DECIMAL, KEY_PACKED, KEY_RAW, UNLESS = range(1, 8)
VALUE, FILLED = range(2)
CELLS_MAX = 64
CELL_BYTES_MAX = 1024
KNOWN_MAX = 4096
HEAD_NUMBERS = 3

Step = tuple[int, int, int, bytes]
Cell = tuple[int, int, int, bytes, int, Sequence[tuple[bytes, bytes, int]], Callable[[bytes], Any] | None]

_STEPS_MAX, _CODES_MAX, _MESSAGES_MAX, _NUMBERS_MAX, _RULES_MAX = 128, 256, 4, 32, 16
_MESSAGE_BYTES_MAX = 65535
_INT64 = -(2**63), 2**63 - 1
_MY_NUMBER_DIGITS = 12
_DAY_0 = date(1920, 1, 1).toordinal()

_LETTERS = "A-Za-zぁ-ゖァ-ヺ㐀-䶿一-鿿Ａ-Ｚａ-ｚｦ-ﾝ\U00020000-\U0002a6df"
_LETTER = re.compile(f"[{_LETTERS}]")
_DIGIT = re.compile("[0-9０-９]")
_TEXT = re.compile(f"[{_LETTERS} -~　-。々-〇ゝゞ・-ヾ‐-―−！-～｡-ﾟ]+")
_KANA = re.compile("(?:[ぁ-ゖァ-ヺA-Za-z0-9 .,'()/&\\-ゝゞ・-ヾ‐−･-ﾝ]|[ｳｶ-ﾄﾊ-ﾎﾜｦ]ﾞ|[ﾊ-ﾎ]ﾟ)+")
_HALF_WIDTH = re.compile("[･-ﾟ]+")
_IDENTIFIER = re.compile("[ -~ぁ-ゖァ-ヺ㐀-䶿一-鿿！-～・ー‐-―−　]+")
_FOLDED = {
    **{code: chr(code - 0xFEE0).upper() for code in range(0xFF01, 0xFF5F)},
    **{ord(letter): letter.upper() for letter in "abcdefghijklmnopqrstuvwxyz"},
    **dict.fromkeys(map(ord, "ー−‐‑‒–—―"), "-"),
    **dict.fromkeys(map(ord, " /／　・")),
}
_LINK = re.compile("[!-~]+")
_ASCII_LETTER = re.compile("[A-Za-z]")
_SERIAL = re.compile("[1-9A-Fa-f][0-9A-Fa-f]*")
_DATE = re.compile("([0-9]{4})(-?)([0-9]{2})\\2([0-9]{2})")
_POSTCODE = re.compile("([0-9]{3})-?([0-9]{4})")
_RATIO = re.compile("0[0-9]{2}|100")
_BRANCH = re.compile("[0-9]{1,2}")
_ELDERLY = re.compile("[0-9]{8}")


class _Value(NamedTuple):
    """What a cell is: packed in MessagePack, as text, its key, its number."""

    packed: bytes
    raw: bytes = b""
    key: bytes = b""
    number: int = 0


class _NoRoomError(Exception):
    """A row's record or message does not fit."""


class Plan:
    def __init__(
        self,
        cells: Sequence[Cell],
        width: int,
        op: int,
        groups: Sequence[tuple[Sequence[int], Sequence[int]]],
        periods: Sequence[tuple[int, int]],
        marked: tuple[int, Sequence[int], int] | None,
        record: Sequence[Step],
        messages: Sequence[Sequence[Step]],
        numbers: Sequence[tuple[int, int]],
    ) -> None:
        if hasattr(self, "_cells"):
            raise ValueError("a plan is made once")
        self._cells: list[Cell] = []
        self._memos: dict[int, dict[bytes, _Value]] = {}
        self._last: dict[int, tuple[bytes, _Value]] = {}
        self._busy = False
        self._cell_count = _count(cells, "cells", 1, CELLS_MAX)
        self.width = _integer(width, "width", 1, self._cell_count)
        code_count = 0
        for cell in cells:
            code_count += self._add_cell(cell, _CODES_MAX - code_count)
        self._op = self._cell(op)
        if self._cells[op][0] != CODE:
            raise ValueError("op must be a CODE")
        self._set_rules(groups, periods, marked)
        _count(messages, "messages", 0, _MESSAGES_MAX)
        self._programs: list[list[Step]] = []
        for steps in [record, *messages]:
            self._add_steps(steps)
        _count(numbers, "numbers", 0, _NUMBERS_MAX)
        self._numbers = []
        for number in numbers:
            place, what = _parts(number, "a number", 2)
            self._numbers.append((self._cell(place), _integer(what, "what is noted", VALUE, FILLED)))

    def _cell(self, cell: Any) -> int:
        return _integer(cell, "a cell's place", 0, self._cell_count - 1)

    def _set_of(self, cells: Any) -> set[int]:
        _count(cells, "cells", 0, CELLS_MAX)
        return {self._cell(cell) for cell in cells}

    def _add_cell(self, cell: Any, codes_max: int) -> int:
        kind, bound, required, absent, absent_number, codes, resolve = _parts(cell, "a cell", 7)
        _integer(kind, "kind", TEXT, KNOWN)
        _integer(bound, "bound", *_INT64)
        _integer(required, "required", 0, 2**32 - 1)
        _written(absent)
        _integer(absent_number, "absent_number", *_INT64)
        count = _count(codes, "codes", 0, codes_max)
        for code in codes:
            text, packed, number = _parts(code, "a code", 3)
            _written(text)
            _written(packed)
            _integer(number, "a code's number", *_INT64)
        if callable(resolve) != (kind == KNOWN):
            raise ValueError("KNOWN cells have resolve, and no others have")
        self._cells.append((kind, bound, required, absent, absent_number, codes, resolve))
        return count

    def _set_rules(self, groups: Any, periods: Any, marked: Any) -> None:
        _count(groups, "groups", 0, _RULES_MAX)
        parted = (_parts(group, "a group", 2) for group in groups)
        self._groups = [(self._set_of(needed), self._set_of(optional)) for needed, optional in parted]
        _count(periods, "periods", 0, _RULES_MAX)
        self._periods = []
        for period in periods:
            first, last = map(self._cell, _parts(period, "a period", 2))
            self._periods.append((first, last))
            if self._cells[first][0] != DATE or self._cells[last][0] != DATE:
                raise ValueError("periods have DATE cells")
        self._marked = None
        if marked is not None:
            mark, empty, number = _parts(marked, "marked", 3)
            self._marked = self._cell(mark), self._set_of(empty), self._cell(number)
            if self._cells[mark][0] != KNOWN:
                raise ValueError("what marks a row is a KNOWN cell")

    def _add_steps(self, steps: Any) -> None:
        taken = sum(map(len, self._programs))
        left = _count(steps, "steps", 0, _STEPS_MAX - taken)
        program: list[Step] = []
        for step in steps:
            left -= 1
            kind, cell, count, literal = _parts(step, "a step", 4)
            _integer(kind, "a step's kind", LITERAL, UNLESS)
            self._cell(cell)
            if kind in (KEY_PACKED, KEY_RAW) and self._cells[cell][0] not in (IDENTIFIER, NUMBER):
                raise ValueError("only an IDENTIFIER or NUMBER has a key")
            _integer(count, "what a step leaves out", 0, left)
            program.append((kind, cell, count, _written(literal)))
        self._programs.append(program)

    # --- a line -----------------------------------------------------------------------------------------------

    def _read(self, texts: list[bytes]) -> list[_Value] | None:
        """The values of all cells; None if the line is odd."""
        values = []
        for place, cell in enumerate(self._cells):
            text = texts[place] if place < self.width else b""
            if not text:
                value: _Value | None = _Value(cell[3], number=cell[4])
            elif cell[0] == KNOWN:
                value = self._known(place, text)
            else:
                value = None if len(text) > CELL_BYTES_MAX else _READERS[cell[0]](cell, text)
            if value is None:
                return None
            values.append(value)
        return values if self._fits(texts, values) else None

    def _known(self, place: int, text: bytes) -> _Value | None:
        if self._last.get(place, (b"",))[0] == text:
            return self._last[place][1]
        memo = self._memos.setdefault(place, {})
        value = memo.get(text)
        if value is None:
            resolve = self._cells[place][6]
            assert resolve is not None
            found = resolve(text)
            if found is None:
                return None
            packed, number = _parts(found, "what is known", 2)
            value = _Value(_written(packed), number=_integer(number, "a known number", *_INT64))
            if len(memo) >= KNOWN_MAX:
                memo.clear()
            memo[text] = value
        self._last[place] = text, value
        return value

    def _fits(self, texts: list[bytes], values: list[_Value]) -> bool:
        filled = {place for place, text in enumerate(texts) if text}
        if self._op not in filled:
            return False
        op = 1 << (values[self._op].number & 31)
        if any(cell[2] & op and place not in filled for place, cell in enumerate(self._cells)):
            return False
        for needed, optional in self._groups:
            silent = {p for p in filled & optional if self._cells[p][0] == CODE and values[p].number == 0}
            if ((filled & (needed | optional)) - silent) and not needed <= filled:
                return False
        for first, last in self._periods:
            if {first, last} <= filled and values[last].number < values[first].number:
                return False
        if self._marked is not None:
            mark, empty, number = self._marked
            if values[mark].number and (filled & empty or not _has_check_digit(texts, number)):
                return False
        return True

    # --- what is written ----------------------------------------------------------------------------------------

    def _run(self, program: int, filled: set[int], values: list[_Value], room: int) -> bytes:
        """What one program writes. Raises _NoRoomError."""
        steps, written, at = self._programs[program], bytearray(), 0
        while at < len(steps):
            kind, cell, count, literal = steps[at]
            at += 1
            value = values[cell]
            if kind == LITERAL:
                piece, needed = literal, len(literal)
            elif kind == PACKED:
                # A text that gets its head here is given room for the longest head.
                is_packed = cell not in filled or self._cells[cell][0] in (DATE, CODE, KNOWN)
                piece, needed = value.packed, len(value.packed) if is_packed else len(value.raw) + 5
            elif kind == KEY_PACKED:
                piece, needed = _packed_text(value.key), len(value.key) + 5
            elif kind == UNLESS:
                piece = b"" if cell in filled else literal
                needed, at = len(piece), at if cell in filled else at + count
            elif kind == DECIMAL:
                piece = b"%d" % value.number
                needed = len(piece)
            elif kind == KEY_RAW:
                piece, needed = value.key, len(value.key)
            else:
                piece = self._raw(cell, value) if cell in filled else b""
                needed = len(piece)
            if needed > room - len(written):
                raise _NoRoomError
            written += piece
        return bytes(written)

    def _raw(self, cell: int, value: _Value) -> bytes:
        """A value as text: what is packed already loses its head, if it is a text at all."""
        if self._cells[cell][0] not in (DATE, CODE, KNOWN):
            return value.raw
        packed = value.packed
        for first, head in ((0xD9, 2), (0xDA, 3)):
            if packed[:1] == bytes([first]) and len(packed) >= head:
                return packed[head:]
        if packed and packed[0] & 0xE0 == 0xA0:
            return packed[1:]
        raise _NoRoomError


def read(
    plan: Plan,
    data: bytes,
    start: int,
    numbers: NDArray[np.int64],
    people: NDArray[np.uint8],
    people_start: int,
    messages: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint16]]],
) -> tuple[int, int, int, int, list[int], list[tuple[int, int, int]]]:
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be a Plan, not {type(plan).__name__}")
    used = _checked(plan, data, start, numbers, people, people_start, messages)
    if plan._busy:
        raise ValueError("a plan reads one thing at a time")
    seen = taken = 0
    counts, odd = [0] * len(messages), []
    plan._busy = True
    try:
        while start < len(data) and seen < len(numbers):
            if blank := re.compile(rb"\r?\n").match(data, start):
                start = blank.end()
                continue
            found = _cut(data, start, plan.width)
            if found is None:
                break
            texts, is_odd, end = found
            values = None if is_odd else plan._read(texts)
            used_before = used
            if values is not None:
                used = _write(plan, texts, values, numbers[taken], people, used, messages, counts)
            if values is None or used < 0:
                odd.append((seen, start, end))
                used = used_before
            else:
                numbers[taken, 0] = seen
                taken += 1
            seen, start = seen + 1, end
    finally:
        plan._busy = False
    return start, seen, taken, used, counts, odd


def _write(
    plan: Plan, texts: list[bytes], values: list[_Value], row: Any, people: Any, used: int, messages: Any, counts: Any
) -> int:
    """Write a row's record, messages and numbers. Returns where the records end, or -1 if there is no room for all."""
    filled = {place for place, text in enumerate(texts) if text}
    try:
        record = plan._run(0, filled, values, len(people) - used)
        found = []
        for kind, (rows, _) in enumerate(messages):
            width = min(rows.shape[1], _MESSAGE_BYTES_MAX)
            found.append(plan._run(kind + 1, filled, values, width))
    except _NoRoomError:
        return -1
    for kind, message in enumerate(found):
        if message:
            rows, lengths = messages[kind]
            rows[counts[kind], : len(message)] = np.frombuffer(message, np.uint8)
            lengths[counts[kind]] = len(message)
            counts[kind] += 1
    people[used : used + len(record)] = np.frombuffer(record, np.uint8)
    row[1:3] = used, len(record)
    for at, (cell, what) in enumerate(plan._numbers):
        row[HEAD_NUMBERS + at] = cell in filled if what == FILLED else values[cell].number
    return used + len(record)


def _cut(data: bytes, at: int, width: int) -> tuple[list[bytes], bool, int] | None:
    """A line's cells, whether it is odd already, and its end; None unless it surely makes one row of full width."""
    texts, is_odd = [], False
    for place in range(width):
        if data[at : at + 1] == b'"':
            found = re.compile(rb'"((?:[^"\r\n]|"")*)"(?!")').match(data, at)
            if found is None:
                return None
            is_odd |= b'"' in found[1]
            texts.append(found[1])
        else:
            found = re.compile(rb'[^,\r\n"]*').match(data, at)
            assert found is not None
            texts.append(found[0])
        at = found.end()
        if place < width - 1:
            if data[at : at + 1] != b",":
                return None
            at += 1
    end = re.compile(rb"\r?\n").match(data, at)
    return None if end is None else (texts, is_odd, end.end())


# --- cells ----------------------------------------------------------------------------------------------------


def _decoded(text: bytes) -> str:
    """A cell's text; of what is not UTF-8, one that is no cell's."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "\ufffd"


def _of_text(text: str, key: str = "", number: int = 0) -> _Value:
    raw = text.encode()
    return _Value(_packed_text(raw), raw, key.encode(), number)


def _text(cell: Cell, data: bytes) -> _Value | None:
    text = _decoded(data)
    plain = _TEXT.fullmatch(text) and _LETTER.search(text) and len(_DIGIT.findall(text)) < _MY_NUMBER_DIGITS
    return _of_text(text) if plain and len(text) <= cell[1] else None


def _kana(cell: Cell, data: bytes) -> _Value | None:
    text = _decoded(data).replace("　", " ")
    if not _KANA.fullmatch(text):
        return None
    text = _HALF_WIDTH.sub(lambda found: normalize("NFKC", found[0]), text)
    plain = _LETTER.search(text) and len(_DIGIT.findall(text)) < _MY_NUMBER_DIGITS
    return _of_text(text) if plain and len(text) <= cell[1] else None


def _identifier(cell: Cell, data: bytes) -> _Value | None:
    text = _decoded(data)
    plain = _IDENTIFIER.fullmatch(text) and len(_DIGIT.findall(text)) < _MY_NUMBER_DIGITS
    if not plain or len(text) > cell[1]:
        return None
    key = text.translate(_FOLDED)
    if cell[0] == NUMBER:
        key = key.lstrip("0") or key[:1]
        if not key.strip("-"):
            return None
    return _of_text(text, key)


def _link(cell: Cell, data: bytes) -> _Value | None:
    text = _decoded(data)
    plain = _LINK.fullmatch(text) and (_ASCII_LETTER.search(text) or len(_DIGIT.findall(text)) < _MY_NUMBER_DIGITS)
    return _of_text(text) if plain and len(text) <= cell[1] else None


def _serial(cell: Cell, data: bytes) -> _Value | None:
    text = _decoded(data)
    plain = _SERIAL.fullmatch(text) and (_ASCII_LETTER.search(text) or len(text) < _MY_NUMBER_DIGITS)
    return _of_text(text.upper()) if plain and len(text) <= cell[1] else None


def _date(cell: Cell, data: bytes) -> _Value | None:
    found = _DATE.fullmatch(_decoded(data))
    if found is None:
        return None
    try:
        day = date(int(found[1]), int(found[3]), int(found[4])).toordinal() - _DAY_0
    except ValueError:
        return None
    return _Value(_packed_integer(day), number=day) if day >= cell[1] else None


def _postcode(cell: Cell, data: bytes) -> _Value | None:
    found = _POSTCODE.fullmatch(_decoded(data))
    return None if found is None else _of_text(f"{found[1]}-{found[2]}")


def _ratio(cell: Cell, data: bytes) -> _Value | None:
    return _of_text(data.decode()) if _RATIO.fullmatch(_decoded(data)) else None


def _branch(cell: Cell, data: bytes) -> _Value | None:
    return _of_text(f"{int(data):02}", number=int(data)) if _BRANCH.fullmatch(_decoded(data)) else None


def _code(cell: Cell, data: bytes) -> _Value | None:
    return next((_Value(packed, number=number) for text, packed, number in cell[5] if text == data), None)


_READERS: dict[int, Callable[[Cell, bytes], _Value | None]] = {
    TEXT: _text,
    KANA: _kana,
    IDENTIFIER: _identifier,
    NUMBER: _identifier,
    LINK: _link,
    SERIAL: _serial,
    DATE: _date,
    POSTCODE: _postcode,
    RATIO: _ratio,
    BRANCH: _branch,
    CODE: _code,
}


def _has_check_digit(texts: list[bytes], cell: int) -> bool:
    if cell >= len(texts) or not _ELDERLY.fullmatch(_decoded(texts[cell])):
        return False
    digits = [int(character) for character in texts[cell].decode()]
    return sum(sum(divmod(digit * (2 - at % 2), 10)) for at, digit in enumerate(digits)) % 10 == 0


def _packed_text(text: bytes) -> bytes:
    count = len(text)
    if count < 32:
        return bytes([0xA0 | count]) + text
    return (bytes([0xD9, count]) if count < 256 else b"\xda" + count.to_bytes(2, "big")) + text


def _packed_integer(number: int) -> bytes:
    if -32 <= number < 128:
        return number.to_bytes(1, "big", signed=True) if number < 0 else bytes([number])
    unsigned = ((1, 0xCC), (2, 0xCD), (4, 0xCE))
    signed = ((1, 0xD0), (2, 0xD1), (4, 0xD2))
    for size, head in unsigned if number > 0 else signed:
        try:
            return bytes([head]) + number.to_bytes(size, "big", signed=number < 0)
        except OverflowError:
            continue
    raise AssertionError("a day number has at most four bytes")


# --- arguments ------------------------------------------------------------------------------------------------


def _integer(value: Any, name: str, low: int, high: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} is out of range")
    return value


def _count(values: Any, name: str, low: int, high: int) -> int:
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple, not {type(values).__name__}")
    if not low <= len(values) <= high:
        raise ValueError(f"there are too many or too few {name}")
    return len(values)


def _parts(value: Any, name: str, count: int) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise ValueError(f"{name} has {count} parts")
    return value


def _written(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"what is written must be bytes, not {type(value).__name__}")
    return value


def _checked(plan: Plan, data: Any, start: Any, numbers: Any, people: Any, people_start: Any, messages: Any) -> int:
    """Check the arguments of `read`. Returns where the records begin."""
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    _integer(start, "start", 0, len(data))
    writeable_array(numbers, "numbers", "int64", 2)
    writeable_array(people, "people", "uint8", 1)
    used = _integer(people_start, "people_start", 0, len(people))
    if numbers.shape[1] != HEAD_NUMBERS + len(plan._numbers):
        raise ValueError("numbers must have a column for each number of the plan")
    _count(messages, "messages", len(plan._programs) - 1, len(plan._programs) - 1)
    for pair in messages:
        rows, lengths = _parts(pair, "a kind of message", 2)
        writeable_array(rows, "messages", "uint8", 2)
        writeable_array(lengths, "lengths", "uint16", 1)
        if len(rows) < len(numbers) or len(lengths) < len(numbers):
            raise ValueError("messages must have room for every row")
    return used
