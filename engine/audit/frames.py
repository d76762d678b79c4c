"""Owns the bytes of a segment file: its header, its frames, and the CRC-32C that guards both (docs/AUDIT.md).

Many frames are checked at once by columns: the CRC of zeros before a message, from state 0, is that of the message,
so frames of all lengths stand flush right in one table.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from engine.audit.entry import ENTRY_BYTES_MAX
from engine.errors import AuditDamagedError, AuditEntryError

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
_BLOCK: Final = 8192
"""Frames whose CRC is computed at once: their columns stay in the cache."""
_MANY: Final = 16
"""From so many frames on, computing them together pays."""


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
    return (checked + struct.pack("<I", crc32c(checked))).ljust(HEADER_BYTES, b"\0")


def decode_header(data: bytes) -> Header:
    """What a segment says of itself. Raises AuditDamagedError."""
    if len(data) < HEADER_BYTES:
        raise AuditDamagedError("the header of the segment is cut off")
    magic, first, log_id, slot, spare = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise AuditDamagedError("the file does not begin as a segment does")
    if struct.unpack_from("<I", data, _CHECKED_BYTES)[0] != crc32c(data[:_CHECKED_BYTES]):
        raise AuditDamagedError("the checksum of the segment's header does not fit")
    if any(spare) or any(data[_CHECKED_BYTES + 4 : HEADER_BYTES]):
        raise AuditDamagedError("the unused part of the segment's header is not zeros")
    return Header(first, log_id, slot)


def encode(entry: bytes, private: bytes = b"") -> bytes:
    """One frame. Raises AuditEntryError if a part is too long or the entry empty."""
    body = encode_body(entry, private)
    return struct.pack("<I", crc32c(body)) + body


def encode_each(entries: Sequence[bytes], privates: Sequence[bytes] = ()) -> list[bytes]:
    """The frames of many entries; `privates` is empty or as long. Raises AuditEntryError."""
    if privates and len(privates) != len(entries):
        raise AuditEntryError("must be none, or as many as entries", field="private")
    bodies = [encode_body(entry, privates[n] if privates else b"") for n, entry in enumerate(entries)]
    if len(bodies) < _MANY:
        return [struct.pack("<I", crc32c(body)) + body for body in bodies]
    done: list[bytes] = []
    for at in range(0, len(bodies), _BLOCK):
        some = bodies[at : at + _BLOCK]
        sums = _crc_many(some).astype("<u4").tobytes()
        done += [sums[4 * n : 4 * n + 4] + body for n, body in enumerate(some)]
    return done


def encode_body(entry: bytes, private: bytes) -> bytes:
    """A frame without its checksum. Raises AuditEntryError."""
    if not 0 < len(entry) <= ENTRY_BYTES_MAX:
        raise AuditEntryError(f"an entry has 1 to {ENTRY_BYTES_MAX} bytes")
    if len(private) > PRIVATE_BYTES_MAX:
        raise AuditEntryError(f"has at most {PRIVATE_BYTES_MAX} bytes", field="private")
    return struct.pack("<HBB", len(entry), len(private), 0) + entry + private


def scan(data: bytes, offset: int = 0) -> tuple[list[int], int]:
    """Where whole frames begin in a piece of a segment.

    Returns: the offsets of the frames that are whole and whose checksum fits, up to the first that is not; and where
    the last of them ends.
    """
    starts: list[int] = []
    end, at = len(data), offset
    while at + FRAME_HEAD_BYTES <= end:
        length = data[at + 4] | data[at + 5] << 8
        following = at + FRAME_HEAD_BYTES + length + data[at + 6]
        if not 0 < length <= ENTRY_BYTES_MAX or data[at + 6] > PRIVATE_BYTES_MAX or data[at + 7] or following > end:
            break
        starts.append(at)
        at = following
    if not starts:
        return starts, at
    good = _fitting(data, starts, at)
    return starts[:good], at if good == len(starts) else starts[good]


def split(data: bytes, start: int) -> tuple[bytes, bytes]:
    """Entry and private part of the frame at `start`, which `scan` found."""
    _, length, private, _ = _FRAME.unpack_from(data, start)
    at = start + FRAME_HEAD_BYTES
    return data[at : at + length], data[at + length : at + length + private]


def entries_of(data: bytes, starts: Sequence[int]) -> list[bytes]:
    """The entries of frames that `scan` found."""
    return [data[at + 8 : at + 8 + (data[at + 4] | data[at + 5] << 8)] for at in starts]


# --- CRC-32C --------------------------------------------------------------------------------------------------------


def _byte_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_BYTES: Final = _byte_table()


def _word_table() -> npt.NDArray[np.uint32]:
    """What two bytes at once do to a state."""
    words, bytes_ = np.arange(65536, dtype=np.uint32), np.array(_BYTES, np.uint32)
    half = bytes_[words & 0xFF] ^ words >> 8
    return np.asarray(bytes_[half & 0xFF] ^ half >> 8, np.uint32)


_WORDS: Final = _word_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of one piece of bytes."""
    state, table = 0xFFFFFFFF, _BYTES
    for value in data:
        state = table[(state ^ value) & 0xFF] ^ state >> 8
    return state ^ 0xFFFFFFFF


def _fitting(data: bytes, starts: list[int], end: int) -> int:
    """How many frames from the first have a checksum that fits."""
    ends = [*starts[1:], end]
    for at in range(0, len(starts), _BLOCK):
        some, some_ends = starts[at : at + _BLOCK], ends[at : at + _BLOCK]
        sums = _crc_many([data[start + 4 : stop] for start, stop in zip(some, some_ends, strict=True)])
        written = np.frombuffer(b"".join([data[start : start + 4] for start in some]), "<u4")
        wrong = np.flatnonzero(sums != written)
        if len(wrong):
            return at + int(wrong[0])
    return len(starts)


def _crc_many(pieces: list[bytes]) -> npt.NDArray[np.uint32]:
    """CRC-32C of many pieces, each of at least 4 bytes."""
    lengths = np.array(list(map(len, pieces)))
    width = int(lengths.max() + 1) & ~1
    # Flush right: a piece's last byte in the last column, zeros before its first.
    row = b"".join([piece.rjust(width, b"\0") for piece in pieces])
    table = np.frombuffer(row, np.uint8).reshape(len(pieces), width).copy()
    rows, first = np.arange(len(pieces)), width - lengths
    for n in range(4):
        table[rows, first + n] ^= 0xFF
    words = np.ascontiguousarray(table.view("<u2").T)
    state = np.zeros(len(pieces), np.uint32)
    for word in words:
        state = state >> 16 ^ _WORDS.take(state.astype(np.uint16) ^ word)
    return state ^ np.uint32(0xFFFFFFFF)
