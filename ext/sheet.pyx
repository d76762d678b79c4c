"""Owns the plain lines of a CSV: bytes of whole lines -> packed records, messages and numbers, by the caller's plan."""
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ext.arrays cimport writeable_array

from collections.abc import Callable, Sequence
from typing import Any, Optional

cnp.import_array()

TEXT, KANA, IDENTIFIER, NUMBER, LINK, SERIAL, DATE, POSTCODE, RATIO, BRANCH, CODE, KNOWN = range(1, 13)
LITERAL, PACKED, RAW, DECIMAL, KEY_PACKED, KEY_RAW, UNLESS = range(1, 8)
VALUE, FILLED = range(2)
CELLS_MAX = MOST_CELLS
CELL_BYTES_MAX = MOST_CELL_BYTES
KNOWN_MAX = 4096
HEAD_NUMBERS = 3

Step = tuple[int, int, int, bytes]
Cell = tuple[int, int, int, bytes, int, Sequence[tuple[bytes, bytes, int]], Optional[Callable[[bytes], Any]]]

cdef enum:
    MOST_CELLS = 64
    MOST_STEPS = 128
    MOST_CODES = 256
    MOST_MESSAGES = 4
    MOST_NUMBERS = 32
    MOST_RULES = 16
    MOST_CELL_BYTES = 1024
    # Nothing that is made of a cell is longer than the cell and a few bytes.
    SCRATCH_BYTES = MOST_CELLS * (MOST_CELL_BYTES + 16)
    MY_NUMBER_DIGITS = 12
    ELDERLY_DIGITS = 8

# The constants above once more, for C.
cdef enum Kind:
    K_TEXT = 1
    K_KANA
    K_IDENTIFIER
    K_NUMBER
    K_LINK
    K_SERIAL
    K_DATE
    K_POSTCODE
    K_RATIO
    K_BRANCH
    K_CODE
    K_KNOWN

cdef enum StepKind:
    S_LITERAL = 1
    S_PACKED
    S_RAW
    S_DECIMAL
    S_KEY_PACKED
    S_KEY_RAW
    S_UNLESS

# What became of a line.
cdef enum:
    PLAIN
    ODD
    BLANK
    UNTOLD

# What a character is: a letter or digit or another visible sign in text, and a member of kana names.
cdef enum:
    LETTER = 1
    DIGIT = 2
    SIGN = 4
    IN_KANA = 8
    IN_IDENTIFIERS = 16

cdef struct Span:
    const uint8_t *at
    Py_ssize_t length

cdef struct CodeEntry:
    Span text
    Span packed
    int64_t number

cdef struct CellPlan:
    int kind
    int64_t bound
    uint32_t required
    Span absent
    int64_t absent_number
    int code_first
    int code_count

cdef struct StepPlan:
    int kind
    int cell
    int count
    Span literal

cdef struct Group:
    uint64_t needed
    uint64_t optional

cdef struct Value:
    Span text       # the cell as it stands in the line
    Span value      # what is written of it: text, which gets a head when it is packed, or packed already
    Span key
    bint is_packed
    int64_t number

cdef struct Writer:
    uint8_t *at
    uint8_t *end

cdef struct Messages:
    uint8_t *rows
    uint16_t *lengths
    Py_ssize_t width
    Py_ssize_t count

cdef uint8_t[0x10000] CLASS
# Katakana of half width from U+FF65 on, in full width; and how far on their forms with a mark are, where there are any.
cdef uint16_t[57] FULL_WIDTH
cdef uint8_t[57] VOICED
cdef uint8_t[57] HALF_VOICED
cdef uint8_t[256] ENDS_CELL


