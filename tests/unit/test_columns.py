"""The column table: complete, consistent with the oracle's own list, and the source of schema and documentation."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine.entries import LOSS_CODES
from engine.ingest import cells, columns, feed
from engine.ingest.columns import COLUMNS, EVERY, Form
from engine.ingest.rows import Op
from tests.models import feed as model
from tests.support import feeds

ROOT = Path(__file__).parents[2]


def test_names_are_those_of_the_oracle() -> None:
    assert list(columns.NAMES) == model.NAMES


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_every_column_is_documented(column: columns.Column) -> None:
    assert column.english and re.search("[ぁ-ヺ一-龥]", column.japanese)
    assert (column.codes is not None) == (column.form is Form.CODE)


@pytest.mark.parametrize("op", Op)
def test_required_columns_are_those_of_the_oracle(op: Op) -> None:
    required = {column.name for column in COLUMNS if op in column.required}
    assert required == {*model.ALWAYS, *model.NEEDED[op.value]}


def test_code_lists_are_those_of_the_oracle() -> None:
    for name, codes in model.CODES.items():
        column = columns.BY_NAME[name]
        assert list(column.codes or ("0", "1")) == codes


def test_every_loss_reason_fits_an_index_entry() -> None:
    assert set(columns.LOSS_REASONS) == set(LOSS_CODES) - {""}


def test_groups_and_periods_name_columns() -> None:
    named = [name for group in columns.GROUPS for name in (*group.needed, *group.optional)]
    named += [name for period in columns.PERIODS for name in period]
    assert set(named) <= set(columns.NAMES)


def test_unseen_characters_are_the_control_and_format_characters_of_unicode() -> None:
    """The pattern names every control and format character, line separator and surrogate that Python knows of."""
    refused = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    for point in range(0x110000):
        character = chr(point)
        wanted = unicodedata.category(character) in refused or character == "\ufffd"
        found = cells.UNSEEN.match(character) is not None
        assert found == wanted or (found and unicodedata.category(character) == "Cn"), hex(point)


def test_every_code_of_a_row_error_is_documented() -> None:
    """Whatever code the reader's sources name is in the table, and the table has no others."""
    sources = "".join((ROOT / "engine" / "ingest" / f"{name}.py").read_text() for name in ("cells", "checks", "feed"))
    named = set(re.findall(r'"((?:input|row|feed|insurer)\.[a-z_]+)"', sources))
    assert named == set(columns.FAULTS)


def good_operations() -> list[dict[str, Any]]:
    """Operations that are right in every group of columns."""
    base = feeds.BASE
    return [
        base,
        base | feeds.CERTIFICATE | feeds.ELDERLY | feeds.LIMIT | feeds.DISEASES,
        base | {"sex": 3, "relation": 2, "preschool": True, "branch": None},
        base | {"diseases": [{"category": "1", "issued_on": "2020-04-01", "valid_from": "2020-04-01", "self_pay": 0}]},
        {name: base[name] for name in ("insurer_number", "number", "birth_date")} | feeds.LOSE,
        {name: base[name] for name in ("insurer_number", "number", "birth_date")} | {"op": "cancel"},
    ]


@pytest.mark.parametrize("position", range(6))
def test_the_schema_takes_what_the_reader_takes(position: int) -> None:
    operation = good_operations()[position]
    jsonschema.validate(operation, columns.json_schema())
    rows, errors = feed.decode_operations([operation])
    assert len(rows) == 1 and not errors


@pytest.mark.parametrize(
    "change",
    [{"op": "put"}, {"name": None, "op": "new"}, {"sex": 4}, {"preschool": 2}, {"unknown": 1}, {"address": "あ" * 201}],
    ids=str,
)
def test_the_schema_refuses_what_the_reader_refuses(change: dict[str, Any]) -> None:
    operation = feeds.BASE | change
    if change.get("name", "") is None:
        del operation["name"]
    validator = jsonschema.Draft202012Validator(columns.json_schema())
    assert not validator.is_valid(operation)
    assert feed.decode_operations([operation])[1]


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(columns.json_schema())


def test_the_tables_have_a_line_for_each_column_and_code() -> None:
    table = columns.table_markdown().splitlines()
    assert len(table) == 2 + len(COLUMNS)
    assert all(line.count(" | ") == 4 for line in table[2:])
    assert len(columns.faults_markdown().splitlines()) == 2 + len(columns.FAULTS)
    assert sum("| all |" in line for line in table) == sum(column.required == EVERY for column in COLUMNS)
