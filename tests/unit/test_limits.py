"""Asks whether the bounds of limits.py are sane, explained, and consistent with one another and with the layouts."""

from __future__ import annotations

import pytest

from engine import limits
from engine.entries import ENTRY_DTYPE

NAMES = [name for name in vars(limits) if name.isupper()]


@pytest.mark.parametrize("name", NAMES)
def test_every_bound_is_a_positive_integer(name: str) -> None:
    value = getattr(limits, name)
    assert type(value) is int
    assert value > 0


def test_a_persons_entries_fit_the_count_in_a_record() -> None:
    """A record counts its entries in one byte: card and person entries, certificates, one link."""
    entries = 2 * limits.QUALIFICATIONS_PER_PERSON_MAX + limits.CERTIFICATES_PER_PERSON_MAX + 1
    assert entries <= 255


def test_one_person_fits_behind_one_key() -> None:
    assert limits.QUALIFICATIONS_PER_PERSON_MAX <= limits.PEOPLE_PER_KEY_MAX


def test_person_numbers_fit_a_slot() -> None:
    assert limits.PERSON_NUMBER_MAX < 2**32
    assert ENTRY_DTYPE.fields is not None


def test_a_line_fits_its_batch_and_a_batch_its_body() -> None:
    assert limits.BATCH_LINE_BYTES_MAX <= limits.BATCH_BODY_BYTES_MAX
    assert limits.BATCH_ITEMS_MAX <= limits.BATCH_LINES_MAX
    assert limits.DELTA_OPERATIONS_MAX <= limits.DELTA_QUEUE_MAX
    assert limits.BATCH_SLICE_NS < 1_000_000, "a batch may not hold the event loop for more than 1 ms"