cdef class Plan:
    cdef readonly int width
    cdef int cell_count
    cdef CellPlan[MOST_CELLS] cells
    cdef CodeEntry[MOST_CODES] codes
    cdef int code_count
    cdef int op
    cdef Group[MOST_RULES] groups
    cdef int group_count
    cdef int[MOST_RULES] first_days
    cdef int[MOST_RULES] last_days
    cdef int period_count
    cdef int mark
    cdef uint64_t marked_empty
    cdef int marked_number
    cdef StepPlan[MOST_STEPS] steps
    cdef int step_count
    cdef bint made
    cdef bint busy
    # Where the steps of the record (0) and of each kind of message (1...) begin; one more for their end.
    cdef int[MOST_MESSAGES + 2] programs
    cdef int message_count
    cdef int[MOST_NUMBERS] number_cells
    cdef int[MOST_NUMBERS] number_kinds
    cdef int number_count
    cdef list kept          # what Spans point into
    cdef list resolvers
    cdef list memos
    cdef list last_texts    # of each KNOWN cell, the last text that was known, and what it is
    cdef list last_found
    cdef Value[MOST_CELLS] values
    cdef uint64_t filled
    cdef uint8_t[SCRATCH_BYTES] scratch

    def __init__(self, cells, width, op, groups, periods, marked, record, messages, numbers):
        if self.made:
            raise ValueError("a plan is made once")
        self.made = True
        self.kept, self.resolvers, self.memos, self.last_texts, self.last_found = [], [], [], [], []
        self.code_count = self.step_count = 0
        self.busy = False
        self.cell_count = _count(cells, "cells", 1, MOST_CELLS)
        self.width = _integer(width, "width", 1, self.cell_count)
        for position, cell in enumerate(cells):
            self._set_cell(position, cell)
        self.op = self._cell(op)
        if self.cells[self.op].kind != K_CODE:
            raise ValueError("op must be a CODE")
        self._set_rules(groups, periods, marked)
        self.message_count = _count(messages, "messages", 0, MOST_MESSAGES)
        for position, steps in enumerate([record, *messages]):
            self.programs[position] = self.step_count
            self._add_steps(steps)
        self.programs[self.message_count + 1] = self.step_count
        self.number_count = _count(numbers, "numbers", 0, MOST_NUMBERS)
        for position, number in enumerate(numbers):
            cell, what = _parts(number, "a number", 2)
            self.number_cells[position] = self._cell(cell)
            self.number_kinds[position] = _integer(what, "what is noted", VALUE, FILLED)
        # Cells that no line has are empty once and for all.
        for cell in range(self.width, self.cell_count):
            _leave_empty(&self.values[<int>cell], &self.cells[<int>cell])

    cdef int _cell(self, cell) except -1:
        return _integer(cell, "a cell's place", 0, self.cell_count - 1)

    cdef uint64_t _cells(self, cells) except? 0xffff:
        cdef uint64_t found = 0
        _count(cells, "cells", 0, MOST_CELLS)
        for cell in cells:
            found |= <uint64_t>1 << self._cell(cell)
        return found

    cdef Span _span(self, value) except *:
        cdef Span span
        if not isinstance(value, bytes):
            raise TypeError(f"what is written must be bytes, not {type(value).__name__}")
        self.kept.append(value)
        span.at, span.length = <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
        return span

    cdef int _set_cell(self, int position, parts) except -1:
        cdef CellPlan *cell = &self.cells[position]
        kind, bound, required, absent, absent_number, codes, resolve = _parts(parts, "a cell", 7)
        cell.kind = _integer(kind, "kind", TEXT, KNOWN)
        cell.bound = _integer(bound, "bound", _INT64_LOW, _INT64_HIGH)
        cell.required = _integer(required, "required", 0, 2**32 - 1)
        cell.absent = self._span(absent)
        cell.absent_number = _integer(absent_number, "absent_number", _INT64_LOW, _INT64_HIGH)
        cell.code_first, cell.code_count = self.code_count, _count(codes, "codes", 0, MOST_CODES - self.code_count)
        for code in codes:
            text, packed, number = _parts(code, "a code", 3)
            self.codes[self.code_count].text = self._span(text)
            self.codes[self.code_count].packed = self._span(packed)
            self.codes[self.code_count].number = _integer(number, "a code's number", _INT64_LOW, _INT64_HIGH)
            self.code_count += 1
        if callable(resolve) != (kind == KNOWN):
            raise ValueError("KNOWN cells have resolve, and no others have")
        self.resolvers.append(resolve)
        self.memos.append({})
        self.last_texts.append(b"")
        self.last_found.append(None)
        return 0

    cdef int _set_rules(self, groups, periods, marked) except -1:
        self.group_count = _count(groups, "groups", 0, MOST_RULES)
        for position, group in enumerate(groups):
            needed, optional = _parts(group, "a group", 2)
            self.groups[position].needed, self.groups[position].optional = self._cells(needed), self._cells(optional)
        self.period_count = _count(periods, "periods", 0, MOST_RULES)
        for position, period in enumerate(periods):
            first, last = _parts(period, "a period", 2)
            self.first_days[position], self.last_days[position] = self._cell(first), self._cell(last)
            if self.cells[<int>first].kind != K_DATE or self.cells[<int>last].kind != K_DATE:
                raise ValueError("periods have DATE cells")
        self.mark = -1
        if marked is not None:
            mark, empty, number = _parts(marked, "marked", 3)
            self.mark, self.marked_empty, self.marked_number = self._cell(mark), self._cells(empty), self._cell(number)
            if self.cells[self.mark].kind != K_KNOWN:
                raise ValueError("what marks a row is a KNOWN cell")
        return 0

    cdef int _add_steps(self, steps) except -1:
        cdef int end = self.step_count + _count(steps, "steps", 0, MOST_STEPS - self.step_count)
        for step in steps:
            kind, cell, count, literal = _parts(step, "a step", 4)
            _integer(kind, "a step's kind", LITERAL, UNLESS)
            position = self._cell(cell)
            if kind in (KEY_PACKED, KEY_RAW) and self.cells[<int>position].kind not in (K_IDENTIFIER, K_NUMBER):
                raise ValueError("only an IDENTIFIER or NUMBER has a key")
            self.steps[self.step_count].kind = kind
            self.steps[self.step_count].cell = position
            self.steps[self.step_count].count = _integer(count, "what a step leaves out", 0, end - self.step_count - 1)
            self.steps[self.step_count].literal = self._span(literal)
            self.step_count += 1
        return 0


