"""Owns canonical forms: of identifiers in plain ASCII, of a card as the bytes that are hashed, and of dates."""
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_FromStringAndSize


cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object text)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void *PyUnicode_DATA(object text)
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 character_max)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


# What a byte becomes, where it does not stay (no identifier keeps a byte below the blank).
cdef enum:
    DROPPED = 0
    REFUSED = 1
    BYTES_MAX = 64

    # Days from 0000-03-01 to day 0, which is 1920-01-01.
    ERA_DAYS = 146097
    TO_DAY_0 = 701205

CHARS_MAX = BYTES_MAX
DAY_FIRST = FIRST_DAY
DAY_LAST = LAST_DAY

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


def card_message(insurer_number, birth_date, symbol_key, number_key):
    cdef Card card
    read_card(&card, insurer_number, birth_date, symbol_key, number_key)
    message = PyBytes_FromStringAndSize(NULL, card_bytes(&card))
    write_card(&card, <uint8_t *>message)
    return message


cdef int read_card(Card *card, insurer_number, birth_date, symbol_key, number_key) except -1:
    # The texts must outlive the card: it points into them.
    if not isinstance(birth_date, int):
        raise TypeError("birth_date must be an integer")
    if not FIRST_DAY <= birth_date <= LAST_DAY:
        raise ValueError(f"birth_date must be from {FIRST_DAY} to {LAST_DAY}")
    card.birth_date = birth_date
    card.insurer = _utf8(insurer_number, "insurer_number", &card.insurer_bytes)
    card.symbol = _utf8(symbol_key, "symbol_key", &card.symbol_bytes)
    card.number = _utf8(number_key, "number_key", &card.number_bytes)
    return 0


cdef inline const char *_utf8(text, str name, Py_ssize_t *size) except NULL:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be str, not {type(text).__name__}")
    return PyUnicode_AsUTF8AndSize(text, size)


cdef Py_ssize_t card_bytes(const Card *card) noexcept nogil:
    return 3 + card.insurer_bytes + _decimal(card.birth_date, NULL) + card.symbol_bytes + card.number_bytes


cdef void write_card(const Card *card, uint8_t *target) noexcept nogil:
    target[0] = 1
    target += 1
    memcpy(target, card.insurer, card.insurer_bytes)
    target += card.insurer_bytes
    target += _decimal(card.birth_date, target)
    target[0] = 0x1f
    target += 1
    memcpy(target, card.symbol, card.symbol_bytes)
    target += card.symbol_bytes
    target[0] = 0x1f
    memcpy(target + 1, card.number, card.number_bytes)


cdef Py_ssize_t _decimal(int number, uint8_t *target) noexcept nogil:
    # How many characters the number has; with a target, they are written there.
    cdef uint8_t digits[12]
    cdef unsigned int left = -number if number < 0 else number
    cdef Py_ssize_t start = 12
    while True:
        start -= 1
        digits[start] = <uint8_t>(c"0" + left % 10)
        left //= 10
        if left == 0:
            break
    if number < 0:
        start -= 1
        digits[start] = c"-"
    if target is not NULL:
        memcpy(target, &digits[start], 12 - start)
    return 12 - start


def day_of_iso(text):
    cdef int day
    if not isinstance(text, str):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    if not PyUnicode_CheckExact(text):
        text = str.__str__(text)
    if PyUnicode_GET_LENGTH(text) != ISO_CHARS or not PyUnicode_IS_COMPACT_ASCII(text):
        return None
    day = read_iso(<const uint8_t *>PyUnicode_DATA(text))
    return None if day == NO_DATE else day


cdef int read_iso(const uint8_t *letters) noexcept nogil:
    cdef int position, year, month, day
    for position in range(ISO_CHARS):
        if (position == 4 or position == 7) != (letters[position] == c"-"):
            return NO_DATE
        if position != 4 and position != 7 and not c"0" <= letters[position] <= c"9":
            return NO_DATE
    year = 1000 * letters[0] + 100 * letters[1] + 10 * letters[2] + letters[3] - 1111 * c"0"
    month = 10 * letters[5] + letters[6] - 11 * c"0"
    day = 10 * letters[8] + letters[9] - 11 * c"0"
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= _month_days(year, month):
        return NO_DATE
    # Years begin in March here, so that the day that is sometimes missing is their last.
    if month <= 2:
        year -= 1
        month += 12
    return (
        year // 400 * ERA_DAYS + year % 400 * 365 + year % 400 // 4 - year % 400 // 100
        + (153 * (month - 3) + 2) // 5 + day - 1 - TO_DAY_0
    )


def iso_of_day(day):
    if not isinstance(day, int):
        raise TypeError("day must be an integer")
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"day must be from {FIRST_DAY} to {LAST_DAY}")
    text = PyUnicode_New(ISO_CHARS, 127)
    write_iso(day, <uint8_t *>PyUnicode_DATA(text))
    return text


cdef void write_iso(int day, uint8_t *letters) noexcept nogil:
    write_iso_later(day, 0, letters)


cdef void write_iso_later(int day, int months, uint8_t *letters) noexcept nogil:
    cdef int left = day + TO_DAY_0, era, year, month
    era = left // ERA_DAYS
    left %= ERA_DAYS
    year = (left - left // 1460 + left // 36524 - left // (ERA_DAYS - 1)) // 365
    left -= 365 * year + year // 4 - year // 100
    month = (5 * left + 2) // 153
    left -= (153 * month + 2) // 5
    year += 400 * era + (month >= 10)
    month += 3 if month < 10 else -9
    month += months
    if month > 12:
        year, month = year + 1, month - 12
    if months:
        left = min(left, _month_days(year, month) - 1)
    _two_digits(letters, year // 100)
    _two_digits(letters + 2, year % 100)
    letters[4] = c"-"
    _two_digits(letters + 5, month)
    letters[7] = c"-"
    _two_digits(letters + 8, left + 1)


cdef inline void _two_digits(uint8_t *target, int number) noexcept nogil:
    target[0] = <uint8_t>(c"0" + number // 10)
    target[1] = <uint8_t>(c"0" + number % 10)


cdef inline int _month_days(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 + ((month + (month > 7)) & 1)


cdef void _fill_table() noexcept:
    cdef int byte
    for byte in range(256):
        FOLDED[byte] = REFUSED if byte < 0x20 or byte > 0x7e else byte
    for byte in range(c"a", c"z" + 1):
        FOLDED[byte] = byte - 0x20
    FOLDED[<int>c" "] = DROPPED
    FOLDED[<int>c"/"] = DROPPED


_fill_table()
