"""Owns the day number: the one conversion between calendar dates and the integers in records and index.

Day 0 is 1920-01-01. A record holds the exact day number (negative for earlier dates); an index slot holds it
in 16 bits, saturated: 0 stands for "day 0 or earlier", 65534 for "day 65534 (2099-06-04) or later", and 65535
for "none". As-of dates are therefore accepted from 1920-01-02 to 2099-06-03 only, where saturation cannot
change an answer.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache

from engine.errors import DateError
from ext import canon

EPOCH_ORDINAL = date(1920, 1, 1).toordinal()
NO_DAY = 65535
"""The 16-bit value that says "no such date" (for a lost day: not lost)."""
DAY_MAX = 65534
AS_OF_MIN = 1
AS_OF_MAX = DAY_MAX - 1


def parse_iso(text: str) -> int:
    """Day number of `YYYY-MM-DD`. Raises DateError if the form or the date does not exist."""
    day = canon.day_of_iso(text)
    if day is not None:
        return day
    if len(text) != 10 or text[4] != "-" or text[7] != "-":
        raise DateError("a date has the form YYYY-MM-DD")
    return parse_compact(text[:4] + text[5:7] + text[8:])


@lru_cache(maxsize=200_000)
def parse_compact(text: str) -> int:
    """Day number of `YYYYMMDD`. Raises DateError if the form or the date does not exist."""
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        raise DateError("a date has eight digits, year first")
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:])).toordinal() - EPOCH_ORDINAL
    except ValueError:
        raise DateError("this date is not in the calendar") from None


format_iso = canon.iso_of_day
"""`YYYY-MM-DD` of a day number."""


@lru_cache(maxsize=50_000)
def add_months(day: int, months: int) -> int:
    """The same day of the month, `months` later (or earlier); the month's last day where it is shorter."""
    start = date.fromordinal(day + EPOCH_ORDINAL)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    for last in (start.day, 30, 29, 28):
        if last <= start.day:
            try:
                return date(year, month + 1, last).toordinal() - EPOCH_ORDINAL
            except ValueError:
                continue
    raise AssertionError("every month has 28 days")


def pack(day: int | None) -> int:
    """The 16-bit form of a day number for an index slot: saturated; None becomes NO_DAY."""
    if day is None:
        return NO_DAY
    return 0 if day < 0 else min(day, DAY_MAX)
