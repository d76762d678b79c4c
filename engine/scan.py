"""Owns reading the packed index entries of a whole store: how many there are, roughly, and all of them, quickly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

import numpy as np

from engine import children
from engine.entries import ENTRY_DTYPE
from engine.errors import ShikakuError, StorePoisonedError
from engine.index import NO_ENTRIES, Batch
from engine.store import SCAN_VERSIONS, StoreReader

COUNTED_MAX: Final = 1_000_000
"""Changes up to which entries are counted."""
SPOTS: Final = 32
"""Samples of SCAN_VERSIONS versions each."""
PROCESSES: Final = 2
SLICE: Final = 1_000_000
"""Person numbers that a process reads at a time: near enough to each other for the disk to go through in order."""
ALONE_MAX: Final = 2 * SLICE
"""Up to this person number one process is as quick."""


def keys_estimated(store: StoreReader, seq: int) -> int:
    """How many index entries there are after change `seq`: counted in a small store, from samples in a large one.

    Every change has one version, so that it is enough to know how many entries a version has: person numbers have
    gaps, versions have not.
    """
    if seq <= COUNTED_MAX:
        return store.key_count(seq)
    step = max(1, store.next_person // (SPOTS + 1))
    found = sum(len(next(store.entries(seq, at), NO_ENTRIES)[0]) for at in range(0, SPOTS * step, step))
    return int(found / (SPOTS * SCAN_VERSIONS) * seq * 1.01)


def all_entries(store: StoreReader, seq: int) -> Iterator[Batch]:
    """Index entries of everybody as known after change `seq`, in no certain order.

    A large store is read by processes of their own, which also have the disk read ahead. Raises StorePoisonedError if
    one of them ends early, and what reading raises.
    """
    numbers = store.next_person
    if numbers <= ALONE_MAX:
        yield from store.entries(seq)
        return
    with ExitStack() as running:
        open_ends: list[Connection] = []
        for first in range(PROCESSES):
            slices = [(at, at + SLICE) for at in range(first * SLICE, numbers, PROCESSES * SLICE)]
            named = (store.path, store.key_id, store.map_bytes, seq, slices)
            child, ours = children.start(send_entries, *named, duplex=False)
            running.callback(child.join)
            running.callback(ours.close)  # whoever still sends is told so, and ends
            open_ends.append(ours)
        while open_ends:
            for each in wait(open_ends):
                assert isinstance(each, Connection)
                batch = _received(each)
                if batch is None:
                    open_ends.remove(each)
                else:
                    yield batch


def _received(connection: Connection) -> Batch | None:
    try:
        told = connection.recv()
        if isinstance(told, ShikakuError):
            raise told
        if told is None:
            return None
        persons = np.frombuffer(connection.recv_bytes(), np.uint32)
        return persons, np.frombuffer(connection.recv_bytes(), ENTRY_DTYPE)
    except EOFError:
        raise StorePoisonedError("a process that reads the store has ended") from None


def send_entries(
    connection: Connection, path: Path, key_id: bytes, map_bytes: int, seq: int, slices: list[tuple[int, int]]
) -> None:
    """Be a process that reads its slices of the store: True and two arrays for each piece, None at the end."""
    try:
        store = StoreReader(path, key_id=key_id, map_bytes=map_bytes, in_order=True)
        try:
            for first, end in slices:
                for persons, entries in store.entries(seq, first, end):
                    connection.send(True)
                    connection.send_bytes(persons.tobytes())
                    connection.send_bytes(entries.tobytes())
            connection.send(None)
        finally:
            store.close()
    except BrokenPipeError:
        return
    except ShikakuError as error:
        connection.send(error)
