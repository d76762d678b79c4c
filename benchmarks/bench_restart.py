"""Owns the measurement of restarts: from the kill of every worker, or of the whole server, to the next right answer.

The store holds the personas; the index holds as many synthetic keys beside theirs as the size says, because what a
restart could cost is the mapping and the reading of a large table.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from api.cli.people import today_in_japan
from engine import keys
from engine.config import Config
from engine.entries import CARD, ENTRY_DTYPE
from engine.ingest.registry import Registry
from loadtest import population
from tests.support.processes import (
    Running,
    ask_once,
    make_store,
    remove_index,
    serving,
    signal_quietly,
    until,
)

KEYS = {"smoke": 10_000, "standard": 10_000_000, "large": 100_000_000}
BATCH = 1_000_000
SECONDS_MAX = 1.0
"""From the kill of a worker to its first answer."""
ROUNDS = 10


@pytest.fixture(scope="module")
def config(size: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A store whose index was filled up with keys of nobody."""
    made = make_store(tmp_path_factory.mktemp("restart"))
    registry = Registry.open(made, keys.load(made.key_file))
    version = registry.index.data_version
    registry.index.rebuild(
        lambda: _entries(registry, version, KEYS[size]), seq=version, keys=KEYS[size] + registry.index.count
    )
    registry.close()
    yield made
    remove_index(made.data_dir, made.key_file)


def _entries(registry: Registry, version: int, count: int) -> Iterator[tuple[Any, Any]]:
    yield from registry.store.entries(version)
    chance = np.random.default_rng(20261123)
    for start in range(0, count, BATCH):
        entries = np.zeros(min(BATCH, count - start), ENTRY_DTYPE)
        entries["hash"] = np.frombuffer(chance.bytes(16 * len(entries)), "V16")
        entries["kind"] = CARD
        yield np.arange(len(entries), dtype=np.uint32) + np.uint32(2**31 + start), entries


@pytest.fixture
def server(config: Config) -> Iterator[Running]:
    with serving(config, workers=2) as running:
        yield running


def bench_restart_killed_workers(benchmark: Any, server: Running, size: str, figure: Any) -> None:
    """All workers are killed at once; the answer comes from one that was started anew."""
    persona = population.personas(today_in_japan())[0]
    verdicts: set[str] = set()

    def settle() -> None:
        until(lambda: len(set(server.children()) & set(server.worker_pids())) == 2, "both workers", server)

    def kill_and_ask() -> None:
        for pid in server.worker_pids():
            signal_quietly(pid, signal.SIGKILL)
        while True:
            with suppress(ConnectionError):  # taken by a worker that was about to die
                answer = ask_once(server.port, "POST", "/v1/eligibility/check", persona["request"])[2]
                return verdicts.add(answer["verdict"])

    benchmark.extra_info["keys"] = KEYS[size]
    benchmark.pedantic(kill_and_ask, setup=settle, rounds=ROUNDS)
    assert verdicts == {persona["verdict"]}
    figure(
        f"killed workers to their first answer, s, {KEYS[size]:,} keys", benchmark.stats.stats.max, at_most=SECONDS_MAX
    )
    benchmark.extra_info["checksum"] = persona["verdict"]


def bench_restart_reference_whole_server(benchmark: Any, config: Config, size: str) -> None:
    """From the command to both workers ready, the interpreter's start and all imports included; index in memory."""

    workers: list[int] = []

    def start_and_stop() -> None:
        with serving(config, workers=2) as running:
            workers.append(len(running.worker_pids()))

    benchmark.pedantic(start_and_stop, rounds=3)
    assert workers == [2, 2, 2]
    benchmark.extra_info |= {"keys": KEYS[size], "checksum": sum(workers)}
