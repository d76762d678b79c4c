"""Owns the nouns between a feed and the registry: Op, Row, RowError, Report, Chunk.

A row is what one line of a feed (or one operation of a call) asks for, fully validated as far as that is possible
without the store. A row error names the row, the column, a stable code and the *kind* of the offending value; the
value itself is nowhere in it.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

import msgspec

from engine import limits
from engine.records import Person

NO_TARGET: Final = -(2**31)
"""`gained_on` of a lose or cancel row that does not say which spell it means: the latest one is meant."""


class Op(enum.StrEnum):
    """What a row asks for."""

    NEW = "new"
    CHANGE = "change"
    LOSE = "lose"
    CANCEL = "cancel"


class Row(msgspec.Struct, array_like=True, gc=False):
    """One operation. `row` is the 1-based number of the data row (the header row is not counted).

    `person` has exactly one qualification. For LOSE and CANCEL it carries identifiers, the target's `gained_on`
    (or NO_TARGET), `lost_on` and `loss_reason`; other members are as given, which may be empty.
    """

    row: int
    op: Op
    person: Person


class RowError(msgspec.Struct, frozen=True, gc=False):
    """What is wrong with one cell, or (column "") with a row. `kind` describes the value without showing it."""

    row: int
    column: str
    code: str
    kind: str


class Chunk(msgspec.Struct):
    """Up to FEED_ROWS_PER_CHUNK rows of a feed in their order.

    `rows` are the good ones, `errors` everything wrong with the others, `seen` counts both, `warning_count` are
    check digits that were wrong and let pass by policy, `bytes_read` is the position in the file so far.
    """

    rows: list[Row]
    errors: list[RowError]
    bytes_read: int
    seen: int = 0
    warning_count: int = 0


class Counted(Protocol):
    """What a report takes from a chunk, in whatever form its rows are."""

    @property
    def seen(self) -> int:
        """Rows of the chunk, good and bad."""

    @property
    def errors(self) -> list[RowError]:
        """Everything wrong with the bad ones."""

    @property
    def warning_count(self) -> int:
        """Wrong check digits that were let pass."""


class Report(msgspec.Struct):
    """What was found in a whole feed; lists the first FEED_ERRORS_MAX errors and counts them all."""

    rows: int = 0
    error_count: int = 0
    errors: list[RowError] = []
    warning_count: int = 0

    def add(self, chunk: Counted) -> None:
        """Take in one more chunk."""
        self.rows += chunk.seen
        self.warning_count += chunk.warning_count
        self.add_errors(chunk.errors)

    def add_errors(self, errors: list[RowError]) -> None:
        """Take in errors that were found later (against the store)."""
        self.error_count += len(errors)
        self.errors.extend(errors[: max(0, limits.FEED_ERRORS_MAX - len(self.errors))])
