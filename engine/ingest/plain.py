"""Owns the quick way from a feed's bytes to staged rows: plain lines by ext/sheet, all others by engine/ingest/feed.

The plan that ext/sheet works by is made here, out of the column table and the layout of records: what is staged of a
plain line is what `bulk.stage_rows` makes of the row that the careful way reads, byte for byte. Lines that it hands
back are gathered and checked a chunk at a time; where it cannot tell rows apart, the rest of the block goes to the
careful reader.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from msgspec import msgpack

from engine import identifiers, limits
from engine.config import CheckDigitPolicy
from engine.entries import AUX_SHIFT_BRANCH, AUX_SHIFT_LOSS, BRANCH_NONE, LOSS_CODES, STATE_BITS
from engine.errors import InputError
from engine.ingest import bulk, cells, feed
from engine.ingest.blocks import Block, BlockChecker
from engine.ingest.cells import Fault, Rules
from engine.ingest.checks import ABSENT
from engine.ingest.columns import BY_NAME, GROUPS, PERIODS, Column, Form
from engine.ingest.rows import NO_TARGET, Row, RowError
from engine.ingest.spool import Staged
from engine.keys import Keys
from engine.records import Certificate, ElderlyCertificate, LimitCertificate, Person, Qualification
from ext import keyhash, sheet

BLOCK_BYTES: Final = 64 * 1024
PEOPLE_BYTES: Final = 8 * 1024 * 1024
"""Room for the records of a chunk; a chunk ends when three quarters of it are used."""
ODD_ROWS_MAX: Final = 2_000
ODD_CHARS_MAX: Final = 256 * 1024
"""Odd lines, and characters in them, that are gathered before they are checked."""
ROWS_AT_A_TIME: Final = 500
"""Rows of the careful way that are staged together: they stay in the processor's cache until then."""
MESSAGE_BYTES: Final = (192, 320, 64)
"""Room for what is hashed of a card, a certificate and a link code; a row that needs more goes the careful way."""

_pack: Final = msgpack.Encoder().encode
_KINDS: Final = {
    Form.TEXT: sheet.TEXT,
    Form.KANA: sheet.KANA,
    Form.LINK: sheet.LINK,
    Form.SERIAL: sheet.SERIAL,
    Form.DATE: sheet.DATE,
    Form.POSTCODE: sheet.POSTCODE,
    Form.RATIO: sheet.RATIO,
    Form.BRANCH: sheet.BRANCH,
    Form.CODE: sheet.CODE,
    Form.FLAG: sheet.CODE,
    Form.INSURER: sheet.KNOWN,
    Form.ISSUER: sheet.KNOWN,
    Form.DISEASES: sheet.KNOWN,
}


class StagedChunk(NamedTuple):
    """Up to FEED_ROWS_PER_CHUNK rows of a feed, as rows.Chunk has them, the good ones staged."""

    staged: Staged
    errors: list[RowError]
    bytes_read: int
    seen: int
    warning_count: int
    insurers: set[str]
    """Insurers of all rows so far."""


def stage(
    source: Path | BinaryIO,
    keys: Keys,
    *,
    format: feed.FeedFormat = "csv",
    encoding: feed.FeedEncoding = "utf-8",
    insurer: str | None = None,
    policy: CheckDigitPolicy = "error",
    exempt_12_digits: Callable[[str], bool] | None = None,
    known_insurer: Callable[[str], bool] | None = None,
) -> Iterator[StagedChunk]:
    """Read a feed as `feed.read` does, with the same errors, and stage its rows as `bulk.stage_rows` does."""
    checker = BlockChecker(Rules.of(insurer, policy, exempt_12_digits, known_insurer))
    with feed.opened(source) as stream:
        lines = feed.LineBlocks(stream, encoding, BLOCK_BYTES)
        if format == "csv":
            yield from _CsvStager(keys, checker, lines).chunks()
        else:
            stager = _Stager(keys, checker, lines)
            yield from stager.chunks_of(feed.NdjsonReader(lines).blocks())
            yield from stager.rest()


