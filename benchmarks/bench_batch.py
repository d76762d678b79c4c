"""Owns the measurement of batches: blocks of checks beside single ones, through HTTP, and single checks beside a batch.

The server is a process of its own on uvloop, with people whose records lie apart in memory. Lines are in random order,
so that neither table nor records are in the processor's caches because of the line before. What is compared is CPU
time of the server; every answer is compared with what a single check says.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import random
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from api.wire.quick import quick_way  # noqa: E402
from benchmarks.bench_lane import body, person  # noqa: E402
from engine.records import Insurer  # noqa: E402
from ext import many  # noqa: E402
from tests.support.api import INSURER  # noqa: E402
from tests.support.verdicts import AS_OF  # noqa: E402
from tests.support.world import World  # noqa: E402

PEOPLE = {"smoke": 2_000, "standard": 100_000, "large": 400_000}
LINES = {"smoke": 4_000, "standard": 200_000, "large": 1_000_000}
SINGLES_A_SECOND = 1_500
SINGLES_CONNECTIONS = 32
SINGLES_SECONDS = {"smoke": 0.5, "standard": 4, "large": 10}
KINDS = ("full", "verdict")


def filled(folder: Path, people: int, *, map_bytes: int = 1 << 30) -> World:
    world = World(folder, AS_OF, map_bytes=map_bytes, keys=2 * people)
    with world.store.transaction() as txn:
        txn.put_insurer(Insurer(INSURER, "見本健康保険組合", fresh_at_ms=1_795_388_400_000))
    world.replace({number: person(number) for number in range(1, people + 1)})
    return world


def line(number: int, kind: str) -> bytes:
    return body(number).replace(b'"purpose"', b'"detail":"%b","purpose"' % kind.encode())


def lines(people: int, count: int, kind: str) -> list[bytes]:
    chance = random.Random(count)
    return [line(chance.randrange(1, people + 1), kind) for _ in range(count)]


# --- without HTTP ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(size: str) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder, filled(Path(folder), PEOPLE[size]) as made:
        yield made


def in_blocks(world: World, data: bytes) -> bytes:
    form = many.Many(quick_way(world.verifier))
    parts, offset, count = [], 0, -1
    while count:
        part, offset, count = form.answer_lines(data, offset, _never)
        parts.append(part)
    return b"".join(parts)


def one_by_one(world: World, asked: list[bytes]) -> bytes:
    answer = quick_way(world.verifier).answer
    return b"".join([(answer(one, 0, len(one)) or b"") + b"\n" for one in asked])


def _never(body: bytes) -> bytes:
    raise AssertionError("every line is an ordinary check")


@pytest.mark.benchmark(group="batch: checks without HTTP")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["blocks", "reference: one by one"])
def bench_checks(benchmark: Any, world: World, size: str, kind: str, way: str) -> None:
    asked = lines(PEOPLE[size], PEOPLE[size], kind)
    data = b"".join(one + b"\n" for one in asked)
    run = (lambda: in_blocks(world, data)) if way == "blocks" else (lambda: one_by_one(world, asked))
    found = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    assert found == one_by_one(world, asked)
    benchmark.extra_info["checksum"] = f"{zlib.crc32(found):08x}"
    benchmark.extra_info["us_each"] = round(benchmark.stats.stats.median / len(asked) * 1e6, 3)


# --- through HTTP ---------------------------------------------------------------------------------------------------


class Server:
    """The server process and how much CPU time it has used."""

    def __init__(self, people: int) -> None:
        command = [sys.executable, __file__, str(people)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def cpu_s(self) -> float:
        """CPU time of all its threads."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def close(self) -> None:
        """End the process."""
        with self._process:
            self._process.kill()


@pytest.fixture(scope="module")
def server(size: str) -> Iterator[Server]:
    running = Server(PEOPLE[size])
    yield running
    running.close()


def stream(port: int, data: bytes, kind: str = "full") -> tuple[int, int]:
    """Send lines as one batch while its answers are read. Returns how many lines and bytes came back."""
    accept, ending = ("text/csv", b",\n") if kind == "csv" else ("*/*", b"}\n")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = "POST /v1/eligibility/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
        head += f"Accept: {accept}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        count = size = 0
        first = b""
        while part := connection.recv(1 << 20):
            first = first or part
            # Every line ends like this, and no piece of the stream splits more than one of these.
            count += part.count(ending)
            size += len(part)
        sender.join()
    assert first.startswith(b"HTTP/1.1 200 ")
    return count, size


