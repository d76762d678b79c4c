"""Owns a log's folder: `LogReader` reads it, also beside the process that appends; `LogWriter` appends, durably.

Segments are the truth and there is no other copy of the entries. Level files are derived: what they lack is computed
from the segments, and the writer makes them good when it opens the log. Entries count for readers as soon as they are
whole; what was signed in a checkpoint is promised.
"""

from __future__ import annotations

import bisect
import fcntl
import os
import select
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from engine import durable
from engine.audit import frames, merkle, notes, segments
from engine.audit.frames import SEGMENT_BYTES, Header, entries_of
from engine.audit.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, Frontier
from engine.audit.notes import Checkpoint, Note, Policy, Signer
from engine.audit.segments import Segment
from engine.errors import (
    AuditDamagedError,
    AuditLockedError,
    AuditMissingError,
    AuditNoteError,
    AuditRangeError,
    AuditSignatureError,
    StorePoisonedError,
)

CHECKPOINT: Final = "checkpoint"
COSIGNED: Final = "checkpoint.cosigned"
"""The newest checkpoint that enough witnesses signed."""
VKEY: Final = "vkey"
_FILL_BYTES: Final = 1 << 20
LENT_LEVELS: Final = 8
"""Level files that are handed out: more than a log can ever fill."""
_LOCK_TRIES: Final = 50
_LOCK_PAUSE_SECONDS: Final = 0.002
_FOLLOWED_MAX: Final = 4
"""Full segments of which the places of frames are kept: 8 bytes an entry."""


