"""Owns the express lane: connections whose canonical checks are answered ahead of the general HTTP server.

A connection begins here. As long as its requests are canonical (ext/lane, docs/LANE.md) each is answered where it is
read, with one write. At the first one that is not, the connection is handed over with everything that was not answered
yet, and never comes back: no byte is ever read by two parsers, so none can be read in two ways. What is wrong with a
request is decided and said by the general server alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final, cast

from api.handlers.http import Desk
from engine import limits
from ext import lane

IDLE_SECONDS: Final = 75
"""How long a connection may rest between two requests."""
HEAD_SECONDS: Final = 10
"""How long the head of a request may take to arrive; the general server alone has no bound for that."""
BODY_GRACE_SECONDS: Final = 2
"""How long a body may take here; then the general server waits for it, which knows how to refuse a slow one."""
SWEEP_SECONDS: Final = 1.0
HOSTS_MAX: Final = 64
"""Spellings of Host that are remembered."""
LOOKED_AT_MAX: Final = 1_000
"""How many connections are looked at in one go: a fraction of a millisecond."""
REQUESTS_AT_A_TIME: Final = 64
"""How many requests of one connection are answered before others get their turn."""

PEER_SLOW: Final = 1
OTHERS_FIRST: Final = 2

Protocol = Callable[[], asyncio.Protocol]


class Lane:
    """What all connections of one process share.

    Args:
        answer: the answer to the check in `data[start:stop]`; may raise.
        is_this_host: whether a Host header names this machine.
    """

    def __init__(
        self, desk: Desk, answer: Callable[[bytes, int, int], bytes], is_this_host: Callable[[str | None], bool]
    ) -> None:
        self.desk = desk
        self.answer = answer
        self._is_this_host = is_this_host
        self._hosts: set[bytes] = set()
        self.connections: set[Connection] = set()
        self.answered = 0
        self.handed_over: Counter[str] = Counter()
        """How often a connection was handed over, by reason."""
        self.time = 0
        """Seconds, about: counted by the sweep, so that no request has to ask for the time."""
        self._sweeper: asyncio.TimerHandle | None = None

    def is_this_host(self, given: bytes) -> bool:
        """Whether a Host header names this machine; what did is remembered as it was spelt."""
        if given in self._hosts:
            return True
        if not self._is_this_host(given.decode("ascii")):
            return False
        if len(self._hosts) < HOSTS_MAX:
            self._hosts.add(given)
        return True

    def connection(self, general: Protocol) -> asyncio.Protocol:
        """The protocol of a new connection; `general` makes the one that takes over."""
        if self._sweeper is None:
            self._sweep()
        return Connection(self, general)

    def close(self) -> None:
        """Close what is left in the lane: nothing there is unanswered that has arrived as a whole."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self.connections):
            connection.close()

    def _sweep(self) -> None:
        self.time += 1
        self._look(list(self.connections))
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _look(self, left: list[Connection]) -> None:
        """Look at some of these; the rest when others had their turn."""
        for connection in left[-LOOKED_AT_MAX:]:
            connection.look(self.time)
        del left[-LOOKED_AT_MAX:]
        if left:
            asyncio.get_running_loop().call_soon(self._look, left)


