"""Does `shikaku load` beside a real server cost any check its answer, and is everything there when it has ended?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from api.cli.people import today_in_japan
from engine.config import Config
from loadtest import population
from loadtest.population.nation import Nation
from tests.support.processes import ROOT, Caller, Running, make_store, remove_index, serving, shikaku, until

PEOPLE = 40_000


class Asking(threading.Thread):
    """Asks the same two things again and again: of somebody who was there before, and of somebody who is loaded."""

    def __init__(self, server: Running, old: dict, new: tuple) -> None:  # type: ignore[type-arg]
        super().__init__(daemon=True)
        self.server, self.old, self.new = server, old, new
        self.stopped = threading.Event()
        self.wrong: list[object] = []
        self.seen: list[str] = []
        self.asked = 0

    def run(self) -> None:
        caller = Caller(self.server.port)
        while not self.stopped.is_set():
            try:
                status, _, answer = caller.ask("POST", "/v1/eligibility/check", self.old["request"])
                if (status, answer.get("verdict")) != (200, self.old["verdict"]):
                    self.wrong.append(answer)
                status, _, answer = caller.ask("POST", "/v1/eligibility/check", self.new[0])
            except Exception as error:
                self.wrong.append(error)
                return
            if status != 200:
                self.wrong.append(answer)
            elif not self.seen or self.seen[-1] != answer["verdict"]:
                self.seen.append(answer["verdict"])
            self.asked += 2
        caller.close()


def load(config: Config, *sources: Path) -> tuple[int, str]:
    done = shikaku("load", *sources, "--data", config.data_dir, "--key", config.key_file)
    return done.returncode, done.stdout + done.stderr


def prepared(folder: Path) -> tuple[Config, Nation, Path]:
    config = make_store(folder)
    population.write_insurers(folder / "all.ndjson")
    named = ("--data", config.data_dir, "--key", config.key_file)
    assert shikaku("insurers", "import", folder / "all.ndjson", *named).returncode == 0
    nation = Nation(PEOPLE, 5, today_in_japan(), town_people=PEOPLE // 4)
    feeds = folder / "nation"
    feeds.mkdir()
    for part in range(nation.parts):
        nation.write_part(part, feeds / f"{part}.csv")
    return config, nation, feeds


def test_no_check_fails_while_a_country_is_loaded(tmp_path: Path) -> None:
    config, nation, feeds = prepared(tmp_path)
    persona = population.personas(today_in_japan())[0]
    wanted = next(asked for asked in nation.inquiries(3, 100) if asked[1] == "VALID")
    try:
        with serving(config) as server:
            before = server.registry_pid()
            asking = Asking(server, persona, wanted)
            asking.start()
            until(lambda: asking.asked > 20, "some answers", server)
            code, said = load(config, feeds)
            assert code == 0, said + server.said()
            assert f"{nation.rows:,} rows" in said
            until(lambda: asking.seen[-1:] == ["VALID"], "the new people", server)
            until(lambda: server.state().get("registry_pid") not in (None, before), "the registry", server)
            asking.stopped.set()
            asking.join()
            assert asking.wrong == []
            assert asking.seen == ["NOT_FOUND", "VALID"], "somebody was there, and then not"
            assert "a bulk load has the store" in server.said() and "the bulk load has ended" in server.said()
            # The registry is there again, and takes what it is given.
            feed = tmp_path / "nation" / "0.csv"
            named = ("--data", config.data_dir, "--key", config.key_file)
            again = shikaku("import", feed, *named)
            assert again.returncode == 0 and "was imported before" in again.stdout
            assert server.stop() == 0
        checked = shikaku("fsck", "--data", config.data_dir, "--key", config.key_file)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    finally:
        remove_index(config.data_dir, config.key_file)


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


@pytest.mark.parametrize("moment", ["its processes start", "files are prepared"])
def test_an_interrupted_load_says_so_in_one_line_and_goes_on(tmp_path: Path, moment: str) -> None:
    """Ctrl-C reaches every process of the terminal: none of them shows a traceback, and nothing half is left."""
    config, nation, feeds = prepared(tmp_path)
    try:
        command = [sys.executable, "-m", "api.cli.main", "load", str(feeds), "--data", str(config.data_dir)]
        command += ["--key", str(config.key_file)]
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started = psutil.Process(child.pid)
        reached = {
            "its processes start": lambda: any("spawn_main" in " ".join(_command(one)) for one in started.children()),
            "files are prepared": lambda: list((config.data_dir / "spool").glob("load-*")),
        }
        until(lambda: reached[moment]() or child.poll() is not None, moment)
        os.killpg(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 130 and "Traceback" not in said, said
        assert said.splitlines()[-1] == "shikaku: interrupted; files that are in stay in: repeat the command to go on"
        assert list((config.data_dir / "spool").iterdir()) == []
        code, said = load(config, feeds)
        assert code == 0, said
        checked = shikaku("fsck", "--data", config.data_dir, "--key", config.key_file)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    finally:
        remove_index(config.data_dir, config.key_file)


def test_a_rejected_file_is_named_with_its_rows(tmp_path: Path) -> None:
    config, _, feeds = prepared(tmp_path)
    wrong = feeds / "1.csv"
    wrong.write_bytes(wrong.read_bytes().replace(b"new,", b"nwe,", 1))
    try:
        code, said = load(config, feeds)
        assert code == 1
        assert "1.csv is rejected" in said and "input.code" in said and "repeat the command" in said
        wrong.write_bytes(wrong.read_bytes().replace(b"nwe,", b"new,", 1))
        code, said = load(config, feeds)
        assert code == 0 and "3 files (1 were in before)" in said
    finally:
        remove_index(config.data_dir, config.key_file)


def test_a_rejected_file_says_what_lists_its_errors(tmp_path: Path) -> None:
    """It once named an option that only the import has, and `--format`, which it has not either."""
    config = make_store(tmp_path)
    named = ("--data", config.data_dir, "--key", config.key_file)
    try:
        wrong = tmp_path / "wrong.csv"
        wrong.write_text("op,insurer_number,number,birth_date,name\n" + "new,,,,\n" * 30, "utf-8")
        done = shikaku("load", wrong, *named)
        assert done.returncode == 1
        assert f"shikaku import {wrong} --dry-run --report FILE lists them" in done.stdout
        listed = shikaku("import", wrong, "--dry-run", "--report", tmp_path / "errors.json", *named)
        assert listed.returncode == 1 and (tmp_path / "errors.json").stat().st_size > 2000
        unclear = shikaku("load", tmp_path / "master.key", *named)
        assert unclear.returncode == 2 and "name it .csv, .ndjson or .jsonl" in unclear.stderr
    finally:
        remove_index(config.data_dir, config.key_file)
