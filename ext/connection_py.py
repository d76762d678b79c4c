"""Owns the readable specification of ext/connection: a connection of the express lane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from ext import ledger_py
from ext.grants_py import Gate, Grant
from ext.lane_py import REASONS, frame, response
from ext.quick_py import Quick

HOSTS_MAX: Final = 64
REQUESTS_AT_A_TIME: Final = 64
_PEER_SLOW: Final = 1
_OTHERS_FIRST: Final = 2
_RECORD_COLD: Final = 4
_UNSAVED: Final = 8
_UNREAD_BYTES_MAX: Final = 65536
_MARK_CHARS_MAX: Final = 64
_SUSPECT_DIGITS: Final = 12


class Shared:
    def __init__(
        self,
        quick: Quick | None,
        careful: Callable[[bytes, int, int, bytes, Grant | None], bytes],
        head: Callable[[], bytes | None],
        mark: Callable[[bytes], bytes],
        is_this_host: Callable[[str], bool],
        soon: Callable[..., object],
        warm: Callable[..., object],
        *,
        prefix: bytes,
        body_bytes_max: int,
        ledger: ledger_py.Ledger | None = None,
        recorded: Callable[[], object] | None = None,
        waits: bool = True,
        gate: Gate | None = None,
    ) -> None:
        if not (gate is None or isinstance(gate, Gate)):
            raise TypeError(f"gate must be Gate, not {type(gate).__name__}")
        if not (ledger is None or isinstance(ledger, ledger_py.Ledger)):
            raise TypeError(f"ledger must be Ledger, not {type(ledger).__name__}")
        if quick is not None and not isinstance(quick, Quick):
            raise TypeError(f"quick must be Quick, not {type(quick).__name__}")
        if not isinstance(prefix, bytes):
            raise TypeError(f"prefix must be bytes, not {type(prefix).__name__}")
        if not isinstance(body_bytes_max, int):
            raise TypeError(f"body_bytes_max must be int, not {type(body_bytes_max).__name__}")
        if not 0 <= body_bytes_max <= 2**30:
            raise ValueError("body_bytes_max is out of range")
        if len(prefix) > _MARK_CHARS_MAX:
            raise ValueError(f"prefix has at most {_MARK_CHARS_MAX} bytes")
        if (ledger is not None or gate is not None) and quick is not None and not quick.notes:
            raise ValueError("quick notes nothing")
        self._connections: set[Any] = set()
        self._handed_over: Counter[str] = Counter()
        self.answered = 0
        self.time = 0
        self._body_bytes_max = body_bytes_max
        self._head = head
        self._soon = soon
        self._quick = quick
        self._careful = careful
        self._mark = mark
        self._is_this_host = is_this_host
        self._prefix = prefix
        self._count = 0
        self._hosts: set[bytes] = set()
        self._ledger = ledger
        self._unsaved: list[Any] = []
        self._recorded = recorded
        self._waits = waits
        self._gate = gate

    def saved(self, durable: int) -> None:
        sent = 0
        while sent < len(self._unsaved) and self._unsaved[sent]._last < durable:
            sent += 1
        # What is sent may bring in the next request, whose answer then stands at the end of the list.
        ready, self._unsaved = self._unsaved[:sent], self._unsaved[sent:]
        _send_all(ready)

    def unsaved_are_lost(self, response: bytes) -> None:
        lost, self._unsaved = self._unsaved, []
        for connection in lost:
            connection._unsent, connection._rest, connection._ended = response, b"", True
        _send_all(lost)

    @property
    def connections(self) -> set[Any]:
        return self._connections

    @property
    def handed_over(self) -> Counter[str]:
        return self._handed_over

    def _respond(self, connection: Any, data: bytes, found: Any, head: bytes) -> bytes | None:
        """The response to one request; None if it is not for the lane to answer."""
        host, host_end, mark, mark_end, body, end, token, token_end = found
        if not self._is_known(data[host:host_end]):
            return None
        grant, now = None, 0
        try:
            if self._gate is not None:
                grant, now = connection._permitted(data[token:token_end]), self._gate._clock()
                if grant is None or self._must_wait(grant, now):
                    return None
            answer = self._quick.answer(data, body, end) if self._quick is not None else None
            if answer is not None and grant is not None and self._quick.told[0] != grant.caller:  # type: ignore[union-attr]
                return None
            marked = self._marked(data[mark:mark_end])
            by_quick = answer is not None
            if answer is None:
                answer = self._careful(data, body, end, marked, grant)
            elif self._ledger is not None:
                self._ledger.append_answer(self._quick, answer, marked)
            if grant is not None:
                self._count_one(grant, now, by_quick)
        except Exception:
            # Whatever it is, the general server meets it again, and says it.
            return None
        if self._gate is not None and grant is not None:
            marked += self._gate._policy + self._gate.buckets.limit(grant.slot, now)
        if self._ledger is not None:
            marked += b"\r\nShikaku-Receipt: " + self._ledger.name(self._ledger.entries - 1)
        return response(head, marked, answer)

    def _must_wait(self, grant: Grant, now: int) -> bool:
        assert self._gate is not None
        buckets = self._gate.buckets
        return buckets.wait(grant.slot, now) > 0 or buckets.miss_wait(grant.slot, now) > 0

    def _count_one(self, grant: Grant, now: int, by_quick: bool) -> None:
        """Take one inquiry from the caller's bucket, and a miss, if it was one."""
        gate = self._gate
        assert gate is not None
        gate.buckets.charge(grant.slot, now, 1)
        missed = by_quick and self._quick is not None and self._quick.told[1] == gate._miss_verdict
        if missed and gate.buckets.miss(grant.slot, now, 1):
            gate._guessed(grant)

    def _is_known(self, given: bytes) -> bool:
        if given in self._hosts:
            return True
        if not self._is_this_host(given.decode("ascii")):
            return False
        if len(self._hosts) < HOSTS_MAX:
            self._hosts.add(given)
        return True

    def _marked(self, given: bytes) -> bytes:
        if not given:
            self._count += 1
            return b"%b-%08x" % (self._prefix, self._count)
        digits = sum(48 <= byte <= 57 for byte in given)
        if len(given) <= _MARK_CHARS_MAX and digits < _SUSPECT_DIGITS and all(0x20 < byte < 0x7F for byte in given):
            return given
        return self._mark(given)


