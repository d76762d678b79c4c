"""Owns the offline check of a whole log: all is computed again from the segments and compared with what was signed.

A *problem* is what must not be: an entry changed, missing, added or exchanged below a signed size, a wrong signature, a
file that contradicts another. A *note* is what an interrupted process leaves and the log's writer makes good by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from engine.audit import entry as entries
from engine.audit import merkle, notes, segments
from engine.audit.frames import entries_of
from engine.audit.log import CHECKPOINT, COSIGNED, has_writer, level_path
from engine.audit.merkle import HASH_BYTES, TILE_HEIGHT, Frontier
from engine.audit.notes import Checkpoint, Policy
from engine.audit.segments import Block, Segment
from engine.errors import (
    AuditDamagedError,
    AuditEntryError,
    AuditMissingError,
    AuditNoteError,
    AuditSignatureError,
)

Progress = Callable[[int, int | None], None]
PROBLEMS_MAX: Final = 20
_PRINTABLE: Final = bytes(range(0x20, 0x7F))


class Report(msgspec.Struct):
    """What a check found. `first` to `size` are the entries that were read; `signed` is the largest signed size."""

    origin: str
    first: int = 0
    size: int = 0
    signed: int = 0
    root: str = ""
    checkpoints: int = 0
    """Signed checkpoints that agree with the entries."""
    problems: list[str] = []
    notes: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether nothing contradicts what was signed."""
        return not self.problems

    def problem(self, line: str) -> None:
        """Add a problem; there is an end to their number."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(line)


class Target(msgspec.Struct, frozen=True):
    """A signed checkpoint to compare with, and what it is called."""

    name: str
    checkpoint: Checkpoint


def verify_log(
    folder: Path, policy: Policy, witnessed: Sequence[tuple[str, bytes]] = (), progress: Progress | None = None
) -> Report:
    """Check the folder of a log.

    Args:
        policy: the log's key, the witnesses known, and how many of them must have signed each of `witnessed`.
        witnessed: name and bytes of checkpoints that others hold.
    Raises AuditMissingError if there is no log.
    """
    report = Report(policy.log.name)
    paths = _paths(folder)
    if not paths and not (folder / CHECKPOINT).exists():
        raise AuditMissingError(f"there is no audit log in {folder}")
    targets = read_targets(report, own_checkpoints(folder), witnessed, policy)
    opened = _open(report, paths)
    try:
        if opened is not None:
            walk = _Walk(folder, report, targets, progress)
            try:
                walk.run(opened)
            finally:
                walk.close()
            report.size, report.root = walk.frontier.size, walk.frontier.root().hex()
            walk.conclude()
    finally:
        for segment in opened or ():
            segment.close()
    return report


def own_checkpoints(folder: Path) -> list[tuple[str, bytes]]:
    """The checkpoints that lie beside a log's or a bundle's files."""
    return [(name, (folder / name).read_bytes()) for name in (CHECKPOINT, COSIGNED) if (folder / name).exists()]


def read_targets(
    report: Report, own: Sequence[tuple[str, bytes]], witnessed: Sequence[tuple[str, bytes]], policy: Policy
) -> list[Target]:
    """The checkpoints whose signatures fit; what is wrong with the others goes into the report."""
    found = []
    lenient = Policy(policy.log, policy.witnesses)
    given = [(name, data, policy if name == COSIGNED else lenient) for name, data in own]
    for name, data, rule in [*given, *((name, data, policy) for name, data in witnessed)]:
        try:
            found.append(Target(name, notes.check(data, rule).checkpoint))
        except (AuditNoteError, AuditSignatureError) as error:
            report.problem(f"{name}: {error.detail}")
    report.signed = max((each.checkpoint.size for each in found), default=0)
    names = {name for name, _ in own}
    if CHECKPOINT not in names:
        report.problem(f"{CHECKPOINT}: there is none, so nothing says how much the log must hold")
    if policy.required and not witnessed and COSIGNED not in names:
        report.problem(f"{COSIGNED}: there is none, but {policy.required} witnesses must have signed")
    return found


def _paths(folder: Path) -> list[Path]:
    try:
        return segments.paths_of(folder)
    except OSError:
        raise AuditMissingError(f"there is no readable folder {folder}") from None


def _open(report: Report, paths: Sequence[Path]) -> list[Segment] | None:
    """All segments, if they can be those of one log; else the report says why not."""
    opened: list[Segment] = []
    try:
        for path in paths:
            opened.append(Segment(path))
        if not opened or opened[0].first != 0:
            raise AuditDamagedError("the first segment is missing", field=paths[0].name if paths else None)
        for segment in opened:
            if (segment.header.log_id, segment.header.slot) != (opened[0].header.log_id, opened[0].header.slot):
                raise AuditDamagedError("this segment is of another log than the first", field=segment.path.name)
    except (AuditDamagedError, OSError) as error:
        said = error.detail if isinstance(error, AuditDamagedError) else "a segment cannot be read"
        field = getattr(error, "field", None)
        report.problem(f"{field}: {said}" if field else said)
        for segment in opened:
            segment.close()
        return None
    return opened


class _Walk:
    """One pass over all entries of a log, with the tree growing beside it."""

    def __init__(self, folder: Path, report: Report, targets: Sequence[Target], progress: Progress | None) -> None:
        self.folder = folder
        self.report = report
        self.frontier = Frontier()
        self._targets = sorted(targets, key=lambda each: each.checkpoint.size)
        self._progress = progress
        self._levels: dict[int, int] = {}
        self._different: dict[int, tuple[int, str]] = {}
        """Of each level file: where it first differs from the segments, and in words."""
        self._short: set[int] = set()
        self._agreed: list[int] = []
        self._disagreed: list[Target] = []
        self._stopped = False
        self._compare()

    def run(self, opened: Sequence[Segment]) -> None:
        """Read all segments, until one does not lead to the next."""
        for segment, following in zip(opened, [*opened[1:], None], strict=True):
            stop = None if following is None else following.first
            if not self._segment(segment, stop):
                self._stopped = True
                return
            self._rest(segment, is_last=following is None)

    def conclude(self) -> None:
        """Say what the comparison with checkpoints and level files came to."""
        size = self.frontier.size
        for target in self._targets:
            signed = target.checkpoint.size
            if signed > size and self._stopped:
                self.report.problem(f"{target.name}: entries {size} to {signed - 1} could not be compared")
            elif signed > size:
                self.report.problem(
                    f"{target.name}: it was signed with {signed} entries, the log holds {size}: {signed - size} are "
                    "missing at the end"
                )
        self._conclude_roots()
        for _, words in self._different.values():
            if not self._disagreed:
                self.report.problem(f"{words}; level files are derived: delete it, and the log's writer makes it anew")
        if not has_writer(self.folder) and not self._stopped:
            self._conclude_lengths()

    def close(self) -> None:
        for descriptor in self._levels.values():
            if descriptor >= 0:
                os.close(descriptor)

    # --- entries ---------------------------------------------------------------------------------------------------

    def _segment(self, segment: Segment, stop: int | None) -> bool:
        """Take in one segment's entries. Returns whether they lead to the next segment."""
        if segment.first != self.frontier.size:
            self.report.problem(f"{segment.path.name}: a segment before it is missing")
            return False
        for block in segment.blocks():
            if stop is not None and block.first + len(block.starts) > stop:
                self.report.problem(
                    f"{segment.path.name}: it holds more entries than there are before the next segment"
                )
                return False
            self._block(segment, block)
        at, wanted = self.frontier.size, self.report.signed if stop is None else stop
        if at < wanted and any(any(data) for _, data in segment.rest()):
            self.report.problem(
                f"{segment.path.name}: entry {at} at byte {segment.end} is damaged: its length or checksum does not fit"
            )
        elif stop is not None and at < stop:
            self.report.problem(f"{segment.path.name}: entries {at} to {stop - 1} are missing at its end")
        if stop is not None and at < stop:
            return False
        return True

    def _block(self, segment: Segment, block: Block) -> None:
        row = entries_of(block.data, block.starts)
        malformed = first_malformed(row)
        if malformed is not None:
            place, why = malformed
            self.report.problem(f"{segment.path.name}: entry {block.first + place} is no entry: {why}")
        leaves = merkle.leaf_hashes(row)
        at, end = block.first, block.first + len(row)
        for size in sorted({end, *(each.checkpoint.size for each in self._targets if at < each.checkpoint.size < end)}):
            part = leaves[(at - block.first) * HASH_BYTES : (size - block.first) * HASH_BYTES]
            for level, hashes in self.frontier.extend(part).items():
                self._level(segment, level, at >> TILE_HEIGHT * level, hashes)
            at = size
            self._compare()
        if self._progress is not None:
            self._progress(end, max(end, self.report.signed))

    def _compare(self) -> None:
        """Compare with the checkpoints of the size that was reached."""
        for target in self._targets:
            if target.checkpoint.size == self.frontier.size and target not in self._disagreed:
                if target.checkpoint.root == self.frontier.root():
                    self._agreed.append(self.frontier.size)
                    self.report.checkpoints += 1
                else:
                    self._disagreed.append(target)

    def _rest(self, segment: Segment, is_last: bool) -> None:
        """What follows the last entry must be zeros."""
        for at, data in segment.rest():
            if not any(data):
                continue
            place = at + next(n for n, value in enumerate(data) if value)
            words = f"{segment.path.name}: byte {place}, after the last whole entry, is not zero"
            if not is_last:
                self.report.problem(words)
            elif not has_writer(self.folder):
                self.report.notes.append(f"{words}: an interrupted write, which the log's writer removes")
            return

    # --- level files -----------------------------------------------------------------------------------------------

    def _level(self, segment: Segment, level: int, start: int, hashes: bytes) -> None:
        """Compare what became complete at a level with its file."""
        if level in self._different or level in self._short:
            return
        if level not in self._levels:
            try:
                self._levels[level] = os.open(level_path(self.folder, level), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._levels[level] = -1
        descriptor = self._levels[level]
        stored = os.pread(descriptor, len(hashes), start * HASH_BYTES) if descriptor >= 0 else b""
        if len(stored) < len(hashes):
            self._short.add(level)
        if stored != hashes[: len(stored)]:
            place = next(n for n, value in enumerate(stored) if value != hashes[n]) // HASH_BYTES + start
            what = f"entry {place}, in {segment.path.name}" if level == 0 else f"subtree {place}"
            self._different[level] = place, f"level-{level}: the hash of {what}, is not what the segments say"

    def _conclude_roots(self) -> None:
        if not self._disagreed:
            return
        first = self._disagreed[0].checkpoint.size
        agreed = max((size for size in self._agreed if size < first), default=0)
        where = f"entries {agreed} to {first - 1}"
        if 0 in self._different and agreed <= self._different[0][0] < first:
            where = f"entry {self._different[0][0]} first, as its hash in level-0 shows"
        for target in self._disagreed:
            self.report.problem(
                f"{target.name}: the root over {target.checkpoint.size} entries is not the signed one; changed: {where}"
            )

    def _conclude_lengths(self) -> None:
        size = self.frontier.size
        for level in range(max(size.bit_length() - 1, 0) // TILE_HEIGHT + 1):
            path, wanted = level_path(self.folder, level), (size >> TILE_HEIGHT * level) * HASH_BYTES
            stored = path.stat().st_size if path.exists() else 0
            if stored != wanted:
                self.report.notes.append(
                    f"level-{level}: it has {stored} bytes and should have {wanted}; the log's writer makes it anew"
                )


def first_malformed(row: Sequence[bytes]) -> tuple[int, str] | None:
    """The first of many entries that is none, and why. Well-formed ones are told together, by columns."""
    if not row or _well_formed(row):
        return None
    for place, data in enumerate(row):
        try:
            entries.decode(data)
        except AuditEntryError as error:
            return place, f"{error.field}: {error.detail}" if error.field else error.detail
    return None


def _well_formed(row: Sequence[bytes]) -> bool:
    """Whether all are surely well formed."""
    width = entries.ENTRY_BYTES_MIN
    if min(map(len, row)) < width:
        return False
    table = np.frombuffer(b"".join([each[:width] for each in row]), np.uint8).reshape(-1, width)
    kinds = table[:, 1]
    if (table[:, 0] != entries.VERSION).any() or (kinds - 1 >= len(entries.Kind)).any():
        return False
    if table[:, 4].any() or (table[:, 5] > entries.ALL_FLAGS).any() or (table[:, 106] > 64).any():
        return False
    caller = table[:, 26:42]
    blank = caller == 0
    if (~blank & ((caller < 0x20) | (caller > 0x7E))).any() or (blank[:, :-1] & ~blank[:, 1:]).any():
        return False
    days = np.unique(np.ascontiguousarray(table[:, 6:10]).view(">u4"))
    if not all(entries.is_day(int(day)) for day in days):
        return False
    return _well_ended(row)


def _well_ended(row: Sequence[bytes]) -> bool:
    """Whether request ids and operators are surely well formed, and nothing follows."""
    lengths = [each[entries.FIXED_BYTES] for each in row]
    places = [entries.ENTRY_BYTES_MIN + length for length in lengths]
    ids = b"".join([each[entries.ENTRY_BYTES_MIN : place] for each, place in zip(row, places, strict=True)])
    if len(ids) != sum(lengths) or ids.translate(None, _PRINTABLE):
        return False
    ends = {each[place:] for each, place in zip(row, places, strict=True)} - {b""}
    if any(not 0 < each[0] <= entries.OPERATOR_BYTES_MAX or len(each) != 1 + each[0] for each in ends):
        return False
    try:
        # No character of UTF-8 reaches over a line feed, so all are well formed if the lines are.
        b"\n".join([each[1:] for each in ends]).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
