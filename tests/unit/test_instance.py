"""Asks whether the lock and the state file of a data folder say truly which server runs there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from api import instance
from api.instance import ServerState
from engine import durable
from engine.errors import StoreLockedError, StoreMissingError, StorePoisonedError

STATE = ServerState("127.0.0.1", 8443, 8444, os.getpid(), 2, [3, 4], 1_700_000_000_000)


def test_the_state_comes_back_as_it_was_written_and_is_forgotten(tmp_path: Path) -> None:
    assert instance.read_state(tmp_path) is None
    instance.write_state(tmp_path, STATE)
    assert instance.read_state(tmp_path) == STATE
    (tmp_path / "server.json.tmp-left").touch()
    instance.forget_state(tmp_path)
    assert instance.read_state(tmp_path) is None and not list(tmp_path.iterdir())


def test_an_unreadable_state_is_none(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text('{"host": 1}')
    assert instance.read_state(tmp_path) is None


def test_a_folder_is_running_exactly_while_its_lock_is_held(tmp_path: Path) -> None:
    assert not instance.is_running(tmp_path)
    lock = instance.hold_lock(tmp_path)
    assert instance.is_running(tmp_path)
    os.close(lock)
    assert not instance.is_running(tmp_path)


def test_a_second_holder_is_refused_at_once_while_the_first_lives(tmp_path: Path) -> None:
    lock = instance.hold_lock(tmp_path)
    instance.write_state(tmp_path, STATE)
    with pytest.raises(StoreLockedError):
        instance.hold_lock(tmp_path)
    os.close(lock)


def test_the_remains_of_a_killed_instance_are_waited_for(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    instance.write_state(tmp_path, ServerState("127.0.0.1", 1, 2, ended.pid, None, [], 0))
    lock = instance.hold_lock(tmp_path)
    release = threading.Timer(0.3, os.close, [lock])
    release.start()
    os.close(instance.hold_lock(tmp_path))
    release.join()


def test_without_a_data_folder_there_is_nothing_to_lock(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError):
        instance.hold_lock(tmp_path / "absent")


@pytest.mark.parametrize("sweeps", range(4))
def test_a_sweep_of_unfinished_files_does_not_lose_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweeps: int
) -> None:
    """A registry that recovers deletes unfinished files; the supervisor's was once among them: it has three tries."""
    write_new, left = durable._write_new, [sweeps]

    def written_and_swept(*given: Any) -> None:
        write_new(*given)
        if left[0]:
            left[0] -= 1
            assert durable.remove_leftovers(tmp_path) == 1

    monkeypatch.setattr(durable, "_write_new", written_and_swept)
    if sweeps < 3:
        instance.write_state(tmp_path, STATE)
        assert instance.read_state(tmp_path) == STATE
    else:
        with pytest.raises(StorePoisonedError):
            instance.write_state(tmp_path, STATE)
        assert instance.read_state(tmp_path) is None
