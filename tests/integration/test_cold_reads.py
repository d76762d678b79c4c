"""Asks whether checks of records that are not in memory are answered rightly, and hold nobody else up."""

from __future__ import annotations

import json
import mmap
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.handlers import checks
from engine import keys, limits
from engine.store import StoreReader, version_key
from ext import many
from tests.support import api, streams
from tests.support.api import INSTITUTION, TODAY, Served
from tests.support.processes import ROOT


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Below the checkout, which is on a disk: the system's folder for temporary files may be in memory."""
    others = [api.row(number=str(number), address="東京都" * 25) for number in range(2_000_000, 2_003_000)]
    (ROOT / "var").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=ROOT / "var") as folder,
        api.served(Path(folder), [*api.PEOPLE, *others], cold_reads="always") as running,
    ):
        yield running


def forget(served: Served) -> None:
    """Drop the store's pages from memory, as far as the system lets go of them."""
    file = served.settings.store_dir / "data.mdb"
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def test_answers_are_those_of_warm_records(served: Served) -> None:
    for port in (served.check, served.general):
        for _ in range(3):
            forget(served)
            reply = port.check(id="x")
            assert (reply.status, reply.json["verdict"], reply.json["id"]) == (200, "VALID", "x")


def test_batches_too(served: Served) -> None:
    single = served.check.check().json
    for _ in range(3):
        forget(served)
        items = [{"card": api.card()} for _ in range(200)]
        body = {"institution": INSTITUTION, "as_of": TODAY, "items": items}
        assert served.check.post("/v1/eligibility/batch", body).json["items"] == [single] * 200
        forget(served)
        lines = b"".join(json.dumps(api.inquiry()).encode() + b"\n" for _ in range(200))
        reply = served.check.send("POST", "/v1/eligibility/batch", lines, {"Content-Type": "application/x-ndjson"})
        assert reply.json == [single] * 200


def test_no_block_of_a_batch_is_answered_before_its_records_are_there(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first block of a slice was waited for; the records of those behind it were read by the loop itself."""
    monkeypatch.setattr(limits, "BATCH_SLICE_NS", 10**9)
    waits: list[int] = []
    wait = checks.Cold.wait
    monkeypatch.setattr(checks.Cold, "wait", lambda self, *keys: (waits.append(len(keys)), wait(self, *keys))[1])
    blocks = 5
    cards = [api.card(str(2_000_000 + number)) for number in range(blocks * many.ITEMS_MAX)]
    items = [{"card": card, "detail": "verdict"} for card in cards]
    body = {"institution": INSTITUTION, "as_of": TODAY, "items": items}
    assert len(served.check.post("/v1/eligibility/batch", body).json["items"]) == len(cards)
    assert len(waits) == blocks
    lines = b"".join(json.dumps(api.inquiry(card["number"], detail="verdict")).encode() + b"\n" for card in cards)
    served.check.send("POST", "/v1/eligibility/batch", lines, {"Content-Type": "application/x-ndjson"})
    assert len(waits) >= 2 * blocks


def test_requests_of_one_connection_stay_in_order(served: Served) -> None:
    forget(served)
    bodies = [json.dumps(api.inquiry(id=str(number))).encode() for number in range(50)]
    with served.check.connect() as connection:
        connection.sendall(b"".join(streams.request(body) for body in bodies))
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [one.partition(b'"')[0] for one in received.split(b'"id":"')[1:]] == [b"%d" % n for n in range(50)]


def test_a_peer_that_goes_meanwhile_harms_nobody(served: Served) -> None:
    for _ in range(20):
        forget(served)
        with served.check.connect() as connection:
            connection.sendall(streams.request(json.dumps(api.inquiry()).encode()))
    assert served.check.check().status == 200


def test_records_that_were_never_read_are_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bytes] = []
    touch = StoreReader.touch
    monkeypatch.setattr(StoreReader, "touch", lambda self, keys: (waited.extend(keys), touch(self, keys))[1])
    forget(served)
    numbers = list(range(2_000_000, 2_003_000, 7))
    reader = StoreReader(served.settings.store_dir, key_id=_key_id(served), map_bytes=served.settings.map_bytes)
    cold = [number for number in range(10, 3_000, 7) if not reader.pages.is_resident(version_key(number, 1 << 40))]
    reader.close()
    assert cold, f"nothing of {served.settings.store_dir} was let go of: it must be on a disk"
    lines = b"".join(json.dumps(api.inquiry(str(number))).encode() + b"\n" for number in numbers[:200])
    reply = served.check.send("POST", "/v1/eligibility/batch", lines, {"Content-Type": "application/x-ndjson"})
    assert [one["verdict"] for one in reply.json] == ["VALID"] * 200
    by_batch = len(waited)
    for port in (served.check, served.general):
        before = len(waited)
        for number in numbers[200:300] if port is served.check else numbers[300:400]:
            assert port.check(number=str(number)).json["verdict"] == "VALID"
        assert len(waited) > before
    assert by_batch


def _key_id(served: Served) -> bytes:
    return keys.load(served.settings.key_file).key_id