@pytest.mark.benchmark(group="batch: NDJSON through HTTP")
@pytest.mark.parametrize("kind", [*KINDS, "csv"])
def bench_ndjson(benchmark: Any, server: Server, size: str, kind: str, figure: Any) -> None:
    asked = lines(PEOPLE[size], LINES[size], "verdict" if kind == "csv" else kind)
    data = b"".join(one + b"\n" for one in asked)
    stream(server.port, data[: len(data) // 4].rpartition(b"\n")[0] + b"\n", kind)
    costs = []

    def run() -> None:
        before = server.cpu_s()
        count, _ = stream(server.port, data, kind)
        costs.append((server.cpu_s() - before) / len(asked))
        assert abs(count - len(asked)) <= len(asked) // 1000

    benchmark.pedantic(run, rounds=3)
    benchmark.extra_info["checksum"] = f"{checked(server.port, data, kind):08x}"
    rate = 1 / statistics.median(costs)
    benchmark.extra_info["cpu_us_each"] = round(statistics.median(costs) * 1e6, 3)
    benchmark.extra_info["checks_a_second"] = round(rate)
    if kind in _BOUND:
        figure(f"batch through HTTP, {kind}, checks a second of one core", rate, at_least=_BOUND[kind])


def checked(port: int, data: bytes, kind: str = "full") -> int:
    """The checksum of the first answers, which are those of single checks."""
    headers = {"Content-Type": "application/x-ndjson"} | ({"Accept": "text/csv"} if kind == "csv" else {})
    first = b"\n".join(data.splitlines()[:200]) + b"\n"
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/v1/eligibility/batch", first, headers)
        answers = connection.getresponse().read()
        for one, answer in zip(first.splitlines(), answers.splitlines(), strict=True):
            connection.request("POST", "/v1/eligibility/check", one, {"Content-Type": "application/json"})
            single = connection.getresponse().read()
            if kind == "csv":
                told = json.loads(single)
                single = f"{told['verdict']},{told['reason'] or ''},".encode()
            assert single == answer
    return zlib.crc32(answers)


_BOUND = {"full": 400_000, "csv": 1_000_000}
"""Verdicts alone are bound in their packed form; as NDJSON, with advice in two languages, they are shown beside it."""


def ask_singles(port: int, seconds: float) -> list[float]:
    """Latencies of single checks sent at fixed times, from the time when each was to be sent; sorted, in ms."""
    gc.disable()
    request = body(1)
    head = "POST /v1/eligibility/check HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    message = f"{head}Content-Length: {len(request)}\r\n\r\n".encode() + request
    selector = selectors.DefaultSelector()
    found: list[float] = []
    due = [0.0] * SINGLES_CONNECTIONS
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_connected(port)) for _ in due]
        for number, one in enumerate(sockets):
            selector.register(one, selectors.EVENT_READ, number)
        free, sent, total = list(range(len(due))), 0, int(SINGLES_A_SECOND * seconds)
        start = time.perf_counter()
        while len(found) < total:
            now = time.perf_counter()
            while free and sent < total and (instant := start + sent / SINGLES_A_SECOND) <= now:
                number = free.pop()
                due[number] = instant
                sockets[number].sendall(message)
                sent += 1
            wait = max(0.0, start + sent / SINGLES_A_SECOND - now) if free and sent < total else None
            for key, _ in selector.select(wait):
                assert b'"verdict":"VALID"' in sockets[key.data].recv(65536)
                found.append((time.perf_counter() - due[key.data]) * 1000)
                free.append(key.data)
    gc.enable()
    return sorted(found)


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@pytest.mark.benchmark(group="batch: single checks beside it")
@pytest.mark.parametrize("form", ["10,000 items as JSON", "NDJSON without end"])
def bench_singles_beside_a_batch(benchmark: Any, server: Server, size: str, form: str, figure: Any) -> None:
    seconds = SINGLES_SECONDS[size]
    alone = benchmark.pedantic(ask_singles, args=(server.port, seconds), rounds=1)
    # In a process of its own: what the batch's client does would hold up this one's clock.
    command = [sys.executable, __file__, "batches", str(server.port), str(PEOPLE[size]), form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as batch:
        assert batch.stdout is not None
        assert batch.stdout.readline() == b"begun\n"
        beside = ask_singles(server.port, seconds)
        batch.kill()
    benchmark.extra_info["checksum"] = f"{checked(server.port, line(1, 'full')):08x}"
    p99 = [times[len(times) * 99 // 100] for times in (alone, beside)]
    benchmark.extra_info["p99_ms"] = [round(value, 2) for value in p99]
    figure(f"p99 of single checks raised by {form}, ms", p99[1] - p99[0], at_most=5)


def _batches(port: int, people: int, form: str) -> None:
    """Batches one after the other until killed."""
    asked = lines(people, 10_000, "full")
    if form.endswith("JSON"):
        items = b",".join(b'{"card":%b}' % json.dumps(json.loads(one)["card"]).encode() for one in asked)
        data, kind = b'{"institution":"1311111114","as_of":"2026-11-23","items":[' + items + b"]}", "application/json"
    else:
        data, kind = b"".join(one + b"\n" for one in asked) * 5, "application/x-ndjson"
    print("begun", flush=True)
    while True:
        head = f"POST /v1/eligibility/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode())
            sender = threading.Thread(target=connection.sendall, args=(data,))
            sender.start()
            while connection.recv(1 << 20):
                pass
            sender.join()


# --- the server process ---------------------------------------------------------------------------------------------


async def _serve(people: int) -> None:
    from aiohttp import web

    from api.app import Runner, check_app
    from engine import config

    with tempfile.TemporaryDirectory() as folder, filled(Path(folder), people) as world:
        runner = Runner(check_app(world.verifier, config.load(None, environ={}, data_dir=Path(folder))))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    if sys.argv[1] == "batches":
        _batches(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    gc.freeze()
    uvloop.run(_serve(int(sys.argv[1])))
