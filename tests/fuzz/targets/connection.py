"""Owns the fuzzing of ext/connection: any bytes in any pieces, beside all else that can happen to a connection.

The first two bytes say where the rest is cut and what happens between the pieces.
"""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType
from typing import Any

from ext import connection_py
from tests.fuzz.target import Target
from tests.support import streams
from tests.support.outcomes import compiled
from tests.twins.test_connection_twins import OTHERS, Run, do

connection = compiled("connection")


def steps(data: bytes) -> list[tuple[str, Any]]:
    """What happens, in its order."""
    chance = random.Random(int.from_bytes(data[:2], "little"))
    found: list[tuple[str, Any]] = []
    for piece in streams.cut(chance, data[2:]) if len(data) > 2 else []:
        found.append(("data", piece))
        while chance.random() < 0.3:
            found.append(chance.choice(OTHERS))
    return [*found, ("soon", None), ("soon", None)]


def played(form: ModuleType, data: bytes) -> tuple[Any, ...]:
    """What one form did and is left with."""
    run = Run(form)
    for step, given in steps(data):
        do(run, step, given)
    state = run.state()
    if not run.transport.closing and "handed over" not in run.log:
        run.connection.connection_lost(None)
    return state


def run(data: bytes) -> None:
    log, answered, handed_over, connections, waiting = played(connection, data)
    assert 0 <= waiting <= len(data) and connections in (0, 1) and sum(handed_over.values()) <= 1
    assert answered <= len(data) // 100


def compare(data: bytes) -> None:
    run(data)
    assert played(connection, data) == played(connection_py, data)


def target(folder: Path) -> Target:
    chance = random.Random(3)
    bodies = (b"{}", b"!", b"x" * 290, b"x" * 310)
    marks = (b"abc", b"x" * 64, b"x" * 65, b"a b", b"123456789012", b"1-2-3-4-5-6-7-8-9-0-1")
    usual = [streams.request(body, more=[b"X-Request-ID: " + mark]) for body in bodies for mark in marks]
    many = [chance.choice(usual) * chance.choice((1, 1, 3, 70)) for _ in range(40)]
    odd = [streams.odd_request(chance) + chance.choice(usual) for _ in range(60)]
    seeds = [chance.randbytes(2) + data for data in (*usual, *many, *odd)]
    words = [line + b"\r\n" for line in (*streams.LINES[:1], *streams.HEADERS) if len(line) < 50]
    return Target(seeds, [*words, b"\r\n\r\n", b"Content-Length: 2\r\n"], run, compare)