_INT64_LOW, _INT64_HIGH = -(2**63), 2**63 - 1


def _integer(value, name, low, high):
    if not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} is out of range")
    return value


def _count(values, name, low, high):
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple, not {type(values).__name__}")
    if not low <= len(values) <= high:
        raise ValueError(f"there are too many or too few {name}")
    return len(values)


def _parts(value, name, count):
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise ValueError(f"{name} has {count} parts")
    return value


def read(plan, data, start, numbers, people, people_start, messages):
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be a Plan, not {type(plan).__name__}")
    return _read(plan, data, start, numbers, people, people_start, messages)


cdef object _read(Plan plan, data, start, numbers, people, people_start, messages):
    cdef Py_ssize_t size, begin, room, used, capacity, taken = 0, seen = 0
    cdef int outcome, kind
    cdef const uint8_t *first
    cdef const uint8_t *line
    cdef const uint8_t *end
    cdef const uint8_t *after
    cdef int64_t *target
    cdef Messages[MOST_MESSAGES] out
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    size = PyBytes_GET_SIZE(data)
    begin = _integer(start, "start", 0, size)
    writeable_array(numbers, "numbers", cnp.NPY_INT64, "int64", 2)
    writeable_array(people, "people", cnp.NPY_UINT8, "uint8", 1)
    room = cnp.PyArray_DIM(people, 0)
    used = _integer(people_start, "people_start", 0, room)
    capacity = cnp.PyArray_DIM(numbers, 0)
    if cnp.PyArray_DIM(numbers, 1) != 3 + plan.number_count:
        raise ValueError("numbers must have a column for each number of the plan")
    _count(messages, "messages", plan.message_count, plan.message_count)
    for kind, pair in enumerate(messages):
        rows, lengths = _parts(pair, "a kind of message", 2)
        writeable_array(rows, "messages", cnp.NPY_UINT8, "uint8", 2)
        writeable_array(lengths, "lengths", cnp.NPY_UINT16, "uint16", 1)
        if cnp.PyArray_DIM(rows, 0) < capacity or cnp.PyArray_DIM(lengths, 0) < capacity:
            raise ValueError("messages must have room for every row")
        out[kind].rows, out[kind].lengths = <uint8_t *>cnp.PyArray_DATA(rows), <uint16_t *>cnp.PyArray_DATA(lengths)
        out[kind].width, out[kind].count = min(cnp.PyArray_DIM(rows, 1), 65535), 0
    if plan.busy:
        raise ValueError("a plan reads one thing at a time")
    target = <int64_t *>cnp.PyArray_DATA(numbers)
    first = <const uint8_t *>PyBytes_AS_STRING(data)
    line, end = first + begin, first + size
    odd = []
    plan.busy = True
    try:
        while line < end and seen < capacity:
            outcome = _cut(plan, line, end, &after)
            if outcome == UNTOLD:
                break
            if outcome == PLAIN and not _read_cells(plan):
                outcome = ODD
            if outcome == PLAIN:
                outcome = _write(plan, <uint8_t *>cnp.PyArray_DATA(people), room, &used, target, out)
            if outcome == PLAIN:
                target[0] = seen
                target += 3 + plan.number_count
                taken += 1
            elif outcome == ODD:
                odd.append((seen, line - first, after - first))
            seen += outcome != BLANK
            line = after
    finally:
        plan.busy = False
    return line - first, seen, taken, used, [out[kind].count for kind in range(plan.message_count)], odd


# --- a line ---------------------------------------------------------------------------------------------------


cdef int _cut(Plan plan, const uint8_t *line, const uint8_t *end, const uint8_t **after) noexcept nogil:
    """Cut a line into cells. Whatever does not surely make one row of full width is UNTOLD."""
    cdef const uint8_t *at = line
    cdef const uint8_t *start
    cdef int position = 0, outcome = PLAIN
    cdef uint64_t filled = 0
    if at[0] == c"\n" or (at[0] == c"\r" and end - at > 1 and at[1] == c"\n"):
        after[0] = at + (1 if at[0] == c"\n" else 2)
        return BLANK
    for position in range(plan.width):
        if at >= end:
            return UNTOLD
        if at[0] == c'"':
            start = at + 1
            at = _closing_quote(start, end, &outcome)
            if at == NULL:
                return UNTOLD
            plan.values[position].text.at, plan.values[position].text.length = start, at - start
            at += 1
            if at >= end:
                return UNTOLD
        else:
            start = at
            while at < end and not ENDS_CELL[at[0]]:
                at += 1
            if at >= end:
                return UNTOLD
            plan.values[position].text.at, plan.values[position].text.length = start, at - start
        if plan.values[position].text.length:
            filled |= <uint64_t>1 << position
        if position < plan.width - 1:
            if at[0] != c",":
                return UNTOLD
            at += 1
    if at[0] == c"\r":
        at += 1
    if at >= end or at[0] != c"\n":
        return UNTOLD
    after[0] = at + 1
    plan.filled = filled
    return outcome


