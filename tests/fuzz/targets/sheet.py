"""Owns the fuzzing of ext/sheet: lines of a CSV, in any bytes, by a plan with every kind of cell.

The first byte says how many rows there is room for, and how much room each has.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ext import sheet_py
from tests.fuzz.target import Target
from tests.support.outcomes import compiled
from tests.twins.test_sheet_twins import ARGUMENTS, CHOICES, arrays, everything

sheet = compiled("sheet")
PLAN = sheet.Plan(*ARGUMENTS)
WIDTHS = ((120, 30), (20, 5), (1, 1), (64, 64))


def parts(data: bytes) -> tuple[bytes, int, int, tuple[int, int]]:
    """Lines, rows, room for records, widths of messages."""
    first, lines = (data[0], data[1:]) if data else (0, b"")
    return lines, 1 + (first & 7), (2_000, 200, 40, 3)[first >> 3 & 3], WIDTHS[first >> 5 & 3]


def run(data: bytes) -> None:
    lines, rows, room, widths = parts(data)
    start = 0
    while True:
        numbers, people, messages = arrays(rows, room, widths)
        end, seen, taken, used, counts, odd = sheet.read(PLAN, lines, start, numbers, people, min(room, 3), messages)
        assert start <= end <= len(lines) and 0 <= taken <= rows and taken <= seen and used <= room
        assert all(0 <= count <= taken for count in counts) and len(odd) <= seen
        assert all(start <= first <= last <= end for _, first, last in odd)
        if end in (start, len(lines)):
            return
        start = end


def compare(data: bytes) -> None:
    run(data)
    found, expected = (everything(module, *parts(data)) for module in (sheet, sheet_py))
    assert found == expected


def target(folder: Path) -> Target:
    chance, seeds = random.Random(6), []
    for _ in range(200):
        made = []
        for _ in range(chance.choice((1, 2, 6))):
            cells = [chance.choice(choice) if chance.random() < 0.3 else choice[0] for choice in CHOICES]
            made.append(",".join(f'"{cell}"' if "," in cell or chance.random() < 0.1 else cell for cell in cells))
        seeds.append(bytes([chance.choice((3, chance.randrange(256)))]) + "\n".join([*made, ""]).encode())
    words: list[Any] = sorted({cell.encode() for choice in CHOICES for cell in choice if 1 < len(cell) < 20})
    return Target(seeds, [*words, b'""', b'","', b"\r\n"], run, compare)
