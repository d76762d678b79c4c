"""Owns the fuzzing of ext/many and ext/quick: lines of NDJSON and items, over a real store and a real table.

The first byte says whether the lines are asked as lines or as items of a batch.
"""

from __future__ import annotations

import atexit
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from api.wire.quick import quick_way
from engine.records import Insurer
from ext import many_py
from tests.fuzz.target import Target
from tests.fuzz.targets.ordinary import WORDS
from tests.properties.test_many_model import COUNT, INSURER, line, person
from tests.properties.test_quick_model import twin_of
from tests.support.outcomes import compiled
from tests.support.verdicts import AS_OF
from tests.support.world import World

many = compiled("many")


def careful(body: bytes) -> bytes:
    """Stands for the careful way."""
    return b"<%b>" % body.strip()


def by_lines(form: Any, data: bytes) -> tuple[bytes, int, int]:
    """All answers, where they end, and how many there are."""
    answers, offset, total = b"", 0, 0
    while True:
        part, after, count = form.answer_lines(data, offset, careful)
        assert offset <= after <= len(data) and 0 <= count <= many.ITEMS_MAX
        assert part.count(b"\n") == count and (count > 0) == (after > offset)
        if not count:
            return answers, offset, total
        answers, offset, total = answers + part, after, total + count


def by_items(form: Any, data: bytes) -> tuple[bytes, int]:
    """All answers to what stands between line feeds, and how many spans there are."""
    spans, start = [], 0
    for item in data.split(b"\n"):
        spans.append((start, start + len(item)))
        start += len(item) + 1
    answers, position = b"", 0
    while position < len(spans):
        part, after = form.answer_items(data, spans, position, AS_OF, careful)
        assert position < after <= len(spans)
        form.cold_items(data, spans, position, AS_OF)
        answers, position = answers + part, after
    return answers, position


class Ways:
    """The compiled form, its twin, and single checks, over one world."""

    def __init__(self, world: World) -> None:
        self.single = quick_way(world.verifier)
        self.form = many.Many(quick_way(world.verifier))
        self.twin = many_py.Many(quick_way(twin_of(world)))

    def run(self, data: bytes) -> None:
        if data[:1] == b"i":
            by_items(self.form, data[1:])
            return
        by_lines(self.form, data[1:])
        self.form.cold_lines(data[1:], 0)
        first = data[1:].partition(b"\n")[0]
        self.single.answer(first, 0, len(first))
        self.single.cold_key(first, 0, len(first))

    def compare(self, data: bytes) -> None:
        self.run(data)
        if data[:1] == b"i":
            assert by_items(self.form, data[1:]) == by_items(self.twin, data[1:])
            return
        found = by_lines(self.form, data[1:])
        assert found == by_lines(self.twin, data[1:])
        lines = data[1 : 1 + found[1]].split(b"\n")[:-1]
        assert found[0] == b"".join((self.single.answer(one, 0, len(one)) or careful(one)) + b"\n" for one in lines)


def target(folder: Path) -> Target:
    stack = ExitStack()
    atexit.register(stack.close)
    world = stack.enter_context(World(folder, AS_OF, keys=4 * COUNT))
    with world.store.transaction() as txn:
        txn.put_insurer(Insurer(INSURER, "見本健康保険組合", fresh_at_ms=1_795_388_400_000))
    world.replace({number: person(number) for number in range(1, COUNT + 1)})
    chance, ways = random.Random(2), Ways(world)
    seeds = [
        kind + b"\n".join(line(chance, item=kind == b"i") for _ in range(chance.choice((1, 2, 3, 10)))) + b"\n"
        for kind in (b"l", b"i")
        for _ in range(60)
    ]
    return Target(seeds, [*(b'"%b"' % word.encode() for word in WORDS), b"\n", b"\r\n"], ways.run, ways.compare)
