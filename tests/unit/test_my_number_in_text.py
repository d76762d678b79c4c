"""Tests that a My Number is found inside free text, by the fast path and by the slow one alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.identifiers import holds_my_number, may_hold_my_number
from engine.ingest.blocks import Block, BlockChecker
from engine.ingest.cells import Rules
from tests.models.feed import check

FOUND = [
    "マイナンバー 983205673214 見本",
    "見本983205673214",
    "９８３２０５６７３２１４見本",
    "札幌市 9832-0567-3214",
    "札幌市 ９８３２　０５６７　３２１４ 号",
    "見本 9832ー0567ー3214",
    "見本 ９８３２—０５６７―３２１４",
    "見本 9832 - 0567 - 3214 組合",
    "111122223333 と 983205673214",
]
PASSED = [
    "983205673215 見本",
    "1983205673214 見本",
    "9832056732140",
    "見本 9832-0567-32145",
    "見本 9832----0567-3214",
    "9832/0567/3214 見本",
    "山田",
]
ROW = {
    "op": "new",
    "insurer_number": "01130012",
    "number": "17",
    "birth_date": "1990-01-02",
    "name": "山田",
    "name_kana": "ヤマダ",
    "sex": "1",
    "relation": "1",
    "gained_on": "2020-04-01",
}


@pytest.mark.parametrize("text", FOUND)
def test_found(text: str) -> None:
    assert holds_my_number(text)


@pytest.mark.parametrize("text", PASSED)
def test_passed(text: str) -> None:
    assert not holds_my_number(text)


@pytest.mark.parametrize("column", ["name", "name_other", "address", "insured_name"])
@pytest.mark.parametrize("count", [1, 20])
def test_such_a_row_is_refused_one_by_one_and_among_many(column: str, count: int) -> None:
    texts = (FOUND + PASSED + ["山田"] * 20)[:count]
    rows = [ROW | {column: text} for text in texts]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    good, errors, _ = BlockChecker(Rules()).check(Block(range(1, count + 1), columns))
    found = min(count, len(FOUND))
    assert [(e.row, e.column, e.code) for e in errors] == [(n, column, "input.my_number") for n in range(1, found + 1)]
    assert len(good) == count - found
    assert check(1, rows[0], {}) == {column: "input.my_number"}


@given(st.text(alphabet="0123456789０９１ -　－甲鐙靜ｱﾐ\U00020090𐀐", max_size=40))
def test_the_quick_look_never_misses(text: str) -> None:
    if re.search("[0-9０-９]{4}", text):
        assert may_hold_my_number(text)
