"""Owns the measurement of what recording costs: checks whose answers wait for the disk, beside unrecorded ones.

One server process has both, over a store each, on a disk below the checkout; the load alternates between them with
its connections open, so that noise hits both alike. The sync that an answer waits for is measured beside it: as many
bytes as a few records, appended to a file that lies ready.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http_load import driver
from benchmarks.peers import work

ROOT = Path(__file__).parents[1]
KINDS = ("recorded", "unrecorded")
TURN = {"smoke": 2_000, "standard": 40_000, "large": 100_000}
"""Requests in one turn of each."""
ROUNDS = {"smoke": 2, "standard": 9, "large": 31}
RATES_MIN = {64: 0.6, 512: 0.75}
"""By connections: the share of the unrecorded rate that must be left."""
RATE = 2_000
"""Of the open loop: requests a second."""
SECONDS = {"smoke": 0.5, "standard": 5.0, "large": 15.0}
SYNCS = 300
FLUSHES_MAX = 2.0
"""What an answer may take longer, in syncs of this disk."""


class Server:
    """The process with both, on a core of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.bench_recorded", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert self._process.stdout is not None
        self.ports: dict[str, int] = json.loads(self._process.stdout.readline())
        self.answers = self._asked()
        os.sched_setaffinity(self._process.pid, driver.cores()[0])
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), driver.cores()[0])

    def _asked(self) -> list[bytes]:
        """What everybody must be answered, by both: asked of the one that records nothing."""
        caller = http.client.HTTPConnection("127.0.0.1", self.ports["unrecorded"])
        found = []
        for body, number in zip(work.bodies(), work.numbers(), strict=True):
            caller.request("POST", work.CHECK, body, {"Content-Type": "application/json"})
            found.append(work.verified(caller.getresponse().read(), number))
        caller.close()
        return found

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "var") as folder:
        running = Server(Path(folder))
        yield running
        running.close()


def _samples(server: Server, folder: Path, kind: str) -> Path:
    path, port = folder / kind, server.ports[kind]
    pairs = zip(work.bodies(), server.answers, strict=True)
    driver.write_samples(path, [driver.Sample(driver.request(work.CHECK, ask, port), told) for ask, told in pairs])
    return path


def _checksum(server: Server) -> str:
    return hashlib.sha256(b"".join(server.answers)).hexdigest()[:16]


@pytest.mark.parametrize("connections", RATES_MIN)
def bench_rate_beside_unrecorded(
    benchmark: Any, server: Server, size: str, figure: Any, tmp_path: Path, connections: int
) -> None:
    """As many checks as a closed loop brings, in turns; `extra_info` has rates, processor times and their ratio."""
    program = driver.build(ROOT / "var" / "cache")
    turns: dict[str, list[driver.Turn]] = {kind: [] for kind in KINDS}
    with ExitStack() as open_ones:
        loads = {
            kind: open_ones.enter_context(
                driver.Driver(
                    program,
                    _samples(server, tmp_path, kind),
                    server.ports[kind],
                    [server.pid],
                    connections=connections,
                )  # fmt: skip
            )
            for kind in KINDS
        }
        for load in loads.values():
            load.turn(TURN[size] // 4)

        def turn() -> None:
            for kind, load in loads.items():
                turns[kind].append(load.turn(TURN[size]))

        benchmark.pedantic(turn, rounds=ROUNDS[size])
    pairs = list(zip(*turns.values(), strict=True))
    left = statistics.median(recorded.rate / unrecorded.rate for recorded, unrecorded in pairs)
    benchmark.extra_info["rate"] = {kind: round(statistics.median(one.rate for one in turns[kind])) for kind in KINDS}
    benchmark.extra_info["cpu_us"] = {
        kind: round(statistics.median(one.cpu_us for one in turns[kind]), 2) for kind in KINDS
    }
    benchmark.extra_info["share_left"] = round(left, 3)
    benchmark.extra_info["checksum"] = _checksum(server)
    figure(f"recorded / unrecorded checks, rate, {connections} connections", left, at_least=RATES_MIN[connections])
    if size != "smoke":
        assert left >= RATES_MIN[connections]


def bench_added_time_beside_a_sync(benchmark: Any, server: Server, size: str, figure: Any, tmp_path: Path) -> None:
    """The median time of an answer at a modest rate, recorded and not, beside the sync of a file that lies ready."""
    program = driver.build(ROOT / "var" / "cache", source=driver.OPEN_SOURCE)
    medians: dict[str, list[float]] = {kind: [] for kind in KINDS}
    paths = {kind: _samples(server, tmp_path, kind) for kind in KINDS}
    syncs: list[float] = []

    def turn() -> None:
        syncs.extend(_syncs_ms())
        for kind in KINDS:
            found = driver.open_loop(program, paths[kind], server.ports[kind], rate=RATE, seconds=SECONDS[size] / 5)
            medians[kind].append(found.p50)

    benchmark.pedantic(turn, rounds=5)
    sync = statistics.median(syncs)
    added = statistics.median(one - other for one, other in zip(*medians.values(), strict=True))
    benchmark.extra_info["p50_ms"] = {kind: round(statistics.median(medians[kind]), 3) for kind in KINDS}
    benchmark.extra_info["sync_ms"] = round(sync, 3)
    benchmark.extra_info["checksum"] = _checksum(server)
    figure("time that recording adds to an answer, p50, in syncs", added / sync, at_most=FLUSHES_MAX)
    if size != "smoke":
        assert added <= FLUSHES_MAX * sync


def _syncs_ms() -> list[float]:
    """How long it takes to append a few records to a file that lies ready, on the disk of the checkout."""
    found = []
    with tempfile.NamedTemporaryFile(dir=ROOT / "var") as file:
        descriptor = file.fileno()
        os.write(descriptor, bytes(1 << 20))
        os.fsync(descriptor)
        for number in range(SYNCS):
            start = time.perf_counter_ns()
            os.pwrite(descriptor, b"x" * 500, 500 * number)
            os.fdatasync(descriptor)
            found.append((time.perf_counter_ns() - start) / 1e6)
    return found


# --- the server process ---------------------------------------------------------------------------------------------


async def _serve(folder: Path) -> None:
    from aiohttp import web

    from api.app import Runner
    from tests.support import api as support

    with ExitStack() as built:
        ports = {}
        for kind in KINDS:
            own = folder / kind
            own.mkdir()
            mode = "strict" if kind == "recorded" else "off"
            runner = Runner(built.enter_context(support.engine(own, work.rows(), audit=mode)).check_app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
            ports[kind] = int(runner.addresses[0][1])
        gc.collect()
        gc.freeze()
        print(json.dumps(ports), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(Path(sys.argv[1])))
