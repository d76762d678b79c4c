"""Kills a bulk load (-9) at random instants: nothing durable is lost or half there, and the next goes on from it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from random import Random, SystemRandom

import pytest

from engine.config import Config
from engine.index import IndexReader
from engine.recovery import index_directory
from engine.store import StoreReader
from loadtest.population import insurers as sample_insurers
from loadtest.population.nation import Nation
from tests.support import registries
from tests.support.registries import KEYS

ROOT = Path(__file__).parents[2]
PARTS = 8


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="shikaku-load-kills-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def nation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Nation, Path]:
    """Feeds of a few hundred rows each, so that a load has many instants that differ."""
    made = Nation(PARTS * 600, 11, date(2026, 11, 23), town_people=600)
    feeds = tmp_path_factory.mktemp("nation")
    for part in range(made.parts):
        made.write_part(part, feeds / f"{part:02}.csv")
    return made, feeds


def killed_load(config: Config, feeds: Path, random: Random) -> tuple[set[str], bool]:
    """Let a load run and kill it. Returns the feeds that it said were durable, and whether it had come to the end."""
    command = [sys.executable, "-m", "tests.support.bulk_loader", str(config.data_dir.parent), str(feeds)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stderr is not None
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    begun: list[str] = []
    if random.random() < 0.7:
        begun = [child.stdout.readline()]  # the processes have started; from here on something happens all the time
        time.sleep(random.random() * 0.4)
    else:
        time.sleep(random.random())
    child.send_signal(signal.SIGKILL)
    output, errors = child.communicate()
    lines = [line.strip() for line in begun] + output.splitlines()
    assert child.returncode in (0, -signal.SIGKILL), errors
    return {line.removeprefix("durable ") for line in lines if line.startswith("durable ")}, "visible" in lines


def shown(config: Config) -> tuple[int, int]:
    """What readers see: how many entries, as of which change."""
    store = StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    index = IndexReader.attach(index_directory(config, store.store_id), store_id=store.store_id, key_id=KEYS.key_id)
    try:
        return index.count, index.data_version
    finally:
        index.close()
        store.close()


def kill_often(folder: Path, nation: Nation, feeds: Path, seed: int) -> int:
    """Kill loads of one store until one comes to its end. Returns how many were cut off."""
    print(f"seed {seed}")
    random = Random(seed)
    config = registries.settings(folder)
    registries.init(config, tuple(each.number for each in sample_insurers.insurers()))
    before, durable, kills = shown(config), set[str](), 0
    while True:
        found, visible = killed_load(config, feeds, random)
        durable |= found
        if visible:
            break
        kills += 1
        # Whatever is in the store by now: readers have what they had, until a writer has all of it ready.
        assert shown(config)[1] in (before[1], nation.rows), "readers see a part of a load"
        if random.random() < 0.3:
            with registries.opened(config) as registry:
                applied = len(registry.store.feeds())
                assert applied >= len(durable)
                assert registry.store.committed_seq == applied * nation.town_rows == registry.index.data_version
                registries.assert_sound(config)
            before = shown(config)
    with registries.opened(config) as registry:
        assert len(registry.store.feeds()) == PARTS
        assert registry.store.committed_seq == nation.rows == registry.index.data_version
    registries.assert_sound(config)
    return kills


def test_a_load_that_is_killed_again_and_again_comes_to_its_end(folder: Path, nation: tuple[Nation, Path]) -> None:
    turns = (kill_often(folder / str(turn), *nation, SystemRandom().randrange(2**32)) for turn in range(10))
    assert any(turns), "no load was killed before it had come to its end"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_loads_that_are_killed_come_to_their_end(folder: Path, nation: tuple[Nation, Path]) -> None:
    kills = 0
    for turn in range(12):
        kills += kill_often(folder / str(turn), *nation, SystemRandom().randrange(2**32))
    assert kills >= 12
