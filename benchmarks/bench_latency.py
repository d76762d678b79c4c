"""Owns the measurement of what a clinic waits for: latencies at a given rate, and what a connection that rests costs.

Requests are sent at instants fixed in advance (benchmarks/http_load/open.c) to one worker in the express lane, on the
other core; latencies count from those instants. The reference is the same load on a handler of bare aiohttp.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.bench_http import Client, Server
from benchmarks.http_load import driver

RATES = {10_000: ("p99.9", 10.0), 40_000: ("p99", 10.0)}
"""Checks a second, and what is bounded at that rate, in ms."""
REFERENCE_RATE = 2_000
SECONDS = {"smoke": 0.5, "standard": 5.0, "large": 30.0}
IDLE = {"smoke": 1_000, "standard": 10_000, "large": 10_000}
OTHER_DESCRIPTORS = 100
IDLE_BYTES_MAX = 3 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("latency"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("open"), source=driver.OPEN_SOURCE)


def samples(server: Server, name: str, folder: Path) -> tuple[Path, bytes]:
    """The file with the request, and its answer."""
    request, port, path = server.facts["request"].encode(), server.facts["ports"][name], server.facts["paths"][name]
    with contextlib.closing(Client(port, path, request, 1)) as client:
        body = client.send(1)
    file = folder / f"{name}.samples"
    driver.write_samples(file, [driver.Sample(driver.request(path, request, port), body)])
    return file, body


@pytest.mark.benchmark(group="latency: sent at instants fixed in advance")
@pytest.mark.parametrize("rate", RATES)
def bench_lane(
    benchmark: Any, server: Server, program: Path, tmp_path: Path, size: str, rate: int, figure: Any
) -> None:
    file, body = samples(server, "lane", tmp_path)
    port, seconds = server.facts["ports"]["lane"], SECONDS[size]
    found = benchmark.pedantic(
        driver.open_loop, args=(program, file, port), kwargs={"rate": rate, "seconds": seconds}, rounds=1
    )
    _note(benchmark, found, body)
    which, bound = RATES[rate]
    figure(
        f"{which} at {rate:,} checks/s, ms ({found.late / found.requests:.1%} sent late)",
        found.p999 if which == "p99.9" else found.p99,
        at_most=bound,
    )


@pytest.mark.benchmark(group="latency: sent at instants fixed in advance")
def bench_reference_bare(benchmark: Any, server: Server, program: Path, tmp_path: Path, size: str) -> None:
    file, body = samples(server, "bare", tmp_path)
    given = {"rate": REFERENCE_RATE, "seconds": SECONDS[size]}
    found = benchmark.pedantic(
        driver.open_loop, args=(program, file, server.facts["ports"]["bare"]), kwargs=given, rounds=1
    )
    _note(benchmark, found, body)


def _note(benchmark: Any, found: driver.Latencies, body: bytes) -> None:
    benchmark.extra_info["ms"] = found._asdict()
    benchmark.extra_info["checksum"] = f"{zlib.crc32(body):08x}"


@pytest.mark.benchmark(group="latency: connections that rest")
@pytest.mark.parametrize("name", ["lane", "bare"], ids=["lane", "reference: bare aiohttp"])
def bench_idle_connections(benchmark: Any, server: Server, size: str, name: str, figure: Any) -> None:
    """Memory of the server for each; one of them is asked in the end, and answers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # As many as the machine allows: each costs the same, and `connections` says how many there were.
    count = benchmark.extra_info["connections"] = min(IDLE[size], most - OTHER_DESCRIPTORS)
    assert count > 0, f"only {most} descriptors may be open here"
    process = psutil.Process(server._process.pid)
    port = server.facts["ports"][name]
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        opened = benchmark.pedantic(
            lambda: [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)], rounds=1
        )
        until = time.monotonic() + 30
        while len(process.net_connections()) < count and time.monotonic() < until:
            time.sleep(0.2)
        each = (process.memory_info().rss - before) / count
        request = server.facts["request"].encode()
        opened[-1].sendall(driver.request(server.facts["paths"][name], request, port))
        body = opened[-1].recv(65536).partition(b"\r\n\r\n")[2]
    assert json.loads(body)["verdict"] == "VALID"
    benchmark.extra_info["bytes_each"] = round(each)
    benchmark.extra_info["checksum"] = f"{zlib.crc32(body):08x}"
    if name == "lane":
        figure("memory of a connection that rests, bytes", each, at_most=IDLE_BYTES_MAX)
