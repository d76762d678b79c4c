"""ext/canon and its Python twin have the same outcome, on hostile arguments too."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ext import canon_py
from tests.support.outcomes import compiled, outcome

canon = compiled("canon")


class Text(str):
    """A str that is not plain: the result must be plain all the same."""

    def __str__(self) -> str:
        return "other"


ASCII = st.text(st.characters(max_codepoint=127), max_size=70)
IDENTIFIERS = st.text("0 /-aZ9", max_size=70)
HOSTILE = st.text(st.characters(exclude_categories=()), max_size=70)
OTHERS: st.SearchStrategy[Any] = st.sampled_from(
    [None, 1, b"1", bytearray(b"1"), [], object, Text("0/a"), Text("12"), Text("あ"), Text("")]
)


def test_constants_are_the_same() -> None:
    for name in ("CHARS_MAX", "DAY_FIRST", "DAY_LAST"):
        assert getattr(canon, name) == getattr(canon_py, name)


@given(ASCII | IDENTIFIERS | HOSTILE | OTHERS)
def test_fold(text: Any) -> None:
    assert outcome(canon.fold, text) == outcome(canon_py.fold, text)


@given(ASCII | IDENTIFIERS | HOSTILE | OTHERS)
def test_fold_number(text: Any) -> None:
    assert outcome(canon.fold_number, text) == outcome(canon_py.fold_number, text)


TEXTS = IDENTIFIERS | HOSTILE | OTHERS | st.text(max_size=600)
INTEGERS = st.integers(canon.DAY_FIRST - 2, canon.DAY_LAST + 2) | st.integers()
DAYS: st.SearchStrategy[Any] = INTEGERS | st.sampled_from([None, 1.0, "1", True, False])


@given(TEXTS, DAYS, TEXTS, TEXTS)
def test_card_message(insurer: Any, birth: Any, symbol: Any, number: Any) -> None:
    ours, theirs = (outcome(module.card_message, insurer, birth, symbol, number) for module in (canon, canon_py))
    assert ours == theirs


@given(DAYS)
def test_iso_of_day(day: Any) -> None:
    assert outcome(canon.iso_of_day, day) == outcome(canon_py.iso_of_day, day)


DATES = st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", fullmatch=True) | st.builds(
    "{:04}-{:02}-{:02}".format, st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32)
)


ALMOST = DATES.map(Text) | DATES.map(lambda text: text.replace("-", "/"))


@given(DATES | ALMOST | HOSTILE | OTHERS | st.dates().map(str))
def test_day_of_iso(text: Any) -> None:
    assert outcome(canon.day_of_iso, text) == outcome(canon_py.day_of_iso, text)


def test_every_day_of_the_calendar_there_and_back() -> None:
    for day in range(canon.DAY_FIRST, canon.DAY_LAST + 1, 1):
        assert canon.day_of_iso(canon.iso_of_day(day)) == day
    for day in range(canon.DAY_FIRST, canon.DAY_LAST + 1, 97):
        assert canon.iso_of_day(day) == canon_py.iso_of_day(day)
