"""Feeds: what is accepted, what is refused, and how it is said."""

from __future__ import annotations

import csv
import gc
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from engine import days, limits
from engine.errors import (
    BodyTooLargeError,
    FeedEncodingError,
    FeedHeaderError,
    FeedTruncatedError,
    InputError,
)
from engine.ingest import blocks, columns, cut, feed
from engine.ingest.rows import NO_TARGET, Op, Row, RowError
from engine.records import Certificate, ElderlyCertificate, LimitCertificate, Relation, Sex, SpecificDisease, State
from tests.support import feeds

BASE = feeds.BASE
WHO = {name: BASE[name] for name in ("insurer_number", "symbol", "number", "birth_date")}


def csv_text(*rows: dict[str, str], names: tuple[str, ...] = columns.NAMES, **style: Any) -> str:
    """A CSV of these rows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, **({"lineterminator": "\n"} | style))
    writer.writerow(names)
    writer.writerows([row.get(name, "") for name in names] for row in rows)
    return text.getvalue()


def read(data: str | bytes, **named: Any) -> tuple[list[Row], list[RowError]]:
    """All rows and errors of a feed."""
    stream = io.BytesIO(data.encode() if isinstance(data, str) else data)
    chunks = list(feed.read(stream, **named))
    return [row for chunk in chunks for row in chunk.rows], [error for chunk in chunks for error in chunk.errors]


def faults(change: dict[str, str], **named: Any) -> list[tuple[str, str, str]]:
    """What is wrong with the base row after a change; alone and among good rows it must be the same."""
    row = BASE | change
    alone = read(csv_text(row), **named)[1]
    rows, among = read(csv_text(*[BASE] * 10, row, *[BASE] * 10), **named)
    assert [(error.column, error.code, error.kind) for error in alone] == [(e.column, e.code, e.kind) for e in among]
    assert {error.row for error in among} <= {11}
    assert len(rows) == (20 if among else 21)
    return [(error.column, error.code, error.kind) for error in alone]


def codes(change: dict[str, str], **named: Any) -> list[tuple[str, str]]:
    return [fault[:2] for fault in faults(change, **named)]


# --- what is accepted -------------------------------------------------------------------------------------------


def test_a_full_row_becomes_records() -> None:
    row = BASE | feeds.CERTIFICATE | feeds.ELDERLY | feeds.LIMIT | feeds.DISEASES
    row |= {"branch": "1", "link_code": "L-1", "postcode": "1234567", "preschool": "1", "copay_ratio": "030"}
    row |= {"lost_on": "20200401", "loss_reason": "03", "state": "pending", "relation": "2", "card_class": "A1"}
    ((found,), errors) = read(csv_text(row))
    assert not errors and (found.row, found.op) == (1, Op.NEW)
    person = found.person
    assert (person.name, person.name_kana, person.sex) == ("診療　太郎", "シンリョウ タロウ", Sex.MALE)
    assert (person.link_code, person.postcode) == ("L-1", "123-4567")
    assert person.birth_date == days.parse_iso("2000-01-02")
    (held,) = person.qualifications
    assert (held.symbol, held.symbol_key, held.number_key, held.branch) == ("1234", "1234", "1987654", "01")
    assert (held.gained_on, held.lost_on) == (days.parse_iso("2019-04-01"), days.parse_iso("2020-04-01"))
    assert (held.loss_reason, held.state, held.relation) == ("03", State.PENDING, Relation.FAMILY)
    assert (held.card_class, held.copay_ratio, held.preschool) == ("A1", "030", True)
    april = days.parse_iso("2020-04-01")
    assert held.elderly == ElderlyCertificate(april, april, None, "020")
    september = days.parse_iso("2022-09-01")
    assert held.limit == LimitCertificate("01", "A03", september, september, None, None)
    assert held.diseases == (
        SpecificDisease("1", april, april, days.parse_iso("2030-03-31"), 10_000),
        SpecificDisease("2", april, april, None, 0),
    )
    assert person.certificates == (Certificate("cn=jpki,c=jp", "1A2B3C", days.parse_iso("2030-01-02"), False),)


def test_absent_columns_have_defaults() -> None:
    ((row,), _) = read(csv_text(BASE, names=tuple(BASE)))
    (held,) = row.person.qualifications
    assert (held.state, held.card_class, held.preschool, held.copay_ratio) == (State.CONFIRMED, "01", False, "")
    assert (held.elderly, held.limit, held.diseases, row.person.certificates) == (None, None, (), ())


def test_lose_and_cancel_need_only_identifiers() -> None:
    lose, cancel = WHO | feeds.LOSE, WHO | {"op": "cancel"}
    (rows, errors) = read(csv_text(lose, cancel, cancel | {"gained_on": "2019-04-01"}))
    assert not errors
    assert [row.op for row in rows] == [Op.LOSE, Op.CANCEL, Op.CANCEL]
    targets = [row.person.qualifications[0].gained_on for row in rows]
    assert targets == [NO_TARGET, NO_TARGET, days.parse_iso("2019-04-01")]
    assert rows[0].person.qualifications[0].loss_reason == "03"


STYLES = (
    {},
    {"lineterminator": "\r\n"},
    {"quoting": csv.QUOTE_ALL},
    {"quoting": csv.QUOTE_ALL, "lineterminator": "\r\n"},
    {"quoting": csv.QUOTE_NONNUMERIC},
)


@pytest.mark.parametrize("style", STYLES, ids=str)
@pytest.mark.parametrize("encoding", ["utf-8", "cp932"])
@pytest.mark.parametrize("count", [1, 40])
def test_all_ways_of_writing_a_csv_are_one(style: dict[str, Any], encoding: str, count: int) -> None:
    """Also the ways of cutting: plain, fully quoted, a few quotes, many quotes."""
    rows = [BASE | feeds.CERTIFICATE | {"number": str(number)} for number in range(1, count + 1)]
    wanted = read(csv_text(*rows, names=tuple(reversed(columns.NAMES))))
    assert len(wanted[0]) == count
    text = csv_text(*rows, **style)
    assert read(text.encode(encoding), encoding=encoding) == wanted
    assert read(text.rstrip("\r\n").encode(encoding), encoding=encoding) == wanted


def test_utf8_may_have_a_byte_order_mark() -> None:
    text = csv_text(BASE).encode()
    assert read(b"\xef\xbb\xbf" + text) == read(text)


def test_cp932_characters_survive() -> None:
    """Vendor characters that Shift_JIS proper lacks, and those that other tables read differently."""
    name = "髙﨑①～∥－纊Ⅲ㈱"
    ((row,), errors) = read(csv_text(BASE | {"name": name}).encode("cp932"), encoding="cp932")
    assert not errors and row.person.name == name


def test_private_use_characters_and_variants_are_names() -> None:
    """外字 and variation selectors are how people are written."""
    for name in ("\ue000野", "葛\U000e0100城", "𠮷野"):
        ((row,), errors) = read(csv_text(BASE | {"name": name}))
        assert not errors and row.person.name == name


def test_kana_is_kept_in_full_width() -> None:
    ((row,), _) = read(csv_text(BASE | {"name_kana": "ｳﾞｧｲｵﾚｯﾄ･ﾌﾟｰﾄ"}))
    assert row.person.name_kana == "ヴァイオレット・プート"
    assert codes({"name_kana": "診療 タロウ"}) == [("name_kana", "input.format")]


def test_a_line_break_in_an_address_is_a_blank() -> None:
    for break_ in ("\n", "\r\n"):
        rows, errors = read(csv_text(BASE | {"address": f"東京都{break_}千代田区"}, BASE))
        assert not errors
        assert [row.person.address for row in rows] == ["東京都 千代田区", ""]


def test_a_quoted_line_break_does_not_disturb_row_numbers() -> None:
    text = csv_text(BASE, BASE | {"name": "診療\n太郎"}, BASE, BASE | {"sex": "9"})
    rows, errors = read(text)
    assert [row.row for row in rows] == [1, 3]
    assert [(e.row, e.column, e.code) for e in errors] == [(2, "name", "input.control"), (4, "sex", "input.code")]


def test_blank_lines_are_no_rows() -> None:
    text = csv_text(BASE, BASE | {"sex": "9"}).replace("\n", "\n\r\n\n")
    rows, errors = read("\n" + text)
    assert [row.row for row in rows] == [1] and [error.row for error in errors] == [2]


@pytest.mark.parametrize("text", ["2020-02-29", "20200229"])
def test_dates_have_two_forms(text: str) -> None:
    ((row,), _) = read(csv_text(BASE | {"gained_on": text}))
    assert row.person.qualifications[0].gained_on == days.parse_iso("2020-02-29")


def test_lost_on_the_gained_day_was_never_in_force_but_is_no_error() -> None:
    assert codes({"lost_on": "2019-04-01"}) == []
    assert codes({"lost_on": "2019-03-31"}) == [("lost_on", "feed.lost_before_gained")]


# --- what is wrong with a row -----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", Op)
def test_each_required_column_is_asked_for(op: Op) -> None:
    full = BASE | feeds.LOSE | {"op": op.value}
    for column in columns.COLUMNS:
        if op in column.required and column.name != "op":
            found = faults(full | {column.name: ""})
            assert (column.name, "input.required", "empty") in found
            assert len(found) == 1


def test_a_row_without_operation_is_asked_for_it() -> None:
    assert faults({"op": ""}) == [("op", "input.required", "empty")]
    assert codes({"op": "delete"}) == [("op", "input.code")]


BAD = [
    ("insurer_number", "01130013", "input.check_digit", "wrong check digit"),
    ("insurer_number", "0113", "input.format", "4 digits"),
    ("insurer_number", "協会けんぽ", "input.format", "letters"),
    ("number", "1" * 21, "input.too_long", "too long"),
    ("number", "--", "input.format", "mixed characters"),
    ("branch", "123", "input.format", "3 digits"),
    ("birth_date", "2000-02-30", "input.date", "not a date"),
    ("birth_date", "1849-12-31", "input.date", "before 1850"),
    ("gained_on", "R1.5.1", "input.date", "not a date"),
    ("link_code", "L 1", "input.format", "mixed characters"),
    ("link_code", "L" * 41, "input.too_long", "too long"),
    ("name", "あ" * 101, "input.too_long", "too long"),
    ("name", "　", "input.format", "blank"),
    ("name", "山\x00田", "input.control", "control or unreadable character"),
    ("name", "山\ufffd田", "input.control", "control or unreadable character"),
    ("name", "山\u202e田", "input.control", "control or unreadable character"),
    ("name_kana", "山田", "input.format", "not kana"),
    ("sex", "0", "input.code", "unknown code"),
    ("postcode", "123-456", "input.format", "mixed characters"),
    ("loss_reason", "04", "input.code", "unknown code"),
    ("copay_ratio", "30", "input.format", "2 digits"),
    ("copay_ratio", "110", "input.format", "3 digits"),
    ("preschool", "yes", "input.code", "unknown code"),
    ("certificate_serial", "XYZ", "input.format", "letters"),
    ("limit_band", "C01", "input.code", "unknown code"),
    ("diseases", "4:20200401:20200401::0", "input.code", "unknown code"),
    ("diseases", "1:20200401:20200401:20200331:0", "input.period", "ends before it begins"),
    ("diseases", ";".join(["1:20200401:20200401::0"] * 9), "input.too_long", "too many diseases"),
]


@pytest.mark.parametrize(("column", "value", "code", "kind"), BAD)
def test_a_bad_cell_is_named_by_code_and_kind(column: str, value: str, code: str, kind: str) -> None:
    full = feeds.CERTIFICATE | feeds.LIMIT | feeds.ELDERLY | {"lost_on": "2021-04-01"}
    assert faults(full | {column: value}) == [(column, code, kind)]


def test_all_errors_of_a_row_are_listed_in_column_order() -> None:
    found = codes({"sex": "9", "number": "", "birth_date": "x", "postcode": "1", "elderly_ratio": "020"})
    assert found == [
        ("number", "input.required"),
        ("birth_date", "input.date"),
        ("sex", "input.code"),
        ("postcode", "input.format"),
        ("elderly_issued_on", "input.group"),
        ("elderly_valid_from", "input.group"),
    ]


@pytest.mark.parametrize("group", columns.GROUPS, ids=lambda group: group.needed[0])
def test_a_group_is_whole_or_absent(group: columns.Group) -> None:
    full = feeds.CERTIFICATE | feeds.ELDERLY | feeds.LIMIT | {"lost_on": "2021-04-01", "loss_reason": "99"}
    given = {name: full.get(name, "20300101") for name in (*group.needed, *group.optional)}
    given |= {name: "1" for name in given if name == "certificate_revoked"}
    assert codes(given) == []
    for name in group.needed:
        assert codes(given | {name: ""}) == [(name, "input.group")]
    for name in group.optional:
        assert codes(given | {name: ""}) == []
        assert codes({name: given[name]}) == [(needed, "input.group") for needed in group.needed]


def test_a_certificate_that_is_not_revoked_needs_no_certificate() -> None:
    assert codes({"certificate_revoked": "0"}) == []


@pytest.mark.parametrize(("first", "last"), columns.PERIODS)
def test_nothing_ends_before_it_begins(first: str, last: str) -> None:
    full = feeds.ELDERLY | feeds.LIMIT
    assert codes(full | {first: "2022-09-01", last: "2022-09-01"}) == []
    assert codes(full | {first: "2022-09-01", last: "2022-08-31"}) == [(last, "input.period")]


@pytest.mark.parametrize("text", ["983205673214", "９８３２０５６７３２１４", "9832-0567-3214", "9832 0567 3214"])
@pytest.mark.parametrize("column", [c.name for c in columns.COLUMNS])
def test_my_number_is_refused_in_every_column_and_never_shown(column: str, text: str) -> None:
    rows, errors = read(csv_text(BASE | feeds.CERTIFICATE | feeds.ELDERLY | feeds.LIMIT | {column: text}))
    assert not rows
    assert (column, "input.my_number", "twelve digits that may be a My Number") in [
        (error.column, error.code, error.kind) for error in errors
    ]
    assert "9832" not in repr(errors) and "９８３２" not in repr(errors)


def test_an_insurer_with_twelve_digit_numbers_is_exempt_for_them_alone() -> None:
    exempt = {"exempt_12_digits": {"01130012"}.__contains__}
    assert codes({"number": feeds.MY_NUMBER}, **exempt) == []
    assert codes({"number": feeds.MY_NUMBER, "insurer_number": "138040"}, **exempt) == [("number", "input.my_number")]
    assert codes({"symbol": feeds.MY_NUMBER}, **exempt) == [("symbol", "input.my_number")]
    assert codes({"number": "983205673215"}) == []


def test_insurers_of_the_late_elderly_have_checked_numbers_and_no_symbol() -> None:
    assert codes(feeds.LATE_ELDERLY) == []
    assert codes(feeds.LATE_ELDERLY | {"symbol": "1", "branch": "01"}) == [
        ("symbol", "input.unexpected"),
        ("branch", "input.unexpected"),
    ]
    assert codes(feeds.LATE_ELDERLY | {"number": "01234567"}) == [("number", "input.check_digit")]
    assert codes(feeds.LATE_ELDERLY | {"number": "1234566"}) == [("number", "input.format")]
    assert codes(feeds.LATE_ELDERLY | {"number": "０１２３４５６６"}) == []


@pytest.mark.parametrize("number", ["12\n34", "1" * 21, "\ud8001234567"])
def test_an_unreadable_number_of_the_late_elderly_is_a_row_error(number: str) -> None:
    """The check of many such numbers at once once let the error of a control character through to the caller."""
    row = BASE | feeds.LATE_ELDERLY
    rows, errors = feed.decode_operations([*[row] * 10, row | {"number": number}])
    assert len(rows) == 10 and [(error.row, error.column) for error in errors] == [(11, "number")]


@pytest.mark.parametrize("change", [{"insurer_number": "123456"}, feeds.LATE_ELDERLY | {"number": "01234567"}], ids=str)
def test_a_wrong_check_digit_is_counted_where_policy_lets_it_pass(change: dict[str, str]) -> None:
    data = csv_text(*[BASE | change] * 8)
    (chunk,) = feed.read(io.BytesIO(data.encode()), policy="warn")
    assert (len(chunk.rows), chunk.errors, chunk.warning_count) == (8, [], 8)
    assert len(read(data)[1]) == 8


def test_an_insurer_writes_only_for_itself() -> None:
    assert codes({}, insurer="01130012") == []
    assert len(read(csv_text(BASE | {"insurer_number": "138040"}), insurer="00138040")[0]) == 1
    rows, errors = read(csv_text(BASE, BASE | {"insurer_number": "138040"}, BASE), insurer="01130012")
    assert [row.row for row in rows] == [1, 3]
    assert [(e.row, e.column, e.code) for e in errors] == [(2, "insurer_number", "insurer.mismatch")]


def test_an_insurer_must_be_known() -> None:
    known = {"01130012"}.__contains__
    assert codes({}, known_insurer=known) == []
    assert codes({"insurer_number": "138040"}, known_insurer=known) == [("insurer_number", "insurer.unknown")]


def test_rows_of_wrong_width_are_errors_of_their_own() -> None:
    good, header = csv_text(BASE).splitlines()[1], ",".join(columns.NAMES)
    text = "\n".join([header, good, good + ",", good, good.rsplit(",", 1)[0], good]) + "\n"
    rows, errors = read(text)
    width = len(columns.NAMES)
    assert [row.row for row in rows] == [1, 3, 5]
    assert [(e.row, e.code, e.kind) for e in errors] == [
        (2, "row.fields", f"{width + 1} fields"),
        (4, "row.fields", f"{width - 1} fields"),
    ]


@pytest.mark.parametrize("bad", ['"診療"太郎', "診療\r太郎"])
def test_a_row_that_is_not_csv_costs_only_itself(bad: str) -> None:
    lines = csv_text(BASE, BASE, BASE).splitlines()
    lines[2] = lines[2].replace("診療　太郎", bad)
    rows, errors = read("\n".join(lines) + "\n")
    assert [row.row for row in rows] == [1, 3]
    assert [(e.row, e.column, e.code) for e in errors] == [(2, "", "row.quotes")]


# --- what is wrong with a file ----------------------------------------------------------------------------------


def refused(data: bytes | str, expected: type[InputError], **named: Any) -> InputError:
    with pytest.raises(expected) as caught:
        read(data, **named)
    assert caught.type is expected
    return caught.value


def test_shift_jis_read_as_utf8_is_an_encoding_error_with_its_row() -> None:
    header, row = csv_text(BASE).splitlines()
    plain = row.replace("診療　太郎", "A").replace("ｼﾝﾘｮｳ ﾀﾛｳ", "A")
    data = "\n".join([header, plain, plain, row]).encode("cp932")
    error = refused(data, FeedEncodingError)
    assert error.field == "row 3" and "utf-8" in error.detail and "\\x" not in error.detail


def test_utf8_with_a_mark_read_as_cp932_is_refused() -> None:
    data = b"\xef\xbb\xbf" + csv_text(BASE).encode()
    with pytest.raises((FeedEncodingError, FeedHeaderError)):
        read(data, encoding="cp932")


def test_a_bad_byte_in_the_header_names_the_header_row() -> None:
    assert refused(b"op,\xff\n", FeedEncodingError).field == "header row"


@pytest.mark.parametrize("data", ["", "\n\n", "\r\n"])
def test_an_empty_file_has_no_header(data: str) -> None:
    assert refused(data, FeedHeaderError).field == "header row"


def test_a_header_alone_is_an_empty_feed() -> None:
    assert read(",".join(columns.NAMES)) == ([], [])


def test_header_errors_name_the_column() -> None:
    names = ",".join(BASE)
    assert refused(f"{names},colour\n", FeedHeaderError).field == "colour"
    assert refused(f"{names},sex\n", FeedHeaderError).field == "sex"
    assert refused(names.replace("birth_date,", "") + "\n", FeedHeaderError).field == "birth_date"
    assert refused(names.replace("op,", "OP,") + "\n", FeedHeaderError).field == "column 1"


def test_a_file_without_header_row_shows_nothing_of_its_first_person() -> None:
    error = refused(csv_text(BASE).split("\n", 1)[1], FeedHeaderError)
    assert "診療" not in str(error) and error.field == "header row"


@pytest.mark.parametrize("count", [1, 3, 30])
def test_every_cut_of_a_file_is_noticed_or_whole(count: int) -> None:
    """Cut at every byte of the last row: an error, or as many rows as there were; only the last cell can be shorter."""
    text = csv_text(*[BASE | {"address": '千代田区"1"、2'}] * count)
    data = (text.rstrip("\n") + "1:20200401:20200401::10000").encode()
    last = data.rfind(b"\n", 0, len(data) - 60) + 1
    for end in range(last, len(data)):
        try:
            rows, errors = read(data[:end])
        except FeedTruncatedError as error:
            assert error.field == f"row {count}"
        else:
            assert end == last and len(rows) == count - 1 or len(rows) + len(errors) == count
            assert end == last or data[last:end].count(b",") == len(columns.NAMES) - 1


def test_a_quote_that_never_closes_ends_the_reading_early() -> None:
    """Neither memory nor time depend on how much follows."""
    header, row = csv_text(BASE).splitlines()
    start = f'{header}\n{row}\n"'.encode()

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += 1
            return start if self.given == 1 else b"x,\n" * 10_000

    stream = Endless()
    with pytest.raises(BodyTooLargeError) as caught:
        list(feed.read(stream))  # type: ignore[arg-type]
    assert caught.value.field == "row 2" and stream.given < 10


def test_rows_that_open_a_quote_on_every_line_do_not_gather() -> None:
    header = ",".join(columns.NAMES)
    data = header + "\n" + '"a\n",' * 100_000
    assert refused(data, BodyTooLargeError).field == "row 1"


def test_a_quote_open_at_the_end_is_truncation() -> None:
    header, row = csv_text(BASE).splitlines()
    assert refused(f'{header}\n{row}\n"new,\n', FeedTruncatedError).field == "row 2"


@pytest.mark.parametrize("format", ["csv", "ndjson"])
@pytest.mark.parametrize(
    ("length", "fits"), [(limits.FEED_LINE_BYTES_MAX, True), (limits.FEED_LINE_BYTES_MAX + 1, False)]
)
def test_a_line_has_a_bound(format: str, length: int, fits: bool) -> None:
    line = json.dumps({"op": "x"}) if format == "ndjson" else ""
    lead = ",".join(columns.NAMES) + "\n" if format == "csv" else ""
    data = lead + (line + " " * length if format == "ndjson" else "x" * length)[:length] + "\n"
    if fits:
        assert read(data, format=format)[1]
    else:
        assert refused(data, BodyTooLargeError, format=format).field == "row 1"


# --- NDJSON and calls ---------------------------------------------------------------------------------------------


def ndjson(*values: Any) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def test_ndjson_gives_the_same_rows_as_csv() -> None:
    typed = BASE | {"sex": 1, "relation": 1, "preschool": True, "branch": None, "certificate_revoked": False}
    typed["diseases"] = [
        {"category": "1", "issued_on": "2020-04-01", "valid_from": "2020-04-01", "valid_to": None, "self_pay": 10000}
    ]
    text = BASE | {"preschool": "1", "diseases": "1:2020-04-01:2020-04-01::10000"}
    wanted = read(csv_text(*[text] * 20))
    assert read(ndjson(*[typed] * 20), format="ndjson") == wanted
    assert read(ndjson(*[typed] * 20).encode("cp932"), format="ndjson", encoding="cp932") == wanted
    assert feed.decode_operations([typed] * 20) == wanted


def test_ndjson_lines_that_are_no_objects_are_row_errors() -> None:
    rows, errors = read(ndjson(BASE) + "nonsense\n\n[]\n{}\n" + ndjson(BASE), format="ndjson")
    assert [row.row for row in rows] == [1, 5]
    assert [(e.row, e.column, e.code, e.kind) for e in errors][:2] == [
        (2, "", "row.json", "not JSON"),
        (3, "", "row.json", "not an object"),
    ]
    assert {(e.row, e.code) for e in errors[2:]} == {(4, "input.required")}


@pytest.mark.parametrize(
    "twice",
    [
        '{"number": "1", "number": "1"}',
        '{"number": "1", "n\\u0075mber": "2"}',
        '{"colour": 1, "colour": 2}',
        '{"diseases": [{"self_pay": 1}, {"self_pay": 1, "self_pay": 2}]}',
        "{" + ", ".join(f'"{n}": 1' for n in [*range(300), 7]) + "}",
    ],
    ids=["equal", "escaped", "unknown", "inside", "many names"],
)
def test_a_member_given_twice_is_a_row_error(twice: str) -> None:
    rows, errors = read(f"{ndjson(BASE)}{twice}\n{ndjson(BASE)}", format="ndjson")
    assert [row.row for row in rows] == [1, 3]
    assert errors == [RowError(2, "", "row.json", "a member given twice")]


def test_equal_names_in_different_objects_are_no_repeats() -> None:
    one = {"category": "1", "issued_on": "2020-04-01", "valid_from": "2020-04-01", "self_pay": 10000}
    line = json.dumps(BASE | {"diseases": [one, one]}).replace('"op"', '"\\u006fp"')
    rows, errors = read(line + "\n", format="ndjson")
    assert (len(rows), errors) == (1, [])


def test_ndjson_cut_within_its_last_line_is_truncated() -> None:
    data = ndjson(BASE, BASE).rstrip("\n")
    assert len(read(data, format="ndjson")[0]) == 2
    for end in range(data.rfind("\n") + 2, len(data)):
        assert refused(data[:end], FeedTruncatedError, format="ndjson").field == "row 2"


@pytest.mark.parametrize(
    ("change", "column", "code", "kind"),
    [
        ({"number": 1987654}, "number", "input.type", "a number"),
        ({"op": True}, "op", "input.type", "true or false"),
        ({"address": ["x"]}, "address", "input.type", "a list"),
        ({"sex": 1.0}, "sex", "input.type", "a number"),
        ({"sex": 7}, "sex", "input.code", "unknown code"),
        ({"preschool": 2}, "preschool", "input.type", "a number"),
        ({"個人番号": "x"}, "", "input.unknown", "unknown member"),
        ({"diseases": [1]}, "diseases", "input.format", "not a list of diseases"),
    ],
)
def test_json_values_of_the_wrong_type_are_row_errors(
    change: dict[str, Any], column: str, code: str, kind: str
) -> None:
    rows, errors = feed.decode_operations([BASE, BASE | change])
    assert [row.row for row in rows] == [1]
    assert [(e.row, e.column, e.code, e.kind) for e in errors] == [(2, column, code, kind)]


def test_a_deep_json_line_is_a_row_error() -> None:
    rows, errors = read("[" * 30_000 + "\n" + ndjson(BASE), format="ndjson")
    assert len(rows) == 1 and errors == [RowError(1, "", "row.json", "not JSON")]


# --- chunks, memory and the ways of cutting -------------------------------------------------------------------------


def test_chunks_are_bounded_and_tell_the_position(tmp_path: Path) -> None:
    count = 2 * limits.FEED_ROWS_PER_CHUNK + 5
    path = tmp_path / "feed.csv"
    path.write_text(csv_text(*[BASE] * count), "utf-8")
    chunks = list(feed.read(path))
    assert sum(chunk.seen for chunk in chunks) == count
    assert all(len(chunk.rows) == chunk.seen <= limits.FEED_ROWS_PER_CHUNK for chunk in chunks)
    assert [row.row for chunk in chunks for row in chunk.rows] == list(range(1, count + 1))
    positions = [chunk.bytes_read for chunk in chunks]
    assert positions == sorted(positions) and positions[-1] == path.stat().st_size


def test_chunks_may_be_asked_for_in_small(tmp_path: Path) -> None:
    data = csv_text(*[BASE | {"number": str(number)} for number in range(1, 1_001)]).encode()
    whole = read(data)
    sizes = [chunk.seen for chunk in feed.read(io.BytesIO(data), rows_per_chunk=300)]
    assert read(data, rows_per_chunk=300) == whole and sum(sizes) == 1_000 and 3 <= len(sizes) <= 10
    assert len(list(feed.read(io.BytesIO(data), rows_per_chunk=10**9))) == 1


def test_memory_does_not_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the rows, the same peak: what a chunk needs."""
    monkeypatch.setattr(limits, "FEED_ROWS_PER_CHUNK", 2_000)

    def peak(chunks: int) -> int:
        lines = csv_text(*[BASE] * 500).split("\n", 1)
        stream: BinaryIO = Repeated(lines[0].encode() + b"\n", lines[1].encode(), 4 * chunks)  # type: ignore[assignment]
        tracemalloc.start()
        for chunk in feed.read(stream):
            del chunk
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)
    assert peak(6) < 1.5 * peak(2)


