"""Is every answer recorded before it leaves, with and without the lane, alone and in batches, and if the disk fails?"""

from __future__ import annotations

import hashlib
import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from api import recorder as recorders
from api.app import RECORDER
from api.cli.people import today_in_japan
from api.handlers import receipts
from engine.audit import notes, receipt
from engine.audit.entry import Entry, Flags, Kind, decode
from engine.audit.log import LogReader
from engine.errors import AuditReceiptError
from engine.records import VERDICT_CODES
from loadtest import population
from tests.support import api
from tests.support.api import INSTITUTION, ISSUER, MY_NUMBER, NOW_MS, Served
from tests.support.processes import make_store, remove_index, shikaku

LINES = {"Content-Type": "application/x-ndjson"}
BOTH = pytest.mark.parametrize("port", ["check", "general"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with api.served(tmp_path_factory.mktemp("audit"), audit="strict") as running:
        yield running


def log_of(served: Served, slot: int) -> LogReader:
    return LogReader(served.settings.audit_dir / str(slot))


def recorded(served: Served, name: str) -> Entry:
    """The entry that a receipt names."""
    slot, index = map(int, name.split("-"))
    with log_of(served, slot) as log:
        return decode(log.entry(index))


def port_of(served: Served, name: str) -> api.Port:
    return {"check": served.check, "general": served.general}[name]


@BOTH
def test_an_answer_names_what_was_recorded_of_it(served: Served, port: str) -> None:
    answer = port_of(served, port).post(
        "/v1/eligibility/check", api.inquiry(purpose="dispensing"), X_Request_ID="mark-1"
    )
    entry = recorded(served, answer.headers["shikaku-receipt"])
    assert answer.json["verdict"] == "VALID"
    assert (entry.kind, entry.verdict, entry.purpose, entry.flags) == (Kind.CHECK_CARD, 1, 2, Flags.NONE)
    assert (entry.caller, entry.request_id, entry.as_of, entry.at_ms) == (INSTITUTION, "mark-1", 20261123, NOW_MS)
    assert entry.data_version == answer.json["data_version"]
    assert entry.answer_digest == hashlib.sha256(answer.body).digest()
    assert entry.inquiry_hash != bytes(16) and entry.person_code != bytes(16)


INQUIRIES: dict[str, tuple[dict[str, Any], Kind, int, Flags, bool]] = {
    "valid": (api.inquiry(), Kind.CHECK_CARD, 1, Flags.NONE, True),
    "with consent": (
        api.inquiry(consent={"limit_certificate": True}), Kind.CHECK_CARD, 1, Flags.CONSENT_USED, True,
    ),
    "lost": (api.inquiry("1000002"), Kind.CHECK_CARD, 2, Flags.NONE, True),
    "superseded": (api.inquiry("1000003"), Kind.CHECK_CARD, 3, Flags.NONE, True),
    "nobody": (api.inquiry("9999999"), Kind.CHECK_CARD, 4, Flags.NONE, False),
    "twins": (api.inquiry(card=api.card("1000004") | {"branch": None}), Kind.CHECK_CARD, 5, Flags.NONE, False),
    "announced": (api.inquiry("1000005"), Kind.CHECK_CARD, 7, Flags.NONE, True),
    "verdict only": (api.inquiry(detail="verdict"), Kind.CHECK_CARD, 1, Flags.VERDICT_ONLY, True),
    "certificate": (
        {"institution": INSTITUTION, "certificate": {"issuer": ISSUER, "serial": "0a01"}},
        Kind.CHECK_CERTIFICATE, 1, Flags.NONE, True,
    ),
    "wide digits": (api.inquiry("１０００００１"), Kind.CHECK_CARD, 1, Flags.NONE, True),
}  # fmt: skip


@pytest.mark.parametrize("name", INQUIRIES)
def test_every_kind_of_answer_is_recorded_in_the_same_way(served: Served, name: str) -> None:
    inquiry, kind, verdict, flags, known = INQUIRIES[name]
    entries = []
    for port in (served.check, served.general):
        answer = port.post("/v1/eligibility/check", inquiry, X_Request_ID="same")
        entries.append(recorded(served, answer.headers["shikaku-receipt"]))
    assert entries[0] == entries[1]
    assert (entries[0].kind, entries[0].verdict, entries[0].flags) == (kind, verdict, flags)
    assert (entries[0].person_code != bytes(16)) == known
    item = {member: value for member, value in inquiry.items() if member not in ("institution", "as_of", "purpose")}
    batch = {"institution": INSTITUTION, "as_of": "2026-11-23", "items": [item]}
    lines = json.dumps(inquiry).encode() + b"\n"
    for port in (served.check, served.general):
        one = port.post("/v1/eligibility/batch", batch, X_Request_ID="same").json["items"][0]
        line = port.send("POST", "/v1/eligibility/batch", lines, LINES | {"X-Request-ID": "same"})
        for told in (one, line.json[0] if isinstance(line.json, list) else line.json):
            entry = recorded(served, told.pop("receipt"))
            assert (entry.kind, entry.verdict, entry.flags) == (kind + 2, verdict, flags)
            assert (entry.caller, entry.request_id) == (INSTITUTION, "same")
            assert (entry.inquiry_hash, entry.person_code) == (entries[0].inquiry_hash, entries[0].person_code)


def test_the_digest_of_an_item_is_that_of_its_text_without_the_receipt(served: Served) -> None:
    lines = b"".join(json.dumps(api.inquiry(number)).encode() + b"\n" for number in ("1000001", "1000003", "7"))
    body = served.check.send("POST", "/v1/eligibility/batch", lines, LINES).body
    for line in body.splitlines():
        text, receipt = line[:-2].rsplit(b',"receipt":"', 1)
        assert recorded(served, receipt.decode()).answer_digest == hashlib.sha256(text + b"}").digest()


def test_verdicts_in_short_are_recorded_one_by_one(served: Served) -> None:
    lines = b"".join(json.dumps(api.inquiry(number)).encode() + b"\n" for number in ("1000001", "1000003", "7"))
    for port in (served.check, served.general):
        body = port.send("POST", "/v1/eligibility/batch", lines, LINES | {"Accept": "text/csv"}).body
        for line, verdict in zip(body.decode().splitlines(), (1, 3, 4), strict=True):
            text, _, name = line.rpartition(",")
            entry = recorded(served, name)
            assert (entry.kind, entry.verdict, entry.flags) == (Kind.BATCH_CARD, verdict, Flags.VERDICT_ONLY)
            assert entry.answer_digest == hashlib.sha256(f"{text},".encode()).digest()


def test_institutions_have_codes_of_their_own(served: Served) -> None:
    codes = {}
    for institution in (INSTITUTION, "2714206386"):
        for number in ("1000001", "1000002"):
            answer = served.check.post("/v1/eligibility/check", {**api.inquiry(number), "institution": institution})
            codes[institution, number] = recorded(served, answer.headers["shikaku-receipt"]).person_code
    assert len(set(codes.values())) == 4


@BOTH
def test_what_is_refused_is_no_provision(served: Served, port: str) -> None:
    slot = ["check", "general"].index(port)
    with log_of(served, slot) as log:
        before = log.size
    for inquiry in ({**api.inquiry(), "institution": "1"}, api.inquiry(MY_NUMBER), {}):
        answer = port_of(served, port).post("/v1/eligibility/check", inquiry)
        assert answer.status in (400, 422) and "shikaku-receipt" not in answer.headers
    with log_of(served, slot) as log:
        assert log.size == before


def test_requests_that_come_together_are_answered_in_order(served: Served) -> None:
    """The one behind is answered by the general server, which must not be faster than the disk."""
    body = json.dumps(api.inquiry()).encode()
    head = b"POST /v1/eligibility/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    check = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with served.check.connect() as peer:
        peer.sendall(check * 3 + b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        told = b""
        while part := peer.recv(65536):
            told += part
    places = [told.index(b"Shikaku-Receipt: 0-"), told.rindex(b"Shikaku-Receipt: 0-"), told.rindex(b"HTTP/1.1 200")]
    assert told.count(b"HTTP/1.1 200") == 4 and told.count(b"Shikaku-Receipt: ") == 3
    assert places == sorted(places)


def test_a_peer_that_sends_no_more_gets_its_answer(served: Served) -> None:
    body = json.dumps(api.inquiry()).encode()
    head = b"POST /v1/eligibility/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for _ in range(20):
        with served.check.connect() as peer:
            peer.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            peer.shutdown(socket.SHUT_WR)
            told = b""
            while part := peer.recv(65536):
                told += part
        assert told.startswith(b"HTTP/1.1 200") and told.endswith(b"}")


def test_checkpoints_are_signed_and_the_tree_fits(tmp_path: Path) -> None:
    with api.served(tmp_path, audit="strict") as served:
        for number in range(300):
            served.check.check(number=str(1_000_000 + number % 8))
        folder = served.settings.audit_dir
    for slot in (0, 1):
        with LogReader(folder / str(slot)) as log:
            text = log.checkpoint()
            assert text is not None
            verifier = notes.parse_vkey((folder / str(slot) / "vkey").read_text().strip())
            checkpoint = notes.check(text, notes.Policy(verifier)).checkpoint
            assert checkpoint.size == log.size == (300 if slot == 0 else 0)
            assert checkpoint.root == log.root(log.size)


def test_relaxed_answers_do_not_wait_and_are_recorded_all_the_same(tmp_path: Path) -> None:
    with api.served(tmp_path, audit="relaxed") as served:
        name = served.check.check().headers["shikaku-receipt"]
        until = time.monotonic() + 5
        while log_of(served, 0).size == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert recorded(served, name).verdict == 1


def test_while_the_log_cannot_be_written_nothing_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for a disk that is full: the system refuses the write."""
    monkeypatch.setattr(recorders, "RETRY_SECONDS", 0.1)
    lines = json.dumps(api.inquiry()).encode() + b"\n"
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with api.served(tmp_path, audit="strict") as served:
        first = served.check.check()
        assert first.status == served.general.check().status == 200
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
        try:
            for _ in range(3):
                for port in (served.check, served.general):
                    answer = port.check()
                    assert (answer.status, answer.json["code"]) == (503, "audit.unavailable")
                    assert answer.headers["retry-after"] == "1" and "shikaku-receipt" not in answer.headers
                    with suppress(http.client.HTTPException, ConnectionError):
                        batch = port.send("POST", "/v1/eligibility/batch", lines, LINES)
                        assert b"VALID" not in batch.body
            assert served.check.send("GET", "/livez").status == 200
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        for port in (served.check, served.general):
            until = time.monotonic() + 10
            while port.check().status != 200 and time.monotonic() < until:
                time.sleep(0.05)
            assert recorded(served, port.check().headers["shikaku-receipt"]).verdict == 1
        assert recorded(served, first.headers["shikaku-receipt"]).verdict == 1


# --- receipts -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vkeys(served: Served) -> dict[str, notes.Verifier]:
    return {
        slot: notes.parse_vkey((served.settings.audit_dir / slot / "vkey").read_text().strip()) for slot in ("0", "1")
    }


@BOTH
def test_the_receipt_of_an_answer_proves_it(served: Served, vkeys: dict[str, notes.Verifier], port: str) -> None:
    answer = port_of(served, port).check()
    name = answer.headers["shikaku-receipt"]
    recorder = served.check.app[RECORDER] if port == "check" else served.general.app[RECORDER]
    served.check.loop.call_soon_threadsafe(recorder.tend)  # what a worker does each second
    for asked in (served.check, served.general):
        got = asked.send("GET", f"/v1/receipts/{name}")
        assert (got.status, got.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert len(got.body) <= 2048
        policy = notes.Policy(vkeys[name.split("-")[0]])
        proved = receipt.verify(got.body, policy, answer.body)
        assert proved.entry.caller == INSTITUTION and f"{port_slot(port)}-{proved.index}" == name
        with pytest.raises(AuditReceiptError):
            receipt.verify(got.body, policy, answer.body.replace(b"VALID", b"INVALID"))


def port_slot(port: str) -> int:
    return {"check": 0, "general": 1}[port]


@pytest.mark.parametrize(
    "name", ["0-999999999", "7-0", "0", "0-", "-1", "0-01", "00-1", "0-1-2", "a-b", "999-0", "0-9" * 9]
)
def test_receipts_that_there_are_not(served: Served, name: str) -> None:
    got = served.check.send("GET", f"/v1/receipts/{name}")
    assert (got.status, got.json["code"]) == (404, "audit.receipt_unknown")
    assert served.check.send("POST", f"/v1/receipts/{name}", b"").status == 405


def test_a_receipt_that_is_not_signed_yet_is_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    name = served.check.check().headers["shikaku-receipt"]
    monkeypatch.setattr(receipts, "WAIT_SECONDS", 0.2)
    got = served.check.send("GET", f"/v1/receipts/{name}")
    assert (got.status, got.json["code"], got.headers["retry-after"]) == (503, "audit.unavailable", "1")
    monkeypatch.setattr(receipts, "WAIT_SECONDS", 10)
    threading.Timer(0.3, served.check.loop.call_soon_threadsafe, [served.check.app[RECORDER].tend]).start()
    assert served.check.send("GET", f"/v1/receipts/{name}").status == 200


# --- without a server -----------------------------------------------------------------------------------------------


def test_what_is_asked_without_a_server_is_recorded_too(tmp_path: Path) -> None:
    config = make_store(tmp_path)
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps(population.personas(today_in_japan())[0]["request"]))
    named = ("--data", config.data_dir, "--key", config.key_file)
    try:
        answer = shikaku("check", "--local", "--request", asked, "--json", *named)
        assert answer.returncode == 0, answer.stderr
        with LogReader(config.audit_dir / "0") as log:
            entry = decode(log.entry(0))
            assert log.size == 1 and entry.verdict == VERDICT_CODES[json.loads(answer.stdout)["verdict"]]
            assert notes.parse_checkpoint(notes.parse(log.checkpoint() or b"").text).size == 1
    finally:
        remove_index(config.data_dir, config.key_file)
