"""Owns the comparison over HTTP: CPU time of the server for one check, ours beside what else could answer it.

Every server has one core and runs all the time; the load, on the other core, goes round them in turns, so that noise
hits them alike. All answers are compared byte by byte.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.http_load import driver
from benchmarks.http_load.driver import Driver, LoadError, Sample, Turn
from benchmarks.peers import services, work
from benchmarks.peers.report import Bound, Group, Row
from benchmarks.peers.services import Missing, Service

TURN_SECONDS = 0.3
WARM_UP = 2_000
CONNECTIONS = 16
DEPTH = 8


class Turns(Protocol):
    """What can be asked for a turn of requests."""

    def turn(self, requests: int) -> Turn: ...


class Contender(NamedTuple):
    """A way to be answered: a server, and how it is asked."""

    name: str
    label: str
    server: str
    depth: int = 1
    constant: bool = False
    """It answers the same bytes, whatever is asked."""
    get: bool = False
    ours: bool = False


CONTENDERS = [
    Contender("lane", "ours, express lane", "lane", ours=True),
    Contender("lane_8", "ours, express lane, pipelined by 8", "lane", depth=DEPTH, ours=True),
    Contender("lane_tls", "ours, express lane, TLS 1.3", "lane_tls", ours=True),
    Contender("general", "ours on aiohttp, lane off", "general", ours=True),
    Contender("aiohttp_constant", "bare aiohttp, same bytes every time", "aiohttp_constant", constant=True),
    Contender("aiohttp_dict", "aiohttp, decode and dict", "aiohttp_dict"),
    Contender("fastapi", "FastAPI on uvicorn, pydantic and dict", "fastapi"),
    Contender("blacksheep", "BlackSheep on uvicorn, decode and dict", "blacksheep"),
    Contender("granian", "Granian (RSGI), decode and dict", "granian"),
    Contender("nginx", "nginx, constant of the same size", "nginx", constant=True),
    Contender("nginx_get", "nginx, constant, asked by GET", "nginx", constant=True, get=True),
    Contender("nginx_8", "nginx, constant, pipelined by 8", "nginx", depth=DEPTH, constant=True),
    Contender("nginx_tls", "nginx, constant, TLS 1.3", "nginx_tls", constant=True),
]
REDIS = "Redis GET, value of the same size (redis-benchmark)"
BOUNDS = [
    Bound("lane / nginx constant, CPU", "lane", "nginx", at_most=1.3),
    Bound("lane / bare aiohttp, CPU", "lane", "aiohttp_constant", at_most=0.12),
    Bound("lane / Redis GET, CPU", "lane", "redis", at_most=1.2),
    Bound("pipelined by 8: nginx / lane, CPU (rate of a core)", "nginx_8", "lane_8", at_least=2.5),
    Bound("TLS 1.3: lane / nginx constant, CPU", "lane_tls", "nginx_tls", at_most=1.3),
]
SAID = [
    "The figure is the CPU time (user and system) of the server's processes for one request, with one core for the "
    f"server and one for the load: {CONNECTIONS} keep-alive connections, all of the same POST requests, each answer "
    "compared byte by byte. Where little of the core was used, the machine was busy with something else.",
    "Ours reads the record and compares it with the inquiry. The constants read nothing; `decode and dict` finds ready "
    "answers in memory; so these rows favour the others.",
    "Redis speaks its own protocol, and knows neither JSON nor HTTP.",
]


class RedisBenchmark:
    """redis-benchmark against one server, as turns."""

    def __init__(self, service: Service, value_bytes: int) -> None:
        self._service = service
        self._value = b"x" * value_bytes
        self._program = services.program("redis-benchmark", "redis-tools")
        key = b"key:__rand_int__"  # what redis-benchmark asks for
        self._command(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, value_bytes, self._value))
        found = self._command(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
        if found != b"$%d\r\n%b\r\n" % (value_bytes, self._value):
            raise LoadError("Redis does not return what it was given")

    def _command(self, command: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self._service.port)) as peer:
            peer.sendall(command)
            return peer.recv(1 << 20)

    def turn(self, requests: int) -> Turn:
        """So many GETs, on as many connections as the others have."""
        before = driver.cpu_ns([self._service.process.pid])
        command = [self._program, "-p", str(self._service.port), "-c", str(CONNECTIONS), "-n", str(requests)]
        done = subprocess.run(
            [*command, "-t", "get", "--csv"],
            capture_output=True, text=True, check=True, timeout=120, preexec_fn=_on_load_core,
        )  # fmt: skip
        used = driver.cpu_ns([self._service.process.pid]) - before
        rate = float(done.stdout.strip().splitlines()[-1].split(",")[1].strip('"'))
        return Turn(requests, requests / rate, used / requests / 1000)


def _on_load_core() -> None:
    os.sched_setaffinity(0, driver.cores()[1])


def measure(rounds: int, cache: Path, say: Callable[[str], None]) -> Group:
    """Start everybody, go round them, and return what each took."""
    rows = {one.name: Row(one.name, one.label, one.ours) for one in CONTENDERS}
    rows["redis"] = Row("redis", REDIS)
    with services.folder() as folder, ExitStack() as stack:
        asked = _start(folder, cache, stack, rows, say)
        turns: dict[str, list[Turn]] = {name: [] for name in asked}
        counts = dict.fromkeys(asked, WARM_UP)
        for number in range(rounds + 1):
            say(f"http: round {number} of {rounds}")
            for name, contender in list(asked.items()):
                try:
                    turn = contender.turn(counts[name])
                except LoadError as error:
                    rows[name].missing = str(error)
                    del asked[name]
                    continue
                if number:  # the first round warms up, and tells how many requests make a turn
                    turns[name].append(turn)
                else:
                    counts[name] = max(WARM_UP // 2, int(turn.rate * TURN_SECONDS) // DEPTH * DEPTH)
    for name in asked:
        rows[name].costs = [turn.cpu_us for turn in turns[name]]
        rate, busy = (statistics.median(values) for values in _columns(turns[name]))
        rows[name].more = [f"{1e6 / rows[name].cost:,.0f}", f"{rate:,.0f}", f"{busy:.0%}"]
    title = "One eligibility check over HTTP keep-alive"
    columns = ["a second of CPU", "reached a second", "core used"]
    return Group("http", title, "CPU us a request", "lane", columns, list(rows.values()), BOUNDS, SAID)


def _columns(turns: list[Turn]) -> tuple[list[float], list[float]]:
    return [turn.rate for turn in turns], [turn.busy for turn in turns]


def _start(
    folder: Path, cache: Path, stack: ExitStack, rows: dict[str, Row], say: Callable[[str], None]
) -> dict[str, Turns]:
    """Every server that can be started, with its load; the others' rows say why not."""
    general = stack.enter_context(services.python_server("general", folder))
    answers = [_ask(general.port, body, number) for body, number in zip(work.bodies(), work.numbers(), strict=True)]
    if len({len(answer) for answer in answers}) != 1:
        raise LoadError("the people's answers differ in length: a constant of the same size has no meaning")
    work.write_answers(folder / "answers", answers)
    _make_certificate(folder)
    started: dict[str, Service | str] = {"general": general}
    asked: dict[str, Turns] = {}
    for contender in CONTENDERS:
        if contender.server not in started:
            say(f"http: starting {contender.server}")
            started[contender.server] = _try(stack, contender.server, folder, len(answers[0]))
        service = started[contender.server]
        if isinstance(service, str):
            rows[contender.name].missing = service
            continue
        try:
            asked[contender.name] = stack.enter_context(_driver(contender, service, folder, cache, answers))
        except LoadError as error:
            rows[contender.name].missing = str(error)
    try:
        asked["redis"] = RedisBenchmark(stack.enter_context(services.redis(folder)), len(answers[0]))
    except Missing as error:
        rows["redis"].missing = str(error)
    return asked


