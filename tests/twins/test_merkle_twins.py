"""Hashes of a Merkle tree and those of the Python twin are the same, whatever is hashed, and the same is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext import merkle_py
from tests.support.outcomes import compiled, outcome

merkle = compiled("merkle")


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_leaves(entries: list[bytes]) -> None:
    assert merkle.leaf_hashes(entries) == merkle_py.leaf_hashes(entries)


def test_leaves_of_every_length() -> None:
    """Where blocks end, and where the length has room in the last one."""
    entries = [bytes([size & 255]) * size for size in range(400)]
    assert merkle.leaf_hashes(entries) == merkle_py.leaf_hashes(entries)


@given(st.binary(max_size=700))
def test_nodes(children: bytes) -> None:
    assert merkle.node_hashes(children) == merkle_py.node_hashes(children)


def test_what_is_not_as_it_must_be_is_refused() -> None:
    for bad in (None, b"x", ("x",), ["x"], [b"x", None], "x"):
        assert outcome(merkle.leaf_hashes, bad)[0] == outcome(merkle_py.leaf_hashes, bad)[0] == "error"
        assert outcome(merkle.leaf_hashes, bad) == outcome(merkle_py.leaf_hashes, bad)
    for bad in (None, "x", [b"x"], bytearray(64)):
        assert outcome(merkle.node_hashes, bad) == outcome(merkle_py.node_hashes, bad)
        assert outcome(merkle.node_hashes, bad)[0] == "error"
