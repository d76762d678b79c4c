"""Owns what a bulk load prepares of a file beside the writer: rows read, judged, applied to each other, and packed.

A *piece* is some hundred thousand rows. Its rows fall into *groups* that have no identifier in common. Rows that
register somebody whom no earlier row of the piece concerns, *firsts*, are packed all at once (engine/ingest/bulk); the
others of a group are applied to them (engine/ingest/apply) as if nobody else were registered. All of that holds if the
writer then finds none of a group's identifiers registered; otherwise, and where a row was refused, the group is
*open*: the writer applies its rows one by one to what is registered. So a piece never decides what depends on anything
outside of it. docs/design/0005 has the reasons.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine import durable, store
from engine.config import CheckDigitPolicy
from engine.entries import ENTRY_BYTES, ENTRY_DTYPE
from engine.errors import ShikakuError, StorePoisonedError
from engine.ingest import bulk, feed, plain
from engine.ingest.apply import RefusedRow, apply_row
from engine.ingest.rows import Report, Row
from engine.ingest.spool import Staged
from engine.ingest.workspace import Change, Workspace
from engine.keys import Keys
from engine.records import Person
from engine.store import Version

NUMBERS_A_ROW: Final = 2
"""Person numbers set aside for each row: one when it is prepared, and another if it then is applied one by one."""
PIECE_ROWS: Final = 100_000
"""Rows that are packed and committed together: what bounds the memory of a load."""
_READ_BYTES: Final = 1 << 20

_decode_person = msgspec.msgpack.Decoder(Person).decode


class Rules(NamedTuple):
    """What a preparing process must know to read feeds as the registry would."""

    keys: Keys
    policy: CheckDigitPolicy
    insurers: dict[str, bool]
    """Registered insurers; whether their numbers have 12 digits."""
    encoding: feed.FeedEncoding
    piece_rows: int = PIECE_ROWS


class Looked(NamedTuple):
    """What a file is, before its rows are read."""

    digest: bytes
    lines: int
    """No fewer than it has rows."""


class Prepared(NamedTuple):
    """What became of a whole file."""

    report: Report
    insurers: set[str]
    pieces: int


class Firsts(NamedTuple):
    """Rows that register somebody whom no earlier row of the piece concerns; their person numbers count up."""

    rows: NDArray[np.uint32]
    """Numbers of the rows in the file."""
    groups: NDArray[np.int64]
    body: bytes
    """Their records without checksum, one after the other."""
    body_bytes: NDArray[np.int64]
    entry_counts: NDArray[np.int64]
    entries: NDArray[np.void]
    outdated: NDArray[np.bool_]
    """Whose entries a later row of the group has changed."""


class Others(NamedTuple):
    """All other rows, and what they make of people as long as their group is not open."""

    rows: NDArray[np.uint32]
    ops: NDArray[np.uint8]
    groups: NDArray[np.int64]
    people: list[bytes]
    """MessagePack of each row's person."""
    hashes: NDArray[np.uint64]
    hash_rows: NDArray[np.int64]
    """The row, as a position here, that each hash is of."""
    numbers: NDArray[np.uint32]
    """Person number of each version, in the order of the changes."""
    version_rows: NDArray[np.int64]
    bodies: list[bytes]
    holders: NDArray[np.uint32]
    """Person number of each index entry, as the last row about that person leaves it."""
    entries: NDArray[np.void]
    entry_rows: NDArray[np.int64]
    """A row of the entry's group, as a position here."""
    open_groups: NDArray[np.int64]


class Piece(NamedTuple):
    """Some rows of a file, ready to be written where nothing speaks against it."""

    first_person: int
    next_person: int
    """First number that no row of the piece was given; there are as many left as rows could need."""
    numbers_end: int
    recorded_at_ms: int
    firsts: Firsts
    others: Others
    row_count: int
    bytes_read: int


class _Nobody:
    """An index in which nobody is."""

    def find(self, digest: bytes) -> tuple[tuple[int, ...], ...]:
        return ()


# --- reading ----------------------------------------------------------------------------------------------------


def look(path: Path) -> Looked:
    """Read a file once: SHA-256 and line feeds. Raises OSError."""
    digest, lines = hashlib.sha256(), 1
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            lines += block.count(b"\n")
    return Looked(digest.digest(), lines)


