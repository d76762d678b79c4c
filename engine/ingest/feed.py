"""Owns the reading of feeds: bytes of a CSV or NDJSON file, or a call's operations -> checked rows and row errors.

A file is read in blocks of whole lines, so memory is bounded by the block and the chunk, never by the file or by a
quoted field that does not close. CSV blocks in which every row has full width are cut into columns with a few string
operations; all others go through the csv module, with the same outcome. What is wrong with the file as a whole ends
the reading with an InputError; what is wrong with a row is listed in its chunk. Imports come here only with what the
quick way (engine/ingest/plain) does not take; `read` is all of the careful way, which the quick one is held against.
"""

from __future__ import annotations

import csv
import gc
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import msgspec

from engine import limits
from engine.config import CheckDigitPolicy
from engine.errors import BodyTooLargeError, FeedEncodingError, FeedHeaderError, FeedTruncatedError, InputError
from engine.ingest import cut
from engine.ingest.blocks import Block, BlockChecker, Faults
from engine.ingest.cells import Fault, Rules
from engine.ingest.columns import BY_NAME, HEADER_REQUIRED, Form
from engine.ingest.rows import Chunk, Row, RowError
from ext import frame

FeedFormat = Literal["csv", "ndjson"]
FeedEncoding = Literal["utf-8", "cp932"]

BLOCK_BYTES: Final = 32 * 1024
"""What is read at once: about a hundred rows, whose cells stay in the processor's cache."""
ROWS_PER_BLOCK_MAX: Final = 2_000
assert ROWS_PER_BLOCK_MAX <= limits.FEED_ROWS_PER_CHUNK
_BOM: Final = b"\xef\xbb\xbf"
_NAME_LIKE: Final = re.compile("[a-z][a-z_]{0,39}")
_ENDS_EARLY: Final = ("unexpected end of data", "incomplete multibyte sequence")
_BLANKS: Final = " \t\r"


def read(
    source: Path | BinaryIO,
    *,
    format: FeedFormat = "csv",
    encoding: FeedEncoding = "utf-8",
    insurer: str | None = None,
    policy: CheckDigitPolicy = "error",
    exempt_12_digits: Callable[[str], bool] | None = None,
    known_insurer: Callable[[str], bool] | None = None,
    rows_per_chunk: int | None = None,
) -> Iterator[Chunk]:
    """Read a feed chunk by chunk.

    Args:
        source: a file's path, or a binary stream at its beginning (which stays open).
        insurer: whose feed it is, 8 digits; None: the operator's, with rows of any insurer.
        policy: whether a wrong check digit is a row error or only counted.
        exempt_12_digits: insurers whose insured numbers have 12 digits (no My Number guard on `number`).
        known_insurer: insurers that are registered; None: not checked.
        rows_per_chunk: about how many rows are given at once; None: as many as allowed. Some hundred rows stay in
            the processor's cache until the caller lets go of them, which saves a fifth of the time here alone.
    Returns: chunks of at most FEED_ROWS_PER_CHUNK rows, in order; data rows are numbered from 1.
    Raises: FeedHeaderError, FeedEncodingError, FeedTruncatedError, BodyTooLargeError (a line over
        FEED_LINE_BYTES_MAX), all while iterating: the chunks given before are then void.
    """
    rules = Rules.of(insurer, policy, exempt_12_digits, known_insurer)
    most = limits.FEED_ROWS_PER_CHUNK
    with opened(source) as stream:
        lines = LineBlocks(stream, encoding)
        blocks = CsvReader(lines).blocks() if format == "csv" else NdjsonReader(lines).blocks()
        yield from _chunks(blocks, BlockChecker(rules), lines, min(rows_per_chunk or most, most))