cdef const uint8_t *_closing_quote(const uint8_t *start, const uint8_t *end, int *outcome) noexcept nogil:
    """Where a quoted cell ends, or NULL if that is not in this line. A doubled quote makes the line odd."""
    cdef const uint8_t *at = start
    while at < end:
        if at[0] == c'"':
            if end - at < 2 or at[1] != c'"':
                return at
            outcome[0] = ODD
            at += 1
        elif at[0] == c"\n" or at[0] == c"\r":
            return NULL
        at += 1
    return NULL


cdef bint _read_cells(Plan plan) except -1:
    """Read every filled cell of the line, and ask what the row must have. False if the line is odd."""
    cdef Writer scratch
    cdef int position
    cdef Value *value
    scratch.at, scratch.end = plan.scratch, plan.scratch + SCRATCH_BYTES
    for position in range(plan.width):
        value = &plan.values[position]
        if value.text.length == 0:
            _leave_empty(value, &plan.cells[position])
        elif plan.cells[position].kind == K_KNOWN:
            if not _read_known(plan, position, value):
                return False
        elif not _read_cell(plan, &plan.cells[position], value, &scratch):
            return False
    return _fits_rules(plan)


cdef inline void _leave_empty(Value *value, const CellPlan *cell) noexcept nogil:
    # The key points somewhere, because not even nothing may be copied from NULL.
    value.text.length, value.key.length, value.key.at = 0, 0, cell.absent.at
    value.value, value.is_packed, value.number = cell.absent, True, cell.absent_number


cdef bint _fits_rules(Plan plan) noexcept nogil:
    cdef int position
    cdef uint64_t found
    cdef uint32_t op
    if not plan.filled >> plan.op & 1:
        return False
    op = <uint32_t>1 << (plan.values[plan.op].number & 31)
    for position in range(plan.cell_count):
        if plan.cells[position].required & op and not plan.filled >> position & 1:
            return False
    for position in range(plan.group_count):
        found = plan.filled & (plan.groups[position].needed | plan.groups[position].optional)
        if found == 0 or not _counts(plan, found, plan.groups[position].optional):
            continue
        if plan.groups[position].needed & ~plan.filled:
            return False
    for position in range(plan.period_count):
        if not (plan.filled >> plan.first_days[position] & 1 and plan.filled >> plan.last_days[position] & 1):
            continue
        if plan.values[plan.last_days[position]].number < plan.values[plan.first_days[position]].number:
            return False
    if plan.mark >= 0 and plan.values[plan.mark].number:
        return plan.filled & plan.marked_empty == 0 and _has_check_digit(&plan.values[plan.marked_number].text)
    return True


cdef bint _counts(Plan plan, uint64_t found, uint64_t optional) noexcept nogil:
    """Whether any of the cells found says something: an optional code of number 0 does not."""
    cdef int position
    for position in range(plan.width):
        if found >> position & 1 and not (
            optional >> position & 1 and plan.cells[position].kind == K_CODE and plan.values[position].number == 0
        ):
            return True
    return False


cdef bint _has_check_digit(const Span *text) noexcept nogil:
    cdef int position, digit, total = 0
    if text.length != ELDERLY_DIGITS:
        return False
    for position in range(ELDERLY_DIGITS):
        digit = text.at[position] - c"0"
        if digit < 0 or digit > 9:
            return False
        if position % 2 == 0:
            digit = 2 * digit - 9 if digit > 4 else 2 * digit
        total += digit
    return total % 10 == 0


# --- cells ----------------------------------------------------------------------------------------------------


cdef bint _read_known(Plan plan, int position, Value *value) except -1:
    text = plan.last_texts[position]
    if PyBytes_GET_SIZE(text) != value.text.length or memcmp(PyBytes_AS_STRING(text), value.text.at, value.text.length):
        text = PyBytes_FromStringAndSize(<const char *>value.text.at, value.text.length)
        memo = <dict>plan.memos[position]
        found = memo.get(text)
        if found is None:
            found = plan.resolvers[position](text)
            if found is None:
                return False
            packed, number = _parts(found, "what is known", 2)
            if not isinstance(packed, bytes):
                raise TypeError(f"what is written must be bytes, not {type(packed).__name__}")
            found = packed, _integer(number, "a known number", _INT64_LOW, _INT64_HIGH)
            if len(memo) >= KNOWN_MAX:
                memo.clear()
            memo[text] = found
        plan.last_texts[position], plan.last_found[position] = text, found
    packed, number = <tuple>plan.last_found[position]
    value.value.at, value.value.length = <const uint8_t *>PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed)
    value.is_packed, value.number = True, number
    return True