class _Stager:
    """Gathers staged rows into chunks; this much is enough for rows of the careful way."""

    def __init__(self, keys: Keys, checker: BlockChecker, lines: feed.LineBlocks) -> None:
        self.keys = keys
        self.checker = checker
        self.lines = lines
        self.insurers: set[str] = set()
        self.seen = 0
        self.warning_count = 0
        self.errors: list[RowError] = []
        self.rows: list[Row] = []
        self.pieces: list[Staged] = []

    def chunks_of(self, blocks: Iterator[Block]) -> Iterator[StagedChunk]:
        """Check all blocks the careful way; the last chunk may stay unfinished."""
        for block in blocks:
            if self.seen and self.seen + len(block.numbers) > limits.FEED_ROWS_PER_CHUNK:
                yield self.chunk()
            self.seen += len(block.numbers)
            self.check(block)

    def rest(self) -> Iterator[StagedChunk]:
        """The last chunk, if there is anything in it."""
        if self.seen:
            yield self.chunk()

    def check(self, block: Block) -> None:
        """Check rows the careful way."""
        rows, errors, warning_count = self.checker.check(block)
        self.rows += rows
        self.errors += errors
        self.warning_count += warning_count
        if len(self.rows) >= ROWS_AT_A_TIME:
            self.stage_rows()

    def stage_rows(self) -> None:
        self.insurers.update(row.person.qualifications[0].insurer_number for row in self.rows)
        self.pieces.append(bulk.stage_rows(self.keys, self.rows))
        self.rows = []

    def chunk(self) -> StagedChunk:
        """What was gathered, in the order of the rows."""
        if self.rows:
            self.stage_rows()
        self.errors.sort(key=lambda error: error.row)
        staged = bulk.merged(self.pieces)
        made = StagedChunk(staged, self.errors, self.lines.bytes_read, self.seen, self.warning_count, self.insurers)
        self.seen = self.warning_count = 0
        self.errors, self.pieces = [], []
        return made


class _CsvStager(_Stager):
    """Plain lines by ext/sheet; keeps the arrays that it writes to."""

    def __init__(self, keys: Keys, checker: BlockChecker, lines: feed.LineBlocks) -> None:
        super().__init__(keys, checker, lines)
        self.reader = feed.CsvReader(lines)
        self.odd: list[str] = []
        self.odd_chars = 0
        self.odd_numbers: list[int] = []
        self.taken = self.used = 0
        self.counts = [0, 0, 0]
        most = self.rows_max = limits.FEED_ROWS_PER_CHUNK
        self.people = np.empty(PEOPLE_BYTES, np.uint8)
        self.numbers = np.empty((most, sheet.HEAD_NUMBERS + len(NOTED)), np.int64)
        self.hashes = [np.empty((most, 2), np.uint64) for _ in MESSAGE_BYTES]
        self.messages = [(np.empty((most, width), np.uint8), np.empty(most, np.uint16)) for width in MESSAGE_BYTES]

    def chunks(self) -> Iterator[StagedChunk]:
        """All chunks of the file; raises what ends a feed early."""
        first = self.reader.begin()
        plan = plan_of(self.reader.header, self.checker, self.insurers)
        yield from self._chunks_of(plan, first.encode(), lambda at: iter([first.encode()[at:].decode()]))
        for block in self.lines.blocks():
            yield from self._chunks_of_block(plan, block)
        yield from self.rest()
        self.lines.raise_failure(self.reader.count + 1)

    def _chunks_of_block(self, plan: sheet.Plan, block: bytes) -> Iterator[StagedChunk]:
        lines, data = self.lines, block
        if lines.encoding != "utf-8":
            try:
                data = block.decode(lines.encoding).encode()
            except UnicodeDecodeError:
                yield from self._careful(lines.decoded(block))
                return
            yield from self._chunks_of(plan, data, lambda at: iter([data[at:].decode()]))
        else:
            yield from self._chunks_of(plan, data, lambda at: lines.decoded(block[at:]))

    def _chunks_of(
        self, plan: sheet.Plan, data: bytes, texts_from: Callable[[int], Iterator[str]]
    ) -> Iterator[StagedChunk]:
        """Whole lines in UTF-8. `texts_from` gives the careful reader what is left of them."""
        at = 0
        while at < len(data):
            if self.seen >= self.rows_max or self.used > PEOPLE_BYTES * 3 // 4:
                yield self.chunk()
            end = self._take(plan, data, at)
            if end == at:
                yield from self._careful(texts_from(at))
                return
            at = end

    def _take(self, plan: sheet.Plan, data: bytes, at: int) -> int:
        """Take plain lines and put odd ones aside. Returns where it stopped: `at` if it could take nothing."""
        first = self.taken
        numbers = self.numbers[first : first + self.rows_max - self.seen]
        end, seen, taken, used, counts, odd = sheet.read(plan, data, at, numbers, self.people, self.used, self.messages)
        if odd:
            try:
                text = b"".join([data[start:stop] for _, start, stop in odd]).decode()
            except UnicodeDecodeError:
                # The careful reader says in which row.
                return at
            self.odd.append(text)
            self.odd_chars += len(text)
            self.odd_numbers += [self.reader.count + 1 + position for position, _, _ in odd]
        numbers[:taken, 0] += self.reader.count + 1
        for kind, count in enumerate(counts):
            (rows, lengths), start = self.messages[kind], self.counts[kind]
            target = self.hashes[kind][start : start + count]
            keyhash.siphash128_rows(self.keys.index_key, rows[:count], lengths[:count], target)
            self.counts[kind] += count
        self.reader.count += seen
        self.seen += seen
        self.taken, self.used = first + taken, used
        if len(self.odd_numbers) >= ODD_ROWS_MAX or self.odd_chars >= ODD_CHARS_MAX:
            self._check_odd()
        return end

    def _careful(self, texts: Iterator[str]) -> Iterator[StagedChunk]:
        for text in texts:
            yield from self.chunks_of(self.reader.blocks_of(text))

    def _check_odd(self) -> None:
        """Check the lines that were put aside. Each is one row of full width."""
        rows = csv.reader(io.StringIO("".join(self.odd), newline=""), strict=True)
        cells_of = zip(*rows, strict=True)
        self.check(Block(self.odd_numbers, dict(zip(self.reader.header, cells_of, strict=True))))
        self.odd, self.odd_numbers, self.odd_chars = [], [], 0

    def chunk(self) -> StagedChunk:
        if self.odd:
            self._check_odd()
        if self.taken:
            self.pieces.append(self._plain_rows())
        self.taken, self.used, self.counts = 0, 0, [0, 0, 0]
        return super().chunk()

    def _plain_rows(self) -> Staged:
        numbers = self.numbers[: self.taken]
        noted = dict(zip(NOTED, numbers[:, sheet.HEAD_NUMBERS :].T, strict=True))
        card, certificate, link = (hashes[:count] for hashes, count in zip(self.hashes, self.counts, strict=True))
        certified = noted["certificate_issuer"] != 0
        rows = bulk.staged_rows(
            row=numbers[:, 0],
            op=noted["op"],
            person_at=numbers[:, 1],
            person_bytes=numbers[:, 2],
            card=card,
            card_aux=noted["branch"] << AUX_SHIFT_BRANCH | noted["loss_reason"] | noted["state"],
            gained=noted["gained_on"],
            lost=noted["lost_on"],
            certified=certified,
            certificate=certificate,
            expires=noted["certificate_expires_on"][certified],
            revoked=noted["certificate_revoked"][certified] != 0,
            linked=noted["link_code"] != 0,
            link=link,
        )
        return Staged(rows, self.people[: self.used].tobytes())


