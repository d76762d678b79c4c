"""Owns the bulk load: many large files into store and index with both cores, while readers keep what they have.

Processes of their own read and prepare the files (preparers, pieces); this one appends to the store and fills the next
generation of the index (construction). Invariants:

- What is registered in the end is what `Registry.import_feed` of the same files, one by one, would have registered.
- A file is one feed: durable as a whole with its last transaction, or rolled back.
- Readers see nothing of it until the new generation is published, and then all of it.
- Cut off anywhere, it may be run again: files that are durable are known by their content and passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine import clock, recovery, scan, store
from engine.config import Config
from engine.construction import Construction
from engine.entries import ENTRY_BYTES
from engine.errors import FeedRowsError, InsurerUnknownError, ShikakuError
from engine.index import Batch
from engine.ingest import bulk, feed, pieces
from engine.ingest.apply import apply_rows
from engine.ingest.pieces import Piece, Rules
from engine.ingest.preparers import Preparers, Ready
from engine.ingest.registry import FeedHeader, freshened
from engine.ingest.rows import Op, Report, Row, RowError
from engine.ingest.workspace import Workspace
from engine.keys import Keys
from engine.records import Person
from engine.store import OPERATOR_SCOPE

PREPARERS: Final = 2
BYTES_A_KEY: Final = 150
"""Bytes of a feed for each entry of the index, as a first guess; after the first file it is known better."""

Progress = Callable[[int, int, int], object]
"""Called with bytes done, bytes in all, and rows so far."""

_decode_person = msgspec.msgpack.Decoder(Person).decode


class Loaded(msgspec.Struct):
    """What a load did."""

    files: int = 0
    replayed: int = 0
    """Files whose content was applied before."""
    rows: int = 0
    new: int = 0
    changed: int = 0
    lost: int = 0
    cancelled: int = 0
    warnings: int = 0
    one_by_one: int = 0
    """Rows about people who were registered in another piece, another file, or before."""
    data_version: int = 0
    keys: int = 0
    index_bytes: int = 0
    seconds: dict[str, float] = {}
    """Where the writer's time went."""


class _Entangled(Exception):
    """Somebody's birth date was changed, so rows that were put already may concern the same card."""


