"""Asks whether the command line and a running server do one job together: from an empty folder to answered checks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli.demo import as_expected
from api.exits import Exit
from engine.config import Config
from tests.support.processes import Running, remove_index, serving, shikaku

PEOPLE = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def config(folder: Path) -> Iterator[Config]:
    """A store made by `shikaku init`."""
    made = Config(data_dir=folder / "data", key_file=folder / "master.key")
    assert shikaku("init", *where(made)).returncode == Exit.OK
    assert shikaku("people", "generate", folder / "feeds", "--people", PEOPLE).returncode == Exit.OK
    yield made
    remove_index(made.data_dir, made.key_file)


@pytest.fixture(scope="module")
def server(config: Config) -> Iterator[Running]:
    with serving(config) as running:
        yield running


def where(config: Config) -> tuple[str, ...]:
    return ("--data", str(config.data_dir), "--key", str(config.key_file))


def parsed(ended: subprocess.CompletedProcess[str]) -> Any:
    assert ended.returncode == Exit.OK, ended.stderr
    return json.loads(ended.stdout)


def test_insurers_and_feeds_go_to_the_running_server(server: Running, config: Config, folder: Path) -> None:
    feeds = folder / "feeds"
    ended = shikaku("insurers", "import", feeds / "insurers.ndjson", *where(config))
    assert ended.returncode == Exit.OK and "insurers registered" in ended.stdout
    receipt = parsed(shikaku("import", feeds / "population.csv", "--json", *where(config)))
    assert receipt["rows"] >= PEOPLE and not receipt["replayed"]
    again = parsed(shikaku("import", feeds / "population.csv", "--json", *where(config)))
    assert again["replayed"] and again["data_version"] == receipt["data_version"]
    assert shikaku("import", feeds / "personas.csv", *where(config)).returncode == Exit.OK


def test_every_persona_is_answered_over_the_command_line(server: Running, config: Config, folder: Path) -> None:
    for each in parsed(shikaku("personas", "--json"))[::4]:
        request = folder / "request.json"
        request.write_text(json.dumps(each["request"]), "utf-8")
        assert as_expected(each, parsed(shikaku("check", "--request", request, "--json", *where(config))))
        assert as_expected(each, parsed(shikaku("check", "--request", request, "--json", "--local", *where(config))))


def test_a_check_by_options_prints_the_qualification_and_advice(server: Running, config: Config) -> None:
    card = ("--insurer", "01130012", "--symbol", "1234", "--number", "1987654", "--birth-date", "2000-01-02")
    ended = shikaku("check", *card, *where(config))
    assert ended.returncode == Exit.OK
    assert "VALID" in ended.stdout and "診療　太郎" in ended.stdout and "advice" in ended.stdout


def test_a_feed_that_the_server_rejects_is_reported_as_the_store_would(
    server: Running, config: Config, folder: Path
) -> None:
    header, first, *_ = (folder / "feeds" / "personas.csv").read_text("utf-8").splitlines()
    bad = folder / "bad.csv"
    bad.write_text("\r\n".join([header, first.replace("2000-01-02", "2000-02-30")]) + "\r\n", "utf-8")
    report = folder / "report.json"
    ended = shikaku("import", bad, "--report", report, *where(config))
    assert ended.returncode == Exit.NEGATIVE
    assert "[feed.rows]" in ended.stderr and "Traceback" not in ended.stderr
    found = json.loads(report.read_text("utf-8"))
    assert found["error_count"] == 1
    assert {"row": 1, "column": "birth_date"}.items() <= found["errors"][0].items()


def test_status_shows_processes_ports_data_and_freshness(server: Running, config: Config) -> None:
    found = parsed(shikaku("status", "--json", *where(config)))
    assert found["server"]["running"] and found["server"]["check_port"] == server.port
    assert found["server"]["worker_pids"] == server.worker_pids()
    assert found["index"]["data_version"] == found["store"]["committed_seq"] > PEOPLE
    assert any(each["fresh_at"] for each in found["freshness"])
    listed = parsed(shikaku("insurers", "list", "--json", *where(config)))
    assert listed == found["freshness"]


def test_fsck_and_snapshot_run_beside_the_server(server: Running, config: Config, folder: Path) -> None:
    assert parsed(shikaku("fsck", "--json", *where(config)))["problem_count"] == 0
    assert shikaku("snapshot", folder / "copy", *where(config)).returncode == Exit.OK
    copy = Config(data_dir=folder / "copy", key_file=config.key_file)
    assert parsed(shikaku("fsck", "--json", *where(copy)))["counts"]["people"] >= PEOPLE


def test_after_the_server_has_stopped_the_commands_work_on_the_store(
    server: Running, config: Config, folder: Path
) -> None:
    assert server.stop() == Exit.OK
    card = ("--insurer", "01130012", "--symbol", "1234", "--number", "1987654", "--birth-date", "2000-01-02")
    gone = shikaku("check", *card, "--port", server.port, *where(config))
    assert gone.returncode == Exit.UNREACHABLE and gone.stderr.count("\n") == 1
    assert "VALID" in shikaku("check", *card, "--local", *where(config)).stdout
    again = parsed(shikaku("import", folder / "feeds" / "personas.csv", "--json", *where(config)))
    assert again["replayed"]
    assert parsed(shikaku("status", "--json", *where(config)))["server"] == {"running": False, "bulk_load": False}
