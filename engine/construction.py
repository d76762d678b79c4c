"""Owns a generation of the index under construction: a bulk load fills it while readers have the one before.

It is nobody's truth until `finish` publishes it. A writer that is killed leaves a file that no `CURRENT` names, which
the next writer removes. Entries are plain from the beginning: there is no reader from whom to hide them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine import index as generations
from engine import shm
from engine.index import LOAD_MAX, Batch, IndexWriter, Match
from ext import probe

SPARE: Final = 1.002
"""Room beyond the keys that are expected: what is left over is memory that nobody uses."""


class Construction:
    """The next generation of an index. One thread of the index's writer fills it."""

    def __init__(self, index: IndexWriter, keys: int) -> None:
        self._index = index
        self._segment, self._table = self._begun(keys)

    @property
    def count(self) -> int:
        """Entries so far."""
        return int(self._table.count)

    @property
    def segment_bytes(self) -> int:
        """Size of the file."""
        return self._segment.size_bytes

    @property
    def huge_pages(self) -> bool:
        """Whether huge pages were got."""
        return self._segment.huge_pages

    def has_room(self, extra: int) -> bool:
        """Whether so many more entries fit within LOAD_MAX."""
        return bool(self._table.count + extra <= self._table.lines * probe.SLOTS_PER_LINE * LOAD_MAX)

    def suits(self, keys: int) -> bool:
        """Whether the room is what so many entries in all need: no less, and hardly more."""
        room = self._table.lines * probe.SLOTS_PER_LINE * LOAD_MAX
        return keys <= room <= keys * 1.01 + generations.KEYS_MIN

    def find(self, digest: bytes) -> tuple[Match, ...]:
        """The matches of one key."""
        return self._table.find(digest)

    def find_many(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
        """As IndexReader.find_many."""
        return generations._find_many(self._table, hashes)

    def add(self, persons: NDArray[np.uint32], entries: NDArray[np.void]) -> None:
        """Put entries in; those that are there already stay. There must be room for them."""
        generations._insert(self._table, *generations._checked(persons, entries))

    def remove(self, persons: NDArray[np.uint32], entries: NDArray[np.void]) -> None:
        """Take entries out."""
        self._table.remove_many(*generations._checked(persons, entries))

    def begin_anew(self, keys: int, batches: Callable[[], Iterable[Batch]]) -> None:
        """Throw away what is here and start with room for so many keys and with these entries.

        Args: keys: if there turn out to be more, it is begun once more with more room. batches: yields all entries;
            may be called again.
        Raises IndexSpaceError.
        """
        while True:
            self.discard()
            self._segment, self._table = self._begun(keys)
            for persons, entries in batches():
                if not self.has_room(len(persons)):
                    keys = int(max(keys, self.count + len(persons)) * generations.GROWTH)
                    break
                self.add(persons, entries)
            else:
                return

    def finish(self, seq: int) -> None:
        """Publish it as of change `seq`: readers move on to it by themselves, and the index's writer has it, too."""
        index, table = self._index, self._table
        # Insurers have become fresher with what was loaded.
        table.insurers_version = index._table.insurers_version + 1
        self._segment.buffer[generations._HISTORY] = index._segment.buffer[generations._HISTORY]
        table.visible_seq = table.applied_seq = seq
        generations._publish_generation(index._directory, self._segment, table)
        index._forget()
        index._table.retire()
        index._table, index._segment = table, self._segment

    def discard(self) -> None:
        """Throw it away."""
        generations._discard(self._segment, self._table)

    def _begun(self, keys: int) -> tuple[shm.Segment, probe.Table]:
        index = self._index
        lines = generations._lines_for(int(keys * SPARE))
        segment, table = generations._new_generation(index._directory, index._identity, lines, index._table.form)
        segment.collapse()
        return segment, table
