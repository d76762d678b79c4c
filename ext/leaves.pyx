"""Owns the reading of an LMDB file's pages in the order of the file: children of branches, packed entries of leaves."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.stored cimport RECORD_ENTRY_BYTES, RECORD_HEAD_BYTES, RECORD_KEY_BYTES, RECORD_VERSION

# Places in the format 0.9 of LMDB, as in ext/pages.
cdef enum:
    PAGE_HEAD_BYTES = 16
    PAGE_FLAGS_AT = 10
    PAGE_LOWER_AT = 12
    NODE_HEAD_BYTES = 8
    NODE_FLAGS_AT = 4
    NODE_KEY_BYTES_AT = 6
    BRANCH = 1
    LEAF = 2
    KINDS = 0x6f
    BIG = 1
    PAGE_BYTES_MIN = 512
    PAGE_BYTES_MAX = 65536
    PERSON_BYTES = 4
    LEAF_ROW_BYTES = 12

cdef extern from "<endian.h>" nogil:
    uint32_t be32toh(uint32_t value) noexcept
    uint64_t be64toh(uint64_t value) noexcept


# One page in memory, of which everything that is said of it has been checked against its size.
cdef struct Page:
    const uint8_t *at
    Py_ssize_t bytes
    int count


# A version in a leaf; `big` is the page that holds its record, else 0.
cdef struct Version:
    const uint8_t *value
    Py_ssize_t value_bytes
    uint64_t seq
    uint64_t big
    uint32_t person


# What has been taken so far; both arrays of entries have the same room.
cdef struct Taken:
    Py_ssize_t room
    uint8_t *persons
    uint8_t *entries
    uint8_t *firsts
    Py_ssize_t entry_count
    Py_ssize_t first_count
    uint64_t versions


def children(page, number):
    cdef Py_buffer held
    cdef Page branch
    cdef const uint8_t *node
    cdef uint64_t wanted = number
    cdef int index
    PyObject_GetBuffer(page, &held, PyBUF_SIMPLE)
    try:
        _require_page_bytes(held.len)
        if not _open_page(<const uint8_t *>held.buf, held.len, wanted, BRANCH, &branch):
            raise ValueError("this is not that branch page")
        found = []
        for index in range(branch.count):
            node = _node(&branch, index)
            if node == NULL:
                raise ValueError("a node is not within its page")
            found.append(_u32(node) | <uint64_t>_u16(node + NODE_FLAGS_AT) << 32)
        return found
    finally:
        PyBuffer_Release(&held)


def current(block, page_bytes, first, numbers, follows, seq):
    cdef Py_buffer held
    cdef Py_ssize_t size = page_bytes
    cdef uint64_t upto = seq, before = first
    cdef bytes wanted = numbers, known = follows
    _require_page_bytes(size)
    if len(wanted) != 8 * len(known):
        raise ValueError("numbers and follows must be of the same pages")
    PyObject_GetBuffer(block, &held, PyBUF_SIMPLE)
    try:
        return _current(<const uint8_t *>held.buf, held.len, size, before, wanted, known, upto)
    finally:
        PyBuffer_Release(&held)


cdef int _require_page_bytes(Py_ssize_t size) except -1:
    if not PAGE_BYTES_MIN <= size <= PAGE_BYTES_MAX:
        raise ValueError("a page cannot have this size")
    return 0


cdef tuple _current(
    const uint8_t *block, Py_ssize_t block_bytes, Py_ssize_t page_bytes, uint64_t first, bytes numbers, bytes follows,
    uint64_t seq,
):
    cdef Py_ssize_t leaf, count = len(follows), room = count * (page_bytes // RECORD_ENTRY_BYTES + 1)
    cdef Taken taken
    cdef int64_t last = 0
    cdef list big = []
    cdef bytes persons = PyBytes_FromStringAndSize(NULL, room * PERSON_BYTES)
    cdef bytes entries = PyBytes_FromStringAndSize(NULL, room * RECORD_ENTRY_BYTES)
    cdef bytes firsts = PyBytes_FromStringAndSize(NULL, room * RECORD_ENTRY_BYTES)
    cdef bytes leaves = PyBytes_FromStringAndSize(NULL, count * LEAF_ROW_BYTES)
    cdef const uint8_t *wanted = <const uint8_t *>PyBytes_AS_STRING(numbers)
    cdef const uint8_t *known = <const uint8_t *>PyBytes_AS_STRING(follows)
    cdef uint64_t number, pages = <uint64_t>(block_bytes // page_bytes)
    cdef Page page
    taken.persons, taken.entries = <uint8_t *>PyBytes_AS_STRING(persons), <uint8_t *>PyBytes_AS_STRING(entries)
    taken.firsts = <uint8_t *>PyBytes_AS_STRING(firsts)
    taken.room, taken.entry_count, taken.first_count = room, 0, 0
    taken.versions = 0
    for leaf in range(count):
        number = _u64(wanted + 8 * leaf)
        if number < first or number - first >= pages:
            raise ValueError("a page is not in the block")
        if not _open_page(block + (number - first) * page_bytes, page_bytes, number, LEAF, &page):
            raise ValueError("this is not that leaf page")
        last = _take_leaf(
            &page, seq, leaf > 0 and known[leaf] != 0, <uint32_t>last, leaf, &taken,
            <uint8_t *>PyBytes_AS_STRING(leaves) + leaf * LEAF_ROW_BYTES, big,
        )
    return (
        taken.versions, persons[:taken.entry_count * PERSON_BYTES], entries[:taken.entry_count * RECORD_ENTRY_BYTES],
        firsts[:taken.first_count * RECORD_ENTRY_BYTES], leaves, big,
    )


cdef int64_t _take_leaf(
    const Page *page, uint64_t seq, bint follows, uint32_t before, Py_ssize_t leaf, Taken *taken, uint8_t *row,
    list big,
) except -1:
    """One leaf's current versions. Returns the last person who has one up to `seq` here; 0: nobody has."""
    cdef Version version
    cdef uint32_t last = before if follows else 0, found = 0, first_person = 0, first_entries = 0
    cdef int index
    cdef bint is_known, is_first
    for index in range(page.count):
        if not _read_version(page, index, &version):
            raise ValueError("a node is not within its page")
        taken.versions += 1
        if index == 0:
            first_person = version.person
        if version.seq > seq:
            continue
        is_known = version.person == last
        last = found = version.person
        if is_known:
            continue
        # Whether the leaf before has a newer version of the first one is not known if it was not read just now.
        is_first = not follows and version.person == first_person
        if version.big:
            big.append((leaf, version.person, version.big, is_first))
        elif is_first:
            first_entries = _take_first(&version, taken)
        else:
            _take(&version, taken)
    memcpy(row, &first_person, 4)
    memcpy(row + 4, &first_entries, 4)
    memcpy(row + 8, &found, 4)
    return found


