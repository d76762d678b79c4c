"""Owns the operations that the gate measures: each is made ready once, done so many times, and checked.

    python -P benchmarks/probes.py NAME run COUNT      once, for tools that count what a process does
    python -P benchmarks/probes.py NAME serve          a line with a count: does so many; prints ns of CPU time

The product is found on PYTHONPATH: the gate runs this file over another revision too. What an operation needs is
imported where it is made, so that a revision that lacks it lacks this operation only (exit code 3). With `run` the data
are small: what is counted then does not depend on caches.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LACKING = 3
"""The exit code that says: this revision does not have what is measured."""
SAMPLES = 256
"""Different requests, records, messages, which are gone round."""


class Ready(NamedTuple):
    """An operation: does so many and returns a checksum; the checksum that so many must have."""

    do: Callable[[int], int]
    expected: Callable[[int], int]


class Setting(NamedTuple):
    """Where an operation is made ready."""

    keys: int
    stack: contextlib.ExitStack
    folder: Path


# --- the index ------------------------------------------------------------------------------------------------------


def _table(setting: Setting) -> Any:
    from benchmarks.filled import Filled

    table = Filled(setting.keys)
    setting.stack.callback(table.close)
    table.fill()
    return table


def _rounds(sums: list[int], count: int) -> int:
    """The sum when so many values are gone round."""
    whole, rest = divmod(count, len(sums))
    return whole * sum(sums) + sum(sums[:rest])


def find(setting: Setting) -> Ready:
    """One key, ready-hashed."""
    table = _table(setting)
    numbers, hashes = table.fresh(1 << 14)
    digests = [bytes(row) for row in hashes.view("V16").reshape(-1)]
    look, size = table.table.find, len(digests)

    def do(count: int) -> int:
        return sum([look(digests[n % size])[0][0] for n in range(count)])

    return Ready(do, lambda count: _rounds([int(n) + 1 for n in numbers], count))


def find_message(setting: Setting) -> Ready:
    """One key, hash included."""
    from benchmarks.filled import KEY, messages_of

    table = _table(setting)
    numbers, _ = table.fresh(1 << 14)
    messages = [row.tobytes() for row in messages_of(numbers)]
    look, size = table.table.find_message, len(messages)

    def do(count: int) -> int:
        return sum([look(KEY, messages[n % size])[0][0] for n in range(count)])

    return Ready(do, lambda count: _rounds([int(n) + 1 for n in numbers], count))


def find_many(setting: Setting) -> Ready:
    """Keys in one call, ready-hashed."""
    from benchmarks.filled import Outputs

    table = _table(setting)
    numbers, hashes = table.fresh(1 << 17)
    outputs = Outputs(len(hashes))

    def do(count: int) -> int:
        total = 0
        for start in range(0, count, len(hashes)):
            part = hashes[: min(count - start, len(hashes))]
            total += outputs.checksum(table.table.find_many(part, outputs.counts[: len(part)], outputs.matches)[1])
        return total

    return Ready(do, lambda count: _rounds([int(n) + 1 for n in numbers], count))


def build(setting: Setting) -> Ready:
    """Keys put into a table and taken out again."""
    from numpy import arange

    from benchmarks.filled import entries_of, hashes_of

    table = _table(setting)
    size = min(setting.keys // 10, 100_000)
    persons, entries = entries_of(hashes_of(arange(10**9, 10**9 + size)), 10**9)

    def do(count: int) -> int:
        done = 0
        for start in range(0, count, size):
            part = slice(0, min(size, count - start))
            done += table.table.insert_many(persons[part], entries[part])
            table.table.remove_many(persons[part], entries[part])
        return done

    return Ready(do, lambda count: count)


def keyhash(setting: Setting) -> Ready:
    """One message of a card's length."""
    from ext import keyhash as module
    from ext import keyhash_py

    key = bytes(range(16))
    messages = [b"\x010113001219870\x1f12345678\x1f%08d" % n for n in range(SAMPLES)]
    hashed = module.siphash128
    right = [keyhash_py.siphash128(key, message)[0] for message in messages]

    def do(count: int) -> int:
        return sum([hashed(key, messages[n % SAMPLES])[0] for n in range(count)])

    return Ready(do, lambda count: _rounds(right, count))


# --- one check ------------------------------------------------------------------------------------------------------


def _numbers() -> list[str]:
    return [str(3_000_000 + n) for n in range(SAMPLES)]


def _bodies() -> list[bytes]:
    from tests.support import api

    return [json.dumps(api.inquiry(number)).encode() for number in _numbers()]


def ordinary(setting: Setting) -> Ready:
    """An ordinary inquiry read, and its answer written out of a record."""
    from engine.records import Person, Qualification, Sex
    from engine.store import encode_person
    from ext import ordinary as module
    from tests.support import api
    from tests.support.verdicts import AS_OF, BIRTH

    def record(number: str) -> bytes:
        held = Qualification(api.INSURER, "1234", number, "1234", number, "01", AS_OF - 100, copay_ratio="030")
        return encode_person(Person("見本　太郎", "ミホン タロウ", Sex.MALE, BIRTH, (held,), address="東京都千代田区"))

    asked = [(body, record(number)) for body, number in zip(_bodies(), _numbers(), strict=True)]
    read = module.read

    def one(body: bytes, held: bytes) -> bytes:
        answer: bytes = read(body, 0, len(body), AS_OF).answer(held, 0, len(held), 7, b'"name"', b"null", b"{}")
        return answer

    _verified(one(*asked[0]))

    def do(count: int) -> int:
        return sum([len(one(*asked[n % SAMPLES])) for n in range(count)])

    return Ready(do, lambda count: count * len(one(*asked[0])))


