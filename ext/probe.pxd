# The shared table for other compiled modules; ext/probe.pyi says what Python may call.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ext cimport layout
from ext.layout cimport Entry, Header, Line, Match, Slot


cdef extern from "probe_atomic.h" nogil:
    int probe_atomic16_supported() noexcept
    void probe_slot_load16(const Slot *slot, Slot *out) noexcept
    void probe_slot_store16(Slot *slot, uint64_t w0, uint64_t w1) noexcept
    void probe_pause() noexcept
    uint64_t probe_load(const uint64_t *word) noexcept
    uint64_t probe_load_acquire(const uint64_t *word) noexcept
    void probe_store(uint64_t *word, uint64_t value) noexcept
    void probe_store_release(uint64_t *word, uint64_t value) noexcept
    void probe_or_release(uint64_t *word, uint64_t bits) noexcept
    void probe_fence_acquire() noexcept
    void probe_fence_release() noexcept
    uint64_t probe_scale(uint64_t hash, uint64_t lines) noexcept
    void probe_prefetch(const void *address) noexcept
    void probe_prefetch_write(const void *address) noexcept
    void probe_match(Match *match, uint64_t w0, uint64_t w1) noexcept
    int probe_first_bit(unsigned int mask) noexcept
    unsigned int probe_tag_mask(const Line *line, uint64_t tag) noexcept
    int sched_yield() noexcept


cdef extern from "probe_walk.h" nogil:
    enum:
        BLOCK "PROBE_BLOCK"
        AHEAD "PROBE_AHEAD"
        STEP_BY_STEP "PROBE_STEP_BY_STEP"
        PLAIN "PROBE_WALK_PLAIN"

    # The fastest walk of this processor. Cannot fail.
    int probe_best_walk() noexcept
    # Up to BLOCK keys by a walk other than PLAIN; counts become 0, 1 or STEP_BY_STEP, and found[i] the match of key i.
    # 4 bytes behind found[n - 1] are written, too. Cannot fail.
    void probe_walk(
        int walk, const Line *lines, uint64_t line_count, uint64_t hidden, const uint64_t *hashes, Py_ssize_t n,
        Py_ssize_t known, uint8_t *counts, Match *found
    ) noexcept
    Py_ssize_t probe_close_up(const uint8_t *counts, Py_ssize_t n, Match *found) noexcept


cdef enum:
    ROOM = 64
    CARD_BYTES = 512
    TRIES_EAGER = 2_000
    TRIES_MAX = 1_000_000
    BUSY = -1
    CROWDED = -2
    FULL = -3
    BAD_AUX = -4
    TOO_LONG = -5
    INSERT = 1
    INSERT_PROVISIONAL = 2
    REMOVE = 3
    CONTAINS = 4


cdef struct View:
    Header *header
    Line *lines
    uint64_t line_count
    uint64_t hidden
    uint32_t form
    int walk


cdef struct Search:
    int64_t free
    uint64_t last
    int same
    bint whole


cdef class Table:
    cdef View view
    cdef Py_buffer buffer
    cdef object follow
    cdef readonly bint writable
    cdef bint writing
    cdef int users


# Searches of an attached view (`view.header` is NULL once the table was released).
# Asks for both lines where a key may be.
cdef void fetch(const View *view, uint64_t lo) noexcept nogil
# All entries under one hash into ROOM places: how many, or CROWDED or BUSY.
cdef int find_all(const View *view, uint64_t lo, uint64_t hi, Match *found) noexcept nogil
