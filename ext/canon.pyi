"""Owns canonical forms: of identifiers in plain ASCII, of a card as the bytes that are hashed, and of dates."""

from typing import Final

CHARS_MAX: Final = 64
"""Longer text is not folded here; no identifier is that long."""

DAY_FIRST: Final[int]
"""0001-01-01, with 1920-01-01 as day 0."""
DAY_LAST: Final[int]
"""9999-12-31."""

def fold(text: str) -> str | None:
    """Canonical form of an identifier: blanks and slashes dropped, letters in upper case, all else kept.

    Returns: None if the text has other than printable ASCII or is longer than CHARS_MAX: then
        `engine.identifiers` must decide. The same object if nothing changes.
    Raises: TypeError.
    """

def fold_number(text: str) -> str | None:
    """The same without leading zeros; nothing but zeros becomes "0"."""

def card_message(insurer_number: str, birth_date: int, symbol_key: str, number_key: str) -> bytes:
    """What is hashed for a card: `01` insurer, birth day number, symbol, number, with separators, in UTF-8.

    Raises: TypeError, ValueError if the birth date is no day from DAY_FIRST to DAY_LAST, UnicodeEncodeError.
    """

def day_of_iso(text: str) -> int | None:
    """Day number of `YYYY-MM-DD`, 1920-01-01 being day 0; None if it has another form or is not in the calendar.

    Raises: TypeError.
    """

def iso_of_day(day: int) -> str:
    """`YYYY-MM-DD` of a day number from DAY_FIRST to DAY_LAST. Raises: TypeError, ValueError."""
