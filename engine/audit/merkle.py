"""Owns the Merkle tree of RFC 6962 over SHA-256: hashes, roots, and the proofs of inclusion and consistency.

Pure: what is not in a frontier is asked of a function `node(level, index)`, which gives the hash of the complete
subtree over the leaves from index * 2^level to (index + 1) * 2^level. Hashes in a row are 32 bytes after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from engine.errors import AuditProofError, AuditRangeError
from ext import merkle

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256().digest()
"""The root of the tree without leaves: SHA-256 of nothing."""
TILE_HEIGHT: Final = 8
"""Levels of the tree from one level of tiles to the next: the hashes of 256^L leaves."""
TILE_WIDTH: Final = 1 << TILE_HEIGHT
LEVELS_MAX: Final = 63

NodeOf = Callable[[int, int], bytes]

_sha256 = hashlib.sha256


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256 of 00 and the entry."""
    return _sha256(b"\0" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> bytes:
    """The leaf hashes of many entries."""
    return merkle.leaf_hashes(list(entries))


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 of 01 and both children."""
    return _sha256(b"\1" + left + right).digest()


def node_hashes(children: bytes) -> bytes:
    """The parents of pairs of hashes. An odd one at the end is left out."""
    return merkle.node_hashes(children)


def fold(hashes: bytes) -> bytes:
    """The root over 2^k hashes."""
    while len(hashes) > HASH_BYTES:
        hashes = node_hashes(hashes)
    return hashes


class Frontier:
    """The complete subtrees that a growing tree consists of: all that is needed to append and to tell the root.

    Invariant: `nodes[level]` is the hash of a subtree of 2^level leaves if that bit of `size` is set, else empty.
    """

    __slots__ = ("nodes", "size")

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        self.size = size
        self.nodes = list(nodes)

    @classmethod
    def at(cls, size: int, node: NodeOf) -> Frontier:
        """The frontier of a tree of which any complete subtree can be asked."""
        nodes = [node(level, (size >> level) - 1) if size >> level & 1 else b"" for level in range(size.bit_length())]
        return cls(size, nodes)

    def copy(self) -> Frontier:
        return Frontier(self.size, self.nodes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self.extend(leaf)

    def extend(self, leaves: bytes) -> dict[int, bytes]:
        """Add leaf hashes. Returns what level files get: tile level -> the hashes that became complete there."""
        done: dict[int, bytes] = {}
        level, row = 0, leaves
        while row:
            if level % TILE_HEIGHT == 0:
                done[level // TILE_HEIGHT] = row
            if level == len(self.nodes):
                self.nodes.append(b"")
            row = self.nodes[level] + row
            odd = len(row) // HASH_BYTES & 1
            self.nodes[level] = row[-HASH_BYTES:] if odd else b""
            row = node_hashes(row)
            level += 1
        self.size += len(leaves) // HASH_BYTES
        return done

    def root(self) -> bytes:
        """The root of the tree."""
        root = b""
        for node in self.nodes:
            if node:
                root = node_hash(node, root) if root else node
        return root or EMPTY_ROOT


# --- proofs ---------------------------------------------------------------------------------------------------------


def range_hash(start: int, end: int, node: NodeOf) -> bytes:
    """The root over the leaves from `start`, which a power of two not below their number divides, to before `end`."""
    root, size = b"", end - start
    for level in range(size.bit_length()):
        if size >> level & 1:
            complete = node(level, (end >> level) - 1)
            root = node_hash(complete, root) if root else complete
            end -= 1 << level
    return root or EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: NodeOf) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1: the siblings from the leaf up. Raises AuditRangeError."""
    if not 0 <= index < size:
        raise AuditRangeError("the index is not below the tree's size", field="index")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(range_hash(middle, end, node))
            end = middle
        else:
            proof.append(range_hash(start, middle, node))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, size: int, node: NodeOf) -> list[bytes]:
    """PROOF of RFC 6962, 2.1.2; empty if one of the trees is empty or both are the same. Raises AuditRangeError."""
    if not 0 <= old <= size:
        raise AuditRangeError("the older size is not at most the newer one", field="old")
    proof: list[bytes] = []
    if old in (0, size):
        return proof
    start, end = 0, size
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(range_hash(middle, end, node))
            end = middle
        else:
            proof.append(range_hash(start, middle, node))
            start = middle
    if start:
        proof.append(range_hash(start, end, node))
    return proof[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that a proof leads a leaf hash to (RFC 9162, 2.1.3.2). Raises AuditProofError if its length is wrong."""
    if not 0 <= index < size:
        raise AuditProofError("the index is not below the tree's size")
    place, last, root = index, size - 1, leaf
    for sibling in proof:
        if len(sibling) != HASH_BYTES or last == 0:
            raise AuditProofError("the inclusion proof has not the length that index and size ask for")
        if place & 1 or place == last:
            root = node_hash(sibling, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise AuditProofError("the inclusion proof has not the length that index and size ask for")
    return root


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf hash is at `index` of the tree with this size and root. Raises AuditProofError."""
    if root_from_inclusion(leaf, index, size, proof) != root:
        raise AuditProofError("the inclusion proof does not lead to the root")


def verify_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (size, root) only adds leaves to the tree (old, old_root). Raises AuditProofError.

    Any tree continues the empty one; its root must be the empty root, and the proof empty.
    """
    if not 0 <= old <= size:
        raise AuditProofError("the older tree is larger than the newer one")
    if old in (0, size):
        if proof:
            raise AuditProofError("the consistency proof must be empty here")
        if old == 0 and old_root != EMPTY_ROOT or old == size and old_root != root:
            raise AuditProofError("trees of the same size have different roots")
        return
    if any(len(each) != HASH_BYTES for each in proof):
        raise AuditProofError("a hash of the consistency proof has not 32 bytes")
    hashes = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not hashes:
        raise AuditProofError("the consistency proof is empty")
    if _roots(old, size, hashes) != (old_root, root):
        raise AuditProofError("the consistency proof does not lead to both roots")


def _roots(old: int, size: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots that a consistency proof leads to (RFC 9162, 2.1.4.2)."""
    place, last = old - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = hashes[0]
    for each in hashes[1:]:
        if last == 0:
            raise AuditProofError("the consistency proof is too long")
        if place & 1 or place == last:
            first, second = node_hash(each, first), node_hash(each, second)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            second = node_hash(second, each)
        place, last = place >> 1, last >> 1
    if last:
        raise AuditProofError("the consistency proof is too short")
    return first, second


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