# --- the plan ---------------------------------------------------------------------------------------------------

NOTED: Final = {
    "op": sheet.VALUE,
    "gained_on": sheet.VALUE,
    "lost_on": sheet.VALUE,
    "branch": sheet.VALUE,
    "loss_reason": sheet.VALUE,
    "state": sheet.VALUE,
    "certificate_expires_on": sheet.VALUE,
    "certificate_revoked": sheet.VALUE,
    "certificate_issuer": sheet.FILLED,
    "link_code": sheet.FILLED,
}
"""What is noted of each plain row."""
_ABSENT_NUMBERS: Final = {"gained_on": NO_TARGET, "lost_on": bulk.NEVER_LOST, "branch": BRANCH_NONE}
_MARKED_EMPTY: Final = ("symbol", "branch")
_SINCE_EVER: Final = -(2**31)


def plan_of(header: Sequence[str], checker: BlockChecker, insurers: set[str]) -> sheet.Plan:
    """The plan for plain lines with these columns. `insurers` gets the numbers of all that they name."""
    # Columns that the file does not have are cells that are never filled, behind those that it has.
    names = [*header, *(name for name in BY_NAME if name not in header)]
    at = {name: position for position, name in enumerate(names)}
    steps = _Steps(at)
    return sheet.Plan(
        [_cell(BY_NAME[name], checker, insurers) for name in names],
        len(header),
        at["op"],
        [([at[name] for name in group.needed], [at[name] for name in group.optional]) for group in GROUPS],
        [(at[first], at[last]) for first, last in (("gained_on", "lost_on"), *PERIODS)],
        (at["insurer_number"], [at[name] for name in _MARKED_EMPTY], at["number"]),
        steps.person(),
        [steps.card(), steps.certificate(), steps.link()],
        [(at[name], what) for name, what in NOTED.items()],
    )


def _cell(column: Column, checker: BlockChecker, insurers: set[str]) -> sheet.Cell:
    kind = _KINDS.get(column.form) or (sheet.NUMBER if column.name == "number" else sheet.IDENTIFIER)
    bound = column.chars_max or 0
    if column.form is Form.SERIAL:
        bound = identifiers.SERIAL_DIGITS_MAX
    elif column.form is Form.DATE:
        bound = identifiers.BIRTH_DATE_MIN if column.name == "birth_date" else _SINCE_EVER
    absent = "" if column.form is Form.IDENTIFIER else ABSENT[column.name]
    return (
        kind,
        bound,
        sum(1 << bulk.OPS.index(op) for op in column.required),
        _pack(absent),
        _ABSENT_NUMBERS.get(column.name, 0),
        _codes(column) if kind == sheet.CODE else (),
        _resolver(column, checker, insurers) if kind == sheet.KNOWN else None,
    )


