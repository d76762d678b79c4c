"""Owns the outline of a JSON text: where members and elements begin and end, without decoding them."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memset

import json


cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

DEPTH_MAX = 64
NAMES_MAX = 256
Body = bytes | bytearray | memoryview

# Inner functions return an offset, or one of these.
cdef enum:
    TOO_EARLY = -1
    TOO_LONG = -2
    NO_VALUE = -3
    TOO_DEEP = -4
    NO_MATCH = -5
    CONTROL = -6
    NO_COMMA = -7
    NO_NAME = -8
    NO_COLON = -9

cdef dict MESSAGES = {
    TOO_EARLY: "the text ends too early",
    TOO_LONG: "an element is too long",
    NO_VALUE: "a value was expected",
    TOO_DEEP: "brackets are nested too deeply",
    NO_MATCH: "brackets do not match",
    CONTROL: "a string holds a control character",
    NO_COMMA: "a comma or the closing bracket was expected",
    NO_NAME: "the name of a member was expected",
    NO_COLON: "a colon was expected",
}

# What a byte is to the walk.
cdef enum:
    OTHER = 0
    BLANK = 1
    SCALAR = 2

cdef uint8_t[256] KIND

# The text of one call: it walks from `offset` and never past `limit`.
cdef struct Walk:
    Py_buffer buffer
    const uint8_t *text
    Py_ssize_t size
    Py_ssize_t offset
    Py_ssize_t limit


def open_object(body, offset=0):
    return _open(body, offset, c"{", "an object was expected")


def open_array(body, offset=0):
    return _open(body, offset, c"[", "an array was expected")


def next_member(body, offset, bytes_max=2**62):
    cdef Walk walk
    cdef bint closed = False
    cdef Py_ssize_t start, end = 0, value = 0
    _begin(&walk, body, offset, bytes_max)
    try:
        start = _next(&walk, walk.offset, c"{", c"}", &closed)
        if closed:
            return None, start
        if start >= 0:
            start = _name_bounds(&walk, start, &end)
        if start < 0:
            raise ValueError(MESSAGES[start])
        name = _name(walk.text + start, end - start)
        value = _after_colon(&walk, end)
        if value < 0:
            raise ValueError(MESSAGES[value])
        return name, value
    finally:
        PyBuffer_Release(&walk.buffer)


def next_item(body, offset, bytes_max=2**62):
    cdef Walk walk
    cdef bint closed = False
    cdef Py_ssize_t start, end
    _begin(&walk, body, offset, bytes_max)
    start = end = _next(&walk, walk.offset, c"[", c"]", &closed)
    if start >= 0 and not closed:
        end = _skip_value(&walk, start)
    PyBuffer_Release(&walk.buffer)
    if end < 0:
        raise ValueError(MESSAGES[end])
    return start, end, end


def skip(body, offset, bytes_max=2**62):
    cdef Walk walk
    cdef Py_ssize_t end
    _begin(&walk, body, offset, bytes_max)
    end = _skip_value(&walk, _skip_blanks(&walk, walk.offset))
    PyBuffer_Release(&walk.buffer)
    if end < 0:
        raise ValueError(MESSAGES[end])
    return end


def finish(body, offset):
    cdef Walk walk
    _begin(&walk, body, offset, PY_SSIZE_T_MAX)
    cdef Py_ssize_t end = _skip_blanks(&walk, walk.offset)
    PyBuffer_Release(&walk.buffer)
    if end != walk.size:
        raise ValueError("there is more after the end")


def members(body):
    offset = open_object(body)
    found = {}
    while True:
        name, offset = next_member(body, offset)
        if name is None:
            finish(body, offset)
            return list(found.values())
        if name in found:
            raise ValueError("a member is given twice")
        end = skip(body, offset)
        found[name] = (name, offset, end)
        offset = end


def distinct(body):
    cdef Walk walk
    _begin(&walk, body, 0, PY_SSIZE_T_MAX)
    cdef bint found = _distinct(&walk)
    PyBuffer_Release(&walk.buffer)
    return found


cdef object _open(body, offset, uint8_t bracket, str message):
    cdef Walk walk
    _begin(&walk, body, offset, PY_SSIZE_T_MAX)
    cdef Py_ssize_t start = _skip_blanks(&walk, walk.offset)
    cdef bint opens = start < walk.limit and walk.text[start] == bracket
    PyBuffer_Release(&walk.buffer)
    if not opens:
        raise ValueError(message)
    return start + 1


cdef int _begin(Walk *walk, body, offset, bytes_max) except -1:
    """Check the arguments; on return the caller must release the buffer."""
    cdef Py_ssize_t start, most
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"body must be bytes-like, not {type(body).__name__}")
    start = _clamped(offset, "offset")
    most = _clamped(bytes_max, "bytes_max")
    try:
        PyObject_GetBuffer(body, &walk.buffer, PyBUF_SIMPLE)
    except BufferError:
        raise ValueError("body must be contiguous") from None
    walk.text = <const uint8_t *>walk.buffer.buf
    walk.size = walk.buffer.len
    walk.offset = start
    if not 0 <= start <= walk.size:
        PyBuffer_Release(&walk.buffer)
        raise ValueError("offset is outside the body")
    if most < 0:
        PyBuffer_Release(&walk.buffer)
        raise ValueError("bytes_max must not be negative")
    walk.limit = walk.size if most >= walk.size - start else start + most
    return 0


cdef Py_ssize_t _clamped(value, str name) except? -1:
    """An int as Py_ssize_t; one beyond its range becomes its largest or -1."""
    cdef int overflow = 0
    if not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    cdef long long wide = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow > 0 or wide > PY_SSIZE_T_MAX:
        return PY_SSIZE_T_MAX
    return -1 if overflow < 0 or wide < 0 else <Py_ssize_t>wide


cdef inline Py_ssize_t _ended(const Walk *walk) noexcept nogil:
    return TOO_EARLY if walk.limit == walk.size else TOO_LONG


cdef inline Py_ssize_t _skip_blanks(const Walk *walk, Py_ssize_t offset) noexcept nogil:
    while offset < walk.limit and KIND[walk.text[offset]] == BLANK:
        offset += 1
    return offset


cdef Py_ssize_t _next(
    const Walk *walk, Py_ssize_t offset, uint8_t bracket, uint8_t closing, bint *closed
) noexcept nogil:
    # No value ends in an opening bracket, so one just before the offset says that this is the first element.
    cdef bint first = offset > 0 and walk.text[offset - 1] == bracket
    offset = _skip_blanks(walk, offset)
    if offset >= walk.limit:
        return _ended(walk)
    if walk.text[offset] == closing:
        closed[0] = True
        return offset + 1
    if first:
        return offset
    if walk.text[offset] != c",":
        return NO_COMMA
    return _skip_blanks(walk, offset + 1)


cdef Py_ssize_t _name_bounds(const Walk *walk, Py_ssize_t start, Py_ssize_t *end) noexcept nogil:
    """Where a member's name begins, with its quotes; `end` receives the offset behind it."""
    if start >= walk.limit:
        return _ended(walk)
    if walk.text[start] != c'"':
        return NO_NAME
    end[0] = _skip_string(walk, start)
    return start if end[0] >= 0 else end[0]


