"""docs/FORMATS.md says what the code does: offsets, members, bits, examples, tables and the odds of a false match."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine import days, entries, index, keys, limits, store
from engine.ingest import apply, columns, report, spool
from engine.records import (
    Certificate,
    ElderlyCertificate,
    Insurer,
    LimitCertificate,
    Person,
    Qualification,
    SpecificDisease,
)
from ext import probe
from tests.golden import cast
from tests.golden.generate import KEYS, aligned

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "FORMATS.md").read_text("utf-8")
LAYOUT = (ROOT / "ext" / "layout.pxd").read_text("utf-8")
MEMBERS_OF = (
    Person,
    Qualification,
    Certificate,
    ElderlyCertificate,
    LimitCertificate,
    SpecificDisease,
    Insurer,
    store.Feed,
)
SIZES = {"uint8_t": 1, "uint32_t": 4, "uint64_t": 8}


def golden(name: str) -> Any:
    return json.loads((cast.HERE / name).read_bytes())


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    return re.split(r"\n#+ ", PAGE.split(f"# {title}\n")[1])[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the table rows of a text, without their backquotes."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def declared_header() -> list[tuple[int, int, str]]:
    """Offset, size and name of each member of the C struct, counted from its declaration."""
    declaration = LAYOUT.split("typedef struct {")[3].split("} shikaku_header")[0]
    found, offset = [], 0
    for kind, name, count in re.findall(r"^\s*(uint\d+_t) (\w+)(?:\[([^]]+)\])?;", declaration, re.MULTILINE):
        number = {"": 1, "SHIKAKU_STRIPES": 1024, "4096 - 256": 4096 - 256}.get(count) or int(count)
        found.append((offset, SIZES[kind] * number, name))
        offset += SIZES[kind] * number
    assert offset == probe.HEADER_BYTES
    return found


def test_header_table_is_the_struct() -> None:
    listed = [(int(row[0]), int(row[1]), row[2]) for row in rows(section("Header")) if row[0].isdigit()]
    assert listed == declared_header()


def test_header_table_fits_a_golden_segment() -> None:
    saved = golden("segment_atomic16_v1.json")["lines"]
    header = b"".join(bytes.fromhex(saved[str(at)]) for at in range(0, 256, 64))
    member = {row[2]: header[int(row[0]) :][: int(row[1])] for row in rows(section("Header")) if row[0].isdigit()}
    numbers = {name: int.from_bytes(value, "little") for name, value in member.items()}
    assert member["magic"] == b"SHIKIDX\x01"
    assert (member["store_id"], member["key_id"]) == (cast.STORE_ID, KEYS.key_id)
    assert (numbers["layout_version"], numbers["form"], numbers["lines"], numbers["generation"]) == (1, 1, 8, 7)
    assert (numbers["visible_seq"], numbers["applied_seq"], numbers["insurers_version"]) == (1002, 1002, 3)
    assert (numbers["count"], numbers["retired"], numbers["redo_slot"]) == (10, 0, 0)


def test_snapshot_table_is_the_struct() -> None:
    listed = [(int(row[0]), int(row[1])) for row in rows(section("Snapshot")) if row[0].isdigit() and row[1].isdigit()]
    sizes = [struct.calcsize(f"<{code}") for code in ("8s", "Q", "Q", "Q", "Q", "Q", "16s", "8s")]
    assert listed == [(sum(sizes[:at]), size) for at, size in enumerate(sizes)]
    saved = (cast.HERE / "data_v1" / "index.snapshot").read_bytes()
    lines = int.from_bytes(saved[8:16], "little")
    assert len(saved) == 72 + probe.LINE_BYTES * lines + 32
    assert saved[48:72] == cast.STORE_ID + KEYS.key_id


def test_key_examples() -> None:
    digests = golden("keys_v1.json")
    messages = {
        "card": keys.card_message("01130012", days.parse_iso("1954-11-03"), "1234", "1000001"),
        "card_kanji": keys.card_message("33120015", days.parse_iso("1919-12-31"), "甲ア", "77"),
        "certificate": keys.certificate_message("cn=jpki,c=jp", "F3A"),
        "person": b"\x034294967295",
        "link": b"\x04LINK-0001",
    }
    listed = {row[2]: row[3] for row in rows(PAGE) if len(row) == 4 and re.fullmatch("[0-9a-f]{32}", row[3])}
    assert listed == {message.hex(): digests[name] for name, message in messages.items()}
    assert digests["index_key"] in PAGE and digests["key_id"] in PAGE


def test_day_numbers() -> None:
    assert days.parse_iso("1920-01-01") == 0 and days.format_iso(days.AS_OF_MAX) == "2099-06-03"
    assert days.format_iso(days.AS_OF_MIN) == "1920-01-02" and days.format_iso(days.DAY_MAX) == "2099-06-04"
    listed = [row[0] for row in rows(section("1 Conventions"))]
    assert [str(days.pack(-1)), f"{days.AS_OF_MIN} to {days.AS_OF_MAX}", str(days.DAY_MAX), str(days.NO_DAY)] == listed[
        2:6
    ]


def test_bits_of_aux() -> None:
    text = " ".join(section("Line and slot").split())
    assert f"bits {entries.AUX_SHIFT_BRANCH}-15 branch (0 to 99; {entries.BRANCH_NONE} none)" in text
    named = {"RECORD": entries.AUX_RECORD, "CANCELLED": entries.AUX_CANCELLED, "PENDING": entries.AUX_PENDING}
    for name, bit in (named | {"MULTI": entries.AUX_MULTI}).items():
        assert f"{bit.bit_length() - 1} {name}" in text
    assert f"{entries.AUX_SHIFT_LOSS}-{entries.AUX_SHIFT_BRANCH - 2} loss reason" in text
    for code, number in list(entries.LOSS_CODES.items())[1:]:
        assert f"{number} `{code}`" in text
    last = days.format_iso(entries.EXPIRY_BASE + entries.EXPIRY_MAX - entries.EXPIRY_OFFSET)
    assert f"bits {entries.AUX_SHIFT_EXPIRY}-15 expiry" in text
    assert f"so {entries.EXPIRY_OFFSET} is 2016-01-01 and {entries.EXPIRY_MAX} is {last}" in text
    assert f"{entries.EXPIRY_RECORD}: read the record. {entries.EXPIRY_REVOKED}: revoked" in text
    kinds = {row[0]: row[1] for row in rows(section("Line and slot"))}
    assert [kinds[name] for name in ("CARD", "CERTIFICATE", "PERSON", "LINK")] == ["1", "2", "3", "4"]
    assert (entries.CARD, entries.CERTIFICATE, entries.PERSON, entries.LINK) == (1, 2, 3, 4)


def test_slot_example_lies_where_the_page_says() -> None:
    (packed,) = golden("entries_v1.json")["2"]
    text = section("Line and slot")
    assert f"`{packed}`" in text
    (slot,) = re.findall(r"its slot\s+`([0-9a-f]{32})`", text)
    line = golden("segment_atomic16_v1.json")["lines"][str(probe.HEADER_BYTES + 7 * probe.LINE_BYTES)]
    assert slot in [line[at : at + 32] for at in range(0, 128, 32)]
    lo = int.from_bytes(bytes.fromhex(packed)[:8], "little")
    assert f"{lo:x}h" in text and lo * 8 >> 64 == 7 and lo & 3 == 0


def test_record_example() -> None:
    saved = golden("records_v1.json")["2"]
    (dump,) = re.findall(r"```\n(.*?)```", section("Record").split("Example")[1], re.DOTALL)
    assert "".join(line.split()[0] for line in dump.splitlines()) == saved["value"]
    assert f"`{saved['key']}`" in section("Record")
    assert f"({len(saved['value']) // 2} bytes)" in section("Record")


@pytest.mark.parametrize("kind", MEMBERS_OF, ids=lambda kind: kind.__name__)
def test_members_are_listed_in_their_order(kind: type[msgspec.Struct]) -> None:
    found: dict[str, str] = {}
    name = ""
    for first, members in (row for row in rows(section("Members, in their order")) if len(row) == 2):
        name = first or name
        found[name] = f"{found.get(name, '')} {members}".strip()
    assert found[kind.__name__].split(", ") == list(kind.__struct_fields__)


def test_databases_and_meta_are_those_of_a_new_store(tmp_path: Path) -> None:
    store.create(tmp_path / "store", key_id=KEYS.key_id, map_bytes=1 << 20)
    reader = store.StoreReader(tmp_path / "store", key_id=KEYS.key_id, map_bytes=1 << 20)
    sizes = reader.sizes()
    reader.close()
    named = [row[0] for row in rows(section("Databases"))]
    assert named[2:9] == [name for name in sizes if name != "used_bytes"]
    assert len(named) == 9 + 2 + sizes["meta"]


def test_spool_rows_have_the_sizes_that_are_told() -> None:
    text = section("Spool")
    for size in (spool.ROW_DTYPE.itemsize, spool.ADDED_DTYPE.itemsize, spool.CHANGE_DTYPE.itemsize):
        assert f"{size} bytes" in text


def test_odds_of_a_false_match() -> None:
    text = section("False matches")
    for compared in (2.8, 4, 3.31, 3.71):
        mantissa, exponent = f"{compared / 2**48:.1e}".split("e")
        assert f"| {compared:.2f} | {mantissa}e{int(exponent)} |".replace("4.00", "4") in text
    assert f"2^-48 = {2**-48:.1e}" in text and "8.5e13" in text and round(2**48 / 3.312 / 1e13, 1) == 8.5
    assert round(2**48 / 3.312 / 10_000 / 86_400 / 365.25) == 269 and "269 years" in text
    for number, odds in ((10_000_000, "1.3e-7"), (290_000_000, "3.8e-6")):
        lines = index._lines_for(number)
        assert f"| {lines:,} | {probe.segment_bytes(lines):,} bytes" in text
        assert f"{number * 3.71 / 2**48:.1e}".replace("e-0", "e-") == odds and f"at most {odds} |" in text
    assert f"{64 / (4 * index.LOAD_MAX):.2f}" in text


def test_slots_compared_are_those_of_a_loaded_table() -> None:
    """Every line as home line of every class: how far an unknown key goes, and what it is compared with."""
    lines, load = 4_001, index.LOAD_MAX
    buffer = aligned(probe.segment_bytes(lines))
    probe.format(buffer, form=probe.FORM_VERSIONED, lines=lines)
    table = probe.Table(buffer, writable=True)
    total = int(lines * probe.SLOTS_PER_LINE * load)
    batch = np.zeros(total, entries.ENTRY_DTYPE)
    batch["hash"] = np.frombuffer(np.random.default_rng(1).bytes(16 * total), "V16")
    assert table.insert_many(np.arange(1, total + 1, dtype=np.uint32), batch) == total
    table.release()
    words = buffer[probe.HEADER_BYTES :].view(np.uint64).reshape(lines, probe.SLOTS_PER_LINE, 2)[:, :, 0]
    used, goes_on = (words >> np.uint64(16) != 0).sum(axis=1), words & np.uint64(2) != 0
    compared = looked_at = 0
    for number in range(4):
        at = np.arange(lines)
        while len(at):
            compared, looked_at = compared + int(used[at].sum()), looked_at + len(at)
            at = (at[goes_on[at, number]] + 2**number) % lines
    assert compared / (4 * lines) == pytest.approx(3.31, rel=0.05)
    assert looked_at / (4 * lines) == pytest.approx(1.14, rel=0.05)


# --- feeds ------------------------------------------------------------------------------------------------------------


def test_generated_tables_are_those_of_the_code() -> None:
    assert f"\n{columns.table_markdown()}" in section("Columns")
    assert f"\n{columns.faults_markdown()}" in section("Error report")
    listed = section("Error report").split("Found against what is registered")[1]
    assert dict(row for row in rows(listed)[2:] if len(row) == 2) == apply.FAULTS


def test_groups_and_periods() -> None:
    listed = [tuple(tuple(filter(None, cell.split(", "))) for cell in row) for row in rows(section("Columns"))]
    assert [(group.needed, group.optional) for group in columns.GROUPS] == listed[-len(columns.GROUPS) :]
    text = " ".join(section("Columns").split())
    assert ", ".join(f"`{first}` and `{last}`" for first, last in columns.PERIODS) in text


def test_kinds_are_those_of_the_sources() -> None:
    kinds = " ".join(section("Error report").split()).split("Kinds: ")[1].split(".")[0].split("; ")
    named = set()
    for name in ("cells", "checks", "feed", "apply"):
        text = re.sub(
            r"FAULTS: Final = \{.*?\n\}", "", (ROOT / f"engine/ingest/{name}.py").read_text(), flags=re.DOTALL
        )
        named |= set(re.findall(r'"(?:input|row|feed|insurer)\.[a-z_]+",\s*"([^"]+)"', text))
    assert named and named <= set(kinds)


def test_report_columns_and_bounds() -> None:
    text = section("Error report")
    assert [row[0] for row in rows(text)[2:6]] == list(report.HEADER)
    assert f"first {limits.FEED_ERRORS_MAX:,} errors" in " ".join(text.split())
    assert f"at most {limits.FEED_LINE_BYTES_MAX:,} bytes" in section("CSV")
    assert f"up to {limits.BATCH_LINE_BYTES_MAX:,} bytes" in section("6 Native JSON")
    assert f"more than {limits.QUALIFICATIONS_PER_PERSON_MAX} qualifications" in section("Operations")
    assert f"at most {probe.MATCHES_MAX} entries" in " ".join(
        section("Finding: home line and overflow classes").split()
    )


def test_receipt_example_is_the_golden_one() -> None:
    (shown,) = re.findall(r"```\n(.*?)```", section("Receipts, replay, numbering"), re.DOTALL)
    saved = (cast.HERE / "receipts_v1.ndjson").read_text("utf-8").splitlines()
    assert json.loads(shown) == json.loads(saved[1])


def test_lines_of_the_page_are_short() -> None:
    generated = set(columns.table_markdown().splitlines())
    assert [line for line in PAGE.splitlines() if len(line) > 150 and line not in generated] == []
