"""Owns reading the packed index entries of a whole store: how many there are, roughly, and all of them, quickly.

A record begins with its entries, so that every page of records must come from the disk; but no record need be looked
up. The branches of the tree say which pages are leaves, and processes take these as they lie in the file: a disk reads
on at its full speed, however the tree has grown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine import children
from engine.entries import ENTRY_BYTES, ENTRY_DTYPE
from engine.errors import RecordCorruptError, ShikakuError, StorePoisonedError
from engine.index import Batch
from engine.store import HEAD_BYTES, StoreReader, Tree
from ext import leaves

COUNTED_MAX: Final = 1_000_000
"""Changes up to which entries are counted."""
SAMPLES: Final = 2_048
"""Leaves that are counted of a large store, each with a look at the one before it."""
DEVIATIONS: Final = 2
"""Standard deviations of the samples' mean by which an estimate is raised: building an index anew costs more."""
ALONE_MAX: Final = 2_000_000
"""Up to this person number the start of processes takes longer than they save."""
PROCESSES: Final = 2
BLOCK_BYTES: Final = 2 << 20
"""What a process reads and hands over at a time."""
STRIPE_BLOCKS: Final = 8
"""Blocks that a process takes before the next ones are another's: all together read the file from end to end."""
BLOCKS_AHEAD: Final = 16
"""Blocks that the system is asked for before they are read: a disk is quick if it is asked for much."""
READS_AT_ONCE: Final = 16
"""Single pages are read side by side."""
PERSON_BYTES: Final = 4
_OVERFLOW_HEAD_BYTES: Final = 16
_LEAF_ROW: Final = np.dtype([("person", "u4"), ("count", "u4"), ("last", "u4")])


def keys_estimated(store: StoreReader, seq: int) -> int:
    """How many index entries there are after change `seq`, rather a few too many: from samples in a large store.

    Leaves are sampled, each as likely as any other: so it does not matter whether a leaf has many people or old
    versions of one, and where in the store changes cluster.
    """
    if seq <= COUNTED_MAX:
        return store.key_count(seq)
    with store.pinned() as tree:
        return _estimated(tree, seq) if tree is not None else store.key_count(seq)


def _estimated(tree: Tree, seq: int) -> int:
    numbers = leaf_pages(tree)
    chosen = np.unique(np.linspace(0, len(numbers) - 1, SAMPLES).astype(np.int64)).tolist()
    with _opened(tree.file) as descriptor, ThreadPoolExecutor(READS_AT_ONCE) as threads:

        def taken(place: int) -> tuple[Told, int]:
            page, size = int(numbers[place]), tree.page_bytes
            block = os.pread(descriptor, size, page * size)
            found = leaves.current(block, size, page, numbers[place : place + 1].tobytes(), b"\0", seq)
            told, persons, _ = _told(descriptor, size, np.array([place]), *found)
            return told, len(persons) // PERSON_BYTES

        def counted(place: int) -> int:
            told, count = taken(place)
            before = taken(place - 1)[0].lasts[0] if place else 0
            return count + int(np.count_nonzero(told.firsts[0] != before))

        counts = np.fromiter(threads.map(counted, chosen), np.float64, len(chosen))
    if len(chosen) == len(numbers):
        return int(counts.sum())
    surely = counts.mean() + DEVIATIONS * counts.std() / len(counts) ** 0.5
    return int(len(numbers) * surely) + 1


def all_entries(store: StoreReader, seq: int) -> Iterator[Batch]:
    """Index entries of everybody as known after change `seq`, in no certain order.

    A large store is read by processes of their own. It may be written meanwhile: what is read is the state of one
    commit. Raises StorePoisonedError if one of them ends early, RecordCorruptError, and what reading raises.
    """
    if store.next_person <= ALONE_MAX:
        yield from store.entries(seq)
        return
    with store.pinned() as tree:
        if tree is None:
            yield from store.entries(seq)
        else:
            yield from _in_file_order(tree, seq)