def prepare(path: Path, rules: Rules, first_person: int, recorded_at_ms: int, out: BinaryIO) -> Prepared:
    """Read a file and write its pieces. Stops making pieces at the first wrong row, and reads on for the report.

    Raises what ends a feed early (`feed.read`), and OSError.
    """
    report, pieces, insurers = Report(errors=[]), 0, set[str]()
    gathered: list[Staged] = []
    count = bytes_read = 0

    def flush() -> None:
        nonlocal pieces, gathered, count, first_person
        if count and not report.error_count:
            made = piece_of(rules.keys, bulk.merged(gathered), first_person, recorded_at_ms, bytes_read)
            pickle.dump(made, out, protocol=5)
            first_person = made.numbers_end
            pieces += 1
        gathered, count = [], 0

    for chunk in _chunks(path, rules):
        report.add(chunk)
        insurers, bytes_read = chunk.insurers, chunk.bytes_read
        if count + len(chunk.staged.rows) > rules.piece_rows:
            flush()
        gathered.append(chunk.staged)
        count += len(chunk.staged.rows)
    flush()
    return Prepared(report, insurers, pieces)


def _chunks(path: Path, rules: Rules) -> Iterator[plain.StagedChunk]:
    known = rules.insurers
    return plain.stage(
        path,
        rules.keys,
        format="csv" if path.suffix == ".csv" else "ndjson",
        encoding=rules.encoding,
        policy=rules.policy,
        exempt_12_digits=lambda number: known.get(number, False),
        known_insurer=known.__contains__,
    )


def read_pieces(file: BinaryIO, count: int) -> Iterator[Piece]:
    """What `prepare` wrote."""
    for _ in range(count):
        piece: Piece = pickle.load(file)
        yield piece


# --- one piece --------------------------------------------------------------------------------------------------


def piece_of(keys: Keys, staged: Staged, first_person: int, recorded_at_ms: int, bytes_read: int) -> Piece:
    """Pack the rows of one piece; they get person numbers from `first_person` on."""
    rows = staged.rows
    hashes, owners = bulk.hashes_of(rows)
    is_first, groups = grouped(rows["plain"], hashes, owners)
    firsts = _firsts(staged, is_first, groups, recorded_at_ms)
    others = _others(staged, ~is_first, groups)
    resolved = _resolve(keys, staged, is_first, firsts, others, first_person, recorded_at_ms)
    if resolved is None:
        # Somebody gets another birth date, so other card hashes than the row shows: nothing can be told apart.
        is_first = np.zeros_like(is_first)
        firsts, others = _firsts(staged, is_first, groups, recorded_at_ms), _others(staged, ~is_first, groups)
        resolved = firsts, others._replace(open_groups=np.unique(groups)), first_person
    firsts, others, next_person = resolved
    theirs = ~is_first[owners]
    position = np.cumsum(~is_first) - 1
    others = others._replace(hashes=np.ascontiguousarray(hashes[theirs]), hash_rows=position[owners[theirs]])
    end = first_person + NUMBERS_A_ROW * len(rows)
    return Piece(first_person, next_person, end, recorded_at_ms, firsts, others, len(rows), bytes_read)