cdef bint _read_cell(Plan plan, const CellPlan *cell, Value *value, Writer *scratch) noexcept nogil:
    value.value, value.is_packed, value.number = value.text, False, 0
    if value.text.length > MOST_CELL_BYTES:
        return False
    if cell.kind == K_TEXT:
        return _read_text(cell, value)
    if cell.kind == K_KANA:
        return _read_kana(cell, value, scratch)
    if cell.kind == K_IDENTIFIER or cell.kind == K_NUMBER:
        return _read_identifier(cell, value, scratch)
    if cell.kind == K_DATE:
        return _read_date(cell, value, scratch)
    if cell.kind == K_CODE:
        return _read_code(plan, cell, value)
    if cell.kind == K_LINK:
        return _read_link(cell, value)
    if cell.kind == K_SERIAL:
        return _read_serial(cell, value, scratch)
    if cell.kind == K_POSTCODE:
        return _read_postcode(value, scratch)
    if cell.kind == K_BRANCH:
        return _read_branch(value, scratch)
    return _read_ratio(value)


cdef inline int _next_character(const uint8_t **at, const uint8_t *end) noexcept nogil:
    """The next character of UTF-8, or -1 if it is not ASCII, or of three bytes, or an ideograph of four."""
    cdef const uint8_t *p = at[0]
    cdef int code = p[0]
    if code < 0x80:
        at[0] = p + 1
        return code
    if 0xE0 <= code < 0xF0 and end - p >= 3 and p[1] & 0xC0 == 0x80 and p[2] & 0xC0 == 0x80:
        code = (code & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F)
        at[0] = p + 3
        return code if code >= 0x800 else -1
    if code == 0xF0 and end - p >= 4 and p[1] & 0xC0 == 0x80 and p[2] & 0xC0 == 0x80 and p[3] & 0xC0 == 0x80:
        code = (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F)
        at[0] = p + 4
        return code if 0x20000 <= code <= 0x2A6DF else -1
    return -1


cdef inline int _class(int code) noexcept nogil:
    return CLASS[code] if code < 0x10000 else LETTER


cdef bint _read_text(const CellPlan *cell, Value *value) noexcept nogil:
    cdef const uint8_t *at = value.text.at
    cdef const uint8_t *end = at + value.text.length
    cdef int code, kind, seen = 0, digits = 0
    cdef int64_t count = 0
    while at < end:
        code = _next_character(&at, end)
        if code < 0:
            return False
        kind = _class(code)
        if not kind & (LETTER | DIGIT | SIGN):
            return False
        seen |= kind
        digits += kind & DIGIT
        count += 1
    return seen & LETTER and digits < DIGIT * MY_NUMBER_DIGITS and count <= cell.bound


cdef bint _read_kana(const CellPlan *cell, Value *value, Writer *scratch) noexcept nogil:
    cdef const uint8_t *at = value.text.at
    cdef const uint8_t *end = at + value.text.length
    cdef int code, kind, seen = 0, digits = 0, half = -1, mark
    cdef int64_t count = 0
    value.value.at = scratch.at
    while at < end:
        code = _next_character(&at, end)
        if code == 0xFF9E or code == 0xFF9F:
            # A mark of its own becomes one character with the kana before it.
            mark = 0 if half < 0 else VOICED[half] if code == 0xFF9E else HALF_VOICED[half]
            if mark == 0:
                return False
            scratch.at -= 3
            _put_kana(scratch, FULL_WIDTH[half] + mark)
            half = -1
            continue
        half = -1
        if code == 0x3000:
            code = c" "
        elif 0xFF65 <= code <= 0xFF9D:
            half = code - 0xFF65
            code = FULL_WIDTH[half]
        if code < 0:
            return False
        kind = _class(code)
        if not kind & IN_KANA:
            return False
        seen |= kind
        digits += kind & DIGIT
        count += 1
        _put_kana(scratch, code)
    value.value.length = scratch.at - value.value.at
    return seen & LETTER and digits < DIGIT * MY_NUMBER_DIGITS and count <= cell.bound


cdef inline void _put_kana(Writer *scratch, int code) noexcept nogil:
    """One character of a name in kana: ASCII, or of three bytes."""
    if code < 0x80:
        scratch.at[0] = <uint8_t>code
        scratch.at += 1
        return
    scratch.at[0] = <uint8_t>(0xE0 | code >> 12)
    scratch.at[1] = <uint8_t>(0x80 | (code >> 6 & 0x3F))
    scratch.at[2] = <uint8_t>(0x80 | (code & 0x3F))
    scratch.at += 3


