"""Rows, reports and how refused rows are written out."""

from __future__ import annotations

import csv
import io
import json

import msgspec

from engine import limits
from engine.ingest import report as reports
from engine.ingest.rows import NO_TARGET, Chunk, Op, Report, Row, RowError
from engine.records import Person, Sex

PERSON = Person("診療　太郎", "シンリョウ タロウ", Sex.MALE, 29221)


def errors(count: int, first: int = 1) -> list[RowError]:
    """That many errors, one a row."""
    return [RowError(row, "name", "input.required", "empty") for row in range(first, first + count)]


def test_a_row_survives_messagepack() -> None:
    """The registry stages rows in files."""
    row = Row(7, Op.LOSE, PERSON)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=Row) == row


def test_no_target_is_no_day_of_the_calendar() -> None:
    assert NO_TARGET < -800_000


def test_a_report_adds_up_chunks() -> None:
    report = Report()
    report.add(Chunk([Row(1, Op.NEW, PERSON)], errors(2, 2), 100, seen=3, warning_count=1))
    report.add(Chunk([], errors(1, 4), 200, seen=1))
    assert (report.rows, report.error_count, report.warning_count) == (4, 3, 1)
    assert [error.row for error in report.errors] == [2, 3, 4]


def test_reports_do_not_share_their_lists() -> None:
    Report().add_errors(errors(1))
    assert Report().errors == []


def test_a_report_lists_the_first_errors_and_counts_all() -> None:
    report = Report()
    for first in range(1, 2 * limits.FEED_ERRORS_MAX, 300):
        report.add_errors(errors(300, first))
    assert report.error_count == 2_100
    assert len(report.errors) == limits.FEED_ERRORS_MAX
    assert [error.row for error in report.errors] == list(range(1, limits.FEED_ERRORS_MAX + 1))


def test_a_report_as_csv_reads_back() -> None:
    report = Report(rows=9, error_count=2, errors=[*errors(1), RowError(3, "", "row.fields", '5 "fields", not 4')])
    lines = list(csv.reader(io.StringIO(reports.to_csv(report), newline="")))
    assert lines == [
        ["row", "column", "code", "kind"],
        ["1", "name", "input.required", "empty"],
        ["3", "", "row.fields", '5 "fields", not 4'],
    ]


def test_a_cut_report_says_so_in_csv() -> None:
    report = Report(rows=9_000, error_count=5_000, errors=errors(1_000))
    last = reports.to_csv(report).splitlines()[-1]
    assert last == ",,report.more,4000 more errors are not listed"


def test_a_report_as_json_reads_back() -> None:
    report = Report(rows=9, error_count=1, errors=errors(1), warning_count=2)
    assert json.loads(reports.to_json(report)) == {
        "rows": 9,
        "error_count": 1,
        "warning_count": 2,
        "errors": [{"row": 1, "column": "name", "code": "input.required", "kind": "empty"}],
    }
