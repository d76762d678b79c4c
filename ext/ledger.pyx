"""Owns the appending of one audit log: entries of facts, written and synced by a thread, many at a time."""
import errno
import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from ext cimport canon, keyhash
from ext.lane cimport LENGTH_BYTES, write_digits
from ext.ordinary cimport NO_DAY
from ext.quick cimport Quick
from ext.scan cimport Span

cdef extern from "ledger.h" nogil:
    enum:
        LEVELS "LEDGER_LEVELS"
        DEPTH "LEDGER_DEPTH"
        FRAME_HEAD "LEDGER_FRAME_HEAD"
        HEADER "LEDGER_HEADER"
        HASH_BYTES "SHA256_BYTES"
        FULL "LEDGER_FULL"
        NO_MEMORY "LEDGER_NO_MEMORY"

    ctypedef struct State "ledger":
        int running
        int failure
        int wake_fd
        int folder_fd
        int fd
        int next_fd
        int[LEVELS] level_fds
        uint64_t at
        uint64_t filled
        uint64_t segment_bytes
        uint64_t entries
        uint64_t durable
        uint64_t flushes
        uint64_t flush_ns
        uint64_t leaves
        int depth
        uint8_t[DEPTH][HASH_BYTES] nodes
        uint64_t head_leaves
        int head_depth
        uint8_t[DEPTH][HASH_BYTES] head_nodes
        uint8_t[HEADER] header
        uint8_t *leaves_out

    void crc32_prepare() noexcept
    void sha256_prepare() noexcept
    void sha256_of(int before, const uint8_t *at, size_t size, uint8_t *out) noexcept
    void put_big "ledger_put_big"(uint8_t *target, uint64_t value, int bytes) noexcept
    void put_little "ledger_put_little"(uint8_t *target, uint64_t value, int bytes) noexcept
    bint frame_fits "ledger_frame_fits"(const uint8_t *frame, size_t size) noexcept
    void seal_frame "ledger_seal_frame"(uint8_t *frame, size_t entry_bytes, size_t private_bytes) noexcept
    void node "ledger_node"(const uint8_t *left, const uint8_t *right, uint8_t *out) noexcept
    int start "ledger_start"(State *state) noexcept
    int64_t append "ledger_append"(State *state, const uint8_t *frame, size_t size) noexcept
    void want "ledger_want"(State *state) noexcept
    void stop "ledger_stop"(State *state) noexcept
    void look "ledger_look"(State *state, State *seen) noexcept
    int give "ledger_give"(State *state, int next_fd) noexcept
    int make_wake "ledger_make_wake"() noexcept
    void clear_wake "ledger_clear_wake"(int wake_fd) noexcept
    void discard "ledger_discard"(State *state) noexcept
    void forget "ledger_forget"(State *state) noexcept

cdef enum:
    ENTRY_VERSION = 1
    FIXED_BYTES = 106
    INQUIRY_AT = 42
    CODE_AT = 58
    DIGEST_AT = 74
    MARK_BYTES = 64
    PRIVATE_BYTES = 8
    KEY_BYTES = 16
    LAST_CODE = 255
    LAST_FLAGS = 65535
    # Room for one frame, with everything at its longest.
    FRAME_BYTES = 8 + 106 + 1 + 64 + 1 + 32 + 8
    MOST_ENTRY_BYTES = 204
    MOST_PRIVATE_BYTES = 32

crc32_prepare()
sha256_prepare()
LEVELS_COUNT = LEVELS
HEADER_BYTES = HEADER
ENTRY_BYTES_MAX = MOST_ENTRY_BYTES
PRIVATE_BYTES_MAX = MOST_PRIVATE_BYTES


