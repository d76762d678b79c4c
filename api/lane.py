"""Owns the express lane's time and place in a process: when connections are looked at, and what they may ask of it.

A connection begins in the lane. As long as its requests are canonical (ext/lane, docs/LANE.md) each is answered where
it is read, with one write. At the first one that is not, the connection is handed over with everything that was not
answered yet, and never comes back: no byte is ever read by two parsers, so none can be read in two ways. What is wrong
with a request is decided and said by the general server alone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from api.handlers.checks import Answerer
from api.handlers.http import Desk
from api.recorder import Recorder
from engine import limits
from engine.errors import AuditUnavailableError
from ext import connection as lanes

IDLE_SECONDS: Final = 75
"""How long a connection may rest between two requests."""
HEAD_SECONDS: Final = 10
"""How long the head of a request may take to arrive; the general server alone has no bound for that."""
BODY_GRACE_SECONDS: Final = 2
"""How long a body may take here; then the general server waits for it, which knows how to refuse a slow one."""
SWEEP_SECONDS: Final = 1.0
LOOKED_AT_MAX: Final = 1_000
"""How many connections are looked at in one go: a fraction of a millisecond."""


class Lane(lanes.Shared):
    """All connections of one process that are in the lane."""

    def __init__(self, desk: Desk, answerer: Answerer, is_this_host: Callable[[str | None], bool]) -> None:
        super().__init__(
            answerer.quick,
            answerer.careful,
            desk.lane_head,
            lambda given: desk.mark(given.decode("ascii")),
            is_this_host,
            _soon,
            _soon if answerer.cold is None else answerer.cold.warm,
            prefix=secrets.token_hex(6).encode(),
            body_bytes_max=limits.CHECK_BODY_BYTES_MAX,
            gate=answerer.gate,
            **_recording(answerer.recorder),
        )
        self._recorder = answerer.recorder
        if answerer.recorder is not None:
            answerer.recorder.on_saved = self.saved
            answerer.recorder.on_failed = lambda: self.unsaved_are_lost(desk.unrecorded())
        self._sweeper: asyncio.TimerHandle | None = None

    def connection(self, general: Callable[[], Any]) -> asyncio.Protocol:
        """The protocol of a new connection; `general` makes the one that takes over."""
        if self._sweeper is None:
            self._sweep()
        return cast(asyncio.Protocol, lanes.Connection(self, general))

    async def settled(self) -> None:
        """Wait until what was answered has been recorded, and so has left."""
        if self._recorder is not None:
            with suppress(AuditUnavailableError):
                await self._recorder.saved()

    def close(self) -> None:
        """Close what is left in the lane: nothing there is unanswered that has arrived as a whole."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for one in list(self.connections):
            one.close()

    def _sweep(self) -> None:
        self.time += 1
        self._look(list(self.connections))
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _look(self, left: list[lanes.Connection]) -> None:
        """Look at some of these; the rest when others had their turn."""
        for one in left[-LOOKED_AT_MAX:]:
            one.look(IDLE_SECONDS, HEAD_SECONDS, BODY_GRACE_SECONDS)
        del left[-LOOKED_AT_MAX:]
        if left:
            _soon(self._look, left)


def _recording(recorder: Recorder | None) -> dict[str, Any]:
    if recorder is None:
        return {}
    return {"ledger": recorder.ledger, "recorded": recorder.want, "waits": recorder.waits}


def _soon(function: Callable[..., object], *given: object) -> None:
    asyncio.get_running_loop().call_soon(function, *given)