def _verified(answer: bytes) -> None:
    found = json.loads(answer)
    assert found["verdict"] == "VALID" and found["qualification"]["number"] == _numbers()[0]


def _request(body: bytes) -> bytes:
    head = b"Host: 127.0.0.1:8443\r\nUser-Agent: clinic/1.0\r\nContent-Type: application/json\r\n"
    return b"POST /v1/eligibility/check HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def lane_frame(setting: Setting) -> Ready:
    """The frame of a request found, and a response put together; nothing looked up."""
    from engine import limits
    from ext import lane

    requests = [_request(body) for body in _bodies()]
    most, head, mark, answer = limits.CHECK_BODY_BYTES_MAX, b"HTTP/1.1 200 OK\r\n" * 9, b"x" * 21, b"y" * 700
    frame, response = lane.frame, lane.response

    def one(data: bytes) -> int:
        return int(frame(data, 0, most)[5]) + len(response(head, mark, answer))

    right = [len(data) + len(response(head, mark, answer)) for data in requests]

    def do(count: int) -> int:
        return sum([one(requests[n % SAMPLES]) for n in range(count)])

    return Ready(do, lambda count: _rounds(right, count))


class _Peer:
    """What a connection writes to: counts, and keeps the last answer. A transport of asyncio, as far as it is used."""

    def __init__(self) -> None:
        self.count, self.last = 0, b""

    def write(self, data: bytes) -> None:
        self.count += len(data)
        self.last = data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def check(setting: Setting) -> Ready:
    """A whole check in the express lane, from the bytes of a request to the bytes of its answer, without a socket."""
    import asyncio

    from api.app import Runner
    from tests.support import api

    rows = [api.row(number=number, copay_ratio="030", address="東京都千代田区") for number in _numbers()]
    built = setting.stack.enter_context(api.engine(setting.folder, rows))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    runner = Runner(built.check_app)
    loop.run_until_complete(runner.setup())
    setting.stack.callback(loop.close)
    setting.stack.callback(lambda: loop.run_until_complete(runner.cleanup()))
    requests, peer = [_request(body) for body in _bodies()], _Peer()

    async def start() -> Any:
        connection = runner.server()
        connection.connection_made(peer)
        connection.data_received(requests[0])
        return connection

    receive = loop.run_until_complete(start()).data_received
    _verified(bytes(peer.last).partition(b"\r\n\r\n")[2])
    length = peer.count

    def do(count: int) -> int:
        before = peer.count
        for n in range(count):
            receive(requests[n % SAMPLES])
        return peer.count - before

    return Ready(do, lambda count: count * length)


def verdict(setting: Setting) -> Ready:
    """From identifier fields to a verdict: hash, find, rules; no record."""
    import msgspec

    from engine.records import CardIdentifiers, Inquiry, Verdict
    from tests.support.verdicts import AS_OF, BIRTH, INSURER, person, qualification
    from tests.support.world import World

    world = setting.stack.enter_context(World(setting.folder, AS_OF))
    numbers = _numbers()
    people = {n + 1: person(qualification(number=number)) for n, number in enumerate(numbers)}
    world.replace({n: msgspec.structs.replace(one, link_code=f"L{n}") for n, one in people.items()})
    cards = [CardIdentifiers(INSURER, "1234", number, "", BIRTH) for number in numbers]
    decide, valid = world.verifier.verdict, Verdict.VALID

    def do(count: int) -> int:
        return sum(
            [decide(Inquiry("1311111114", AS_OF, "", cards[n % SAMPLES])).verdict is valid for n in range(count)]
        )

    return Ready(do, lambda count: count)


OPERATIONS: dict[str, Callable[[Setting], Ready]] = {
    made.__name__: made
    for made in (find, find_message, find_many, build, keyhash, ordinary, lane_frame, check, verdict)
}


def only_this_tree() -> None:
    """What this tree lacks is not to be found in the one that is installed in the environment."""
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__editable__")
    ]


def main(name: str, way: str, count: str = "0") -> int:
    only_this_tree()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shikaku-probe-")))
        setting = Setting(1_000_000 if way == "serve" else 20_000, stack, folder)
        try:
            ready = OPERATIONS[name](setting)
            ready.do(10)
        except (ImportError, AttributeError, TypeError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return LACKING
        if way == "run":
            assert ready.do(int(count)) == ready.expected(int(count)), "a wrong answer"
            return 0
        print("ready", flush=True)
        for line in sys.stdin:
            start = time.process_time_ns()
            found = ready.do(int(line))
            taken = time.process_time_ns() - start
            assert found == ready.expected(int(line)), "a wrong answer"
            print(taken, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