cdef bint _read_identifier(const CellPlan *cell, Value *value, Writer *scratch) noexcept nogil:
    cdef const uint8_t *at = value.text.at
    cdef const uint8_t *start
    cdef const uint8_t *end = at + value.text.length
    cdef int code, digits = 0
    cdef int64_t count = 0
    cdef bint zero = False, number = cell.kind == K_NUMBER, more = False
    value.key.at = scratch.at
    while at < end:
        start = at
        code = _next_character(&at, end)
        if code < 0:
            return False
        count += 1
        if not _class(code) & IN_IDENTIFIERS:
            return False
        if 0xFF01 <= code <= 0xFF5E:
            code -= 0xFEE0
        elif code == 0x3000 or code == 0x30FB:
            code = c" "
        elif code == 0x30FC or code == 0x2212 or 0x2010 <= code <= 0x2015:
            code = c"-"
        if code >= 0x80:
            more = True
            scratch.at[0], scratch.at[1], scratch.at[2] = start[0], start[1], start[2]
            scratch.at += 3
            continue
        if code == c" " or code == c"/":
            continue
        if c"0" <= code <= c"9":
            digits += 1
        elif c"a" <= code <= c"z":
            code -= 0x20
        if number and code == c"0" and scratch.at == value.key.at:
            zero = True
            continue
        more |= code != c"-"
        scratch.at[0] = <uint8_t>code
        scratch.at += 1
    if zero and scratch.at == value.key.at:
        more = True
        scratch.at[0] = c"0"
        scratch.at += 1
    value.key.length = scratch.at - value.key.at
    return (more or not number) and digits < MY_NUMBER_DIGITS and count <= cell.bound


cdef bint _read_link(const CellPlan *cell, Value *value) noexcept nogil:
    cdef Py_ssize_t position
    cdef uint8_t byte
    cdef int digits = 0, letters = 0
    for position in range(value.text.length):
        byte = value.text.at[position]
        if byte < c"!" or byte > c"~":
            return False
        digits += c"0" <= byte <= c"9"
        letters += c"a" <= (byte | 0x20) <= c"z"
    return value.text.length <= cell.bound and (letters > 0 or digits < MY_NUMBER_DIGITS)


cdef bint _read_serial(const CellPlan *cell, Value *value, Writer *scratch) noexcept nogil:
    cdef Py_ssize_t position
    cdef uint8_t byte
    cdef int letters = 0
    value.value.at = scratch.at
    if value.text.length > cell.bound or value.text.at[0] == c"0":
        return False
    for position in range(value.text.length):
        byte = value.text.at[position]
        if not c"0" <= byte <= c"9":
            byte &= 0xDF
            if not c"A" <= byte <= c"F":
                return False
            letters += 1
        scratch.at[0] = byte
        scratch.at += 1
    return letters > 0 or value.text.length < MY_NUMBER_DIGITS


cdef inline int _two_digits(const uint8_t *at) noexcept nogil:
    """The number of two digits, or a negative one."""
    cdef unsigned int tens = <unsigned int>at[0] - c"0", ones = <unsigned int>at[1] - c"0"
    return <int>(10 * tens + ones) if tens < 10 and ones < 10 else -10_000


cdef bint _read_date(const CellPlan *cell, Value *value, Writer *scratch) noexcept nogil:
    cdef const uint8_t *at = value.text.at
    cdef int year, month, day, step = 0
    if value.text.length == 10:
        if at[4] != c"-" or at[7] != c"-":
            return False
        step = 1
    elif value.text.length != 8:
        return False
    year = 100 * _two_digits(at) + _two_digits(at + 2)
    month, day = _two_digits(at + 4 + step), _two_digits(at + 6 + 2 * step)
    if year < 1 or month < 1 or month > 12 or day < 1 or day > _days_in(year, month):
        return False
    value.number = _day_number(year, month, day)
    value.value.at = scratch.at
    _put_integer(scratch, value.number)
    value.value.length, value.is_packed = scratch.at - value.value.at, True
    return value.number >= cell.bound


