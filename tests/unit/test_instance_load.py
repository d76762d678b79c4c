"""Asks whether a bulk load takes the registry's place only when it is free, and gives it back however it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from api import instance
from api.cli import status
from engine.errors import StoreLockedError, StoreMissingError
from tests.support import registries

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from api import instance
with instance.load_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_load_is_seen_while_it_lasts(tmp_path: Path) -> None:
    assert not instance.is_loading(tmp_path)
    with instance.load_lock(tmp_path):
        assert instance.is_loading(tmp_path)
        with pytest.raises(StoreLockedError), instance.load_lock(tmp_path):
            pass
    assert not instance.is_loading(tmp_path)


def test_a_load_that_was_killed_has_let_go(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    assert instance.is_loading(tmp_path)
    child.kill()
    child.communicate()
    assert not instance.is_loading(tmp_path)


def test_status_says_that_a_load_is_under_way(tmp_path: Path) -> None:
    config = registries.settings(tmp_path)
    registries.init(config)
    assert status._server(config) == {"running": False, "bulk_load": False}
    with instance.load_lock(config.data_dir):
        assert status._server(config) == {"running": False, "bulk_load": True}


def test_there_must_be_a_data_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError), instance.load_lock(tmp_path / "nowhere"):
        pass


def test_a_writer_that_is_no_server_is_not_sent_away(tmp_path: Path) -> None:
    """Nor is a process whose number stands in a file that a server left behind."""
    config = registries.settings(tmp_path)
    registries.init(config)
    with registries.opened(config):
        began = time.monotonic()
        with pytest.raises(StoreLockedError), instance.load_lock(config.data_dir):
            pass
        assert time.monotonic() - began < 10
    with instance.load_lock(config.data_dir):
        pass
