"""Owns the canonical form of identifiers for plain ASCII; anything else is left to engine/identifiers."""
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy


cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object text)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void *PyUnicode_DATA(object text)
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 character_max)


# What a byte becomes, where it does not stay (no identifier keeps a byte below the blank).
cdef enum:
    DROPPED = 0
    REFUSED = 1
    BYTES_MAX = 64

CHARS_MAX = BYTES_MAX

cdef uint8_t[256] FOLDED


def fold(text):
    return _fold(text, False)


def fold_number(text):
    return _fold(text, True)


cdef Py_ssize_t fold_ascii(const uint8_t *source, Py_ssize_t length, bint number, uint8_t *target) noexcept nogil:
    cdef Py_ssize_t kept = 0, position
    cdef bint zero = False
    cdef uint8_t folded
    for position in range(length):
        folded = FOLDED[source[position]]
        if folded == DROPPED:
            continue
        if folded == REFUSED:
            return -1
        if number and folded == c"0" and kept == 0:
            zero = True
            continue
        target[kept] = folded
        kept += 1
    if zero and kept == 0:
        target[0] = c"0"
        return 1
    return kept


cdef object _fold(text, bint number):
    cdef uint8_t target[BYTES_MAX]
    cdef Py_ssize_t length, kept
    if not isinstance(text, str):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    if not PyUnicode_CheckExact(text):
        text = str.__str__(text)
    length = PyUnicode_GET_LENGTH(text)
    if length > BYTES_MAX or not PyUnicode_IS_COMPACT_ASCII(text):
        return None
    kept = fold_ascii(<const uint8_t *>PyUnicode_DATA(text), length, number, target)
    if kept < 0:
        return None
    if kept == length and memcmp(target, PyUnicode_DATA(text), kept) == 0:
        return text
    result = PyUnicode_New(kept, 127)
    memcpy(PyUnicode_DATA(result), target, kept)
    return result


cdef void _fill_table() noexcept:
    cdef int byte
    for byte in range(256):
        FOLDED[byte] = REFUSED if byte < 0x20 or byte > 0x7e else byte
    for byte in range(c"a", c"z" + 1):
        FOLDED[byte] = byte - 0x20
    FOLDED[<int>c" "] = DROPPED
    FOLDED[<int>c"/"] = DROPPED


_fill_table()
