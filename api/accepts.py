"""Owns how connections with TLS are taken from the listening socket: a few in each pass of the loop.

A handshake costs as much as a hundred checks, and three times that with a client's certificate. Taken as they come, two
thousand clients that connect at once would keep everybody else waiting until the last has its keys; here those who have
a connection get their turn in between. To take few at a time is not enough for that: what clients answer while the loop
is busy is all there in its next pass, which is the longer for it, and so on. So few are brisk at the same time, and who
is slow gives the place to another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

AT_A_TIME: Final = 4
"""Connections taken in one pass of the loop."""
BRISK_MAX: Final = 16
"""Handshakes at the same time that may go on in one pass, as far as clients are quick; others wait in the kernel."""
TICK_SECONDS: Final = 0.005
SLOW_TICKS: Final = 100
"""Whoever is under way for longer is slow, and somebody else is taken. Ticks, of which a pass of the loop has one at
most: if it is the loop that is slow, nobody is to blame for it, and least of all are more to be taken."""
UNDER_WAY_MAX: Final = 256
"""Handshakes at the same time, slow ones included."""
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
        self._places = asyncio.Semaphore(BRISK_MAX)
        self._shaking: set[asyncio.Task[None]] = set()
        self._brisk: dict[asyncio.Task[None], int] = {}
        """Who has a place, and since which tick; in the order of coming."""
        self._ticks = 0
        self._ticking = False
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
                await self._places.acquire()
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError:
                    self._room.release()
                    self._places.release()
                    await asyncio.sleep(PAUSE_SECONDS)
                    break
                task = loop.create_task(self._shake(connection))
                self._shaking.add(task)
                self._brisk[task] = self._ticks
                if not self._ticking:
                    self._ticking = True
                    loop.call_later(TICK_SECONDS, self._tick)
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

    def _tick(self) -> None:
        """Take their places from those who are slow; go on for as long as somebody has one."""
        self._ticks += 1
        for task in [task for task, since in self._brisk.items() if self._ticks - since > SLOW_TICKS]:
            self._give_place(task)
        self._ticking = bool(self._brisk)
        if self._ticking:
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _give_place(self, task: asyncio.Task[None]) -> None:
        if self._brisk.pop(task, None) is not None:
            self._places.release()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._shaking.discard(task)
        self._give_place(task)
        self._room.release()
