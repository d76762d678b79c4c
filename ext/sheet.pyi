"""Owns the plain lines of a CSV: bytes of whole lines -> packed records, messages and numbers, by the caller's plan.

A line is *plain* if its cells have the most usual forms of what their columns hold: then there is nothing to say about
it, and it is read here at once, without an object for any of its cells. Every other line is *odd*: it is handed back
unread, for the caller to judge. Where it is not even certain which lines are rows (a quote that does not close in its
line, a lone carriage return, too few or too many cells), reading stops. So this module may hand back too much; it
never takes a line that is wrong, and never gives another value than the caller's own way would.

The plan says what columns there are, what a row must have, and what is written of it. Text is UTF-8, and what is
packed is MessagePack.

    plan = Plan(cells, len(cells), op, groups, periods, None, record=[...], messages=[[...]], numbers=[...])
    end, rows, taken, used, counts, odd = read(plan, data, 0, numbers, people, 0, [(message_bytes, lengths)])
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TEXT: Final = 1
"""Words: letters, digits and the usual signs of Japanese and ASCII, with at least one letter and under 12 digits."""
KANA: Final = 2
"""Kana, Latin letters and the signs that names in kana have. An ideographic blank becomes a plain one, and kana of half
width full ones."""
IDENTIFIER: Final = 3
"""記号: ASCII, full-width ASCII, kanji and kana; it has a key besides, its canonical form."""
NUMBER: Final = 4
"""番号: the same, its key without leading zeros and with more than hyphens."""
LINK: Final = 5
"""Visible ASCII."""
SERIAL: Final = 6
"""Hexadecimal without leading zeros; becomes upper case."""
DATE: Final = 7
"""YYYY-MM-DD or YYYYMMDD; `bound` is the first day allowed. Packed as day number, day 0 being 1920-01-01."""
POSTCODE: Final = 8
"""NNNNNNN or NNN-NNNN; becomes the latter."""
RATIO: Final = 9
"""Three digits, up to 100."""
BRANCH: Final = 10
"""One or two digits; becomes two."""
CODE: Final = 11
"""One of a list: `codes` has (text, packed, number) for each."""
KNOWN: Final = 12
"""Whatever `resolve` knows: it gets the cell's bytes and returns (packed text, number), or None for an odd cell. What
it knows is remembered, up to KNOWN_MAX cells."""

LITERAL: Final = 1
"""(LITERAL, 0, 0, bytes): these bytes."""
PACKED: Final = 2
"""(PACKED, cell, 0, b""): the cell's value in MessagePack; its `absent` if it is empty."""
RAW: Final = 3
"""(RAW, cell, 0, b""): the value as text, nothing if it is empty."""
DECIMAL: Final = 4
"""(DECIMAL, cell, 0, b""): its number in decimal digits."""
KEY_PACKED: Final = 5
KEY_RAW: Final = 6
"""The same two for the key of an IDENTIFIER or NUMBER."""
UNLESS: Final = 7
"""(UNLESS, cell, count, bytes): if the cell is empty, these bytes, and the next `count` steps are left out."""

VALUE: Final = 0
"""(cell, VALUE): the cell's number; its `absent_number` if it is empty."""
FILLED: Final = 1
"""(cell, FILLED): whether the cell is filled."""

CELLS_MAX: Final = 64
CELL_BYTES_MAX: Final = 1024
"""A longer cell is odd, unless it is KNOWN."""
KNOWN_MAX: Final = 4096
HEAD_NUMBERS: Final = 3
"""What each row of `numbers` begins with: the row's position among those seen, where its record starts, its bytes."""

Step = tuple[int, int, int, bytes]
Cell = tuple[int, int, int, bytes, int, Sequence[tuple[bytes, bytes, int]], Callable[[bytes], Any] | None]
"""kind, bound (characters; for DATE the first day), required (a bit for each op), absent, absent_number, codes,
resolve."""

class Plan:
    """What to make of lines with these cells, in this order. It belongs to one thread.

    Args:
        cells: those of each line, and behind them, if there are more than `width`, such as no line has.
        op: the cell, a CODE, whose number says which bit of `required` counts.
        groups: (needed, optional) cells: if any is filled, all needed ones must be.
            An optional CODE whose number is 0 counts as empty.
        periods: (first, last) DATE cells: the last must not be before the first.
        marked: (cell, empty cells, number cell) or None: where the KNOWN cell's number is not 0, those cells must be
            empty, and the number eight digits of which the last is a check digit.
        record: the steps that write a row's record.
        messages: steps for each kind of message; one of no bytes is left out.
        numbers: what is noted of each row behind HEAD_NUMBERS.
    Raises: TypeError, ValueError.
    """

    width: int
    def __init__(
        self,
        cells: Sequence[Cell],
        width: int,
        op: int,
        groups: Sequence[tuple[Sequence[int], Sequence[int]]],
        periods: Sequence[tuple[int, int]],
        marked: tuple[int, Sequence[int], int] | None,
        record: Sequence[Step],
        messages: Sequence[Sequence[Step]],
        numbers: Sequence[tuple[int, int]],
    ) -> None: ...

def read(
    plan: Plan,
    data: bytes,
    start: int,
    numbers: NDArray[np.int64],
    people: NDArray[np.uint8],
    people_start: int,
    messages: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint16]]],
) -> tuple[int, int, int, int, list[int], list[tuple[int, int, int]]]:
    """Read lines from `start` on, until the end, a line that cannot be told, or as many rows as `numbers` has.

    Args:
        numbers: int64, shape (rows, HEAD_NUMBERS + numbers of the plan); receives plain rows, one after another.
        people: uint8; receives their records from `people_start` on. A row that no longer fits is odd.
        messages: for each kind uint8 (rows, width) and uint16 (rows,), both with at least as many rows as `numbers`.
            A row whose message does not fit is odd.
    Returns: where it stopped, rows seen (blank lines are none), rows taken, where the records end, how many messages
        of each kind there are, and for each odd row its position among those seen, start and end of its line.
    Raises: TypeError, ValueError; and what `resolve` raises.
    """
