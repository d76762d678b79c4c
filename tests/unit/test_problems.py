"""Asks whether every error has its row, its own code and texts for both readers, and whether problems hold no value."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest

from api import problems
from engine import errors
from engine.errors import ShikakuError
from engine.ingest.rows import Report, RowError


def leaves(base: type[ShikakuError] = ShikakuError) -> Iterator[type[ShikakuError]]:
    """Every error class below `base` that has no subclass of its own."""
    for child in base.__subclasses__():
        if child.__subclasses__():
            yield from leaves(child)
        else:
            yield child


LEAVES = sorted(leaves(), key=lambda kind: kind.__name__)
JAPANESE = re.compile("[ぁ-ん一-龥]")


def test_every_leaf_has_a_row_and_every_row_is_a_leaf() -> None:
    assert set(LEAVES) == set(problems.TABLE)


def test_codes_are_unique_and_well_formed() -> None:
    codes = [kind.code for kind in LEAVES]
    assert len(set(codes)) == len(codes) == len(problems.known_codes())
    assert all(re.fullmatch(r"internal|[a-z]+\.[a-z_]+", code) for code in codes)


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_texts_are_in_both_languages(kind: type[ShikakuError]) -> None:
    entry = problems.TABLE[kind]
    for text in (entry.title, entry.advice, entry.vendor):
        assert JAPANESE.search(text.ja)
        assert text.en and text.en.replace("個人番号", "").isascii()
    assert entry.advice.ja.endswith("。") and entry.advice.en.endswith(".")


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_status_follows_who_must_act(kind: type[ShikakuError]) -> None:
    status = problems.TABLE[kind].status
    if issubclass(kind, errors.InputError | errors.RefusedError):
        assert 400 <= status < 500
    elif issubclass(kind, errors.PushbackError):
        assert status == (429 if issubclass(kind, errors.CallerRateError | errors.CallerGuessingError) else 503)
    else:
        assert status in (500, 503, 507)


def test_problem_of_an_input_error_names_place_and_page() -> None:
    found = problems.problem(errors.DateError("this date is not in the calendar", field="card.birth_date"))
    sent = msgspec.json.decode(msgspec.json.encode(found))
    assert sent["type"] == "/problems/input.date"
    assert (sent["status"], sent["code"], sent["field"]) == (400, "input.date", "card.birth_date")
    assert sent["detail"] == "this date is not in the calendar"
    assert set(sent["advice"]) == set(sent["vendor_advice"]) == {"ja", "en"}
    assert "retry_after_ms" not in sent and "errors" not in sent


def test_pushback_says_when_to_come_again() -> None:
    error = errors.WriterBusyError("full", retry_after_ms=1_001)
    found = problems.problem(error)
    assert found.retry_after_ms == 1_001
    assert problems.headers(error, found) == {"Retry-After": "2"}


def test_every_503_has_retry_after() -> None:
    error = errors.StorePoisonedError("an earlier write failed")
    assert problems.headers(error, problems.problem(error)) == {"Retry-After": "1"}


def test_row_errors_are_listed_with_their_counts() -> None:
    report = Report(rows=7, error_count=1, errors=[RowError(3, "birth_date", "input.date", "8 digits")])
    found = problems.problem(errors.FeedRowsError("1 row is wrong", report=report))
    sent = msgspec.json.decode(msgspec.json.encode(found))
    assert (sent["rows"], sent["error_count"]) == (7, 1)
    assert sent["errors"] == [{"row": 3, "column": "birth_date", "code": "input.date", "kind": "8 digits"}]


def test_foreign_exceptions_say_nothing_of_themselves() -> None:
    found = problems.problem(KeyError("983205673214"))
    assert (found.status, found.code) == (500, "internal")
    assert b"983205673214" not in msgspec.json.encode(found)


def test_a_subclass_without_a_row_uses_its_parents() -> None:
    kind = type("NarrowDateError", (errors.DateError,), {"__module__": __name__})
    try:
        assert problems.problem(kind("narrow")).code == "input.date"
    finally:
        # Else the leaf would stay known to the tests above.
        del kind
        import gc

        gc.collect()


def test_page_explains_in_both_languages() -> None:
    page = problems.page("input.my_number")
    assert page is not None
    assert 'lang="ja"' in page and 'lang="en"' in page and "input.my_number" in page and "HTTP 400" in page
    assert "<script" not in page


def test_page_of_an_unknown_code_does_not_exist() -> None:
    assert problems.page("input.<b>") is None