cdef Py_ssize_t _after_colon(const Walk *walk, Py_ssize_t offset) noexcept nogil:
    offset = _skip_blanks(walk, offset)
    if offset >= walk.limit:
        return _ended(walk)
    return _skip_blanks(walk, offset + 1) if walk.text[offset] == c":" else NO_COLON


cdef Py_ssize_t _skip_value(const Walk *walk, Py_ssize_t offset) noexcept nogil:
    """The offset behind the value that begins at `offset`; commas and scalars are left to the decoder."""
    cdef Py_ssize_t start = offset
    if offset >= walk.limit:
        return _ended(walk)
    if walk.text[offset] == c'"':
        return _skip_string(walk, offset)
    if walk.text[offset] == c"{" or walk.text[offset] == c"[":
        return _skip_brackets(walk, offset)
    while offset < walk.limit and KIND[walk.text[offset]] == SCALAR:
        offset += 1
    if offset == start:
        return NO_VALUE
    return TOO_LONG if offset == walk.limit and walk.limit < walk.size else offset


cdef Py_ssize_t _skip_brackets(const Walk *walk, Py_ssize_t offset) noexcept nogil:
    # One bit for each open bracket, the innermost lowest: 1 for an object.
    cdef uint64_t objects = 0
    cdef int depth = 0
    cdef uint8_t byte
    while offset < walk.limit:
        byte = walk.text[offset]
        if byte == c'"':
            offset = _skip_string(walk, offset)
            if offset < 0:
                return offset
            continue
        if byte == c"{" or byte == c"[":
            if depth == 64:
                return TOO_DEEP
            objects = objects << 1 | (byte == c"{")
            depth += 1
        elif byte == c"}" or byte == c"]":
            if (objects & 1) != (byte == c"}"):
                return NO_MATCH
            objects >>= 1
            depth -= 1
            if depth == 0:
                return offset + 1
        offset += 1
    return _ended(walk)


