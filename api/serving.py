"""Owns one aiohttp application on one inherited socket, from readiness to the last drained request.

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
from collections.abc import Callable
from typing import Any, Final

import uvloop
from aiohttp import web

from api.exits import Exit, exit_of, line_of, say
from engine.errors import CorruptionError

BACKLOG: Final = 4096
"""Connections that wait in the kernel while all workers are busy or one is restarting."""
KEEPALIVE_SECONDS: Final = 75.0
IDLE_GRACE_SECONDS: Final = 1.0
"""While draining, an idle connection stays open this long, so that a request just being sent still gets its answer."""
_POLL_SECONDS: Final = 0.01


class Service:
    """One application being served. `serve` blocks; `give_up` may be called from any thread."""

    def __init__(self, app: web.Application, listener: socket.socket, role: str, drain_seconds: float) -> None:
        self._role = role
        self._draining = False
        self._exit_code = Exit.OK
        self._listener = listener
        self._drain_seconds = drain_seconds
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        app.on_response_prepare.append(self._close_while_draining)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_quiet_logger(role),
            shutdown_timeout=drain_seconds,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )

    def serve(self, ready: Callable[[], None]) -> Exit:
        """Serve until SIGTERM and drain. Returns the process's exit code; calls `ready` once requests are accepted."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._serve(ready))

    def give_up(self, error: BaseException) -> None:
        """End this process because of an error, with its line and exit code; the supervisor starts another.

        Corruption ends it at once, with nothing more answered; anything else drains first.
        """
        say(self._role, line_of(error))
        if isinstance(error, CorruptionError) or self._loop is None:
            os._exit(exit_of(error))
        self._exit_code = exit_of(error)
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self, ready: Callable[[], None]) -> Exit:
        self._loop = loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        loop.add_signal_handler(signal.SIGTERM, self._stopped.set)
        await self._runner.setup()
        site = web.SockSite(self._runner, self._listener, backlog=BACKLOG)
        await site.start()
        gc.collect()
        gc.freeze()
        ready()
        await self._stopped.wait()
        self._draining = True
        await site.stop()
        await self._wait_for_idle_connections()
        await self._runner.cleanup()
        return self._exit_code

    async def _wait_for_idle_connections(self) -> None:
        server = self._runner.server
        loop = asyncio.get_running_loop()
        until = loop.time() + min(IDLE_GRACE_SECONDS, self._drain_seconds)
        while server is not None and server.connections and loop.time() < until:
            await asyncio.sleep(_POLL_SECONDS)

    async def _close_while_draining(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._draining:
            response.force_close()
            response.headers["Connection"] = "close"

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, CorruptionError):
            self.give_up(error)
        elif error is not None:
            say(self._role, line_of(error))


class _NoTraceback(logging.Filter):
    """aiohttp's tracebacks quote raw header bytes: what remains is the kind of error and where it happened."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        record.msg = line_of(error) if error is not None else record.msg
        record.args = () if error is not None else record.args
        record.exc_info = record.exc_text = None
        return True


def _quiet_logger(role: str) -> logging.Logger:
    logger = logging.getLogger(f"shikaku.{role}")
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"shikaku {role}[%(process)d]: %(message)s"))
    handler.addFilter(_NoTraceback())
    logger.handlers[:] = [handler]
    return logger