class Load:
    """One load; use as a context.

    Args: total_bytes: of all files together, by which progress is shown and the index sized. save_index: whether the
        index is saved to disk in the end, which the next start after a reboot is glad of.
    """

    def __init__(
        self, config: Config, keys: Keys, *, total_bytes: int, progress: Progress | None, save_index: bool = True
    ) -> None:
        self._config, self._keys = config, keys
        self._clock = clock.Clock(config.clock_fixed_ms)
        self._total_bytes = max(1, total_bytes)
        self._progress = progress
        self._save_index = save_index
        self._done_bytes = 0
        self._store, self._index = recovery.open_for_loading(config, keys)
        self._insurers = {insurer.number: insurer for insurer in self._store.insurers()}
        self._seq = self._store.committed_seq
        self._held = 0
        self._shown_rows = 0
        self._construction: Construction | None = None
        self.loaded = Loaded(seconds={})

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        if self._construction is not None:
            self._construction.discard()
        self._index.close()
        self._store.close()

    def run(
        self,
        files: Iterable[Path],
        *,
        encoding: feed.FeedEncoding = "utf-8",
        as_of: int | None = None,
        piece_rows: int = pieces.PIECE_ROWS,
        durable: Callable[[Path], object] = lambda path: None,
    ) -> Loaded:
        """Load files in their order and publish them. Durable and visible on return.

        Args: durable: called with each file that is needed no more.
        Raises what `Registry.import_feed` raises for a file that is refused: the files before it are then published,
        and it and those after it leave no trace.
        """
        twelve = {number: each.twelve_digit_numbers for number, each in self._insurers.items()}
        rules = Rules(self._keys, self._config.registration_check_digits, twelve, encoding, piece_rows)
        day = self._clock.today() if as_of is None else as_of
        with self._timed("preparing the index"):
            self._construction = self._begun()
        try:
            with Preparers(
                rules,
                self._config.spool_dir,
                processes=PREPARERS,
                next_person=self._store.next_person,
                now_ms=self._clock.now_ms,
                known=lambda digest: self._store.feed_by_digest(OPERATOR_SCOPE, digest) is not None,
            ) as preparers:
                for ready in self._waited(preparers.each(iter(files))):
                    try:
                        with feed.collector_paused():
                            self._file(ready, day)
                    finally:
                        ready.spooled.unlink(missing_ok=True)
                    durable(ready.path)
        except ShikakuError:
            if not self._store.poisoned:
                self._give_up()
            raise
        self._publish()
        return self.loaded

    # --- the index ----------------------------------------------------------------------------------------------

    def _begun(self) -> Construction:
        """A construction that holds what is registered already, with room for a first guess of what comes."""
        held = scan.keys_estimated(self._store, self._seq) if self._seq else 0
        keys = held + self._total_bytes // BYTES_A_KEY
        construction = Construction(self._index, keys)
        if self._seq:
            construction.begin_anew(keys, self._all_entries)
        self._held = construction.count
        return construction

    def _all_entries(self) -> Iterator[Batch]:
        return scan.all_entries(self._store, self._seq)

    def _enlarge(self, keys: int) -> None:
        """Build anew, from the store, with room for so many entries."""
        self._built().begin_anew(keys, self._all_entries)

    def _expected(self) -> int:
        """Entries in the end, if the files go on as they have begun."""
        share = min(1.0, max(self._done_bytes, 1) / self._total_bytes)
        return self._held + int((self._built().count - self._held) / share)

    def _built(self) -> Construction:
        assert self._construction is not None
        return self._construction

    def _give_up(self) -> None:
        """A file was refused: forget it, and publish what is durable."""
        self._store.roll_back()
        self._seq = self._store.committed_seq
        if self._index.data_version != self._seq:
            self._enlarge(scan.keys_estimated(self._store, self._seq))
            self._publish()

    def _publish(self) -> None:
        with self._timed("publishing"):
            construction, self._construction = self._built(), None
            self.loaded.keys, self.loaded.index_bytes = construction.count, construction.segment_bytes
            construction.finish(self._seq)
        self.loaded.data_version = self._seq
        if self._save_index:
            with self._timed("saving the index"):
                self._index.save(self._config.snapshot_file)

    # --- files --------------------------------------------------------------------------------------------------

    def _file(self, ready: Ready, as_of: int) -> None:
        prepared = ready.prepared
        if prepared is None or self._store.feed_by_digest(OPERATOR_SCOPE, ready.digest) is not None:
            self.loaded.replayed += 1
            self._show(ready.size_bytes, 0)
            return
        report = prepared.report
        self._refuse(report)
        if not prepared.insurers <= self._insurers.keys():
            raise InsurerUnknownError("the feed has rows of an insurer that is not registered", field="insurer_number")
        first_seq, counts = self._seq + 1, dict.fromkeys(Op, 0)
        before_bytes = self._done_bytes
        with ready.spooled.open("rb") as file:
            for piece in self._read(file, prepared.pieces):
                report.add_errors(self._piece(piece, counts))
                self._show(before_bytes + piece.bytes_read - self._done_bytes, piece.row_count)
        report.errors.sort(key=lambda error: error.row)
        self._refuse(report)
        header = FeedHeader(OPERATOR_SCOPE, ready.digest, None, as_of, ready.received_at_ms)
        self._commit(ready, header, counts, first_seq)
        self._show(before_bytes + ready.size_bytes - self._done_bytes, 0)

    def _read(self, file: Any, count: int) -> Iterator[Piece]:
        iterator = pieces.read_pieces(file, count)
        while True:
            with self._timed("reading prepared rows"):
                piece = next(iterator, None)
            if piece is None:
                return
            yield piece

    def _refuse(self, report: Report) -> None:
        if report.error_count:
            raise FeedRowsError(
                f"wrong rows or cells: {report.error_count}; nothing of this file was applied", report=report
            )

    def _commit(self, ready: Ready, header: FeedHeader, counts: dict[Op, int], first_seq: int) -> None:
        assert ready.prepared is not None
        target, loaded = self._store, self.loaded
        applied = header.applied(target.next_feed, counts, first_seq, self._seq)
        now_ms = self._clock.now_ms()
        fresh = [
            freshened(self._insurers[number], header, applied.feed, now_ms)
            for number in sorted(ready.prepared.insurers)
        ]
        with self._timed("committing"), target.transaction() as txn:
            txn.put_feed(applied)
            for insurer in fresh:
                txn.put_insurer(insurer)
            txn.advance(committed_seq=self._seq, next_person=ready.next_person, next_feed=applied.feed + 1)
        # durable from here on
        target.next_feed = applied.feed + 1
        self._insurers.update({insurer.number: insurer for insurer in fresh})
        loaded.files += 1
        loaded.warnings += ready.prepared.report.warning_count
        loaded.rows += applied.rows
        loaded.new, loaded.changed = loaded.new + applied.new, loaded.changed + applied.changed
        loaded.lost, loaded.cancelled = loaded.lost + applied.lost, loaded.cancelled + applied.cancelled
        if loaded.files == 1 and not self._built().suits(self._expected()):
            # Now it is known how many entries a byte of these files makes.
            with self._timed("filling the index"):
                self._enlarge(self._expected())

    # --- pieces -------------------------------------------------------------------------------------------------

    def _piece(self, piece: Piece, counts: dict[Op, int]) -> list[RowError]:
        with self._timed("looking for people known"):
            met = self._met(piece)
        try:
            return self._written(piece, met, counts)
        except _Entangled:
            everybody = np.concatenate([piece.firsts.groups, piece.others.groups])
            return self._written(piece, np.unique(everybody), counts)

    def _met(self, piece: Piece) -> NDArray[np.int64]:
        """The groups whose rows must be applied one by one."""
        firsts, others, find_many = piece.firsts, piece.others, self._built().find_many
        known = np.flatnonzero(find_many(_hashes(firsts.entries))[0])
        of_firsts = firsts.groups[np.searchsorted(np.cumsum(firsts.entry_counts), known, side="right")]
        of_others = others.groups[others.hash_rows[find_many(others.hashes)[0] > 0]]
        return np.unique(np.concatenate([others.open_groups, of_firsts, of_others]))

    def _written(self, piece: Piece, met: NDArray[np.int64], counts: dict[Op, int]) -> list[RowError]:
        """One piece, one transaction; then its entries."""
        met_firsts, met_others = np.isin(piece.firsts.groups, met), np.isin(piece.others.groups, met)
        with self._timed("packing records"):
            made = packed(piece, ~met_firsts, ~met_others, self._seq + 1)
        one_by_one = rows_of(piece, met_firsts, met_others)
        with self._timed("writing the store"), self._store.transaction() as txn:
            txn.put_versions(made.records, append=True)
            workspace = Workspace(self._keys, self._built(), txn.newest, piece.next_person)
            applied, refused = apply_rows(one_by_one, workspace, self._keys)
            if workspace.birth_moved and made.records:
                raise _Entangled
            next_seq = self._seq + 1 + len(made.records)
            txn.put_versions(workspace.records(next_seq, piece.recorded_at_ms), append=False)
            txn.put_changes(self._seq + 1, np.concatenate([made.numbers, workspace.changed_persons()]))
        self._seq = next_seq + len(workspace.changes) - 1
        self.loaded.one_by_one += len(one_by_one)
        for op, count in applied.items():
            counts[op] += count + made.counts[op]
        with self._timed("filling the index"):
            self._enter(made, workspace)
        return refused

    def _enter(self, made: Packed, workspace: Workspace) -> None:
        added, removed = workspace.differences()
        construction = self._built()
        if construction.has_room(len(made.holders) + len(added[0])):
            construction.add(made.holders, made.entries)
            construction.add(*added)
            construction.remove(*removed)
        else:
            # The store has this piece by now.
            more = construction.count + len(made.holders) + len(added[0])
            self._enlarge(max(self._expected(), more + more // 20))

    # --- what is shown ------------------------------------------------------------------------------------------

    def _show(self, more_bytes: int, rows: int) -> None:
        self._done_bytes += more_bytes
        self._shown_rows += rows
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes, self._shown_rows)

    def _waited(self, results: Iterator[Ready]) -> Iterator[Ready]:
        while True:
            with self._timed("waiting for prepared rows"):
                ready = next(results, None)
            if ready is None:
                return
            yield ready

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = clock.monotonic_ns()
        try:
            yield
        finally:
            seconds = self.loaded.seconds
            seconds[what] = seconds.get(what, 0.0) + (clock.monotonic_ns() - began) / 1e9


# --- records ------------------------------------------------------------------------------------------------------


class Packed(NamedTuple):
    """What is put of a piece: records by key, and the rest in the order of the changes."""

    records: list[tuple[bytes, bytes]]
    numbers: NDArray[np.uint32]
    holders: NDArray[np.uint32]
    entries: NDArray[np.void]
    counts: dict[Op, int]


def packed(piece: Piece, firsts: NDArray[np.bool_], others: NDArray[np.bool_], first_seq: int) -> Packed:
    """Records and entries of the chosen firsts and others; the changes count up from `first_seq`."""
    early, late = piece.firsts, piece.others
    at, versions = np.flatnonzero(firsts), np.flatnonzero(others[late.version_rows])
    numbers = np.concatenate([(piece.first_person + at).astype(np.uint32), late.numbers[versions]])
    seqs = np.arange(first_seq, first_seq + len(numbers), dtype=np.uint64)
    ends = np.cumsum(early.body_bytes)
    body, starts = early.body, ends - early.body_bytes
    bodies = [body[start:end] for start, end in zip(starts[at].tolist(), ends[at].tolist(), strict=True)]
    bodies += [late.bodies[version] for version in versions.tolist()]
    # In the order of the keys: of one person the newest version comes first.
    order = np.lexsort((np.uint64(2**64 - 1) - seqs, numbers))
    keys = store.version_keys(numbers[order], seqs[order])
    records = []
    for key, which in zip(keys, order.tolist(), strict=True):
        record = bodies[which]
        records.append((key, record + crc32(record, crc32(key)).to_bytes(4, "little")))
    of_entry = np.repeat(np.arange(len(firsts)), early.entry_counts)
    # What a later row has changed never comes to the index; if that row is not chosen, its group is not, either.
    chosen, theirs = (firsts & ~early.outdated)[of_entry], others[late.entry_rows]
    holders = (piece.first_person + of_entry[chosen]).astype(np.uint32)
    counts = {op: int(np.count_nonzero(late.ops[others] == code)) for code, op in enumerate(bulk.OPS)}
    counts[Op.NEW] += len(at)
    return Packed(
        records,
        numbers,
        np.concatenate([holders, late.holders[theirs]]),
        np.concatenate([early.entries[chosen], late.entries[theirs]]),
        counts,
    )


def rows_of(piece: Piece, firsts: NDArray[np.bool_], others: NDArray[np.bool_]) -> list[Row]:
    """The chosen rows as they were read, in the order of the file."""
    early, late = piece.firsts, piece.others
    ends = np.cumsum(early.body_bytes)
    starts = ends - early.body_bytes + store.HEAD_BYTES + early.entry_counts * ENTRY_BYTES
    found = [
        Row(int(early.rows[at]), Op.NEW, _decode_person(early.body[starts[at] : ends[at]]))
        for at in np.flatnonzero(firsts)
    ]
    found += [
        Row(int(late.rows[at]), bulk.OPS[late.ops[at]], _decode_person(late.people[at]))
        for at in np.flatnonzero(others)
    ]
    return sorted(found, key=lambda row: row.row)


def _hashes(entries: NDArray[np.void]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(entries["hash"]).view("<u8").reshape(-1, 2).astype(np.uint64, copy=False)
