"""Owns the working files of one import: rows staged between the two passes, and the journal of what to publish.

They live in the spool folder, belong to one process, are read back by it only and are thrown away at the end and at
every start. So their layout is nobody's format: it is the memory layout of the arrays below. They are what keeps an
import's memory bounded by the chunk and not by the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from engine import durable
from engine.entries import ENTRY_DTYPE

# One staged row: what the second pass needs to know without decoding the person, whose MessagePack lies beside it.
ROW_DTYPE: Final = np.dtype(
    [
        ("card", "<u8", 2),
        ("certificate", "<u8", 2),
        ("link", "<u8", 2),
        ("row", "<u4"),
        ("person_at", "<u4"),
        ("person_bytes", "<u4"),
        ("gained", "<u2"),
        ("lost", "<u2"),
        ("card_aux", "<u2"),
        ("certificate_aux", "<u2"),
        ("op", "u1"),
        ("has_certificate", "?"),
        ("has_link", "?"),
        ("plain", "?"),
    ]
)
"""`plain`: a new registration whose index entries do not depend on the person number."""

ADDED_DTYPE: Final = np.dtype([("person", "<u4"), ("entry", ENTRY_DTYPE)])
CHANGE_DTYPE: Final = np.dtype([("seq", "<u8"), ("person", "<u4")])
PIECE: Final = 65_536
"""Journal rows read back at a time."""

_HEAD = struct.Struct("<QQ")


class Staged(NamedTuple):
    """One chunk of rows between the passes."""

    rows: np.ndarray
    """ROW_DTYPE."""
    blob: bytes
    """MessagePack of each row's person, `person_bytes` long, at `person_at`: in any order."""

    def people(self, chosen: NDArray[np.bool_] | None = None) -> list[bytes]:
        """The MessagePack of every row's person, or of the chosen rows'."""
        rows = self.rows if chosen is None else self.rows[chosen]
        starts = rows["person_at"].astype(np.int64)
        ends = starts + rows["person_bytes"]
        blob = self.blob
        return [blob[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


class Spool:
    """A folder's worth of working files for one import; gone when the `with` block ends.

    Raises StoreFullError if the disk has no room for them, StorePoisonedError if they cannot be written otherwise.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._paths = [directory / f"{name}.{part}" for part in ("staged", "added", "changed")]
        with ExitStack() as opened, durable.explained("opening the spool"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            files = [opened.enter_context(path.open("w+b")) for path in self._paths]
            opened.pop_all()
        self._staged, self._added, self._changed = files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path, file in zip(self._paths, (self._staged, self._added, self._changed), strict=True):
            path.unlink(missing_ok=True)
            try:
                file.close()
            except OSError:
                continue  # what could not be flushed to a file that is gone is no loss

    def stage(self, chunk: Staged) -> None:
        """Keep one chunk for the second pass."""
        _write(self._staged, _HEAD.pack(len(chunk.rows), len(chunk.blob)))
        _write(self._staged, chunk.rows.tobytes())
        _write(self._staged, chunk.blob)

    def staged(self) -> Iterator[Staged]:
        """The chunks in the order in which they were staged."""
        _rewind(self._staged)
        while head := self._staged.read(_HEAD.size):
            count, size = _HEAD.unpack(head)
            rows = np.frombuffer(self._staged.read(count * ROW_DTYPE.itemsize), ROW_DTYPE)
            yield Staged(rows, self._staged.read(size))

    def note_added(self, persons: np.ndarray, entries: np.ndarray) -> None:
        """Note new people's index entries, to be published."""
        rows = np.empty(len(persons), ADDED_DTYPE)
        rows["person"], rows["entry"] = persons, entries
        _write(self._added, rows.tobytes())

    def note_changed(self, first_seq: int, persons: np.ndarray) -> None:
        """Note people whose entries have to be compared with the version before, with the changes' numbers."""
        rows = np.empty(len(persons), CHANGE_DTYPE)
        rows["seq"], rows["person"] = np.arange(first_seq, first_seq + len(persons), dtype=np.uint64), persons
        _write(self._changed, rows.tobytes())

    def settle(self) -> None:
        """Write out what was noted, so that a full disk can refuse it no more when it is read back."""
        for file in (self._added, self._changed):
            with durable.explained("writing the spool"):
                file.flush()

    def added(self) -> Iterator[np.ndarray]:
        """What note_added noted, ADDED_DTYPE, in pieces."""
        return _pieces(self._added, ADDED_DTYPE)

    def changed(self) -> Iterator[np.ndarray]:
        """What note_changed noted, CHANGE_DTYPE, in pieces."""
        return _pieces(self._changed, CHANGE_DTYPE)


def empty(directory: Path) -> int:
    """Throw away what imports that were cut off left behind. Returns how many files.

    Raises StoreFullError, StorePoisonedError.
    """
    with durable.explained("emptying the spool"):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        leftovers = [path for path in directory.iterdir() if path.is_file()]
        for path in leftovers:
            path.unlink()
        return len(leftovers)


def _write(file: BinaryIO, data: bytes) -> None:
    with durable.explained("writing the spool"):
        file.write(data)


def _rewind(file: BinaryIO) -> None:
    with durable.explained("writing the spool"):
        file.seek(0)


def _pieces(file: BinaryIO, kind: np.dtype) -> Iterator[np.ndarray]:
    _rewind(file)
    while piece := file.read(PIECE * kind.itemsize):
        yield np.frombuffer(piece, kind)
