# Canonical forms for other compiled modules; ext/canon.pyi says what Python may call.
from libc.stdint cimport uint8_t

# Writes the canonical form of `length` bytes to `target`, which has room for `length` bytes; with `number`, without
# leading zeros. Returns how many bytes were written, or -1 if a byte is not printable ASCII.
cdef Py_ssize_t fold_ascii(const uint8_t *source, Py_ssize_t length, bint number, uint8_t *target) noexcept nogil


cdef enum:
    ISO_CHARS = 10
    # Of 0001-01-01 and 9999-12-31, with 1920-01-01 as day 0; and what is no day.
    FIRST_DAY = -700899
    LAST_DAY = 2951159
    NO_DATE = -1000000

# The day number of ISO_CHARS bytes, or NO_DATE if they are not `YYYY-MM-DD` of a date in the calendar.
cdef int read_iso(const uint8_t *letters) noexcept nogil
# Writes ISO_CHARS bytes; `day` must lie between FIRST_DAY and LAST_DAY.
cdef void write_iso(int day, uint8_t *letters) noexcept nogil
# The same of the day so many months (0 to 12) later: the same day of the month, or its last where it is shorter.
cdef void write_iso_later(int day, int months, uint8_t *letters) noexcept nogil


# A card whose texts were checked; it points into them.
cdef struct Card:
    const char *insurer
    const char *symbol
    const char *number
    Py_ssize_t insurer_bytes
    Py_ssize_t symbol_bytes
    Py_ssize_t number_bytes
    int birth_date


# Fills `card`. Raises TypeError, ValueError, UnicodeEncodeError as `card_message` does.
cdef int read_card(Card *card, insurer_number, birth_date, symbol_key, number_key) except -1
# How long the card's message is, and the message itself.
cdef Py_ssize_t card_bytes(const Card *card) noexcept nogil
cdef void write_card(const Card *card, uint8_t *target) noexcept nogil
