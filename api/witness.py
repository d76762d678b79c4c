"""Owns the witness's HTTP service: `POST /add-checkpoint` and the newest cosigned checkpoints, for anybody to read."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Final

from aiohttp import web

from api.exits import CommandError, Exit, line_of, say
from engine.audit.witness import BODY_BYTES_MAX, TEXT_TYPE, Reply, Witness
from engine.errors import ShikakuError

_ROLE: Final = "witness"


def application(witness: Witness) -> web.Application:
    """The service of one witness. Deciding takes a sync of the disk, so it is done in threads."""

    async def add_checkpoint(request: web.Request) -> web.Response:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _response(Reply(400, b"the request is too large\n"))
        try:
            return _response(await asyncio.to_thread(witness.add_checkpoint, body))
        except ShikakuError as error:
            say(_ROLE, line_of(error))
            return _response(Reply(503, b"the witness cannot keep its state\n"))

    async def checkpoint(request: web.Request) -> web.Response:
        found = witness.monitored(request.match_info["origin"])
        return _response(Reply(404, b"nothing was cosigned for this log\n") if found is None else Reply(200, found))

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/add-checkpoint", add_checkpoint)
    app.router.add_get("/{origin:[0-9a-f]{64}}/checkpoint", checkpoint)
    return app


def run(witness: Witness, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises CommandError if the port cannot be listened on."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        raise CommandError(Exit.PORT, "server.port", f"port {port} cannot be listened on") from None
    asyncio.run(_serve(witness, listener))


async def _serve(witness: Witness, listener: socket.socket) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    runner = web.AppRunner(application(witness), access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    host, port = listener.getsockname()[:2]
    say(_ROLE, f"{witness.signer.verifier.vkey} on http://{f'[{host}]' if ':' in host else host}:{port}")
    await stopped.wait()
    await runner.cleanup()


def _response(reply: Reply) -> web.Response:
    charset = "utf-8" if reply.media_type == TEXT_TYPE else None
    return web.Response(status=reply.status, body=reply.body, content_type=reply.media_type, charset=charset)
