"""Owns the readable specification of ext/canon: canonical forms of identifiers, cards and dates."""

from __future__ import annotations

import re
from datetime import date

CHARS_MAX = 64
_DAY_0 = date(1920, 1, 1).toordinal()
DAY_FIRST = date.min.toordinal() - _DAY_0
DAY_LAST = date.max.toordinal() - _DAY_0
_ISO = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")


def fold(text: str) -> str | None:
    if not isinstance(text, str):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    text = str.__str__(text)
    if len(text) > CHARS_MAX or not (text.isascii() and text.isprintable()):
        return None
    return text.replace(" ", "").replace("/", "").upper()


def fold_number(text: str) -> str | None:
    folded = fold(text)
    return folded.lstrip("0") or folded[:1] if folded else folded


def card_message(insurer_number: str, birth_date: int, symbol_key: str, number_key: str) -> bytes:
    _check_day(birth_date, "birth_date")
    for text, name in ((insurer_number, "insurer_number"), (symbol_key, "symbol_key"), (number_key, "number_key")):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be str, not {type(text).__name__}")
        text.encode()
    insurer, symbol, number = (str.__str__(text) for text in (insurer_number, symbol_key, number_key))
    return f"\x01{insurer}{int(birth_date)}\x1f{symbol}\x1f{number}".encode()


def day_of_iso(text: str) -> int | None:
    if not isinstance(text, str):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    match = _ISO.fullmatch(str.__str__(text))
    try:
        return date(*map(int, match.groups())).toordinal() - _DAY_0 if match else None
    except ValueError:
        return None


def iso_of_day(day: int) -> str:
    _check_day(day, "day")
    return date.fromordinal(int(day) + _DAY_0).isoformat()


def _check_day(day: int, name: str) -> None:
    if not isinstance(day, int):
        raise TypeError(f"{name} must be an integer")
    if not DAY_FIRST <= day <= DAY_LAST:
        raise ValueError(f"{name} must be from {DAY_FIRST} to {DAY_LAST}")