def _codes(column: Column) -> list[tuple[bytes, bytes, int]]:
    texts = ("0", "1") if column.codes is None else tuple(column.codes)
    return [(text.encode(), _pack(cells.read(column, text)), _code_number(column, text)) for text in texts]


def _code_number(column: Column, text: str) -> int:
    """What a code counts as: an operation's place, a flag's value, bits of an entry."""
    if column.name == "op":
        return bulk.OPS.index(cells.read(column, text))
    if column.name == "state":
        return STATE_BITS[cells.read(column, text)]
    if column.name == "loss_reason":
        return LOSS_CODES[text] << AUX_SHIFT_LOSS
    return int(text) if column.form is Form.FLAG else 0


def _resolver(column: Column, checker: BlockChecker, insurers: set[str]) -> Callable[[bytes], tuple[bytes, int] | None]:
    def insurer(text: str) -> tuple[bytes, int]:
        number = checker.insurer(text)
        insurers.add(number)
        return _pack(number), int(number.startswith(identifiers.ELDERLY_LAW))

    def other(text: str) -> tuple[bytes, int]:
        return _pack(cells.read(column, text)), 0

    read = insurer if column.form is Form.INSURER else other

    def resolve(text: bytes) -> tuple[bytes, int] | None:
        try:
            return read(text.decode())
        except (Fault, InputError, UnicodeDecodeError):
            return None

    return resolve


class _Steps:
    """Steps of a plan, for cells at known places."""

    def __init__(self, at: dict[str, int]) -> None:
        self.at = at

    def packed(self, name: str) -> list[sheet.Step]:
        return [(sheet.PACKED, self.at[name], 0, b"")]

    def person(self) -> list[sheet.Step]:
        """A Person in MessagePack, with one qualification."""
        steps = [_literal(_array_head(len(Person.__struct_fields__)))]
        for name in Person.__struct_fields__:
            if name == "qualifications":
                steps += [_literal(_array_head(1)), *self.qualification()]
            elif name == "certificates":
                steps += self.group("certificate", Certificate, b"\x90", _array_head(1))
            else:
                steps += self.packed(name)
        return steps

    def qualification(self) -> list[sheet.Step]:
        steps = [_literal(_array_head(len(Qualification.__struct_fields__)))]
        for name in Qualification.__struct_fields__:
            if name.endswith("_key"):
                steps.append((sheet.KEY_PACKED, self.at[name.removesuffix("_key")], 0, b""))
            elif name == "elderly":
                steps += self.group(name, ElderlyCertificate, _pack(None), b"")
            elif name == "limit":
                steps += self.group(name, LimitCertificate, _pack(None), b"")
            else:
                steps += self.packed(name)
        return steps

    def group(self, prefix: str, kind: Any, absent: bytes, before: bytes) -> list[sheet.Step]:
        """A struct of columns that are filled together, or what stands for none."""
        names = [f"{prefix}_{name}" for name in kind.__struct_fields__]
        inner = [_literal(before + _array_head(len(names))), *(step for name in names for step in self.packed(name))]
        return [(sheet.UNLESS, self.at[names[0]], len(inner), absent), *inner]

    def card(self) -> list[sheet.Step]:
        """As engine.keys.card_message."""
        at = self.at
        return [
            _literal(b"\x01"),
            (sheet.RAW, at["insurer_number"], 0, b""),
            (sheet.DECIMAL, at["birth_date"], 0, b""),
            _literal(b"\x1f"),
            (sheet.KEY_RAW, at["symbol"], 0, b""),
            _literal(b"\x1f"),
            (sheet.KEY_RAW, at["number"], 0, b""),
        ]

    def certificate(self) -> list[sheet.Step]:
        """As engine.keys.certificate_message, if there is one."""
        issuer, serial = self.at["certificate_issuer"], self.at["certificate_serial"]
        message = [_literal(b"\x02"), (sheet.RAW, issuer, 0, b""), _literal(b"\x1f"), (sheet.RAW, serial, 0, b"")]
        return [(sheet.UNLESS, issuer, len(message), b""), *message]

    def link(self) -> list[sheet.Step]:
        """What engine.keys hashes of a link code, if there is one."""
        link = self.at["link_code"]
        return [(sheet.UNLESS, link, 2, b""), _literal(b"\x04"), (sheet.RAW, link, 0, b"")]


def _literal(data: bytes) -> sheet.Step:
    return (sheet.LITERAL, 0, 0, data)


def _array_head(count: int) -> bytes:
    """How an array begins in MessagePack."""
    return bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
