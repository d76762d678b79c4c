"""Does the run at the size of a country, made as small as a village, end with right answers and all its figures?"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import national

ROOT = Path(__file__).parents[2]
FIGURES = (
    "load, rows/s",
    "keys",
    "index, bytes a key",
    "rebuild of the index from the store, s",
    "build from arrays, M keys/s",
    "start to first right answer, warm, s",
    "memory of a worker beside the shared mappings, MB",
    "find, one call each, fresh keys, us",
    "verdicts decided from memory, %",
)


def test_a_village_goes_all_the_way(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.national", "--people", "4000", "--folder", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--ask", "200", "--keep-caches"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    # A busy machine may miss bounds of time; that is told with a line for each, and by the exit code.
    missed = [line for line in done.stdout.splitlines() if line.startswith("missed: ")]
    assert done.returncode == (3 if missed else 0), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"bounds missed: {len(missed)}"
    assert not [line for line in missed if "wrong" in line or "bytes a key" in line]
    found = json.loads((tmp_path / "run" / "national.json").read_text("utf-8"))
    assert found["people"] == 4000 and found["rows"] > 4400
    assert found["wrong answers over HTTP"] == found["wrong verdicts from memory"] == 0
    assert set(FIGURES) <= found.keys()
    assert "| keys |" in done.stdout
    # Nothing is left that takes room.
    assert not (tmp_path / "run" / "data").exists() and not list((tmp_path / "run").glob("*.csv"))


def test_bounds_that_are_missed_are_told_and_fail_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker with 60.7 MB against 60 was printed beside its bound, and the run ended as if all were well."""
    figures = national.Figures(tmp_path / "national.json")
    figures.add("of no bound", 7)
    figures.add("most", 60.0, at_most=60)
    figures.add("least", 6, at_least=6)
    assert figures.missed == [] and national.verdict(0, figures) == 0
    figures.add("memory, MB", 60.7, at_most=60)
    figures.add("rate", 5.9, at_least=6)
    figures.add("no number", math.nan, at_most=1)
    assert [line.partition(":")[0] for line in figures.missed] == ["memory, MB", "rate", "no number"]
    assert national.verdict(0, figures) == 3 and national.verdict(1, figures) == 1
    national.print_table(figures)
    said = capsys.readouterr().out
    assert "missed: memory, MB: 60.700   (bound: <= 60)" in said and said.endswith("bounds missed: 3\n")


def test_a_disk_without_room_is_told_before_anything_is_done(tmp_path: Path) -> None:
    code = "import shutil, sys; from benchmarks import national; from types import SimpleNamespace as Usage; "
    code += "shutil.disk_usage = lambda path: Usage(free=1); "
    code += f"sys.exit(national.main(['--people', '2000', '--folder', {str(tmp_path / 'run')!r}]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "FOLDER=" in done.stdout
    assert not (tmp_path / "run" / "data").exists()


@pytest.mark.parametrize("people", ["0", "-5", "999", "many"])
def test_a_number_that_makes_no_country_is_told(tmp_path: Path, people: str) -> None:
    """Nobody, and fewer than nobody, were generated and loaded; then came a traceback, and the same in the next run."""
    command = [sys.executable, "-m", "benchmarks.national", "--people", people, "--folder", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "--people" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_store_of_before_is_told_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "run" / "data").mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.national", "--people", "2000", "--folder", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "FOLDER=" in done.stdout and done.stderr == ""
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data"]


def test_an_interrupted_run_leaves_nothing_that_takes_room(tmp_path: Path) -> None:
    """It left its store, of which the next run said so in a traceback."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "benchmarks.national", "--people", "60000", "--folder", str(folder)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    until = time.monotonic() + 120
    while not list(folder.glob("data/spool/load-*")) and child.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    said, _ = child.communicate(timeout=120)
    assert child.returncode == 130 and "Traceback" not in said, said
    assert said.splitlines()[-1].endswith("interrupted: nothing is left of it")
    assert not (folder / "data").exists() and not list(folder.glob("*.csv"))
