"""Owns the second half of the run at the size of a country: starting, asking, finding, and a worker's memory."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from api.instance import read_state
from api.wire.reading import Reader
from engine import keys
from engine.clock import Clock
from engine.config import Config
from engine.construction import Construction
from engine.index import IndexReader, IndexWriter
from engine.ingest.registry import Registry
from engine.recovery import index_directory
from engine.store import StoreReader, StoreWriter
from engine.verification import Verifier
from loadtest.population.inquiries import Asked
from loadtest.population.nation import Nation

ROOT = Path(__file__).resolve().parents[1]
PARTS_ASKED = 20
BUILD_KEYS_MAX = 30_000_000
FINDS = 200_000
SPOTS = 200


class Recorder(Protocol):
    """Keeps figures."""

    def add(
        self, name: str, value: float | int | str, *, at_most: float | None = None, at_least: float | None = None
    ) -> None: ...


# --- building -----------------------------------------------------------------------------------------------------


def measure_build(store: StoreWriter, index: IndexWriter, figures: Recorder) -> None:
    """Fill a table from arrays that are in memory, into pages that are there."""
    persons, entries, count = [], [], 0
    for some, theirs in store.entries(store.committed_seq):
        persons.append(some)
        entries.append(theirs)
        count += len(some)
        if count >= BUILD_KEYS_MAX:
            break
    holders, packed = np.concatenate(persons), np.concatenate(entries)
    del persons, entries
    table = Construction(index, len(holders))
    try:
        began = time.monotonic()
        table.add(holders, packed)
        figures.add("build from arrays, keys", table.count)
        figures.add("build from arrays, M keys/s", table.count / (time.monotonic() - began) / 1e6, at_least=6)
    finally:
        table.discard()


# --- serving ------------------------------------------------------------------------------------------------------


def measure(config: Config, nation: Nation, count: int, figures: Recorder, *, keep_caches: bool) -> int:
    """Start the server several times and ask it. Returns how many answers were wrong."""
    asked = sample(nation, count)
    baseline = statistics.median(imports_alone() for _ in range(3))
    figures.add("interpreter and imports alone, s", baseline)
    with served(config, asked[0]) as (server, seconds):
        del server
    settle(config)
    with served(config, asked[0]) as (server, seconds):
        figures.add("start to first right answer, warm, s", seconds)
        figures.add("start to first right answer beside interpreter start, warm, s", seconds - baseline, at_most=0.5)
        wrong = ask_all(server, asked, figures)
        measure_memory(config, server, figures)
        measure_restart(config, server, asked[0], figures)
    with served(config, asked[0]) as (server, seconds):
        figures.add("the same after everything was killed, s", seconds)
    settle(config)
    if not keep_caches and drop_caches():
        with served(config, asked[0]) as (server, seconds):
            figures.add("start to first right answer, disk cache dropped, s", seconds, at_most=2 + baseline)
        settle(config)
    wrong += measure_memory_verdicts(config, asked, figures)
    measure_find(config, figures)
    return wrong


def sample(nation: Nation, count: int) -> list[Asked]:
    """Inquiries about people of several parts, in an order that does not follow the file."""
    parts = sorted({nation.parts * n // PARTS_ASKED for n in range(PARTS_ASKED)})
    asked = [each for part in parts for each in nation.inquiries(part, -(-count // len(parts)))]
    random.Random(1).shuffle(asked)
    # The first is asked again and again until it is answered: one that is valid says that records are read.
    asked.sort(key=lambda each: each[1] != "VALID")
    return asked[:1] + random.Random(2).sample(asked[1:], len(asked) - 1)


def imports_alone() -> float:
    """Seconds of an interpreter that imports what the server imports, and ends."""
    names = "api.cli.main, api.openapi, api.registry, api.worker, api.supervisor, api.cli.serve"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {names}"], cwd=ROOT, check=True)
    return time.monotonic() - began


class Server:
    """A server that answers."""

    def __init__(self, config: Config, port: int, process: subprocess.Popen[bytes]) -> None:
        self.config, self.port, self.process = config, port, process

    def workers(self) -> list[int]:
        state = read_state(self.config.data_dir)
        return state.worker_pids if state is not None else []


@contextmanager
def served(config: Config, first: Asked) -> Iterator[tuple[Server, float]]:
    """`shikaku serve`, and the seconds from its command to its first right answer. It is killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "api.cli.main", "serve", "--port", str(port), "--registry-port", "0"]
    command += ["--data", str(config.data_dir), "--key", str(config.key_file)]
    began = time.monotonic()
    with open(config.data_dir.parent / "server.log", "ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        answered_first(port, first, process)
        yield Server(config, port, process), time.monotonic() - began
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.5)


def answered_first(port: int, first: Asked, process: subprocess.Popen[bytes]) -> None:
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            answer = ask(connection, first[0])
            connection.close()
            if (answer["verdict"], answer["reason"]) != first[1:]:
                raise RuntimeError("the first answer is wrong")
            return
        time.sleep(0.002)


