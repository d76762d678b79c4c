"""Asks of every kind of bad input whether it gets a clear problem with a code, and never its own value back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine import limits
from tests.support.api import (
    HEADER,
    INSTITUTION,
    INSURER,
    MY_NUMBER,
    OTHER_INSURER,
    Port,
    Reply,
    Served,
    card,
    inquiry,
    row,
    served,
)

CHECK = "/v1/eligibility/check"
BATCH = "/v1/eligibility/batch"
FEEDS = f"/v1/insurers/{INSURER}/feeds"
QUALIFICATIONS = f"/v1/insurers/{INSURER}/qualifications"
SECRET = "7135790246"
"""Stands for an offending value; it must not come back."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("bad")) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("strict"), inquiry_check_digits="error") as running:
        yield running


def assert_problem(reply: Reply, status: int, code: str, field: str | None = None, *secrets: str) -> None:
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert (reply.json["code"], reply.json.get("field")) == (code, field)
    assert reply.json["type"] == f"/problems/{code}" and reply.json["status"] == status
    assert reply.json["title"] and reply.json["title_ja"] and reply.json["detail"]
    assert reply.json["advice"]["ja"] and reply.json["advice"]["en"] and reply.json["vendor_advice"]["ja"]
    everything = reply.body.decode() + str(reply.headers)
    for secret in (SECRET, MY_NUMBER, *secrets):
        assert secret not in everything


# --- checks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (b'{"institution": "7135790246"', "input.malformed", None),
        (b"\xff\xfe", "input.malformed", None),
        (b"7135790246", "input.schema", None),
        (inquiry(institution=7135790246), "input.schema", "institution"),
        (inquiry(card=SECRET), "input.schema", "card"),
        (inquiry(colour=SECRET), "input.schema", "colour"),
        (inquiry(**{SECRET: 1}), "input.schema", None),
        (inquiry(purpose=SECRET), "input.schema", "purpose"),
        (inquiry(as_of=SECRET), "input.date", "as_of"),
        (inquiry(as_of="2026-02-29"), "input.date", "as_of"),
        (inquiry(as_of="2100-01-01"), "input.date", "as_of"),
        (inquiry(card=card(birth_date="2001-02-29")), "input.date", "card.birth_date"),
        (inquiry(card=card(SECRET * 3)), "input.too_long", "card.number"),
        (inquiry(card=card(symbol=SECRET * 3)), "input.too_long", "card.symbol"),
        (inquiry(id=SECRET * 7), "input.too_long", "id"),
        (inquiry(card=card(insurer_number=SECRET)), "input.format", "card.insurer_number"),
        (inquiry(card=card(branch=SECRET)), "input.format", "card.branch"),
        (inquiry(institution=SECRET + "1"), "input.format", "institution"),
        (inquiry(certificate={"issuer": "a", "serial": "1"}), "input.inquiry", None),
        ({"institution": INSTITUTION}, "input.inquiry", None),
    ],
)
def test_bad_inquiry(server: Served, value: Any, code: str, field: str | None) -> None:
    assert_problem(server.check.post(CHECK, value), 400, code, field)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (inquiry(institution=MY_NUMBER), "institution"),
        (inquiry(purpose=MY_NUMBER), "purpose"),
        (inquiry(id="９８３２　０５６７　３２１４"), "id"),
        (inquiry(card=card(MY_NUMBER)), "card.number"),
        (inquiry(card=card(symbol="9832-0567-3214")), "card.symbol"),
        (inquiry(memo=MY_NUMBER), "memo"),
        (inquiry(memo=int(MY_NUMBER)), "memo"),
        (inquiry(**{MY_NUMBER: ""}), None),
    ],
)
def test_my_number_anywhere(server: Served, value: Any, field: str | None) -> None:
    reply = server.check.post(CHECK, value)
    assert_problem(reply, 400, "input.my_number", field, "９８３２", "9832-0567-3214")


def test_wrong_check_digit_is_an_error_if_set(strict: Served) -> None:
    assert_problem(strict.check.check(institution="1311111111"), 400, "input.check_digit", "institution", "1311111111")
    wrong = card(insurer_number="01130013")
    assert_problem(strict.check.check(card=wrong), 400, "input.check_digit", "card.insurer_number", "01130013")