cdef Py_ssize_t _skip_string(const Walk *walk, Py_ssize_t offset) noexcept nogil:
    cdef uint8_t byte
    offset += 1
    while offset < walk.limit:
        byte = walk.text[offset]
        if byte == c'"':
            return offset + 1
        if byte < 0x20:
            return CONTROL
        offset += 2 if byte == c"\\" else 1
    return _ended(walk)


cdef bint _distinct(const Walk *walk) noexcept nogil:
    # Names of the objects that are open: where each begins and how long it is, with its quotes. `first` says, for
    # each open bracket, where its names begin; it is negative for an array.
    cdef Py_ssize_t[256] starts, lengths
    cdef int[64] first
    cdef int depth = 0, count = 0
    cdef Py_ssize_t offset = 0, start, follows
    cdef uint8_t byte
    while offset < walk.limit:
        byte = walk.text[offset]
        if byte == c'"':
            start = offset
            offset = _skip_string(walk, start)
            if offset < 0:
                return False
            follows = _skip_blanks(walk, offset)
            if depth and first[depth - 1] >= 0 and follows < walk.limit and walk.text[follows] == c":":
                if count == 256:
                    return False
                if not _is_new(walk.text, start, offset - start, first[depth - 1], count, starts, lengths):
                    return False
                starts[count], lengths[count] = start, offset - start
                count += 1
            continue
        if byte == c"{" or byte == c"[":
            if depth == 64:
                return False
            first[depth] = count if byte == c"{" else -1 - count
            depth += 1
        elif byte == c"}" or byte == c"]":
            if depth == 0 or (first[depth - 1] >= 0) != (byte == c"}"):
                return False
            depth -= 1
            count = first[depth] if first[depth] >= 0 else -1 - first[depth]
        offset += 1
    return depth == 0


cdef bint _is_new(
    const uint8_t *text,
    Py_ssize_t start,
    Py_ssize_t length,
    int position,
    int count,
    const Py_ssize_t *starts,
    const Py_ssize_t *lengths,
) noexcept nogil:
    """Whether a name has no escape and is none of those from `position` to `count`."""
    if memchr(text + start, c"\\", length) != NULL:
        return False
    while position < count:
        if lengths[position] == length and memcmp(text + starts[position], text + start, length) == 0:
            return False
        position += 1
    return True


cdef str _name(const uint8_t *text, Py_ssize_t length):
    """The text of a name, from its quotes."""
    try:
        if memchr(text, c"\\", length) == NULL:
            return PyUnicode_DecodeUTF8(<const char *>text + 1, length - 2, NULL)
        name = json.loads(text[:length])
        name.encode()
    except ValueError:
        raise ValueError("the name of a member is not valid text") from None
    return name


cdef void _fill_table() noexcept:
    cdef int byte
    memset(KIND, OTHER, sizeof(KIND))
    for byte in b" \t\n\r":
        KIND[byte] = BLANK
    for byte in b"+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        KIND[byte] = SCALAR


_fill_table()
