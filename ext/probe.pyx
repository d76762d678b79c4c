"""Owns the open-addressing table in the caller's buffer: lock-free finds beside one writer, one key and many."""
# distutils: depends = ext/probe_atomic.h ext/probe_walk.h ext/probe_walk_body.h ext/keyhash_simd.h ext/layout.pxd
cimport numpy as cnp
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import zlib

import numpy as np

from ext.arrays cimport checked_array, writeable_array
from ext.canon import card_message

from ext cimport canon, keyhash

cnp.import_array()

FORM_ATOMIC16 = int(layout.FORM_ATOMIC16)
FORM_VERSIONED = int(layout.FORM_VERSIONED)
HEADER_BYTES = sizeof(Header)
LINE_BYTES = sizeof(Line)
SLOTS_PER_LINE = int(layout.SLOTS_PER_LINE)
ENTRY_BYTES = sizeof(Entry)
MATCHES_MAX = ROOM
MATCH_DTYPE = np.dtype(
    [("person", "<u4"), ("gained", "<u2"), ("lost", "<u2"), ("aux", "<u2"), ("reserved", "<u2")]
)
WALKS = ("plain", "avx2", "avx512")[: probe_best_walk() + 1]
_MAGIC = b"SHIKIDX\x01"
cdef int _HASH_FORM = keyhash.best_form()
# Every number of 16 bits, made once: making three of them took a tenth of a find.
cdef list _NUMBERS = list(range(2**16))
_CHECKED_BYTES = 124


class TableError(ValueError):
    pass


class TableFullError(RuntimeError):
    pass


class CrowdedError(RuntimeError):
    pass


class BusyError(RuntimeError):
    pass


def atomic16_supported():
    return probe_atomic16_supported() != 0


def segment_bytes(lines):
    _integer(lines, "lines", 1, _LINES_MAX)
    return HEADER_BYTES + lines * LINE_BYTES


_LINES_MAX = 2**40


def format(buffer, *, form, lines, generation=0, store_id=bytes(16), key_id=bytes(8)):
    _integer(form, "form", 1, 2)
    _integer(generation, "generation", 0, 2**64 - 1)
    _sized(store_id, "store_id", 16)
    _sized(key_id, "key_id", 8)
    cdef Py_ssize_t needed = segment_bytes(lines)
    fixed = (
        _MAGIC + int(layout.LAYOUT_VERSION).to_bytes(4, "little") + form.to_bytes(4, "little")
        + lines.to_bytes(8, "little") + generation.to_bytes(8, "little") + store_id + key_id
    )
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        if view.len < needed:
            raise TableError(f"{lines} lines need {needed} bytes")
        fixed = (fixed + view.len.to_bytes(8, "little")).ljust(_CHECKED_BYTES, b"\0")
        fixed += zlib.crc32(fixed).to_bytes(4, "little")
        memcpy(view.buf, PyBytes_AS_STRING(fixed), len(fixed))
    finally:
        PyBuffer_Release(&view)