def grouped(
    plain_rows: NDArray[np.bool_], hashes: NDArray[np.uint64], owners: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which rows are plain and share no identifier with an earlier one, and for each row the first row of its group.

    Half of the hash is enough: two equal halves by chance only make a group larger.
    """
    order = np.lexsort((owners, hashes[:, 0]))
    ordered, owner = hashes[order, 0], owners[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    one, other = owner[again], owner[again + 1]
    is_first = plain_rows.copy()
    is_first[other] = False
    groups = np.arange(len(plain_rows))
    while True:
        least = np.minimum(groups[one], groups[other])
        if (groups[one] == least).all() and (groups[other] == least).all():
            return is_first, groups
        np.minimum.at(groups, one, least)
        np.minimum.at(groups, other, least)
        groups = groups[groups]


def _firsts(staged: Staged, chosen: NDArray[np.bool_], groups: NDArray[np.int64], recorded_at_ms: int) -> Firsts:
    rows, people = staged.rows[chosen], staged.people(chosen)
    _, entries = bulk.entries_of_rows(rows)
    packed = entries.tobytes()
    counts = 1 + rows["has_certificate"].astype(np.int64) + rows["has_link"]
    ends = np.cumsum(counts) * ENTRY_BYTES
    heads = {count: store.record_head(count, recorded_at_ms) for count in (1, 2, 3)}
    parts: list[bytes] = []
    start = 0
    for count, end, person in zip(counts.tolist(), ends.tolist(), people, strict=True):
        parts += (heads[count], packed[start:end], person)
        start = end
    body_bytes = store.HEAD_BYTES + counts * ENTRY_BYTES + rows["person_bytes"]
    outdated = np.zeros(len(rows), np.bool_)
    return Firsts(rows["row"].copy(), groups[chosen], b"".join(parts), body_bytes, counts, entries, outdated)


def _others(staged: Staged, chosen: NDArray[np.bool_], groups: NDArray[np.int64]) -> Others:
    rows, none = staged.rows[chosen], np.zeros(0, np.int64)
    return Others(
        rows=rows["row"].copy(),
        ops=rows["op"].copy(),
        groups=groups[chosen],
        people=staged.people(chosen),
        hashes=np.zeros((0, 2), np.uint64),
        hash_rows=none,
        numbers=none.astype(np.uint32),
        version_rows=none,
        bodies=[],
        holders=none.astype(np.uint32),
        entries=np.zeros(0, ENTRY_DTYPE),
        entry_rows=none,
        open_groups=none,
    )


def _resolve(
    keys: Keys,
    staged: Staged,
    is_first: NDArray[np.bool_],
    firsts: Firsts,
    others: Others,
    first_person: int,
    recorded_at_ms: int,
) -> tuple[Firsts, Others, int] | None:
    """Apply the other rows to the firsts and to each other. None if somebody's birth date is changed."""
    met_again = np.flatnonzero(np.isin(firsts.groups, others.groups))
    known = _Known(firsts, met_again, first_person)
    workspace = Workspace(keys, _Nobody(), known.newest, first_person + len(firsts.rows))
    again = staged.rows[is_first][met_again]
    for at, digests in zip(met_again.tolist(), bulk.digests_of(again), strict=True):
        workspace.expect(first_person + at, digests)
    by: list[int] = []
    refused: set[int] = set()
    of_row = others.groups.tolist()
    rows = zip(others.rows.tolist(), others.ops.tolist(), others.people, strict=True)
    for at, (number, op, person) in enumerate(rows):
        if of_row[at] in refused:
            continue
        try:
            workspace.put(*apply_row(Row(number, bulk.OPS[op], _decode_person(person)), workspace, keys))
            by.append(at)
        except RefusedRow:
            refused.add(of_row[at])
    if workspace.birth_moved:
        return None
    kept = [(at, each) for at, each in zip(by, workspace.changes, strict=True) if of_row[at] not in refused]
    last = {change.number: (at, change) for at, change in kept}
    changed = np.array([number - first_person for number in last if number < first_person + len(firsts.rows)], np.int64)
    firsts.outdated[changed] = True
    return firsts, _with_changes(others, kept, last, refused, recorded_at_ms), workspace.next_person


def _with_changes(
    others: Others,
    kept: list[tuple[int, Change]],
    last: dict[int, tuple[int, Change]],
    refused: set[int],
    recorded_at_ms: int,
) -> Others:
    counts = [len(change.entries) // ENTRY_BYTES for _, change in last.values()]
    return others._replace(
        numbers=np.array([change.number for _, change in kept], np.uint32),
        version_rows=np.array([at for at, _ in kept], np.int64),
        bodies=[_body(change, recorded_at_ms) for _, change in kept],
        holders=np.repeat(np.array(list(last), np.uint32), counts),
        entries=np.frombuffer(b"".join(change.entries for _, change in last.values()), ENTRY_DTYPE),
        entry_rows=np.repeat(np.array([at for at, _ in last.values()], np.int64), counts),
        open_groups=np.array(sorted(refused), np.int64),
    )


class _Known:
    """The people of firsts, for those who look them up."""

    def __init__(self, firsts: Firsts, chosen: NDArray[np.intp], first_person: int) -> None:
        ends = np.cumsum(firsts.body_bytes)
        starts = ends - firsts.body_bytes
        counts = firsts.entry_counts
        spans = zip(starts[chosen].tolist(), ends[chosen].tolist(), counts[chosen].tolist(), strict=True)
        self._spans = dict(zip((chosen + first_person).tolist(), spans, strict=True))
        self._body = firsts.body

    def newest(self, number: int) -> Version | None:
        span = self._spans.get(number)
        if span is None:
            return None
        start, end, count = span
        middle = start + store.HEAD_BYTES + count * ENTRY_BYTES
        entries = self._body[start + store.HEAD_BYTES : middle]
        return Version(number, 0, 0, entries, _decode_person(self._body[middle:end]))


def _body(change: Change, recorded_at_ms: int) -> bytes:
    head = store.record_head(len(change.entries) // ENTRY_BYTES, recorded_at_ms)
    return head + change.entries + store.encode_person(change.person)


# --- the process ------------------------------------------------------------------------------------------------


def serve(connection: Connection, rules: Rules) -> None:
    """Be a preparing process until the other end is closed, however its process ended.

    Answers a path with Looked, and (path, first person number, instant, spool file) with Prepared; both with a
    ShikakuError if that is how it ends.
    """
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        answer: object
        try:
            with durable.explained("preparing a feed", FileNotFoundError), feed.collector_paused():
                if isinstance(asked, Path):
                    answer = look(asked)
                else:
                    path, first_person, recorded_at_ms, spooled = asked
                    with open(spooled, "xb") as out:
                        answer = prepare(path, rules, first_person, recorded_at_ms, out)
        except ShikakuError as error:
            answer = error
        except FileNotFoundError:
            answer = StorePoisonedError("a feed, or the spool, is not there any more")
        try:
            connection.send(answer)
        except BrokenPipeError:
            return
