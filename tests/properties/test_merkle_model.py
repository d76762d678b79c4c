"""Does the tree of engine/audit/merkle agree with RFC 6962, taken word for word (tests/models/merkle)?"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audit import merkle
from engine.audit.merkle import Frontier
from engine.errors import AuditProofError, AuditRangeError
from tests.models import merkle as model

ENTRIES = [b"%d" % number for number in range(1100)]

# The roots over the first n of these, as the test vectors of the Certificate Transparency project have them.
CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def node(level: int, index: int) -> bytes:
    return model.root(ENTRIES[index << level : (index + 1) << level])


def leaves(start: int, end: int) -> bytes:
    return merkle.leaf_hashes(ENTRIES[start:end])


@pytest.mark.parametrize("size", CT_ROOTS)
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    frontier = Frontier()
    frontier.extend(merkle.leaf_hashes([bytes.fromhex(leaf) for leaf in CT_LEAVES[:size]]))
    assert frontier.root().hex() == CT_ROOTS[size]


@given(st.lists(st.integers(0, 300), max_size=6))
def test_a_frontier_grows_as_the_tree_does(steps: list[int]) -> None:
    frontier, stored = Frontier(), {0: b"", 1: b""}
    for step in steps:
        end = min(frontier.size + step, len(ENTRIES))
        for level, hashes in frontier.extend(leaves(frontier.size, end)).items():
            stored[level] += hashes
        assert frontier.size == end and frontier.root() == model.root(ENTRIES[:end])
    assert stored[0] == leaves(0, frontier.size)
    assert stored[1] == b"".join(node(8, number) for number in range(frontier.size >> 8))
    assert Frontier.at(frontier.size, node).nodes == frontier.nodes
    assert merkle.range_hash(0, frontier.size, node) == frontier.root()


@given(st.integers(1, 300), st.data())
def test_inclusion_proofs_are_the_rfcs_and_verify(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, node)
    assert proof == model.path(index, ENTRIES[:size])
    root, leaf = model.root(ENTRIES[:size]), merkle.leaf_hash(ENTRIES[index])
    merkle.verify_inclusion(leaf, index, size, proof, root)
    for wrong in spoiled(proof, draw):
        with pytest.raises(AuditProofError):
            merkle.verify_inclusion(leaf, index, size, wrong, root)
    other = draw.draw(st.integers(0, 2 * size).filter(lambda each: each != index))
    with pytest.raises(AuditProofError):
        merkle.verify_inclusion(leaf, other, size, proof, root)
    with pytest.raises(AuditProofError):
        merkle.verify_inclusion(merkle.leaf_hash(b"another"), index, size, proof, root)


@given(st.integers(0, 300), st.data())
def test_consistency_proofs_are_the_rfcs_and_verify(size: int, draw: st.DataObject) -> None:
    old = draw.draw(st.integers(0, size))
    proof = merkle.consistency_proof(old, size, node)
    assert proof == (model.proof(old, ENTRIES[:size]) if old else [])
    old_root, root = model.root(ENTRIES[:old]), model.root(ENTRIES[:size])
    merkle.verify_consistency(old, old_root, size, root, proof)
    for wrong in spoiled(proof, draw):
        with pytest.raises(AuditProofError):
            merkle.verify_consistency(old, old_root, size, root, wrong)
    if 0 < old < size:
        for pair in ((b"x" * 32, root), (old_root, b"x" * 32), (root, old_root)):
            with pytest.raises(AuditProofError):
                merkle.verify_consistency(old, pair[0], size, pair[1], proof)


def test_all_small_trees() -> None:
    """Every index and every older size of every tree of up to 40 entries."""
    for size in range(41):
        root = model.root(ENTRIES[:size])
        for index in range(size):
            leaf = merkle.leaf_hash(ENTRIES[index])
            merkle.verify_inclusion(leaf, index, size, merkle.inclusion_proof(index, size, node), root)
        for old in range(size + 1):
            proof = merkle.consistency_proof(old, size, node)
            merkle.verify_consistency(old, model.root(ENTRIES[:old]), size, root, proof)


def test_what_lies_outside_the_tree_is_refused() -> None:
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(AuditRangeError):
            merkle.inclusion_proof(index, size, node)
        with pytest.raises(AuditProofError):
            merkle.verify_inclusion(b"x" * 32, index, size, [], b"x" * 32)
    for old, size in ((6, 5), (-1, 5)):
        with pytest.raises(AuditRangeError):
            merkle.consistency_proof(old, size, node)
        with pytest.raises(AuditProofError):
            merkle.verify_consistency(old, b"", size, b"", [])


def test_trees_of_one_size_have_one_root() -> None:
    with pytest.raises(AuditProofError):
        merkle.verify_consistency(5, b"a" * 32, 5, b"b" * 32, [])
    with pytest.raises(AuditProofError):
        merkle.verify_consistency(0, b"a" * 32, 5, b"b" * 32, [])
    with pytest.raises(AuditProofError):
        merkle.verify_consistency(0, merkle.EMPTY_ROOT, 0, b"b" * 32, [])


def spoiled(proof: list[bytes], draw: st.DataObject) -> list[list[bytes]]:
    """The proof with one bit changed, one hash less, one more, two exchanged."""
    wrong = [[*proof, b"x" * 32], [b"x" * 32, *proof]]
    if proof:
        place = draw.draw(st.integers(0, len(proof) - 1))
        bit = draw.draw(st.integers(0, 255))
        number = int.from_bytes(proof[place], "big") ^ 1 << bit
        wrong.append([*proof[:place], number.to_bytes(32, "big"), *proof[place + 1 :]])
        wrong.append(proof[:place] + proof[place + 1 :])
        wrong.append([*proof[:place], proof[place][:31], *proof[place + 1 :]])
    if len(proof) > 1:
        mixed = random.Random(len(proof)).sample(proof, len(proof))
        wrong += [mixed] if mixed != proof else []
    return wrong
