"""Kills the writer (-9) at random instants of imports, calls and starts: nothing is lost, nothing invented."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random, SystemRandom

import pytest

from engine.config import Config
from engine.ingest.registry import Registry
from engine.records import State
from tests.support import registries

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="shikaku-kills-"))
    yield path
    shutil.rmtree(path)


def killed_writer(folder: Path, random: Random) -> set[str]:
    """Let a writer work and kill it. Returns the digests that it acknowledged."""
    command = [sys.executable, "-m", "tests.support.restless_writer", str(folder), str(random.randrange(2**32))]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stderr is not None
    if random.random() < 0.85:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        time.sleep(random.random() ** 2 * 0.5)
    else:
        time.sleep(random.uniform(0.2, 0.8))  # perhaps within the recovery
    child.send_signal(signal.SIGKILL)
    output, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors
    return {line.removeprefix("ack ") for line in output.splitlines() if line.startswith("ack ")}


def assert_whole(config: Config, acknowledged: set[str]) -> None:
    """Every acknowledged feed is there, and what is there is exactly what the feeds that are there have done."""
    registry = Registry.open(config, registries.KEYS)
    try:
        store = registry.store
        feeds = store.feeds()
        assert acknowledged <= {feed.digest.hex() for feed in feeds}
        people = [person for person in store.people(range(1, store.next_person), store.committed_seq) if person]
        held = [q for person in people for q in person.qualifications]
        assert len(held) == sum(feed.new for feed in feeds)
        assert sum(q.lost_on is not None for q in held) == sum(feed.lost for feed in feeds)
        assert all(q.state is State.CONFIRMED for q in held)
        assert len({person.link_code for person in people}) == len(people)
        registries.assert_sound(config)
    finally:
        registry.index.close()
        registry.store.close()
    registries.assert_sound(config)


def kill_often(folder: Path, kills: int, seed: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    config = registries.settings(folder, index_keys=64)
    registries.init(config)
    acknowledged: set[str] = set()
    for _ in range(kills):
        acknowledged |= killed_writer(folder, random)
        if random.random() < 0.5:  # else the next writer recovers, and is perhaps killed meanwhile
            assert_whole(config, acknowledged)
    assert_whole(config, acknowledged)
    assert acknowledged


def test_25_kills_lose_and_invent_nothing(folder: Path) -> None:
    kill_often(folder, 25, SystemRandom().randrange(2**32))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_200_kills_lose_and_invent_nothing(folder: Path) -> None:
    for batch in range(8):
        kill_often(folder / str(batch), 25, SystemRandom().randrange(2**32))
