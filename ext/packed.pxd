# Owns the reading of MessagePack: one value after the other, as records have them (no maps, floats or binary data).
from libc.stdint cimport int64_t, uint8_t, uint64_t

from ext.scan cimport Span, Text


# What a value of MessagePack is.
cdef enum Kind:
    NIL
    FALSE
    TRUE
    NUMBER
    STRING
    ARRAY
    OTHER

cdef struct Value:
    Kind kind
    int64_t number      # of NUMBER; of ARRAY, how many
    Span text           # of STRING


cdef inline bint next_value(Text *packed, Value *value) noexcept nogil:
    """The next value; of an array, its head. False if there is none as a whole."""
    cdef uint8_t head
    cdef int64_t left = packed.end - packed.at
    if left < 1:
        return False
    head = packed.at[0]
    packed.at += 1
    if head < 0x80 or head >= 0xe0:
        value.kind, value.number = NUMBER, head if head < 0x80 else <int64_t>head - 0x100
        return True
    if 0xa0 <= head < 0xc0:
        return _string_of(packed, value, head & 31)
    if 0x90 <= head < 0xa0:
        value.kind, value.number = ARRAY, head & 15
        return True
    value.kind = OTHER
    if head == 0xc0:
        value.kind = NIL
    elif head == 0xc2:
        value.kind = FALSE
    elif head == 0xc3:
        value.kind = TRUE
    elif head == 0xd9:
        return left >= 2 and _string_of(packed, value, <Py_ssize_t>_big(packed, 1))
    elif head == 0xda:
        return left >= 3 and _string_of(packed, value, <Py_ssize_t>_big(packed, 2))
    elif head == 0xdc:
        if left < 3:
            return False
        value.kind, value.number = ARRAY, <int64_t>_big(packed, 2)
    elif 0xcc <= head <= 0xce or 0xd0 <= head <= 0xd2:
        if left < 1 + (1 << (head & 3)):
            return False
        value.kind = NUMBER
        if head < 0xd0:
            value.number = <int64_t>_big(packed, 1 << (head & 3))
        elif head == 0xd0:
            value.number = <signed char>_big(packed, 1)
        elif head == 0xd1:
            value.number = <short>_big(packed, 2)
        else:
            value.number = <int>_big(packed, 4)
    return value.kind != OTHER


cdef inline uint64_t _big(Text *packed, int count) noexcept nogil:
    """An unsigned big-endian number of so many bytes, which are there."""
    cdef uint64_t number = 0
    cdef int position
    for position in range(count):
        number = number << 8 | packed.at[position]
    packed.at += count
    return number


cdef inline bint _string_of(Text *packed, Value *value, Py_ssize_t length) noexcept nogil:
    if packed.end - packed.at < length:
        return False
    value.kind = STRING
    value.text.at, value.text.length = packed.at, length
    packed.at += length
    return True


cdef inline bint take_array(Text *packed, int count) noexcept nogil:
    cdef Value head
    return next_value(packed, &head) and head.kind == ARRAY and head.number == count


cdef inline bint skip_value(Text *packed) noexcept nogil:
    """Pass over one value, whatever is in it."""
    cdef int64_t left = 1
    cdef Value value
    while left:
        if not next_value(packed, &value):
            return False
        left += (value.number if value.kind == ARRAY else 0) - 1
    return True
