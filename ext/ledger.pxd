# The audit log for other compiled modules; ext/ledger.pyi says what Python may call.
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t

from ext.scan cimport Span

cdef enum:
    # The most bytes of a receipt's name: the log's number, a hyphen, the entry's.
    MOST_NAME_BYTES = 32
    CALLER_BYTES = 16
    KIND_CARD = 1
    KIND_CERTIFICATE = 2
    # Added to the kind of an item of a batch.
    KIND_IN_BATCH = 2
    FLAG_CONSENT_USED = 2
    FLAG_VERDICT_ONLY = 8


# What is recorded of one answer; `as_of` is a day number, or NO_DAY.
cdef struct Facts:
    int kind
    int purpose
    int verdict
    int flags
    int as_of
    uint64_t version
    uint8_t[CALLER_BYTES] caller    # ASCII, filled up with zeros
    uint64_t[2] inquiry         # keyed hash of what was asked for, as the index has it
    bint known                  # whether it is about one person
    uint64_t person


@cython.final
cdef class Ledger:
    cdef void *held             # the state that ledger.h works on
    # The index of the next entry.
    cdef uint64_t count
    cdef uint64_t[2] inquiry_key
    cdef uint64_t[2] code_key
    cdef uint64_t[2] person_key
    cdef int64_t fixed_ms
    cdef readonly int slot

    # Records an answer with its body and the request's mark: the index of its entry. Raises OSError if the log has
    # failed, or too much waits for the disk.
    cdef int64_t record(self, const Facts *facts, const Span *body, const Span *mark) except -1
    # Writes the name of a receipt, at most MOST_NAME_BYTES, and returns how long it is.
    cdef Py_ssize_t write_name(self, uint64_t index, char *target) noexcept
