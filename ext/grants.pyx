"""Owns what a worker remembers of callers: tokens that were found good, and the buckets that all workers share."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from ext.lane cimport LENGTH_BYTES, append, write_digits

cdef extern from "grants.h" nogil:
    int64_t grants_load(const int64_t *word)
    bint grants_swap(int64_t *word, int64_t expected, int64_t wanted)

cdef enum:
    WORDS = 4
    # Places in a slot.
    RATE = 0
    MISSES = 1
    TOLD = 2

cdef int64_t SECOND = 1_000_000_000
# Nobody is kept waiting for much longer, whatever a bucket says.
cdef int64_t MOST_DEBT = 3600 * SECOND
cdef int64_t MOST_INTERVAL = 1 << 46
cdef int64_t MOST_CAPACITY = 1 << 55

SLOT_BYTES = WORDS * 8
DEBT_NS_MAX = MOST_DEBT


@cython.final
cdef class Buckets:
    def __init__(self, buffer, *, rate, misses, quiet_ns):
        cdef int64_t[::1] words = memoryview(buffer).cast("B").cast("q")
        self.rate = _bucket(rate, "rate")
        self.misses = _bucket(misses, "misses")
        if not 0 <= quiet_ns <= MOST_DEBT:
            raise ValueError("quiet_ns is out of range")
        self.quiet = quiet_ns
        self.buffer, self.words, self.slots = buffer, words, words.shape[0] // WORDS

    def wait(self, slot, now):
        return self.waits(_slot(self, slot), now)

    def miss_wait(self, slot, now):
        return self.waits_for_misses(_slot(self, slot), now)

    def charge(self, slot, now, count):
        self.take(_slot(self, slot), now, _count(count))

    def miss(self, slot, now, count):
        return bool(self.miss_some(_slot(self, slot), now, _count(count)))

    def limit(self, slot, now):
        cdef char[MOST_LIMIT_BYTES] text
        cdef Py_ssize_t size = self.write_limit(_slot(self, slot), now, text)
        return text[:size]

    cdef int64_t waits(self, Py_ssize_t slot, int64_t now) noexcept nogil:
        return _wait(&self.words[WORDS * slot + RATE], now, &self.rate)

    cdef int64_t waits_for_misses(self, Py_ssize_t slot, int64_t now) noexcept nogil:
        return _wait(&self.words[WORDS * slot + MISSES], now, &self.misses)

    cdef void take(self, Py_ssize_t slot, int64_t now, int64_t count) noexcept nogil:
        _charge(&self.words[WORDS * slot + RATE], now, count, &self.rate)

    cdef bint miss_some(self, Py_ssize_t slot, int64_t now, int64_t count) noexcept nogil:
        cdef int64_t *told = &self.words[WORDS * slot + TOLD]
        cdef int64_t before
        _charge(&self.words[WORDS * slot + MISSES], now, count, &self.misses)
        if self.waits_for_misses(slot, now) == 0:
            return False
        before = grants_load(told)
        # Zero: nobody was ever told. Who comes second at the same time finds another word here.
        if before != 0 and before <= now and now - before < self.quiet:
            return False
        return grants_swap(told, before, now if now != 0 else 1)

    cdef Py_ssize_t write_limit(self, Py_ssize_t slot, int64_t now, char *target) noexcept nogil:
        cdef char[LENGTH_BYTES] digits
        cdef int64_t debt = _debt(grants_load(&self.words[WORDS * slot + RATE]), now, &self.rate)
        cdef int64_t left = (self.rate.capacity - debt) // self.rate.interval if debt < self.rate.capacity else 0
        cdef Py_ssize_t count = write_digits(left, digits)
        cdef char *at = append(target, &digits[LENGTH_BYTES - count], count)
        at = append(at, b";t=", 3)
        count = write_digits((debt + SECOND - 1) // SECOND, digits)
        return append(at, &digits[LENGTH_BYTES - count], count) - target


@cython.final
cdef class Grant:
    def __init__(self, caller, slot, expires_ms, thumbprint, checks, who):
        if not (isinstance(caller, bytes) and isinstance(thumbprint, bytes)):
            raise TypeError("caller and thumbprint must be bytes")
        if not 0 < len(caller) <= CODE_BYTES:
            raise ValueError(f"caller has 1 to {CODE_BYTES} bytes")
        if slot < 0:
            raise ValueError("slot is out of range")
        self.caller, self.slot, self.expires_ms, self.thumbprint = caller, slot, expires_ms, thumbprint
        self.checks, self.who = bool(checks), who
        memset(self.code, 0, CODE_BYTES)
        memcpy(self.code, PyBytes_AS_STRING(caller), len(caller))


@cython.final
cdef class Gate:
    def __init__(
        self, admit, of_connection, clock, guessed, buckets, policy, *, miss_verdict, tokens_max, now_ms=0
    ):
        if not isinstance(buckets, Buckets):
            raise TypeError(f"buckets must be Buckets, not {type(buckets).__name__}")
        if not isinstance(policy, bytes):
            raise TypeError(f"policy must be bytes, not {type(policy).__name__}")
        if tokens_max < 1:
            raise ValueError("tokens_max is out of range")
        self.admit, self.of_connection, self.clock, self.guessed = admit, of_connection, clock, guessed
        self.buckets, self.policy, self.miss_verdict = buckets, policy, miss_verdict
        self.tokens, self.most_tokens = {}, tokens_max
        self.now_ms, self.generation = now_ms, 1

    @property
    def tokens_count(self):
        return len(self.tokens)

    def find(self, token):
        if not isinstance(token, bytes):
            raise TypeError(f"token must be bytes, not {type(token).__name__}")
        return self.known(token)

    def forget(self):
        self.tokens.clear()
        self.generation += 1

    def purge(self):
        cdef Grant grant
        over = [token for token, grant in self.tokens.items() if grant.expires_ms <= self.now_ms]
        for token in over:
            del self.tokens[token]

    def headers(self, grant):
        cdef Grant known = grant
        return self.policy + self.buckets.limit(known.slot, self.clock())

    def missed(self, grant, count):
        cdef Grant known = grant
        if count and self.buckets.miss(known.slot, self.clock(), count):
            self.guessed(known)

    cdef Grant known(self, bytes token):
        cdef Grant grant = <Grant>self.tokens.get(token)
        if grant is None:
            grant = self.admit(token)
            if grant is None or grant.expires_ms <= self.now_ms:
                return None
            if grant.slot >= self.buckets.slots:
                return None
            if len(self.tokens) >= self.most_tokens:
                self.purge()
                if len(self.tokens) >= self.most_tokens:
                    self.tokens.clear()
            self.tokens[token] = grant
        elif grant.expires_ms <= self.now_ms:
            del self.tokens[token]
            return None
        return grant


cdef Bucket _bucket(given, str name) except *:
    cdef Bucket made
    interval, count = given
    if not 1 <= interval <= MOST_INTERVAL or not 1 <= count <= MOST_CAPACITY // interval:
        raise ValueError(f"{name} is out of range")
    made.interval, made.capacity = interval, interval * count
    return made


cdef Py_ssize_t _slot(Buckets self, slot) except -1:
    if not isinstance(slot, int):
        raise TypeError(f"slot must be int, not {type(slot).__name__}")
    if not 0 <= slot < self.slots:
        raise ValueError("slot is out of range")
    return slot


cdef int64_t _count(count) except -1:
    if not isinstance(count, int):
        raise TypeError(f"count must be int, not {type(count).__name__}")
    if not 0 <= count <= 1_000_000:
        raise ValueError("count is out of range")
    return count


cdef inline int64_t _debt(int64_t word, int64_t now, const Bucket *bucket) noexcept nogil:
    """What was taken and has not come back yet; bounded, should another clock have written it."""
    return min(word - now, bucket.capacity + MOST_DEBT) if word > now else 0


cdef int64_t _wait(const int64_t *word, int64_t now, const Bucket *bucket) noexcept nogil:
    cdef int64_t over = _debt(grants_load(word), now, bucket) + bucket.interval - bucket.capacity
    return over if over > 0 else 0


cdef void _charge(int64_t *word, int64_t now, int64_t count, const Bucket *bucket) noexcept nogil:
    cdef int64_t before, debt, most = bucket.capacity + MOST_DEBT
    while True:
        before = grants_load(word)
        debt = _debt(before, now, bucket)
        # Divided, so that nothing overflows.
        debt = most if count > (most - debt) // bucket.interval else debt + count * bucket.interval
        if grants_swap(word, before, now + debt):
            return
