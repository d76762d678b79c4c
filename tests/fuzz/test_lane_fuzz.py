"""Asks whether the lane gives what the general server gives, for requests that are canonical, odd and mutated.

Both get the same bytes, cut in the same places; the general server gets every request whose frame is
canonical, as far as the lane went, in one piece: it forgets whole requests if one that comes with them cannot be read,
and closes the connection if it has refused a request before all of it came.

More than in every run:

    LANE_REQUESTS=10000000 pytest tests/fuzz/test_lane_fuzz.py
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from api.app import RECORDER, Runner
from engine import limits
from engine.audit.entry import Entry, decode
from engine.audit.log import LogReader
from ext import lane
from tests.support import api, known, streams

REQUESTS = int(os.environ.get("LANE_REQUESTS", "20000"))
REQUESTS_IN_CI = 200_000
RECORDED = 4_000
KNOWN = 6_000
IN_A_STREAM = 8


@pytest.fixture
def built(tmp_path: Path) -> Iterator[api.Engine]:
    with api.engine(tmp_path) as engine:
        yield engine


async def compare(
    built: api.Engine, seeds: range, requests: int, shown: Sequence[bytes] = ()
) -> tuple[int, dict[str, int]]:
    """Send streams both ways. Returns how many requests the lane answered, and why it handed over.

    Args: shown: lines of Authorization, the first of them the good one.
    """
    runners = [Runner(app) for app in (built.check_app, built.general_app)]
    for runner in runners:
        await runner.setup()
    for seed in seeds:
        chance = random.Random(seed)
        pieces = streams.cut(chance, streams.stream(chance, requests, shown))
        await _same(runners, pieces, seed)
    shared = runners[0].server._lane  # type: ignore[union-attr]
    for runner in runners:
        await runner.cleanup()
    return shared.answered, dict(shared.handed_over)


def test_the_lane_agrees_with_the_general_server(built: api.Engine) -> None:
    answered, reasons = asyncio.run(compare(built, range(REQUESTS // IN_A_STREAM), IN_A_STREAM))
    assert answered > REQUESTS / 8, "many requests must be answered in the lane"
    if REQUESTS >= 10_000:
        assert set(reasons) == {*lane.REASONS[1:]} - {"draining", "body_late"}, "every way out must have been taken"


def test_both_record_the_same(tmp_path: Path) -> None:
    """Where answers wait for the disk they are the same, too, and in the same order, and what is recorded of them."""
    with api.engine(tmp_path, audit="strict") as built:
        answered, _ = asyncio.run(compare(built, range(RECORDED // IN_A_STREAM), IN_A_STREAM))
        assert answered > RECORDED / 8
        logs = []
        for slot in (0, 1):
            with LogReader(built.settings.audit_dir / str(slot)) as log:
                logs.append([_comparable(decode(one)) for one in log.entries(0, log.size)])
    assert len(logs[0]) >= answered and logs[0] == logs[1]


def _comparable(entry: Entry) -> Entry:
    """The entry without a mark that we made."""
    ours = streams.is_our_mark(entry.request_id.encode())
    return msgspec.structs.replace(entry, request_id="ours") if ours else entry


def test_the_lane_agrees_where_callers_are_known(tmp_path: Path) -> None:
    """Tokens that are good, bad, over, of others, or not there; both record the same of the same callers."""
    settings = {"callers": "known", "audit": "strict", "rate_burst": 100_000, "misses_burst": 10_000}
    with api.engine(tmp_path, **settings) as built:
        shown = known.headers(built)
        answered, reasons = asyncio.run(compare(built, range(KNOWN // IN_A_STREAM), IN_A_STREAM, shown))
        assert answered > KNOWN / 20 and reasons["refused"] > KNOWN / 100
        logs = []
        for slot in (0, 1):
            with LogReader(built.settings.audit_dir / str(slot)) as log:
                logs.append([_comparable(decode(one)) for one in log.entries(0, log.size)])
    assert len(logs[0]) >= answered and logs[0] == logs[1]
    assert {one.caller for one in logs[0]} == {api.INSTITUTION}


def test_every_token_alone(tmp_path: Path) -> None:
    with api.engine(tmp_path, callers="known", rate_burst=100_000, misses_burst=10_000) as built:
        shown = [[], *([one] for one in known.headers(built))]
        shown += [[one, one] for (one,) in shown[1:]] + [[shown[1][0], one] for (one,) in shown[2:]]
        several = [[streams.request(body, more=more) + streams.END] for more in shown for body in streams.BODIES[:3]]
        asyncio.run(alone(built, several))


@pytest.mark.long
def test_the_lane_agrees_with_the_general_server_on_many(built: api.Engine) -> None:
    count = REQUESTS_IN_CI // IN_A_STREAM
    asyncio.run(compare(built, range(1_000_000, 1_000_000 + count), IN_A_STREAM))


def test_every_header_alone(built: api.Engine) -> None:
    headers = [[], *([header] for header in streams.HEADERS)]
    asyncio.run(alone(built, [[streams.request(streams.BODIES[0], more=more) + streams.END] for more in headers]))


def test_every_header_twice(built: api.Engine) -> None:
    """Some of them aiohttp refuses to see twice, whatever they say."""
    asyncio.run(
        alone(built, [[streams.request(streams.BODIES[0], more=[one, one]) + streams.END] for one in streams.HEADERS])
    )


def test_every_request_line_alone(built: api.Engine) -> None:
    asyncio.run(alone(built, [[streams.request(streams.BODIES[0], line) + streams.END] for line in streams.LINES]))


def test_every_body_alone(built: api.Engine) -> None:
    asyncio.run(alone(built, [[streams.request(body) + streams.END] for body in streams.BODIES]))


def test_a_request_cut_anywhere(built: api.Engine) -> None:
    data = streams.request(streams.BODIES[0])
    asyncio.run(alone(built, [[data[:at], data[at:] + streams.END] for at in range(len(data))]))


async def alone(built: api.Engine, several: list[list[bytes]]) -> None:
    runners = [Runner(app) for app in (built.check_app, built.general_app)]
    for runner in runners:
        await runner.setup()
    for pieces in several:
        await _same(runners, pieces, pieces)
    for runner in runners:
        await runner.cleanup()


async def _same(runners: list[Runner], pieces: list[bytes], what: object) -> None:
    in_lane, general = (runner.server for runner in runners)
    assert in_lane is not None
    before = in_lane._lane.answered  # type: ignore[attr-defined]
    found = await streams.outcome(in_lane, pieces, _saved(runners[0]))
    answered = in_lane._lane.answered - before  # type: ignore[attr-defined]
    assert found == await streams.outcome(general, _cut_behind(pieces, answered), _saved(runners[1])), what


def _saved(runner: Runner) -> streams.Saved:
    recorder = runner.app.get(RECORDER)
    return streams.nothing if recorder is None else recorder.saved


def _cut_behind(pieces: list[bytes], requests: int) -> list[bytes]:
    """The same pieces, but the first requests, and the next one if it is framed canonically, each in one piece."""
    data, places = b"".join(pieces), {0}
    for piece in pieces:
        places.add(max(places) + len(piece))
    at = 0
    for turn in range(requests + 1):
        framed = lane.frame(data, at, limits.CHECK_BODY_BYTES_MAX)
        if isinstance(framed, int):
            assert turn == requests
            break
        places = {place for place in places if place <= at or place >= framed[5]} | {framed[5]}
        at = framed[5]
    ordered = sorted(places)
    return [data[start:end] for start, end in zip(ordered, ordered[1:], strict=False)]
