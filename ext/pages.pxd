# The pages of an LMDB file for other compiled modules; ext/pages.pyi says what Python may call.
from libc.stdint cimport uint8_t, uint64_t


cdef enum:
    FOUND = 1
    ABSENT = 0
    # Not to be told from these pages, or not now: LMDB itself is to be asked.
    UNSURE = -1
    TRIES = 4
    LEVELS_MAX = 16


# An entry; it points into the file, and means something only if `still` says so after it was read.
cdef struct Entry:
    const uint8_t *key
    const uint8_t *value
    Py_ssize_t key_bytes
    Py_ssize_t value_bytes


# One page on the way down, and which of its nodes was taken.
cdef struct Place:
    const uint8_t *page
    int index
    int count


# The way to a leaf: the branches, and the leaf.
cdef struct Path:
    Place[LEVELS_MAX] places
    int levels
    uint64_t leaf
    Place last


# A mapped file, and its state that one commit left.
cdef struct File:
    const uint8_t *data
    Py_ssize_t data_bytes
    const uint64_t *newest
    Py_ssize_t page_bytes
    const uint8_t *name
    Py_ssize_t name_bytes
    uint64_t txnid
    uint64_t root
    uint64_t last_page
    int depth


cdef class Pages:
    cdef File file
    cdef Py_buffer data
    cdef Py_buffer lock
    cdef bytes name
    cdef bint is_open

    # Finds the last commit; False if that cannot be done now, or never.
    cdef bint begin(self) noexcept nogil
    # The first entry whose key is not less than `wanted`: FOUND, ABSENT or UNSURE. After `begin`.
    cdef int look(self, const uint8_t *wanted, Py_ssize_t wanted_bytes, Entry *entry) noexcept nogil
    # The same in three steps, each of which asks for the memory that the next one needs: take many keys through each.
    cdef bint approach(self, const uint8_t *wanted, Py_ssize_t wanted_bytes, Path *path) noexcept nogil
    cdef bint open_leaf(self, Path *path) noexcept nogil
    cdef int settle(self, const uint8_t *wanted, Py_ssize_t wanted_bytes, Path *path, Entry *entry) noexcept nogil
    # Whether `look` would find all that it reads in memory; True, too, where it finds nothing. After `begin`.
    cdef bint resident(self, const uint8_t *wanted, Py_ssize_t wanted_bytes) noexcept nogil
    # Whether no commit came since `begin`, so that what was read since then was of one state.
    cdef bint still(self) noexcept nogil
