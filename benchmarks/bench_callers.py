"""Owns the measurement of what it costs to know callers: checks in the lane with a token, beside the same without.

Both lanes are in this process and get the same bytes but for the token, on a connection that is no socket, in turns, so
that noise hits both alike. Besides: what it takes to judge a token that is not known, and an assertion.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import Runner
from engine import assertions, tokens
from engine.callers import Scope
from tests.support import api, callers, known, streams

REQUESTS = {"smoke": 2_000, "standard": 20_000, "large": 100_000}
ROUNDS = {"smoke": 3, "standard": 15, "large": 31}
AT_A_TIME = 32
EXTRA_NS_MAX = 1_000
"""Processor time that a token may add to a check."""


class Both:
    """A lane that knows callers, and one that does not; connections to both."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.keeper: Any = None
        self._engines, self.connections, self.requests = [], [], []
        self._runners: list[Runner] = []
        body = json.dumps(api.inquiry("1000001")).encode()
        for name, settings in (
            ("known", {"callers": "known", "rate_per_second": 1e6, "rate_burst": 1_000}),
            ("open", {}),
        ):
            (folder / name).mkdir()
            engine = api.engine(folder / name, **settings)
            built = engine.__enter__()
            self._engines.append(engine)
            more = [known.headers(built)[0]] if settings else []
            self.requests.append(streams.request(body, more=more) * AT_A_TIME)
            runner = Runner(built.check_app)
            self.loop.run_until_complete(runner.setup())
            self._runners.append(runner)
            self.connections.append(self.loop.run_until_complete(connected(runner)))
            self.keeper = built.keepers[0] or self.keeper

    def answered(self, which: int, requests: int) -> tuple[int, bytes]:
        """Processor nanoseconds of so many checks, and the last answers."""
        transport, data = self.connections[which], self.requests[which]
        written = b""

        async def run() -> int:
            nonlocal written
            begun = time.process_time_ns()
            for _ in range(requests // AT_A_TIME):
                transport.written.clear()
                transport.protocol.data_received(data)
            took = time.process_time_ns() - begun
            written = bytes(transport.written)
            return took

        return self.loop.run_until_complete(run()), written

    def close(self) -> None:
        for transport in self.connections:
            self.loop.run_until_complete(_closed(transport))
        for runner in self._runners:
            self.loop.run_until_complete(runner.cleanup())
        for engine in self._engines:
            engine.__exit__(None, None, None)
        self.loop.close()


async def connected(runner: Runner) -> streams.Transport:
    assert runner.server is not None
    transport = streams.Transport()
    transport.protocol = runner.server()
    transport.protocol.connection_made(transport)
    return transport


async def _closed(transport: streams.Transport) -> None:
    transport.close()
    await asyncio.sleep(0)


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with tempfile.TemporaryDirectory() as folder:
        made = Both(Path(folder))
        yield made
        made.close()


def bodies(written: bytes) -> list[bytes]:
    """The bodies of answers that all have status 200."""
    parts = written.split(b"HTTP/1.1 200 OK\r\n")
    assert parts[0] == b"" and len(parts) == AT_A_TIME + 1
    return [part.partition(b"\r\n\r\n")[2] for part in parts[1:]]


@pytest.mark.benchmark(group="callers: a check with a token")
def bench_known_beside_open(benchmark: Any, both: Both, size: str) -> None:
    requests, rounds = REQUESTS[size], ROUNDS[size]
    requests -= requests % AT_A_TIME
    costs: list[list[int]] = [[], []]
    answers: list[bytes] = [b"", b""]

    def run() -> None:
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                took, answers[which] = both.answered(which, requests)
                costs[which].append(took)

    benchmark.pedantic(run, rounds=1)
    assert bodies(answers[0]) == bodies(answers[1])
    assert answers[0].count(b"RateLimit: ") == AT_A_TIME and b"RateLimit" not in answers[1]
    # Whatever else the machine does only adds to a turn: the quietest of each tell what it costs.
    known_ns, open_ns = (min(one) / requests for one in costs)
    extra = known_ns - open_ns
    benchmark.extra_info |= {
        "known_ns": round(known_ns),
        "open_ns": round(open_ns),
        "extra_ns": round(extra),
        "extra_ns_median": round(statistics.median(a - b for a, b in zip(*costs, strict=True)) / requests),
        "ratio": round(known_ns / open_ns, 3),
    }
    benchmark.extra_info["checksum"] = f"{zlib.crc32(b''.join(bodies(answers[0]))):08x}"
    assert extra < EXTRA_NS_MAX


@pytest.mark.benchmark(group="callers: judge once")
def bench_token(benchmark: Any, both: Both) -> None:
    """A token that no worker has seen: MAC, register, grant."""
    key = both.keeper._keys.access_token_key
    made = tokens.make(key, tokens.Token(api.INSTITUTION, frozenset(Scope), api.NOW_MS, 300, b"")).encode()
    found = benchmark(both.keeper._admit, made)
    benchmark.extra_info["checksum"] = f"{zlib.crc32(found.caller):08x}"


@pytest.mark.benchmark(group="callers: judge once")
@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
def bench_assertion(benchmark: Any, algorithm: str) -> None:
    key = callers.ec_key() if algorithm == "ES384" else callers.rsa_key()
    signed = callers.signed(key, callers.claims(api.INSTITUTION, "u", jti="j"))
    caller = callers.Caller(
        api.INSTITUTION, 0, "", callers.Role.INSTITUTION, tuple(Scope), keys=tuple(callers.public_keys(key))
    )
    found = benchmark(
        lambda: assertions.judge(signed, find=lambda id_: caller, audience=lambda name: name == "u", now=callers.NOW)
    )
    benchmark.extra_info["checksum"] = f"{zlib.crc32(found.id.encode()):08x}"