def opened(source: Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """The stream of a feed: the file's own, closed at the end, or the caller's, left open."""
    return source.open("rb", buffering=0) if isinstance(source, Path) else nullcontext(source)


def decode_operations(
    operations: Sequence[Any],
    *,
    insurer: str | None = None,
    policy: CheckDigitPolicy = "error",
    exempt_12_digits: Callable[[str], bool] | None = None,
    known_insurer: Callable[[str], bool] | None = None,
) -> tuple[list[Row], list[RowError]]:
    """Check the operations of one call: JSON objects with the columns' names, numbered from 1.

    Returns: the good rows and the errors of the others; apply nothing unless there are no errors.
    """
    checker = BlockChecker(Rules.of(insurer, policy, exempt_12_digits, known_insurer))
    rows: list[Row] = []
    errors: list[RowError] = []
    for block in _object_blocks(operations, 1):
        good, bad, _ = checker.check(block)
        rows += good
        errors += bad
    return rows, errors


def _chunks(blocks: Iterator[Block], checker: BlockChecker, lines: LineBlocks, rows_per_chunk: int) -> Iterator[Chunk]:
    """Blocks checked and gathered into chunks.

    A chunk is made of a hundred thousand objects that live exactly as long as the chunk and refer to each other in
    no circle. Python's cycle collector would walk them again and again, at a third of the whole time, so it is
    paused while a chunk is made.
    """
    ahead: list[Block] = []
    while True:
        with collector_paused():
            chunk = _gather(blocks, ahead, checker, lines, rows_per_chunk)
        if not chunk.seen:
            return
        yield chunk


def _gather(
    blocks: Iterator[Block], ahead: list[Block], checker: BlockChecker, lines: LineBlocks, rows_per_chunk: int
) -> Chunk:
    """The next chunk; empty at the end. `ahead` keeps the block that no longer fits for the next time."""
    chunk = Chunk([], [], 0)
    for block in chain(tuple(ahead), blocks):
        ahead.clear()
        if chunk.seen and chunk.seen + len(block.numbers) > rows_per_chunk:
            ahead.append(block)
            break
        rows, errors, warning_count = checker.check(block)
        chunk.rows += rows
        chunk.errors += errors
        chunk.seen += len(block.numbers)
        chunk.warning_count += warning_count
        chunk.bytes_read = lines.bytes_read
    return chunk


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hold Python's cycle collector back, if it is on: rows make no cycles, and looking costs a sixth of an import."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class LineBlocks:
    """The text of a stream in blocks of whole lines.

    `unterminated` is set with the last block if the stream does not end with a line feed; `failure` when the
    stream cannot be read on: iteration then just ends, so that the reader can say in which row.
    """

    def __init__(self, stream: BinaryIO, encoding: FeedEncoding, block_bytes: int | None = None) -> None:
        self.stream = stream
        self.encoding: FeedEncoding = encoding
        self.block_bytes = block_bytes or BLOCK_BYTES
        self.bytes_read = 0
        self.unterminated = False
        self.failure: tuple[type[InputError], str] | None = None

        self._blocks = self._read_blocks()

    def __iter__(self) -> Iterator[str]:
        for data in self._blocks:
            yield from self.decoded(data)

    def blocks(self) -> Iterator[bytes]:
        """The same blocks as bytes, for a caller who decodes them; they count as given, here and in the texts."""
        return self._blocks

    def _read_blocks(self) -> Iterator[bytes]:
        rest = b""
        while self.failure is None and (data := self.stream.read(self.block_bytes)):
            if self.bytes_read == 0 and self.encoding == "utf-8":
                while len(data) < len(_BOM) and (more := self.stream.read(len(_BOM))):
                    data += more
                self.bytes_read = len(data)
                data = data.removeprefix(_BOM)
            else:
                self.bytes_read += len(data)
            data = rest + data
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            yield self._measured(data[:end])
            if len(rest) > limits.FEED_LINE_BYTES_MAX and self.failure is None:
                self._fail_long()
        if rest and self.failure is None:
            self.unterminated = bool(rest.strip(b"\r"))
            yield rest

    def _measured(self, data: bytes) -> bytes:
        """The lines up to the first that is too long."""
        start = 0
        while start < len(data):
            end = data.rfind(b"\n", start, start + limits.FEED_LINE_BYTES_MAX + 1)
            if end < 0:
                self._fail_long()
                return data[:start]
            start = end + 1
        return data

    def decoded(self, data: bytes) -> Iterator[str]:
        """The text of a block or of its end; if that cannot be decoded, of its lines before, and `failure` is set."""
        try:
            text = data.decode(self.encoding)
        except UnicodeDecodeError as error:
            text = data[: data.rfind(b"\n", 0, error.start) + 1].decode(self.encoding)
            if self.unterminated and error.end == len(data) and error.reason in _ENDS_EARLY:
                self.failure = (FeedTruncatedError, "the file ends within a character")
            else:
                self.failure = (
                    FeedEncodingError,
                    f"the file is not {self.encoding}; name its encoding if it has another: utf-8 or cp932",
                )
        if text:
            yield text

    def _fail_long(self) -> None:
        self.failure = (BodyTooLargeError, f"a line is longer than {limits.FEED_LINE_BYTES_MAX} bytes")

    def raise_failure(self, row: int) -> None:
        """Raise what stopped the reading, if anything did, as an error of this row (0: the header row)."""
        if self.failure is not None:
            error, detail = self.failure
            raise failed_at(error, detail, row)


def failed_at(error: type[InputError], detail: str, row: int) -> InputError:
    """The error with the row in its text and as its field."""
    where = f"row {row}" if row else "header row"
    return error(f"{detail} ({where})", field=where)


class CsvReader:
    """The blocks of a CSV file (RFC 4180, header row, CRLF or LF, blank lines skipped).

    Three ways of cutting, quickest first, each refusing what it is not sure of: string operations on the whole
    block (engine/ingest/cut), the csv module on all its lines at once, and the csv module row by row. The last takes
    lines through one iterator for the whole file, because a quoted row may go on in the next block.
    """

    def __init__(self, lines: LineBlocks) -> None:
        self.source = lines
        self.texts = iter(lines)
        self.lines: list[str] = []
        self.position = 0
        self.row_chars = 0
        self.row_number = 0
        """The row that the csv module is reading, where it reads row by row."""
        self.count = -1
        """Rows given so far; the header row is number 0."""
        self.inside_quotes = False
        self.rows = csv.reader(self._next_lines(), strict=True)
        self.header: list[str] = []

    def blocks(self) -> Iterator[Block]:
        """All data rows; raises what ends a feed early."""
        text: str | None = self.begin()
        while text is not None:
            yield from self.blocks_of(text)
            text = next(self.texts, None)
        self.source.raise_failure(self.count + 1)

    def begin(self) -> str:
        """Read the header row. Returns: the lines behind it that were read with it."""
        self.header = self._read_header()
        return "".join(self.lines[self.position :])

    def blocks_of(self, text: str) -> Iterator[Block]:
        """The rows that begin in these lines, and what belongs to the last of them."""
        columns = cut.columns_of(text, len(self.header))
        return self._row_blocks(self._parsed(text)) if columns is None else self._column_blocks(columns)

    def _read_header(self) -> list[str]:
        for text in self.texts:
            self._take(text)
            for row in self._parsed_one_by_one():
                self.count = 0
                return check_header(row)
        self.source.raise_failure(0)
        raise FeedHeaderError("the file is empty: the first row names the columns", field="header row")

    def _column_blocks(self, columns: list[list[str]]) -> Iterator[Block]:
        total = len(columns[0])
        for start in range(0, total, ROWS_PER_BLOCK_MAX):
            end = min(start + ROWS_PER_BLOCK_MAX, total)
            part = columns if end - start == total else [column[start:end] for column in columns]
            yield Block(self._numbers(end - start), dict(zip(self.header, part, strict=True)))

    def _row_blocks(self, rows: Iterable[list[str]]) -> Iterator[Block]:
        iterator = iter(rows)
        width = len(self.header)
        while part := list(islice(iterator, ROWS_PER_BLOCK_MAX)):
            faults: Faults = {}
            if set(map(len, part)) != {width}:
                for position, row in enumerate(part):
                    if len(row) != width:
                        faults[position] = [("", self._row_fault(row, position, len(part)))]
                        part[position] = [""] * width
            texts = dict(zip(self.header, zip(*part, strict=True), strict=True))
            yield Block(self._numbers(len(part)), texts, faults)

    def _numbers(self, count: int) -> range:
        self.count += count
        return range(self.count - count + 1, self.count + 1)

    def _row_fault(self, row: list[str], position: int, count: int) -> Fault:
        if not row:
            return Fault("row.quotes", "quotes or line ends")
        is_last = position == count - 1 and self.position == len(self.lines)
        if is_last and self.source.unterminated and len(row) < len(self.header):
            raise failed_at(FeedTruncatedError, "the file ends within a row", self.count + count)
        return Fault("row.fields", f"{len(row)} fields")

    def _take(self, text: str) -> None:
        self.lines, self.position = io.StringIO(text, newline="\n").readlines(), 0

    def _parsed(self, text: str) -> Iterator[list[str]]:
        """Rows that begin in this text; [] for one that the csv module refuses. Blank lines are left out."""
        self._take(text)
        try:
            rows = list(csv.reader(self.lines, strict=True))
        except csv.Error:
            rows = []
        if len(rows) != len(self.lines):
            # A refused row, or one of several lines, which must be measured.
            return self._parsed_one_by_one()
        self.position = len(self.lines)
        return filter(None, rows)

    def _parsed_one_by_one(self) -> Iterator[list[str]]:
        self.row_number = self.count + 1
        while self.position < len(self.lines):
            self.row_chars = 0
            row: list[str] | None = None
            try:
                row = next(self.rows)
            except csv.Error:
                if self.inside_quotes:
                    self.source.raise_failure(self.row_number)
                    raise failed_at(FeedTruncatedError, "the file ends within quotes", self.row_number) from None
            if row != []:
                self.row_number += 1
                yield row or []

    def _next_lines(self) -> Iterator[str]:
        """What the csv module reads: one line a time, across blocks only within a row."""
        while True:
            if self.position == len(self.lines):
                text = next(self.texts, None)
                if text is None:
                    self.inside_quotes = True
                    return
                self._take(text)
            line = self.lines[self.position]
            self.position += 1
            self.row_chars += len(line)
            if self.row_chars > limits.FEED_LINE_BYTES_MAX:
                detail = f"a row is longer than {limits.FEED_LINE_BYTES_MAX} characters, or a quote is not closed"
                raise failed_at(BodyTooLargeError, detail, self.row_number)
            yield line


def check_header(names: list[str]) -> list[str]:
    """The header row, if it names columns, each once, and none is missing that every feed needs."""
    if not names or not any(name in BY_NAME for name in names):
        raise FeedHeaderError("the first row does not name the columns", field="header row")
    for position, name in enumerate(names, 1):
        # What stands in a header row by mistake may be a person's data: only what looks like a name is repeated.
        shown = name if _NAME_LIKE.fullmatch(name) else f"column {position}"
        if name not in BY_NAME:
            raise FeedHeaderError(f"{shown} is not a column of feeds", field=shown)
        if names.index(name) != position - 1:
            raise FeedHeaderError(f"{shown} stands twice in the header row", field=shown)
    for name in HEADER_REQUIRED:
        if name not in names:
            raise FeedHeaderError(f"{name} is missing in the header row", field=name)
    return names


class NdjsonReader:
    """The blocks of an NDJSON file: one object a line, blank lines skipped."""

    def __init__(self, lines: LineBlocks) -> None:
        self.source = lines
        self.count = 0

    def blocks(self) -> Iterator[Block]:
        """All objects; raises what ends a feed early."""
        for text in self.source:
            lines = text.split("\n")
            is_open = self.source.unterminated and bool(lines[-1].strip(_BLANKS))
            objects = [_decoded_line(line) for line in lines if line.strip(_BLANKS)]
            if is_open and objects[-1] is _NOT_JSON:
                raise failed_at(FeedTruncatedError, "the file ends within a line", self.count + len(objects))
            yield from _object_blocks(objects, self.count + 1)
            self.count += len(objects)
        self.source.raise_failure(self.count + 1)


_NOT_JSON: Final = object()
_TWICE: Final = object()
_DECODER: Final = msgspec.json.Decoder()
_KINDS: Final = {int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
_INTEGER_CODES: Final = ("sex", "relation")


def _decoded_line(line: str) -> Any:
    try:
        value = _DECODER.decode(line)
        # Two readers of a line could take two different values of a member that is given twice.
        return value if frame.distinct(line.encode()) or _is_distinct(line) else _TWICE
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _NOT_JSON


def _is_distinct(line: str) -> bool:
    """Whether no object of a line names a member twice; `frame.distinct` cannot tell of names with escapes."""
    repeated = False

    def look(members: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated = repeated or len(dict(members)) != len(members)

    json.loads(line, object_pairs_hook=look)
    return not repeated


def _object_blocks(objects: Sequence[Any], first: int) -> Iterator[Block]:
    for start in range(0, len(objects), ROWS_PER_BLOCK_MAX):
        part = objects[start : start + ROWS_PER_BLOCK_MAX]
        faults: Faults = {}
        rows = [_object_texts(value, position, faults) for position, value in enumerate(part)]
        names = [name for name in BY_NAME if any(name in row for row in rows)]
        texts = {name: [row.get(name, "") for row in rows] for name in names}
        yield Block(range(first + start, first + start + len(rows)), texts, faults)


def _object_texts(value: Any, position: int, faults: Faults) -> Mapping[str, str]:
    """The cells of a JSON object as texts, as they would stand in a CSV; what has no text is a fault."""
    if type(value) is not dict:
        kind = "not JSON" if value is _NOT_JSON else "a member given twice" if value is _TWICE else "not an object"
        faults[position] = [("", Fault("row.json", kind))]
        return {}
    texts: dict[str, str] = {}
    found: list[tuple[str, Fault]] = []
    for name, item in value.items():
        if name not in BY_NAME:
            found.append(("", Fault("input.unknown", "unknown member")))
        elif type(item) is str:
            texts[name] = item
        elif item is not None:
            try:
                texts[name] = _text_of(name, item)
            except Fault as fault:
                found.append((name, fault))
    if found:
        faults[position] = found
    return texts


def _text_of(name: str, item: Any) -> str:
    """The text of a JSON value that is neither string nor null, where the column allows such."""
    form = BY_NAME[name].form
    if form is Form.FLAG and (type(item) is bool or (type(item) is int and item in (0, 1))):
        return str(int(item))
    if name in _INTEGER_CODES and type(item) is int:
        return str(item)
    if form is Form.DISEASES and type(item) is list:
        return ";".join(map(_disease_text, item))
    raise Fault("input.type", _KINDS.get(type(item), "another type"))


_DISEASE_MEMBERS: Final = ("category", "issued_on", "valid_from", "valid_to", "self_pay")
_DISEASE_PART: Final = re.compile("[0-9-]*")


def _disease_text(item: Any) -> str:
    if type(item) is not dict or not set(item) <= set(_DISEASE_MEMBERS):
        raise Fault("input.format", "not a list of diseases")
    parts = [item.get(name) for name in _DISEASE_MEMBERS]
    texts = ["" if part is None else str(part) for part in parts]
    if type(parts[-1]) is not int or any(type(part) not in (str, type(None)) for part in parts[:-1]):
        raise Fault("input.type", "a disease with a member of the wrong type")
    if not all(map(_DISEASE_PART.fullmatch, texts)):
        raise Fault("input.format", "not a list of diseases")
    return ":".join(texts)