class Repeated(io.RawIOBase):
    """A header, and a body many times over."""

    def __init__(self, header: bytes, body: bytes, times: int) -> None:
        self.parts = iter([header, *[body] * times])

    def read(self, size: int = -1) -> bytes:
        return next(self.parts, b"")


def test_the_cycle_collector_is_on_again_whatever_happens() -> None:
    chunks = feed.read(io.BytesIO(csv_text(*[BASE] * 20_001).encode()))
    next(chunks)
    assert gc.isenabled()
    chunks.close()
    refused(b"", FeedHeaderError)
    assert gc.isenabled()
    gc.disable()
    try:
        read(csv_text(BASE))
        assert not gc.isenabled()
    finally:
        gc.enable()


CUTS: list[tuple[str, list[list[str]] | None]] = [
    ("a,b\nc,d\n", [["a", "c"], ["b", "d"]]),
    ("a,b\nc,d", [["a", "c"], ["b", "d"]]),
    ("a,b\r\nc,d\r\n", [["a", "c"], ["b", "d"]]),
    ("a,b\r\nc,d", None),
    ("a,b\nc\n", None),
    ("a,b,c\nd\n", None),
    ("a\nb,c,d\n", None),
    ("a,b\n\nc,d\n", None),
    ("a,b\rc,d\n", None),
    ("a,b\r\nc,d\n", None),
    ('"a","b"\n"c","d"\n', [["a", "c"], ["b", "d"]]),
    ('"a,1","b"\r\n"c","d"\r\n', [["a,1", "c"], ["b", "d"]]),
    ('"a","b"\n"c","d"', [["a", "c"], ["b", "d"]]),
    ('"a""","b"\n', None),
    ('"a\n","b"\n', None),
    ('"a","\n","b"\n', None),
    ('"a","b"\r\n"c","d"\n', None),
    ('"a,1",b\nc,"d"\n', [["a,1", "c"], ["b", "d"]]),
    ('"",b\nc,""\n', [["", "c"], ["b", ""]]),
    ('a"x",b\nc,d\n', None),
    ('"a"x,b\nc,d\n', None),
    ('a,"b\nc",d\n', None),
    ('a,"b\x00"\n', None),
    ('a,"b\n', None),
]


