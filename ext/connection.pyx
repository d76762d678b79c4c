"""Owns a connection of the express lane: what is done with what comes, and when another protocol takes over."""
from collections import Counter

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from ext.grants cimport CODE_BYTES, MOST_LIMIT_BYTES, Gate, Grant
from ext.growing cimport Growing, discard, reserve
from ext.ledger cimport MOST_NAME_BYTES, Ledger
from ext.lane cimport Span as Request
from ext.lane cimport (
    BODY_LATE, BODY_SIZE, DRAINING, HOST, LENGTH_BYTES, MARK, MOST_BODY_BYTES, NONE, REFUSED, TOKEN, Head,
    append, read_head, write_digits,
)
from ext.ordinary cimport MOST_ANSWER_BYTES
from ext.quick cimport COLD, Quick
from ext.scan cimport Span
from ext.stored cimport RECORD_KEY_BYTES

from ext.lane import REASONS as _REASONS

cdef extern from *:
    """
    #define SHIKAKU_HEX "0123456789abcdef"
    """
    const char *HEX "SHIKAKU_HEX"

cdef enum:
    MOST_HOSTS = 64
    MOST_MARK_BYTES = 64
    # That, or a prefix of as many with a number.
    MARK_ROOM = 96
    # A My Number has as many; what may hold one is looked at by others.
    SUSPECT_DIGITS = 12
    MOST_AT_A_TIME = 64

    # What may come while nothing is answered, before nothing more is read.
    MOST_UNREAD_BYTES = 65536

    # In place of whether a request was answered.
    LATER = 2

HOSTS_MAX = MOST_HOSTS
REQUESTS_AT_A_TIME = MOST_AT_A_TIME

# Why a connection rests: nothing is read or answered meanwhile.
cdef enum:
    PEER_SLOW = 1
    OTHERS_FIRST = 2
    RECORD_COLD = 4
    # The answers wait until what is recorded of them is on the disk.
    UNSAVED = 8


cdef class Shared:
    cdef readonly set connections
    cdef readonly object handed_over
    cdef public uint64_t answered
    cdef public long long time
    cdef Quick quick
    cdef object careful
    cdef object head
    cdef object mark
    cdef object is_this_host
    cdef object soon
    cdef object warm
    cdef list cold
    cdef Py_ssize_t body_bytes_max
    cdef bytes prefix
    cdef uint64_t count
    cdef set hosts
    cdef bytes host             # the one that was accepted last
    cdef Growing out            # answers on their way into one write
    cdef Ledger ledger          # what is recorded of every answer, if it is
    cdef list unsaved           # connections whose answers wait for that
    cdef object recorded        # told whenever something was
    cdef Gate gate              # who may ask, if that is asked
    cdef bint waits             # whether answers wait until that is on the disk

    def __cinit__(self):
        self.out.start, self.out.room, self.out.used = NULL, 0, 0

    def __init__(
        self, quick, careful, head, mark, is_this_host, soon, warm, *, prefix, body_bytes_max, ledger=None,
        recorded=None, waits=True, gate=None
    ):
        if not (gate is None or isinstance(gate, Gate)):
            raise TypeError(f"gate must be Gate, not {type(gate).__name__}")
        if not (ledger is None or isinstance(ledger, Ledger)):
            raise TypeError(f"ledger must be Ledger, not {type(ledger).__name__}")
        if quick is not None and not isinstance(quick, Quick):
            raise TypeError(f"quick must be Quick, not {type(quick).__name__}")
        if not isinstance(prefix, bytes):
            raise TypeError(f"prefix must be bytes, not {type(prefix).__name__}")
        if not isinstance(body_bytes_max, int):
            raise TypeError(f"body_bytes_max must be int, not {type(body_bytes_max).__name__}")
        if not 0 <= body_bytes_max <= MOST_BODY_BYTES:
            raise ValueError("body_bytes_max is out of range")
        if len(prefix) > MOST_MARK_BYTES:
            raise ValueError(f"prefix has at most {MOST_MARK_BYTES} bytes")
        if (ledger is not None or gate is not None) and quick is not None and not (<Quick>quick).notes:
            raise ValueError("quick notes nothing")
        self.body_bytes_max = body_bytes_max
        self.connections, self.handed_over, self.answered, self.time = set(), Counter(), 0, 0
        self.quick, self.careful, self.head, self.mark = quick, careful, head, mark
        self.is_this_host, self.soon, self.warm, self.prefix, self.count = is_this_host, soon, warm, prefix, 0
        self.hosts, self.host = set(), b""
        self.ledger, self.unsaved, self.recorded, self.waits = ledger, [], recorded, waits
        self.gate = gate

    def saved(self, durable):
        cdef Connection connection
        cdef uint64_t count = durable
        cdef Py_ssize_t sent = 0
        # What is sent may bring in the next request, whose answer then stands at the end of the list.
        for connection in list(self.unsaved):
            if connection.last >= count:
                break
            sent += 1
        ready, self.unsaved = self.unsaved[:sent], self.unsaved[sent:]
        _send_all(ready)

    def unsaved_are_lost(self, response):
        cdef Connection connection
        lost, self.unsaved = self.unsaved, []
        for connection in lost:
            connection.unsent = response
            connection.rest = b""
            connection.ended = True
        _send_all(lost)

    def __dealloc__(self):
        discard(&self.out)