def ask(connection: http.client.HTTPConnection, request: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps(request).encode()
    connection.request("POST", "/v1/eligibility/check", body, {"Content-Type": "application/json"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


def ask_all(server: Server, asked: list[Asked], figures: Recorder) -> int:
    """Ask everything with data, one after the other; then once more, when the records are in memory."""
    wrong = 0
    for name in ("records from disk", "records from memory"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        taken = []
        for request, verdict, reason in asked:
            began = time.monotonic_ns()
            answer = ask(connection, request)
            taken.append((time.monotonic_ns() - began) / 1e6)
            wrong += (answer["verdict"], answer["reason"]) != (verdict, reason)
        connection.close()
        taken.sort()
        figures.add(f"checks over HTTP, {name}, p50, ms", statistics.median(taken))
        figures.add(f"checks over HTTP, {name}, p99, ms", taken[len(taken) * 99 // 100])
    figures.add("checks asked over HTTP", 2 * len(asked))
    figures.add("wrong answers over HTTP", wrong, at_most=0)
    return wrong


def measure_memory(config: Config, server: Server, figures: Recorder) -> None:
    """What a worker holds in memory that is neither the index nor the store."""
    figures.add(
        "memory of a worker beside the shared mappings, MB", max(map(_own_bytes, server.workers())) / 1e6, at_most=60
    )


def _own_bytes(pid: int) -> int:
    total, counted = 0, True
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as file:
        for line in file:
            first = line.split(maxsplit=1)[0]
            if not first.endswith(":"):
                counted = not any(name in line for name in (".seg", "data.mdb"))
            elif first == "Rss:" and counted:
                total += int(line.split()[1]) * 1024
    return total


def measure_restart(config: Config, server: Server, first: Asked, figures: Recorder) -> None:
    """All workers are killed at once."""
    before = server.workers()
    began = time.monotonic()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    answered_first(server.port, first, server.process)
    figures.add("killed workers to the next right answer, s", time.monotonic() - began, at_most=1)


def settle(config: Config) -> None:
    """Let a writer recover what was killed, and close the index as a stop does, but for saving it."""
    registry = Registry.open(config, keys.load(config.key_file))
    registry.index.close()
    registry.store.close()


def drop_caches() -> bool:
    """Empty the disk cache, if this user may."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


# --- in this process ------------------------------------------------------------------------------------------------


class CountingStore(StoreReader):
    """Counts the records that are asked for."""

    reads = 0

    def use_record(self, *arguments: Any, **named: Any) -> Any:
        self.reads += 1
        return super().use_record(*arguments, **named)


@contextmanager
def opened(config: Config) -> Iterator[tuple[CountingStore, IndexReader]]:
    secrets = keys.load(config.key_file)
    store = CountingStore(config.store_dir, key_id=secrets.key_id, map_bytes=config.map_bytes)
    directory = index_directory(config, store.store_id)
    index = IndexReader.attach(directory, store_id=store.store_id, key_id=secrets.key_id)
    try:
        yield store, index
    finally:
        index.close()
        store.close()


def measure_memory_verdicts(config: Config, asked: list[Asked], figures: Recorder) -> int:
    """How many verdicts are decided without reading any record, and how many of all are wrong."""
    clock = Clock()
    wrong = read = 0
    with opened(config) as (store, index):
        verifier = Verifier(index, store, keys.load(config.key_file), clock)
        reader = Reader(policy="warn", today=clock.today, insurer=verifier.insurer)
        for request, verdict, reason in asked:
            _, inquiry = reader.inquiry(json.dumps(request | {"detail": "verdict"}).encode())
            before = store.reads
            decision = verifier.verdict(inquiry)
            read += store.reads > before
            wrong += (decision.verdict, decision.reason) != (verdict, reason)
    figures.add("verdicts decided from memory, %", 100 * (1 - read / len(asked)))
    figures.add("wrong verdicts from memory", wrong, at_most=0)
    return wrong


def measure_find(config: Config, figures: Recorder) -> None:
    """One call each, on fresh keys; beside the same calls on few keys, which the processor's cache holds."""
    with opened(config) as (store, index):
        digests, hashes = some_keys(store)
        few = digests[:200] * (len(digests) // 200)
        figures.add("find, one call each, fresh keys, us", _find_us(index, digests), at_most=0.6)
        figures.add("find, one call each, 200 keys again and again, us", _find_us(index, few))
        began = time.monotonic()
        counts, _ = index.find_many(hashes)
        figures.add("find_many, fresh keys, M keys/s", len(hashes) / (time.monotonic() - began) / 1e6)
        assert counts.all()


def _find_us(index: IndexReader, digests: list[bytes]) -> float:
    rounds = []
    size = len(digests) // 4
    for start in range(0, 4 * size, size):
        some, find = digests[start : start + size], index.find
        began = time.thread_time_ns()
        found = sum([len(find(digest)) for digest in some])
        rounds.append((time.thread_time_ns() - began) / len(some) / 1e3)
        assert found >= len(some)
    return statistics.median(rounds)


def some_keys(store: StoreReader) -> tuple[list[bytes], NDArray[np.uint64]]:
    """Hashes of entries from everywhere in the store, in random order."""
    end = store.next_person
    numbers = FINDS // SPOTS
    starts = [max(1, end * n // SPOTS) for n in range(SPOTS)]
    pieces = [theirs for at in starts for _, theirs in store.entries(store.committed_seq, at, at + numbers)]
    packed = np.concatenate(pieces)["hash"]
    packed = np.random.default_rng(1).permutation(packed)[:FINDS]
    return [bytes(each) for each in packed], np.frombuffer(packed.tobytes(), "<u8").reshape(-1, 2).astype(np.uint64)