@pytest.mark.parametrize(("text", "wanted"), CUTS)
def test_a_quick_cut_is_right_or_not_made(text: str, wanted: list[list[str]] | None) -> None:
    found = cut.columns_of(text, 2)
    assert found == wanted or (found is None and text.endswith('"'))
    if found is not None:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        assert [list(column) for column in zip(*rows, strict=True)] == found


def test_memos_start_afresh_when_they_are_full() -> None:
    """More distinct dates, issuers and postcodes than a memo keeps: the same rows, bounded memory."""
    shown = [days.format_iso(day) for day in range(-3_000, 60_000)]
    rows = [
        BASE
        | feeds.CERTIFICATE
        | {"gained_on": date, "certificate_issuer": f"CN={number}", "birth_date": date.replace("-", "")}
        for number, date in enumerate(shown)
        if number % 9 == 0
    ]
    found, _ = read(csv_text(*rows, *rows))
    assert [row.person.certificates[0].issuer for row in found] == [
        row["certificate_issuer"].casefold() for row in (*rows, *rows)
    ]
    assert [days.format_iso(row.person.birth_date) for row in found] == [row["gained_on"] for row in rows * 2]
    assert len(blocks._MEMOS["certificate_issuer"]) <= blocks.LONG_MEMO_MAX + feed.ROWS_PER_BLOCK_MAX
    assert max(map(len, blocks._MEMOS.values())) <= blocks.MEMO_MAX + feed.ROWS_PER_BLOCK_MAX
