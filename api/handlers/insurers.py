"""Owns the insurers' list: which insurers are registered and how fresh their data is. Public, on both ports."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from api.handlers.http import JSON, Desk, Handler, require_accepted
from api.problems import NotFoundError
from api.wire import registration
from engine import identifiers
from engine.errors import InputError, InsurerUnknownError
from engine.records import Insurer


def listing(desk: Desk, insurers: Callable[[], list[Insurer]]) -> Handler:
    """GET /v1/insurers. `insurers` gives the same list object as long as nothing has changed, or a new one."""
    made_of: list[Insurer] | None = None
    body = b""

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal made_of, body
        require_accepted(request, JSON)
        found = insurers()
        if found is not made_of:
            made_of, body = found, registration.insurer_list(found)
        return desk.respond(request, body)

    return handle


def one(desk: Desk, find: Callable[[str], Insurer | None]) -> Handler:
    """GET /v1/insurers/{number}."""

    async def handle(request: web.Request) -> web.StreamResponse:
        require_accepted(request, JSON)
        insurer = find(number_in(request))
        if insurer is None:
            raise InsurerUnknownError("this insurer is not registered here", field="number")
        return desk.respond(request, registration.insurer_body(insurer))

    return handle


def number_in(request: web.Request) -> str:
    """The insurer number in the path, in canonical form. Raises NotFoundError: the path leads nowhere."""
    try:
        return identifiers.canonical_insurer(request.match_info["number"])
    except InputError:
        raise NotFoundError("an insurer number has 6 or 8 digits", field="number") from None
