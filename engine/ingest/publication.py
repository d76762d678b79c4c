"""Owns how committed changes reach the index: after a feed, and again at every start after a crash.

The order is that of docs/design/0001: new entries, then the visible sequence number, then removals. Every step may be
repeated: entries are members of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np

from engine.errors import IndexSpaceError
from engine.index import IndexWriter
from engine.ingest.spool import Spool
from engine.ingest.workspace import as_arrays, split
from engine.store import StoreReader
from ext import probe

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
    for number, (newest, *older) in store.entries_since(numbers, upto, before):
        now = split(newest)
        added += [(number, entry) for entry in now]
        if older:
            removed += [(number, entry) for entry in set().union(*map(split, older)) - now]
    return as_arrays(added), as_arrays(removed)


def replay(store: StoreReader, index: IndexWriter, *, upto: int) -> int:
    """Bring an index to change `upto`, from the last change that it has whole. Returns how many changes that were."""
    after = index.data_version
    replayed = 0

    def batches(removals: list[Pairs]) -> Iterator[Pairs]:
        nonlocal replayed
        seq = after
        while changes := store.changed_numbers(seq, upto, PEOPLE_AT_A_TIME):
            added, removed = differences(store, sorted({number for _, number in changes}), upto, after)
            removals.append(removed)
            yield added
            seq = changes[-1][0]
            replayed += len(changes)

    _publish(store, index, upto, batches)
    return replayed


def publish_feed(store: StoreReader, index: IndexWriter, spool: Spool, *, before: int, upto: int) -> None:
    """Make a committed feed visible. New people come from the journal, changed ones from the store."""

    def batches(removals: list[Pairs]) -> Iterator[Pairs]:
        changed = np.unique(np.concatenate([np.empty(0, np.uint32), *(piece["person"] for piece in spool.changed())]))
        for piece in spool.added():
            # Whoever a later row changed is published as that row left them.
            last = piece[~np.isin(piece["person"], changed)]
            yield np.ascontiguousarray(last["person"]), np.ascontiguousarray(last["entry"])
        for numbers in _pieces(changed):
            added, removed = differences(store, numbers, upto, before)
            removals.append(removed)
            yield added

    _publish(store, index, upto, batches)


def publish(store: StoreReader, index: IndexWriter, upto: int, *, added: Pairs, removed: Pairs) -> None:
    """Make a small committed change visible."""

    def batches(removals: list[Pairs]) -> Iterator[Pairs]:
        removals.append(removed)
        yield added

    _publish(store, index, upto, batches)


def _publish(
    store: StoreReader, index: IndexWriter, upto: int, batches: Callable[[list[Pairs]], Iterator[Pairs]]
) -> None:
    """Publish additions as they come; removals, which are found on the way, follow when the additions are visible."""
    removals: list[Pairs] = []
    try:
        index.publish(upto, added=batches(removals), removed=iter(removals), insurers_changed=True)
    except (probe.CrowdedError, IndexSpaceError):
        # Old and new entries did not fit side by side, in the table or under one key. The new ones alone do.
        index.rebuild(lambda: store.entries(upto), seq=upto, keys=index.count)
        index.publish(upto, added=NOTHING, removed=NOTHING, insurers_changed=True)


def _pieces(numbers: np.ndarray) -> Iterator[list[int]]:
    for at in range(0, len(numbers), PEOPLE_AT_A_TIME):
        yield numbers[at : at + PEOPLE_AT_A_TIME].tolist()