cdef class Table:
    # A deviation from "keeps no pointer after the call": the view keeps a buffer export, and so the memory, until
    # `release`; a check of the header for every find would cost more than the find.
    def __cinit__(self, buffer, *, writable=False, provisional=False, follow=None, walk=WALKS[probe_best_walk()]):
        self.view.header = NULL
        if walk not in WALKS:
            raise ValueError(f"walk must be one of {', '.join(WALKS)}")
        PyObject_GetBuffer(buffer, &self.buffer, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        try:
            _attach(&self.view, &self.buffer)
        except BaseException:
            PyBuffer_Release(&self.buffer)
            self.view.header = NULL
            raise
        self.view.hidden = 0 if provisional else layout.PROVISIONAL
        self.view.walk = WALKS.index(walk) if self.view.form == layout.FORM_ATOMIC16 else PLAIN
        self.writable = writable
        self.follow = follow

    def __dealloc__(self):
        if self.view.header is not NULL:
            PyBuffer_Release(&self.buffer)

    def release(self):
        if self.users:
            raise BufferError("the table is in use by another thread")
        if self.view.header is not NULL:
            self.view.header = NULL
            PyBuffer_Release(&self.buffer)

    # --- the header ---------------------------------------------------------------------------------------

    @property
    def form(self):
        return self.view.form

    @property
    def lines(self):
        return self.view.line_count

    @property
    def generation(self):
        return _header(self).generation

    @property
    def store_id(self):
        return (<const char *>_header(self).store_id)[:16]

    @property
    def key_id(self):
        return (<const char *>_header(self).key_id)[:8]

    @property
    def retired(self):
        return probe_load_acquire(&_header(self).retired) != 0

    @property
    def visible_seq(self):
        if probe_load_acquire(&_header(self).retired) and self.follow is not None:
            return self.follow().visible_seq
        # A search that found this number before it began, and finds it again, missed nothing: its loads end here.
        probe_fence_acquire()
        return probe_load_acquire(&_header(self).visible_seq)

    @visible_seq.setter
    def visible_seq(self, value):
        _integer(value, "visible_seq", 0, 2**64 - 1)
        probe_store_release(&_writable_header(self).visible_seq, value)

    @property
    def insurers_version(self):
        if probe_load_acquire(&_header(self).retired) and self.follow is not None:
            return self.follow().insurers_version
        return probe_load_acquire(&_header(self).insurers_version)

    @insurers_version.setter
    def insurers_version(self, value):
        _integer(value, "insurers_version", 0, 2**64 - 1)
        probe_store_release(&_writable_header(self).insurers_version, value)

    @property
    def settled_seq(self):
        if probe_load_acquire(&_header(self).retired) and self.follow is not None:
            return self.follow().settled_seq
        # What was found before is found before this is read.
        probe_fence_acquire()
        cdef uint64_t word = probe_load_acquire(&self.view.header.applied_seq)
        return -1 if word & layout.UNSETTLED else word

    def still(self):
        if probe_load_acquire(&_header(self).retired) and self.follow is not None:
            return self.follow().still()
        # What was found before is found before this is read.
        probe_fence_acquire()
        cdef uint64_t visible = probe_load_acquire(&self.view.header.visible_seq)
        if probe_load_acquire(&self.view.header.applied_seq) != visible:
            return -1
        return visible

    @property
    def applied_seq(self):
        return probe_load_acquire(&_header(self).applied_seq) & ~layout.UNSETTLED

    @applied_seq.setter
    def applied_seq(self, value):
        _integer(value, "applied_seq", 0, 2**63 - 1)
        probe_store_release(&_writable_header(self).applied_seq, value)

    def unsettle(self):
        probe_or_release(&_writable_header(self).applied_seq, layout.UNSETTLED)
        # Nothing that is written from now on may be seen before it.
        probe_fence_release()

    @property
    def count(self):
        return probe_load(&_header(self).count)

    @property
    def provisional_count(self):
        return probe_load(&_header(self).provisional_count)

    def retire(self):
        probe_store_release(&_writable_header(self).retired, 1)

    # --- finding ------------------------------------------------------------------------------------------

    def find(self, digest):
        cdef uint64_t words[2]
        _digest(digest, words)
        if probe_load_acquire(&_header(self).retired) and self.follow is not None:
            return self.follow().find(digest)
        return _found(&self.view, words[0], words[1])

    def find_message(self, key, message):
        cdef uint64_t words[2]
        _sized(key, "key", 16)
        if not isinstance(message, bytes):
            raise TypeError("message must be bytes")
        if probe_load_acquire(&_header(self).retired) and self.follow is not None:
            return self.follow().find_message(key, message)
        cdef const uint8_t *k = <const uint8_t *>PyBytes_AS_STRING(key)
        keyhash.hash_one(
            keyhash.load_little(k), keyhash.load_little(k + 8),
            <const uint8_t *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), words,
        )
        return _found(&self.view, words[0], words[1])

    def find_card(self, key, insurer_number, birth_date, symbol_key, number_key):
        cdef uint8_t message[CARD_BYTES]
        cdef uint64_t words[2]
        cdef canon.Card card
        cdef Py_ssize_t size
        _sized(key, "key", 16)
        canon.read_card(&card, insurer_number, birth_date, symbol_key, number_key)
        if probe_load_acquire(&_header(self).retired) and self.follow is not None:
            return self.follow().find_card(key, insurer_number, birth_date, symbol_key, number_key)
        size = canon.card_bytes(&card)
        if size > CARD_BYTES:
            return self.find_message(key, card_message(insurer_number, birth_date, symbol_key, number_key))
        canon.write_card(&card, message)
        cdef const uint8_t *k = <const uint8_t *>PyBytes_AS_STRING(key)
        keyhash.hash_one(keyhash.load_little(k), keyhash.load_little(k + 8), message, size, words)
        return _found(&self.view, words[0], words[1])

    def find_many(self, hashes, counts, matches):
        cdef Py_ssize_t n = _hashes(hashes), room = _outputs(counts, matches, n), done = 0
        cdef const uint64_t *words = <const uint64_t *>cnp.PyArray_DATA(hashes)
        cdef uint8_t *found = <uint8_t *>cnp.PyArray_DATA(counts)
        cdef Match *out = <Match *>cnp.PyArray_DATA(matches)
        cdef Py_ssize_t used
        _header(self)
        self.users += 1
        with nogil:
            used = _find_many(&self.view, words, n, found, out, room, &done)
        self.users -= 1
        if used < 0:
            _fail(<int>used)
        return done, used

    def find_many_rows(self, key, rows, lengths, counts, matches):
        _sized(key, "key", 16)
        checked_array(rows, "rows", cnp.NPY_UINT8, "uint8", 2)
        checked_array(lengths, "lengths", cnp.NPY_UINT16, "uint16", 1)
        cdef Py_ssize_t n = cnp.PyArray_DIM(rows, 0), width = cnp.PyArray_DIM(rows, 1), done = 0, used
        if cnp.PyArray_DIM(lengths, 0) != n:
            raise ValueError("lengths must have one element a row")
        cdef Py_ssize_t room = _outputs(counts, matches, n)
        cdef const uint8_t *k = <const uint8_t *>PyBytes_AS_STRING(key)
        cdef uint64_t k0 = keyhash.load_little(k), k1 = keyhash.load_little(k + 8)
        cdef const uint8_t *start = <const uint8_t *>cnp.PyArray_DATA(rows)
        cdef const uint16_t *row_lengths = <const uint16_t *>cnp.PyArray_DATA(lengths)
        cdef uint8_t *found = <uint8_t *>cnp.PyArray_DATA(counts)
        cdef Match *out = <Match *>cnp.PyArray_DATA(matches)
        _header(self)
        self.users += 1
        with nogil:
            used = _find_many_rows(&self.view, k0, k1, start, width, row_lengths, n, found, out, room, &done)
        self.users -= 1
        if used < 0:
            _fail(<int>used)
        return done, used

    def gather(self, hashes, distance=16):
        cdef Py_ssize_t n = _hashes(hashes)
        _integer(distance, "distance", 0, 1024)
        cdef const uint64_t *words = <const uint64_t *>cnp.PyArray_DATA(hashes)
        cdef Py_ssize_t ahead = distance
        cdef uint64_t total
        _header(self)
        self.users += 1
        with nogil:
            total = _gather(&self.view, words, n, ahead)
        self.users -= 1
        return total

    # --- writing: one thread of one process ---------------------------------------------------------------

    def insert(self, digest, person, gained, lost, aux, provisional=False):
        cdef uint64_t words[2]
        _writable_header(self)
        _digest(digest, words)
        cdef uint64_t w1 = _dates(person, gained, lost)
        cdef uint64_t w0 = _aux(aux) | (layout.PROVISIONAL if provisional else 0)
        cdef int result = _insert(&self.view, words[0], words[1], w0, w1)
        if result < 0:
            _fail(result)
        return result == 1

    def remove(self, digest, person, gained, lost, aux):
        cdef uint64_t words[2]
        _writable_header(self)
        _digest(digest, words)
        cdef uint64_t w1 = _dates(person, gained, lost)
        return _remove(&self.view, words[0], words[1], _aux(aux), w1) == 1

    def replace(self, digest, person, gained, lost, aux, new_gained, new_lost, new_aux):
        cdef uint64_t words[2]
        _writable_header(self)
        _digest(digest, words)
        cdef uint64_t w1 = _dates(person, gained, lost), new_w1 = _dates(person, new_gained, new_lost)
        return _replace(&self.view, words[0], words[1], _aux(aux), w1, _aux(new_aux), new_w1) == 1

    def insert_many(self, persons, entries, provisional=False):
        return _apply(self, persons, entries, INSERT_PROVISIONAL if provisional else INSERT)

    def remove_many(self, persons, entries):
        return _apply(self, persons, entries, REMOVE)

    def contains_many(self, persons, entries, missing=None):
        if missing is not None:
            writeable_array(missing, "missing", cnp.NPY_UINT8, "uint8", 1)
            if cnp.PyArray_DIM(missing, 0) != len(persons):
                raise ValueError("missing must have one element an entry")
        return _apply(self, persons, entries, CONTAINS, missing)

    def sweep(self):
        cdef uint64_t swept, kept = 0
        _writable_header(self)
        with _Writing(self), nogil:
            swept = _sweep(&self.view, &kept)
        return swept

    def repair(self):
        _writable_header(self)
        return _repair(&self.view)

    def scan(self):
        cdef uint64_t totals[4]
        _header(self)
        self.users += 1
        with nogil:
            _scan(&self.view, totals)
        self.users -= 1
        return {
            "entries": totals[0], "provisional": totals[1], "overflowing_lines": totals[2], "torn_stripes": totals[3],
        }


