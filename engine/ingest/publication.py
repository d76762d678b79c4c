"""Owns how committed changes reach the index: after a feed, and again at every start after a crash.

The order is that of docs/design/0001: new entries, then the visible sequence number, then removals. Every step may be
repeated: entries are members of a set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from engine.errors import IndexSpaceError
from engine.index import Batches, IndexWriter
from engine.ingest.spool import Spool
from engine.ingest.workspace import as_arrays, split
from engine.store import StoreReader
from ext import probe

Pairs = tuple[np.ndarray, np.ndarray]
"""Person numbers u32 and ENTRY_DTYPE, one entry each."""

PEOPLE_AT_A_TIME: Final = 10_000
NOTHING: Final[Pairs] = as_arrays([])


def newest_entries(store: StoreReader, numbers: Iterable[int], upto: int) -> Pairs:
    """The index entries of people as change `upto` left them."""
    people = store.entries_since(numbers, upto, upto)
    return as_arrays([(number, entry) for number, (newest, *_) in people for entry in split(newest)])


def entries_left_behind(store: StoreReader, numbers: Iterable[int], upto: int, before: int) -> Pairs:
    """What a version of these people since `before` had in the index, and the newest up to `upto` has not."""
    found: list[tuple[int, bytes]] = []
    for number, (newest, *older) in store.entries_since(numbers, upto, before):
        if older:
            found += [(number, entry) for entry in set().union(*map(split, older)) - split(newest)]
    return as_arrays(found)


def replay(store: StoreReader, index: IndexWriter, *, upto: int) -> int:
    """Bring an index to change `upto`, from the last change that it has whole. Returns how many changes that were."""
    after = index.data_version
    replayed = 0

    def added() -> Iterator[Pairs]:
        nonlocal replayed
        for changes in _changes(store, after, upto):
            yield newest_entries(store, _people(changes), upto)
            replayed += len(changes)

    def removed() -> Iterator[Pairs]:
        for changes in _changes(store, after, upto):
            yield entries_left_behind(store, _people(changes), upto, after)

    _publish(store, index, upto, added(), removed())
    return replayed


def publish_feed(store: StoreReader, index: IndexWriter, spool: Spool, *, before: int, upto: int) -> None:
    """Make a committed feed visible. New people come from the journal, changed ones from the store."""

    def added() -> Iterator[Pairs]:
        for piece in spool.added():
            # Whoever a later row changed leaves these behind, like a version that was there before the feed.
            yield np.ascontiguousarray(piece["person"]), np.ascontiguousarray(piece["entry"])
        for numbers in _changed(spool):
            yield newest_entries(store, numbers, upto)

    def removed() -> Iterator[Pairs]:
        for numbers in _changed(spool):
            yield entries_left_behind(store, numbers, upto, before)

    _publish(store, index, upto, added(), removed())


def publish(store: StoreReader, index: IndexWriter, upto: int, *, added: Pairs, removed: Pairs) -> None:
    """Make a small committed change visible."""
    _publish(store, index, upto, added, removed)


def _publish(store: StoreReader, index: IndexWriter, upto: int, added: Batches, removed: Batches) -> None:
    """Publish additions as they come; removals are looked for when the additions are visible, on a second walk.

    So neither is ever held as a whole: memory is bounded by the batch and not by the feed.
    """
    try:
        index.publish(upto, added=added, removed=removed, insurers_changed=True)
    except (probe.CrowdedError, IndexSpaceError):
        # Old and new entries did not fit side by side, in the table or under one key. The new ones alone do.
        index.rebuild(lambda: store.entries(upto), seq=upto, keys=index.count)
        index.publish(upto, added=NOTHING, removed=NOTHING, insurers_changed=True)


def _changes(store: StoreReader, after: int, upto: int) -> Iterator[list[tuple[int, int]]]:
    """The changes with after < seq <= upto, in batches."""
    while changes := store.changed_numbers(after, upto, PEOPLE_AT_A_TIME):
        yield changes
        after = changes[-1][0]


def _people(changes: list[tuple[int, int]]) -> list[int]:
    return sorted({number for _, number in changes})


def _changed(spool: Spool) -> Iterator[list[int]]:
    """The people whom a feed changed, in batches; whoever is in several is looked at again, which is harmless."""
    for piece in spool.changed():
        numbers = np.unique(piece["person"])
        for at in range(0, len(numbers), PEOPLE_AT_A_TIME):
            yield numbers[at : at + PEOPLE_AT_A_TIME].tolist()
