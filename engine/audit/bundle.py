"""Owns exported bundles: a part of a log as static files in the layout of c2sp.org/tlog-tiles, written and checked.

A bundle has the checkpoint, bundles of 256 entries for the exported range, and the hash tiles that bind these to the
checkpoint's root: all on their way up and those at the tree's right edge. Any web server can serve it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from engine import durable
from engine.audit import entry as entries
from engine.audit import merkle, notes
from engine.audit.log import CHECKPOINT, COSIGNED, LogReader
from engine.audit.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH
from engine.audit.notes import Checkpoint, Policy
from engine.audit.verify import Progress, Report, Target, first_malformed, own_checkpoints, read_targets
from engine.errors import AuditDamagedError, AuditMissingError, AuditRangeError

TILES: Final = "tile"
ENTRIES: Final = "entries"
_SLACK_MS: Final = 60_000
"""Entries are appended in the order in which they became durable; their times are in order but for less than this."""
_NUMBER: Final = re.compile(r"(?:x\d{3}/)*\d{3}")


def tile_path(level: str, number: int, width: int = TILE_WIDTH) -> str:
    """Where a tile lies: `tile/0/x001/x234/067`, with `.p/112` behind it if it has only so many hashes."""
    digits = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        digits = f"x{number % 1000:03d}/{digits}"
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"{TILES}/{level}/{digits}{partial}"


def tile_of(path: str) -> tuple[str, int, int] | None:
    """Level, number and width that a path says; None if it is no tile's."""
    parts = re.fullmatch(rf"{TILES}/({ENTRIES}|\d|[1-5]\d|6[0-3])/([x\d/]+)(?:\.p/([1-9]\d?\d?))?", path)
    if parts is None or not _NUMBER.fullmatch(parts[2]):
        return None
    width = int(parts[3] or TILE_WIDTH)
    found = parts[1], int(parts[2].replace("x", "").replace("/", "")), width
    return found if tile_path(*found) == path and (parts[3] is None or width < TILE_WIDTH) else None


def width_of(size: int, level: int, number: int) -> int:
    """How many hashes a tile has in a tree of `size` entries; 0 if it is not there."""
    return max(0, min(TILE_WIDTH, (size >> TILE_HEIGHT * level) - number * TILE_WIDTH))


