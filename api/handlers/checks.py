"""Owns POST /v1/eligibility/check: one inquiry in, one answer out. This is the hot path: nothing here is for show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web

from api.handlers.http import JSON, Desk, Handler, ordinary_body, read_body, require_accepted, require_media_type
from api.wire import quick, reading, writing
from engine import limits
from engine.verification import Verifier

THREADS: Final = 16
"""How many records are waited for at the same time."""
PATH: Final = "/v1/eligibility/check"


class Answerer:
    """Turns the body of a check into that of its answer."""

    def __init__(
        self, verifier: Verifier, reader: reading.Reader, writer: writing.Writer, *, looks_first: bool = False
    ) -> None:
        self._verifier = verifier
        self.quick = quick.quick_way(verifier, looks_first=looks_first)
        self.cold = Cold(verifier.touch) if looks_first else None
        self._quick = self.quick.answer
        self._reader = reader
        self._writer = writer

    def answer(self, data: bytes, start: int, stop: int) -> bytes:
        """The answer to the check in `data[start:stop]`. Raises InputError, RecordCorruptError and the like."""
        return self._quick(data, start, stop) or self.careful(data, start, stop)

    def careful(self, data: bytes, start: int, stop: int) -> bytes:
        """The same, for what the quick way has no answer to."""
        mark, inquiry = self._reader.inquiry(data[start:stop])
        return self._writer.answer(inquiry, self._verifier.check(inquiry), mark)


class Cold:
    """Waits for records that are not in memory, while others are answered."""

    def __init__(self, touch: Callable[[Sequence[bytes]], None]) -> None:
        self._touch = touch
        self._threads = ThreadPoolExecutor(THREADS, "cold")

    async def wait(self, *keys: bytes | None) -> None:
        """Bring these records into memory."""
        wanted = [key for key in keys if key is not None]
        if wanted:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._touch, wanted)

    def warm(self, keys: Sequence[bytes], then: Callable[..., object], *given: object) -> None:
        """The same, and call a function when they are there."""
        loop = asyncio.get_running_loop()
        self._threads.submit(self._touch, keys).add_done_callback(lambda done: loop.call_soon_threadsafe(then, *given))


def check(desk: Desk, answerer: Answerer) -> Handler:
    """The handler of single checks. It turns errors into problems itself."""
    answer = answerer.answer

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            body = ordinary_body(request, limits.CHECK_BODY_BYTES_MAX)
            if body is None:
                require_media_type(request, JSON)
                require_accepted(request, JSON)
                body = await read_body(request, limits.CHECK_BODY_BYTES_MAX)
            if answerer.cold is not None:
                await answerer.cold.wait(answerer.quick.cold_key(body, 0, len(body)))
            return desk.answer(request, answer(body, 0, len(body)))
        except Exception as error:
            return desk.failed(request, error)

    return handle
