"""A real supervisor over two toy applications, so that its rules are tested without a store.

Run as `python -m tests.support.toy_server DATA_DIR PORT [registry=CODE] [worker=CODE]`: with a CODE, that kind of
process ends with it as soon as it is started.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from api.app import SWITCH
from api.exits import CommandError, Exit, exit_of, line_of, say
from api.handlers.http import Switch
from api.serving import Service
from api.supervisor import Supervisor
from engine.config import Config
from engine.errors import ShikakuError


def job(role: str, code: int | None) -> Callable[[socket.socket, str, Callable[[], None]], Exit]:
    """A job whose application answers `/` with its process id, and `/slow` after a second."""

    async def pid(request: web.Request) -> web.Response:
        return respond(request, f"{role} {os.getpid()}")

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(1.0)
        return respond(request, "slow")

    def run(listener: socket.socket, name: str, ready: Callable[[], None]) -> Exit:
        if code is not None:
            return Exit(code)
        app = web.Application()
        app[SWITCH] = Switch()
        app.router.add_get("/", pid)
        app.router.add_get("/slow", slow)
        return Service(app, listener, name, 5.0, runner=web.AppRunner).serve(ready)

    return run


def respond(request: web.Request, text: str) -> web.Response:
    """A plain answer that closes the connection while the process drains."""
    response = web.Response(text=text)
    if request.app[SWITCH].draining:
        response.force_close()
    return response


def main(data_dir: str, port: str, *options: str) -> int:
    """Run until stopped. Returns the exit code."""
    codes = {name: int(code) for name, _, code in (option.partition("=") for option in options)}
    config = Config(data_dir=Path(data_dir), port=int(port), workers=2, drain_seconds=5.0)
    registry, worker = (job(role, codes.get(role)) for role in ("registry", "worker"))
    try:
        return Supervisor(config, registry=registry, worker=worker).run()
    except (CommandError, ShikakuError) as error:
        say("toy", line_of(error))
        return exit_of(error)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
