"""Owns what tells processes on one data folder of each other: a server's lock and `server.json`, a bulk load's lock."""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from engine import clock, durable, store
from engine.errors import StoreLockedError, StoreMissingError, StorePoisonedError

_LOCK: Final = "server.lock"
_LOAD_LOCK: Final = "load.lock"
_STATE: Final = "server.json"
_LOCK_PATIENCE_NS: Final = 2_000_000_000
"""How long a start waits for the remains of a killed instance."""
_LOCK_POLL_SECONDS: Final = 0.02
_WRITE_TRIES: Final = 3
_LOAD_TRIES: Final = 10
_HANDOVER_PATIENCE_NS: Final = 120_000_000_000
"""How long a load waits for the registry to finish what it has taken and to save the index."""


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
    return _is_held(data_dir / _LOCK)


def is_loading(data_dir: Path) -> bool:
    """Whether a bulk load has the place of the registry."""
    return _is_held(data_dir / _LOAD_LOCK)


@contextmanager
def load_lock(data_dir: Path) -> Iterator[None]:
    """Take the place of the registry of a server on the data folder, if there is one, until the end of the block.

    The supervisor starts no registry meanwhile; if this process is killed, the system takes the lock back.
    Raises StoreMissingError; StoreLockedError if another load is under way, or the writer does not go.
    """
    if not data_dir.is_dir():
        raise StoreMissingError(f"there is no data folder at {data_dir}")
    descriptor = os.open(data_dir / _LOAD_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for left in reversed(range(_LOAD_TRIES)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # is_loading holds the lock for a moment to ask; a load holds it for its life
                if left == 0:
                    raise StoreLockedError("another bulk load is under way on this data folder") from None
                select.select([], [], [], _LOCK_POLL_SECONDS)
        _send_the_registry_home(data_dir)
        yield
    finally:
        os.close(descriptor)


def _send_the_registry_home(data_dir: Path) -> None:
    """Ask the registry of a running server to end as it does at a stop, and wait until nobody writes the store."""
    told: set[int] = set()
    until = clock.monotonic_ns() + _HANDOVER_PATIENCE_NS
    while store.writer_is_running(data_dir / "store"):
        state = read_state(data_dir) if is_running(data_dir) else None
        pid = state.registry_pid if state is not None else None
        if state is None and not is_running(data_dir) or clock.monotonic_ns() > until:
            raise StoreLockedError("another process is the writer of this store")
        if state is not None and pid is not None and pid not in told and _is_child(pid, state.supervisor_pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            told.add(pid)
        select.select([], [], [], _LOCK_POLL_SECONDS)


def _is_child(pid: int, parent: int) -> bool:
    """Whether a number that was read from a file still is that process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return int(stat.rpartition(")")[2].split()[1]) == parent


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
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
