"""Kills processes of a real server at random instants (-9) while feeds and calls are written and checks are asked.

The model is small. Insured people come in units that are registered together and lose their cover together; a unit is
at stage 0 (unknown), 1 (valid) or 2 (lost). A check may answer anything from the highest stage that was acknowledged
or seen before it was asked, up to the highest stage that was sent before its answer came. So whatever was
acknowledged stays, nothing is taken back that anybody has seen, nothing appears that nobody sent, and a file shows
either all of its rows or none. A writer whose connection broke sends the same bytes again.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine import fsck, keys
from engine.config import Config
from loadtest.population.personas import KUMIAI, KYOKAI, KYOSAI
from tests.support.processes import Caller, Running, make_store, remove_index, serving, signal_quietly

WRITERS = {KYOKAI: "calls", KUMIAI: "calls", KYOSAI: "feeds"}
"""One writer an insurer: a call without a number is a repetition only while nothing else of its insurer came since."""
STAGES = {"NOT_FOUND": 0, "VALID": 1, "INVALID": 2}
FEED_ROWS = 400
CHECKERS = 3


@dataclass
class Unit:
    """People who are registered together: numbers of their cards, and how far that is known to have come."""

    insurer: str
    numbers: range
    sent: int = 0
    acknowledged: int = 0
    seen: int = 0


@dataclass
class World:
    """What writers have sent and checkers have seen, and what went wrong."""

    server: Running
    units: list[Unit] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    checks: int = 0
    breaks: int = 0
    broken_checks: int = 0
    may_be_down: bool = False
    """Whether there are moments without a server: only then may a connection be refused."""
    stop: threading.Event = field(default_factory=threading.Event)
    _next: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def new_unit(self, insurer: str, people: int) -> Unit:
        with self._lock:
            unit = Unit(insurer, range(self._next, self._next + people))
            self._next += people
            self.units.append(unit)
            return unit

    def note(self, error: OSError) -> None:
        """A request without an answer."""
        self.breaks += 1
        if isinstance(error, ConnectionRefusedError):
            if not self.may_be_down:
                self.wrong.append("a connection was refused")
            time.sleep(0.02)
        elif not isinstance(error, ConnectionError):
            self.wrong.append(f"a request ended with {type(error).__name__}")


# --- writers ------------------------------------------------------------------------------------------------------


def rows(unit: Unit, op: str) -> list[dict[str, Any]]:
    return [row(unit.insurer, number, op) for number in unit.numbers]


def row(insurer: str, number: int, op: str) -> dict[str, Any]:
    common = {
        "op": op,
        "insurer_number": insurer,
        "symbol": "880",
        "number": str(number),
        "branch": "00",
        "birth_date": "1980-01-01",
        "gained_on": "2020-04-01",
    }
    if op == "lose":
        return common | {"lost_on": "2021-04-01", "loss_reason": "99"}
    return common | {"name": "試験 者", "name_kana": "シケン シャ", "sex": 1, "relation": 1}


def write(world: World, caller: Caller, path: str, body: object, **headers: str) -> None:
    """Send until it is acknowledged; the same bytes each time."""
    while True:
        try:
            status, _, answer = caller.ask("POST", path, body, **headers)
        except OSError as error:
            world.note(error)
            continue
        if status == 200:
            return
        if status != 503:
            world.wrong.append(f"a write was answered with {status}: {answer}")
            return
        time.sleep(0.02)


def write_calls(world: World, insurer: str, seed: int) -> None:
    """Register a few people by call, and let some of them lose their cover later."""
    chance = random.Random(seed)
    caller = Caller(world.server.registry_port)
    path = f"/v1/insurers/{insurer}/qualifications"
    held: list[Unit] = []
    while not world.stop.is_set():
        if held and chance.random() < 0.4:
            unit, op = held.pop(chance.randrange(len(held))), "lose"
        else:
            unit, op = world.new_unit(insurer, chance.randrange(1, 4)), "new"
            held.append(unit)
        unit.sent += 1
        write(world, caller, path, {"operations": rows(unit, op)})
        unit.acknowledged = unit.sent
    caller.close()


def write_feeds(world: World, insurer: str, seed: int) -> None:
    """Register hundreds of people by file, and let the whole file's people lose their cover by the next."""
    chance = random.Random(seed)
    caller = Caller(world.server.registry_port)
    while not world.stop.is_set():
        unit = world.new_unit(insurer, chance.randrange(FEED_ROWS // 2, FEED_ROWS))
        for op in ("new", "lose"):
            given = rows(unit, op)
            lines = [",".join(given[0]), *(",".join(map(str, each.values())) for each in given)]
            unit.sent += 1
            write(
                world,
                caller,
                f"/v1/insurers/{insurer}/feeds",
                "\r\n".join([*lines, ""]).encode(),
                Content_Type="text/csv",
            )
            unit.acknowledged = unit.sent
    caller.close()


# --- checkers -----------------------------------------------------------------------------------------------------


def check_on(world: World, seed: int) -> None:
    """Ask about random people and hold every answer against the model."""
    chance = random.Random(seed)
    caller = Caller(world.server.port)
    while not world.stop.is_set():
        time.sleep(0.001)  # the writers are to have their share of two cores
        if not world.units:
            continue
        unit = chance.choice(world.units[-200:] if chance.random() < 0.7 else world.units)
        try:
            check(world, caller, unit, chance.choice(unit.numbers))
        except OSError as error:
            world.broken_checks += 1
            world.note(error)
    caller.close()


def check(world: World, caller: Caller, unit: Unit, number: int) -> None:
    low = max(unit.acknowledged, unit.seen)
    card = {
        "insurer_number": unit.insurer,
        "symbol": "880",
        "number": str(number),
        "branch": "00",
        "birth_date": "1980-01-01",
    }
    request = {"institution": "1311111114", "as_of": "2026-01-01", "card": card}
    status, _, answer = caller.ask("POST", "/v1/eligibility/check", request)
    high = unit.sent
    stage = STAGES.get(answer.get("verdict", ""), -1)
    if status != 200 or not low <= stage <= high:
        world.wrong.append(f"person {number}: {status} {answer.get('verdict', answer)}, allowed {low} to {high}")
        return
    unit.seen = max(unit.seen, stage)
    world.checks += 1


# --- the run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """A store whose index is so small that it grows many times during the test."""
    made = make_store(tmp_path, index_keys=64)
    yield made
    remove_index(made.data_dir, made.key_file)


def victims_of(server: Running, kind: str) -> list[int]:
    """Processes to choose from, those that are just starting included: a registry may die while it recovers."""
    return [pid for pid in server.children() if kind == "all" or pid not in server.worker_pids()]


def kill_and_watch(world: World, kind: str, kills: int, chance: random.Random) -> None:
    """Kill one process after another at random instants: at once, in its start, or when much has been written."""
    for _ in range(kills):
        time.sleep(chance.choice((0.0, 0.05, 0.3, 0.8)) + chance.random() * 0.2)
        while not (victims := victims_of(world.server, kind)):
            time.sleep(0.01)
        signal_quietly(chance.choice(victims), signal.SIGKILL)
        assert world.server.process.poll() is None, world.server.said()
        if world.wrong:
            return


def settle(world: World) -> None:
    """After the last kill: everything sent is acknowledged, and every unit is where it was sent, whoever answers."""
    caller = Caller(world.server.port)
    for unit in world.units:
        assert unit.acknowledged == unit.sent
        for number in {unit.numbers[0], unit.numbers[-1]}:
            check(world, caller, unit, number)
    caller.close()


def start(world: World, seed: int) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=write_calls if how == "calls" else write_feeds, args=(world, insurer, seed + at))
        for at, (insurer, how) in enumerate(WRITERS.items())
    ]
    threads += [threading.Thread(target=check_on, args=(world, seed - at)) for at in range(1, CHECKERS + 1)]
    for thread in threads:
        thread.start()
    return threads


