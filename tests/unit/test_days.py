"""Asks whether days.py converts dates exactly, refuses what is no date, and saturates as it says."""

from __future__ import annotations

import calendar
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import days
from engine.errors import DateError

any_date = st.dates()


@given(any_date)
def test_both_forms_go_there_and_back(value: date) -> None:
    day = value.toordinal() - days.EPOCH_ORDINAL
    assert days.parse_iso(value.isoformat()) == day
    assert days.parse_compact(value.strftime("%Y%m%d").rjust(8, "0")) == day
    assert days.format_iso(day) == value.isoformat()


def test_day_zero_and_the_bounds_are_what_the_page_says() -> None:
    assert days.format_iso(0) == "1920-01-01"
    assert days.format_iso(days.AS_OF_MIN) == "1920-01-02"
    assert days.format_iso(days.AS_OF_MAX) == "2099-06-03"
    assert days.format_iso(days.DAY_MAX) == "2099-06-04"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-2",
        "2026-11-231",
        "2026/11/23",
        "20261123",
        "2026-1123-",
        "abcd-ef-gh",
        "２０２６-１１-２３",
        "2026-11-2３",
    ]
    + ["2026-02-29", "2026-13-01", "2026-00-10", "2026-04-31", "2026-11-00", "0000-01-01", "+026-11-23", " 026-11-23"],
)
def test_what_is_no_iso_date_is_refused(text: str) -> None:
    with pytest.raises(DateError) as caught:
        days.parse_iso(text)
    assert text == "" or text not in str(caught.value), "the message must not repeat the value"


@pytest.mark.parametrize(
    "text", ["", "2026112", "202611233", "2026-11-23", "20260229", "2026１１23", "-0261123", "2026112 "]
)
def test_what_is_no_compact_date_is_refused(text: str) -> None:
    with pytest.raises(DateError):
        days.parse_compact(text)


def test_leap_days_are_the_calendars() -> None:
    assert days.parse_iso("2024-02-29") == days.parse_iso("2024-02-28") + 1
    for text in ("1900-02-29", "2100-02-29", "2025-02-29"):
        with pytest.raises(DateError):
            days.parse_iso(text)
    assert days.format_iso(days.parse_iso("2000-02-29")) == "2000-02-29"


@given(st.dates(min_value=date(1000, 1, 1), max_value=date(9000, 1, 1)), st.integers(-600, 600))
def test_add_months_keeps_the_day_or_takes_the_months_last(value: date, months: int) -> None:
    result = date(1920, 1, 1) + timedelta(days=days.add_months((value.toordinal() - days.EPOCH_ORDINAL), months))
    assert (result.year * 12 + result.month) - (value.year * 12 + value.month) == months
    assert result.day == min(value.day, calendar.monthrange(result.year, result.month)[1])


@pytest.mark.parametrize(
    ("start", "months", "expected"),
    [
        ("2026-11-30", 3, "2027-02-28"),
        ("2023-11-30", 3, "2024-02-29"),
        ("2026-01-31", 1, "2026-02-28"),
        ("2026-05-31", -3, "2026-02-28"),
        ("2026-12-15", 1, "2027-01-15"),
        ("2026-01-15", -1, "2025-12-15"),
    ],
)
def test_add_months_by_example(start: str, months: int, expected: str) -> None:
    assert days.format_iso(days.add_months(days.parse_iso(start), months)) == expected


def test_pack_saturates_and_keeps_order() -> None:
    assert days.pack(None) == days.NO_DAY
    assert days.pack(-1) == days.pack(0) == 0
    assert days.pack(1) == 1
    assert days.pack(days.DAY_MAX) == days.pack(days.DAY_MAX + 1) == days.pack(10**6) == days.DAY_MAX
    assert days.pack(days.DAY_MAX) < days.NO_DAY, "lost in the far future is still before never"


@given(st.integers(-(10**6), 3 * 10**6), st.integers(days.AS_OF_MIN, days.AS_OF_MAX))
def test_saturation_never_changes_a_comparison_with_an_accepted_as_of(day: int, as_of: int) -> None:
    assert (days.pack(day) <= as_of) is (day <= as_of)