def tiles_for(size: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Level and number of the hash tiles that bind the entries from `start` to before `end` to a tree of `size`."""
    level = 0
    while size >> TILE_HEIGHT * level:
        height = TILE_HEIGHT * (level + 1)
        numbers = set(range(start >> height, (max(end, start + 1) - 1 >> height) + 1)) | {size >> height}
        # What is needed to show that the log continues what it was at `start`.
        numbers |= {max(start - 1, 0) >> height}
        yield from ((level, number) for number in sorted(numbers) if width_of(size, level, number))
        level += 1


# --- writing --------------------------------------------------------------------------------------------------------


def export(log: LogReader, start: int, end: int, out: Path, progress: Progress | None = None) -> Checkpoint:
    """Write the entries from `start` to before `end` as a bundle into a new folder, widened to whole tiles.

    Returns the checkpoint that it is under: the cosigned one if that covers the range, else the newest. Raises
    AuditRangeError if none does, AuditDamagedError if the files do not lead to its root, FileExistsError.
    """
    data, checkpoint = _covering(log, end)
    size = checkpoint.size
    if not 0 <= start < end <= size:
        raise AuditRangeError(f"the range is empty, or not within the {size} signed entries")
    log.refresh()
    if log.root(size) != checkpoint.root:
        raise AuditDamagedError("the log's files do not lead to its checkpoint: run `shikaku audit verify`")
    out.mkdir(parents=True)
    first, last = start // TILE_WIDTH, (end - 1) // TILE_WIDTH
    for number in range(first, last + 1):
        width = width_of(size, 0, number)
        at = number * TILE_WIDTH
        row = [len(each).to_bytes(2, "big") + each for each in log.entries(at, at + width)]
        _put(out / tile_path(ENTRIES, number, width), b"".join(row))
        if progress is not None:
            progress(number + 1 - first, last + 1 - first)
    for level, number in tiles_for(size, start, end):
        width = width_of(size, level, number)
        _put(out / tile_path(str(level), number, width), log.tile(level, number, width))
    durable.write_atomic(out / CHECKPOINT, data)
    return checkpoint


def range_of_times(log: LogReader, begin_ms: int, end_ms: int) -> tuple[int, int]:
    """The indexes from the first entry at or after one time to behind the last before another, or an empty range."""
    low, high = _not_before(log, begin_ms - _SLACK_MS), _not_before(log, end_ms + _SLACK_MS)
    first, behind = high, low
    for index, data in enumerate(log.entries(low, high), low):
        if begin_ms <= entries.at_ms_of(data) < end_ms:
            first, behind = min(first, index), index + 1
    return (first, behind) if first < behind else (low, low)


def _not_before(log: LogReader, at_ms: int) -> int:
    low, high = 0, log.size
    while low < high:
        middle = (low + high) // 2
        if entries.at_ms_of(log.entry(middle)) < at_ms:
            low = middle + 1
        else:
            high = middle
    return low


def _covering(log: LogReader, end: int) -> tuple[bytes, Checkpoint]:
    for name in (COSIGNED, CHECKPOINT):
        data = log.checkpoint(name)
        if data is not None:
            checkpoint = notes.parse_checkpoint(notes.parse(data).text)
            if checkpoint.size >= end:
                return data, checkpoint
    raise AuditRangeError("no checkpoint covers the range yet", field="end")


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# --- checking -------------------------------------------------------------------------------------------------------


def is_bundle(folder: Path) -> bool:
    """Whether a folder has the layout of a bundle and not of a log."""
    return (folder / TILES).is_dir()


def verify_bundle(
    folder: Path,
    policy: Policy,
    witnessed: Sequence[tuple[str, bytes]] = (),
    progress: Progress | None = None,
    wanted: tuple[int, int] | None = None,
) -> Report:
    """Check a bundle: every file, up to the checkpoint's root, and that it holds `wanted` entries (from, to) if given.

    A bundle says by itself only what it holds, not what it should hold: the report has the range.
    """
    if not is_bundle(folder):
        raise AuditMissingError(f"there is no bundle in {folder}")
    report = Report(policy.log.name)
    targets = read_targets(report, own_checkpoints(folder), witnessed, policy)
    own = next((each for each in targets if each.name == CHECKPOINT), None)
    if own is None:
        return report
    check = _Bundle(folder, report, own.checkpoint)
    check.roots([*targets])
    check.files(progress)
    check.coverage(wanted)
    return report


class _Missing(Exception):
    """A file that is needed is not there, or has not its length; the text says which."""


class _Bundle:
    """One bundle under its checkpoint."""

    def __init__(self, folder: Path, report: Report, checkpoint: Checkpoint) -> None:
        self._folder, self._report, self._checkpoint = folder, report, checkpoint
        self._size = checkpoint.size
        self._read: dict[tuple[int, int], bytes] = {}
        self._bound: dict[tuple[int, int], bool] = {}
        self._numbers: list[int] = []
        report.root = checkpoint.root.hex()

    def roots(self, targets: Sequence[Target]) -> None:
        """Compare the tree's root at every signed size."""
        for target in targets:
            size = target.checkpoint.size
            if size > self._size:
                self._report.problem(
                    f"{target.name}: it was signed with {size} entries, the bundle's checkpoint has {self._size}"
                )
                continue
            try:
                root = merkle.range_hash(0, size, self.node)
            except _Missing as error:
                self._report.problem(f"{target.name}: cannot be compared: {error}")
                continue
            if root == target.checkpoint.root:
                self._report.checkpoints += 1
            else:
                self._report.problem(f"{target.name}: the tiles do not lead to the root that was signed")

    def files(self, progress: Progress | None) -> None:
        """Check every file of the bundle."""
        paths = sorted(path for path in (self._folder / TILES).rglob("*") if not path.is_dir())
        for done, path in enumerate(paths, 1):
            name = path.relative_to(self._folder).as_posix()
            try:
                self._file(name)
            except _Missing as error:
                self._report.problem(str(error))
            if progress is not None:
                progress(done, len(paths))

    def coverage(self, wanted: tuple[int, int] | None) -> None:
        """Check that the entries have no gap, and are those that were asked for."""
        numbers = sorted(self._numbers)
        if not numbers:
            self._report.problem("the bundle holds no entries")
            return
        gap = next((n for n in range(numbers[0], numbers[-1] + 1) if n not in set(numbers)), None)
        if gap is not None:
            self._report.problem(f"{tile_path(ENTRIES, gap)}: missing between others")
        self._report.first = numbers[0] * TILE_WIDTH
        self._report.size = min(self._size, (numbers[-1] + 1) * TILE_WIDTH)
        if wanted is not None and (self._report.first > wanted[0] or self._report.size < wanted[1]):
            self._report.problem(
                f"the bundle holds entries {self._report.first} to {self._report.size - 1}, and not all from "
                f"{wanted[0]} to {wanted[1] - 1}"
            )

    def _file(self, name: str) -> None:
        found = tile_of(name)
        if found is None:
            raise _Missing(f"{name}: this is no file of a bundle")
        level, number, width = found
        expected = width_of(self._size, 0 if level == ENTRIES else int(level), number)
        if width != expected:
            raise _Missing(f"{name}: a log of {self._size} entries has no tile of this width there")
        if level == ENTRIES:
            self._entries(name, number, width)
        elif not self._is_bound(int(level), number):
            raise _Missing(f"{name}: its hashes do not lead to the checkpoint's root")

    def _entries(self, name: str, number: int, width: int) -> None:
        row = split((self._folder / name).read_bytes())
        if row is None or len(row) != width:
            raise _Missing(f"{name}: it does not hold {width} whole entries")
        malformed = first_malformed(row)
        first = number * TILE_WIDTH
        if malformed is not None:
            raise _Missing(f"{name}: entry {first + malformed[0]} is no entry: {malformed[1]}")
        stored = self._tile(0, number)
        for place, data in enumerate(row):
            if merkle.leaf_hash(data) != stored[place * HASH_BYTES : (place + 1) * HASH_BYTES]:
                raise _Missing(f"{name}: entry {first + place} is not the one in its hash tile")
        if not self._is_bound(0, number):
            raise _Missing(f"{name}: its hashes do not lead to the checkpoint's root")
        self._numbers.append(number)

    def _is_bound(self, level: int, number: int) -> bool:
        """Whether a tile's hashes lead to the root: through the tile above it, or at the tree's right edge itself."""
        key = level, number
        if key not in self._bound:
            data = self._tile(level, number)
            if len(data) < TILE_WIDTH * HASH_BYTES:
                # A partial tile is at the edge: its hashes make up the root, which `roots` compared.
                self._bound[key] = merkle.range_hash(0, self._size, self.node) == self._checkpoint.root
            else:
                above = self._tile(level + 1, number // TILE_WIDTH)
                at = number % TILE_WIDTH * HASH_BYTES
                fits = above[at : at + HASH_BYTES] == merkle.fold(data)
                self._bound[key] = fits and self._is_bound(level + 1, number // TILE_WIDTH)
        return self._bound[key]

    def _tile(self, level: int, number: int) -> bytes:
        key = level, number
        if key not in self._read:
            width = width_of(self._size, level, number)
            name = tile_path(str(level), number, width)
            try:
                data = (self._folder / name).read_bytes()
            except OSError:
                raise _Missing(f"{name}: missing") from None
            if len(data) != width * HASH_BYTES:
                raise _Missing(f"{name}: it has not {width} hashes")
            if level == 0:
                return data
            self._read[key] = data
        return self._read[key]

    def node(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree, from the tiles."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        data = self._tile(tile_level, first // TILE_WIDTH)
        at = first % TILE_WIDTH * HASH_BYTES
        return merkle.fold(data[at : at + (HASH_BYTES << height)])


def consistency_proof(folder: Path, old: int, size: int) -> list[bytes]:
    """That a bundle's tree of `size` entries continues that of `old`. Raises AuditDamagedError if tiles are missing."""
    check = _Bundle(folder, Report(""), Checkpoint("", size, b""))
    try:
        return merkle.consistency_proof(old, size, check.node)
    except _Missing as error:
        raise AuditDamagedError(f"the bundle lacks what the proof needs: {error}") from None


def split(data: bytes) -> list[bytes] | None:
    """The entries of an entry bundle; None if it does not end where one ends."""
    row, at = [], 0
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        row.append(data[at + 2 : end])
        at = end
    return row if at == len(data) else None
