"""Owns registration: the one writer of store and index, by file (all or nothing) and by call (in groups).

Invariants: what was acknowledged is durable and visible; what failed left no trace; the index is written after the
store and never before. One thread at a time: a second caller gets WriterBusyError. After StorePoisonedError, or an
error while the index was written, the registry is finished: open a new one, which recovers.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
from msgspec.structs import replace

from engine import recovery
from engine.clock import Clock
from engine.config import Config
from engine.entries import ENTRY_BYTES
from engine.errors import (
    FeedNumberError,
    FeedRowsError,
    InsurerUnknownError,
    ShikakuError,
    StoreError,
    StorePoisonedError,
    WriterBusyError,
)
from engine.index import IndexWriter
from engine.ingest import bulk, feed, plain, publication
from engine.ingest.apply import RefusedRow, apply_row, apply_rows, settled
from engine.ingest.rows import Op, Report, Row, RowError
from engine.ingest.spool import Spool, Staged
from engine.ingest.workspace import Workspace
from engine.keys import Keys
from engine.records import Insurer, Person
from engine.store import OPERATOR_SCOPE, Feed, StoreWriter, Transaction

_READ_BYTES: Final = 1 << 20
_FIRST_PASS: Final = 0.6
"""The share of an import's time that reading and checking take, for progress."""
FEED_NUMBER_MAX: Final = 2**63 - 1

Progress = Callable[[int, int, int], object]
"""Called with bytes done, bytes in all, and rows so far; both passes together count the bytes once."""

_decode_person = msgspec.msgpack.Decoder(Person).decode


class DeltaCall(msgspec.Struct, frozen=True):
    """One call of an insurer: rows that are applied together or not at all. `digest`: SHA-256 of the content.

    With `settle` each row says how a qualification is, whatever its op: it is registered as new or changed as needed.
    """

    insurer: str
    feed_number: int | None
    as_of: int | None
    rows: list[Row]
    digest: bytes
    settle: bool = False


class FeedReceipt(msgspec.Struct, frozen=True):
    """What became of a feed or a call. `replayed`: it was applied before, and this is the receipt of then."""

    feed: int
    insurer: str | None
    feed_number: int | None
    digest: str
    rows: int
    new: int
    changed: int
    lost: int
    cancelled: int
    replayed: bool
    dry_run: bool
    data_version: int
    as_of: int
    received_at_ms: int
    warnings: int = 0
    """Wrong check digits that were let pass by setting; not kept with the feed."""