cdef class _Writing:
    # Keeps a second thread from writing, and the memory from being released, while the GIL is not held.
    cdef Table table

    def __cinit__(self, Table table):
        self.table = table

    def __enter__(self):
        if self.table.writing:
            raise RuntimeError("another thread is writing to this table")
        self.table.writing = True
        self.table.users += 1

    def __exit__(self, *_):
        self.table.writing = False
        self.table.users -= 1


# --- checks ---------------------------------------------------------------------------------------------------


cdef int _attach(View *view, Py_buffer *buffer) except -1:
    if buffer.len < <Py_ssize_t>sizeof(Header):
        raise TableError("the segment is smaller than its header")
    if <size_t>buffer.buf % 64:
        raise TableError("the segment is not aligned to 64 bytes")
    cdef Header *header = <Header *>buffer.buf
    fixed = (<const char *>buffer.buf)[:_CHECKED_BYTES]
    if fixed[:8] != _MAGIC:
        raise TableError("the segment has not the magic of an index")
    if header.layout_version != layout.LAYOUT_VERSION:
        raise TableError("the segment has another layout version")
    if zlib.crc32(fixed) != header.checksum:
        raise TableError("the header does not fit its checksum")
    if header.form != layout.FORM_ATOMIC16 and header.form != layout.FORM_VERSIONED:
        raise TableError("the header names an unknown form")
    if header.form == layout.FORM_ATOMIC16 and not probe_atomic16_supported():
        raise TableError("this processor has no atomic 16-byte loads: rebuild the index")
    # The sizes are taken over here, once; whatever the segment says later cannot lead out of the buffer.
    cdef uint64_t room = <uint64_t>(buffer.len - <Py_ssize_t>sizeof(Header)) // sizeof(Line)
    if header.segment_bytes != <uint64_t>buffer.len or header.lines < 1 or header.lines > room:
        raise TableError("the segment has not the size that its header says")
    view.line_count = header.lines
    view.form = header.form
    view.lines = <Line *>(<char *>buffer.buf + sizeof(Header))
    view.header = header
    return 0


cdef inline Header *_header(Table table) except NULL:
    if table.view.header is NULL:
        raise ValueError("the table was released")
    return table.view.header


cdef inline Header *_writable_header(Table table) except NULL:
    if not table.writable:
        raise ValueError("the table is read-only")
    if table.writing:
        raise RuntimeError("another thread is writing to this table")
    return _header(table)


