"""Owns the Python servers that are compared: ours in its two ways, and what else one might have written.

    python -m benchmarks.peers.servers NAME FOLDER

A server listens on the loopback and prints its port and process id as a line of JSON. FOLDER holds `answers`, which the
others look up, and `server.key` and `server.pem` for TLS; a folder in it is the server's own. It ends with whoever
started it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import work
from benchmarks.peers.services import end_with_parent


def listener() -> socket.socket:
    """A socket on a free port of the loopback."""
    made = socket.create_server(("127.0.0.1", 0), backlog=1024)
    made.setblocking(False)
    return made


def say(port: int) -> None:
    print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)


# --- ours -----------------------------------------------------------------------------------------------------------


async def ours(folder: Path, *, lane: bool, tls: bool = False) -> None:
    """The check application of a worker, over a store and an index of its own."""
    from api.app import Runner
    from tests.support import api as support

    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder.parent / "server.pem", folder.parent / "server.key")
    with support.engine(folder, work.rows()) as built:
        await serve_aiohttp(Runner(built.check_app if lane else built.general_app), context)


async def serve_aiohttp(runner: Any, context: ssl.SSLContext | None = None) -> None:
    from aiohttp import web

    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    gc.collect()
    gc.freeze()
    say(int(runner.addresses[0][1]))
    await asyncio.Event().wait()


# --- others ---------------------------------------------------------------------------------------------------------


async def aiohttp_constant(folder: Path) -> None:
    """A handler that reads the body and returns the same bytes each time."""
    from aiohttp import web

    constant = work.from_a_dict(folder.parent / "answers")(work.bodies()[0])

    async def check(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=constant, content_type="application/json")

    app = web.Application()
    app.router.add_post(work.CHECK, check)
    await serve_aiohttp(web.AppRunner(app, access_log=None))


async def aiohttp_dict(folder: Path) -> None:
    from aiohttp import web

    answer = work.from_a_dict(folder.parent / "answers")

    async def check(request: web.Request) -> web.Response:
        return web.Response(body=answer(await request.read()), content_type="application/json")

    app = web.Application()
    app.router.add_post(work.CHECK, check)
    await serve_aiohttp(web.AppRunner(app, access_log=None))


def fastapi_app(folder: Path) -> Any:
    """As its documentation has it: the request is a pydantic model."""
    import msgspec
    from fastapi import FastAPI, Response
    from pydantic import BaseModel

    known = msgspec.msgpack.decode((folder.parent / "answers").read_bytes(), type=dict[str, bytes])

    class Card(BaseModel):
        insurer_number: str
        symbol: str
        number: str
        birth_date: str

    class Inquiry(BaseModel):
        institution: str
        card: Card

    app = FastAPI()

    async def check(inquiry: Inquiry) -> Response:
        return Response(known[inquiry.card.number], media_type="application/json")

    # The annotations are local classes: FastAPI reads them as objects, not as text.
    check.__annotations__ = {"inquiry": Inquiry, "return": Response}
    app.post(work.CHECK)(check)
    return app


def blacksheep_app(folder: Path) -> Any:
    from blacksheep import Application, Content, Request, Response

    answer = work.from_a_dict(folder.parent / "answers")
    app = Application()

    async def check(request: Request) -> Response:
        body = await request.read()
        return Response(200, content=Content(b"application/json", answer(body or b"")))

    check.__annotations__ = {"request": Request, "return": Response}
    app.router.add_post(work.CHECK, check)
    return app


def uvicorn(make: Callable[[Path], Any], folder: Path) -> None:
    """Serve an ASGI application with uvloop and httptools, without an access log."""
    import uvicorn as server

    bound = listener()
    # Connections rest while the others have their turn.
    settings = server.Config(
        make(folder), loop="uvloop", http="httptools", access_log=False, log_level="error", timeout_keep_alive=600
    )
    say(bound.getsockname()[1])
    server.Server(settings).run(sockets=[bound])


def granian(folder: Path) -> None:
    """Serve `granian_app` over RSGI, its own interface, with one worker and one thread."""
    from granian import Granian
    from granian.constants import Interfaces, Loops

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # Granian's worker is another process, and imports this module to find the application.
    os.environ["SHIKAKU_PEERS_ANSWERS"] = str(folder.parent / "answers")
    server = Granian(
        "benchmarks.peers.granian_app:app", address="127.0.0.1", port=port, interface=Interfaces.RSGI, workers=1,
        runtime_threads=1, blocking_threads=1, loop=Loops.uvloop, websockets=False, log_access=False, log_enabled=False,
    )  # fmt: skip
    say(port)
    server.serve()


ASYNC: dict[str, Callable[[Path], Any]] = {
    "lane": lambda folder: ours(folder, lane=True),
    "general": lambda folder: ours(folder, lane=False),
    "lane_tls": lambda folder: ours(folder, lane=True, tls=True),
    "aiohttp_constant": aiohttp_constant,
    "aiohttp_dict": aiohttp_dict,
}
PLAIN: dict[str, Callable[[Path], None]] = {
    "fastapi": lambda folder: uvicorn(fastapi_app, folder),
    "blacksheep": lambda folder: uvicorn(blacksheep_app, folder),
    "granian": granian,
}


def main(name: str, folder: str) -> None:
    end_with_parent()
    own = Path(folder) / name
    own.mkdir()
    if name in ASYNC:
        import uvloop

        uvloop.run(ASYNC[name](own))
    else:
        PLAIN[name](own)


if __name__ == "__main__":
    main(*sys.argv[1:])
