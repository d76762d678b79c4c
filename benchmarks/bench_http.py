"""Owns the measurement of the HTTP check: CPU time a request, beside a bare aiohttp handler with the same bytes.

The check is measured on aiohttp alone and in the express lane. One server process (uvloop) has them all; a client on
bare sockets with keep-alive alternates between them, so that noise hits them alike. What is compared is the server's
CPU time, read from the kernel: on two cores the client runs beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
REQUESTS = {"smoke": 320, "standard": 640, "large": 640}
"""In one turn of each; short, so that what else the machine does falls on all of them."""
ROUNDS = {"smoke": 3, "standard": 41, "large": 151}
WARM_UP = 320
CONNECTIONS = 16
CHECK = "/v1/eligibility/check"
RATIO_MIN = 0.75
"""What the check on aiohttp may cost beside the bare handler: at least this share of its rate."""
LANE_MAX = 0.12
"""What a check in the lane may cost, as a share of what the bare handler costs."""


class Client:
    """Keep-alive connections on which the same request is sent again and again, on all of them at a time.

    That is what a worker sees when it is busy: it finds several requests waiting, and its caches warm.
    """

    def __init__(self, port: int, path: str, body: bytes, connections: int = CONNECTIONS) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._size = 0

    def send(self, count: int) -> bytes:
        """Send about so many requests. Returns the last body; all must be equally long."""
        received = b""
        for _ in range(-(-count // len(self._sockets))):
            for one in self._sockets:
                one.sendall(self._request)
            for one in self._sockets:
                received = one.recv(65536)
                self._size = self._size or len(received)
                assert len(received) == self._size, "an answer of another length"
        assert received.startswith(b"HTTP/1.1 200 ")
        return received.partition(b"\r\n\r\n")[2]

    def close(self) -> None:
        """Close the connections."""
        for one in self._sockets:
            one.close()


class Server:
    """The server process and how much CPU time it has used."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, __file__, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert self._process.stdout is not None
        self.facts: dict[str, Any] = json.loads(self._process.stdout.readline())

    def cpu_ns(self) -> int:
        """CPU time of the server's main thread since it started."""
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])

    def close(self) -> None:
        """End the process."""
        with self._process:
            self._process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("http"))
    yield running
    running.close()


def _client(server: Server, name: str) -> Client:
    client = Client(server.facts["ports"][name], server.facts["paths"][name], server.facts["request"].encode())
    client.send(WARM_UP)
    return client


def bench_check_beside_bare(benchmark: Any, server: Server, size: str, figure: Any) -> None:
    """The HTTP check and the bare handler in turns; `extra_info` has the CPU time of each and the ratio."""
    clients = {name: _client(server, name) for name in ("check", "lane", "bare", "unread")}
    costs: dict[str, list[float]] = {name: [] for name in clients}
    bodies: dict[str, bytes] = {}
    count = REQUESTS[size]

    def turn() -> None:
        for name, client in clients.items():
            before = server.cpu_ns()
            bodies[name] = client.send(count)
            costs[name].append((server.cpu_ns() - before) / count / 1000)

    benchmark.pedantic(turn, rounds=ROUNDS[size])
    for client in clients.values():
        client.close()
    assert bodies["check"] == bodies["lane"] == bodies["bare"] == bodies["unread"]
    medians = {name: statistics.median(values) for name, values in costs.items()}
    ratio = statistics.median(bare / check for bare, check in zip(costs["bare"], costs["check"], strict=True))
    benchmark.extra_info["cpu_us"] = {name: round(value, 1) for name, value in medians.items()}
    benchmark.extra_info["check_rate_of_bare"] = round(ratio, 3)
    figure("HTTP check / bare aiohttp handler, rate", ratio, at_least=RATIO_MIN)
    in_lane = statistics.median(lane / bare for bare, lane in zip(costs["bare"], costs["lane"], strict=True))
    benchmark.extra_info["lane_cpu_of_bare"] = round(in_lane, 3)
    figure("HTTP check in the lane / bare aiohttp handler, CPU time a request", in_lane, at_most=LANE_MAX)
    benchmark.extra_info["checksum"] = hashlib.sha256(bodies["check"]).hexdigest()[:16]
    print(f"\nHTTP check: {medians}, CPU us a request; {ratio:.3f} of the bare handler's rate")
    if size != "smoke":
        assert ratio >= RATIO_MIN


# --- the server process ---------------------------------------------------------------------------------------------


async def _serve(folder: Path) -> None:
    from aiohttp import web

    from api.app import Runner
    from tests.support import api as support

    with support.engine(folder) as built:
        request = json.dumps(support.inquiry("1000001")).encode()
        check = await _start(Runner(built.general_app))
        in_lane = await _start(Runner(built.check_app))
        body = await asyncio.to_thread(lambda: Client(check, CHECK, request).send(1))

        async def bare(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(body=body, content_type="application/json")

        async def unread(request: web.Request) -> web.Response:
            return web.Response(body=body, content_type="application/json")

        app = web.Application()
        app.router.add_post("/bare", bare)
        app.router.add_post("/unread", unread)
        plain = await _start(web.AppRunner(app, access_log=None))
        facts = {
            "ports": {"check": check, "lane": in_lane, "bare": plain, "unread": plain},
            "paths": {"check": CHECK, "lane": CHECK, "bare": "/bare", "unread": "/unread"},
            "request": request.decode(),
        }
        print(json.dumps(facts), flush=True)
        await asyncio.Event().wait()


async def _start(runner: Any) -> int:
    from aiohttp import web

    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


if __name__ == "__main__":
    import gc

    import uvloop

    sys.path.insert(0, str(ROOT))
    gc.freeze()
    uvloop.run(_serve(Path(sys.argv[1])))