cdef int _integer(value, str name, least, most) except -1:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}")
    return 0


cdef inline int _sized(value, str name, Py_ssize_t size) except -1:
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes")
    if PyBytes_GET_SIZE(value) != size:
        raise ValueError(f"{name} must have {size} bytes")
    return 0


cdef inline int _digest(digest, uint64_t *words) except -1:
    _sized(digest, "digest", 16)
    words[0] = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(digest))
    words[1] = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(digest) + 8)
    return 0


cdef uint64_t _dates(person, gained, lost) except? 0:
    _integer(person, "person", 0, 2**32 - 1)
    _integer(gained, "gained", 0, 2**16 - 1)
    _integer(lost, "lost", 0, 2**16 - 1)
    return <uint64_t>person << 32 | <uint64_t>lost << 16 | <uint64_t>gained


cdef uint64_t _aux(aux) except? 0:
    _integer(aux, "aux", 0, 2**16 - 1)
    cdef uint64_t word = aux
    if word & ~layout.AUX_MASK:
        raise ValueError("the two low bits of aux belong to the table")
    return word


cdef Py_ssize_t _hashes(hashes) except -1:
    checked_array(hashes, "hashes", cnp.NPY_UINT64, "uint64", 2)
    if cnp.PyArray_DIM(hashes, 1) != 2:
        raise ValueError("hashes must have the shape (n, 2)")
    return cnp.PyArray_DIM(hashes, 0)


cdef Py_ssize_t _outputs(counts, matches, Py_ssize_t n) except -1:
    writeable_array(counts, "counts", cnp.NPY_UINT8, "uint8", 1)
    if cnp.PyArray_DIM(counts, 0) != n:
        raise ValueError("counts must have one element a key")
    if not isinstance(matches, np.ndarray):
        raise TypeError("matches must be a numpy array")
    if matches.dtype != MATCH_DTYPE or matches.ndim != 1:
        raise ValueError("matches must have MATCH_DTYPE and one dimension")
    if not cnp.PyArray_IS_C_CONTIGUOUS(matches) or not cnp.PyArray_ISWRITEABLE(matches):
        raise ValueError("matches must be C-contiguous and writeable")
    return cnp.PyArray_DIM(matches, 0)


cdef int _fail(int result) except -1:
    if result == FULL:
        raise TableFullError("no slot of the table is free")
    if result == CROWDED:
        raise CrowdedError(f"a key would have more than {MATCHES_MAX} entries")
    if result == BUSY:
        raise BusyError("a change was not finished: the writer must be started again")
    if result == TOO_LONG:
        raise ValueError("a length is more than the width of rows")
    raise ValueError("the two low bits of aux belong to the table")


cdef tuple _found(const View *view, uint64_t lo, uint64_t hi):
    cdef Match found[ROOM]
    cdef int count, position
    fetch(view, lo)
    count = _find(view, lo, hi, found)
    if count == 0:
        return ()
    if count == 1:
        return (_match(&found[0]),)
    if count < 0:
        _fail(count)
    return tuple([_match(&found[position]) for position in range(count)])


cdef void fetch(const View *view, uint64_t lo) noexcept nogil:
    # Both lines at once: about every eighth key is not in its home line, and would wait for memory twice.
    cdef uint64_t home = probe_scale(lo, view.line_count)
    probe_prefetch(&view.lines[home])
    probe_prefetch(&view.lines[_next(view, home, lo & 3)])


cdef int find_all(const View *view, uint64_t lo, uint64_t hi, Match *found) noexcept nogil:
    return _find(view, lo, hi, found)


cdef inline tuple _match(const Match *match):
    return (
        match.person, <object>PyList_GET_ITEM(_NUMBERS, match.gained), <object>PyList_GET_ITEM(_NUMBERS, match.lost),
        <object>PyList_GET_ITEM(_NUMBERS, match.aux),
    )


cdef _apply(Table table, persons, entries, int operation, missing=None):
    if operation == CONTAINS:
        _header(table)
    else:
        _writable_header(table)
    checked_array(persons, "persons", cnp.NPY_UINT32, "uint32", 1)
    cdef Py_ssize_t n = cnp.PyArray_DIM(persons, 0)
    cdef const uint32_t *numbers = <const uint32_t *>cnp.PyArray_DATA(persons)
    cdef uint8_t *flags = NULL if missing is None else <uint8_t *>cnp.PyArray_DATA(missing)
    cdef Py_buffer packed
    cdef Py_ssize_t result
    PyObject_GetBuffer(entries, &packed, PyBUF_SIMPLE)
    try:
        if packed.len != n * <Py_ssize_t>sizeof(Entry):
            raise ValueError(f"entries must have {ENTRY_BYTES} bytes for each person")
        if operation == CONTAINS:
            table.users += 1
            with nogil:
                result = _apply_all(&table.view, numbers, <const uint8_t *>packed.buf, n, operation, flags)
            table.users -= 1
        else:
            with _Writing(table), nogil:
                result = _apply_all(&table.view, numbers, <const uint8_t *>packed.buf, n, operation, flags)
    finally:
        PyBuffer_Release(&packed)
    if result < 0:
        _fail(<int>result)
    return result


# --- the table: no Python from here on ------------------------------------------------------------------------


cdef inline uint64_t _tag(uint64_t hi) noexcept nogil:
    cdef uint64_t tag = hi & layout.TAG_MASK
    return tag if tag else 0x10000


