# The ordinary check for other compiled modules; ext/ordinary.pyi says what Python may call.
from libc.stdint cimport uint8_t, uint64_t

from ext.held cimport Record
from ext.scan cimport Span

cdef enum:
    MOST_ANSWER_BYTES = 8192
    FIRST_AS_OF = 1
    LAST_AS_OF = 65533
    IDENTIFIER_BYTES = 20
    ISSUER_BYTES = 200
    SERIAL_BYTES = 40
    # More than the longest message: a head, an insurer, a date, two identifiers and what separates them; or a head, an
    # issuer, a separator and a serial number.
    MESSAGE_BYTES = 250
    NO_DAY = -1
    NO_BRANCH = -1
    PURPOSE_DEFAULT = 1


# An ordinary inquiry; its spans point into the text that it was read from.
cdef struct Inquiry:
    int as_of                   # NO_DAY if the text names none
    int today                   # where it matters: for a certificate
    bint by_certificate
    Span institution
    int purpose                 # its place among those that are known, from 1
    Span insurer
    Span symbol
    Span number
    Span mark
    int branch
    int birth_date
    bint verdict_only
    bint limit_consent
    bint diseases_consent
    uint8_t[IDENTIFIER_BYTES] symbol_key
    uint8_t[IDENTIFIER_BYTES] number_key
    Py_ssize_t symbol_key_bytes
    Py_ssize_t number_key_bytes
    uint8_t[ISSUER_BYTES] issuer_key
    uint8_t[SERIAL_BYTES] serial_key
    Py_ssize_t issuer_key_bytes
    Py_ssize_t serial_key_bytes


# What this process knows beside the record, as JSON: `head` is the beginning of the answer up to the date.
cdef struct Pieces:
    Span insurer_name
    Span fresh_at
    Span head
    Span advice


# Whether the text is an ordinary inquiry, and all of it.
cdef bint read_inquiry(Inquiry *asked, const uint8_t *start, Py_ssize_t size) noexcept nogil
# The same for an item of a batch, which has no institution, date and purpose of its own; the date is left out.
cdef bint read_item(Inquiry *asked, const uint8_t *start, Py_ssize_t size) noexcept nogil
# Writes what is hashed of the card, at most MESSAGE_BYTES, and returns how many bytes that are.
cdef Py_ssize_t write_message(const Inquiry *asked, uint8_t *message) noexcept nogil
# Whether a Person in MessagePack is who was asked for, and the answer an ordinary one; `record` is what was read.
cdef bint fits(
    const Inquiry *asked, const uint8_t *start, Py_ssize_t size, Record *record
) noexcept nogil
# The insurer of the record's qualification: eight bytes, or more or less if it is no ordinary one.
cdef Span insurer_of(const Record *record) noexcept nogil
# Writes the answer out of a record that fits, at most MOST_ANSWER_BYTES; 0 if that is for others to answer.
cdef Py_ssize_t write_answer(
    const Inquiry *asked, const Record *record, uint64_t version, const Pieces *pieces, uint8_t *target
) noexcept nogil
# The same without data: what `pieces` say, and nothing else.
cdef Py_ssize_t write_bare(
    const Inquiry *asked, uint64_t version, const Pieces *pieces, uint8_t *target
) noexcept nogil
