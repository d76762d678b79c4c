"""Owns the reading of an LMDB file page by page: the entry at a key, as of the last commit, without a call of LMDB."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ext.probe cimport probe_fence_acquire, probe_load_acquire, probe_prefetch

cdef extern from "residency.h" nogil:
    bint residency_is_there(const uint8_t *at, size_t size) noexcept
    void residency_wish(const uint8_t *at, size_t size) noexcept
    void residency_touch(const uint8_t *at, size_t size) noexcept

cdef extern from "<pthread.h>" nogil:
    """
    #define SHIKAKU_MUTEX_BYTES ((Py_ssize_t)sizeof(pthread_mutex_t))
    """
    const Py_ssize_t MUTEX_BYTES "SHIKAKU_MUTEX_BYTES"
    const bint IS_LITTLE "(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)"
    uint64_t __builtin_bswap64(uint64_t value) noexcept

# Places in the format 0.9 of LMDB: 64 bits, the byte order of this machine.
cdef enum:
    FORMAT = 1
    LOCK_HEAD_BYTES = 8
    PAGE_HEAD_BYTES = 16
    PAGE_FLAGS_AT = 10
    PAGE_LOWER_AT = 12
    PAGE_COUNT_AT = 12
    NODE_HEAD_BYTES = 8
    NODE_FLAGS_AT = 4
    NODE_KEY_BYTES_AT = 6
    META_MAGIC_AT = 16
    META_FORMAT_AT = 20
    META_PAGE_BYTES_AT = 40
    META_MAIN_DEPTH_AT = 94
    META_MAIN_ROOT_AT = 128
    META_LAST_PAGE_AT = 136
    META_TXNID_AT = 144
    META_END = 152
    DB_BYTES = 48
    DB_FLAGS_AT = 4
    DB_DEPTH_AT = 6
    DB_ROOT_AT = 40
    BRANCH = 1
    LEAF = 2
    OVERFLOW = 4
    # All kinds of a page; DIRTY (16) may be left behind on any.
    KINDS = 0x6f
    BIG = 1
    SUB = 2
    PAGE_BYTES_MIN = 512
    PAGE_BYTES_MAX = 65536
    FETCHED_NODES_MAX = 16
    FETCHED_BYTES_MAX = 1024
    LINE_BYTES = 64

cdef uint32_t MAGIC = 0xbeefc0de
cdef uint64_t NO_PAGE = <uint64_t>-1


# A node whose head and key are within its page. Where it is, is read once: the page may be written anew meanwhile.
cdef struct Node:
    const uint8_t *at
    const uint8_t *key
    Py_ssize_t key_bytes


cdef class Pages:
    # A deviation from "keeps no pointer after the call": the file stays exported, and so mapped, until `release`.
    def __cinit__(self, data, lock, name):
        self.is_open = False
        if not isinstance(name, bytes):
            raise TypeError(f"name must be bytes, not {type(name).__name__}")
        self.name = name
        self.file.name, self.file.name_bytes = <const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
        PyObject_GetBuffer(data, &self.data, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(lock, &self.lock, PyBUF_SIMPLE)
        except BaseException:
            PyBuffer_Release(&self.data)
            raise
        self.is_open = True
        try:
            _open(&self.file, &self.data, &self.lock)
        except BaseException:
            self.release()
            raise

    def __dealloc__(self):
        self.release()

    def release(self):
        if self.is_open:
            self.is_open = False
            PyBuffer_Release(&self.data)
            PyBuffer_Release(&self.lock)

    @property
    def txnid(self):
        _require_open(self)
        return probe_load_acquire(self.file.newest)

    def seek(self, wanted):
        cdef Entry entry
        cdef int found
        if not isinstance(wanted, bytes):
            raise TypeError(f"wanted must be bytes, not {type(wanted).__name__}")
        _require_open(self)
        for _ in range(TRIES):
            if not self.begin():
                continue
            found = self.look(<const uint8_t *>PyBytes_AS_STRING(wanted), PyBytes_GET_SIZE(wanted), &entry)
            if found == FOUND:
                answer = (
                    PyBytes_FromStringAndSize(<const char *>entry.key, entry.key_bytes),
                    PyBytes_FromStringAndSize(<const char *>entry.value, entry.value_bytes),
                )
            else:
                answer = None
            if found != UNSURE and self.still():
                return answer
        return ()

    def tree(self):
        _require_open(self)
        for _ in range(TRIES):
            if not self.begin():
                continue
            answer = (self.file.txnid, self.file.page_bytes, self.file.root, self.file.depth)
            if self.still():
                return answer if self.file.root != NO_PAGE else (self.file.txnid, self.file.page_bytes, 0, 0)
        return None

    def is_resident(self, wanted):
        if not isinstance(wanted, bytes):
            raise TypeError(f"wanted must be bytes, not {type(wanted).__name__}")
        _require_open(self)
        return not self.begin() or self.resident(<const uint8_t *>PyBytes_AS_STRING(wanted), PyBytes_GET_SIZE(wanted))

    def touch(self, wanted):
        cdef const uint8_t *key
        cdef Py_ssize_t size
        cdef list keys = list(wanted)
        for one in keys:
            if not isinstance(one, bytes):
                raise TypeError(f"wanted must be bytes, not {type(one).__name__}")
        _require_open(self)
        # First have all leaves read side by side, then wait for one after the other.
        for last in (False, True):
            for one in keys:
                key, size = <const uint8_t *>PyBytes_AS_STRING(one), PyBytes_GET_SIZE(one)
                if last:
                    with nogil:
                        _touch(self, key, size)
                else:
                    with nogil:
                        _wish(self, key, size)

    cdef bint begin(self) noexcept nogil:
        cdef uint64_t txnid
        if not self.is_open:
            return False
        txnid = probe_load_acquire(self.file.newest)
        return txnid == self.file.txnid or _begin(&self.file, txnid)

    cdef int look(self, const uint8_t *wanted, Py_ssize_t wanted_bytes, Entry *entry) noexcept nogil:
        return _seek(&self.file, self.file.root, self.file.depth, wanted, wanted_bytes, entry)

    cdef bint approach(self, const uint8_t *wanted, Py_ssize_t wanted_bytes, Path *path) noexcept nogil:
        cdef const uint8_t *leaf
        if self.file.root == NO_PAGE:
            return False
        if not _approach(&self.file, self.file.root, self.file.depth, wanted, wanted_bytes, path):
            return False
        leaf = _page(&self.file, path.leaf, 1)
        if leaf != NULL:
            probe_prefetch(leaf)
        return leaf != NULL

    cdef bint open_leaf(self, Path *path) noexcept nogil:
        cdef int position
        if not _open_leaf(&self.file, path):
            return False
        for position in range(min(path.last.count, <int>FETCHED_NODES_MAX)):
            # Asked for without a look at it: an address that is none does no harm.
            probe_prefetch(path.last.page + _place_of_node(&path.last, position))
        return True

    cdef int settle(self, const uint8_t *wanted, Py_ssize_t wanted_bytes, Path *path, Entry *entry) noexcept nogil:
        cdef int found = _settle(&self.file, self.file.depth, wanted, wanted_bytes, path, entry)
        cdef Py_ssize_t at = 0
        while found == FOUND and at < entry.value_bytes and at < FETCHED_BYTES_MAX:
            probe_prefetch(entry.value + at)
            at += LINE_BYTES
        return found

    cdef bint resident(self, const uint8_t *wanted, Py_ssize_t wanted_bytes) noexcept nogil:
        return _resident(&self.file, wanted, wanted_bytes)

    cdef bint still(self) noexcept nogil:
        # What was read was read before this is.
        probe_fence_acquire()
        return probe_load_acquire(self.file.newest) == self.file.txnid


cdef int _require_open(Pages pages) except -1:
    if not pages.is_open:
        raise ValueError("the pages were released")
    return 0


cdef void _wish(Pages pages, const uint8_t *wanted, Py_ssize_t wanted_bytes) noexcept nogil:
    cdef Path path
    cdef const uint8_t *leaf
    if pages.begin() and pages.file.root != NO_PAGE and _approach(
        &pages.file, pages.file.root, pages.file.depth, wanted, wanted_bytes, &path
    ):
        leaf = _page(&pages.file, path.leaf, 1)
        if leaf != NULL:
            residency_wish(leaf, pages.file.page_bytes)


cdef void _touch(Pages pages, const uint8_t *wanted, Py_ssize_t wanted_bytes) noexcept nogil:
    cdef Entry entry
    if pages.begin() and pages.look(wanted, wanted_bytes, &entry) == FOUND and entry.value_bytes:
        residency_wish(entry.value, entry.value_bytes)
        residency_touch(entry.value, entry.value_bytes)


cdef int _open(File *file, const Py_buffer *data, const Py_buffer *lock) except -1:
    cdef const uint8_t *meta = <const uint8_t *>data.buf
    if data.len < 2 * PAGE_BYTES_MIN or _u32(meta + META_MAGIC_AT) != MAGIC or _u32(meta + META_FORMAT_AT) != FORMAT:
        raise ValueError("this is no LMDB file of format 0.9")
    file.data, file.data_bytes, file.page_bytes = meta, data.len, _u32(meta + META_PAGE_BYTES_AT)
    if not PAGE_BYTES_MIN <= file.page_bytes <= PAGE_BYTES_MAX or data.len < 2 * file.page_bytes:
        raise ValueError("the LMDB file has no size of a page that can be")
    if lock.len < LOCK_HEAD_BYTES + MUTEX_BYTES + 8 or _u32(<const uint8_t *>lock.buf) != MAGIC:
        raise ValueError("this is no lock file of LMDB")
    file.newest = <const uint64_t *>(<const uint8_t *>lock.buf + LOCK_HEAD_BYTES + MUTEX_BYTES)
    file.txnid = NO_PAGE
    return 0


# Everything below reads a file that another process may be writing to: whatever a page says is checked before it is
# followed, and nothing is believed before the number of the last commit is found unchanged afterwards.


cdef bint _begin(File *file, uint64_t txnid) noexcept nogil:
    """Remember where the last commit left the database. The meta page of commit N is not written again before N+2."""
    cdef const uint8_t *meta = file.data + (txnid & 1) * file.page_bytes
    cdef uint64_t main_root = _u64(meta + META_MAIN_ROOT_AT), last_page = _u64(meta + META_LAST_PAGE_AT)
    cdef int depth = _u16(meta + META_MAIN_DEPTH_AT)
    cdef bint whole = _u32(meta + META_MAGIC_AT) == MAGIC and _u64(meta + META_TXNID_AT) == txnid
    cdef Entry entry
    file.txnid = NO_PAGE
    if not whole or not _unmoved(file, txnid):
        return False
    file.last_page, file.root = last_page, NO_PAGE
    if _seek(file, main_root, depth, file.name, file.name_bytes, &entry) != FOUND:
        return False
    # A named database is an entry whose value describes it; keys that are sorted or repeated otherwise are not for us.
    if entry.key_bytes != file.name_bytes or memcmp(entry.key, file.name, file.name_bytes) != 0:
        return False
    if entry.value_bytes != DB_BYTES:
        return False
    if _u16(entry.value + DB_FLAGS_AT) != 0:
        return False
    file.root, file.depth = _u64(entry.value + DB_ROOT_AT), _u16(entry.value + DB_DEPTH_AT)
    if not _unmoved(file, txnid):
        return False
    file.txnid = txnid
    return True


cdef inline bint _unmoved(const File *file, uint64_t txnid) noexcept nogil:
    probe_fence_acquire()
    return probe_load_acquire(file.newest) == txnid


cdef int _seek(
    const File *file, uint64_t root, int depth, const uint8_t *wanted, Py_ssize_t wanted_bytes, Entry *entry
) noexcept nogil:
    cdef Path path
    if root == NO_PAGE:
        return ABSENT
    if not _approach(file, root, depth, wanted, wanted_bytes, &path) or not _open_leaf(file, &path):
        return UNSURE
    return _settle(file, depth, wanted, wanted_bytes, &path, entry)


cdef bint _approach(
    const File *file, uint64_t root, int depth, const uint8_t *wanted, Py_ssize_t wanted_bytes, Path *path
) noexcept nogil:
    """Through all branches, to the number of the leaf where `wanted` is or would be."""
    path.levels, path.leaf = 0, root
    return 0 < depth <= LEVELS_MAX and _descend(file, path, depth - 1, wanted, wanted_bytes)


cdef bint _descend(
    const File *file, Path *path, int branches, const uint8_t *wanted, Py_ssize_t wanted_bytes
) noexcept nogil:
    """Down from page `path.leaf` until there are so many branches on the path; without `wanted`, to the first child."""
    cdef Place *place
    cdef Node node
    while path.levels < branches:
        place = &path.places[path.levels]
        if not _open_page(file, path.leaf, BRANCH, place):
            return False
        path.levels += 1
        # The first key is not written: it is less than all.
        place.index = 0 if wanted == NULL else _first_behind(file, place, 1, wanted, wanted_bytes, True) - 1
        if not _read_node(file, place, place.index, &node):
            return False
        path.leaf = _child(&node)
    return True


cdef bint _open_leaf(const File *file, Path *path) noexcept nogil:
    return _open_page(file, path.leaf, LEAF, &path.last)


cdef int _settle(
    const File *file, int depth, const uint8_t *wanted, Py_ssize_t wanted_bytes, Path *path, Entry *entry
) noexcept nogil:
    """The entry at or behind `wanted`, from the leaf where it is or would be."""
    cdef Place *leaf = &path.last
    leaf.index = _first_behind(file, leaf, 0, wanted, wanted_bytes, False)
    if leaf.index == leaf.count:
        # All keys of this leaf are less: the entry is the first one of the next.
        if not _next_leaf(file, depth, path):
            return ABSENT if path.levels == 0 else UNSURE
    return FOUND if _read_leaf(file, leaf, entry) else UNSURE


cdef bint _resident(const File *file, const uint8_t *wanted, Py_ssize_t wanted_bytes) noexcept nogil:
    """Page by page as `_seek` goes, none of which is looked at before it is known to be there."""
    cdef Path path
    cdef Entry entry
    cdef const uint8_t *page
    cdef int level, found
    path.levels, path.leaf = 0, file.root
    if file.root == NO_PAGE or not 0 < file.depth <= LEVELS_MAX:
        return True
    for level in range(file.depth):
        page = _page(file, path.leaf, 1)
        if page == NULL:
            return True
        if not residency_is_there(page, file.page_bytes):
            return False
        if level < file.depth - 1 and not _descend(file, &path, level + 1, wanted, wanted_bytes):
            return True
    if not _open_leaf(file, &path):
        return True
    # The next leaf, if the entry is there, may be read in vain: it is one page.
    found = _settle(file, file.depth, wanted, wanted_bytes, &path, &entry)
    return found != FOUND or residency_is_there(entry.value, entry.value_bytes)


cdef bint _next_leaf(const File *file, int depth, Path *path) noexcept nogil:
    """On to the first entry of the next leaf; with no levels left, there is none."""
    cdef Place *place
    cdef Node node
    while path.levels:
        place = &path.places[path.levels - 1]
        if place.index + 1 < place.count:
            place.index += 1
            if not _read_node(file, place, place.index, &node):
                return False
            path.leaf, path.last.index = _child(&node), 0
            return _descend(file, path, depth - 1, NULL, 0) and _open_leaf(file, path)
        path.levels -= 1
    return False


cdef bint _open_page(const File *file, uint64_t number, int kind, Place *place) noexcept nogil:
    cdef const uint8_t *page = _page(file, number, 1)
    cdef int lower
    if page == NULL or _u16(page + PAGE_FLAGS_AT) & KINDS != kind:
        return False
    lower = _u16(page + PAGE_LOWER_AT)
    place.page, place.count = page, (lower - PAGE_HEAD_BYTES) // 2
    return PAGE_HEAD_BYTES + 2 <= lower <= file.page_bytes


cdef inline const uint8_t *_page(const File *file, uint64_t number, uint64_t count) noexcept nogil:
    """Where a page is, if it and what follows it are in the file: behind its last page nothing may be touched."""
    cdef uint64_t there = <uint64_t>(file.data_bytes // file.page_bytes)
    if number > file.last_page or number >= there or count > there - number or count - 1 > file.last_page - number:
        return NULL
    return file.data + number * file.page_bytes


cdef inline int _place_of_node(const Place *place, int index) noexcept nogil:
    return _u16(place.page + PAGE_HEAD_BYTES + 2 * index)


cdef inline bint _read_node(const File *file, const Place *place, int index, Node *node) noexcept nogil:
    """False if there is no such node, or its head and key are not within the page."""
    cdef int at
    if not 0 <= index < place.count:
        return False
    at = _place_of_node(place, index)
    if at < PAGE_HEAD_BYTES or at + NODE_HEAD_BYTES > file.page_bytes:
        return False
    node.at = place.page + at
    node.key, node.key_bytes = node.at + NODE_HEAD_BYTES, _u16(node.at + NODE_KEY_BYTES_AT)
    return at + NODE_HEAD_BYTES + node.key_bytes <= file.page_bytes


cdef inline int _first_behind(
    const File *file, const Place *place, int low, const uint8_t *wanted, Py_ssize_t wanted_bytes, bint or_same
) noexcept nogil:
    """The first node from `low` on that is not less than `wanted` (nor the same, with `or_same`); there may be none.

    -1 if a node is not within its page.
    """
    cdef int high = place.count, middle
    cdef Node node
    while low < high:
        middle = (low + high) // 2
        if not _read_node(file, place, middle, &node):
            return -1
        if _is_less(&node, wanted, wanted_bytes, or_same):
            low = middle + 1
        else:
            high = middle
    return low


cdef inline bint _is_less(
    const Node *node, const uint8_t *wanted, Py_ssize_t wanted_bytes, bint or_same
) noexcept nogil:
    cdef uint64_t first, second
    cdef int order
    if node.key_bytes >= 8 and wanted_bytes >= 8:
        # Nearly always the first bytes decide, and as one number they do so at once.
        first, second = _big(node.key), _big(wanted)
        if first != second:
            return first < second
    order = memcmp(node.key, wanted, min(node.key_bytes, wanted_bytes))
    if order == 0:
        return node.key_bytes < wanted_bytes or (or_same and node.key_bytes == wanted_bytes)
    return order < 0


cdef inline uint64_t _child(const Node *node) noexcept nogil:
    return _u32(node.at) | <uint64_t>_u16(node.at + NODE_FLAGS_AT) << 32


cdef bint _read_leaf(const File *file, const Place *place, Entry *entry) noexcept nogil:
    cdef Node node
    cdef const uint8_t *page
    cdef Py_ssize_t room
    cdef uint64_t count
    cdef int flags
    if not _read_node(file, place, place.index, &node):
        return False
    flags = _u16(node.at + NODE_FLAGS_AT)
    entry.key, entry.key_bytes = node.key, node.key_bytes
    entry.value, entry.value_bytes = entry.key + entry.key_bytes, <Py_ssize_t>_u32(node.at)
    room = file.page_bytes - (entry.value - place.page)
    if flags == BIG:
        # The value has pages of its own; here is their number.
        if room < 8:
            return False
        count = (entry.value_bytes + PAGE_HEAD_BYTES + file.page_bytes - 1) // file.page_bytes
        page = _page(file, _u64(entry.value), count)
        if page == NULL or _u16(page + PAGE_FLAGS_AT) & KINDS != OVERFLOW or _u32(page + PAGE_COUNT_AT) < count:
            return False
        entry.value = page + PAGE_HEAD_BYTES
        return True
    return (flags == 0 or flags == SUB) and entry.value_bytes <= room


cdef inline uint64_t _big(const uint8_t *at) noexcept nogil:
    """Eight bytes, the most significant first."""
    return __builtin_bswap64(_u64(at)) if IS_LITTLE else _u64(at)


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