@cython.final
cdef class Connection:
    cdef Shared shared
    cdef object general
    cdef object transport
    cdef object write
    cdef bytes rest
    cdef long long since
    cdef int held
    cdef bint ended             # the peer sends no more, and may still read
    cdef bint warmed            # the record of the first request was waited for
    cdef bint waiting           # the head of a request is there, and its body not
    cdef bint paused            # the transport reads nothing
    cdef bytes unsent           # answers whose records are not on the disk yet, and the last of those
    cdef uint64_t last
    cdef Grant own              # what its client certificate allows, as it was in `generation`
    cdef bytes thumbprint
    cdef uint64_t generation

    def __init__(self, shared, general):
        if not isinstance(shared, Shared):
            raise TypeError(f"shared must be Shared, not {type(shared).__name__}")
        self.shared = shared
        self.general = general
        self.rest = b""
        self.since = self.shared.time
        self.held = 0
        self.ended = self.waiting = self.warmed = self.paused = False
        self.generation = 0

    @property
    def unanswered_bytes(self):
        return PyBytes_GET_SIZE(self.rest)

    def connection_made(self, transport):
        self.transport = transport
        self.write = transport.write
        self.shared.connections.add(self)

    def connection_lost(self, error):
        self.shared.connections.discard(self)
        self._forget()

    def data_received(self, data):
        cdef bytes text = data if isinstance(data, bytes) else bytes(data)
        if PyBytes_GET_SIZE(self.rest):
            text = self.rest + text
        else:
            self.since = self.shared.time
        if self.held:
            self.rest = text
            if PyBytes_GET_SIZE(text) > MOST_UNREAD_BYTES:
                _pause(self)
        else:
            _take(self, text)

    def eof_received(self):
        self.ended = True
        if self.transport is None or (self.unsent is None and not (self.held and self.rest)):
            return False
        # With TLS the connection ends as a whole, whatever is said here, and asyncio would log that.
        return self.transport.get_extra_info("sslcontext") is None

    def pause_writing(self):
        _hold(self, PEER_SLOW)

    def resume_writing(self):
        self.go_on(PEER_SLOW)

    def go_on(self, int reason):
        self.held &= ~reason
        if self.held or self.transport is None or self.transport.is_closing():
            return
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        if PyBytes_GET_SIZE(self.rest):
            rest, self.rest = self.rest, b""
            _take(self, rest)
        elif self.ended:
            self.close()

    def look(self, idle_seconds, head_seconds, body_seconds):
        cdef long long age = self.shared.time - self.since
        if not PyBytes_GET_SIZE(self.rest):
            if age > idle_seconds:
                self.close()
        elif self.waiting and not self.held:
            if age > body_seconds:
                _hand_over(self, self.rest, BODY_LATE, 0)
        elif age > (idle_seconds if self.held else head_seconds):
            self.close()

    def close(self):
        if self.held & (RECORD_COLD | UNSAVED):
            # A request is being answered.
            self.ended = True
        elif self.transport is not None:
            self.transport.close()

    cdef send(self):
        unsent, self.unsent = self.unsent, None
        if unsent is not None and self.transport is not None and not self.transport.is_closing():
            self.write(unsent)
            self.go_on(UNSAVED)

    cdef _forget(self):
        self.transport = self.write = self.unsent = None
        self.rest = b""


