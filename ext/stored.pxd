# Owns the frame of a stored record: head, entries, a Person in MessagePack, checksum (docs/FORMATS.md, "versions").
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ext.scan cimport Span


cdef extern from "crc32.h" nogil:
    # To be called once by each module, before crc32_of.
    void crc32_prepare() noexcept
    uint32_t crc32_of(uint32_t before, const uint8_t *at, size_t size) noexcept


cdef enum:
    RECORD_KEY_BYTES = 12
    RECORD_HEAD_BYTES = 12
    RECORD_ENTRY_BYTES = 24
    RECORD_TAIL_BYTES = 4
    RECORD_VERSION = 1

# Of anything followed by its own checksum.
cdef enum:
    CRC_RESIDUE = 0x2144df1c


cdef inline void write_record_key(uint32_t number, uint64_t version, uint8_t *key) noexcept nogil:
    """The key at or behind which the person's version as of a data version lies."""
    cdef uint64_t inverted = ~version
    cdef int position
    for position in range(4):
        key[position] = <uint8_t>(number >> (24 - 8 * position))
    for position in range(8):
        key[4 + position] = <uint8_t>(inverted >> (56 - 8 * position))


cdef inline bint read_stored(const uint8_t *key, const uint8_t *value, Py_ssize_t size, Span *person) noexcept nogil:
    """Where the person is in a record that is whole; False if it is damaged, or of another layout."""
    cdef Py_ssize_t start
    if size < RECORD_HEAD_BYTES + RECORD_TAIL_BYTES:
        return False
    if crc32_of(crc32_of(0, key, RECORD_KEY_BYTES), value, size) != CRC_RESIDUE:
        return False
    start = RECORD_HEAD_BYTES + RECORD_ENTRY_BYTES * value[1]
    person.at, person.length = value + start, size - RECORD_TAIL_BYTES - start
    return value[0] == RECORD_VERSION and person.length >= 0