cdef inline int _days_in(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 + ((month + month // 8) & 1)


cdef inline int64_t _day_number(int year, int month, int day) noexcept nogil:
    """Days since 1920-01-01: years are counted from March, so that the leap day is their last."""
    if month <= 2:
        year -= 1
        month += 12
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 1 - 701_205


cdef bint _read_postcode(Value *value, Writer *scratch) noexcept nogil:
    cdef const uint8_t *at = value.text.at
    cdef Py_ssize_t position, length = value.text.length
    if length != 7 and not (length == 8 and at[3] == c"-"):
        return False
    for position in range(length):
        if not c"0" <= at[position] <= c"9" and not (length == 8 and position == 3):
            return False
    value.value.at, value.value.length = scratch.at, 8
    memcpy(scratch.at, at, 3)
    scratch.at[3] = c"-"
    memcpy(scratch.at + 4, at + length - 4, 4)
    scratch.at += 8
    return True


cdef bint _read_branch(Value *value, Writer *scratch) noexcept nogil:
    cdef Py_ssize_t length = value.text.length
    if length > 2:
        return False
    scratch.at[0] = value.text.at[0] if length == 2 else <uint8_t>c"0"
    scratch.at[1] = value.text.at[length - 1]
    value.number = _two_digits(scratch.at)
    value.value.at, value.value.length = scratch.at, 2
    scratch.at += 2
    return value.number >= 0


cdef bint _read_ratio(Value *value) noexcept nogil:
    cdef const uint8_t *at = value.text.at
    if value.text.length != 3:
        return False
    return (at[0] == c"0" and _two_digits(at + 1) >= 0) or (at[0] == c"1" and at[1] == c"0" and at[2] == c"0")


cdef bint _read_code(Plan plan, const CellPlan *cell, Value *value) noexcept nogil:
    cdef int position
    cdef const CodeEntry *code
    for position in range(cell.code_first, cell.code_first + cell.code_count):
        code = &plan.codes[position]
        if code.text.length == value.text.length and memcmp(code.text.at, value.text.at, value.text.length) == 0:
            value.value, value.is_packed, value.number = code.packed, True, code.number
            return True
    return False


# --- what is written ------------------------------------------------------------------------------------------


cdef int _write(
    Plan plan, uint8_t *people, Py_ssize_t room, Py_ssize_t *used, int64_t *target, Messages *messages
) noexcept nogil:
    """Write a row's record, messages and numbers; nothing of it counts if there is no room for all."""
    cdef Writer writer
    cdef Py_ssize_t[MOST_MESSAGES] lengths
    cdef Py_ssize_t record_bytes
    cdef uint8_t *row
    cdef int kind, cell
    writer.at, writer.end = people + used[0], people + room
    if not _run(plan, 0, &writer):
        return ODD
    record_bytes = writer.at - people - used[0]
    for kind in range(plan.message_count):
        row = messages[kind].rows + messages[kind].count * messages[kind].width
        writer.at, writer.end = row, row + messages[kind].width
        if not _run(plan, kind + 1, &writer):
            return ODD
        lengths[kind] = writer.at - row
    for kind in range(plan.message_count):
        if lengths[kind]:
            messages[kind].lengths[messages[kind].count] = <uint16_t>lengths[kind]
            messages[kind].count += 1
    for kind in range(plan.number_count):
        cell = plan.number_cells[kind]
        target[3 + kind] = plan.filled >> cell & 1 if plan.number_kinds[kind] else plan.values[cell].number
    target[1], target[2] = used[0], record_bytes
    used[0] += record_bytes
    return PLAIN


cdef bint _run(Plan plan, int program, Writer *writer) noexcept nogil:
    """Take the steps of one program. False if there is no room."""
    cdef int position = plan.programs[program], end = plan.programs[program + 1]
    cdef const StepPlan *step
    cdef const Value *value
    while position < end:
        step = &plan.steps[position]
        value = &plan.values[step.cell]
        position += 1
        if step.kind == S_LITERAL:
            if not _put(writer, &step.literal):
                return False
        elif step.kind == S_PACKED:
            if not (_put(writer, &value.value) if value.is_packed else _put_text(writer, &value.value)):
                return False
        elif step.kind == S_KEY_PACKED:
            if not _put_text(writer, &value.key):
                return False
        elif step.kind == S_KEY_RAW:
            if not _put(writer, &value.key):
                return False
        elif step.kind == S_UNLESS:
            if not plan.filled >> step.cell & 1:
                if not _put(writer, &step.literal):
                    return False
                position += step.count
        elif step.kind == S_DECIMAL:
            if not _put_decimal(writer, value.number):
                return False
        elif plan.filled >> step.cell & 1 and not _put_raw(writer, value):
            return False
    return True


cdef inline bint _put(Writer *writer, const Span *span) noexcept nogil:
    if writer.end - writer.at < span.length:
        return False
    memcpy(writer.at, span.at, span.length)
    writer.at += span.length
    return True


cdef inline bint _put_text(Writer *writer, const Span *text) noexcept nogil:
    """A text in MessagePack, with the shortest head."""
    if writer.end - writer.at < text.length + 5:
        return False
    if text.length < 32:
        writer.at[0] = <uint8_t>(0xA0 | text.length)
        writer.at += 1
    elif text.length < 0x100:
        writer.at[0], writer.at[1] = 0xD9, <uint8_t>text.length
        writer.at += 2
    elif text.length < 0x10000:
        writer.at[0], writer.at[1], writer.at[2] = 0xDA, <uint8_t>(text.length >> 8), <uint8_t>text.length
        writer.at += 3
    else:
        return False
    memcpy(writer.at, text.at, text.length)
    writer.at += text.length
    return True


cdef bint _put_raw(Writer *writer, const Value *value) noexcept nogil:
    """A value as text: what is packed already loses its head, if it is a text at all."""
    cdef Span text = value.value
    cdef int head = 0
    if value.is_packed:
        if text.length == 0:
            return False
        if text.at[0] & 0xE0 == 0xA0:
            head = 1
        elif text.at[0] == 0xD9:
            head = 2
        elif text.at[0] == 0xDA:
            head = 3
        else:
            return False
        text.at += head
        text.length -= head
    return text.length >= 0 and _put(writer, &text)


cdef bint _put_decimal(Writer *writer, int64_t number) noexcept nogil:
    cdef uint8_t[24] digits
    cdef int count = 0
    cdef uint64_t rest = <uint64_t>number if number >= 0 else <uint64_t>0 - <uint64_t>number
    cdef Span text
    while True:
        count += 1
        digits[24 - count] = <uint8_t>(c"0" + rest % 10)
        rest //= 10
        if rest == 0:
            break
    if number < 0:
        count += 1
        digits[24 - count] = c"-"
    text.at, text.length = &digits[24 - count], count
    return _put(writer, &text)


cdef void _put_integer(Writer *writer, int64_t number) noexcept nogil:
    """A day number in MessagePack, with the fewest bytes; the caller has made room for five."""
    cdef int size, position
    cdef uint8_t head
    if -32 <= number < 128:
        writer.at[0] = <uint8_t>number
        writer.at += 1
        return
    if number >= 0:
        size, head = (1, 0xCC) if number < 0x100 else (2, 0xCD) if number < 0x10000 else (4, 0xCE)
    else:
        size, head = (1, 0xD0) if number >= -0x80 else (2, 0xD1) if number >= -0x8000 else (4, 0xD2)
    writer.at[0] = head
    for position in range(size):
        writer.at[1 + position] = <uint8_t>(number >> 8 * (size - 1 - position))
    writer.at += 1 + size


# --- arrays and tables -------------------------------------------------------------------------------------


cdef void _add(int first, int last, int kind) noexcept:
    cdef int code
    for code in range(first, last + 1):
        CLASS[code] |= kind


cdef void _fill_tables() noexcept:
    cdef int code
    memset(CLASS, 0, sizeof(CLASS))
    memset(ENDS_CELL, 0, sizeof(ENDS_CELL))
    for code in b',\n\r"':
        ENDS_CELL[code] = 1
    _add(0x20, 0x7E, SIGN | IN_IDENTIFIERS)
    _add(c"A", c"Z", LETTER | IN_KANA)
    _add(c"a", c"z", LETTER | IN_KANA)
    _add(c"0", c"9", DIGIT | IN_KANA)
    for code in b" .,'()/&-":
        CLASS[code] |= IN_KANA
    # Hiragana and katakana, of which names in kana are made; then ideographs.
    _add(0x3041, 0x3096, LETTER | IN_KANA | IN_IDENTIFIERS)
    _add(0x30A1, 0x30FA, LETTER | IN_KANA | IN_IDENTIFIERS)
    _add(0x3400, 0x4DBF, LETTER | IN_IDENTIFIERS)
    _add(0x4E00, 0x9FFF, LETTER | IN_IDENTIFIERS)
    # Full-width ASCII.
    _add(0xFF01, 0xFF5E, SIGN | IN_IDENTIFIERS)
    _add(0xFF10, 0xFF19, DIGIT)
    _add(0xFF21, 0xFF3A, LETTER)
    _add(0xFF41, 0xFF5A, LETTER)
    # Half width: punctuation and marks, and kana.
    _add(0xFF61, 0xFF9F, SIGN)
    _add(0xFF66, 0xFF9D, LETTER)
    for code, letter in enumerate("・ヲァィゥェォャュョッーアイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワン"):
        FULL_WIDTH[code] = ord(letter)
        VOICED[code] = 1 if letter in "カキクケコサシスセソタチツテトハヒフヘホ" else 8 if letter in "ワヲ" else 0
        HALF_VOICED[code] = 2 if letter in "ハヒフヘホ" else 0
        if letter == "ウ":
            VOICED[code] = ord("ヴ") - ord("ウ")
    # Blank, comma and full stop, iteration marks; middle dot and long-vowel mark; dashes and minus.
    _add(0x3000, 0x3002, SIGN)
    _add(0x3005, 0x3007, SIGN)
    _add(0x309D, 0x309E, SIGN | IN_KANA)
    _add(0x30FB, 0x30FC, SIGN | IN_KANA | IN_IDENTIFIERS)
    _add(0x30FD, 0x30FE, SIGN | IN_KANA)
    _add(0x2010, 0x2015, SIGN | IN_IDENTIFIERS)
    _add(0x2212, 0x2212, SIGN | IN_KANA | IN_IDENTIFIERS)
    _add(0x2010, 0x2010, IN_KANA)
    _add(0x3000, 0x3000, IN_IDENTIFIERS)


_fill_tables()
