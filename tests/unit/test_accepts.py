"""Asks whether connections with TLS are taken as few at a time as is said, and the slow make room for others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import trustme

from api import accepts
from api.accepts import BRISK_MAX, SLOW_TICKS, TICK_SECONDS, Acceptor

AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)
SLOW_SECONDS = SLOW_TICKS * TICK_SECONDS


@contextlib.asynccontextmanager
async def taking() -> AsyncIterator[tuple[Acceptor, int]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(listener, asyncio.Protocol, context)
    acceptor.start(1_000)
    try:
        yield acceptor, listener.getsockname()[1]
    finally:
        await acceptor.stop()
        listener.close()


def run(what: Callable[[Acceptor, int], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with taking() as (acceptor, port):
            await what(acceptor, port)

    asyncio.run(inside())


@contextlib.contextmanager
def silent(port: int, count: int) -> Iterator[None]:
    """Clients that connect and say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


async def passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_few_are_brisk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepts, "TICK_SECONDS", 3600.0)

    async def what(acceptor: Acceptor, port: int) -> None:
        with silent(port, 3 * BRISK_MAX):
            await passes(200)
            assert len(acceptor._shaking) == BRISK_MAX

    run(what)


def test_the_slow_make_room() -> None:
    """Sixteen who say nothing would otherwise keep everybody out until they are cut off."""

    async def what(acceptor: Acceptor, port: int) -> None:
        with silent(port, 2 * BRISK_MAX + 1):
            until = time.monotonic() + 30 * SLOW_SECONDS
            while len(acceptor._shaking) < 2 * BRISK_MAX + 1:
                assert time.monotonic() < until
                await asyncio.sleep(TICK_SECONDS)
        await asyncio.sleep(2 * SLOW_SECONDS)
        assert not acceptor._brisk and not acceptor._ticking

    run(what)


def test_nobody_is_slow_while_the_loop_is() -> None:
    """Passes that take long because of handshakes must not let in more of them: a pass has one tick at most."""

    async def what(acceptor: Acceptor, port: int) -> None:
        with silent(port, 2 * BRISK_MAX):
            await passes(200)
            for _ in range(SLOW_TICKS // 2):
                time.sleep(3 * SLOW_SECONDS / SLOW_TICKS)
                await asyncio.sleep(0)
            assert len(acceptor._shaking) == BRISK_MAX

    run(what)


def test_whoever_is_done_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepts, "TICK_SECONDS", 3600.0)
    client = ssl.create_default_context()
    AUTHORITY.configure_trust(client)

    async def what(acceptor: Acceptor, port: int) -> None:
        for _ in range(2 * BRISK_MAX):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await passes(20)
        assert not acceptor._shaking and not acceptor._brisk

    run(what)