def test_mixed_width_identifiers_are_no_error(server: Served) -> None:
    mixed = card(insurer_number="０1130012", number="１00000１", symbol="1２３4", branch="０1")
    assert server.check.check(card=mixed).json["verdict"] == "VALID"


def test_body_over_the_limit(server: Served) -> None:
    reply = server.check.post(CHECK, inquiry(id=SECRET * (limits.CHECK_BODY_BYTES_MAX // 10)))
    assert_problem(reply, 413, "input.too_large")


def test_chunked_body_over_the_limit(server: Served) -> None:
    with server.check.connect() as connection:
        connection.sendall(
            f"POST {CHECK} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        connection.sendall(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
        connection.sendall((b"1000\r\n" + b" " * 0x1000 + b"\r\n") * 5 + b"0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHECK, "POST"),
        ("PUT", CHECK, "POST"),
        ("OPTIONS", CHECK, "POST"),
        ("DELETE", BATCH, "POST"),
        ("POST", "/v1/insurers", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("PATCH", "/openapi.json", "GET, HEAD"),
    ],
)
def test_wrong_method(server: Served, method: str, path: str, allow: str) -> None:
    reply = server.check.send(method, path, "{}" if method in ("PUT", "PATCH", "POST") else None)
    assert_problem(reply, 405, "http.method")
    assert reply.headers["allow"] == allow


@pytest.mark.parametrize("path", [CHECK, BATCH, "/v1/insurers", f"/v1/insurers/{INSURER}"])
def test_the_check_port_takes_no_query(server: Served, path: str) -> None:
    method, body = ("GET", None) if "insurers" in path else ("POST", json.dumps(inquiry()))
    headers = {"Content-Type": "application/json"}
    reply = server.check.send(method, f"{path}?number={SECRET}", body, headers)
    assert_problem(reply, 400, "http.parameter")


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1.example.com", "localhost.", "127.0.0.2", "", "localhost:x"])
def test_other_hosts_are_not_served(server: Served, host: str) -> None:
    for port in (server.check, server.registry):
        for path in ("/livez", CHECK, "/v1/insurers"):
            reply = port.send("POST" if path == CHECK else "GET", path, None, {"Host": host})
            assert_problem(reply, 421, "http.host", "Host")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]:8443", "LocalHost", "localhost:1"])
def test_names_of_this_host_are_served(server: Served, host: str) -> None:
    for port in (server.check, server.registry):
        assert port.send("GET", "/livez", None, {"Host": host}).status == 200
    body = json.dumps(inquiry())
    reply = server.check.send("POST", CHECK, body, {"Host": host, "Content-Type": "application/json"})
    assert reply.status == 200


def test_a_request_without_a_host_is_not_served(server: Served) -> None:
    for head, answer in (
        (b"GET /livez HTTP/1.0\r\n", b"HTTP/1.0 421 "),
        (b"GET /livez HTTP/1.1\r\n", b"HTTP/1.0 400 "),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: example.com\r\n", b"HTTP/1.0 400 "),
    ):
        with server.check.connect() as connection:
            connection.sendall(head + b"\r\n")
            assert connection.recv(65536).startswith(answer)


def test_wrong_method_on_the_registry(server: Served) -> None:
    reply = server.registry.send("DELETE", f"/v1/insurers/{INSURER}")
    assert_problem(reply, 405, "http.method")
    assert reply.headers["allow"] == "GET, HEAD, PUT"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/eligibility/check/", f"/x/{SECRET}", "/static/../app.py", "/%00"])
def test_unknown_path(server: Served, path: str) -> None:
    assert_problem(server.check.send("GET", path), 404, "http.not_found")


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml", "application/jsonx", SECRET]
)
def test_wrong_media_type(server: Served, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    for path in (CHECK, BATCH):
        reply = server.check.send("POST", path, json.dumps(inquiry()), headers)
        assert_problem(reply, 415, "http.media_type", "Content-Type")


@pytest.mark.parametrize("charset", ["shift_jis", "iso-8859-1", "utf-16"])
def test_wrong_charset(server: Served, charset: str) -> None:
    reply = server.check.send("POST", CHECK, b"{}", {"Content-Type": f"application/json; charset={charset}"})
    assert_problem(reply, 415, "http.media_type", "Content-Type")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "unknown"])
def test_compressed_body_is_refused_unopened(server: Served, coding: str) -> None:
    body = gzip.compress(json.dumps(inquiry()).encode())
    reply = server.check.send("POST", CHECK, body, {"Content-Type": "application/json", "Content-Encoding": coding})
    assert_problem(reply, 415, "http.media_type", "Content-Encoding")
    assert reply.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("accept", ["text/html", "application/xml, text/*;q=0.8", "application/json;q=0", "*/*;q=0"])
def test_not_acceptable(server: Served, accept: str) -> None:
    assert_problem(server.check.post(CHECK, inquiry(), Accept=accept), 406, "http.not_acceptable", "Accept")


def raw(port: Port, request: bytes) -> bytes:
    with port.connect() as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def test_length_required(server: Served) -> None:
    request = f"POST {CHECK} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    received = raw(server.check, request.encode())
    assert received.startswith(b"HTTP/1.1 411 ") and b'"http.length_required"' in received


def test_unknown_expectation(server: Served) -> None:
    request = (
        f"POST {CHECK} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        f"Expect: {SECRET}\r\nConnection: close\r\n\r\n{{}}"
    )
    received = raw(server.check, request.encode())
    assert received.startswith(b"HTTP/1.1 417 ") and SECRET.encode() not in received


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"HELLO 7135790246\r\n\r\n",
        b"POST /v1/eligibility/check HTTP/1.1\r\nHost: localhost\r\nBad Header 7135790246\r\n\r\n",
        b"POST /v1/eligibility/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7135790246x\r\n\r\n",
        b"POST /v1/eligibility/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"GET /7135790246" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["no-http", "bad-header", "bad-length", "two-lengths", "long-line"],
)
def test_what_is_not_http_gets_a_problem_without_its_bytes(
    server: Served, caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    received = raw(server.check, request_bytes)
    assert b" 400 Bad Request" in received and b'"code":"http.malformed"' in received
    assert SECRET.encode() not in received and SECRET not in caplog.text


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "status", "code", "field"),
    [
        (b'{"items": [', 400, "input.malformed", None),
        (b"", 400, "input.malformed", None),
        (b"x", 400, "input.malformed", None),
        (b"[]", 400, "input.schema", None),
        (b'"x"', 400, "input.schema", None),
        (b"3", 400, "input.schema", None),
        (b'{"items": {}}', 400, "input.schema", "items"),
        (b'{"items": null}', 400, "input.schema", "items"),
        ({"institution": INSTITUTION}, 400, "input.schema", "items"),
        ({"items": []}, 400, "input.schema", "institution"),
        ({"institution": INSTITUTION, "items": [], "colour": SECRET}, 400, "input.schema", "colour"),
        ({"institution": MY_NUMBER, "items": []}, 400, "input.my_number", "institution"),
        ({"institution": INSTITUTION, "as_of": SECRET, "items": []}, 400, "input.date", "as_of"),
        ({"institution": INSTITUTION, "items": [0] * (limits.BATCH_ITEMS_MAX + 1)}, 413, "input.too_large", "items"),
        (b" " * (limits.BATCH_BODY_BYTES_MAX + 1), 413, "input.too_large", None),
    ],
)
def test_bad_batch(server: Served, value: Any, status: int, code: str, field: str | None) -> None:
    assert_problem(server.check.post(BATCH, value), status, code, field)


