"""Tests that the quick way takes what is usual, and gives of it what the careful way gives."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pytest

from engine.errors import InputError
from engine.ingest import bulk, cells, feed, plain
from engine.ingest.blocks import BlockChecker
from engine.ingest.cells import Fault, Rules
from engine.ingest.columns import BY_NAME, NAMES
from engine.ingest.rows import Op
from engine.ingest.spool import ROW_DTYPE
from engine.keys import Keys
from engine.records import Person
from ext import sheet
from loadtest.population.feed import generate
from tests.support import feeds

KEYS = Keys(bytes(range(32)))
ROW = feeds.BASE | {"name_kana": feeds.PLAIN_KANA}
GROUPS = feeds.CERTIFICATE | feeds.ELDERLY | feeds.LIMIT | feeds.DISEASES
ROWS = {
    "short": ROW,
    "full": ROW | GROUPS | {"certificate_revoked": "1", "elderly_valid_to": "2030-01-01", "link_code": "L-1"},
    "elderly": ROW | feeds.LATE_ELDERLY,
    "lost": ROW | feeds.LOSE | {"state": "pending", "branch": "7", "preschool": "1", "card_class": "A1"},
    "change": ROW
    | {"op": "change", "postcode": "1234567", "address": "東京都千代田区霞が関1-2-2", "copay_ratio": "030"},
    "lose": ROW | feeds.LOSE,
    "wide": ROW
    | {"symbol": "記号－１２", "number": "００１２３", "insured_name": "髙橋　𠮷子", "gained_on": "18991231"},
    "flags": ROW | {"preschool": "0", "certificate_revoked": "0", "op": "cancel"},
}


def csv_of(*rows: dict[str, str], names: tuple[str, ...] = NAMES) -> bytes:
    """A CSV file of rows without quotes in them."""
    quoted = [",".join(f'"{row.get(name, "")}"' for name in names) for row in rows]
    return "\n".join([",".join(names), *quoted, ""]).encode()


def staged_and_odd(data: bytes, **named: Any) -> tuple[list[plain.StagedChunk], int]:
    """The chunks of a file, and how many rows of it were not plain."""
    careful = 0
    check = BlockChecker.check

    def counted(self: BlockChecker, block: Any) -> Any:
        nonlocal careful
        careful += len(block.numbers)
        return check(self, block)

    with patch.object(BlockChecker, "check", counted):
        return list(plain.stage(io.BytesIO(data), KEYS, **named)), careful


@pytest.mark.parametrize("name", ROWS)
def test_a_usual_row_is_plain_and_staged_as_the_careful_way_does(name: str) -> None:
    data = csv_of(ROWS[name])
    (chunk,), careful = staged_and_odd(data)
    assert careful == 0
    (expected,) = (bulk.stage_rows(KEYS, chunk.rows) for chunk in feed.read(io.BytesIO(data)))
    assert chunk.staged.people() == expected.people()
    assert chunk.staged.rows.tobytes() == expected.rows.tobytes()


def test_columns_that_a_file_does_not_have_are_as_if_empty() -> None:
    names = tuple(reversed([name for name in NAMES if name in ROW]))
    short, careful = staged_and_odd(csv_of(ROW, names=names))
    assert careful == 0
    whole, _ = staged_and_odd(csv_of(ROW))
    assert short[0].staged.rows.tobytes() == whole[0].staged.rows.tobytes()
    assert short[0].staged.blob == whole[0].staged.blob
    lacking, careful = staged_and_odd(csv_of(ROW, names=tuple(name for name in names if name != "sex")))
    assert (careful, lacking[0].errors[0].column) == (1, "sex")


def test_most_of_the_sample_population_is_plain(tmp_path: Path) -> None:
    """If it were not, everything would still be right, and an import would take ten times as long."""
    path = generate(2_000, 20261123, date(2026, 11, 23), tmp_path).population_file
    chunks, careful = staged_and_odd(path.read_bytes())
    rows = sum(chunk.seen for chunk in chunks)
    assert careful < rows / 50
    in_cp932, careful = staged_and_odd(path.read_text("utf-8").encode("cp932"), encoding="cp932")
    assert careful < rows / 50
    assert [chunk.staged.blob for chunk in in_cp932] == [chunk.staged.blob for chunk in chunks]


@pytest.mark.parametrize("name", ["name", "name_kana", "symbol", "number"])
def test_no_character_is_plain_with_another_value_than_the_careful_way_gives(name: str) -> None:
    """Every character of Unicode within a word: taken with the same value, or not taken."""
    row = ",".join("%s" if column == name else ROW.get(column, "") for column in NAMES)
    plan = plain.plan_of(NAMES, BlockChecker(Rules()), set())
    column, taken_in_all = BY_NAME[name], 0
    codes = [code for code in range(0x20, 0x110000) if not 0xD800 <= code < 0xE000 and code != ord('"')]
    for begin in range(0, len(codes), 20_000):
        texts = [f"A{chr(code)}1" for code in codes[begin : begin + 20_000]]
        data = "".join(row % f'"{text}"' + "\n" for text in texts).encode()
        numbers, people, messages = _arrays(len(texts), plan)
        end, seen, taken, *_ = sheet.read(plan, data, 0, numbers, people, 0, messages)
        assert (end, seen) == (len(data), len(texts))
        for position, start, size in numbers[:taken, :3].tolist():
            person = msgspec.msgpack.decode(people[start : start + size].tobytes(), type=Person)
            held = person.qualifications[0]
            found = {
                "name": person.name,
                "name_kana": person.name_kana,
                "symbol": (held.symbol, held.symbol_key),
                "number": (held.number, held.number_key),
            }
            assert found[name] == cells.read(column, texts[position]), hex(ord(texts[position][1]))
        taken_in_all += taken
    assert taken_in_all > 170


def test_kana_of_half_width_become_what_the_careful_way_makes_of_them() -> None:
    """Every kana before every mark, in either width: taken with the same value, or not taken."""
    kana = [chr(code) for code in (*range(0xFF61, 0xFFA0), *range(0x3041, 0x30FF))]
    texts = [f"ア{letter}{mark}" for letter in kana for mark in ("", "ﾞ", "ﾟ", "ﾞﾞ", "\u3099")]
    plan = plain.plan_of(NAMES, BlockChecker(Rules()), set())
    data = csv_of(*[ROW | {"name_kana": text} for text in texts]).partition(b"\n")[2]
    numbers, people, messages = _arrays(len(texts), plan)
    _, seen, taken, *_ = sheet.read(plan, data, 0, numbers, people, 0, messages)
    assert seen == len(texts) and 57 + 21 + 5 < taken
    for position, start, size in numbers[:taken, :3].tolist():
        person = msgspec.msgpack.decode(people[start : start + size].tobytes(), type=Person)
        assert person.name_kana == cells.read(BY_NAME["name_kana"], texts[position]), texts[position]


def _arrays(rows: int, plan: sheet.Plan) -> tuple[Any, Any, Any]:
    messages = [(np.empty((rows, width), np.uint8), np.empty(rows, np.uint16)) for width in plain.MESSAGE_BYTES]
    numbers = np.empty((rows, sheet.HEAD_NUMBERS + len(plain.NOTED)), np.int64)
    return numbers, np.empty(rows * 400, np.uint8), messages


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_is_plain_that_the_careful_way_refuses(name: str) -> None:
    """Hostile values in every column of rows that are right otherwise."""
    own = tuple(BY_NAME[name].codes or ()) + feeds.OF_FORM.get(BY_NAME[name].form, ())
    texts = [text for text in (*own, *feeds.HOSTILE) if '"' not in text and "\n" not in text and "\r" not in text]
    for base in ROWS.values():
        data = csv_of(*[base | {name: text} for text in texts])
        (chunk,), _ = staged_and_odd(data)
        (expected,) = feed.read(io.BytesIO(data))
        assert chunk.errors == expected.errors
        rows = bulk.stage_rows(KEYS, expected.rows)
        assert chunk.staged.people() == rows.people()
        for field in ROW_DTYPE.names or ():
            # Where a record lies is each way's own business.
            assert field == "person_at" or (chunk.staged.rows[field] == rows.rows[field]).all(), field


def test_days_and_integers_are_packed_as_records_have_them() -> None:
    """Every length of an integer, on both sides of its edges, and every day of a leap year."""
    texts = ["0001-01-01", "9999-12-31", *(date.fromordinal(700_914 + day).isoformat() for day in _EDGES)]
    texts += [date.fromordinal(date(2024, 1, 1).toordinal() + day).isoformat() for day in range(366)]
    rows = [ROW | {"card_issued_on": text} for text in texts]
    (chunk,), careful = staged_and_odd(csv_of(*rows))
    assert careful == 0
    for text, packed in zip(texts, chunk.staged.people(), strict=True):
        person = msgspec.msgpack.decode(packed, type=Person)
        assert person.qualifications[0].card_issued_on == cells.read_date(text)
        assert msgspec.msgpack.encode(person) == packed


_EDGES = (-32_769, -32_768, -129, -128, -33, -32, -1, 0, 127, 128, 255, 256, 65_535, 65_536)


def test_insurers_are_judged_by_the_rules_of_the_feed() -> None:
    data = csv_of(ROW)
    (chunk,), careful = staged_and_odd(data, insurer="01130012", known_insurer={"01130012"}.__contains__)
    assert (careful, chunk.errors, chunk.insurers) == (0, [], {"01130012"})
    for named, code in (
        ({"insurer": "39131156"}, "insurer.mismatch"),
        ({"known_insurer": set().__contains__}, "insurer.unknown"),
    ):
        (chunk,), careful = staged_and_odd(data, **named)
        assert [error.code for error in chunk.errors] == [code]
        assert (len(chunk.staged.rows), chunk.insurers) == (0, set())


def test_odd_rows_and_plain_rows_are_staged_in_the_order_of_the_file() -> None:
    rows = [ROW | {"number": str(at), "address": "" if at % 3 else "1-2"} for at in range(1, 30)]
    (chunk,), careful = staged_and_odd(csv_of(*rows))
    assert 0 < careful < 20
    assert chunk.staged.rows["row"].tolist() == list(range(1, 30))
    people = [msgspec.msgpack.decode(packed, type=Person) for packed in chunk.staged.people()]
    assert [person.qualifications[0].number for person in people] == [str(at) for at in range(1, 30)]


def test_long_odd_rows_are_checked_before_they_pile_up() -> None:
    """Two thousand of the longest were gathered: a gigabyte."""
    data = csv_of(*[ROW | {"address": "x" * 25_000}] * 60)
    blocks: list[int] = []
    check = BlockChecker.check

    def noted(self: BlockChecker, block: Any) -> Any:
        blocks.append(len(block.numbers))
        return check(self, block)

    with patch.object(BlockChecker, "check", noted):
        (chunk,) = plain.stage(io.BytesIO(data), KEYS)
    assert [error.row for error in chunk.errors] == list(range(1, 61))
    assert sum(blocks) == 60 and max(blocks) * 25_000 <= plain.ODD_CHARS_MAX + plain.BLOCK_BYTES


def test_a_record_for_which_there_is_no_room_goes_the_careful_way() -> None:
    data = csv_of(*[ROW | {"address": "京" * 200}] * 40)
    whole, _ = staged_and_odd(data)
    with patch.object(plain, "PEOPLE_BYTES", 5_000), patch.object(plain, "BLOCK_BYTES", 4_000):
        parts, careful = staged_and_odd(data)
    assert 0 < careful < 40 and len(parts) > 1
    people = [person for part in parts for person in part.staged.people()]
    assert people == whole[0].staged.people()


def test_codes_of_the_plan_are_what_cells_are() -> None:
    for name in ("op", "sex", "relation", "state", "card_class", "loss_reason", "preschool"):
        column = BY_NAME[name]
        for text, packed, _ in plain._codes(column):
            assert packed == msgspec.msgpack.encode(cells.read(column, text.decode()))
    assert [number for *_, number in plain._codes(BY_NAME["op"])] == [bulk.OPS.index(op) for op in Op]


def test_what_a_resolver_does_not_know_is_left_to_the_careful_way() -> None:
    resolve = plain._resolver(BY_NAME["diseases"], BlockChecker(Rules()), set())
    with pytest.raises((Fault, InputError)):
        cells.read(BY_NAME["diseases"], "4")
    assert resolve(b"4") is None
    assert resolve(b"\xff") is None
    assert resolve(feeds.DISEASES["diseases"].encode()) is not None
