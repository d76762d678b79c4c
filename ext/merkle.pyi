"""Owns the hashes of a Merkle tree (RFC 6962), many at a time: by the processor's own instructions if it has them."""

from typing import Final

HASH_BYTES: Final = 32

def leaf_hashes(entries: list[bytes]) -> bytes:
    """SHA-256 of 00 and the entry, for each of them, one after another. Raises TypeError."""

def node_hashes(children: bytes) -> bytes:
    """SHA-256 of 01 and both children, for each pair of hashes; a rest is left out. Raises TypeError."""
