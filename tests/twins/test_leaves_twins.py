"""ext/leaves and its twin take the same from pages, whole and damaged; whole ones hold what LMDB says."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import lmdb
import pytest

from ext import leaves_py
from tests.support.outcomes import compiled, outcome

leaves = compiled("leaves")

PAGE_BYTES = 4096
BRANCH, LEAF = 1, 2
TREES = 3
DAMAGES = 4_000


def pages_of(folder: Path, chance: random.Random) -> bytes:
    """A file whose leaves have several versions of people, and records long, short and empty."""
    env = lmdb.open(os.fspath(folder), map_size=1 << 26, max_dbs=1, lib_version=0)
    db = env.open_db(b"versions")
    with env.begin(write=True, db=db) as txn:
        for seq in range(1, 900):
            count = chance.choice((0, 1, 2, 3, 8))
            record = bytes([1, count]) + bytes(10) + chance.randbytes(24 * count + chance.choice((4, 200, 400, 3_000)))
            txn.put(struct.pack(">IQ", chance.randrange(1, 300), 2**64 - 1 - seq), record)
    env.close()
    return (folder / "data.mdb").read_bytes()


def kind_of(page: bytes) -> int:
    return int.from_bytes(page[10:12], "little") & 0x6F


def both(name: str, *arguments: Any) -> tuple[Any, ...]:
    of_compiled, of_twin = (outcome(getattr(form, name), *arguments) for form in (leaves, leaves_py))
    assert of_compiled == of_twin
    return of_compiled


@pytest.mark.parametrize("seed", range(TREES))
def test_pages_whole_and_damaged_give_the_same(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    file = pages_of(tmp_path, chance)
    pages = [file[at : at + PAGE_BYTES] for at in range(0, len(file), PAGE_BYTES)]
    kinds = {kind: [n for n, page in enumerate(pages) if n > 1 and kind_of(page) == kind] for kind in (BRANCH, LEAF)}
    # Pages of other databases and those that are free look alike, and must not be taken for versions.
    some = [
        n
        for n in kinds[LEAF]
        if both("current", pages[n], PAGE_BYTES, n, struct.pack("=Q", n), b"\0", 900)[0] == "value"
    ]
    assert len(some) > 20
    outcomes = set()
    for number in kinds[BRANCH]:
        assert both("children", pages[number], number)[0] == "value"
        assert both("children", pages[number], number + 1)[0] == "error"
    for _ in range(200):
        asked = sorted(chance.sample(some, chance.randrange(1, 12)))
        follows = bytes(chance.randrange(2) for _ in asked)
        numbers, seq = struct.pack(f"={len(asked)}Q", *asked), chance.choice((0, 1, 300, 899, 2**64 - 1))
        first = chance.choice((0, asked[0]))
        block = file[first * PAGE_BYTES : (asked[-1] + chance.randrange(2)) * PAGE_BYTES]
        outcomes.add(both("current", block, PAGE_BYTES, first, numbers, follows, seq)[0])
    for _ in range(DAMAGES):
        kind = chance.choice((BRANCH, LEAF, LEAF, LEAF))
        number = chance.choice(some if kind == LEAF else kinds[BRANCH])
        page = bytearray(pages[number])
        for _ in range(chance.randrange(1, 4)):
            page[chance.choice((chance.randrange(64), chance.randrange(PAGE_BYTES)))] = chance.choice(
                (0, 1, 255, chance.randrange(256))
            )
        if kind == BRANCH:
            outcomes.add(both("children", page, number)[0])
        else:
            outcomes.add(both("current", page, PAGE_BYTES, number, struct.pack("=Q", number), b"\0", 600)[0])
    assert outcomes == {"value", "error"}


def test_records_that_lie_on_one_another_do_not_overflow(tmp_path: Path) -> None:
    """Hundreds of nodes that all name the same place: their entries are more than a page can hold."""
    page = bytearray(PAGE_BYTES)
    places, at = 1_000, 16 + 2 * 1_000
    struct.pack_into("<QHHHH", page, 0, 7, 0, LEAF, 16 + 2 * places, at)
    struct.pack_into(f"<{places}H", page, 16, *[at] * places)
    struct.pack_into("<IHH", page, at, 1_800, 0, 12)
    page[at + 8 + 12 : at + 8 + 14] = bytes([1, 74])
    asked = page, PAGE_BYTES, 7, struct.pack("=Q", 7), b"\0"
    struct.pack_into(">IQ", page, at + 8, 5, 2**64 - 2)
    assert both("current", *asked, 9)[1][0] is tuple or both("current", *asked, 9)[0] == "value"  # of one person, once
    heads = [at + 2 * n for n in range(places)]
    struct.pack_into(f"<{places}H", page, 16, *[min(head, PAGE_BYTES - 20) for head in heads])
    both("current", *asked, 9)


@pytest.mark.parametrize(
    "arguments",
    [
        (b"", PAGE_BYTES, 0, b"", b"", 1),
        (b"", 511, 0, b"", b"", 1),
        (b"", 65537, 0, b"", b"", 1),
        (bytes(PAGE_BYTES), PAGE_BYTES, 5, struct.pack("=Q", 4), b"\0", 1),
        (bytes(PAGE_BYTES), PAGE_BYTES, 5, struct.pack("=Q", 6), b"\0", 1),
        (bytes(PAGE_BYTES), PAGE_BYTES, 5, struct.pack("=Q", 5), b"\0", 1),
        (bytes(PAGE_BYTES - 1), PAGE_BYTES, 5, struct.pack("=Q", 5), b"\0", 1),
        (bytes(PAGE_BYTES), PAGE_BYTES, 5, b"1234567", b"\0", 1),
        (bytes(PAGE_BYTES), PAGE_BYTES, 5, struct.pack("=Q", 5), b"", 1),
    ],
)
def test_what_is_asked_wrongly_is_refused_alike(arguments: tuple[Any, ...]) -> None:
    both("current", *arguments)
    both("children", arguments[0], arguments[2])