def test_bad_items_are_told_in_their_place(server: Served) -> None:
    items = [
        {"id": "1", "card": card()},
        {"id": "2", "card": card(MY_NUMBER)},
        {"id": "3", "card": card(birth_date="2000-13-01")},
        {"id": "4", "memo": SECRET},
        {"id": MY_NUMBER, "card": card()},
        {"id": "6", "card": card(), "pad": SECRET * 2_000},
        7135790246,
        {"id": "8", "card": card("1000002")},
    ]
    reply = server.check.post(BATCH, {"institution": INSTITUTION, "items": items})
    found = [(one.get("id"), one.get("verdict"), one.get("error", {}).get("code")) for one in reply.json["items"]]
    assert reply.status == 200
    assert found == [
        ("1", "VALID", None),
        ("2", None, "input.my_number"),
        ("3", None, "input.date"),
        ("4", None, "input.schema"),
        (None, None, "input.my_number"),
        (None, None, "input.too_large"),
        (None, None, "input.schema"),
        ("8", "INVALID", None),
    ]
    assert MY_NUMBER not in reply.body.decode() and SECRET not in reply.body.decode()


# --- registration ---------------------------------------------------------------------------------------------------

CSV_TYPE = {"Content-Type": "text/csv"}


def feed(server: Served, *rows: str, header: str = HEADER, query: str = "", kind: str = "text/csv") -> Reply:
    return server.registry.send("POST", FEEDS + query, "\n".join([header, *rows]) + "\n", {"Content-Type": kind})