class LogReader:
    """A log's folder, read-only. Close it, or use it in `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: list[Segment] = []
        self._levels: dict[int, int] = {}
        self._size = 0
        try:
            self.refresh()
            if not self._segments:
                raise AuditMissingError(f"there is no audit log in {folder}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Whole entries, as of the last `refresh`."""
        return self._size

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segment files, in order."""
        return tuple(self._segments)

    def refresh(self) -> int:
        """Look for entries that were appended. Returns the size. Raises AuditMissingError, AuditDamagedError."""
        known = {segment.path for segment in self._segments}
        try:
            self._segments += [Segment(path) for path in segments.paths_of(self.folder) if path not in known]
        except OSError:
            raise AuditMissingError(f"there is no readable audit log in {self.folder}") from None
        if self._segments:
            last = self._segments[-1]
            self._size = last.first + last.follow()
        return self._size

    def entry(self, index: int) -> bytes:
        """One entry's bytes. Raises AuditRangeError, AuditDamagedError."""
        return self.frame(index)[0]

    def frame(self, index: int) -> tuple[bytes, bytes]:
        """One entry and its private part. Raises AuditRangeError, AuditDamagedError."""
        segment = self._segment_of(index)
        return segment.frame(index - segment.first)

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """The entries from `start` to before `end`. Raises AuditRangeError, AuditDamagedError."""
        if not 0 <= start <= end <= self._size:
            raise AuditRangeError("the range is not within the log")
        while start < end:
            segment = self._segment_of(start)
            stop = min(end, self._end_of(segment))
            for block in segment.blocks(start - segment.first):
                found = entries_of(block.data, block.starts[: stop - start])
                yield from found
                start += len(found)
                if start == stop:
                    break
            if start < stop:
                raise AuditDamagedError("the segment holds fewer entries than it should", field=segment.path.name)

    def hashes(self, level: int, start: int, count: int) -> bytes:
        """Hashes of a tile level: of the complete subtrees of 256^level leaves numbered `start` and on."""
        if not 0 <= start or start + count > self._size >> TILE_HEIGHT * level:
            raise AuditRangeError("the hashes are not within the log")
        found = self._stored(level, start, count)
        at, end = start + len(found) // HASH_BYTES, start + count
        if at == end:
            return found
        if level == 0:
            return found + merkle.leaf_hashes(self.entries(at, end))
        return found + b"".join(
            merkle.fold(self.hashes(level - 1, number * TILE_WIDTH, TILE_WIDTH)) for number in range(at, end)
        )

    def tile(self, level: int, number: int, width: int = TILE_WIDTH) -> bytes:
        """The first `width` hashes of tile `number` of a level. Raises AuditRangeError."""
        return self.hashes(level, number * TILE_WIDTH, width)

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree over leaves index * 2^level and on. Raises AuditRangeError."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        return merkle.fold(self.hashes(tile_level, index << height, 1 << height))

    def root(self, size: int) -> bytes:
        """The root of the tree over the first `size` entries. Raises AuditRangeError."""
        self._check_size(size)
        return merkle.range_hash(0, size, self.node)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """That entry `index` is in the tree of `size` entries. Raises AuditRangeError."""
        self._check_size(size)
        return merkle.inclusion_proof(index, size, self.node)

    def consistency_proof(self, old: int, size: int) -> list[bytes]:
        """That the tree of `size` entries continues that of `old`. Raises AuditRangeError."""
        self._check_size(size)
        return merkle.consistency_proof(old, size, self.node)

    def checkpoint(self, name: str = CHECKPOINT) -> bytes | None:
        """The bytes of a checkpoint file; None if there is none yet."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Let go of the files."""
        for segment in self._segments:
            segment.close()
        for descriptor in self._levels.values():
            os.close(descriptor)
        self._segments, self._levels = [], {}

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self._size:
            raise AuditRangeError("the log has not so many entries", field="size")

    def _segment_of(self, index: int) -> Segment:
        if not 0 <= index < self._size:
            raise AuditRangeError("the log has not so many entries", field="index")
        segment = self._segments[bisect.bisect_right(self._segments, index, key=lambda each: each.first) - 1]
        if index < segment.first:
            raise AuditDamagedError("the first segment is missing")
        followed = [each for each in self._segments[:-1] if each.is_followed and each is not segment]
        if len(followed) > _FOLLOWED_MAX:
            followed[0].forget()
        return segment

    def _end_of(self, segment: Segment) -> int:
        """The index after a segment's last entry: where the next begins."""
        following = self._segments.index(segment) + 1
        return self._segments[following].first if following < len(self._segments) else self._size

    def _stored(self, level: int, start: int, count: int) -> bytes:
        if level not in self._levels:
            try:
                self._levels[level] = os.open(level_path(self.folder, level), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""
        found = os.pread(self._levels[level], count * HASH_BYTES, start * HASH_BYTES)
        return found[: len(found) // HASH_BYTES * HASH_BYTES]


def level_path(folder: Path, level: int) -> Path:
    """The file with the hashes of the complete subtrees of 256^level leaves."""
    return folder / f"level-{level}"


def has_writer(folder: Path) -> bool:
    """Whether a process has the log open for appending."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Lent(NamedTuple):
    """An open log, as another appender takes it on: the segment is its own, the other files stay the writer's."""

    log_id: bytes
    folder_fd: int
    level_fds: list[int]
    segment_fd: int
    offset: int
    filled: int
    frontier: Frontier

    def place(self) -> dict[str, Any]:
        """Where it goes on, as ext/ledger wants it."""
        given = ("folder_fd", "level_fds", "segment_fd", "offset", "filled")
        nodes = [node for node in reversed(self.frontier.nodes) if node]
        return {name: getattr(self, name) for name in given} | {"entries": self.frontier.size, "nodes": nodes}


class LogWriter:
    """The one appender of a log. Close it, or use it in `with`.

    Invariants: what `append` returned for is durable; level files hold what the segments hold; whatever fails
    poisons the writer, and opening again recovers.
    """

    def __init__(
        self, folder: Path, signer: Signer, *, slot: int = 0, segment_bytes: int = SEGMENT_BYTES, log_id: bytes = b""
    ) -> None:
        """Open a log for appending, or make one.

        What an interrupted write left after the last whole entry is removed. Raises AuditLockedError if another has
        it open, AuditDamagedError if it holds less than, or something else than, its checkpoints say.
        """
        assert segment_bytes >= frames.HEADER_BYTES + frames.FRAME_BYTES_MAX
        self.folder = folder
        self.signer = signer
        self._segment_bytes = segment_bytes
        self._levels: dict[int, int] = {}
        self._descriptor, self._poisoned = -1, False
        _make_folder(folder)
        self._lock = _lock(folder)
        try:
            durable.remove_leftovers(folder)
            self._open(slot, log_id or os.urandom(frames.LOG_ID_BYTES))
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Entries, all durable."""
        return self._frontier.size

    @property
    def root(self) -> bytes:
        """The root of the tree over all of them."""
        return self._frontier.root()

    def append(self, entries: Sequence[bytes], privates: Sequence[bytes] = ()) -> int:
        """Append entries; durable on return. Returns the index of the first.

        Args: privates: empty, or for each entry its private part, at most 32 bytes.
        Raises AuditEntryError (nothing was appended); StoreFullError, StorePoisonedError (open the log again).
        """
        if self._poisoned:
            raise StorePoisonedError("an earlier write to the audit log failed: open it again")
        bodies = frames.encode_each(entries, privates)
        first, self._poisoned = self.size, True
        with durable.explained("writing the audit log"):
            place = 0
            while place < len(bodies):
                room = self._segment_bytes - self._end
                taken = _fitting(bodies, place, room)
                if taken == place:
                    self._next_segment(first + place)
                    continue
                self._write(b"".join(bodies[place:taken]))
                self._extend(merkle.leaf_hashes(entries[place:taken]))
                place = taken
        self._poisoned = False
        return first

    def sign_checkpoint(self) -> Note:
        """Sign the log as it is, and keep that durably as its checkpoint."""
        note = notes.sign_checkpoint(Checkpoint(self.signer.verifier.name, self.size, self.root), self.signer)
        durable.write_atomic(self.folder / CHECKPOINT, note.encode())
        return note

    def lend(self) -> Lent:
        """What another appender needs to go on with the log, under this lock; here nothing is appended any more."""
        self._poisoned = True
        for level in range(LENT_LEVELS):
            self._level(level)
        return Lent(
            self._header.log_id,
            self._lock,
            [self._levels[level] for level in range(LENT_LEVELS)],
            os.dup(self._descriptor),
            self._end,
            self._filled,
            self._frontier,
        )

    def close(self) -> None:
        """Let go of the log. Nothing is signed."""
        if self._lock >= 0:
            self._sync_levels()
            self._release()

    # --- opening ---------------------------------------------------------------------------------------------------

    def _open(self, slot: int, log_id: bytes) -> None:
        paths = segments.paths_of(self.folder)
        if not paths:
            self._header = Header(0, log_id, slot)
            _create_segment(self.folder, self._header)
        durable.write_atomic(self.folder / VKEY, f"{self.signer.verifier.vkey}\n".encode())
        with LogReader(self.folder) as reader:
            self._header = _chained(reader, slot)
            last = reader.segments[-1]
            self._descriptor = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
            self._end = last.end
            self._remove_rest(last)
            signed = self._signed(reader.size)
            if not self._derived(reader, last.first, signed):
                self._rebuild(reader, signed)

    def _remove_rest(self, last: Segment) -> None:
        """Make zeros of what follows the last whole frame: a later frame must never meet an old one's remains."""
        length = os.fstat(self._descriptor).st_size
        if any(any(data) for _, data in last.rest()):
            os.ftruncate(self._descriptor, self._end)
            length = self._end
            durable.sync_data(self._descriptor, "recovering the audit log")
        self._filled = length

    def _signed(self, size: int) -> dict[int, bytes]:
        """Sizes and roots that were signed. Raises AuditDamagedError if the log is behind one."""
        found: dict[int, bytes] = {}
        for name in (CHECKPOINT, COSIGNED):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                checkpoint = notes.check(path.read_bytes(), Policy(self.signer.verifier)).checkpoint
            except (AuditNoteError, AuditSignatureError) as error:
                raise AuditDamagedError(f"the checkpoint is not this log's: {error.detail}", field=name) from None
            if checkpoint.size > size:
                raise AuditDamagedError(
                    f"the log holds {size} entries, its checkpoint says {checkpoint.size}", field=name
                )
            if found.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
                raise AuditDamagedError("two checkpoints of one size have different roots", field=name)
        return found

    def _derived(self, reader: LogReader, base: int, signed: dict[int, bytes]) -> bool:
        """Take level files as good up to the last segment, and make the rest anew. Returns whether roots agree."""
        for level in range(max(base.bit_length() - 1, 0) // TILE_HEIGHT + 1):
            path = level_path(self.folder, level)
            stored = path.stat().st_size if path.exists() else 0
            if stored < (base >> TILE_HEIGHT * level) * HASH_BYTES:
                return False
        for size, root in signed.items():
            if size <= base and merkle.range_hash(0, size, reader.node) != root:
                return False
        self._cut_levels(base)
        self._frontier = Frontier.at(base, reader.node)
        return self._replay(reader, base, signed)

    def _rebuild(self, reader: LogReader, signed: dict[int, bytes]) -> None:
        """Make level files from the segments. Raises AuditDamagedError if these are not what was signed."""
        self._cut_levels(0)
        self._frontier = Frontier()
        if not self._replay(reader, 0, signed):
            raise AuditDamagedError("the entries are not those of the log's checkpoint: its root differs")

    def _replay(self, reader: LogReader, start: int, signed: dict[int, bytes]) -> bool:
        """Extend frontier and level files from `start` on. Returns whether roots are those signed at their sizes."""
        ends = sorted({*(size for size in signed if size > start), reader.size})
        agrees = start not in signed or self.root == signed[start]
        for end in ends:
            while start < end:
                stop = min(end, start + _REPLAY_ENTRIES)
                self._extend(merkle.leaf_hashes(reader.entries(start, stop)))
                start = stop
            agrees = agrees and (end not in signed or self.root == signed[end])
        return agrees

    def _cut_levels(self, size: int) -> None:
        """Cut level files to what a log of `size` entries has, and open them."""
        numbers = [path.name.removeprefix("level-") for path in self.folder.glob("level-*")]
        for level in sorted({0, *(int(number) for number in numbers if number.isdigit())}):
            os.ftruncate(self._level(level), (size >> TILE_HEIGHT * level) * HASH_BYTES)

    # --- appending -------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self._end + len(data) > self._filled:
            length = min(max(_FILL_BYTES, len(data)), self._segment_bytes - self._filled)
            _pwrite(self._descriptor, bytes(length), self._filled)
            self._filled += length
        _pwrite(self._descriptor, data, self._end)
        durable.sync_data(self._descriptor, "writing the audit log")  # durable from here on
        self._end += len(data)

    def _next_segment(self, first: int) -> None:
        self._sync_levels()
        os.close(self._descriptor)
        self._descriptor = -1
        self._header = Header(first, self._header.log_id, self._header.slot)
        path = _create_segment(self.folder, self._header)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._end = self._filled = frames.HEADER_BYTES

    def _extend(self, leaves: bytes) -> None:
        """Add leaf hashes to the tree, and what became complete to the level files, which are not synced here."""
        size = self._frontier.size
        for level, hashes in self._frontier.extend(leaves).items():
            _pwrite(self._level(level), hashes, (size >> TILE_HEIGHT * level) * HASH_BYTES)

    def _level(self, level: int) -> int:
        if level not in self._levels:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._levels[level] = os.open(level_path(self.folder, level), flags, 0o600)
        return self._levels[level]

    def _sync_levels(self) -> None:
        """So that a crash can lose level hashes of the last segment only."""
        for descriptor in self._levels.values():
            durable.sync_data(descriptor, "writing the audit log")

    def _release(self) -> None:
        for descriptor in (*self._levels.values(), self._descriptor, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._levels, self._descriptor, self._lock, self._poisoned = {}, -1, -1, True


_REPLAY_ENTRIES: Final = 1 << 14


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.fsync_directory(folder.parent)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for remaining in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            # has_writer holds the lock for a moment to ask; a writer holds it for its life
            if remaining:
                select.select([], [], [], _LOCK_PAUSE_SECONDS)
    os.close(descriptor)
    raise AuditLockedError(f"another process writes the audit log {folder}")


def _create_segment(folder: Path, header: Header) -> Path:
    path = folder / frames.name_of(header.first)
    durable.create_exclusive(path, frames.encode_header(header), mode=0o600)
    return path


def _chained(reader: LogReader, slot: int) -> Header:
    """The header of the last segment, if all are of one log and begin at 0. Raises AuditDamagedError."""
    headers = [segment.header for segment in reader.segments]
    if headers[0].first != 0:
        raise AuditDamagedError("the first segment is missing")
    if len({(each.log_id, each.slot) for each in headers}) != 1 or headers[0].slot != slot:
        raise AuditDamagedError("the segments are of different logs, or of another slot")
    return headers[-1]


def _fitting(bodies: Sequence[bytes], start: int, room: int) -> int:
    """Where the run of frames from `start` ends that fits into `room` bytes."""
    end = start
    while end < len(bodies) and len(bodies[end]) <= room:
        room -= len(bodies[end])
        end += 1
    return end


def _pwrite(descriptor: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
