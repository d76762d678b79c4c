"""Asks whether every error class has one family, one stable code, and room for a field but not for a value."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from engine import errors
from engine.errors import ShikakuError

FAMILIES = (
    errors.InputError,
    errors.RefusedError,
    errors.PushbackError,
    errors.StoreError,
    errors.CorruptionError,
)


def leaves(of: type[ShikakuError] = ShikakuError) -> Iterator[type[ShikakuError]]:
    for kind in of.__subclasses__():
        below = list(leaves(kind))
        yield from below or [kind]


LEAVES = [kind for kind in leaves() if kind.__module__ == "engine.errors"]


def test_there_are_five_families() -> None:
    ours = {kind for kind in ShikakuError.__subclasses__() if kind.__module__ == "engine.errors"}
    assert ours == set(FAMILIES)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_a_leaf_has_one_family_a_code_of_its_own_and_a_sentence(leaf: type[ShikakuError]) -> None:
    assert sum(issubclass(leaf, family) for family in FAMILIES) == 1
    assert "code" in vars(leaf)
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", leaf.code)
    assert leaf.__doc__ and leaf.__doc__.rstrip().endswith(".")


def test_codes_are_unique() -> None:
    codes = [leaf.code for leaf in LEAVES]
    assert len(set(codes)) == len(codes)


def test_an_error_carries_detail_and_field() -> None:
    error = errors.DateError("this date is not in the calendar", field="card.birth_date")
    assert (error.code, error.field, error.detail) == (
        "input.date",
        "card.birth_date",
        "this date is not in the calendar",
    )
    assert str(error) == error.detail
    assert errors.FormatError("x").field is None


def test_pushback_says_when_to_come_again() -> None:
    error = errors.WriterBusyError("the queue is full", retry_after_ms=250)
    assert error.retry_after_ms == 250


def test_rows_error_carries_its_report() -> None:
    report = object()
    assert errors.FeedRowsError("2 rows are wrong", report=report).report is report
