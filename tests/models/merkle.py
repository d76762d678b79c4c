"""Owns the oracle of the Merkle tree: RFC 6962, section 2.1, word for word, over whole lists of entries."""

from __future__ import annotations

import hashlib


def split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    k = 1
    while k * 2 < size:
        k *= 2
    return k


def root(entries: list[bytes]) -> bytes:
    """MTH."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = split(len(entries))
    return hashlib.sha256(b"\x01" + root(entries[:k]) + root(entries[k:])).digest()


def path(index: int, entries: list[bytes]) -> list[bytes]:
    """PATH."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if index < k:
        return [*path(index, entries[:k]), root(entries[k:])]
    return [*path(index - k, entries[k:]), root(entries[:k])]


def proof(old: int, entries: list[bytes]) -> list[bytes]:
    """PROOF."""
    return subproof(old, entries, True)


def subproof(old: int, entries: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF."""
    if old == len(entries):
        return [] if whole else [root(entries)]
    k = split(len(entries))
    if old <= k:
        return [*subproof(old, entries[:k], whole), root(entries[k:])]
    return [*subproof(old - k, entries[k:], False), root(entries[:k])]
