# Owns the reading of plain JSON: strings of ASCII without escapes, words, and blanks between them.
from libc.stdint cimport uint8_t
from libc.string cimport memcmp


cdef extern from "inlined.h" nogil:
    ctypedef struct Span "shikaku_span":
        const uint8_t *at
        Py_ssize_t length

    bint is_text "inlined_is_text"(const Span *value, const char *wanted, Py_ssize_t length) noexcept

# What is left of a text.
cdef struct Text:
    const uint8_t *at
    const uint8_t *end


cdef inline void skip_blanks(Text *text) noexcept nogil:
    while text.at < text.end and (
        text.at[0] == c" " or text.at[0] == c"\n" or text.at[0] == c"\r" or text.at[0] == c"\t"
    ):
        text.at += 1


cdef inline bint take(Text *text, uint8_t wanted) noexcept nogil:
    skip_blanks(text)
    if text.at < text.end and text.at[0] == wanted:
        text.at += 1
        return True
    return False


cdef inline bint take_word(Text *text, const char *word, Py_ssize_t length) noexcept nogil:
    skip_blanks(text)
    if text.end - text.at < length or memcmp(text.at, word, length) != 0:
        return False
    text.at += length
    return True


cdef inline bint take_null(Text *text) noexcept nogil:
    return take_word(text, b"null", 4)


cdef inline bint take_name(Text *text, Span *name) noexcept nogil:
    return take_string(text, name) and take(text, c":")


cdef inline bint take_string(Text *text, Span *value) noexcept nogil:
    """A string of plain ASCII without escapes."""
    if not take(text, c'"'):
        return False
    value.at = text.at
    while text.at < text.end and 0x20 <= text.at[0] < 0x7f and text.at[0] != c'"' and text.at[0] != c"\\":
        text.at += 1
    value.length = text.at - value.at
    if text.at == text.end or text.at[0] != c'"':
        return False
    text.at += 1
    return True


cdef inline bint same_text(const Span *value, const Span *other) noexcept nogil:
    return value.length == other.length and memcmp(value.at, other.at, value.length) == 0


cdef inline Py_ssize_t count_digits(const Span *value) noexcept nogil:
    """How many digits are in it."""
    cdef Py_ssize_t position, count = 0
    for position in range(value.length):
        count += c"0" <= value.at[position] <= c"9"
    return count


cdef inline bint has_letter(const Span *value) noexcept nogil:
    cdef Py_ssize_t position
    for position in range(value.length):
        if c"a" <= (value.at[position] | 0x20) <= c"z":
            return True
    return False


cdef inline bint check_digit_fits(const Span *digits) noexcept nogil:
    """As engine.identifiers.check_digit_ok."""
    cdef int total = 0, digit
    cdef Py_ssize_t position
    for position in range(digits.length):
        digit = digits.at[digits.length - 1 - position] - c"0"
        if position & 1:
            digit = 2 * digit - (9 if digit > 4 else 0)
        total += digit
    return total % 10 == 0
