"""Owns the reading of segment files: where their frames lie, one frame, all frames block by block.

Safe beside the process that appends: a frame counts from the moment its checksum fits, and frames never change. How
far a segment was read is kept, so that looking again costs only what came since.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from engine.audit import frames
from engine.audit.frames import Header
from engine.errors import AuditDamagedError

_BLOCK_BYTES: Final = 1 << 20


class Block(NamedTuple):
    """Frames that lie one after another: the index of the first, the bytes, where in them each begins."""

    first: int
    data: bytes
    starts: list[int]


class Segment:
    """One segment file, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.header: Header = frames.decode_header(os.pread(self._descriptor, frames.HEADER_BYTES, 0))
            if frames.first_of(path.name) != self.header.first:
                raise AuditDamagedError("the name of the segment is not what its header says")
        except AuditDamagedError as error:
            os.close(self._descriptor)
            raise AuditDamagedError(error.detail, field=path.name) from None
        self._starts = array("Q")
        self.end = frames.HEADER_BYTES
        """Where the last whole frame ends, as far as was read."""

    @property
    def first(self) -> int:
        """Index of the first entry."""
        return self.header.first

    def follow(self) -> int:
        """Look for frames that were appended. Returns how many the segment has."""
        for _ in self._blocks_from(self.end):
            pass
        return len(self._starts)

    def forget(self) -> None:
        """Give back what following took; it is found again when it is asked for."""
        self._starts = array("Q")
        self.end = frames.HEADER_BYTES

    @property
    def is_followed(self) -> bool:
        """Whether places of frames are kept."""
        return len(self._starts) > 0

    def frame(self, place: int) -> tuple[bytes, bytes]:
        """Entry and private part of frame number `place`. Raises AuditDamagedError if there are not so many."""
        if place >= len(self._starts) and place >= self.follow():
            raise AuditDamagedError("the segment holds fewer entries than it should", field=self.path.name)
        data = os.pread(self._descriptor, frames.FRAME_BYTES_MAX, self._starts[place])
        starts, _ = frames.scan(data)
        if not starts:
            raise AuditDamagedError("the checksum of an entry does not fit", field=self.path.name)
        return frames.split(data, 0)

    def blocks(self, place: int = 0) -> Iterator[Block]:
        """The frames from number `place` on, about 1 MiB at a time, each checked."""
        if place and place >= len(self._starts):
            self.follow()
        if place < len(self._starts):
            yield from self._read(self._starts[place], self.first + place)
        elif place == 0:
            yield from self._read(frames.HEADER_BYTES, self.first)

    def rest(self) -> Iterator[tuple[int, bytes]]:
        """What follows the last whole frame: offsets and bytes."""
        at = self.end
        while data := os.pread(self._descriptor, _BLOCK_BYTES, at):
            yield at, data
            at += len(data)

    def close(self) -> None:
        os.close(self._descriptor)

    def _blocks_from(self, at: int) -> Iterator[Block]:
        """Blocks from the end of what is known; what is found becomes known."""
        for block, offset, end in self._scanned(at, self.first + len(self._starts)):
            self._starts.extend([offset + start for start in block.starts])
            self.end = end
            yield block

    def _read(self, at: int, index: int) -> Iterator[Block]:
        if at == self.end:
            yield from self._blocks_from(at)
            return
        for block, _, _ in self._scanned(at, index):
            yield block

    def _scanned(self, at: int, index: int) -> Iterator[tuple[Block, int, int]]:
        while True:
            data = os.pread(self._descriptor, _BLOCK_BYTES, at)
            starts, end = frames.scan(data)
            if starts:
                yield Block(index, data, starts), at, at + end
            index += len(starts)
            at += end
            # Less than a frame was left over: there may be more behind it. Else the frames end here.
            if not starts or len(data) < _BLOCK_BYTES or len(data) - end >= frames.FRAME_BYTES_MAX:
                return


def paths_of(folder: Path) -> list[Path]:
    """The segment files of a log, in order."""
    return sorted(path for path in folder.iterdir() if frames.first_of(path.name) is not None)
