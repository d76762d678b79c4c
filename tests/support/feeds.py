"""Owns hostile feeds: hypothesis strategies for rows, files and operations that are mostly right and partly wrong."""

from __future__ import annotations

import csv
import io
from typing import Any

from hypothesis import strategies as st

from engine.ingest import columns
from engine.ingest.columns import Form

MY_NUMBER = "983205673214"
BASE = {
    "op": "new",
    "insurer_number": "01130012",
    "symbol": "1234",
    "number": "1987654",
    "birth_date": "2000-01-02",
    "name": "診療　太郎",
    "name_kana": "ｼﾝﾘｮｳ ﾀﾛｳ",
    "sex": "1",
    "relation": "1",
    "gained_on": "2019-04-01",
}
PLAIN_KANA = "シンリョウ　タロウ"
"""In full width, as ext/sheet takes it."""
LOSE = {"op": "lose", "lost_on": "2020-04-01", "loss_reason": "03"}
CERTIFICATE = {
    "certificate_issuer": "CN=JPKI, C=JP",
    "certificate_serial": "1A2B3C",
    "certificate_expires_on": "2030-01-02",
}
ELDERLY = {"elderly_issued_on": "20200401", "elderly_valid_from": "20200401", "elderly_ratio": "020"}
LIMIT = {
    "limit_category": "01",
    "limit_band": "A03",
    "limit_issued_on": "2022-09-01",
    "limit_valid_from": "2022-09-01",
}
DISEASES = {"diseases": "1:2020-04-01:2020-04-01:2030-03-31:10000;2:20200401:20200401::0"}
LATE_ELDERLY = {"insurer_number": "39131156", "symbol": "", "branch": "", "number": "01234566"}

HOSTILE = (
    "", " ", "　", "-", "0", "1", "00", "A", "a,b", 'a"b', "a\nb", "a\r\nb", "a\rb", "\x00", "\x1a", "\x85",
    "●", "\ufffd", "\u200b山田", "山\u202e田", "\ue000外字", "葛\U000e0100城", "①髙﨑～∥－", "ｶﾞｷﾞ ﾊﾟ", "ー", "ー" * 3,
    "x" * 20, "x" * 21, "x" * 40, "x" * 41, "x" * 64, "x" * 65, "あ" * 100, "あ" * 101, "ﾊﾞ" * 60,
    "亜" * 200, "亜" * 201,
    MY_NUMBER, "９８３２０５６７３２１４", "9832-0567-3214", "9832 0567 3214", "983205673215", "\u115f" + MY_NUMBER,
    "ー" + MY_NUMBER, "9832\n05673214", "null", "12345678", "123456789", "' OR 1=1", "=cmd()",
)  # fmt: skip
OF_FORM: dict[Form, tuple[str, ...]] = {
    Form.DATE: ("2020-02-29", "2019-02-29", "20200229", "2020-2-9", "99991231", "0000-00-00", "18491231", "1850-01-01",
                "２０２０-01-01", "2020/01/01", "2018-01-01", "2021-01-01"),
    Form.INSURER: ("01130012", "138040", "  138040", "00138040", "123456", "39131156", "39131157", "123455", "33120015",
                   "０１１３００１２", "1234", "0113001", "not one"),
    Form.IDENTIFIER: ("１２３４", "記号", "12-34", "12ー34", "00012", "0", "000", "--", "ab/c", " 12 ", "01234566",
                      "01234567", "１２３４５６７-", "ab\tc"),
    Form.BRANCH: ("01", "1", "99", "100", "０１", " 1", "a"),
    Form.FLAG: ("0", "1", "2", "true"),
    Form.ISSUER: ("cn=jpki,c=jp", "CN = JPKI , C = JP", "ＣＮ=x"),
    Form.SERIAL: ("1a2b", "00ff", "0", "0x1F", "AB:CD", "ﬀ", "F" * 40, "F" * 41, "123456789012", MY_NUMBER, "xyz"),
    Form.LINK: ("L-1", "L 1", "Ｌ1", "abc\x7f", "9832-0567-3214"),
    Form.POSTCODE: ("1234567", "123-4567", "123-456", "12-34567", "１２３-4567"),
    Form.RATIO: ("000", "030", "100", "101", "30", "a10"),
    Form.TEXT: ("山田 太郎", "A\tB", "1丁目2番3号", "2-3-4", "123"),
    Form.KANA: ("ヤマダ タロウ", "やまだ", "YAMADA TARO", "山田", "ヴァイオレット・Ｅ", "ｶ゛", "㌔", "ｰ"),
    Form.DISEASES: ("1:2020-04-01:2020-04-01:2030-03-31:10000", "4:20200401:20200401::0",
                    "1:20200401:20200401:20200331:0",
                    "1:2020-04-01:2020-04-01", ";", "1:20200401:20200401::0;" * 8 + "1:20200401:20200401::0",
                    "1:20201301:20200401::0", "1:20200401:20200401::12345678"),
}  # fmt: skip


