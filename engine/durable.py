"""Owns durability of plain files: the only place that renames and fsyncs.

What counts as durable here: the bytes of the file were synced, and so was the directory entry that names it. Both
need their own fsync; a rename alone orders nothing.

A sync that fails is never tried again: the kernel may have dropped the dirty pages and reported it once. The caller
gets StoreFullError when space is the reason (nothing was replaced) and StorePoisonedError otherwise (reopen, recover).
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine.errors import StoreError, StoreFullError, StorePoisonedError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TEMPORARY = ".tmp-"


def is_full(code: int | None) -> bool:
    """Whether an errno says that space (disk, quota, file size limit) ran out."""
    return code in _FULL


def has_room(beside: Path, extra_bytes: int = 4 << 20) -> bool:
    """Whether a file as long as `beside` could grow by `extra_bytes` in its directory: asked by trying.

    For libraries that report a short write as an input/output error. A probe is written and removed.
    """
    temporary = beside.with_name(f"{beside.name}{_TEMPORARY}{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, extra_bytes)
            os.truncate(file.fileno(), beside.stat().st_size + extra_bytes)  # sparse: asks for the file size limit
    except OSError as error:
        return not is_full(error.errno)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def error_of(error: OSError, what: str) -> StoreError:
    """The StoreError that a failed write or sync stands for. `what` names the operation, not a person."""
    if is_full(error.errno):
        return StoreFullError(f"no space left: {what}")
    return StorePoisonedError(f"{what} failed ({errno.errorcode.get(error.errno or 0, 'unknown')})")


def write_atomic(path: Path, data: bytes | Callable[[BinaryIO], object], *, mode: int = 0o644) -> None:
    """Put a whole file in place of whatever is at `path`; a crash leaves the old or the new file, never a mixture.

    Args: data: the bytes, or a function that writes them to the open file (for what is too large for memory).
    Durable on return. Raises StoreFullError (the old file stays), StorePoisonedError.
    """
    # open(path.tmp-..., O_CREAT|O_EXCL), write, fsync(file), close, rename(tmp, path), open(dir), fsync(dir)
    temporary = path.with_name(f"{path.name}{_TEMPORARY}{secrets.token_hex(6)}")
    try:
        with explained(f"writing {path.name}"):
            _write_new(temporary, data, mode)
            os.rename(temporary, path)  # the turning point: from here on readers see the new file
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def create_exclusive(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make a file that must not exist yet. Durable on return.

    The file appears under its name only when its bytes are complete and synced.
    Raises FileExistsError, StoreFullError, StorePoisonedError.
    """
    # open(path.tmp-..., O_CREAT|O_EXCL), write, fsync(file), link(tmp, path), unlink(tmp), fsync(dir)
    temporary = path.with_name(f"{path.name}{_TEMPORARY}{secrets.token_hex(6)}")
    try:
        with explained(f"writing {path.name}", FileExistsError):
            _write_new(temporary, data, mode)
            os.link(temporary, path)  # unlike rename, link refuses to replace
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def sync_file(path: Path) -> None:
    """fsync a file that something else wrote (LMDB's copy, for one)."""
    with explained(f"syncing {path.name}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_data(descriptor: int, what: str) -> None:
    """fdatasync what was written to an open file: its bytes, and its length if that changed."""
    with explained(what):
        os.fdatasync(descriptor)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    with explained(f"syncing directory {path.name}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Unlink a file if it is there, and make that durable."""
    with explained(f"removing {path.name}"):
        path.unlink(missing_ok=True)
    fsync_directory(path.parent)


def remove_leftovers(directory: Path) -> int:
    """Unlink what interrupted writes left behind in a directory. Returns how many."""
    leftovers = [path for path in directory.iterdir() if _TEMPORARY in path.name]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _write_new(path: Path, data: bytes | Callable[[BinaryIO], object], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def explained(what: str, *kept: type[OSError]) -> Iterator[None]:
    """Say in the store's terms what the system refused (`error_of`); the errors `kept` are raised as they are."""
    try:
        yield
    except kept:
        raise
    except OSError as error:
        raise error_of(error, what) from error
