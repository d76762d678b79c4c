"""Owns the measurement of records that are not in memory: latencies while they are read, and how long the loop is held.

A store on a disk, below the checkout. Half of the people who are asked for have records that the system was made to
forget, each on a page that nobody else is asked for; the others' are in memory. Checks are sent at instants fixed in
advance and all answers compared. References: the same with `cold_reads` off, and with everything in memory.

In the server's process each call into the lane is timed: what a connection received, and what goes on when a record has
come. The system says whether the loop's thread waited meanwhile (for a page, or of its own accord for anything else,
the interpreter's lock included), or only had its core taken away by others, which is not ours.

    python -m benchmarks.bench_cold FOLDER always|never        the server; on SIGUSR1 it prints what it has timed
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import Runner, check_app
from api.handlers.checks import Cold
from api.wire.quick import quick_way
from benchmarks.bench_batch import filled
from benchmarks.bench_lane import body
from benchmarks.http_load import driver
from engine import config
from engine.index import IndexReader
from engine.store import StoreReader, version_key
from engine.verification import Verifier
from tests.support.verdicts import AS_OF
from tests.support.world import KEYS, clock_of

ROOT = Path(__file__).parents[1]
CHECK = "/v1/eligibility/check"
RATE = 5_000
SECONDS = {"smoke": 0.3, "standard": 3.0, "large": 15.0}
PEOPLE_A_PAGE = 24
"""More than a page of the store has records: people who lie so far apart share none. A page that a thread has just
read, and is about to map, is counted as waited for if the loop wants it in the same moment for somebody else."""
MAP_BYTES = 1 << 34
P99_MS_MAX = 20.0
HELD_MS_MAX = 1.0
PART = 10_000


class Cast:
    """A store of people, the checks that are sent, and who of them is to be forgotten."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        asked = int(RATE * seconds)
        self.people = asked * PEOPLE_A_PAGE
        chance = random.Random(asked)
        self.warm = list(range(1, self.people // 2, PEOPLE_A_PAGE))
        self.cold = list(range(self.people // 2 + PEOPLE_A_PAGE, self.people + 1, PEOPLE_A_PAGE))
        numbers = [*self.warm, *self.cold]
        chance.shuffle(numbers)
        with filled(folder, self.people, map_bytes=MAP_BYTES) as world:
            answer = quick_way(world.verifier).answer
            self.samples = [
                driver.Sample(body(number), answer(body(number), 0, len(body(number)))) for number in numbers
            ]
            self.version = world.seq
        self.checksum = zlib.crc32(b"".join(sample.body for sample in self.samples))

    def forget(self) -> float:
        """Drop the store from memory, but for those who stay in it. Returns the share of the others who are not."""
        with open(self.folder / "store" / "data.mdb", "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.remember(self.warm)
        with self._reader() as reader:
            there = [reader.pages.is_resident(version_key(number, self.version)) for number in self.cold]
        return 1 - sum(there) / len(there)

    def remember(self, numbers: list[int]) -> None:
        """Bring these people's records into memory."""
        with self._reader() as reader:
            for start in range(0, len(numbers), PART):
                reader.touch([version_key(number, self.version) for number in numbers[start : start + PART]])

    @contextlib.contextmanager
    def _reader(self) -> Iterator[StoreReader]:
        reader = StoreReader(self.folder / "store", key_id=KEYS.key_id, map_bytes=MAP_BYTES)
        yield reader
        reader.close()

    def write(self, port: int) -> Path:
        """The file of the load."""
        file = self.folder / "samples"
        driver.write_samples(
            file, [driver.Sample(driver.request(CHECK, one.request, port), one.body) for one in self.samples]
        )
        return file


@pytest.fixture(scope="module")
def cast(size: str) -> Iterator[Cast]:
    """Below the checkout, which is on a disk: the system's folder for temporary files may be in memory."""
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "var") as folder, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        made = Cast(Path(folder), SECONDS[size])
        # Where the index of a server is.
        shutil.move(made.folder / "index", Path(memory) / "index")
        (made.folder / "index").symlink_to(Path(memory) / "index")
        yield made


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("open"), source=driver.OPEN_SOURCE)


class Server:
    """The server's process, and what it has timed."""

    def __init__(self, folder: Path, cold_reads: str) -> None:
        command = [sys.executable, "-m", "benchmarks.bench_cold", str(folder), cold_reads]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid

    def timed(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGUSR1)
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        with self._process:
            self._process.kill()


def measure(
    benchmark: Any, cast: Cast, program: Path, size: str, cold_reads: str
) -> tuple[driver.Latencies, dict[str, Any]]:
    """The load on a server of its own. Returns latencies and what the server timed."""
    with Server(cast.folder, cold_reads) as server:
        samples = cast.write(server.port)
        given = {"rate": RATE, "seconds": len(cast.samples) / RATE}
        before = driver.cpu_ns([server.pid])
        found = benchmark.pedantic(driver.open_loop, args=(program, samples, server.port), kwargs=given, rounds=1)
        timed = server.timed() | {
            "cpu_us_each": round((driver.cpu_ns([server.pid]) - before) / found.requests / 1000, 1)
        }
    benchmark.extra_info |= {"ms": found._asdict(), "timed": timed}
    benchmark.extra_info["checksum"] = f"{cast.checksum:08x}"
    print(f"\n{cold_reads}: {found}; {timed}")
    return found, timed


@pytest.mark.benchmark(group="cold: half of the records are on the disk")
def bench_cold_always(benchmark: Any, cast: Cast, program: Path, size: str, figure: Any) -> None:
    share = benchmark.extra_info["forgotten"] = cast.forget()
    assert share > 0.9, f"the system keeps what lies in {cast.folder}: it must be on a disk"
    found, timed = measure(benchmark, cast, program, size, "always")
    late = found.late / found.requests
    figure(f"p99 at {RATE:,} checks/s, half cold, ms ({late:.1%} sent late)", found.p99, at_most=P99_MS_MAX)
    figure("the loop held by a cold record at most, ms", timed["page_ms_max"], at_most=HELD_MS_MAX)
    figure("pages that the loop's thread waited for", timed["pages"], at_most=0)
    assert timed["warmed"] > len(cast.cold) / 4, "records were not waited for beside the loop"
    if size != "smoke":
        assert timed["page_ms_max"] <= HELD_MS_MAX


@pytest.mark.benchmark(group="cold: half of the records are on the disk")
def bench_reference_never(benchmark: Any, cast: Cast, program: Path, size: str) -> None:
    """Without looking first: the loop itself waits for the disk."""
    assert cast.forget() > 0.9
    _, timed = measure(benchmark, cast, program, size, "never")
    assert timed["pages"] > 0 and timed["warmed"] == 0


@pytest.mark.benchmark(group="cold: half of the records are on the disk")
def bench_reference_in_memory(benchmark: Any, cast: Cast, program: Path, size: str) -> None:
    cast.remember([*cast.warm, *cast.cold])
    _, timed = measure(benchmark, cast, program, size, "always")
    assert timed["pages"] == 0


# --- the server process ---------------------------------------------------------------------------------------------


class Holds:
    """Times calls on the loop's thread, and keeps the longest, by what the thread waited for meanwhile."""

    def __init__(self) -> None:
        self.calls = self.warmed = self.pages_before = 0
        self.ns = {"page": [0], "lock": [0], "nothing": [0]}

    def run(self, function: Callable[..., Any], *given: Any) -> Any:
        before, start = resource.getrusage(resource.RUSAGE_THREAD), time.perf_counter_ns()
        try:
            return function(*given)
        finally:
            taken, after = time.perf_counter_ns() - start, resource.getrusage(resource.RUSAGE_THREAD)
            self.calls += 1
            if after.ru_majflt > before.ru_majflt:
                self.ns["page"].append(taken)
            elif after.ru_nvcsw > before.ru_nvcsw:
                self.ns["lock"].append(taken)
            else:
                self.ns["nothing"][0] = max(self.ns["nothing"][0], taken)

    def report(self) -> dict[str, Any]:
        """The longest call of each kind; without a wait, what is left is that others had the core."""
        pages = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt - self.pages_before
        found = {f"{kind}_ms_max": round(max(ns) / 1e6, 3) for kind, ns in self.ns.items()}
        waits = {f"{kind}_waits": len(self.ns[kind]) - 1 for kind in ("page", "lock")}
        return {"calls": self.calls, "warmed": self.warmed, "pages": pages, **waits, **found}


class Timed:
    """A connection whose received data are timed."""

    def __init__(self, connection: Any, holds: Holds) -> None:
        self._connection, self._holds = connection, holds
        self.connection_made, self.connection_lost = connection.connection_made, connection.connection_lost
        self.eof_received = connection.eof_received
        self.pause_writing, self.resume_writing = connection.pause_writing, connection.resume_writing

    def data_received(self, data: bytes) -> None:
        self._holds.run(self._connection.data_received, data)


async def serve(folder: Path, cold_reads: Any) -> None:
    holds, warm = Holds(), Cold.warm

    def timed_warm(self: Cold, keys: Any, then: Callable[..., object], *given: object) -> None:
        holds.warmed += len(keys)
        warm(self, keys, lambda *arguments: holds.run(then, *arguments), *given)

    Cold.warm = timed_warm  # type: ignore[method-assign]
    store = StoreReader(folder / "store", key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    index = IndexReader.attach(folder / "index", store_id=store.store_id, key_id=KEYS.key_id)
    settings = config.load(None, environ={}, data_dir=folder, cold_reads=cold_reads)
    runner = Runner(check_app(Verifier(index, store, KEYS, clock_of(AS_OF)), settings))
    await runner.setup()
    assert runner.server is not None
    loop, make = asyncio.get_running_loop(), runner.server
    server = await loop.create_server(lambda: Timed(make(), holds), "127.0.0.1", 0)
    loop.add_signal_handler(signal.SIGUSR1, lambda: print(json.dumps(holds.report()), flush=True))
    gc.collect()
    gc.freeze()
    holds.pages_before = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(Path(sys.argv[1]), sys.argv[2]))
