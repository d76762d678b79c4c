"""Owns the readable specification of ext/merkle: the hashes of a Merkle tree, many at a time."""

from __future__ import annotations

import hashlib
from typing import Final

HASH_BYTES: Final = 32


def leaf_hashes(entries: list[bytes]) -> bytes:
    if not isinstance(entries, list):
        raise TypeError(f"entries must be a list, not {type(entries).__name__}")
    for entry in entries:
        if not isinstance(entry, bytes):
            raise TypeError(f"entries must hold bytes, not {type(entry).__name__}")
    return b"".join([hashlib.sha256(b"\0" + entry).digest() for entry in entries])


def node_hashes(children: bytes) -> bytes:
    if not isinstance(children, bytes):
        raise TypeError(f"children must be bytes, not {type(children).__name__}")
    pairs = range(0, len(children) - 2 * HASH_BYTES + 1, 2 * HASH_BYTES)
    return b"".join([hashlib.sha256(b"\1" + children[at : at + 2 * HASH_BYTES]).digest() for at in pairs])