def version(server: Served) -> int:
    return int(server.check.check().json["data_version"])


@pytest.mark.parametrize(
    ("rows", "column", "code"),
    [
        ([row(number="1", birth_date="2000-02-30")], "birth_date", "input.date"),
        ([row(number=MY_NUMBER)], "number", "input.my_number"),
        ([row(number="7135790246" * 3)], "number", "input.too_long"),
        ([row(number="1", insurer_number="01130013")], "insurer_number", "input.check_digit"),
        ([row(number="1", sex="9")], "sex", "input.code"),
        ([row(number="1", lost_on="2023-03-31", loss_reason="03")], "lost_on", "feed.lost_before_gained"),
        ([row(number="1"), row(number="1")], "gained_on", "feed.duplicate"),
        ([row(number="1000001", name_kana="ミホン タロウ")], "gained_on", "feed.duplicate"),
        ([row(number="1", insurer_number=OTHER_INSURER)], "insurer_number", "insurer.mismatch"),
        (
            [row(op="lose", number="7135790246", lost_on="2026-01-01", loss_reason="99")],
            "number",
            "feed.target_unknown",
        ),
        (["new,too,few"], "", "row.fields"),
    ],
)
def test_bad_row_refuses_the_whole_feed(server: Served, rows: list[str], column: str, code: str) -> None:
    before = version(server)
    reply = feed(server, row(number="5550001"), *rows)
    assert_problem(reply, 422, "feed.rows")
    assert (column, code) in [(one["column"], one["code"]) for one in reply.json["errors"]]
    assert reply.json["error_count"] >= 1
    assert version(server) == before
    assert server.check.check(card=card("5550001")).json["verdict"] == "NOT_FOUND"


def test_truncated_csv(server: Served) -> None:
    body = HEADER + "\n" + row(number="5550001") + '\nnew,"0113'
    reply = server.registry.send("POST", FEEDS, body, CSV_TYPE)
    assert_problem(reply, 422, "feed.truncated", reply.json.get("field"))


def test_wrong_encoding(server: Served) -> None:
    body = (HEADER + "\n" + row(number="5550001") + "\n").encode("cp932")
    reply = server.registry.send("POST", FEEDS, body, CSV_TYPE)
    assert_problem(reply, 422, "feed.encoding", reply.json.get("field"))


@pytest.mark.parametrize("header", ["op,number", HEADER + ",colour", HEADER + ",op", ""])
def test_wrong_header(server: Served, header: str) -> None:
    reply = feed(server, row(number="5550001"), header=header)
    assert_problem(reply, 422, "feed.header", reply.json.get("field"))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?feed_number=-1", "feed_number"),
        ("?feed_number=x7135790246", "feed_number"),
        (f"?feed_number={2**63}", "feed_number"),
        ("?as_of=7135790246", "as_of"),
        ("?dry_run=perhaps", "dry_run"),
        ("?encoding=utf-16", "encoding"),
        ("?7135790246=1", None),
        ("?dry_run=1&dry_run=0", "dry_run"),
    ],
)
def test_wrong_parameter(server: Served, query: str, field: str | None) -> None:
    assert_problem(feed(server, row(number="5550001"), query=query), 400, "http.parameter", field)


def test_wrong_feed_media_types(server: Served) -> None:
    for kind in ("application/json", "text/csv; charset=utf-16", "application/x-ndjson; charset=cp932"):
        assert_problem(feed(server, row(number="5550001"), kind=kind), 415, "http.media_type", "Content-Type")