class Connection(asyncio.Protocol):
    """One connection, as long as it stays in the lane."""

    __slots__ = ("_ended", "_general", "_held", "_lane", "_rest", "_since", "_transport", "_waiting")

    def __init__(self, shared: Lane, general: Protocol) -> None:
        self._lane = shared
        self._general = general
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._since = shared.time
        self._held = 0
        """PEER_SLOW and OTHERS_FIRST, while they hold: nothing is read or answered meanwhile."""
        self._ended = False
        """The peer sends no more, and may still read."""
        self._waiting = False
        """The head of a request is there, and its body not."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._lane.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._lane.connections.discard(self)
        self._transport = None
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        else:
            self._since = self._lane.time
        if self._held:
            self._rest = data
        else:
            self._answer(data)

    def eof_received(self) -> bool:
        """Whether there is something left to answer; else the connection is closed."""
        self._ended = True
        return bool(self._held and self._rest)

    def pause_writing(self) -> None:
        """The peer does not read its answers: no more are made, and no more requests read."""
        self._hold(PEER_SLOW)

    def resume_writing(self) -> None:
        self._go_on(PEER_SLOW)

    def look(self, now: int) -> None:
        """Close the connection, or hand it over, if it takes too long."""
        age = now - self._since
        if not self._rest:
            if age > IDLE_SECONDS:
                self.close()
        elif self._waiting and not self._held:
            if age > BODY_GRACE_SECONDS:
                self._hand_over(self._rest, "body_late")
        elif age > (IDLE_SECONDS if self._held else HEAD_SECONDS):
            self.close()

    def close(self) -> None:
        """Close the connection, once what was answered has been read."""
        if self._transport is not None:
            self._transport.close()

    def _answer(self, data: bytes) -> None:
        """Answer all whole requests in `data`; keep the rest, or hand it over."""
        shared, transport = self._lane, self._transport
        if transport is None or transport.is_closing():
            return
        at, size = 0, len(data)
        answers: list[bytes] = []
        reason = "draining" if shared.desk.draining else ""
        found: tuple[int, int, int, int, int, int] | int = 0
        while at < size and not reason:
            found = lane.frame(data, at, limits.CHECK_BODY_BYTES_MAX)
            if isinstance(found, int):
                reason = lane.REASONS[found] if found > 0 else ""
                break
            if len(answers) == REQUESTS_AT_A_TIME:
                break
            answer = self._one(data, found)
            if answer is None:
                reason = "refused"
                break
            answers.append(answer)
            at = found[5]
        if answers:
            shared.answered += len(answers)
            self._since = shared.time
            transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
        if reason:
            # The general server forgets whole requests if one that comes with them in one piece cannot be read.
            whole = 0 if isinstance(found, int) else found[5] - at
            self._hand_over(data[at:], reason, whole)
            return
        self._rest = data[at:] if at < size else b""
        self._waiting = isinstance(found, int) and found < 0
        if self._rest and not isinstance(found, int):
            self._hold(OTHERS_FIRST)
            asyncio.get_running_loop().call_soon(self._go_on, OTHERS_FIRST)
        elif self._ended and not self._held:
            self.close()

    def _one(self, data: bytes, found: tuple[int, int, int, int, int, int]) -> bytes | None:
        """The response to one request; None if it is not for the lane to answer."""
        host, host_end, mark, mark_end, body, end = found
        shared = self._lane
        if not shared.is_this_host(data[host:host_end]):
            return None
        try:
            answer = shared.answer(data, body, end)
        except Exception:
            # Whatever it is, the general server meets it again, and says it.
            return None
        given = data[mark:mark_end].decode("ascii") if mark else None
        return lane.response(shared.desk.head(), shared.desk.mark(given), answer)

    def _hold(self, reason: int) -> None:
        if not self._held and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held |= reason

    def _go_on(self, reason: int) -> None:
        self._held &= ~reason
        transport = self._transport
        if self._held or transport is None or transport.is_closing():
            return
        transport.resume_reading()
        if self._rest:
            rest, self._rest = self._rest, b""
            self._answer(rest)

    def _hand_over(self, data: bytes, reason: str, whole: int = 0) -> None:
        """Let the general server have the connection, and everything on it that was not answered.

        Args: whole: how long the first request in `data` is, if that is known.
        """
        shared, transport = self._lane, self._transport
        assert transport is not None
        shared.handed_over[reason] += 1
        shared.connections.discard(self)
        self._transport, self._rest = None, b""
        general = self._general()
        transport.set_protocol(general)
        general.connection_made(transport)
        if self._held & PEER_SLOW:
            general.pause_writing()
        if self._held:
            transport.resume_reading()
        if 0 < whole < len(data):
            general.data_received(data[:whole])
            data = data[whole:]
        general.data_received(data)
        if self._ended:
            general.eof_received()
