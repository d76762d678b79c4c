"""Owns what is the same for everybody: health, version, the API's description, and the pages that explain it."""

from __future__ import annotations

from importlib import metadata, resources
from typing import Final

import msgspec
from aiohttp import web

from api import problems
from api.handlers.http import JSON, Desk, Handler, Switch, require_accepted

HTML: Final = "text/html; charset=utf-8"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STATIC: Final = {
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def version() -> str:
    """The version of the installed package."""
    try:
        return metadata.version("shikaku")
    except metadata.PackageNotFoundError:
        return "0.0.0"


def livez(desk: Desk) -> Handler:
    """Whether the process runs at all."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return desk.respond(request, b'{"status":"live"}')

    return handle


def readyz(desk: Desk, switch: Switch) -> Handler:
    """Whether requests are to be sent here: 503 while starting or draining."""

    async def handle(request: web.Request) -> web.StreamResponse:
        switch.require()
        return desk.respond(request, b'{"status":"ready"}')

    return handle


def version_page(desk: Desk, port: str) -> Handler:
    """Which program answers, and which of its ports."""
    body = msgspec.json.encode({"name": "shikaku", "version": version(), "port": port})
    return _fixed(desk, body, JSON)


def openapi(desk: Desk, document: bytes) -> Handler:
    """The API's description in OpenAPI 3.1."""
    return _fixed(desk, document, JSON)


def docs(desk: Desk) -> Handler:
    """The page that shows the API's description."""
    return _fixed(desk, _static("docs.html"), HTML)


def static(desk: Desk, name: str) -> Handler:
    """A file of the docs page."""
    return _fixed(desk, _static(name), STATIC[name])


def problem_page(desk: Desk) -> Handler:
    """What `type` of a problem points to."""

    async def handle(request: web.Request) -> web.StreamResponse:
        page = problems.page(request.match_info["code"])
        if page is None:
            raise problems.NotFoundError("there is no problem with this code")
        return _with_policy(desk.respond(request, page.encode(), content_type=HTML))

    return handle


def _fixed(desk: Desk, body: bytes, content_type: str) -> Handler:
    media_type = content_type.partition(";")[0]

    async def handle(request: web.Request) -> web.StreamResponse:
        require_accepted(request, media_type)
        return _with_policy(desk.respond(request, body, content_type=content_type))

    return handle


def _with_policy(response: web.Response) -> web.Response:
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _static(name: str) -> bytes:
    return (resources.files("api") / "static" / name).read_bytes()
