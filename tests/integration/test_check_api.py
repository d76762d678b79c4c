"""Asks whether a check sent to a real socket gets its verdict, and whether the port keeps to HTTP."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from api.advice import REASONS
from engine.errors import RecordCorruptError
from engine.records import Reason
from tests.support.api import (
    INSTITUTION,
    INSURER,
    ISSUER,
    MY_NUMBER,
    OTHER_INSURER,
    TODAY,
    WIDE_INSURER,
    Served,
    card,
    inquiry,
    served,
)

CHECK = "/v1/eligibility/check"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("check")) as running:
        yield running


def without_branch(number: str) -> dict[str, str]:
    return {name: value for name, value in card(number).items() if name != "branch"}


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "verdict", "reason", "notes"),
    [
        ("1000001", "VALID", None, []),
        ("1000002", "INVALID", "insurance_changed", []),
        ("1000003", "SUPERSEDED", "newer_qualification", []),
        ("1000005", "PENDING", "announced", []),
        ("1000006", "VALID", None, ["card_expired"]),
        ("7777777", "NOT_FOUND", "unknown_card", []),
    ],
)
def test_verdict_by_card(server: Served, number: str, verdict: str, reason: str | None, notes: list[str]) -> None:
    reply = server.check.check(card=card(number))
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    sent = reply.json
    assert (sent["verdict"], sent["reason"], sent["notes"], sent["as_of"]) == (verdict, reason, notes, TODAY)
    if reason is not None:
        assert sent["advice"] == {"ja": REASONS[Reason(reason)].ja, "en": REASONS[Reason(reason)].en}
    shown = verdict in ("VALID", "INVALID", "SUPERSEDED")
    assert (sent["qualification"] is not None) == shown
    if shown:
        assert (sent["qualification"]["number"], sent["qualification"]["insurer_number"]) == (number, INSURER)


def test_twins_without_branch_are_ambiguous_and_nothing_is_told(server: Served) -> None:
    reply = server.check.check(card=without_branch("1000004"))
    assert (reply.json["verdict"], reply.json["reason"]) == ("AMBIGUOUS", "several_people")
    assert reply.json["qualification"] is None and "フタゴ" not in reply.body.decode()
    one = server.check.check(card=card("1000004", branch="3"))
    assert one.json["qualification"]["name"] == "双子 二"


def test_wrong_branch_is_told_apart_from_unknown_card(server: Served) -> None:
    assert server.check.check(card=card(branch="09")).json["reason"] == "branch_mismatch"
    assert server.check.check(card=card(birth_date="2000-01-03")).json["reason"] == "unknown_card"


def test_superseded_says_nothing_of_the_newer_insurer(server: Served) -> None:
    reply = server.check.check(card=card("1000003"))
    assert OTHER_INSURER not in reply.body.decode() and "2000003" not in reply.body.decode()


def test_check_by_certificate(server: Served) -> None:
    request = {"institution": INSTITUTION, "certificate": {"issuer": "cn=jpki, c=jp", "serial": "00:0a:01"}}
    reply = server.check.post(CHECK, request)
    assert (reply.json["verdict"], reply.json["qualification"]["number"]) == ("VALID", "1000001")
    assert reply.json["certificate"] == {"expires_on": "2029-01-02", "usable_until": "2029-04-02"}
    unknown = request | {"certificate": {"issuer": ISSUER, "serial": "0B"}}
    assert server.check.post(CHECK, unknown).json["reason"] == "unknown_certificate"


@pytest.mark.parametrize(
    ("day", "verdict"), [("2025-03-31", "VALID"), ("2025-04-01", "INVALID"), ("2023-03-31", "INVALID")]
)
def test_the_asked_for_day_decides(server: Served, day: str, verdict: str) -> None:
    assert server.check.check(card=card("1000002"), as_of=day).json["verdict"] == verdict


def test_as_of_is_today_in_japan_by_default(server: Served) -> None:
    request = {"institution": INSTITUTION, "card": card()}
    assert server.check.post(CHECK, request).json["as_of"] == TODAY


def test_consent_opens_limit_certificate_and_diseases(server: Served) -> None:
    closed = server.check.check().json["qualification"]
    assert closed["limit_certificate"] is None and closed["specific_diseases"] is None
    consent = {"limit_certificate": True, "specific_diseases": True}
    opened = server.check.check(consent=consent).json["qualification"]
    assert (opened["limit_certificate"]["category"], opened["limit_certificate"]["band"]) == ("01", "A03")
    assert [one["self_pay"] for one in opened["specific_diseases"]] == [10_000]


def test_verdict_only_answers_carry_no_data(server: Served) -> None:
    for number, verdict in (("1000001", "VALID"), ("1000002", "INVALID"), ("1000003", "SUPERSEDED")):
        sent = server.check.check(card=card(number), detail="verdict").json
        assert (sent["verdict"], sent["qualification"]) == (verdict, None)


def test_twelve_digit_numbers_of_an_exempt_insurer(server: Served) -> None:
    request = inquiry(card=card(MY_NUMBER, insurer_number=WIDE_INSURER, symbol="9"))
    assert server.check.post(CHECK, request).json["verdict"] == "VALID"


def test_wrong_check_digits_are_warnings(server: Served) -> None:
    sent = server.check.check(institution="1311111111").json
    assert sent["warnings"] == [{"field": "institution", "code": "check_digit"}]
    assert sent["verdict"] == "VALID"


def test_answer_names_version_and_freshness(server: Served) -> None:
    sent = server.check.check(id="desk-1").json
    assert sent["data_version"] >= server.receipt.data_version
    assert sent["insurer_fresh_at"] == "2026-11-23T08:00:00+09:00"
    assert sent["id"] == "desk-1"


def test_answers_fit_the_published_schema(server: Served) -> None:
    document = server.check.send("GET", "/openapi.json").json
    schema = {"$ref": "#/components/schemas/CheckAnswer", "components": document["components"]}
    consent = {"limit_certificate": True, "specific_diseases": True}
    for number in ("1000001", "1000002", "1000003", "1000004", "1000005", "1000006", "7"):
        jsonschema.Draft202012Validator(schema).validate(server.check.check(card=card(number), consent=consent).json)
    problem = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    jsonschema.Draft202012Validator(problem).validate(server.check.check(as_of="x").json)


# --- HTTP -----------------------------------------------------------------------------------------------------------


def test_headers_of_an_answer(server: Served) -> None:
    headers = server.check.check().headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "shikaku"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])


@pytest.mark.parametrize("given", ["a", "x" * 64, "1f2e-3d4c", "!~"])
def test_request_id_is_echoed(server: Served, given: str) -> None:
    for path, value in ((CHECK, inquiry()), (CHECK, {})):
        assert server.check.post(path, value, X_Request_ID=given).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "with blank", "ü", MY_NUMBER])
def test_request_id_that_may_not_be_repeated_is_replaced(server: Served, given: str) -> None:
    sent = server.check.post(CHECK, inquiry(), X_Request_ID=given).headers["x-request-id"]
    assert sent != given and re.fullmatch("[0-9a-f]{12}-[0-9a-f]{8}", sent)


def test_request_ids_are_unique(server: Served) -> None:
    assert len({server.check.check().headers["x-request-id"] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "application/*;q=0.5", "text/html, application/json;q=0.1"]
)
def test_accept_that_allows_json(server: Served, accept: str) -> None:
    assert server.check.post(CHECK, inquiry(), Accept=accept).status == 200


def test_charset_may_be_named(server: Served) -> None:
    body = json.dumps(inquiry())
    for kind in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
        assert server.check.send("POST", CHECK, body, {"Content-Type": kind}).status == 200


def raw(server: Served, request: bytes) -> bytes:
    """What a connection gives back for these bytes until it is closed."""
    with server.check.connect() as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def head(body: bytes, *lines: str, path: str = CHECK, version: str = "1.1") -> bytes:
    named = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}", *lines]
    return f"POST {path} HTTP/{version}\r\n{''.join(line + chr(13) + chr(10) for line in named)}\r\n".encode() + body


BODY = json.dumps(inquiry()).encode()


def test_connections_are_kept_and_pipelined(server: Served) -> None:
    received = raw(server, head(BODY) * 5 + head(BODY, "Connection: close"))
    assert received.count(b"HTTP/1.1 200 OK") == 6 and received.count(b'"verdict":"VALID"') == 6
    assert received.count(b"Connection: close") == 1


def test_old_http_is_answered_and_closed(server: Served) -> None:
    received = raw(server, head(BODY, version="1.0"))
    assert received.startswith(b"HTTP/1.0 200 OK") and received.count(b'"verdict":"VALID"') == 1


def test_body_in_pieces_and_chunks(server: Served) -> None:
    with server.check.connect() as connection:
        whole = head(BODY, "Connection: close")
        for part in (whole[:30], whole[30:-40], whole[-40:-1], whole[-1:]):
            connection.sendall(part)
            threading.Event().wait(0.02)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    lines = (
        "Host: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    chunked = b"%x\r\n%b\r\n3\r\n%b\r\n0\r\n\r\n" % (len(BODY) - 3, BODY[:-3], BODY[-3:])
    assert raw(server, f"POST {CHECK} HTTP/1.1\r\n{lines}".encode() + chunked).startswith(b"HTTP/1.1 200")


def test_expect_continue(server: Served) -> None:
    with server.check.connect() as connection:
        connection.sendall(head(BODY, "Expect: 100-continue", "Connection: close")[: -len(BODY)])
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_draining_closes_connections_after_their_answer(server: Served) -> None:
    server.check.set_switch("draining", True)
    try:
        assert server.check.check().headers["connection"] == "close"
        ready = server.check.send("GET", "/readyz")
        assert (ready.status, ready.json["code"]) == (503, "server.starting")
        assert int(ready.headers["retry-after"]) >= 1
        assert server.check.send("GET", "/livez").status == 200
    finally:
        server.check.set_switch("draining", False)
    assert "connection" not in server.check.check().headers


def test_readiness_is_switched(server: Served) -> None:
    assert server.check.send("GET", "/readyz").json == {"status": "ready"}
    server.check.set_switch("ready", False)
    try:
        assert server.check.send("GET", "/readyz").status == 503
    finally:
        server.check.set_switch("ready", True)


# --- the other paths ------------------------------------------------------------------------------------------------


def test_freshness_is_public(server: Served) -> None:
    listed = server.check.send("GET", "/v1/insurers").json["insurers"]
    assert [one["number"] for one in listed] == sorted(one["number"] for one in listed)
    mine = next(one for one in listed if one["number"] == INSURER)
    assert mine == server.check.send("GET", f"/v1/insurers/{INSURER}").json
    assert (mine["fresh_at"], mine["feed_as_of"]) == ("2026-11-23T08:00:00+09:00", TODAY)


def test_unknown_insurer_is_a_404(server: Served) -> None:
    reply = server.check.send("GET", "/v1/insurers/138040")
    assert (reply.status, reply.json["code"], reply.json["field"]) == (404, "insurer.unknown", "number")
    assert server.check.send("GET", "/v1/insurers/abc").json["code"] == "http.not_found"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/version", "/openapi.json", "/docs", "/static/docs.js"])
def test_service_pages_answer_get_and_head(server: Served, path: str) -> None:
    assert server.check.send("GET", path).status == 200
    reply = server.check.send("HEAD", path)
    assert (reply.status, reply.body) == (200, b"")


def test_version_names_the_port(server: Served) -> None:
    assert server.check.send("GET", "/version").json["port"] == "check"
    assert server.registry.send("GET", "/version").json["port"] == "registry"


def test_docs_page_uses_nothing_from_elsewhere(server: Served) -> None:
    page = server.check.send("GET", "/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    links = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert links and all(link.startswith("/") and server.check.send("GET", link).status == 200 for link in links)
    assert b"<script>" not in page.body and b"style=" not in page.body
    script = server.check.send("GET", "/static/docs.js").body.decode()
    assert "innerHTML" not in script and "https://" not in script and "http://" not in script


def test_problem_type_leads_to_its_page(server: Served) -> None:
    problem = server.check.check(as_of="2026-02-30").json
    page = server.check.send("GET", problem["type"])
    assert page.status == 200 and "input.date" in page.body.decode() and "受付の方へ" in page.body.decode()
    assert server.check.send("GET", "/problems/none").json["code"] == "http.not_found"


# --- defects --------------------------------------------------------------------------------------------------------


class Broken:
    """Raises on every check."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *given: Any) -> Any:
        raise self.error


CAREFUL = "１０００００１"
"""Other letters than ASCII: a check that the quick way leaves alone."""


def test_an_unexpected_exception_tells_nothing_of_itself(
    server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.store.StoreReader.person", Broken(KeyError("氏名 1000001")))
    reply = server.check.check(number=CAREFUL)
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert "1000001" not in reply.body.decode() and "Traceback" not in reply.body.decode()
    assert "1000001" not in caplog.text and "KeyError" in caplog.text


def test_corruption_is_told_to_the_process(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    fatal: list[BaseException] = []
    server.check.set_switch("on_fatal", fatal.append)
    try:
        monkeypatch.setattr("engine.store.StoreReader.person", Broken(RecordCorruptError("a record")))
        reply = server.check.check(number=CAREFUL)
    finally:
        server.check.set_switch("on_fatal", None)
    assert (reply.status, reply.json["code"]) == (503, "store.corrupt")
    assert len(fatal) == 1
