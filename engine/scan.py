"""Owns reading the packed index entries of a whole store: how many there are, roughly, and all of them, quickly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine.index import Batch
from engine.store import StoreReader

SPOTS: Final = 64
NUMBERS_A_SPOT: Final = 4_000


def keys_estimated(store: StoreReader, seq: int) -> int:
    """How many index entries there are after change `seq`: counted in a small store, from samples in a large one."""
    numbers = store.next_person
    step = numbers // SPOTS
    if step <= 2 * NUMBERS_A_SPOT:
        return store.key_count(seq)
    starts = range(step // 2, numbers, step)
    found = sum(len(persons) for at in starts for persons, _ in store.entries(seq, at, at + NUMBERS_A_SPOT))
    return int(found / (len(starts) * NUMBERS_A_SPOT) * numbers * 1.01)


def all_entries(store: StoreReader, seq: int) -> Iterator[Batch]:
    """Index entries of everybody as known after change `seq`."""
    yield from store.entries(seq)
