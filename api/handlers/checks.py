"""Owns POST /v1/eligibility/check: one inquiry in, one answer out. This is the hot path: nothing here is for show."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from api.handlers.http import JSON, Desk, Handler, ordinary_body, read_body, require_accepted, require_media_type
from api.wire import reading, writing
from engine import limits
from engine.verification import Verifier

PATH: Final = "/v1/eligibility/check"


def check(desk: Desk, verifier: Verifier, reader: reading.Reader, writer: writing.Writer) -> Handler:
    """The handler of single checks. It turns errors into problems itself."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            body = ordinary_body(request, limits.CHECK_BODY_BYTES_MAX)
            if body is None:
                require_media_type(request, JSON)
                require_accepted(request, JSON)
                body = await read_body(request, limits.CHECK_BODY_BYTES_MAX)
            mark, inquiry = reader.inquiry(body)
            return desk.answer(request, writer.answer(inquiry, verifier.check(inquiry), mark))
        except Exception as error:
            return desk.failed(request, error)

    return handle