cdef inline uint64_t _next(const View *view, uint64_t line, unsigned int code) noexcept nogil:
    # Each class of keys leaves a full line in steps of its own, so that what overflows does not pile up.
    line += 1 << code
    return line if line < view.line_count else line % view.line_count


cdef inline int _put(const View *view, uint64_t w0, uint64_t w1, Match *found, int count) noexcept nogil:
    if w0 & view.hidden:
        return count
    if count == ROOM:
        return CROWDED
    probe_match(&found[count], w0, w1)
    return count + 1


cdef inline int _read_line(
    const View *view, const Line *line, uint64_t tag, unsigned int code, Match *found, int count, bint *more
) noexcept nogil:
    # Form ATOMIC16: the tags are compared in 8-byte words; a slot that fits is read as a whole and compared again.
    cdef unsigned int mask = probe_tag_mask(line, tag)
    cdef Slot slot
    cdef int position
    more[0] = (probe_load(&line.slots[code].w0) & layout.OVERFLOW) != 0
    while mask:
        position = probe_first_bit(mask)
        mask &= mask - 1
        probe_slot_load16(&line.slots[position], &slot)
        if (slot.w0 ^ tag) < 0x10000:
            count = _put(view, slot.w0, slot.w1, found, count)
            if count < 0:
                return count
    return count


cdef int _read_line_versioned(
    const View *view, uint64_t index, uint64_t tag, unsigned int code, Match *found, int before, bint *more
) noexcept nogil:
    # Form VERSIONED: what was read counts only if the line's stripe was even before and is the same after.
    cdef const Line *line = &view.lines[index]
    cdef const uint64_t *stripe = &view.header.versions[index % layout.STRIPES]
    cdef uint64_t version, w0
    cdef unsigned int mask
    cdef int count, position, tries
    for tries in range(TRIES_MAX):
        version = probe_load_acquire(stripe)
        if version & 1:
            # A writer holds a line for some nanoseconds, unless it lost its processor or its life.
            if tries > TRIES_EAGER:
                sched_yield()
            else:
                probe_pause()
            continue
        count = before
        mask = probe_tag_mask(line, tag)
        more[0] = (probe_load(&line.slots[code].w0) & layout.OVERFLOW) != 0
        while mask and count >= 0:
            position = probe_first_bit(mask)
            mask &= mask - 1
            w0 = probe_load(&line.slots[position].w0)
            if (w0 ^ tag) < 0x10000:
                count = _put(view, w0, probe_load(&line.slots[position].w1), found, count)
        probe_fence_acquire()
        if probe_load(stripe) == version:
            return count
    return BUSY


cdef inline int _find(const View *view, uint64_t lo, uint64_t hi, Match *found) noexcept nogil:
    # Returns how many, or CROWDED or BUSY. A table whose lines all overflow ends after one round.
    cdef uint64_t tag = _tag(hi), line = probe_scale(lo, view.line_count), _round
    cdef unsigned int code = lo & 3
    cdef bint more = False
    cdef int count = 0
    for _round in range(view.line_count):
        if view.form == layout.FORM_ATOMIC16:
            count = _read_line(view, &view.lines[line], tag, code, found, count, &more)
        else:
            count = _read_line_versioned(view, line, tag, code, found, count, &more)
        if count < 0 or not more:
            break
        line = _next(view, line, code)
    return count


cdef inline unsigned int _step(
    const View *view, uint64_t index, uint64_t tag, unsigned int code, Match *match, uint8_t *count, bint first,
    bint versioned,
) noexcept nogil:
    # One line of one key's chain, without a branch that depends on what is in it. Returns whether the chain goes on.
    # What is not simple (a second entry, a hidden one, a writer at work) makes the count STEP_BY_STEP.
    cdef const Line *line = &view.lines[index]
    cdef const uint64_t *stripe = &view.header.versions[index % layout.STRIPES]
    cdef uint64_t version = probe_load_acquire(stripe) if versioned else 0
    cdef unsigned int mask = probe_tag_mask(line, tag), hit = mask != 0, odd
    cdef unsigned int more = <unsigned int>(probe_load(&line.slots[code].w0) >> 1) & 1
    cdef const Slot *slot = &line.slots[probe_first_bit(mask | 8)]
    cdef Match ignored
    cdef Match *target = match if first or hit else &ignored
    cdef Slot whole
    if versioned:
        whole.w0 = probe_load(&slot.w0)
        whole.w1 = probe_load(&slot.w1)
        probe_fence_acquire()
    else:
        probe_slot_load16(slot, &whole)
    probe_match(target, whole.w0, whole.w1)
    # `tag` has no low bits: a slot that is not to be shown differs from it in bit PROVISIONAL.
    odd = (mask & (mask - hit)) | (hit & (((whole.w0 ^ tag) & (layout.TAG_MASK | view.hidden)) != 0))
    if not first:
        odd |= hit & (count[0] != 0)
    if versioned:
        odd |= (version & 1) | (probe_load(stripe) != version)
    odd = odd != 0
    count[0] = <uint8_t>((hit if first else count[0] + hit) | (0 - odd))
    return more & (odd ^ 1)


