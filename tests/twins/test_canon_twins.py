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
    assert canon.CHARS_MAX == canon_py.CHARS_MAX


@given(ASCII | IDENTIFIERS | HOSTILE | OTHERS)
def test_fold(text: Any) -> None:
    assert outcome(canon.fold, text) == outcome(canon_py.fold, text)


@given(ASCII | IDENTIFIERS | HOSTILE | OTHERS)
def test_fold_number(text: Any) -> None:
    assert outcome(canon.fold_number, text) == outcome(canon_py.fold_number, text)
