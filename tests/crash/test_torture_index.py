"""Readers beside a writer that never rests, in processes of their own, and writers that are killed at any instant."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import tables

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=tables.FORMS, ids=lambda form: {1: "atomic16", 2: "versioned"}[form])
def form(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def start(role: str, directory: Path, form: int, seconds: float, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.torture", role, str(directory), str(form), str(seconds), str(seed)]
    # Python promises no order of stores to other processes, so this is about the compiled form always.
    environment = {**os.environ, "SHIKAKU_EXT": "compiled"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def report(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None and process.stdout.readline() == "ready\n"


def check(seen: dict[str, Any]) -> None:
    assert (seen["torn"], seen["missed"], seen["versions_back"]) == (0, 0, 0), seen
    assert seen["finds"] > 1000 and seen["still"] > seen["finds"] // 100 and seen["matches"] > seen["finds"] // 40


def torture(directory: Path, form: int, seconds: float) -> None:
    writer = start("write", directory, form, seconds, 1)
    ready(writer)
    readers = [start("read", directory, form, seconds - 1, seed) for seed in (2, 3)]
    for reader in readers:
        check(report(reader))
    written = report(writer)
    assert written["changes"] > 100 and written["generations"] > 0 and written["problems"] == 0


def hot(path: Path, form: int, seconds: float) -> None:
    writer = start("write-hot", path, form, seconds, 1)
    ready(writer)
    readers = [start("read-hot", path, form, seconds - 1, seed) for seed in (2, 3, 4)]
    for reader in readers:
        seen = report(reader)
        assert (seen["torn"], seen["missed"]) == (0, 0), seen
        assert seen["finds"] > 10_000 and seen["matches"] > seen["finds"] // 4
    assert report(writer)["count"] == 8


def killing(directory: Path, form: int, kills: int) -> None:
    random.seed(form)
    first = start("write", directory, form, 60, 0)
    ready(first)
    readers = [start("read", directory, form, kills * 0.6, seed) for seed in (2, 3)]
    writer = first
    for kill in range(kills):
        time.sleep(random.uniform(0, 0.15))
        writer.kill()
        assert writer.wait() == -9
        assert writer.stdout is not None
        writer.stdout.close()
        # It fails if what is left has an entry that nobody wrote, or lacks one that was never removed.
        writer = start("write", directory, form, 60, kill + 1)
        ready(writer)
    for reader in readers:
        check(report(reader))
    writer.kill()
    writer.communicate()


def test_readers_see_whole_entries_and_miss_none(tmp_path: Path, form: int) -> None:
    torture(tmp_path / "index", form, 5)


def test_readers_of_a_line_that_is_written_all_the_time_see_whole_entries(tmp_path: Path, form: int) -> None:
    hot(tmp_path / "segment", form, 4)


def test_a_killed_writer_leaves_a_table_that_can_be_taken_over(tmp_path: Path, form: int) -> None:
    killing(tmp_path / "index", form, 12)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_readers_see_whole_entries_for_longer(tmp_path: Path, form: int) -> None:
    torture(tmp_path / "index", form, 40)
    hot(tmp_path / "segment", form, 40)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_hundred_killed_writers(tmp_path: Path, form: int) -> None:
    killing(tmp_path / "index", form, 100)
