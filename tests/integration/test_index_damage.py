"""Tests that a damaged index, which is only a cache, is made anew under a running server by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.cli.people import today_in_japan
from api.exits import Exit, exit_of
from engine.errors import IndexCorruptError, RecordCorruptError
from loadtest import population
from tests.support.processes import ROOT, Running, ask_once, free_ports, make_store, serving, until

CHECK = "/v1/eligibility/check"
HEADER_BYTES = 64


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A server whose index lies in a folder of the test."""
    config = make_store(tmp_path, index_dir=tmp_path / "index")
    with serving(config, "--config", str(write_settings(tmp_path)), workers=2) as running:
        yield running


def write_settings(folder: Path) -> Path:
    """A settings file that names the index folder."""
    path = folder / "settings.toml"
    path.write_text(f'index_dir = "{folder / "index"}"\n', "utf-8")
    return path


def damage(folder: Path) -> None:
    """Overwrite the fixed part of the live segment's header."""
    live = folder / (folder / "CURRENT").read_text().strip()
    with live.open("r+b") as file:
        file.write(b"\xff" * HEADER_BYTES)


def verdict(port: int, request: object) -> object:
    """What a new connection is told; None while it breaks."""
    try:
        return ask_once(port, "POST", CHECK, request)[2].get("verdict")
    except ConnectionError:
        return None


def test_a_damaged_index_is_made_anew_and_the_server_goes_on(server: Running, tmp_path: Path) -> None:
    cast = population.personas(today_in_japan())
    victim = next(each for each in cast if each["verdict"] == "VALID")
    supervisor, registry, workers = server.process.pid, server.registry_pid(), server.worker_pids()
    assert verdict(server.port, victim["request"]) == "VALID"
    damage(tmp_path / "index")
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: server.registry_pid() != registry and len(server.worker_pids()) == 2, "a new registry", server, 20)
    until(lambda: workers[0] not in server.worker_pids(), "a new worker", server, 20)
    for _ in range(16):
        assert verdict(server.port, victim["request"]) == "VALID"
    assert server.process.pid == supervisor and server.process.poll() is None
    assert "the index is damaged: restarting the registry" in server.said()
    assert server.said().count("(exit code 8)") == 1
    assert ask_once(server.registry_port, "GET", "/readyz")[0] == 200


@pytest.mark.parametrize("role", ["registry", "worker"])
def test_an_index_that_is_damaged_again_and_again_stops_serving(tmp_path: Path, role: str) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    command = [sys.executable, "-m", "tests.support.toy_server", str(data_dir), str(free_ports())]
    ended = subprocess.run(
        [*command, f"{role}={Exit.INDEX:d}"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == Exit.INDEX
    assert "damaged again and again" in ended.stderr
    assert ended.stderr.count("(exit code 8)") >= 4


def test_only_damaged_records_are_corruption() -> None:
    assert exit_of(IndexCorruptError("damaged")) == Exit.INDEX
    assert exit_of(RecordCorruptError("damaged")) == Exit.CORRUPTION
