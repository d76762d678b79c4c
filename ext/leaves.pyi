"""Owns the reading of an LMDB file's pages in the order of the file: children of branches, packed entries of leaves.

Key by key, a disk is read as the tree grew. Whoever wants everything walks the branches, which are few, and then takes
the leaves as they lie in the file. The pages must not change meanwhile: a read transaction keeps them.
"""

from typing import Any

def children(page: Any, number: int) -> list[int]:
    """The numbers of the pages below a branch page, in the order of their keys.

    Args: page: its bytes. number: its own number.
    Raises: ValueError if this is another page, or damaged.
    """

def current(
    block: Any, page_bytes: int, first: int, numbers: bytes, follows: bytes, seq: int
) -> tuple[int, bytes, bytes, bytes, bytes, list[tuple[int, int, int, bool]]]:
    """Packed entries of the newest version up to change `seq` of each person in some leaves of `versions`.

    Args:
        block: the part of the file that begins with page `first` and has all these leaves.
        numbers: of the leaves, u64 each, in this machine's byte order as all that follows.
        follows: a byte for each: whether the leaf comes next in the order of keys to the one before it here.
    Returns: how many versions there are, old ones too; person numbers (u32) and entries (24 bytes) of those who are
        current for certain; entries of each leaf's first person, of whom the leaf before may have a newer version,
        where `follows` does not say; for each leaf the first person, how many such entries there are, and the last
        person with a version up to `seq` (0: nobody), u32 each; and records with pages of their own: (place of the
        leaf, person, page, whether they are such a first person).
    Raises: ValueError if a page is another one or damaged.
    """
