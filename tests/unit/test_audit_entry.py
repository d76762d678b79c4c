"""Tests of engine/audit/entry: members in their places, one spelling only, errors that name no value."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audit import entry
from engine.audit.entry import Entry, Flags, Kind
from engine.errors import AuditEntryError
from tests.support.audit import some_entry

FULL = Entry(
    kind=Kind.EMERGENCY_SEARCH,
    at_ms=0x0102030405060708,
    data_version=9,
    caller="1311111114",
    answer_digest=b"a" * 32,
    purpose=2,
    verdict=1,
    flags=Flags.EMERGENCY | Flags.CONSENT_USED,
    as_of=20261123,
    inquiry_hash=b"h" * 16,
    person_code=b"p" * 16,
    request_id="req-1",
    operator="受付",
)


def test_members_lie_where_the_page_says() -> None:
    data = entry.encode(FULL)
    assert data[:4] == bytes([1, 5, 2, 1])
    assert data[4:10] == struct.pack(">HI", 3, 20261123)
    assert data[10:18] == bytes(range(1, 9))
    assert data[18:26] == struct.pack(">Q", 9)
    assert data[26:42] == b"1311111114" + bytes(6)
    assert data[42:58] == b"h" * 16 and data[58:74] == b"p" * 16 and data[74:106] == b"a" * 32
    assert data[106:] == b"\x05req-1" + b"\x06" + "受付".encode()
    assert entry.at_ms_of(data) == FULL.at_ms and entry.answer_digest_of(data) == FULL.answer_digest


def test_the_longest_entry_has_204_bytes_and_the_shortest_107() -> None:
    longest = msgspec.structs.replace(FULL, request_id="r" * 64, operator="o" * 32)
    assert len(entry.encode(longest)) == entry.ENTRY_BYTES_MAX == 204
    shortest = msgspec.structs.replace(FULL, request_id="", operator="")
    assert len(entry.encode(shortest)) == entry.ENTRY_BYTES_MIN == 107


@given(st.integers(0, 10_000))
def test_what_is_encoded_is_decoded(seed: int) -> None:
    made = some_entry(seed)
    assert entry.decode(entry.encode(made)) == made


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"caller": "c" * 17}, "caller"),
        ({"caller": "a\0b"}, "caller"),
        ({"caller": "医療"}, "caller"),
        ({"request_id": "r" * 65}, "request_id"),
        ({"request_id": "a\nb"}, "request_id"),
        ({"request_id": "é"}, "request_id"),
        ({"operator": "受" * 11}, "operator"),
        ({"operator": "\ud800"}, "operator"),
        ({"answer_digest": b"a" * 31}, "answer_digest"),
        ({"inquiry_hash": b""}, "inquiry_hash"),
        ({"person_code": b"p" * 17}, "person_code"),
        ({"as_of": 20260230}, "as_of"),
        ({"as_of": 1}, "as_of"),
        ({"flags": 16}, "flags"),
        ({"kind": 12}, "kind"),
        ({"kind": 0}, "kind"),
        ({"verdict": 256}, None),
        ({"purpose": -1}, None),
        ({"at_ms": 1 << 64}, None),
        ({"data_version": -1}, None),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object], field: str | None) -> None:
    with pytest.raises(AuditEntryError) as error:
        entry.encode(msgspec.structs.replace(FULL, **changes))
    assert error.value.field == field and error.value.code == "audit.entry"


def changed(at: int, value: bytes) -> bytes:
    data = entry.encode(FULL)
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", None),
        (entry.encode(FULL)[:106], None),
        (changed(0, b"\x02"), "version"),
        (changed(1, b"\x00"), "kind"),
        (changed(1, b"\x0c"), "kind"),
        (changed(4, b"\x80"), "flags"),
        (changed(5, b"\x13"), "flags"),
        (changed(6, b"\xff\xff\xff\xff"), "as_of"),
        (changed(6, struct.pack(">I", 20261301)), "as_of"),
        (changed(28, b"\x00"), "caller"),
        (changed(26, b"\x7f"), "caller"),
        (changed(106, b"\x41"), "request_id"),
        (changed(106, b"\x40"), "request_id"),
        (changed(107, b"\x80"), "request_id"),
        (changed(112, b"\x00"), "operator"),
        (changed(112, b"\x05"), "operator"),
        (changed(112, b"\x21"), "operator"),
        (changed(113, b"\xff"), "operator"),
        (entry.encode(FULL) + b"\0", "operator"),
        (entry.encode(FULL)[:-1], "operator"),
        (entry.encode(msgspec.structs.replace(FULL, operator="")) + b"\0", "operator"),
    ],
)
def test_what_is_no_entry_is_refused_by_name(data: bytes, field: str | None) -> None:
    with pytest.raises(AuditEntryError) as error:
        entry.decode(data)
    assert error.value.field == field


@given(st.integers(0, 200), st.data())
def test_any_bytes_are_an_entry_in_its_one_spelling_or_refused(seed: int, draw: st.DataObject) -> None:
    data = bytearray(entry.encode(some_entry(seed)))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    data = data[: draw.draw(st.integers(len(data) - 3, len(data)))]
    try:
        found = entry.decode(bytes(data))
    except AuditEntryError:
        return
    assert entry.encode(found) == bytes(data)
