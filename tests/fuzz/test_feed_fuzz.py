"""Arbitrary bytes as feeds: chunks, or an InputError leaf with a row, and nothing else; in bounded time."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import errors, limits
from engine.ingest import columns, feed
from tests.support import feeds

HEADER = ",".join(columns.NAMES).encode() + b"\n"
LEAVES = (
    errors.FeedHeaderError,
    errors.FeedEncodingError,
    errors.FeedTruncatedError,
    errors.BodyTooLargeError,
)
FORMATS = st.sampled_from(("csv", "ndjson"))
ENCODINGS = st.sampled_from(("utf-8", "cp932"))
PIECES = st.sampled_from(
    (
        b'"',
        b",",
        b"\n",
        b"\r\n",
        b"\r",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\x81",
        b"\xff\xfe",
        b"{",
        b"}",
        b'{"op":',
        b"[",
        b"new",
    )
)
BYTES = st.binary(max_size=300) | st.lists(PIECES | st.binary(max_size=3), max_size=60).map(b"".join)


def survive(data: bytes, **named: Any) -> int:
    """Read a feed to its end. Returns: how many rows it had; every row is in a chunk once, good or bad."""
    seen = 0
    try:
        for chunk in feed.read(io.BytesIO(data), **named):
            good = {row.row for row in chunk.rows}
            bad = {error.row for error in chunk.errors}
            assert len(good) == len(chunk.rows) and not good & bad
            assert good | bad == set(range(seen + 1, seen + chunk.seen + 1))
            assert {error.code for error in chunk.errors} <= set(columns.FAULTS)
            assert {error.column for error in chunk.errors} <= {"", *columns.NAMES}
            seen += chunk.seen
    except LEAVES as error:
        assert error.field is not None and type(error) in LEAVES
    return seen


@settings(max_examples=400)
@given(data=BYTES, format=FORMATS, encoding=ENCODINGS, with_header=st.booleans())
def test_any_bytes_are_rows_or_a_refusal(data: bytes, format: str, encoding: str, with_header: bool) -> None:
    survive(HEADER + data if with_header else data, format=format, encoding=encoding)


@settings(max_examples=200)
@given(data=st.data(), encoding=ENCODINGS, flips=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=20))
def test_a_damaged_file_is_rows_or_a_refusal(data: st.DataObject, encoding: str, flips: list) -> None:
    file = bytearray(data.draw(feeds.csv_files(encoding)))
    for position, value in flips:
        if file:
            file[position % len(file)] = value
    survive(bytes(file), encoding=encoding)


@settings(max_examples=200)
@given(values=st.lists(feeds.JSON_VALUES | feeds.operations(), max_size=5))
def test_any_json_is_rows_or_errors(values: list[Any]) -> None:
    rows, found = feed.decode_operations(values)
    assert {row.row for row in rows} | {error.row for error in found} == set(range(1, len(values) + 1))
    text = "".join(json.dumps(value) + "\n" for value in values)
    assert survive(text.encode(), format="ndjson") == len(values)


@settings(max_examples=200)
@given(
    secret=st.text("0123456789", min_size=12, max_size=12) | st.text("山田太郎甲乙丙丁", min_size=6, max_size=9),
    data=st.data(),
)
def test_no_error_repeats_a_value(secret: str, data: st.DataObject) -> None:
    """Whatever cell, header or member a value stands in, errors do not show it."""
    column = data.draw(st.sampled_from(columns.NAMES))
    row = feeds.BASE | {column: secret}
    _, found = feed.decode_operations([row, {**feeds.BASE, secret: "1"}, {**feeds.BASE, column: {secret: secret}}])
    assert found and secret not in repr(found)
    with pytest.raises(errors.FeedHeaderError) as caught:
        list(feed.read(io.BytesIO(HEADER.strip() + b"," + secret.encode() + b"\n")))
    assert secret not in str(caught.value) and secret not in str(caught.value.field)


HEAVY = {
    "quotes": HEADER + b'"' * 3_000_000,
    "commas": HEADER + b"," * 3_000_000,
    "newlines": HEADER + b"\n" * 3_000_000,
    "carriage returns": HEADER + b"\r" * 3_000_000,
    "empty rows": HEADER + (b"," * (len(columns.NAMES) - 1) + b"\n") * 20_000,
    "short rows": HEADER + b"x\n" * 50_000,
    "bad rows": HEADER + b"\xff\n" * 1_000_000,
    "quoted line ends": HEADER + b'"\n"\n' * 50_000,
    "open brackets": b"[" * 60_000 + (b"\n" + b"[" * 60_000) * 30,
    "empty objects": b"{}\n" * 15_000,
    "long digits": (b'{"number":' + b"9" * 60_000 + b"}\n") * 30,
    "combining marks": HEADER + ("か" + "\u3099" * 20_000 + "\n").encode() * 20,
}


@pytest.mark.parametrize("name", HEAVY)
@pytest.mark.parametrize("format", ["csv", "ndjson"])
def test_heavy_files_take_bounded_time(name: str, format: str) -> None:
    """A generous bound in proportion to the file: what grows faster than the file would take hours."""
    data = HEAVY[name]
    started = time.process_time()
    survive(data, format=format)
    assert time.process_time() - started < 20 + len(data) * 10e-6


def test_a_line_of_the_greatest_length_is_checked_in_every_column() -> None:
    """The longest possible cells, in a row that is otherwise good: errors, quickly."""
    for column in columns.NAMES:
        row = feeds.BASE | {column: "9" * (limits.FEED_LINE_BYTES_MAX - 2_000)}
        _, found = feed.decode_operations([row] * 8)
        assert {error.column for error in found} >= {column}
