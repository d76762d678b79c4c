"""Owns the fuzzing of ext/pages: an LMDB file and its lock file with any bytes changed, or cut short.

The first three bytes say what is looked for and where the file ends; each four behind them change one byte: page,
offset in it, value. The page behind the last is the lock file.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

from ext import pages_py
from tests.fuzz.target import Target
from tests.support.outcomes import compiled, outcome
from tests.twins.test_pages_twins import NAME, Made, filled

pages = compiled("pages")
PAGE_BYTES = 4096
COUNT = 60
CHANGES_MAX = 100


class Files:
    """The files as they were written, and what an input makes of them."""

    def __init__(self, folder: Path) -> None:
        made = Made(folder)
        filled(made, COUNT, random.Random(4))
        self._data, self._lock = ((folder / name).read_bytes() for name in ("data.mdb", "lock.mdb"))
        made.close()
        self.page_count = len(self._data) // PAGE_BYTES

    def parts(self, given: bytes) -> tuple[bytes, bytes, list[bytes]]:
        """Data file, lock file, and the keys to look for."""
        first, second, third = (given + bytes(3))[:3]
        data, lock = bytearray(self._data), bytearray(self._lock)
        for at in range(3, min(len(given) - 3, 4 * CHANGES_MAX), 4):
            page, offset, value = struct.unpack_from("<BHB", given, at)
            page %= self.page_count + 1
            if page == self.page_count:
                lock[offset % 128] = value
            else:
                data[page * PAGE_BYTES + offset % PAGE_BYTES] = value
        if third:
            # A file that ends within a page, or before pages that others name.
            del data[max(0, len(data) - third * third * 16) :]
        wanted = [struct.pack(">IQ", first, 0), struct.pack(">IQ", second, 2**64 - 1), b"", b"\xff" * 12]
        return bytes(data), bytes(lock), wanted

    def run(self, given: bytes) -> None:
        self._looked_up(pages, given)

    def compare(self, given: bytes) -> None:
        assert self._looked_up(pages, given) == self._looked_up(pages_py, given)

    def _looked_up(self, module: Any, given: bytes) -> list[Any]:
        data, lock, wanted = self.parts(given)
        form = outcome(module.Pages, data, lock, NAME)
        if form[0] == "error":
            assert form[1] is ValueError
            return [form]
        found = [outcome(form[2].seek, key) for key in wanted]
        assert all(one[0] == "value" for one in found)
        form[2].is_resident(wanted[0])
        form[2].touch(wanted)
        form[2].release()
        return found


def target(folder: Path) -> Target:
    files, chance = Files(folder), random.Random(5)
    # Heads of pages, and where nodes and the meta pages have their sizes and numbers.
    places = (*range(10, 48), *range(90, 140), *range(3_900, 4_096))
    seeds = [bytes([number, 3 * number, 0]) for number in range(0, COUNT, 6)]
    for _ in range(200):
        changes = [
            struct.pack("<BHB", chance.randrange(files.page_count + 1), chance.choice(places), chance.randrange(256))
            for _ in range(chance.choice((1, 2, 5)))
        ]
        seeds.append(
            bytes([chance.randrange(256), chance.randrange(256), chance.choice((0, 0, 0, 9))]) + b"".join(changes)
        )
    return Target(seeds, [b"\x10\x00", b"\xff\xff", b"\x0a\x00\x02"], files.run, files.compare)