# --- the side that asks -------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What is said of a block beside the entries that are current for certain."""

    versions: int
    places: NDArray[np.int64]
    """Of the leaves, in the order of keys."""
    lasts: NDArray[np.uint32]
    """The last person of each leaf with a version up to the asked one; 0: nobody."""
    first_places: NDArray[np.int64]
    """Of the leaf that each of the following entries is from."""
    firsts: Batch
    """Entries of first persons of leaves: current unless the leaf before ends with a newer version of theirs."""


def _in_file_order(tree: Tree, seq: int) -> Iterator[Batch]:
    numbers = leaf_pages(tree)
    lasts = np.zeros(len(numbers) + 1, np.uint32)  # of the leaf before each; before the first there is none
    open_firsts: list[tuple[NDArray[np.int64], Batch]] = []
    versions = 0
    for batch, told in _taken(tree, numbers, seq):
        versions += told.versions
        lasts[told.places + 1] = told.lasts
        if len(told.first_places):
            open_firsts.append((told.first_places, told.firsts))
        yield batch
    if versions != tree.versions:
        raise RecordCorruptError("the store has not the versions that it says it has")
    for places, (persons, entries) in open_firsts:
        current = lasts[places] != persons
        yield persons[current], entries[current]


def leaf_pages(tree: Tree) -> NDArray[np.uint64]:
    """Numbers of all leaves, in the order of their keys. Raises RecordCorruptError, StorePoisonedError."""
    level = [tree.root] if tree.levels else []
    size = tree.page_bytes
    with _opened(tree.file) as descriptor, ThreadPoolExecutor(READS_AT_ONCE) as threads:

        def below(number: int) -> list[int]:
            return leaves.children(os.pread(descriptor, size, number * size), number)

        pages = os.fstat(descriptor).st_size // size
        for _ in range(tree.levels - 1):
            level = [number for numbers in threads.map(below, level) for number in numbers]
            if len(level) > pages:
                raise RecordCorruptError("the store's pages are damaged")
    return np.array(level, np.uint64)


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    """A file for reading; what goes wrong with it or with its pages is told as what it means for the store."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except BrokenPipeError:
        raise
    except (ValueError, OverflowError):
        raise RecordCorruptError("the store's pages are damaged") from None
    except OSError as error:
        raise StorePoisonedError(f"the store cannot be read: {error.strerror}") from None


def _taken(tree: Tree, numbers: NDArray[np.uint64], seq: int) -> Iterator[tuple[Batch, Told]]:
    """What the processes find, as it comes."""
    places = np.argsort(numbers, kind="stable")
    block_pages = max(1, BLOCK_BYTES // tree.page_bytes)
    stripes = numbers[places] // np.uint64(STRIPE_BLOCKS * block_pages)
    with ExitStack() as running:
        open_ends: list[Connection] = []
        for one in range(PROCESSES):
            theirs = places[stripes % np.uint64(PROCESSES) == one]
            asked = (tree, seq, block_pages, numbers[theirs], theirs)
            child, ours = children.start(send_leaves, *asked, duplex=False)
            running.callback(child.join)
            running.callback(ours.close)  # whoever still sends is told so, and ends
            open_ends.append(ours)
        while open_ends:
            for each in wait(open_ends):
                assert isinstance(each, Connection)
                found = _received(each)
                if found is None:
                    open_ends.remove(each)
                else:
                    yield found


def _received(connection: Connection) -> tuple[Batch, Told] | None:
    try:
        told = connection.recv()
        if isinstance(told, ShikakuError):
            raise told
        if told is None:
            return None
        persons = np.frombuffer(connection.recv_bytes(), np.uint32)
        return (persons, np.frombuffer(connection.recv_bytes(), ENTRY_DTYPE)), told
    except EOFError:
        raise StorePoisonedError("a process that reads the store has ended") from None


# --- the side that reads ------------------------------------------------------------------------------------------


def send_leaves(
    connection: Connection,
    tree: Tree,
    seq: int,
    block_pages: int,
    numbers: NDArray[np.uint64],
    places: NDArray[np.int64],
) -> None:
    """Be a process that reads leaves, sorted by number: Told and two arrays for each block, None at the end."""
    try:
        with _opened(tree.file) as descriptor:
            for told, persons, entries in _read(descriptor, tree.page_bytes, seq, block_pages, numbers, places):
                connection.send(told)
                connection.send_bytes(persons)
                connection.send_bytes(entries)
            connection.send(None)
    except BrokenPipeError:
        return
    except ShikakuError as error:
        connection.send(error)


def _read(
    descriptor: int,
    page_bytes: int,
    seq: int,
    block_pages: int,
    numbers: NDArray[np.uint64],
    places: NDArray[np.int64],
) -> Iterator[tuple[Told, bytes, bytes]]:
    """Block by block, while those that come next are on their way from the disk."""
    memory = memoryview(bytearray(block_pages * page_bytes))
    ends = np.flatnonzero(np.diff(numbers // np.uint64(block_pages))) + 1
    parts = [
        part for part in zip([0, *ends.tolist()], [*ends.tolist(), len(numbers)], strict=True) if part[0] < part[1]
    ]
    spans = [(int(numbers[start]) * page_bytes, (int(numbers[end - 1]) + 1) * page_bytes) for start, end in parts]
    for ahead in spans[:BLOCKS_AHEAD]:
        _wish(descriptor, *ahead)
    follows = np.concatenate([[False], np.diff(places) == 1])
    for at, ((start, end), (begin, stop)) in enumerate(zip(parts, spans, strict=True)):
        if at + BLOCKS_AHEAD < len(spans):
            _wish(descriptor, *spans[at + BLOCKS_AHEAD])
        block = memory[: stop - begin]
        if os.preadv(descriptor, [block], begin) != len(block):
            raise RecordCorruptError("the store's file is too short")
        found = leaves.current(
            block, page_bytes, begin // page_bytes, numbers[start:end].tobytes(), follows[start:end].tobytes(), seq
        )
        yield _told(descriptor, page_bytes, places[start:end], *found)


def _wish(descriptor: int, begin: int, stop: int) -> None:
    os.posix_fadvise(descriptor, begin, stop - begin, os.POSIX_FADV_WILLNEED)


def _told(
    descriptor: int,
    page_bytes: int,
    places: NDArray[np.int64],
    versions: int,
    persons: bytes,
    entries: bytes,
    firsts: bytes,
    rows: bytes,
    big: list[tuple[int, int, int, bool]],
) -> tuple[Told, bytes, bytes]:
    leaf_rows = np.frombuffer(rows, _LEAF_ROW)
    first_places = np.repeat(places, leaf_rows["count"])
    first_persons = np.repeat(leaf_rows["person"], leaf_rows["count"])
    for leaf, person, page, is_first in big:
        packed = _packed_entries(descriptor, page_bytes, page)
        theirs = np.full(len(packed) // ENTRY_BYTES, person, np.uint32)
        if is_first:
            firsts += packed
            first_persons = np.concatenate([first_persons, theirs])
            first_places = np.concatenate([first_places, np.full(len(theirs), places[leaf])])
        else:
            persons, entries = persons + theirs.tobytes(), entries + packed
    first_batch = first_persons, np.frombuffer(firsts, ENTRY_DTYPE)
    return Told(versions, places, leaf_rows["last"].copy(), first_places, first_batch), persons, entries


def _packed_entries(descriptor: int, page_bytes: int, page: int) -> bytes:
    """The entries of a record that has pages of its own. Raises RecordCorruptError."""
    head = _OVERFLOW_HEAD_BYTES + HEAD_BYTES
    value = os.pread(descriptor, head + 255 * ENTRY_BYTES, page * page_bytes)
    count = value[_OVERFLOW_HEAD_BYTES + 1] if len(value) >= head else 0
    if len(value) < head + count * ENTRY_BYTES or int.from_bytes(value[:8], "little") != page:
        raise RecordCorruptError("the store's pages are damaged")
    return value[head : head + count * ENTRY_BYTES]
