"""Owns POST /v1/eligibility/check: one inquiry in, one answer out. This is the hot path: nothing here is for show."""

from __future__ import annotations

from aiohttp import web

from api.handlers.http import JSON, Desk, Handler, read_body, require_accepted, require_media_type
from api.wire import native
from engine import limits
from engine.verification import Verifier


def check(desk: Desk, verifier: Verifier, reader: native.Reader, writer: native.Writer) -> Handler:
    """The handler of single checks."""

    async def handle(request: web.Request) -> web.StreamResponse:
        require_media_type(request, JSON)
        require_accepted(request, JSON)
        body = await read_body(request, limits.CHECK_BODY_BYTES_MAX)
        mark, inquiry = reader.inquiry(body)
        return desk.respond(request, writer.answer(inquiry, verifier.check(inquiry), mark))

    return handle