cdef inline Py_ssize_t _walk_block(
    const View *view, const uint64_t *hashes, Py_ssize_t n, Py_ssize_t known, uint8_t *counts, Match *found,
    bint versioned,
) noexcept nogil:
    # Up to BLOCK keys, line by line of their chains, because mispredicted branches cost more than the work itself:
    # first all home lines, then the next line of those keys whose chain goes on, and so forth.
    # `known` hashes can be fetched ahead of their turn.
    # Of each open key its line, and in the low 16 bits its position.
    cdef uint64_t open[BLOCK + 1]
    cdef uint64_t lo, line, _round
    cdef Py_ssize_t position, at, opened = 0, left
    cdef unsigned int more
    for position in range(n):
        if position + AHEAD < known:
            probe_prefetch(&view.lines[probe_scale(hashes[2 * (position + AHEAD)], view.line_count)])
        lo = hashes[2 * position]
        line = probe_scale(lo, view.line_count)
        more = _step(
            view, line, _tag(hashes[2 * position + 1]), lo & 3, &found[position], &counts[position], True, versioned
        )
        open[opened] = line << 16 | <uint64_t>position
        opened += more
        # Without a branch: the line itself, or the one that comes next.
        probe_prefetch(&view.lines[line + (more << (lo & 3))])
    for _round in range(view.line_count):
        if opened == 0:
            break
        left = 0
        for at in range(opened):
            position = <Py_ssize_t>(open[at] & 0xffff)
            lo = hashes[2 * position]
            line = _next(view, open[at] >> 16, lo & 3)
            more = _step(
                view, line, _tag(hashes[2 * position + 1]), lo & 3, &found[position], &counts[position], False,
                versioned,
            )
            open[left] = line << 16 | <uint64_t>position
            left += more
            probe_prefetch(&view.lines[line + (more << (lo & 3))])
        opened = left
    return 0


cdef Py_ssize_t _find_block(
    const View *view, const uint64_t *hashes, Py_ssize_t n, Py_ssize_t known, uint8_t *counts, Match *out,
    Py_ssize_t room, Py_ssize_t *done,
) noexcept nogil:
    # Stops before a key whose entries might not fit.
    cdef Match found[BLOCK]
    cdef Py_ssize_t used
    if view.walk != PLAIN and n + ROOM <= room:
        # In place: mostly every key has one entry, and then nothing has to move.
        probe_walk(view.walk, view.lines, view.line_count, view.hidden, hashes, n, known, counts, out)
        used = probe_close_up(counts, n, out)
        if used >= 0:
            done[0] = n
            return used
        memcpy(found, out, n * sizeof(Match))
    elif view.form == layout.FORM_ATOMIC16:
        _walk_block(view, hashes, n, known, counts, found, False)
    else:
        _walk_block(view, hashes, n, known, counts, found, True)
    return _collect(view, hashes, n, counts, found, out, room, done)


cdef Py_ssize_t _collect(
    const View *view, const uint64_t *hashes, Py_ssize_t n, uint8_t *counts, const Match *found, Match *out,
    Py_ssize_t room, Py_ssize_t *done,
) noexcept nogil:
    # One match behind the other, with those of the keys that the walk left to be searched on their own.
    cdef Py_ssize_t position, used = 0
    cdef int count
    for position in range(n):
        if room - used < ROOM:
            done[0] = position
            return used
        if counts[position] == STEP_BY_STEP:
            count = _find(view, hashes[2 * position], hashes[2 * position + 1], out + used)
            if count < 0:
                return count
            counts[position] = <uint8_t>count
        else:
            out[used] = found[position]
        used += counts[position]
    done[0] = n
    return used


