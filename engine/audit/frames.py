"""Owns the bytes of a segment file: its header, its frames, and the CRC-32 that guards both (docs/AUDIT.md)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.audit.entry import ENTRY_BYTES_MAX
from engine.errors import AuditDamagedError, AuditEntryError
from ext import ledger

MAGIC: Final = b"SHKSEG1\0"
HEADER_BYTES: Final = 4096
LOG_ID_BYTES: Final = 16
FRAME_HEAD_BYTES: Final = 8
PRIVATE_BYTES_MAX: Final = 32
FRAME_BYTES_MAX: Final = FRAME_HEAD_BYTES + ENTRY_BYTES_MAX + PRIVATE_BYTES_MAX
SEGMENT_BYTES: Final = 64 << 20
"""Room of a segment unless said otherwise."""
PREFIX: Final = "segment-"

_HEADER: Final = struct.Struct("<8sQ16sI24s")
_CHECKED_BYTES: Final = _HEADER.size
assert _CHECKED_BYTES == 60
_FRAME: Final = struct.Struct("<IHBB")
_SIZES: Final = struct.Struct("<HBB")


class Header(msgspec.Struct, frozen=True):
    """What a segment says of itself."""

    first: int
    log_id: bytes
    slot: int


def name_of(first: int) -> str:
    """The file name of the segment whose first entry has this index."""
    return f"{PREFIX}{first:016x}"


def first_of(name: str) -> int | None:
    """The first index that a segment's file name says; None if it is no segment's."""
    digits = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or len(digits) != 16 or set(digits) - set("0123456789abcdef"):
        return None
    return int(digits, 16)


def encode_header(header: Header) -> bytes:
    """The 4096 bytes that a segment begins with."""
    checked = _HEADER.pack(MAGIC, header.first, header.log_id, header.slot, bytes(24))
    return (checked + struct.pack("<I", zlib.crc32(checked))).ljust(HEADER_BYTES, b"\0")


def decode_header(data: bytes) -> Header:
    """What a segment says of itself. Raises AuditDamagedError."""
    if len(data) < HEADER_BYTES:
        raise AuditDamagedError("the header of the segment is cut off")
    magic, first, log_id, slot, spare = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise AuditDamagedError("the file does not begin as a segment does")
    if struct.unpack_from("<I", data, _CHECKED_BYTES)[0] != zlib.crc32(data[:_CHECKED_BYTES]):
        raise AuditDamagedError("the checksum of the segment's header does not fit")
    if any(spare) or any(data[_CHECKED_BYTES + 4 : HEADER_BYTES]):
        raise AuditDamagedError("the unused part of the segment's header is not zeros")
    return Header(first, log_id, slot)


def encode(entry: bytes, private: bytes = b"") -> bytes:
    """One frame. Raises AuditEntryError if a part is too long or the entry empty."""
    body = encode_body(entry, private)
    return struct.pack("<I", zlib.crc32(body)) + body


def encode_each(entries: Sequence[bytes], privates: Sequence[bytes] = ()) -> list[bytes]:
    """The frames of many entries; `privates` is empty or as long. Raises AuditEntryError."""
    if privates and len(privates) != len(entries):
        raise AuditEntryError("must be none, or as many as entries", field="private")
    bodies = [encode_body(entry, privates[n] if privates else b"") for n, entry in enumerate(entries)]
    return [struct.pack("<I", zlib.crc32(body)) + body for body in bodies]


def encode_body(entry: bytes, private: bytes) -> bytes:
    """A frame without its checksum. Raises AuditEntryError."""
    if not 0 < len(entry) <= ENTRY_BYTES_MAX:
        raise AuditEntryError(f"an entry has 1 to {ENTRY_BYTES_MAX} bytes")
    if len(private) > PRIVATE_BYTES_MAX:
        raise AuditEntryError(f"has at most {PRIVATE_BYTES_MAX} bytes", field="private")
    return _SIZES.pack(len(entry), len(private), 0) + entry + private


def scan(data: bytes, offset: int = 0) -> tuple[list[int], int]:
    """Where whole frames begin in a piece of a segment.

    Returns: the offsets of the frames that are whole and whose checksum fits, up to the first that is not; and where
    the last of them ends.
    """
    return ledger.scan(data, offset)


def split(data: bytes, start: int) -> tuple[bytes, bytes]:
    """Entry and private part of the frame at `start`, which `scan` found."""
    _, length, private, _ = _FRAME.unpack_from(data, start)
    at = start + FRAME_HEAD_BYTES
    return data[at : at + length], data[at + length : at + length + private]


def entries_of(data: bytes, starts: Sequence[int]) -> list[bytes]:
    """The entries of frames that `scan` found."""
    return [data[at + 8 : at + 8 + (data[at + 4] | data[at + 5] << 8)] for at in starts]