cdef int _send_all(list connections) except -1:
    """Send what each of them has; the fault of one is told when all the others have had theirs."""
    cdef Connection connection
    fault = None
    for connection in connections:
        try:
            connection.send()
        except Exception as error:
            fault = error
    if fault is not None:
        raise fault
    return 0


cdef int _take(Connection self, bytes data) except -1:
    """Answer all whole requests in `data`; keep the rest, or hand it over."""
    cdef Shared shared = self.shared
    cdef Py_ssize_t at = 0, size = PyBytes_GET_SIZE(data), whole = 0
    cdef int count = 0, reason, answered = True
    cdef Head found
    if self.transport is None or self.transport.is_closing():
        return 0
    head = shared.head()
    self.waiting, shared.out.used = False, 0
    reason = DRAINING if head is None else NONE
    while at < size and reason == NONE:
        reason = read_head(<const uint8_t *>PyBytes_AS_STRING(data), at, size, &found)
        if reason == NONE and found.length > shared.body_bytes_max:
            reason = BODY_SIZE
        if reason:
            break
        if size - found.end < found.length:
            self.waiting, reason = True, -1
            break
        if count == MOST_AT_A_TIME:
            break
        answered = _answer(self, data, &found, head, not self.warmed)
        if answered == LATER:
            break
        if not answered:
            # The general server forgets whole requests if one that comes with them in one piece cannot be read.
            reason, whole = REFUSED, found.end + found.length - at
            break
        count += 1
        self.warmed = False
        at = found.end + found.length
    if count:
        _answered(self, count)
    if reason > 0 and self.held & UNSAVED:
        # Whoever takes over must not answer before what was answered here.
        self.rest = data[at:]
        return 0
    if reason > 0:
        _hand_over(self, data[at:], reason, whole)
        return 0
    if at == size:
        self.rest = b""
    else:
        self.rest = data[at:] if at else data
        if answered == LATER:
            self.warmed = True
            _hold(self, RECORD_COLD)
            shared.warm(shared.cold, self.go_on, RECORD_COLD)
        elif reason == NONE:
            _hold(self, OTHERS_FIRST)
            shared.soon(self.go_on, OTHERS_FIRST)
    if reason < 0 or at == size:
        if self.ended and not self.held:
            self.close()
    return 0


cdef int _answered(Connection self, int count) except -1:
    """Send the answers, or keep them until what is recorded of them is on the disk: nothing more is answered then."""
    cdef Shared shared = self.shared
    cdef bytes answers = PyBytes_FromStringAndSize(shared.out.start, shared.out.used)
    shared.answered += count
    self.since = shared.time
    if shared.ledger is None:
        self.write(answers)
        return 0
    if shared.waits:
        self.unsent, self.last = answers, shared.ledger.count - 1
        self.held |= UNSAVED
        shared.unsaved.append(self)
    else:
        self.write(answers)
    shared.recorded()
    return 0