cdef int _take_first(const Version *version, Taken *taken) except -1:
    cdef int count = _entry_count(version, taken.room - taken.first_count)
    memcpy(
        taken.firsts + taken.first_count * RECORD_ENTRY_BYTES, version.value + RECORD_HEAD_BYTES,
        count * RECORD_ENTRY_BYTES,
    )
    taken.first_count += count
    return count


cdef int _take(const Version *version, Taken *taken) except -1:
    cdef int position, count = _entry_count(version, taken.room - taken.entry_count)
    memcpy(
        taken.entries + taken.entry_count * RECORD_ENTRY_BYTES, version.value + RECORD_HEAD_BYTES,
        count * RECORD_ENTRY_BYTES,
    )
    for position in range(count):
        memcpy(taken.persons + (taken.entry_count + position) * PERSON_BYTES, &version.person, PERSON_BYTES)
    taken.entry_count += count
    return 0


cdef int _entry_count(const Version *version, Py_ssize_t room) except -1:
    """How many entries a record has; they are in it, and there is room for them (records might lie on one another)."""
    cdef int count
    if version.value_bytes < RECORD_HEAD_BYTES or version.value[0] != RECORD_VERSION:
        raise ValueError("a record has an unknown layout")
    count = version.value[1]
    if version.value_bytes < RECORD_HEAD_BYTES + count * RECORD_ENTRY_BYTES or count > room:
        raise ValueError("a record has an unknown layout")
    return count


cdef bint _open_page(const uint8_t *at, Py_ssize_t size, uint64_t number, int kind, Page *page) noexcept nogil:
    cdef int lower = _u16(at + PAGE_LOWER_AT)
    if _u64(at) != number or _u16(at + PAGE_FLAGS_AT) & KINDS != kind:
        return False
    page.at, page.bytes, page.count = at, size, (lower - PAGE_HEAD_BYTES) // 2
    return PAGE_HEAD_BYTES <= lower <= size


cdef const uint8_t *_node(const Page *page, int index) noexcept nogil:
    """The head of a node, if that is within the page."""
    cdef int at = _u16(page.at + PAGE_HEAD_BYTES + 2 * index)
    if at < PAGE_HEAD_BYTES or at + NODE_HEAD_BYTES > page.bytes:
        return NULL
    return page.at + at


cdef bint _read_version(const Page *page, int index, Version *version) noexcept nogil:
    cdef const uint8_t *node = _node(page, index)
    cdef const uint8_t *end = page.at + page.bytes
    cdef int flags
    cdef uint32_t person
    cdef uint64_t inverted
    if node == NULL or _u16(node + NODE_KEY_BYTES_AT) != RECORD_KEY_BYTES:
        return False
    version.value, version.value_bytes = node + NODE_HEAD_BYTES + RECORD_KEY_BYTES, <Py_ssize_t>_u32(node)
    flags = _u16(node + NODE_FLAGS_AT)
    if version.value > end or (flags != 0 and flags != BIG):
        return False
    if end - version.value < (8 if flags == BIG else version.value_bytes):
        return False
    memcpy(&person, node + NODE_HEAD_BYTES, 4)
    memcpy(&inverted, node + NODE_HEAD_BYTES + 4, 8)
    version.person, version.seq = be32toh(person), ~be64toh(inverted)
    version.big = _u64(version.value) if flags == BIG else 0
    return flags == 0 or version.big != 0


cdef inline uint16_t _u16(const uint8_t *at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t _u32(const uint8_t *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t _u64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value
