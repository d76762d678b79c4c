"""docs/AUDIT.md says what the code does: its examples are computed, its receipt is verified, its tables compared."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from engine.audit import entry, frames, notes, receipt_verifier, witness
from engine.audit.entry import Flags, Kind
from engine.audit.witness import Settings, Witness
from engine.clock import Clock
from tests.support import audit as support
from tests.support.audit import BEGUN_MS, signer
from tests.support.audit_example import ANSWER, TEXTS

PAGE = (Path(__file__).parents[2] / "docs" / "AUDIT.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```(\w+(?: \w+)?)\n(.*?)```", PAGE, re.DOTALL))


def rows(title: str) -> list[list[str]]:
    """The cells of the tables under a heading, up to the next one."""
    text = re.split(r"\n#+ ", PAGE.split(f"# {title}\n")[1])[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def test_every_example_is_there() -> None:
    assert BLOCKS.keys() == TEXTS.keys()


@pytest.mark.parametrize("name", TEXTS)
def test_an_example_is_what_the_code_makes(name: str) -> None:
    expected = TEXTS[name]
    is_hexadecimal = re.fullmatch("[0-9a-f]+", expected) is not None
    shown = re.sub(r"\s", "", BLOCKS[name]) if is_hexadecimal else BLOCKS[name]
    assert shown == expected if is_hexadecimal else shown.rstrip("\n") == expected.rstrip("\n")


def test_the_pages_receipt_is_proved_with_the_pages_keys() -> None:
    vkeys = [BLOCKS["log vkey"].strip()], [BLOCKS["witness vkey"].strip()]
    proof = receipt_verifier.verify(BLOCKS["receipt"].encode(), ANSWER, *vkeys, 1)
    assert (proof.index, proof.size, proof.request_id) == (0, 2, "req-1")
    assert proof.witnesses == {"witness.example/w1": BEGUN_MS // 1000}


def test_the_pages_request_is_answered_with_the_pages_cosignature(tmp_path: Path) -> None:
    with Witness(support.witness(), [signer().verifier], tmp_path / "state", Clock(BEGUN_MS)) as at:
        reply = at.add_checkpoint(BLOCKS["submission"].encode())
    assert reply.status == 200 and reply.body.decode() in BLOCKS["checkpoint"]


def test_the_entrys_table_is_its_layout() -> None:
    table = [row for row in rows("2 Entry") if row[0].isdigit() and len(row) == 3]
    offset = 0
    for at, length, _ in table:
        assert int(at) == offset
        offset += int(length) if length.isdigit() else 0
    assert offset == entry.FIXED_BYTES and struct.calcsize(">BBBBHIQQ16s16s16s32s") == offset
    assert [int(row[0]) for row in rows("2 Entry") if len(row) == 2 and row[0].isdigit()] == list(map(int, Kind))
    assert "1 emergency, 2 consent used, 4 card presented, 8 verdict only" in PAGE
    assert [int(each) for each in Flags] == [1, 2, 4, 8]
    assert f"{entry.ENTRY_BYTES_MIN} to {entry.ENTRY_BYTES_MAX} bytes" in PAGE


def test_the_segments_tables_are_its_layout() -> None:
    header = [row for row in rows("Segment")[2:9]]
    assert [int(row[0]) for row in header] == [0, 8, 16, 32, 36, 60, 64]
    assert sum(int(row[1]) for row in header) == frames.HEADER_BYTES
    assert f"{frames.SEGMENT_BYTES >> 20} MiB" in PAGE and f"at most {frames.PRIVATE_BYTES_MAX}" in PAGE


def test_the_witness_settings_and_bounds_are_the_codes() -> None:
    listed = {name.strip() for row in rows("8 Witness") if len(row) == 3 for name in row[0].split(",")}
    assert listed - {"setting", "---"} == set(Settings.__struct_fields__)
    assert f"At most {witness.BODY_BYTES_MAX >> 10} KiB" in PAGE
    assert f"at most {notes.NOTE_BYTES_MAX >> 10} KiB, with 1 to {notes.SIGNATURES_MAX} signature lines" in PAGE
