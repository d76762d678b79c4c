"""Tests of engine/durable: whole files or none, and every failed write or sync has a name."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from engine import durable
from engine.errors import StoreFullError, StorePoisonedError


def test_write_atomic_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write_atomic(path, b"old and long")
    durable.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_write_atomic_takes_a_writer_for_large_files(tmp_path: Path) -> None:
    durable.write_atomic(tmp_path / "file", lambda file: [file.write(b"x" * 1000) for _ in range(3)])
    assert (tmp_path / "file").stat().st_size == 3000


def test_write_atomic_keeps_the_old_file_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write_atomic(path, b"old")

    def fail(file: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(StoreFullError):
        durable.write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_write_atomic_syncs_the_file_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        calls.append("fsync " + ("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        calls.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    durable.write_atomic(tmp_path / "file", b"x")
    assert calls == ["fsync file", "rename", "fsync directory"]


def test_create_exclusive_refuses_to_replace(tmp_path: Path) -> None:
    path = tmp_path / "key"
    durable.create_exclusive(path, b"first", mode=0o600)
    with pytest.raises(FileExistsError):
        durable.create_exclusive(path, b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EFBIG, StoreFullError),
        (errno.EIO, StorePoisonedError),
    ],
)
def test_a_failing_sync_says_who_must_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception]
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(expected):
        durable.write_atomic(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_remove_leftovers_takes_only_its_own(tmp_path: Path) -> None:
    (tmp_path / "file.tmp-0123456789ab").touch()
    (tmp_path / "file").touch()
    assert durable.remove_leftovers(tmp_path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_has_room_sees_the_file_size_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    assert durable.has_room(tmp_path / "file")
    code = (
        "import sys, resource; from pathlib import Path; from engine import durable;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000));"
        "sys.exit(durable.has_room(Path(sys.argv[1])))"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "file"], check=False).returncode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