class Connection:
    def __init__(self, shared: Shared, general: Callable[[], Any]) -> None:
        if not isinstance(shared, Shared):
            raise TypeError(f"shared must be Shared, not {type(shared).__name__}")
        self._shared = shared
        self._general = general
        self._transport: Any = None
        self._rest = b""
        self._since = shared.time
        self._held = 0
        self._ended = False
        self._waiting = False
        self._paused = False
        self._unsent: bytes | None = None
        self._last = 0
        self._own: Grant | None = None
        self._thumbprint = b""
        self._generation = 0

    @property
    def unanswered_bytes(self) -> int:
        return len(self._rest)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._shared.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._shared.connections.discard(self)
        self._transport = self._unsent = None
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        else:
            self._since = self._shared.time
        if self._held:
            self._rest = data
            if len(data) > _UNREAD_BYTES_MAX:
                self._pause()
        else:
            self._take(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self._transport is None or (self._unsent is None and not (self._held and self._rest)):
            return False
        return self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self._hold(_PEER_SLOW)

    def resume_writing(self) -> None:
        self.go_on(_PEER_SLOW)

    def go_on(self, reason: int) -> None:
        self._held &= ~reason
        if self._held or self._transport is None or self._transport.is_closing():
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._rest:
            rest, self._rest = self._rest, b""
            self._take(rest)
        elif self._ended:
            self.close()

    def look(self, idle_seconds: int, head_seconds: int, body_seconds: int) -> None:
        age = self._shared.time - self._since
        if not self._rest:
            if age > idle_seconds:
                self.close()
        elif self._waiting and not self._held:
            if age > body_seconds:
                self._hand_over(self._rest, "body_late")
        elif age > (idle_seconds if self._held else head_seconds):
            self.close()

    def close(self) -> None:
        if self._held & (_RECORD_COLD | _UNSAVED):
            self._ended = True
        elif self._transport is not None:
            self._transport.close()

    def _take(self, data: bytes) -> None:
        """Answer all whole requests in `data`; keep the rest, or hand it over."""
        shared, transport = self._shared, self._transport
        if transport is None or transport.is_closing():
            return
        at = whole = 0
        answers: list[bytes] = []
        head = shared._head()
        reason = "" if head is not None else "draining"
        found: tuple[int, int, int, int, int, int, int, int] | int = 0
        while head is not None and at < len(data):
            found = frame(data, at, shared._body_bytes_max)
            if isinstance(found, int):
                reason = REASONS[found] if found > 0 else ""
                break
            if len(answers) == REQUESTS_AT_A_TIME:
                break
            answer = shared._respond(self, data, found, head)
            if answer is None:
                # The general server forgets whole requests if one that comes with them in one piece cannot be read.
                reason, whole = "refused", found[5] - at
                break
            answers.append(answer)
            at = found[5]
        if answers:
            shared.answered += len(answers)
            self._since = shared.time
            if shared._ledger is None or not shared._waits:
                transport.write(b"".join(answers))
            else:
                self._unsent, self._last = b"".join(answers), shared._ledger.entries - 1
                self._held |= _UNSAVED
                shared._unsaved.append(self)
            if shared._ledger is not None:
                assert shared._recorded is not None
                shared._recorded()
        if reason and self._held & _UNSAVED:
            # Whoever takes over must not answer before what was answered here.
            self._rest, self._waiting = data[at:], False
            return
        if reason:
            self._hand_over(data[at:], reason, whole)
            return
        self._rest = data[at:]
        self._waiting = isinstance(found, int) and found < 0
        if self._rest and not isinstance(found, int):
            self._hold(_OTHERS_FIRST)
            shared._soon(self.go_on, _OTHERS_FIRST)
        elif self._ended and not self._held:
            self.close()

    def _permitted(self, header: bytes) -> Grant | None:
        """What the token of a request, or the certificate of this connection, allows; None if that is not to check."""
        gate = self._shared._gate
        assert gate is not None
        if self._generation != gate.generation:
            self._thumbprint, self._own = gate._of_connection(self._transport)
            self._generation = gate.generation
        grant = self._own
        if header:
            if not header.startswith(b"Bearer ") or len(header) == 7:
                return None
            grant = gate.find(header[7:])
            if grant is None or (grant.thumbprint and grant.thumbprint != self._thumbprint):
                return None
            if self._own is not None and self._own.caller != grant.caller:
                return None
        if grant is None or not grant.checks or grant.expires_ms <= gate.now_ms:
            return None
        return grant

    def _hold(self, reason: int) -> None:
        self._pause()
        self._held |= reason

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, None
        if unsent is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.write(unsent)
            self.go_on(_UNSAVED)

    def _hand_over(self, data: bytes, reason: str, whole: int = 0) -> None:
        shared, transport = self._shared, self._transport
        shared.handed_over[reason] += 1
        shared.connections.discard(self)
        self._transport, self._rest = None, b""
        general = self._general()
        transport.set_protocol(general)
        general.connection_made(transport)
        if self._held & _PEER_SLOW:
            general.pause_writing()
        if self._paused:
            transport.resume_reading()
        if 0 < whole < len(data):
            general.data_received(data[:whole])
            data = data[whole:]
        general.data_received(data)
        if self._ended:
            general.eof_received()


def _send_all(connections: list[Any]) -> None:
    """Send what each of them has; the fault of one is told when all the others have had theirs."""
    fault = None
    for connection in connections:
        try:
            connection._send()
        except Exception as error:
            fault = error
    if fault is not None:
        raise fault