def cells_of(column: columns.Column) -> st.SearchStrategy[str]:
    """Values for one column: right ones, nearly right ones, hostile ones."""
    own = tuple(column.codes) if column.codes else OF_FORM.get(column.form, ())
    return st.sampled_from(own + own + HOSTILE) | st.text(max_size=30) | st.text("0123456789-", max_size=14)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, str]:
    """One row: a good one with groups filled in, and some cells put at random."""
    row = dict(BASE)
    if draw(st.integers(0, 3)):
        row["name_kana"] = PLAIN_KANA
    for group in (LOSE, CERTIFICATE, ELDERLY, LIMIT, DISEASES, LATE_ELDERLY):
        if draw(st.integers(0, 5)) == 0:
            row |= group
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 2, 5)))):
        column = draw(st.sampled_from(columns.COLUMNS))
        row[column.name] = draw(cells_of(column))
    return row


@st.composite
def csv_files(draw: st.DrawFn, encoding: str) -> bytes:
    """A CSV file of such rows, in some style; now and then a piece of it is cut, doubled or replaced."""
    body = draw(st.lists(rows(), max_size=12))
    names = list(draw(st.permutations(columns.NAMES)))
    for name in draw(st.sets(st.sampled_from(columns.NAMES), max_size=3)):
        names.remove(name)
    text = io.StringIO(newline="")
    writer = csv.writer(
        text,
        quoting=draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))),
        lineterminator=draw(st.sampled_from(("\n", "\r\n"))),
    )
    writer.writerow(names)
    writer.writerows([row.get(name, "") for name in names] for row in body)
    data = text.getvalue().encode(encoding, "ignore")
    return draw(damaged(data))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes as they are, or with a few edits, or cut off."""
    for _ in range(draw(st.sampled_from((0, 0, 0, 0, 1, 2)))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from((0, 0, 1, 2, 40))))
        piece = draw(
            st.sampled_from((b"", b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\n\n", b"\x00", b"\x81", b"\xff", b'"\n'))
        )
        data = data[:at] + piece + data[end:]
    if draw(st.integers(0, 3)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return data


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e9, 1e9) | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("category", "self_pay", "x")), inner),
    max_leaves=5,
)
JSON_DISEASES = st.lists(
    st.fixed_dictionaries(
        {
            "category": st.sampled_from(("1", "2", "9", 1)),
            "issued_on": st.sampled_from(("2020-04-01", "20200401", "x", None)),
            "valid_from": st.just("2020-04-01"),
            "self_pay": st.sampled_from((0, 10000, -1, "0", 10**8, True)),
        },
        optional={"valid_to": st.sampled_from(("2030-03-31", None, "", "2020-03-31", 1)), "other": st.just(1)},
    ),
    max_size=9,
)


@st.composite
def operations(draw: st.DrawFn) -> Any:
    """One operation of a call as JSON: a row with typed values, some of the wrong type."""
    value: dict[str, Any] = dict(draw(rows()))
    for name in ("sex", "relation", "preschool", "certificate_revoked"):
        if name in value and draw(st.booleans()):
            value[name] = draw(st.sampled_from((1, 2, 0, True, False, 3, None)))
    if draw(st.integers(0, 3)) == 0:
        value["diseases"] = draw(JSON_DISEASES)
    if draw(st.integers(0, 3)) == 0:
        value[draw(st.sampled_from((*columns.NAMES, "unknown", "Name")))] = draw(JSON_VALUES)
    return draw(st.sampled_from((value, value, value, value, value, value, [value], None, "x")))
