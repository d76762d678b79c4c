"""Owns the measurement of the express lane's parts: the frame of a request, an ordinary inquiry, and its answer.

The references do the same work by the general means: a regular expression a header line, msgspec's decoder with the
checks of api/wire, msgspec's encoder.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.wire.quick import quick_way
from api.wire.reading import Reader
from api.wire.writing import Writer
from engine import limits
from engine.records import Insurer, Person, Qualification, Sex
from engine.store import encode_person
from ext import lane, lane_py, ordinary
from tests.support.api import INSTITUTION, INSURER
from tests.support.verdicts import AS_OF, BIRTH
from tests.support.world import World, clock_of

PEOPLE = {"smoke": 100, "standard": 2_000, "large": 20_000}
ANSWER = b'"name"', b"null", b"{}"


def person(number: int) -> Person:
    held = Qualification(INSURER, "1234", str(number), "1234", str(number), "01", AS_OF - 100, copay_ratio="030")
    return Person(
        "見本　太郎", "ミホン タロウ", Sex.MALE, BIRTH, (held,), postcode="100-0001", address="東京都千代田区"
    )


def body(number: int) -> bytes:
    card = {"insurer_number": INSURER, "symbol": "1234", "number": str(number), "birth_date": "2000-01-02"}
    asked = {"institution": INSTITUTION, "as_of": "2026-11-23", "purpose": "treatment", "card": card | {"branch": "01"}}
    return json.dumps(asked).encode()


@pytest.fixture(scope="module")
def bodies(size: str) -> list[bytes]:
    return [body(number) for number in range(1, PEOPLE[size] + 1)]


@pytest.fixture(scope="module")
def world(size: str) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), AS_OF, keys=4 * PEOPLE[size]) as made:
        with made.store.transaction() as txn:
            txn.put_insurer(Insurer(INSURER, "見本健康保険組合", fresh_at_ms=1_795_388_400_000))
        made.replace({number: person(number) for number in range(1, PEOPLE[size] + 1)})
        yield made


def request(body: bytes) -> bytes:
    headers = b"Host: 127.0.0.1:8443\r\nUser-Agent: clinic/1.0\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    return b"%b%bContent-Length: %d\r\n\r\n%b" % (lane.REQUEST_LINE, headers, len(body), body)


def each(function: Callable[[bytes], Any], given: list[bytes]) -> list[Any]:
    return [function(one) for one in given]


def measure(benchmark: Any, function: Callable[[bytes], Any], given: list[bytes]) -> list[Any]:
    found = benchmark(each, function, given)
    benchmark.extra_info["checksum"] = f"{zlib.crc32(repr(found).encode()):08x}"
    benchmark.extra_info["us_each"] = round(benchmark.stats.stats.median / len(given) * 1e6, 2)
    return found


@pytest.mark.benchmark(group="lane: the frame of a request")
def bench_frame(benchmark: Any, bodies: list[bytes]) -> None:
    requests = [request(one) for one in bodies]
    most = limits.CHECK_BODY_BYTES_MAX
    found = measure(benchmark, lambda data: lane.frame(data, 0, most), requests)
    assert found[:50] == [lane_py.frame(data, 0, most) for data in requests[:50]]


@pytest.mark.benchmark(group="lane: the frame of a request")
def bench_frame_reference_python(benchmark: Any, bodies: list[bytes]) -> None:
    requests = [request(one) for one in bodies]
    measure(benchmark, lambda data: lane_py.frame(data, 0, limits.CHECK_BODY_BYTES_MAX), requests)


@pytest.mark.benchmark(group="lane: read an inquiry")
def bench_read(benchmark: Any, bodies: list[bytes]) -> None:
    found = benchmark(each, lambda data: ordinary.read(data, 0, len(data), AS_OF), bodies)
    assert None not in found
    benchmark.extra_info["checksum"] = f"{zlib.crc32(b''.join(one.message for one in found)):08x}"


@pytest.mark.benchmark(group="lane: read an inquiry")
def bench_read_reference_careful(benchmark: Any, bodies: list[bytes], world: World) -> None:
    reader = Reader(policy="warn", today=clock_of(AS_OF).today, insurer=world.verifier.insurer)
    measure(benchmark, reader.inquiry, bodies)


@pytest.mark.benchmark(group="lane: write an answer from a record")
def bench_answer(benchmark: Any, bodies: list[bytes]) -> None:
    asks = [ordinary.read(one, 0, len(one), AS_OF) for one in bodies]
    records = [encode_person(person(number)) for number in range(1, len(bodies) + 1)]

    def run() -> list[bytes | None]:
        pairs = zip(asks, records, strict=True)
        return [ask and ask.answer(record, 0, len(record), 7, *ANSWER) for ask, record in pairs]

    found = benchmark(run)
    assert None not in found
    benchmark.extra_info["checksum"] = f"{zlib.crc32(b''.join(found)):08x}"


@pytest.mark.benchmark(group="lane: write an answer from a record")
def bench_answer_reference_json(benchmark: Any, bodies: list[bytes]) -> None:
    """Decoding the record and encoding what it holds, without deciding anything."""
    decode, encode = msgspec.msgpack.Decoder(Person).decode, msgspec.json.Encoder().encode
    records = [encode_person(person(number)) for number in range(1, len(bodies) + 1)]
    measure(benchmark, lambda record: encode(decode(record)), records)


@pytest.mark.benchmark(group="lane: a whole check, body to body")
def bench_check_quick(benchmark: Any, bodies: list[bytes], world: World) -> None:
    quick = quick_way(world.verifier)
    found = measure(benchmark, lambda data: quick.answer(data, 0, len(data)), bodies)
    assert found[:50] == each(careful(world), bodies[:50])


@pytest.mark.benchmark(group="lane: a whole check, body to body")
def bench_check_reference_careful(benchmark: Any, bodies: list[bytes], world: World) -> None:
    measure(benchmark, careful(world), bodies)


def careful(world: World) -> Callable[[bytes], bytes]:
    reader = Reader(policy="warn", today=clock_of(AS_OF).today, insurer=world.verifier.insurer)
    writer = Writer(insurer=world.verifier.insurer)

    def answer(data: bytes) -> bytes:
        mark, inquiry = reader.inquiry(data)
        return writer.answer(inquiry, world.verifier.check(inquiry), mark)

    return answer