cdef void _fetch_first(const View *view, const uint64_t *hashes, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t position
    for position in range(min(n, <Py_ssize_t>AHEAD)):
        probe_prefetch(&view.lines[probe_scale(hashes[2 * position], view.line_count)])


cdef Py_ssize_t _find_many(
    const View *view, const uint64_t *hashes, Py_ssize_t n, uint8_t *counts, Match *out, Py_ssize_t room,
    Py_ssize_t *done,
) noexcept nogil:
    cdef Py_ssize_t start = 0, used = 0, size, got, block_done
    _fetch_first(view, hashes, n)
    while start < n:
        size = min(n - start, <Py_ssize_t>BLOCK)
        got = _find_block(
            view, hashes + 2 * start, size, n - start, counts + start, out + used, room - used, &block_done
        )
        if got < 0:
            return got
        used += got
        start += block_done
        if block_done < size:
            break
    done[0] = start
    return used


cdef Py_ssize_t _find_many_rows(
    const View *view, uint64_t k0, uint64_t k1, const uint8_t *rows, Py_ssize_t width, const uint16_t *lengths,
    Py_ssize_t n, uint8_t *counts, Match *out, Py_ssize_t room, Py_ssize_t *done,
) noexcept nogil:
    # Hashing is a block ahead of probing, eight rows at a time: fused with the probe it would stop the fetching.
    cdef uint64_t hashes[4 * BLOCK]
    cdef Py_ssize_t start = 0, used = 0, got, block_done, size = min(n, <Py_ssize_t>BLOCK), next_size
    if not _hash_rows(k0, k1, rows, width, lengths, size, hashes):
        return TOO_LONG
    _fetch_first(view, hashes, size)
    while start < n:
        next_size = min(n - start - size, <Py_ssize_t>BLOCK)
        if not _hash_rows(
            k0, k1, rows + (start + size) * width, width, lengths + start + size, next_size, hashes + 2 * size
        ):
            return TOO_LONG
        got = _find_block(
            view, hashes, size, size + next_size, counts + start, out + used, room - used, &block_done
        )
        if got < 0:
            return got
        used += got
        start += block_done
        if block_done < size:
            break
        memcpy(hashes, hashes + 2 * size, 2 * sizeof(uint64_t) * next_size)
        size = next_size
    done[0] = start
    return used


cdef bint _hash_rows(
    uint64_t k0, uint64_t k1, const uint8_t *rows, Py_ssize_t width, const uint16_t *lengths, Py_ssize_t n,
    uint64_t *hashes,
) noexcept nogil:
    cdef const uint8_t *starts[keyhash.LANES]
    cdef size_t taken[keyhash.LANES]
    cdef Py_ssize_t row = 0, lane
    while n - row >= keyhash.LANES:
        for lane in range(keyhash.LANES):
            starts[lane] = rows + (row + lane) * width
            # Read once, because another thread could change the array after the check.
            taken[lane] = lengths[row + lane]
            if taken[lane] > <size_t>width:
                return False
        keyhash.hash_lanes(_HASH_FORM, k0, k1, starts, taken, hashes + 2 * row)
        row += keyhash.LANES
    while row < n:
        taken[0] = lengths[row]
        if taken[0] > <size_t>width:
            return False
        keyhash.hash_one(k0, k1, rows + row * width, taken[0], hashes + 2 * row)
        row += 1
    return True


cdef uint64_t _gather(const View *view, const uint64_t *hashes, Py_ssize_t n, Py_ssize_t ahead) noexcept nogil:
    # What memory allows: one word of one random line for each key, and nothing done with it but a sum.
    cdef Py_ssize_t position
    cdef uint64_t total = 0
    for position in range(n):
        if ahead and position + ahead < n:
            probe_prefetch(&view.lines[probe_scale(hashes[2 * (position + ahead)], view.line_count)])
        total += probe_load(&view.lines[probe_scale(hashes[2 * position], view.line_count)].slots[0].w0)
    return total


cdef void _write(View *view, uint64_t position, uint64_t w0, uint64_t w1) noexcept nogil:
    # Both words of a slot at once. The redo words let the next writer finish what a killed one had begun.
    cdef Slot *slot = &view.lines[position // 4].slots[position % 4]
    cdef Header *header = view.header
    cdef uint64_t *stripe
    cdef uint64_t version
    if view.form == layout.FORM_ATOMIC16:
        probe_slot_store16(slot, w0, w1)
        return
    stripe = &header.versions[position // 4 % layout.STRIPES]
    version = probe_load(stripe)
    probe_store(&header.redo_slot, position)
    probe_store(&header.redo_w0, w0)
    probe_store(&header.redo_w1, w1)
    probe_store_release(stripe, version + 1)
    probe_fence_release()
    probe_store(&slot.w1, w1)
    probe_store_release(&slot.w0, w0)
    probe_store_release(stripe, version + 2)


cdef uint64_t _repair(View *view) noexcept nogil:
    cdef Header *header = view.header
    cdef uint64_t stripe, repaired = 0, position = header.redo_slot
    cdef Slot *slot
    for stripe in range(layout.STRIPES):
        if header.versions[stripe] & 1:
            if position // 4 < view.line_count and position // 4 % layout.STRIPES == stripe:
                slot = &view.lines[position // 4].slots[position % 4]
                probe_store(&slot.w1, header.redo_w1)
                probe_store_release(&slot.w0, header.redo_w0)
            probe_store_release(&header.versions[stripe], header.versions[stripe] + 1)
            repaired += 1
    return repaired


cdef void _add(uint64_t *word, int64_t amount) noexcept nogil:
    probe_store(word, probe_load(word) + <uint64_t>amount)


cdef int64_t _locate(
    const View *view, uint64_t lo, uint64_t hi, uint64_t aux, uint64_t w1, Search *search
) noexcept nogil:
    # The slot of exactly this entry, or -1; on the way it learns what an insertion needs.
    cdef uint64_t tag = _tag(hi), line = probe_scale(lo, view.line_count), _round, w0
    cdef unsigned int code = lo & 3, position
    cdef const Slot *slot
    search.free = -1
    search.same = 0
    search.last = line
    search.whole = False
    for _round in range(view.line_count):
        search.last = line
        for position in range(4):
            slot = &view.lines[line].slots[position]
            w0 = probe_load(&slot.w0)
            if w0 < 0x10000:
                if search.free < 0:
                    search.free = line * 4 + position
            elif (w0 ^ tag) < 0x10000:
                if probe_load(&slot.w1) == w1 and ((w0 ^ aux) & layout.AUX_MASK) == 0:
                    return line * 4 + position
                search.same += 1
        if not probe_load(&view.lines[line].slots[code].w0) & layout.OVERFLOW:
            return -1
        line = _next(view, line, code)
    search.whole = True
    return -1


cdef int64_t _extend(View *view, uint64_t lo, uint64_t last) noexcept nogil:
    # The next free slot behind a chain that is full; its path is marked before anything is published there.
    cdef uint64_t line = last, _round
    cdef unsigned int code = lo & 3, position
    cdef int64_t free = -1
    for _round in range(view.line_count - 1):
        line = _next(view, line, code)
        for position in range(4):
            if probe_load(&view.lines[line].slots[position].w0) < 0x10000:
                free = line * 4 + position
                break
        if free >= 0:
            break
    if free < 0:
        return -1
    while last != line:
        probe_or_release(&view.lines[last].slots[code].w0, layout.OVERFLOW)
        last = _next(view, last, code)
    return free


cdef int _insert(View *view, uint64_t lo, uint64_t hi, uint64_t aux, uint64_t w1) noexcept nogil:
    cdef Search search
    cdef int64_t position = _locate(view, lo, hi, aux, w1, &search)
    cdef uint64_t *word
    if position >= 0:
        word = &view.lines[position // 4].slots[position % 4].w0
        if word[0] & layout.PROVISIONAL and not aux & layout.PROVISIONAL:
            probe_store_release(word, word[0] & ~layout.PROVISIONAL)
            _add(&view.header.provisional_count, -1)
        return 0
    if search.same >= ROOM:
        return CROWDED
    position = search.free
    if position < 0 and not search.whole:
        position = _extend(view, lo, search.last)
    if position < 0:
        return FULL
    word = &view.lines[position // 4].slots[position % 4].w0
    _write(view, position, _tag(hi) | aux | (word[0] & layout.OVERFLOW), w1)
    _add(&view.header.count, 1)
    if aux & layout.PROVISIONAL:
        _add(&view.header.provisional_count, 1)
    return 1


cdef void _clear(View *view, uint64_t position) noexcept nogil:
    # One word only: the slot's other word means nothing to a reader once the tag is gone.
    cdef uint64_t *word = &view.lines[position // 4].slots[position % 4].w0
    if word[0] & layout.PROVISIONAL:
        _add(&view.header.provisional_count, -1)
    probe_store_release(word, word[0] & layout.OVERFLOW)
    _add(&view.header.count, -1)


cdef int _remove(View *view, uint64_t lo, uint64_t hi, uint64_t aux, uint64_t w1) noexcept nogil:
    cdef Search search
    cdef int64_t position = _locate(view, lo, hi, aux, w1, &search)
    if position < 0:
        return 0
    _clear(view, position)
    return 1


cdef int _replace(
    View *view, uint64_t lo, uint64_t hi, uint64_t aux, uint64_t w1, uint64_t new_aux, uint64_t new_w1
) noexcept nogil:
    cdef Search search
    cdef int64_t other = _locate(view, lo, hi, new_aux, new_w1, &search)
    cdef int64_t position = _locate(view, lo, hi, aux, w1, &search)
    cdef uint64_t w0
    if position < 0:
        return 0
    if other < 0:
        w0 = view.lines[position // 4].slots[position % 4].w0
        _write(view, position, (w0 & ~layout.AUX_MASK) | new_aux, new_w1)
    elif other != position:
        _clear(view, position)
    return 1


cdef Py_ssize_t _apply_all(
    View *view, const uint32_t *persons, const uint8_t *entries, Py_ssize_t n, int operation, uint8_t *missing
) noexcept nogil:
    cdef Py_ssize_t position, applied = 0
    cdef Entry entry
    cdef uint64_t w1, home
    cdef int result
    cdef Search search
    for position in range(n):
        memcpy(&entry, entries + position * sizeof(Entry), sizeof(Entry))
        if entry.aux & ~layout.AUX_MASK:
            return BAD_AUX
    for position in range(n):
        if position + AHEAD < n:
            memcpy(&home, entries + (position + AHEAD) * sizeof(Entry), sizeof(uint64_t))
            probe_prefetch_write(&view.lines[probe_scale(home, view.line_count)])
        memcpy(&entry, entries + position * sizeof(Entry), sizeof(Entry))
        w1 = <uint64_t>persons[position] << 32 | <uint64_t>entry.lost << 16 | entry.gained
        if operation == INSERT:
            result = _insert(view, entry.lo, entry.hi, entry.aux & layout.AUX_MASK, w1)
        elif operation == INSERT_PROVISIONAL:
            result = _insert(view, entry.lo, entry.hi, (entry.aux & layout.AUX_MASK) | layout.PROVISIONAL, w1)
        elif operation == REMOVE:
            result = _remove(view, entry.lo, entry.hi, entry.aux, w1)
        else:
            result = _locate(view, entry.lo, entry.hi, entry.aux, w1, &search) >= 0
            if missing is not NULL:
                missing[position] = not result
        if result < 0:
            return result
        applied += result
    return applied


cdef uint64_t _sweep(View *view, uint64_t *kept) noexcept nogil:
    cdef uint64_t line, w0, swept = 0
    cdef unsigned int position
    cdef uint64_t *word
    for line in range(view.line_count):
        for position in range(4):
            word = &view.lines[line].slots[position].w0
            w0 = probe_load(word)
            if w0 < 0x10000:
                continue
            if w0 & layout.PROVISIONAL:
                probe_store_release(word, w0 & layout.OVERFLOW)
                swept += 1
            else:
                kept[0] += 1
    probe_store(&view.header.count, kept[0])
    probe_store(&view.header.provisional_count, 0)
    return swept


cdef void _scan(const View *view, uint64_t *totals) noexcept nogil:
    cdef uint64_t line, w0, overflows
    cdef unsigned int position
    for position in range(4):
        totals[position] = 0
    for line in range(view.line_count):
        overflows = 0
        for position in range(4):
            w0 = probe_load(&view.lines[line].slots[position].w0)
            overflows |= w0 & layout.OVERFLOW
            if w0 >= 0x10000:
                totals[0] += 1
                totals[1] += w0 & layout.PROVISIONAL
        totals[2] += overflows >> 1
    for line in range(layout.STRIPES):
        totals[3] += probe_load(&view.header.versions[line]) & 1
