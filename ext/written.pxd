# Owns the writing of plain JSON into a buffer: texts that need no escapes, days, flags and numbers.
from libc.stdint cimport uint8_t, uint64_t

from ext cimport canon
from ext.packed cimport NIL, NUMBER, STRING, FALSE, TRUE, Value
from ext.scan cimport Span


cdef extern from "inlined.h" nogil:
    # Where to write next; `failed` once something did not fit, or is not for us to write.
    ctypedef struct Writer "shikaku_writer":
        uint8_t *at
        uint8_t *end
        bint failed

    void put "inlined_put"(Writer *writer, const void *source, Py_ssize_t size) noexcept
    void put_literal "inlined_put_literal"(Writer *writer, const char *text) noexcept


cdef inline void put_span(Writer *writer, const Span *text) noexcept nogil:
    put(writer, text.at, text.length)


cdef inline void put_quoted(Writer *writer, const Span *text) noexcept nogil:
    """A string; one with what JSON escapes is for others."""
    cdef Py_ssize_t position
    cdef uint8_t byte
    if writer.end - writer.at < text.length + 2:
        writer.failed = True
        return
    writer.at[0] = c'"'
    writer.at += 1
    for position in range(text.length):
        byte = text.at[position]
        if byte < 0x20 or byte == c'"' or byte == c"\\":
            writer.failed = True
        writer.at[position] = byte
    writer.at += text.length
    writer.at[0] = c'"'
    writer.at += 1


cdef inline void put_text(Writer *writer, const Value *value) noexcept nogil:
    if value.kind == STRING:
        put_quoted(writer, &value.text)
    else:
        writer.failed = True


cdef inline void put_text_or_null(Writer *writer, const Value *value) noexcept nogil:
    if value.kind == STRING and value.text.length == 0:
        put(writer, b"null", 4)
    else:
        put_text(writer, value)


cdef inline void put_null_of(Writer *writer, const Value *value) noexcept nogil:
    if value.kind == NIL:
        put(writer, b"null", 4)
    else:
        writer.failed = True


cdef inline void put_date(Writer *writer, int day) noexcept nogil:
    if writer.end - writer.at < canon.ISO_CHARS + 2:
        writer.failed = True
        return
    writer.at[0] = c'"'
    canon.write_iso(day, writer.at + 1)
    writer.at[canon.ISO_CHARS + 1] = c'"'
    writer.at += canon.ISO_CHARS + 2


cdef inline void put_date_later(Writer *writer, int day, int months) noexcept nogil:
    put_date(writer, day)
    if not writer.failed:
        canon.write_iso_later(day, months, writer.at - canon.ISO_CHARS - 1)


cdef inline void put_day(Writer *writer, const Value *value) noexcept nogil:
    if value.kind == NUMBER and canon.FIRST_DAY <= value.number <= canon.LAST_DAY:
        put_date(writer, <int>value.number)
    else:
        writer.failed = True


cdef inline void put_day_or_null(Writer *writer, const Value *value) noexcept nogil:
    if value.kind == NIL:
        put(writer, b"null", 4)
    else:
        put_day(writer, value)


cdef inline void put_flag(Writer *writer, const Value *value) noexcept nogil:
    if value.kind == TRUE:
        put(writer, b"true", 4)
    elif value.kind == FALSE:
        put(writer, b"false", 5)
    else:
        writer.failed = True


cdef inline void put_choice(
    Writer *writer, const Value *value, const char *first, const char *second, const char *third
) noexcept nogil:
    """One of up to three words, numbered from 1."""
    cdef const char *word = NULL
    if value.kind == NUMBER and 1 <= value.number <= 3:
        word = first if value.number == 1 else second if value.number == 2 else third
    if word == NULL:
        writer.failed = True
    else:
        put_literal(writer, word)


cdef inline void put_number(Writer *writer, uint64_t number) noexcept nogil:
    cdef uint8_t[24] digits
    cdef Py_ssize_t count = 0
    while True:
        count += 1
        digits[24 - count] = <uint8_t>(c"0" + number % 10)
        number //= 10
        if number == 0:
            break
    put(writer, &digits[24 - count], count)
