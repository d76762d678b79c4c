"""Tests of engine/audit/frames: headers, and frames that end where the first of them is not whole."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audit import frames
from engine.audit.frames import Header
from engine.errors import AuditDamagedError, AuditEntryError

HEADER = Header(0x1234, b"i" * 16, 3)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=204), st.binary(max_size=32)), max_size=40))
def test_frames_come_back_and_many_at_once_are_as_one_by_one(parts: list[tuple[bytes, bytes]]) -> None:
    made = frames.encode_each([entry for entry, _ in parts], [private for _, private in parts])
    assert made == [frames.encode(entry, private) for entry, private in parts]
    data = b"".join(made)
    for rest in (b"", bytes(7), bytes(100), b"\x01" * 100):
        starts, end = frames.scan(data + rest)
        assert end == len(data)
        assert [frames.split(data, start) for start in starts] == parts
        assert frames.entries_of(data, starts) == [entry for entry, _ in parts]


def test_a_frame_is_drawn_as_in_the_page() -> None:
    data = frames.encode(b"entry", b"own")
    assert data[4:] == struct.pack("<HBB", 5, 3, 0) + b"entryown"
    assert struct.unpack("<I", data[:4])[0] == zlib.crc32(data[4:])


def test_whatever_bit_is_changed_frames_end_before_it() -> None:
    chance = random.Random(5)
    parts = [chance.randbytes(chance.randrange(1, 60)) for _ in range(20)]
    made = frames.encode_each(parts)
    data = b"".join(made)
    ends = [sum(map(len, made[: n + 1])) for n in range(len(made))]
    for at in range(len(data)):
        spoiled = bytearray(data)
        spoiled[at] ^= 1 << chance.randrange(8)
        starts, end = frames.scan(bytes(spoiled))
        place = next(n for n, stop in enumerate(ends) if at < stop)
        assert len(starts) == place and end == (ends[place - 1] if place else 0)


def test_wherever_it_is_cut_whole_frames_are_left() -> None:
    made = frames.encode_each([b"a" * 30, b"b" * 40, b"c"])
    data = b"".join(made)
    for length in range(len(data)):
        starts, end = frames.scan(data[:length])
        assert end == sum(map(len, made[: len(starts)])) <= length


def test_what_fits_into_no_frame_is_refused() -> None:
    for entry, private in ((b"", b""), (b"x" * 205, b""), (b"x", b"y" * 33)):
        with pytest.raises(AuditEntryError):
            frames.encode(entry, private)
    with pytest.raises(AuditEntryError):
        frames.encode_each([b"a", b"b"], [b""])


def test_headers_come_back() -> None:
    data = frames.encode_header(HEADER)
    assert len(data) == 4096 and frames.decode_header(data) == HEADER
    assert data[:36] == b"SHKSEG1\0" + struct.pack("<Q", 0x1234) + b"i" * 16 + struct.pack("<I", 3)


@pytest.mark.parametrize("at", [0, 8, 16, 33, 40, 61, 64, 4095])
def test_a_changed_header_is_refused(at: int) -> None:
    data = bytearray(frames.encode_header(HEADER))
    data[at] ^= 1
    with pytest.raises(AuditDamagedError):
        frames.decode_header(bytes(data))
    with pytest.raises(AuditDamagedError):
        frames.decode_header(bytes(data[:4095]))


def test_names_say_the_first_index() -> None:
    assert frames.name_of(0x1234) == "segment-0000000000001234"
    assert frames.first_of("segment-0000000000001234") == 0x1234
    for name in ("segment-1234", "segment-000000000000123G", "segment-0000000000001234.tmp-ab", "level-0"):
        assert frames.first_of(name) is None