@cython.final
cdef class Ledger:
    def __cinit__(self):
        cdef State *state = <State *>calloc(1, sizeof(State))
        if state is NULL:
            raise MemoryError
        state.fd = state.wake_fd = state.next_fd = -1
        self.held = state

    def __init__(
        self, *, slot, log_id, folder_fd, level_fds, segment_fd, offset, filled, entries, nodes, segment_bytes,
        inquiry_key, code_key, person_key, fixed_ms=None
    ):
        cdef State *state = _state(self)
        if state.wake_fd >= 0:
            raise ValueError("the ledger is open")
        if not isinstance(log_id, bytes) or len(log_id) != KEY_BYTES:
            raise ValueError(f"log_id must be {KEY_BYTES} bytes")
        self.slot = slot
        self.fixed_ms = -1 if fixed_ms is None else fixed_ms
        _read_key(inquiry_key, "inquiry_key", self.inquiry_key)
        _read_key(code_key, "code_key", self.code_key)
        _read_key(person_key, "person_key", self.person_key)
        state.segment_bytes = segment_bytes
        memset(state.header, 0, HEADER)
        memcpy(state.header, b"SHKSEG1\0", 8)
        memcpy(state.header + 16, PyBytes_AS_STRING(log_id), KEY_BYTES)
        put_little(state.header + 32, self.slot, 4)
        state.wake_fd = make_wake()
        if state.wake_fd < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        _begin(self, folder_fd, level_fds, segment_fd, offset, filled, entries, nodes)

    def __dealloc__(self):
        cdef State *state = _state(self)
        if state is not NULL:
            with nogil:
                stop(state)
            discard(state)
            free(state)

    @property
    def fileno(self):
        return _state(self).wake_fd

    @property
    def entries(self):
        return self.count

    @property
    def flushes(self):
        cdef State seen
        look(_state(self), &seen)
        return seen.flushes, seen.flush_ns

    @property
    def wants_segment(self):
        cdef State seen
        look(_state(self), &seen)
        return seen.next_fd < 0 and 2 * seen.at > seen.segment_bytes

    def append(
        self, *, kind, purpose, verdict, flags, as_of, version, caller, inquiry, person, body, mark=b""
    ):
        cdef Facts facts
        if not (isinstance(caller, bytes) and isinstance(body, bytes) and isinstance(mark, bytes)):
            raise TypeError("caller, body and mark must be bytes")
        if not isinstance(inquiry, bytes) or len(inquiry) != KEY_BYTES:
            raise ValueError(f"inquiry must be {KEY_BYTES} bytes")
        if not (0 <= kind <= LAST_CODE and 0 <= purpose <= LAST_CODE and 0 <= verdict <= LAST_CODE):
            raise ValueError("a code is out of range")
        if not 0 <= flags <= LAST_FLAGS:
            raise ValueError("flags are out of range")
        if as_of is not None and not canon.FIRST_DAY <= as_of <= canon.LAST_DAY:
            raise ValueError("as_of is out of range")
        facts.kind, facts.purpose, facts.verdict, facts.flags = kind, purpose, verdict, flags
        facts.as_of, facts.version = NO_DAY if as_of is None else as_of, version
        if len(caller) > CALLER_BYTES:
            raise ValueError(f"caller has at most {CALLER_BYTES} bytes")
        memset(facts.caller, 0, CALLER_BYTES)
        memcpy(facts.caller, PyBytes_AS_STRING(caller), len(caller))
        facts.inquiry[0] = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(inquiry))
        facts.inquiry[1] = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(inquiry) + 8)
        facts.known, facts.person = person is not None, 0 if person is None else person
        return _record(self, &facts, body, mark)

    def append_answer(self, quick, body, mark=b"", batch=False):
        cdef Facts facts
        if not isinstance(quick, Quick):
            raise TypeError(f"quick must be Quick, not {type(quick).__name__}")
        if not (<Quick>quick).notes:
            raise ValueError("quick notes nothing")
        if not (isinstance(body, bytes) and isinstance(mark, bytes)):
            raise TypeError("body and mark must be bytes")
        facts = (<Quick>quick).facts
        if batch:
            facts.kind += KIND_IN_BATCH
        return _record(self, &facts, body, mark)

    def name(self, index):
        cdef char[MOST_NAME_BYTES] text
        return PyBytes_FromStringAndSize(text, self.write_name(index, text))

    def flush(self):
        want(_state(self))

    def settle(self):
        cdef State seen
        clear_wake(_state(self).wake_fd)
        look(_state(self), &seen)
        return seen.durable, seen.failure

    def head(self):
        cdef State seen
        cdef uint8_t[HASH_BYTES] root
        cdef int place
        look(_state(self), &seen)
        if seen.head_leaves == 0:
            sha256_of(-1, b"", 0, root)
        else:
            memcpy(root, seen.head_nodes[seen.head_depth - 1], HASH_BYTES)
            for place in range(seen.head_depth - 2, -1, -1):
                node(seen.head_nodes[place], root, root)
        return seen.head_leaves, PyBytes_FromStringAndSize(<const char *>root, HASH_BYTES)

    def provide(self, segment_fd):
        if not give(_state(self), segment_fd):
            raise ValueError("a segment lies ready")

    def cut(self):
        cdef State *state = _state(self)
        if state.running:
            raise ValueError("the ledger is open")
        if state.fd >= 0:
            os.ftruncate(state.fd, state.at)
            os.fdatasync(state.fd)

    def resume(self, *, folder_fd, level_fds, segment_fd, offset, filled, entries, nodes):
        if _state(self).running:
            raise ValueError("the ledger is open")
        forget(_state(self))
        _begin(self, folder_fd, level_fds, segment_fd, offset, filled, entries, nodes)

    def close(self):
        cdef State *state = _state(self)
        with nogil:
            stop(state)

    cdef int64_t record(self, const Facts *facts, const Span *body, const Span *mark) except -1:
        cdef uint8_t[FRAME_BYTES] frame
        cdef uint8_t *entry = frame + FRAME_HEAD
        cdef Py_ssize_t size = FIXED_BYTES, mark_bytes = min(mark.length, <Py_ssize_t>MARK_BYTES)
        cdef uint64_t[2] hashed
        cdef uint8_t[24] message
        cdef int64_t index
        entry[0], entry[1], entry[2], entry[3] = ENTRY_VERSION, facts.kind, facts.purpose, facts.verdict
        put_big(entry + 4, facts.flags, 2)
        put_big(entry + 6, _written_date(facts.as_of), 4)
        put_big(entry + 10, self.fixed_ms if self.fixed_ms >= 0 else _now_ms(), 8)
        put_big(entry + 18, facts.version, 8)
        memcpy(entry + 26, facts.caller, CALLER_BYTES)
        keyhash.store_little(message, facts.inquiry[0])
        keyhash.store_little(message + 8, facts.inquiry[1])
        keyhash.hash_one(self.inquiry_key[0], self.inquiry_key[1], message, 16, hashed)
        keyhash.store_little(entry + INQUIRY_AT, hashed[0])
        keyhash.store_little(entry + INQUIRY_AT + 8, hashed[1])
        memset(entry + CODE_AT, 0, KEY_BYTES)
        if facts.known:
            memcpy(message, facts.caller, CALLER_BYTES)
            keyhash.store_little(message + 16, facts.person)
            keyhash.hash_one(self.code_key[0], self.code_key[1], message, 24, hashed)
            keyhash.store_little(entry + CODE_AT, hashed[0])
            keyhash.store_little(entry + CODE_AT + 8, hashed[1])
        sha256_of(-1, body.at, body.length, entry + DIGEST_AT)
        entry[size] = <uint8_t>mark_bytes
        memcpy(entry + size + 1, mark.at, mark_bytes)
        size += 1 + mark_bytes
        # Whose data were given is the log's own matter: a number that nobody else can read, and no two alike.
        memcpy(message, entry + DIGEST_AT, 16)
        keyhash.store_little(message + 16, self.count)
        keyhash.hash_one(self.person_key[0], self.person_key[1], message, 24, hashed)
        keyhash.store_little(entry + size, hashed[0] ^ (facts.person + 1 if facts.known else 0))
        seal_frame(frame, size, PRIVATE_BYTES)
        index = append(_state(self), frame, FRAME_HEAD + size + PRIVATE_BYTES)
        if index < 0:
            if index == NO_MEMORY:
                raise MemoryError
            failure = errno.ENOBUFS if index == FULL else errno.EIO
            raise OSError(failure, os.strerror(failure))
        self.count = index + 1
        return index

    cdef Py_ssize_t write_name(self, uint64_t index, char *target) noexcept:
        cdef char[LENGTH_BYTES] digits
        cdef Py_ssize_t count = write_digits(self.slot, digits), size = count
        memcpy(target, &digits[LENGTH_BYTES - count], count)
        target[size] = c"-"
        count = write_digits(index, digits)
        memcpy(target + size + 1, &digits[LENGTH_BYTES - count], count)
        return size + 1 + count