def test_unknown_insurer(server: Served) -> None:
    reply = server.registry.send("POST", "/v1/insurers/138040/feeds", HEADER + "\n", CSV_TYPE)
    assert_problem(reply, 404, "insurer.unknown", "insurer_number")
    reply = server.registry.post("/v1/insurers/138040/qualifications", {"operations": [operation()]})
    assert reply.status in (404, 422)
    assert_problem(
        server.registry.send("POST", f"/v1/insurers/{SECRET}/feeds", "", CSV_TYPE), 404, "http.not_found", "number"
    )


def operation(**members: Any) -> dict[str, Any]:
    plain = {
        "op": "new",
        "insurer_number": INSURER,
        "symbol": "1234",
        "number": "5550001",
        "branch": "01",
        "birth_date": "2000-01-02",
        "name": "見本 太郎",
        "name_kana": "ミホン タロウ",
        "sex": 1,
        "relation": 1,
        "gained_on": "2024-01-01",
    }
    return plain | members


@pytest.mark.parametrize(
    ("value", "status", "code", "field"),
    [
        (b"{", 400, "input.malformed", None),
        ({"operations": SECRET}, 400, "input.schema", "operations"),
        ({"operations": []}, 400, "input.schema", "operations"),
        ({"operations": [operation()], "colour": 1}, 400, "input.schema", "colour"),
        ({"operations": [operation()], "feed_number": -1}, 400, "input.schema", "feed_number"),
        ({"operations": [operation()], "as_of": "2026-02-30"}, 400, "input.date", "as_of"),
        ({"operations": [operation()] * (limits.DELTA_OPERATIONS_MAX + 1)}, 413, "input.too_large", "operations"),
        ({"operations": [operation(birth_date=SECRET)]}, 422, "feed.rows", None),
        ({"operations": [operation(number=MY_NUMBER)]}, 422, "feed.rows", None),
        ({"operations": [operation(insurer_number=OTHER_INSURER)]}, 422, "feed.rows", None),
        ({"operations": [SECRET]}, 422, "feed.rows", None),
        ({"operations": [operation(), operation()]}, 422, "feed.rows", None),
    ],
)
def test_bad_delta(server: Served, value: Any, status: int, code: str, field: str | None) -> None:
    before = version(server)
    assert_problem(server.registry.post(QUALIFICATIONS, value), status, code, field)
    assert version(server) == before


def test_a_feed_row_with_a_member_given_twice(server: Served) -> None:
    line = json.dumps(operation()).replace('"op"', f'"number": "{SECRET}", "op"')
    reply = server.registry.send("POST", FEEDS, line + "\n", {"Content-Type": "application/x-ndjson"})
    assert_problem(reply, 422, "feed.rows")
    assert reply.json["errors"] == [{"row": 1, "column": "", "code": "row.json", "kind": "a member given twice"}]


def test_a_state_has_no_op(server: Served) -> None:
    reply = server.registry.post(QUALIFICATIONS, {"qualifications": [operation()]}, method="PUT")
    assert_problem(reply, 400, "input.schema", "qualifications[0].op")


@pytest.mark.parametrize(
    ("number", "value", "status", "code", "field"),
    [
        (INSURER, {}, 400, "input.schema", "name"),
        (INSURER, {"name": ""}, 400, "input.schema", "name"),
        (INSURER, {"name": "x" * 101}, 400, "input.too_long", "name"),
        (INSURER, {"name": MY_NUMBER}, 400, "input.my_number", "name"),
        (INSURER, {"name": f"見本組合 {MY_NUMBER} 支部"}, 400, "input.my_number", "name"),
        (INSURER, {"name": "見本", "name_kana": f"ミホン{MY_NUMBER}"}, 400, "input.my_number", "name_kana"),
        (INSURER, {"name": "a\u0000"}, 400, "input.format", "name"),
        ("01130013", {"name": "x"}, 400, "input.check_digit", "number"),
        ("7135790246", {"name": "x"}, 404, "http.not_found", "number"),
    ],
)
def test_bad_insurer(server: Served, number: str, value: Any, status: int, code: str, field: str) -> None:
    assert_problem(server.registry.post(f"/v1/insurers/{number}", value, method="PUT"), status, code, field)