cdef int _answer(Connection self, bytes data, const Head *found, head, bint look_first) except -1:
    """Write the response to one request behind the others; False if it is not for the lane to answer; LATER, if its
    records have to be read first: their keys are in `cold`."""
    cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef uint8_t[MOST_ANSWER_BYTES] written
    cdef char[MARK_ROOM] marked
    cdef Span body, mark
    cdef Py_ssize_t size = 0
    cdef Shared shared = self.shared
    cdef Grant grant = None
    cdef int64_t now = 0
    if not _is_this_host(shared, text, &found.spans[<int>HOST]):
        return False
    body.at, mark.at = written, <const uint8_t *>marked
    try:
        if shared.gate is not None:
            grant, now = _permitted(self, text, &found.spans[<int>TOKEN]), shared.gate.clock()
            if grant is None or _must_wait(shared.gate, grant, now):
                return False
        if shared.quick is not None:
            look_first = look_first and shared.quick.looks_first
            size = shared.quick.write_answer(text + found.end, found.length, written, look_first)
            if size == COLD:
                shared.cold = [PyBytes_FromStringAndSize(<const char *>shared.quick.waiting, RECORD_KEY_BYTES)]
                return LATER
            if size and grant is not None and memcmp(shared.quick.facts.caller, grant.code, CODE_BYTES) != 0:
                return False
        body.length, mark.length = size, _write_mark(shared, text, &found.spans[<int>MARK], marked)
        if size == 0:
            given = PyBytes_FromStringAndSize(marked, mark.length)
            answer = shared.careful(data, found.end, found.end + found.length, given, grant)
            body.at, body.length = <const uint8_t *>PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer)
        elif shared.ledger is not None:
            shared.ledger.record(&shared.quick.facts, &body, &mark)
        if grant is not None:
            _count(shared, grant, now, size != 0)
    except Exception:
        # Whatever it is, the general server meets it again, and says it.
        return False
    _write_response(shared, head, &mark, &body, grant, now)
    return True


cdef Grant _permitted(Connection self, const uint8_t *text, const Request *token):
    """What the token of a request, or the certificate of its connection, allows; None if that is not to check."""
    cdef Gate gate = self.shared.gate
    cdef Grant grant
    cdef Py_ssize_t size = token.end - token.start - 7
    if self.generation != gate.generation:
        self.thumbprint, self.own = gate.of_connection(self.transport)
        self.generation = gate.generation
    grant = self.own
    if token.end:
        if size < 1 or memcmp(text + token.start, b"Bearer ", 7) != 0:
            return None
        grant = gate.known(PyBytes_FromStringAndSize(<const char *>text + token.start + 7, size))
        if grant is None or PyBytes_GET_SIZE(grant.thumbprint) and grant.thumbprint != self.thumbprint:
            return None
        if self.own is not None and self.own.caller != grant.caller:
            return None
    if grant is None or not grant.checks or grant.expires_ms <= gate.now_ms:
        return None
    return grant


cdef inline bint _must_wait(Gate gate, Grant grant, int64_t now) noexcept:
    return gate.buckets.waits(grant.slot, now) > 0 or gate.buckets.waits_for_misses(grant.slot, now) > 0


cdef int _count(Shared shared, Grant grant, int64_t now, bint by_quick) except -1:
    """Take one inquiry from the caller's bucket, and a miss, if it was one; the careful way counts its own misses."""
    cdef Gate gate = shared.gate
    gate.buckets.take(grant.slot, now, 1)
    if by_quick and shared.quick.facts.verdict == gate.miss_verdict and gate.buckets.miss_some(grant.slot, now, 1):
        gate.guessed(grant)
    return 0


cdef bint _is_this_host(Shared shared, const uint8_t *text, const Request *span) except -1:
    """Whether a Host header names this machine; what did is remembered as it was spelt."""
    cdef Py_ssize_t size = span.end - span.start
    if size == PyBytes_GET_SIZE(shared.host) and memcmp(text + span.start, PyBytes_AS_STRING(shared.host), size) == 0:
        return True
    given = PyBytes_FromStringAndSize(<const char *>text + span.start, size)
    if given not in shared.hosts:
        if not shared.is_this_host(given.decode("ascii")):
            return False
        if len(shared.hosts) < MOST_HOSTS:
            shared.hosts.add(given)
    shared.host = given
    return True


