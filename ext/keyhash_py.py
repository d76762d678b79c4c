"""Owns the readable specification of ext/keyhash: SipHash-2-4 with 128-bit output in plain Python."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ext.arrays_py import checked_array, writeable_array

KEY_BYTES = 16
FORMS = ("python",)
FORM = "python"
_MASK = 2**64 - 1


def siphash128(key: bytes, message: bytes) -> bytes:
    _check_key(key)
    if not isinstance(message, bytes):
        raise TypeError(f"message must be bytes, not {type(message).__name__}")
    return _hash(key, message)


def siphash128_many(key: bytes, messages: list[bytes]) -> NDArray[np.uint64]:
    _check_key(key)
    if not isinstance(messages, list):
        raise TypeError(f"messages must be a list, not {type(messages).__name__}")
    if not all(isinstance(message, bytes) for message in messages):
        raise TypeError("every message must be bytes")
    digests = b"".join(_hash(key, message) for message in messages)
    return np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2)


def siphash128_rows(
    key: bytes,
    rows: NDArray[np.uint8],
    lengths: NDArray[np.uint16],
    out: NDArray[np.uint64],
    *,
    form: str = FORM,
) -> None:
    _check_key(key)
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}")
    checked_array(rows, "rows", "uint8", 2)
    checked_array(lengths, "lengths", "uint16", 1)
    writeable_array(out, "out", "uint64", 2)
    count, width = rows.shape
    if len(lengths) != count:
        raise ValueError("lengths must have one element a row")
    if out.shape != (count, 2):
        raise ValueError("out must have the shape (rows, 2)")
    if count and int(lengths.max()) > width:
        raise ValueError("a length is more than the width of rows")
    for position in range(count):
        digest = _hash(key, rows[position, : int(lengths[position])].tobytes())
        out[position] = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _check_key(key: object) -> None:
    if not isinstance(key, bytes):
        raise TypeError(f"key must be bytes, not {type(key).__name__}")
    if len(key) != KEY_BYTES:
        raise ValueError("key must have 16 bytes")


def _hash(key: bytes, message: bytes) -> bytes:
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    state = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for start in range(0, len(padded), 8):
        block = int.from_bytes(padded[start : start + 8], "little")
        v0, v1, v2, v3 = state
        v0, v1, v2, v3 = _rounds(2, v0, v1, v2, v3 ^ block)
        state = v0 ^ block, v1, v2, v3
    v0, v1, v2, v3 = state
    v0, v1, v2, v3 = _rounds(4, v0, v1, v2 ^ 0xEE, v3)
    low = v0 ^ v1 ^ v2 ^ v3
    v0, v1, v2, v3 = _rounds(4, v0, v1 ^ 0xDD, v2, v3)
    return low.to_bytes(8, "little") + (v0 ^ v1 ^ v2 ^ v3).to_bytes(8, "little")


def _rounds(count: int, v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        v0 = (v0 + v1) & _MASK
        v1 = _rotate(v1, 13) ^ v0
        v0 = _rotate(v0, 32)
        v2 = (v2 + v3) & _MASK
        v3 = _rotate(v3, 16) ^ v2
        v0 = (v0 + v3) & _MASK
        v3 = _rotate(v3, 21) ^ v0
        v2 = (v2 + v1) & _MASK
        v1 = _rotate(v1, 17) ^ v2
        v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK
