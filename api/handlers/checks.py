"""Owns POST /v1/eligibility/check: one inquiry in, one answer out. This is the hot path: nothing here is for show."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from api.handlers.http import JSON, Desk, Handler, ordinary_body, read_body, require_accepted, require_media_type
from api.wire import quick, reading, writing
from engine import limits
from engine.verification import Verifier

PATH: Final = "/v1/eligibility/check"


class Answerer:
    """Turns the body of a check into that of its answer."""

    def __init__(self, verifier: Verifier, reader: reading.Reader, writer: writing.Writer) -> None:
        self._verifier = verifier
        self.quick = quick.quick_way(verifier)
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
            return desk.answer(request, answer(body, 0, len(body)))
        except Exception as error:
            return desk.failed(request, error)

    return handle