def scan(data, start):
    cdef const uint8_t *text
    cdef Py_ssize_t size, at, following, length
    cdef list starts = []
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    text, size, at = <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), start
    if not 0 <= at <= size:
        raise ValueError("start is not within data")
    while size - at >= FRAME_HEAD:
        length = text[at + 4] | <Py_ssize_t>text[at + 5] << 8
        following = at + FRAME_HEAD + length + text[at + 6]
        if not 0 < length <= MOST_ENTRY_BYTES or text[at + 6] > MOST_PRIVATE_BYTES or text[at + 7] or following > size:
            break
        if not frame_fits(text + at, following - at):
            break
        starts.append(at)
        at = following
    return starts, at


cdef inline State *_state(Ledger ledger) noexcept:
    return <State *>ledger.held


cdef int _begin(
    Ledger ledger, int folder_fd, level_fds, int segment_fd, uint64_t offset, uint64_t filled, entries, nodes
) except -1:
    """Have the writer go on from here; the segment is the ledger's from now on."""
    cdef State *state = _state(ledger)
    cdef int place
    if len(level_fds) != LEVELS:
        raise ValueError(f"level_fds must be {LEVELS}")
    if bin(entries).count("1") != len(nodes) or any(len(one) != HASH_BYTES for one in nodes):
        raise ValueError("nodes are not those of so many entries")
    state.folder_fd, state.fd, state.at, state.filled = folder_fd, segment_fd, offset, filled
    for place in range(LEVELS):
        state.level_fds[place] = level_fds[place]
    ledger.count = state.entries = state.durable = state.leaves = entries
    state.depth = len(nodes)
    for place in range(state.depth):
        memcpy(state.nodes[place], PyBytes_AS_STRING(nodes[place]), HASH_BYTES)
    failure = start(state)
    if failure:
        raise OSError(failure, os.strerror(failure))
    return 0


cdef int64_t _record(Ledger ledger, const Facts *facts, bytes body, bytes mark) except -1:
    cdef Span body_span, mark_span
    body_span.at, body_span.length = <const uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
    mark_span.at, mark_span.length = <const uint8_t *>PyBytes_AS_STRING(mark), PyBytes_GET_SIZE(mark)
    return ledger.record(facts, &body_span, &mark_span)


cdef int _read_key(key, str name, uint64_t *words) except -1:
    if not isinstance(key, bytes):
        raise TypeError(f"{name} must be bytes, not {type(key).__name__}")
    if len(key) != KEY_BYTES:
        raise ValueError(f"{name} must have {KEY_BYTES} bytes")
    words[0] = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(key))
    words[1] = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(key) + 8)
    return 0


cdef uint64_t _written_date(int day) noexcept nogil:
    """A day as the number that its eight digits make, or 0."""
    cdef uint8_t[canon.ISO_CHARS] letters
    cdef uint64_t written = 0
    cdef int place
    if day == NO_DAY:
        return 0
    canon.write_iso(day, letters)
    for place in range(canon.ISO_CHARS):
        if letters[place] != c"-":
            written = 10 * written + letters[place] - c"0"
    return written


cdef int64_t _now_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