class Registry:
    """Registers insurers and qualifications. Made by `open`."""

    def __init__(self, config: Config, keys: Keys, store: StoreWriter, index: IndexWriter) -> None:
        self.store = store
        self.index = index
        self._config = config
        self._keys = keys
        self._clock = Clock(config.clock_fixed_ms)
        self._insurers = {insurer.number: insurer for insurer in store.insurers()}
        self._busy = threading.Lock()
        self._broken = False
        self._unclean = False
        self._saved_seq = recovery.saved_seq(config, keys, store)

    @classmethod
    def open(cls, config: Config, keys: Keys) -> Self:
        """Open store and index for writing and recover what was under way.

        Raises StoreMissingError, StoreLockedError, StoreVersionError, KeyMismatchError, IndexSpaceError.
        """
        store, index = recovery.open_for_writing(config, keys)
        return cls(config, keys, store, index)

    # --- insurers -----------------------------------------------------------------------------------------------

    def insurer(self, number: str) -> Insurer | None:
        """A registered insurer, by its number in 8 digits."""
        return self._insurers.get(number)

    def insurers(self) -> list[Insurer]:
        """All insurers with their freshness, by number."""
        return [insurer for _, insurer in sorted(self._insurers.items())]

    def register_insurer(self, insurer: Insurer) -> Insurer:
        """Register an insurer or change its names and setting; its freshness stays. Returns it as stored."""
        with self._writing():
            known = self._insurers.get(insurer.number)
            if known is not None:
                insurer = replace(
                    insurer,
                    fresh_at_ms=known.fresh_at_ms,
                    feed_as_of=known.feed_as_of,
                    feed_number=known.feed_number,
                    last_feed=known.last_feed,
                )
            with self.store.transaction() as txn:
                txn.put_insurer(insurer)
            with self._publishing():
                nothing = publication.NOTHING
                self.index.publish(self.index.data_version, added=nothing, removed=nothing, insurers_changed=True)
            self._insurers[insurer.number] = insurer
            return insurer

    # --- calls --------------------------------------------------------------------------------------------------

    def apply_calls(self, calls: Sequence[DeltaCall]) -> list[FeedReceipt | ShikakuError]:
        """Apply calls in order, all in one transaction with one sync. Returns a receipt or an error for each.

        Each call is applied whole or not at all; a call sees what those before it did. Durable and visible on
        return. Raises (and applies none of them): StoreFullError, StorePoisonedError, IndexSpaceError, WriterBusyError.
        """
        with self._writing():
            group = _Group(self._keys, self._clock, self.store, self.index, self._insurers)
            before = self.index.data_version
            with self.store.transaction() as txn:
                results = group.apply(txn, calls)
                added, removed = group.differences()
                if len(added[0]):
                    self.index.reserve(len(added[0]), lambda: self.store.entries(before))
            # the moment of commitment: from here on the calls are durable
            if group.receipts:
                self.store.next_feed = group.next_feed
                with self._publishing():
                    publication.publish(self.store, self.index, group.seq, added=added, removed=removed)
                self._insurers.update(group.fresh)
            return results

    # --- files --------------------------------------------------------------------------------------------------

    def import_feed(
        self,
        path: Path,
        *,
        format: feed.FeedFormat = "csv",
        encoding: feed.FeedEncoding = "utf-8",
        insurer: str | None = None,
        feed_number: int | None = None,
        as_of: int | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> FeedReceipt:
        """Import a whole file or nothing of it. Durable and visible on return.

        Args: insurer: whose feed it is; None: the operator's, with rows of any insurer. dry_run: check everything,
        against the store too, and leave no trace.
        Raises FeedRowsError (with the report), FeedHeaderError, FeedEncodingError, FeedTruncatedError, FeedNumberError,
        InsurerUnknownError, StoreFullError, StorePoisonedError, IndexSpaceError, WriterBusyError.
        """
        with self._writing():
            scope = insurer or OPERATOR_SCOPE
            if insurer is not None and insurer not in self._insurers:
                raise InsurerUnknownError("the insurer is not registered here", field="insurer_number")
            digest = _digest(path)
            known, last = self.store.feed_by_digest(scope, digest), self.store.last_feed_number(scope)
            if known is not None and _is_replay(known, feed_number, last, self._newest_feed(insurer)):
                return _receipt(known, replayed=True, dry_run=dry_run)
            _check_number(feed_number, last)
            received_at_ms = self._clock.now_ms()
            header = FeedHeader(
                scope, digest, feed_number, self._clock.today() if as_of is None else as_of, received_at_ms
            )
            with Spool(self._config.spool_dir, f"import-{self.store.next_feed}") as spool:
                shown = _Progress(progress, path.stat().st_size)
                chunks = self._read(path, format, encoding, insurer)
                with feed.collector_paused():
                    return _Import(self, spool, header, dry_run, shown).run(chunks)

    def _newest_feed(self, insurer: str | None) -> int | None:
        """The last feed that had rows of this insurer, or of anybody for the operator; None if that is not known."""
        return self.store.next_feed - 1 if insurer is None else self._insurers[insurer].last_feed

    def _read(
        self, path: Path, format: feed.FeedFormat, encoding: feed.FeedEncoding, insurer: str | None
    ) -> Iterator[plain.StagedChunk]:
        known = self._insurers
        return plain.stage(
            path,
            self._keys,
            format=format,
            encoding=encoding,
            insurer=insurer,
            policy=self._config.registration_check_digits,
            exempt_12_digits=lambda number: number in known and known[number].twelve_digit_numbers,
            known_insurer=known.__contains__,
        )

    # --- life ---------------------------------------------------------------------------------------------------

    def snapshot(self, directory: Path) -> None:
        """Write a copy of store and index that can be put in the place of the data folder. Durable and checked.

        Args: directory: must be absent or empty.
        """
        with self._writing():
            recovery.snapshot(directory, self.store, self.index, self._keys, map_bytes=self._config.map_bytes)

    def save_index(self) -> None:
        """Save the index to disk, so that the next start after a reboot needs no rebuild."""
        with self._writing():
            self._save_index()

    def close(self) -> None:
        """Save the index if it has changed since it was last saved, and let go of store and index."""
        try:
            if not self._broken and self._saved_seq != self.index.data_version:
                self._save_index()
        finally:
            self.index.close()
            self.store.close()

    def _save_index(self) -> None:
        self.index.save(self._config.snapshot_file)
        self._saved_seq = self.index.data_version

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise WriterBusyError("the registry is writing", retry_after_ms=1_000)
        try:
            if self._broken:
                raise StorePoisonedError("an earlier write failed; the registry must be opened anew")
            if self._unclean:
                self._clean_up()
            yield
        except BaseException:
            self._broken = self._broken or self._diverged()
            raise
        finally:
            self._busy.release()

    def _diverged(self) -> bool:
        """Whether something was cut off between the store's commit and the index, or the store is finished."""
        try:
            return self.store.poisoned or self.store.committed_seq != self.index.data_version
        except ShikakuError:
            return True

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """The store has it and the index has not, until this ends: a failure here is for recovery to mend.

        So it is never told as a refusal, such as a full disk before the commit is.
        """
        try:
            yield
        except Exception as error:
            self._broken = True
            raise StorePoisonedError(
                "the change is durable and not yet visible; it will be when the registry has been opened anew"
            ) from error
        except BaseException:
            self._broken = True
            raise

    def _clean_up(self) -> None:
        """Undo what a feed that failed has written. Tried again before the next write if the disk is too full."""
        self._unclean = True
        self.store.roll_back()
        self.index.drop_provisional()
        self._unclean = False


class FeedHeader(msgspec.Struct):
    """What is known of a feed before its rows are read."""

    scope: str
    digest: bytes
    feed_number: int | None
    as_of: int
    received_at_ms: int

    def applied(self, feed_id: int, counts: dict[Op, int], first_seq: int, last_seq: int) -> Feed:
        return Feed(
            feed=feed_id,
            scope=self.scope,
            digest=self.digest,
            feed_number=self.feed_number,
            as_of=self.as_of,
            rows=last_seq + 1 - first_seq,
            first_seq=first_seq,
            last_seq=last_seq,
            received_at_ms=self.received_at_ms,
            new=counts[Op.NEW],
            changed=counts[Op.CHANGE],
            lost=counts[Op.LOSE],
            cancelled=counts[Op.CANCEL],
        )


class _Entangled(Exception):
    """Rows taken for independent may not be: somebody of this chunk got another birth date, so other card hashes."""


class _Progress:
    """Two passes shown as one."""

    def __init__(self, report: Progress | None, total_bytes: int) -> None:
        self._report = report
        self._total = total_bytes

    def reading(self, done_bytes: int, rows: int) -> None:
        if self._report is not None:
            self._report(int(done_bytes * _FIRST_PASS), self._total, rows)

    def applying(self, done_rows: int, rows: int) -> None:
        if self._report is not None:
            share = _FIRST_PASS + (1 - _FIRST_PASS) * done_rows / max(rows, 1)
            self._report(int(self._total * share), self._total, rows)


class _Import:
    """One import under way: a pass over the file that checks, and a pass over what was staged that applies."""

    def __init__(self, registry: Registry, spool: Spool, header: FeedHeader, dry_run: bool, progress: _Progress):
        self._registry = registry
        self._store, self._index, self._keys = registry.store, registry.index, registry._keys
        self._spool = spool
        self._header = header
        self._dry_run = dry_run
        self._progress = progress
        self._report = Report(errors=[])
        self._insurers: set[str] = set()
        self._counts = dict.fromkeys(Op, 0)
        self._before = self._seq = self._store.committed_seq
        self._next_person = self._store.next_person
        self._entries_max = 0
        self._changed_entries = 0

    def run(self, chunks: Iterator[plain.StagedChunk]) -> FeedReceipt:
        self._stage(chunks)
        self._refuse_errors()
        try:
            self._reserve(self._entries_max)
            done = 0
            for staged in self._spool.staged():
                self._apply(staged)
                done += len(staged.rows)
                self._progress.applying(done, self._report.rows)
            self._refuse_errors()
            self._reserve(self._changed_entries)
            if self._dry_run:
                self._registry._clean_up()
                return self._dry_receipt()
            self._spool.settle()
            applied, fresh = self._commit()
        except BaseException:
            self._registry._unclean = True
            self._registry._clean_up()
            raise
        self._publish(fresh)
        return replace(_receipt(applied), warnings=self._report.warning_count)

    def _stage(self, chunks: Iterator[plain.StagedChunk]) -> None:
        for chunk in chunks:
            self._report.add(chunk)
            self._insurers |= chunk.insurers
            if len(chunk.staged.rows) and not self._report.error_count:
                self._entries_max += bulk.keys_needed(chunk.staged.rows, self._index)
                self._spool.stage(chunk.staged)
            self._progress.reading(chunk.bytes_read, self._report.rows)
        # The reader has refused rows of other insurers; what is written of each of these does not rest on it alone.
        scope = self._header.scope
        its_own = scope == OPERATOR_SCOPE or self._insurers <= {scope}
        if not (its_own and self._insurers <= self._registry._insurers.keys()):
            raise InsurerUnknownError("the feed has rows of an insurer that is not its own", field="insurer_number")

    def _refuse_errors(self) -> None:
        if self._report.error_count:
            raise FeedRowsError(
                f"wrong rows or cells: {self._report.error_count}; nothing was applied", report=self._report
            )

    def _apply(self, staged: Staged) -> None:
        """One chunk, one transaction: rows that touch nobody known all at once, then the others in their order."""
        apart, shared = bulk.independent(staged.rows, self._index)
        try:
            self._apply_parted(staged, apart, shared)
        except _Entangled:
            nobody = np.zeros_like(apart)
            self._apply_parted(staged, nobody, nobody)

    def _apply_parted(self, staged: Staged, apart: np.ndarray, shared: np.ndarray) -> None:
        rows = staged.rows[apart]
        people = staged.people(apart)
        first_seq, first_person = self._seq + 1, self._next_person
        of_row, entries = bulk.entries_of_rows(rows)
        persons = (of_row + first_person).astype(np.uint32)
        with self._store.transaction() as txn:
            records = bulk.records_of_rows(
                rows,
                people,
                entries,
                first_person=first_person,
                first_seq=first_seq,
                recorded_at_ms=self._header.received_at_ms,
            )
            txn.put_versions(records, append=True)
            workspace = Workspace(self._keys, self._index, txn.newest, first_person + len(rows))
            met_again = np.flatnonzero(shared[apart])
            for at, digests in zip(met_again.tolist(), bulk.digests_of(rows[met_again]), strict=True):
                workspace.expect(first_person + at, digests)
            counts, refused = self._apply_others(workspace, staged, ~apart)
            if workspace.birth_moved and len(rows):
                raise _Entangled
            others = first_seq + len(rows)
            txn.put_versions(workspace.records(others, self._header.received_at_ms), append=False)
            changed = workspace.changed_persons()
            txn.put_changes(first_seq, np.concatenate([np.arange(first_person, first_person + len(rows)), changed]))
        self._counts = {op: count + counts[op] for op, count in self._counts.items()}
        self._counts[Op.NEW] += len(rows)
        self._report.add_errors(refused)
        self._seq = others + len(changed) - 1
        self._next_person = workspace.next_person
        # When the feed is published, these stand beside the entries that they replace.
        self._changed_entries += sum(len(change.entries) for change in workspace.changes) // ENTRY_BYTES
        self._remember(persons, entries, workspace)
        self._spool.note_added(persons, entries)
        self._spool.note_changed(others, changed)

    def _apply_others(
        self, workspace: Workspace, staged: Staged, others: np.ndarray
    ) -> tuple[dict[Op, int], list[RowError]]:
        rows = staged.rows[others]
        cells = zip(rows["row"].tolist(), rows["op"].tolist(), staged.people(others), strict=True)
        made = (Row(row=number, op=bulk.OPS[op], person=_decode_person(person)) for number, op, person in cells)
        return apply_rows(made, workspace, self._keys)

    def _remember(self, persons: np.ndarray, entries: np.ndarray, workspace: Workspace) -> None:
        """Let later chunks find the people of this one. Readers do not see these entries."""
        found_by = workspace.entries_found_by()
        self._reserve(len(persons) + len(found_by[0]))
        self._index.add_provisional(persons, entries)
        self._index.add_provisional(*found_by)

    def _reserve(self, entries: int) -> None:
        """Make room in the index while it can still be refused."""
        self._index.reserve(entries, lambda: self._store.entries(self._before))

    def _commit(self) -> tuple[Feed, dict[str, Insurer]]:
        store, header = self._store, self._header
        applied = header.applied(store.next_feed, self._counts, self._before + 1, self._seq)
        if header.scope != OPERATOR_SCOPE:
            self._insurers = {header.scope}
        fresh = {
            number: freshened(self._registry._insurers[number], header, applied.feed, self._registry._clock.now_ms())
            for number in self._insurers
        }
        with store.transaction() as txn:
            txn.put_feed(applied)
            for insurer in fresh.values():
                txn.put_insurer(insurer)
            txn.advance(committed_seq=self._seq, next_person=self._next_person, next_feed=applied.feed + 1)
        # the moment of commitment: until here the feed never was, from here on it is whole and durable
        store.next_feed = applied.feed + 1
        return applied, fresh

    def _publish(self, fresh: dict[str, Insurer]) -> None:
        with self._registry._publishing():
            publication.publish_feed(self._store, self._index, self._spool, before=self._before, upto=self._seq)
        self._registry._insurers.update(fresh)

    def _dry_receipt(self) -> FeedReceipt:
        would = self._header.applied(0, self._counts, self._before + 1, self._seq)
        receipt = _receipt(would, dry_run=True)
        return replace(receipt, data_version=self._before, warnings=self._report.warning_count)


class _Group:
    """Calls that share one transaction."""

    def __init__(
        self, keys: Keys, clock: Clock, store: StoreWriter, index: IndexWriter, insurers: dict[str, Insurer]
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._index = index
        self._insurers = insurers
        self._workspace = Workspace(keys, index, lambda number: None, 0)
        self._next_person = store.next_person
        self._before = self.seq = store.committed_seq
        self.next_feed = store.next_feed
        self.fresh: dict[str, Insurer] = {}
        self.receipts = 0

    def apply(self, txn: Transaction, calls: Sequence[DeltaCall]) -> list[FeedReceipt | ShikakuError]:
        """Apply each call, and put what came of all of them."""
        self._workspace = Workspace(self._keys, self._index, txn.newest, self._next_person)
        now_ms, today = self._clock.now_ms(), self._clock.today()
        results: list[FeedReceipt | ShikakuError] = []
        for call in calls:
            try:
                results.append(self._call(txn, call, now_ms, today))
            except StoreError:
                raise
            except ShikakuError as error:
                results.append(error)
        if self.receipts:
            txn.put_versions(self._workspace.records(self._before + 1, now_ms), append=False)
            txn.put_changes(self._before + 1, self._workspace.changed_persons())
            for insurer in self.fresh.values():
                txn.put_insurer(insurer)
            txn.advance(committed_seq=self.seq, next_person=self._workspace.next_person, next_feed=self.next_feed)
        return results

    def differences(self) -> tuple[publication.Pairs, publication.Pairs]:
        """What to add to and to remove from the index once this is committed."""
        return self._workspace.differences()

    def _call(self, txn: Transaction, call: DeltaCall, now_ms: int, today: int) -> FeedReceipt:
        if call.insurer not in self._insurers:
            raise InsurerUnknownError("the insurer is not registered here", field="insurer_number")
        insurer = self.fresh.get(call.insurer) or self._insurers[call.insurer]
        known = txn.feed_by_digest(call.insurer, call.digest)
        last = None if call.feed_number is None else txn.last_feed_number(call.insurer)
        if known is not None and _is_repeated(known, call.feed_number, last, insurer.last_feed):
            return _receipt(known, replayed=True)
        _check_number(call.feed_number, last)
        as_of = today if call.as_of is None else call.as_of
        header = FeedHeader(call.insurer, call.digest, call.feed_number, as_of, now_ms)
        counts = self._rows(call)
        last_seq = self._before + len(self._workspace.changes)
        applied = header.applied(self.next_feed, counts, self.seq + 1, last_seq)
        txn.put_feed(applied)
        self.seq = last_seq
        self.next_feed += 1
        self.receipts += 1
        self.fresh[call.insurer] = freshened(insurer, header, applied.feed, now_ms)
        return _receipt(applied)

    def _rows(self, call: DeltaCall) -> dict[Op, int]:
        """Apply a call's rows; if one is refused, take back all of them and say which were."""
        counts = dict.fromkeys(Op, 0)
        report = Report(rows=len(call.rows), errors=[])
        length = len(self._workspace.changes)
        for row in call.rows:
            refusal = _insurer_refusal(row, call.insurer, self._insurers)
            if refusal is None:
                try:
                    if call.settle:
                        row = settled(row, self._workspace, self._keys)
                    self._workspace.put(*apply_row(row, self._workspace, self._keys))
                    counts[row.op] += 1
                except RefusedRow as refused:
                    refusal = refused.error(row.row)
                except BaseException:
                    # A record that cannot be read, say: this call leaves no trace in what the others commit.
                    self._workspace.undo(length)
                    raise
            if refusal is not None:
                report.add_errors([refusal])
        if report.error_count:
            self._workspace.undo(length)
            raise FeedRowsError(
                f"wrong operations or members: {report.error_count}; nothing was applied", report=report
            )
        return counts


def _insurer_refusal(row: Row, scope: str, known: dict[str, Insurer]) -> RowError | None:
    number = row.person.qualifications[0].insurer_number
    if scope not in (OPERATOR_SCOPE, number):
        return RowError(row=row.row, column="insurer_number", code="insurer.mismatch", kind="another insurer")
    if number not in known:
        return RowError(row=row.row, column="insurer_number", code="insurer.unknown", kind="not registered")
    return None


def freshened(insurer: Insurer, header: FeedHeader, feed_id: int, now_ms: int) -> Insurer:
    numbered = header.feed_number is not None and header.scope == insurer.number
    return replace(
        insurer,
        fresh_at_ms=now_ms,
        feed_as_of=header.as_of,
        feed_number=header.feed_number if numbered else insurer.feed_number,
        last_feed=feed_id,
    )


def _is_replay(known: Feed, feed_number: int | None, last: int | None, newest: int | None) -> bool:
    """Whether content that was applied before is being sent again, and not meant to be applied again.

    It is meant if it comes under the next feed number and anything else came in between, numbered or not: an insurer
    that changes something, changes it otherwise and changes it back must not be told "nothing to do".
    """
    if feed_number is None or (last is not None and feed_number <= last):
        return True
    return newest is None or newest == known.feed


def _is_repeated(known: Feed, feed_number: int | None, last: int | None, newest: int | None) -> bool:
    """Whether a call is one that was applied before, sent again because its answer was lost.

    Without a number only the insurer's last feed can be that: lost, corrected, lost again are three calls, and the
    third, with the bytes of the first, must not leave the person insured.
    """
    if feed_number is None:
        return newest is None or newest == known.feed
    return _is_replay(known, feed_number, last, newest)


def _check_number(feed_number: int | None, last: int | None) -> None:
    if feed_number is not None and not 0 <= feed_number <= FEED_NUMBER_MAX:
        raise FeedNumberError(f"a feed number lies between 0 and {FEED_NUMBER_MAX}", field="feed_number")
    if feed_number is None or last is None or feed_number > last:
        return
    if feed_number == last:
        raise FeedNumberError("this feed number was used by a feed of other content", field="feed_number")
    raise FeedNumberError("feed numbers must go up; a later one was used", field="feed_number")


def _receipt(applied: Feed, *, replayed: bool = False, dry_run: bool = False) -> FeedReceipt:
    return FeedReceipt(
        feed=applied.feed,
        insurer=None if applied.scope == OPERATOR_SCOPE else applied.scope,
        feed_number=applied.feed_number,
        digest=applied.digest.hex(),
        rows=applied.rows,
        new=applied.new,
        changed=applied.changed,
        lost=applied.lost,
        cancelled=applied.cancelled,
        replayed=replayed,
        dry_run=dry_run,
        data_version=applied.last_seq,
        as_of=applied.as_of,
        received_at_ms=applied.received_at_ms,
    )


def _digest(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()