def _try(stack: ExitStack, server: str, folder: Path, constant_bytes: int) -> Service | str:
    """A server, or why there is none."""
    try:
        if server.startswith("nginx"):
            if server == "nginx_tls" and not (folder / "server.pem").exists():
                raise Missing("openssl is not installed (Debian: openssl)")
            return stack.enter_context(services.nginx(folder, constant_bytes, tls=server == "nginx_tls"))
        return stack.enter_context(services.python_server(server, folder))
    except Missing as error:
        return str(error)


def _driver(contender: Contender, service: Service, folder: Path, cache: Path, answers: list[bytes]) -> Driver:
    tls = contender.server.endswith("_tls")
    bodies = [b""] if contender.get else work.bodies()
    requests = [driver.request(work.CHECK, body, service.port) for body in bodies]
    if contender.server.startswith("nginx"):
        expected = [b"x" * len(answers[0])] * len(requests)
    else:
        expected = [answers[0]] * len(requests) if contender.constant else answers
    path = folder / f"{contender.name}.samples"
    driver.write_samples(path, [Sample(*pair) for pair in zip(requests, expected, strict=True)])
    return Driver(
        driver.build(cache, tls=tls), path, service.port, [service.process.pid], connections=CONNECTIONS,
        depth=contender.depth, tls=tls,
    )  # fmt: skip


def _ask(port: int, body: bytes, number: str) -> bytes:
    """The answer that everybody must give, from the general way."""
    with socket.create_connection(("127.0.0.1", port), 30) as peer:
        peer.sendall(driver.request(work.CHECK, body, port).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        received = b"".join(iter(lambda: peer.recv(1 << 16), b""))
    return work.verified(received.partition(b"\r\n\r\n")[2], number)


def _make_certificate(folder: Path) -> None:
    """A certificate for the loopback; without openssl the rows with TLS are not measured."""
    try:
        openssl = services.program("openssl", "openssl")
    except Missing:
        return
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
