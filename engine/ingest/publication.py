"""Owns how committed changes reach the index: after a feed, and again at every start after a crash.

The order is that of docs/design/0001: new entries, then the visible sequence number, then removals. Every step may be
repeated: entries are members of a set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from engine.index import IndexWriter
from engine.ingest.spool import Spool
from engine.ingest.workspace import as_arrays, split
from engine.store import StoreReader

Pairs = tuple[np.ndarray, np.ndarray]
"""Person numbers u32 and ENTRY_DTYPE, one entry each."""

PEOPLE_AT_A_TIME: Final = 10_000
NOTHING: Final[Pairs] = as_arrays([])


def differences(store: StoreReader, numbers: Iterable[int], upto: int, before: int) -> tuple[Pairs, Pairs]:
    """What people's changes after `before` up to `upto` add to the index, and what they leave behind in it.

    Added is all of the newest version, removed all that a version since `before` had and the newest has not.
    """
    added: list[tuple[int, bytes]] = []
    removed: list[tuple[int, bytes]] = []
    for number in numbers:
        versions = store.versions_since(number, upto, before)
        if not versions:
            continue
        now = split(versions[0].entries)
        gone = set().union(*(split(version.entries) for version in versions[1:])) - now
        added += [(number, entry) for entry in now]
        removed += [(number, entry) for entry in gone]
    return as_arrays(added), as_arrays(removed)


def replay(store: StoreReader, index: IndexWriter, *, after: int, upto: int) -> int:
    """Bring an index that has everything up to `after` to `upto`. Returns how many changes that were."""
    replayed, removals = 0, []
    seq = after
    while changes := store.changed_numbers(seq, upto, PEOPLE_AT_A_TIME):
        added, removed = differences(store, sorted({number for _, number in changes}), upto, after)
        index.publish(index.data_version, added=added, removed=NOTHING, insurers_changed=False)
        removals.append(removed)
        seq = changes[-1][0]
        replayed += len(changes)
    index.publish(upto, added=NOTHING, removed=joined(removals), insurers_changed=True)
    return replayed


def publish_feed(store: StoreReader, index: IndexWriter, spool: Spool, *, before: int, upto: int) -> None:
    """Make a committed feed visible. New people come from the journal, changed ones from the store."""
    changed = np.unique(np.concatenate([np.empty(0, np.uint32), *(piece["person"] for piece in spool.changed())]))
    for piece in spool.added():
        # Whoever a later row changed is published as that row left them.
        last = piece[~np.isin(piece["person"], changed)]
        index.publish(index.data_version, added=_pairs(last), removed=NOTHING, insurers_changed=False)
    removals = []
    for numbers in _pieces(changed):
        added, removed = differences(store, numbers, upto, before)
        index.publish(index.data_version, added=added, removed=NOTHING, insurers_changed=False)
        removals.append(removed)
    index.publish(upto, added=NOTHING, removed=joined(removals), insurers_changed=True)


def joined(pieces: list[Pairs]) -> Pairs:
    """Several pairs of arrays as one."""
    if not pieces:
        return NOTHING
    return np.concatenate([persons for persons, _ in pieces]), np.concatenate([entries for _, entries in pieces])


def _pairs(rows: np.ndarray) -> Pairs:
    return np.ascontiguousarray(rows["person"]), np.ascontiguousarray(rows["entry"])


def _pieces(numbers: np.ndarray) -> Iterator[list[int]]:
    for at in range(0, len(numbers), PEOPLE_AT_A_TIME):
        yield numbers[at : at + PEOPLE_AT_A_TIME].tolist()
