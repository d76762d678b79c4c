"""Owns mapped memory: the only user of mmap. A segment is one file, mapped whole, read-only or for writing.

Invariants: every page of a segment exists before it is mapped for the first time (`posix_fallocate`), so a full tmpfs
is an error at creation and never a SIGBUS later; files are replaced and unlinked, never shortened.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Final

import numpy as np

from engine.errors import IndexSpaceError

HUGE_PAGE_BYTES: Final = 2 << 20
_MADV_COLLAPSE: Final = 25
"""Linux 6.1: gather the range into huge pages now; needs no setting and no right."""
_ALIGN_TRIES: Final = 512


class Segment:
    """One mapped file. `huge_pages` says whether the last `collapse` succeeded."""

    __slots__ = ("buffer", "huge_pages", "path")

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path = path
        self.buffer = buffer
        self.huge_pages = False

    @property
    def size_bytes(self) -> int:
        """Length of the file and of the mapping."""
        return len(self.buffer)

    def collapse(self) -> bool:
        """Ask for huge pages, which halve the cost of a random read; not getting them is no error.

        Returns: whether they were got; the rest of the file behind the last whole huge page stays in small ones.
        """
        whole = self.size_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        # Pages that were busy are passed over and make the call fail, though the others are done: ask once more.
        self.huge_pages = whole > 0 and (self._advise(whole) or self._advise(whole))
        return self.huge_pages

    def _advise(self, length: int) -> bool:
        try:
            self.buffer.madvise(_MADV_COLLAPSE, 0, length)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Unmap. Raises BufferError while something still uses the buffer."""
        self.buffer.close()


def create(path: Path, size_bytes: int) -> Segment:
    """Make a file of zero bytes and map it for writing.

    Raises: FileExistsError; IndexSpaceError if there is no room (nothing is left behind then).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        return Segment(path, _map(descriptor, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE))
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG):
            raise IndexSpaceError(f"no room for an index of {size_bytes} bytes in {path.parent}") from error
        raise
    finally:
        os.close(descriptor)


def open_(path: Path, *, writable: bool = False) -> Segment:
    """Map an existing file. Raises FileNotFoundError; ValueError if it is empty."""
    descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        return Segment(path, _map(descriptor, os.fstat(descriptor).st_size, protection))
    finally:
        os.close(descriptor)


class Window:
    """A file mapped read-only with room behind its end, where it will grow; nothing there may be touched before.

    The file stays open until `close`: when a process closes any descriptor of a file, all locks that it has on that
    file are gone, those of a library on its own lock file too.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        address = _libc.mmap(None, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED, self._descriptor, 0)
        if address in (None, _MAP_FAILED):
            error = ctypes.get_errno()
            os.close(self._descriptor)
            raise OSError(error, f"cannot map {size_bytes} bytes")
        self._address: int | None = address
        self._size_bytes = size_bytes
        # Look-ups are random: what lies beside a page is not wanted with it.
        _libc.madvise(address, size_bytes, mmap.MADV_RANDOM)
        memory = (ctypes.c_char * size_bytes).from_address(address)
        self.buffer = memoryview(memory).cast("B").toreadonly()

    def close(self) -> None:
        """Unmap. Raises BufferError while something still uses the buffer."""
        if self._address is not None:
            self.buffer.release()
            _libc.munmap(self._address, self._size_bytes)
            os.close(self._descriptor)
            self._address = None


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


def is_aligned(segment: Segment) -> bool:
    """Whether the mapping begins on a huge page, so that huge pages of the file are used as such."""
    return _excess(segment.buffer) == 0


def _excess(buffer: mmap.mmap) -> int:
    return _address(buffer) % HUGE_PAGE_BYTES


def _address(buffer: mmap.mmap) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def _map(descriptor: int, size_bytes: int, protection: int) -> mmap.mmap:
    """Map at an address where huge pages fit, if the system can be brought to give one.

    The kernel puts a mapping at the upper end of the first gap that is large enough. A filler as long as the excess,
    at that end, makes the next try land on the boundary; a filler that fell into a smaller gap is made larger, and a
    gap that is too small for both is blocked. Where nothing helps, the mapping works all the same, with small pages.
    """
    fillers: list[mmap.mmap] = []
    extra = 0
    for left in reversed(range(_ALIGN_TRIES)):
        buffer = mmap.mmap(descriptor, size_bytes, flags=mmap.MAP_SHARED, prot=protection)
        end, excess = _address(buffer) + -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE, _excess(buffer)
        if size_bytes < HUGE_PAGE_BYTES or excess == 0 or left == 0:
            break
        buffer.close()
        filler = _filler(excess + extra)
        fillers.append(filler)
        if _address(filler) + len(filler) != end:
            if extra:
                fillers.append(_filler(size_bytes))
            extra = 0 if extra else -(-size_bytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    for filler in fillers:
        filler.close()
    return buffer


def _filler(size_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