cdef Py_ssize_t _write_mark(Shared shared, const uint8_t *text, const Request *given, char *target) except -1:
    """What goes back as X-Request-ID, at most MARK_ROOM bytes; returns how many."""
    cdef Py_ssize_t size = given.end - given.start
    cdef bytes mark
    if given.end == 0:
        return _append_mark(shared, target) - target
    if _may_be_repeated(text + given.start, size):
        return append(target, <const char *>text + given.start, size) - target
    mark = shared.mark(PyBytes_FromStringAndSize(<const char *>text + given.start, size))
    return append(target, PyBytes_AS_STRING(mark), min(PyBytes_GET_SIZE(mark), MOST_MARK_BYTES)) - target


cdef int _write_response(
    Shared shared, bytes head, const Span *mark, const Span *body, Grant grant, int64_t now
) except -1:
    cdef char[LENGTH_BYTES] digits
    cdef Py_ssize_t count = write_digits(body.length, digits), head_bytes = PyBytes_GET_SIZE(head)
    cdef Py_ssize_t policy_bytes = 0 if grant is None else PyBytes_GET_SIZE(shared.gate.policy) + MOST_LIMIT_BYTES
    cdef char *start = reserve(
        &shared.out, head_bytes + MARK_ROOM + MOST_NAME_BYTES + 96 + policy_bytes + body.length
    )
    cdef char *target = append(start, PyBytes_AS_STRING(head), head_bytes)
    target = append(target, <const char *>mark.at, mark.length)
    if grant is not None:
        target = append(target, PyBytes_AS_STRING(shared.gate.policy), PyBytes_GET_SIZE(shared.gate.policy))
        target += shared.gate.buckets.write_limit(grant.slot, now, target)
    if shared.ledger is not None:
        target = append(target, b"\r\nShikaku-Receipt: ", 19)
        target += shared.ledger.write_name(shared.ledger.count - 1, target)
    target = append(target, b"\r\nContent-Length: ", 18)
    target = append(target, &digits[LENGTH_BYTES - count], count)
    target = append(target, b"\r\n\r\n", 4)
    target = append(target, <const char *>body.at, body.length)
    shared.out.used += target - start
    return 0


cdef bint _may_be_repeated(const uint8_t *mark, Py_ssize_t size) noexcept nogil:
    """Printable without blanks, not too long, and no My Number, whatever stands between its digits."""
    cdef Py_ssize_t position
    cdef int digits = 0
    if not 0 < size <= MOST_MARK_BYTES:
        return False
    for position in range(size):
        if not 0x20 < mark[position] < 0x7f:
            return False
        digits += c"0" <= mark[position] <= c"9"
    return digits < SUSPECT_DIGITS


cdef char *_append_mark(Shared shared, char *target) noexcept:
    """A mark of ours: the prefix, a hyphen, a number of at least eight hexadecimal digits."""
    cdef uint64_t number
    cdef int digit, digits = 8
    shared.count += 1
    number = shared.count
    while digits < 16 and number >> (4 * digits):
        digits += 1
    target = append(target, PyBytes_AS_STRING(shared.prefix), PyBytes_GET_SIZE(shared.prefix))
    target[0] = c"-"
    for digit in range(digits):
        target[digits - digit] = HEX[number & 15]
        number >>= 4
    return target + 1 + digits


cdef int _hold(Connection self, int reason) except -1:
    _pause(self)
    self.held |= reason
    return 0


cdef int _pause(Connection self) except -1:
    if not self.paused and self.transport is not None and not self.transport.is_closing():
        self.paused = True
        self.transport.pause_reading()
    return 0


cdef int _hand_over(Connection self, bytes data, int reason, Py_ssize_t whole) except -1:
    """Let the general server have the connection, and everything on it that was not answered.

    Args: whole: how long the first request in `data` is, if that is known.
    """
    transport, held, paused = self.transport, self.held, self.paused
    self.shared.handed_over[_REASONS[reason]] += 1
    self.shared.connections.discard(self)
    self._forget()
    general = self.general()
    transport.set_protocol(general)
    general.connection_made(transport)
    if held & PEER_SLOW:
        general.pause_writing()
    if paused:
        transport.resume_reading()
    if 0 < whole < PyBytes_GET_SIZE(data):
        general.data_received(data[:whole])
        data = data[whole:]
    general.data_received(data)
    if self.ended:
        general.eof_received()
    return 0
