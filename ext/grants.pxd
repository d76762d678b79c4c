# Callers and their buckets for other compiled modules; ext/grants.pyi says what Python may call.
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:
    CODE_BYTES = 16
    # The most that `write_limit` writes, beside the policy.
    MOST_LIMIT_BYTES = 48


cdef struct Bucket:
    int64_t interval            # nanoseconds in which one inquiry comes back
    int64_t capacity            # nanoseconds: that many inquiries at once


@cython.final
cdef class Buckets:
    cdef object buffer
    cdef int64_t[::1] words
    cdef Py_ssize_t slots
    cdef Bucket rate
    cdef Bucket misses
    cdef int64_t quiet

    # Nanoseconds until one inquiry may be made: 0, if it may now.
    cdef int64_t waits(self, Py_ssize_t slot, int64_t now) noexcept nogil
    cdef int64_t waits_for_misses(self, Py_ssize_t slot, int64_t now) noexcept nogil
    cdef void take(self, Py_ssize_t slot, int64_t now, int64_t count) noexcept nogil
    # Whether somebody is to be told.
    cdef bint miss_some(self, Py_ssize_t slot, int64_t now, int64_t count) noexcept nogil
    # What is left, and how many seconds it takes until all is: at most MOST_LIMIT_BYTES; returns how many.
    cdef Py_ssize_t write_limit(self, Py_ssize_t slot, int64_t now, char *target) noexcept nogil


@cython.final
cdef class Grant:
    cdef readonly bytes caller
    cdef readonly Py_ssize_t slot
    cdef readonly long long expires_ms
    cdef readonly bytes thumbprint
    cdef readonly bint checks
    cdef readonly object who
    cdef uint8_t[CODE_BYTES] code


@cython.final
cdef class Gate:
    cdef dict tokens
    cdef object admit
    cdef object of_connection
    cdef object clock
    cdef object guessed
    cdef readonly Buckets buckets
    cdef bytes policy
    cdef int miss_verdict
    cdef Py_ssize_t most_tokens
    cdef public long long now_ms
    cdef readonly uint64_t generation

    cdef Grant known(self, bytes token)
