"""Owns the fuzzing of ext/lane: frames of requests, one behind the other, in any bytes.

The first byte says where to begin and how long bodies may be; the rest is what a connection received.
"""

from __future__ import annotations

import random
from pathlib import Path

from ext import lane_py
from tests.fuzz.target import Target
from tests.support import streams
from tests.support.outcomes import compiled, outcome

lane = compiled("lane")
MOST = (16_384, 300, 0, 2**30)


def parts(data: bytes) -> tuple[bytes, int, int]:
    """What was received, where to begin, and how long a body may be."""
    first, received = (data[0], data[1:]) if data else (0, b"")
    return received, min(first >> 2, len(received)), MOST[first & 3]


def run(data: bytes) -> None:
    received, at, most = parts(data)
    while at < len(received):
        found = lane.frame(received, at, most)
        check(received, at, most, found)
        if isinstance(found, int):
            return
        at = found[5]


def check(received: bytes, at: int, most: int, found: tuple[int, int, int, int, int, int, int, int] | int) -> None:
    """Nothing lies outside of what was received, and the frame is that of a request."""
    if isinstance(found, int):
        assert found < len(lane.REASONS)
        assert found >= 0 or len(received) - at < -found <= lane.HEAD_BYTES_MAX + most
        return
    host, host_end, mark, mark_end, body, end, token, token_end = found
    assert received.startswith(lane.REQUEST_LINE, at)
    assert at + len(lane.REQUEST_LINE) < host < host_end < body < end <= len(received)
    assert (mark, mark_end) == (0, 0) or at + len(lane.REQUEST_LINE) < mark < mark_end < body
    assert (token, token_end) == (0, 0) or at + len(lane.REQUEST_LINE) < token < token_end < body
    assert received[body - 4 : body] == b"\r\n\r\n" and body - at <= lane.HEAD_BYTES_MAX and end - body <= most


def compare(data: bytes) -> None:
    run(data)
    received, at, most = parts(data)
    while True:
        found = outcome(lane.frame, received, at, most)
        assert found == outcome(lane_py.frame, received, at, most)
        if not isinstance(found[2], tuple):
            return
        at = found[2][5]


def target(folder: Path) -> Target:
    chance = random.Random(1)
    seeds = [b"\0" + streams.request(body) for body in streams.BODIES]
    seeds += [b"\0" + streams.request(streams.BODIES[0], line) for line in streams.LINES]
    seeds += [b"\0" + streams.request(streams.BODIES[0], more=[header]) for header in streams.HEADERS]
    seeds += [bytes([chance.randrange(4)]) + streams.stream(chance, 3) for _ in range(100)]
    seeds += [bytes([4 * skipped]) + b"x" * skipped + seeds[0][1:] for skipped in (1, 63)]
    words = [line + b"\r\n" for line in (*streams.LINES, *streams.HEADERS) if len(line) < 50]
    return Target(seeds, [*words, b"\r\n\r\n", b"Content-Length: 9\r\n"], run, compare)
