# Canonical forms for other compiled modules; ext/canon.pyi says what Python may call.
from libc.stdint cimport uint8_t

# Writes the canonical form of `length` bytes to `target`, which has room for `length` bytes; with `number`, without
# leading zeros. Returns how many bytes were written, or -1 if a byte is not printable ASCII.
cdef Py_ssize_t fold_ascii(const uint8_t *source, Py_ssize_t length, bint number, uint8_t *target) noexcept nogil


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