def finish(world: World, threads: list[threading.Thread]) -> None:
    world.stop.set()
    for thread in threads:
        thread.join(60)
    if any(thread.is_alive() for thread in threads):
        for pid in world.server.children():
            signal_quietly(pid, signal.SIGABRT)  # each says where it is
        time.sleep(1)
        raise AssertionError(f"a request was never answered: {world.wrong[:5]}\n{world.server.said()[-20_000:]}")


def judge(world: World, config: Config, seed: int) -> None:
    """Everything is as the model says, the store is sound, and the server knows of no defect."""
    assert not world.wrong, (seed, world.wrong[:5], world.server.said()[-2000:])
    settle(world)
    assert not world.wrong, (seed, world.wrong[:5], world.server.said()[-2000:])
    report = fsck.run(config, keys.load(config.key_file))
    assert report.ok, (seed, report.problems[:5])
    assert "defect" not in world.server.said() and "exit code" not in world.server.said(), world.server.said()[-2000:]
    print(f"seed {seed}: {world.checks} checks, {len(world.units)} units, {world.breaks} broken requests")


def run(config: Config, kind: str, kills: int) -> World:
    seed = seed_of_run()
    with serving(config) as server:
        world = World(server)
        threads = start(world, seed)
        try:
            kill_and_watch(world, kind, kills, random.Random(seed))
        finally:
            finish(world, threads)
        judge(world, config, seed)
        assert server.stop() == 0
    return world


def seed_of_run() -> int:
    """New in every run; SHIKAKU_TEST_SEED replays one."""
    seed = int(os.environ.get("SHIKAKU_TEST_SEED") or int.from_bytes(os.urandom(4)))
    print(f"SHIKAKU_TEST_SEED={seed}")
    return seed


def test_kills_of_the_registry_lose_nothing_and_break_no_check(config: Config) -> None:
    world = run(config, "registry", 12)
    assert world.checks > 100
    assert not world.broken_checks, "workers go on while there is no registry"


def test_kills_of_anything_lose_nothing_and_give_no_wrong_answer(config: Config) -> None:
    world = run(config, "all", 25)
    assert world.checks > 100
    assert world.broken_checks <= 25 * CHECKERS, "only connections of a killed process break"


def test_kills_of_the_whole_server_lose_nothing(config: Config) -> None:
    """As a power cut takes all processes at once (but not what the kernel had not written to disk yet)."""
    seed = seed_of_run()
    chance = random.Random(seed)
    with ExitStack() as stack:
        server = stack.enter_context(serving(config))
        world = World(server, may_be_down=True)
        threads = start(world, seed)
        try:
            for _ in range(4):
                time.sleep(0.3 + chance.random())
                server.stop(signal.SIGKILL)
                server = world.server = stack.enter_context(serving(config, port=server.port))
        finally:
            finish(world, threads)
        judge(world, config, seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_hundred_kills_of_anything(config: Config) -> None:
    run(config, "all", 200)
