"""Owns how connections with TLS are taken from the listening socket: a few in each pass of the loop.

A handshake costs as much as a hundred checks. Taken as they come, two thousand clients that connect at once would keep
everybody else waiting until the last has its keys; here those who have a connection get their turn in between.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

AT_A_TIME: Final = 4
"""Connections taken in one pass of the loop."""
UNDER_WAY_MAX: Final = 256
"""Handshakes at the same time; further clients wait in the kernel."""
HANDSHAKE_SECONDS: Final = 5.0
"""How long one may take."""
PAUSE_SECONDS: Final = 0.1
"""How long nobody is taken if the process has no descriptors left."""


class Acceptor:
    """Takes connections from `listener` until it is stopped; each gets a protocol from `protocol`."""

    def __init__(self, listener: Any, protocol: Callable[[], Any], context: ssl.SSLContext) -> None:
        self._listener = listener
        self._protocol = protocol
        self._context = context
        self._room = asyncio.Semaphore(UNDER_WAY_MAX)
        self._shaking: set[asyncio.Task[None]] = set()
        self._taking: asyncio.Task[None] | None = None
        self.failed = 0
        """Handshakes that came to nothing."""

    def start(self, backlog: int) -> None:
        """Listen, and take what comes."""
        self._listener.setblocking(False)
        self._listener.listen(backlog)
        self._taking = asyncio.get_running_loop().create_task(self._take())

    async def stop(self) -> None:
        """Take no more, and let those finish whose handshake has begun."""
        if self._taking is not None:
            self._taking.cancel()
            with suppress(asyncio.CancelledError):
                await self._taking
        if self._shaking:
            await asyncio.wait(self._shaking, timeout=HANDSHAKE_SECONDS)

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(AT_A_TIME):
                await self._room.acquire()
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError:
                    self._room.release()
                    await asyncio.sleep(PAUSE_SECONDS)
                    break
                except BaseException:
                    self._room.release()
                    raise
                task = loop.create_task(self._shake(connection))
                self._shaking.add(task)
                task.add_done_callback(self._done)
            await asyncio.sleep(0)

    async def _shake(self, connection: Any) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, sock=connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except (OSError, TimeoutError):
            # ssl.SSLError is an OSError: what a client does wrong is its own matter.
            self.failed += 1

    def _done(self, task: asyncio.Task[None]) -> None:
        self._shaking.discard(task)
        self._room.release()
