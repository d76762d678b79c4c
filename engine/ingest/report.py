"""Owns how a report of refused rows is written out: as CSV for spreadsheets, as JSON for programs."""

from __future__ import annotations

import csv
import io
from typing import Any, Final

import msgspec

from engine.ingest.rows import Report

HEADER: Final = ("row", "column", "code", "kind")


def to_csv(report: Report) -> str:
    """The listed errors, one a line, with a header row and CRLF (RFC 4180).

    Errors that are counted but not listed get one last line: code `report.more`, kind how many.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEADER)
    writer.writerows((error.row, error.column, error.code, error.kind) for error in report.errors)
    more = report.error_count - len(report.errors)
    if more:
        writer.writerow(("", "", "report.more", f"{more} more errors are not listed"))
    return text.getvalue()


def to_json(report: Report) -> bytes:
    """The report as one JSON object: counts, and the listed errors."""
    return msgspec.json.encode(to_builtins(report))


def to_builtins(report: Report) -> dict[str, Any]:
    """The report as plain values, for answers that carry it."""
    return {
        "rows": report.rows,
        "error_count": report.error_count,
        "warning_count": report.warning_count,
        "errors": [{"row": e.row, "column": e.column, "code": e.code, "kind": e.kind} for e in report.errors],
    }
