"""Owns what a running server leaves in its data folder: the lock it holds, and `server.json` for the command line."""

from __future__ import annotations

import fcntl
import os
import select
from pathlib import Path
from typing import Final

import msgspec

from engine import clock, durable
from engine.errors import StoreLockedError, StoreMissingError, StorePoisonedError

_LOCK: Final = "server.lock"
_STATE: Final = "server.json"
_LOCK_PATIENCE_NS: Final = 2_000_000_000
"""How long a start waits for the remains of a killed instance."""
_LOCK_POLL_SECONDS: Final = 0.02
_WRITE_TRIES: Final = 3


class ServerState(msgspec.Struct, frozen=True):
    """What `server.json` in the data folder says about the running instance, for the command line."""

    host: str
    check_port: int
    registry_port: int
    supervisor_pid: int
    registry_pid: int | None
    worker_pids: list[int]
    started_at_ms: int


def hold_lock(data_dir: Path) -> int:
    """Take the lock of the data folder for this process and its children. Raises StoreLockedError.

    A killed instance's children die within milliseconds; a start waits for that, but not for an instance that lives.
    """
    if not data_dir.is_dir():
        raise StoreMissingError(f"there is no data folder at {data_dir}")
    descriptor = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = clock.monotonic_ns() + _LOCK_PATIENCE_NS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            state = read_state(data_dir)
            if clock.monotonic_ns() > until or (state is not None and _alive(state.supervisor_pid)):
                os.close(descriptor)
                raise StoreLockedError(f"another server runs on the data folder {data_dir}") from None
            select.select([], [], [], _LOCK_POLL_SECONDS)


def is_running(data_dir: Path) -> bool:
    """Whether a server runs on the data folder: whether somebody holds its lock."""
    try:
        descriptor = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def write_state(data_dir: Path, state: ServerState) -> None:
    """Say what this instance is, atomically. Raises StoreError.

    A registry that starts just then sweeps unfinished files out of the folder, perhaps this one: then once more.
    """
    for left in reversed(range(_WRITE_TRIES)):
        try:
            durable.write_atomic(data_dir / _STATE, msgspec.json.encode(state))
            return
        except StorePoisonedError:
            if left == 0:
                raise


def forget_state(data_dir: Path) -> None:
    """Leave nothing of this instance behind (the lock file stays; its lock goes with the last process)."""
    for left in data_dir.glob(f"{_STATE}*"):
        left.unlink(missing_ok=True)


def read_state(data_dir: Path) -> ServerState | None:
    """What the last instance said about itself; None if nothing readable. It may be gone: see is_running."""
    try:
        return msgspec.json.decode((data_dir / _STATE).read_bytes(), type=ServerState)
    except (OSError, msgspec.MsgspecError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
