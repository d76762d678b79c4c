"""Owns one application on one inherited socket, from readiness to the last drained request.

Shared by the check workers and the registry. SIGTERM starts the drain: no new connections are accepted, requests
under way are finished, every answer says `Connection: close`, connections that stay idle are closed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop
from aiohttp import web

from api.accepts import Acceptor
from api.app import SWITCH, Runner
from api.exits import Exit, exit_of, line_of, say
from engine.errors import CorruptionError

BACKLOG: Final = 4096
"""Connections that wait in the kernel while all workers are busy or one is restarting."""
IDLE_GRACE_SECONDS: Final = 1.0
"""While draining, an idle connection stays open this long, so that a request just being sent still gets its answer."""
_POLL_SECONDS: Final = 0.01


class Service:
    """One application being served. `serve` blocks; `give_up` may be called from any thread."""

    def __init__(
        self,
        app: web.Application,
        listener: socket.socket,
        name: str,
        drain_seconds: float,
        *,
        runner: type[web.AppRunner] = Runner,
        each_second: Callable[[], object] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._name = name
        self._listener = listener
        self._drain_seconds = drain_seconds
        self._exit_code = Exit.OK
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._switch = app[SWITCH]
        self._switch.on_fatal = self.give_up
        self._each_second = each_second
        self._tls = tls
        self._runner = runner(app, access_log=None, shutdown_timeout=drain_seconds)
        log_plainly(name)

    def serve(self, ready: Callable[[], None]) -> Exit:
        """Serve until SIGTERM and drain. Returns the process's exit code; calls `ready` once requests are accepted."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._serve(ready))

    def give_up(self, error: BaseException) -> None:
        """End this process because of an error, with its line and exit code; the supervisor starts another.

        Corruption ends it at once, with nothing more answered; anything else drains first.
        """
        say(self._name, line_of(error))
        if isinstance(error, CorruptionError) or self._loop is None:
            os._exit(exit_of(error))
        self._exit_code = exit_of(error)
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self, ready: Callable[[], None]) -> Exit:
        self._loop = loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        loop.add_signal_handler(signal.SIGTERM, self._stopped.set)
        await self._runner.setup()
        stop_taking = await self._begin_taking()
        gc.collect()
        gc.freeze()
        ready()
        while not self._stopped.is_set():
            await self._pause()
        self._switch.draining = True
        await stop_taking()
        await self._wait_for_idle_connections()
        await self._runner.cleanup()
        return self._exit_code

    async def _begin_taking(self) -> Callable[[], Awaitable[None]]:
        """Accept connections. Returns how to stop that."""
        if self._tls is None:
            site = web.SockSite(self._runner, self._listener, backlog=BACKLOG)
            await site.start()
            return site.stop
        assert self._runner.server is not None
        acceptor = Acceptor(self._listener, self._runner.server, self._tls)
        acceptor.start(BACKLOG)
        return acceptor.stop

    async def _pause(self) -> None:
        """Wait for the stop; with something to do each second, for one second only."""
        if self._each_second is None:
            await self._stopped.wait()
            return
        try:
            async with asyncio.timeout(1.0):
                await self._stopped.wait()
        except TimeoutError:
            self._each_second()

    async def _wait_for_idle_connections(self) -> None:
        server = self._runner.server
        loop = asyncio.get_running_loop()
        until = loop.time() + min(IDLE_GRACE_SECONDS, self._drain_seconds)
        while server is not None and server.connections and loop.time() < until:
            await asyncio.sleep(_POLL_SECONDS)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, CorruptionError):
            self.give_up(error)
        elif error is not None:
            say(self._name, line_of(error))


def log_plainly(name: str) -> None:
    """Send all log records of this process to standard error, a line each, as `say` writes them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line(name))
    logging.getLogger().handlers[:] = [handler]


class _Line(logging.Formatter):
    """Tracebacks and arguments may quote what a caller sent: of an error, its kind and its place remain."""

    def __init__(self, name: str) -> None:
        super().__init__(f"shikaku {name}[%(process)d]: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            record.msg, record.args = line_of(error), ()
        record.exc_info = record.exc_text = record.stack_info = None
        return super().format(record)
