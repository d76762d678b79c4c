# The frame of a request for other compiled modules; ext/lane.pyi says what Python may call.
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

cdef enum:
    MOST_BODY_BYTES = 1 << 30
    LENGTH_BYTES = 24

# Places in REASONS.
cdef enum:
    NONE
    OTHER_LINE
    HEAD_SIZE
    HEADER_FORM
    HEADER_REPEATED
    HEADER_MISSING
    HEADER_SPECIAL
    OTHER_TYPE
    BAD_LENGTH
    BODY_SIZE
    REFUSED
    DRAINING
    BODY_LATE

# Headers that count.
cdef enum Known:
    HOST
    LENGTH
    TYPE
    ACCEPT
    MARK
    CONNECTION
    AGENT
    TOKEN
    KNOWN_COUNT
    ANYWHERE
    UNKNOWN

cdef struct Span:
    Py_ssize_t start
    Py_ssize_t end

# The head of a request: where the values of its headers are, how long its body is, and where that begins.
cdef struct Head:
    Span[KNOWN_COUNT] spans
    unsigned int seen
    Py_ssize_t length
    Py_ssize_t end


# A place in REASONS, or -1 if the head is not there as a whole.
cdef int read_head(const uint8_t *text, Py_ssize_t start, Py_ssize_t size, Head *head) noexcept nogil
# Decimal digits at the end of LENGTH_BYTES; returns how many.
cdef Py_ssize_t write_digits(Py_ssize_t number, char *digits) noexcept nogil


cdef inline char *append(char *target, const char *source, Py_ssize_t size) noexcept nogil:
    memcpy(target, source, size)
    return target + size
