"""Owns the comparison of the feed reader with its oracle: same rows, same errors, whatever the file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import limits
from engine.errors import InputError
from engine.ingest import blocks, bulk, feed, plain
from engine.ingest.rows import Row, RowError
from engine.keys import Keys
from engine.records import Person
from tests.models import feed as model
from tests.support import feeds

LINE_BYTES_MAX = 1_500
KEYS = Keys(bytes(range(32)))
RULES = st.fixed_dictionaries(
    {
        "insurer": st.sampled_from((None, None, None, "01130012")),
        "policy": st.sampled_from(("error", "warn")),
        "exempt": st.sampled_from((frozenset(), frozenset({"01130012"}))),
        "known": st.sampled_from((None, frozenset({"01130012", "39131156"}))),
    }
)
ENCODINGS = st.sampled_from(("utf-8", "cp932"))


@contextmanager
def sizes(block_bytes: int, rows: int, few: int) -> Iterator[None]:
    """Small blocks, so that a short file crosses all their borders."""
    with ExitStack() as stack:
        for owner, name, value in (
            (feed, "BLOCK_BYTES", block_bytes),
            (plain, "BLOCK_BYTES", block_bytes),
            (plain, "PEOPLE_BYTES", 40 * block_bytes),
            (plain, "ODD_ROWS_MAX", rows),
            (plain, "ROWS_AT_A_TIME", rows),
            (feed, "ROWS_PER_BLOCK_MAX", rows),
            (blocks, "FEW", few),
            (limits, "FEED_ROWS_PER_CHUNK", 7),
            (limits, "FEED_LINE_BYTES_MAX", LINE_BYTES_MAX),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield


def options(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules as the reader takes them."""
    return {
        "insurer": rules["insurer"],
        "policy": rules["policy"],
        "exempt_12_digits": rules["exempt"].__contains__,
        "known_insurer": None if rules["known"] is None else rules["known"].__contains__,
    }


def outcome(data: bytes, **named: Any) -> Any:
    """(rows, errors), or the code and the row of what ended the reading."""
    rows, errors, seen = [], [], 0
    try:
        for chunk in feed.read(io.BytesIO(data), **named):
            assert 0 < chunk.seen <= limits.FEED_ROWS_PER_CHUNK
            numbers = [row.row for row in chunk.rows] + [error.row for error in chunk.errors]
            assert set(numbers) == set(range(seen + 1, seen + chunk.seen + 1))
            seen += chunk.seen
            rows += chunk.rows
            errors += chunk.errors
    except InputError as error:
        return error.code, None if error.code == "feed.header" else error.field
    return rows, model.shown(errors)


def staged_outcome(data: bytes, **named: Any) -> Any:
    """The same of rows that were staged; what is staged beside the person is what is staged of the row."""
    rows: list[Row] = []
    errors: list[RowError] = []
    seen = 0
    try:
        for chunk in plain.stage(io.BytesIO(data), KEYS, **named):
            assert 0 < chunk.seen <= limits.FEED_ROWS_PER_CHUNK
            found = rows_of(chunk.staged)
            numbers = [row.row for row in found] + [error.row for error in chunk.errors]
            assert set(numbers) == set(range(seen + 1, seen + chunk.seen + 1))
            assert {row.person.qualifications[0].insurer_number for row in found} <= chunk.insurers
            seen += chunk.seen
            rows += found
            errors += chunk.errors
    except InputError as error:
        return error.code, None if error.code == "feed.header" else error.field
    return rows, model.shown(errors)


def rows_of(staged: plain.Staged) -> list[Row]:
    """The rows that were staged."""
    people = [msgspec.msgpack.decode(person, type=Person) for person in staged.people()]
    rows = [Row(int(row["row"]), bulk.OPS[row["op"]], person) for row, person in zip(staged.rows, people, strict=True)]
    again = bulk.stage_rows(KEYS, rows)
    for name in staged.rows.dtype.names or ():
        if name != "person_at":
            assert np.array_equal(staged.rows[name], again.rows[name]), name
    assert staged.people() == again.people()
    return rows


def expected(read: Any, data: bytes, encoding: str, rules: dict[str, Any]) -> Any:
    """The same from the oracle."""
    try:
        rows, errors = read(data, encoding, LINE_BYTES_MAX, **rules)
    except model.FileError as error:
        code, row = error.args
        where = f"row {row}" if row else "header row"
        return code, None if code == "feed.header" else where
    return rows, errors


BLOCK_SIZES = st.tuples(
    st.sampled_from((3, 50, 700, 5_000, 100_000)), st.sampled_from((1, 3, 7)), st.sampled_from((0, 6))
)


@settings(max_examples=300)
@given(data=st.data(), encoding=ENCODINGS, rules=RULES, size=BLOCK_SIZES)
def test_csv_gives_what_the_oracle_gives(data: st.DataObject, encoding: str, rules: dict, size: tuple) -> None:
    file = data.draw(feeds.csv_files(encoding))
    if encoding == "utf-8" and data.draw(st.booleans()):
        file = b"\xef\xbb\xbf" + file
    with sizes(*size):
        found = outcome(file, format="csv", encoding=encoding, **options(rules))
        staged = staged_outcome(file, format="csv", encoding=encoding, **options(rules))
    assert found == staged == expected(model.read_csv, file, encoding, rules)


@settings(max_examples=150)
@given(data=st.data(), encoding=ENCODINGS, rules=RULES, size=BLOCK_SIZES)
def test_ndjson_gives_what_the_oracle_gives(data: st.DataObject, encoding: str, rules: dict, size: tuple) -> None:
    values = data.draw(st.lists(feeds.operations(), max_size=8))
    text = "".join(
        json.dumps(value, ensure_ascii=False) + data.draw(st.sampled_from(("\n", "\r\n", "\n\n"))) for value in values
    )
    file = data.draw(feeds.damaged(text.encode(encoding, "ignore")))
    with sizes(*size):
        found = outcome(file, format="ndjson", encoding=encoding, **options(rules))
        staged = staged_outcome(file, format="ndjson", encoding=encoding, **options(rules))
    assert found == staged == expected(model.read_ndjson, file, encoding, rules)


@settings(max_examples=150)
@given(values=st.lists(feeds.operations(), max_size=12), rules=RULES, few=st.sampled_from((0, 6, 100)))
def test_operations_give_what_the_oracle_gives(values: list[Any], rules: dict, few: int) -> None:
    rows: list[Any] = []
    errors: list[Any] = []
    for number, value in enumerate(values, 1):
        model.add_object(rows, errors, number, value, rules)
    with patch.object(blocks, "FEW", few):
        found_rows, found_errors = feed.decode_operations(values, **options(rules))
    assert (found_rows, model.shown(found_errors)) == (rows, errors)
