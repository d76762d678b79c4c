"""Asks whether what insurers send is registered whole, once, and seen by the next check, over real sockets."""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine import limits
from engine.errors import StoreFullError
from engine.ingest import columns
from tests.support.api import (
    HEADER,
    INSURER,
    MY_NUMBER,
    NOW_MS,
    OTHER_INSURER,
    TODAY,
    WIDE_INSURER,
    Reply,
    Served,
    card,
    row,
    served,
)

FEEDS = f"/v1/insurers/{INSURER}/feeds"
QUALIFICATIONS = f"/v1/insurers/{INSURER}/qualifications"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("registry")) as running:
        yield running


def text(*rows: str) -> str:
    return "\r\n".join([HEADER, *rows]) + "\r\n"


def feed(server: Served, *rows: str, query: str = "", path: str = FEEDS, kind: str = "text/csv") -> Reply:
    return server.registry.send("POST", path + query, text(*rows), {"Content-Type": kind})


def verdict(server: Served, number: str, **more: str) -> str:
    found: str = server.check.check(card=card(number, **more)).json["verdict"]
    return found


def operation(op: str | None = "new", **members: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "op": op,
        "insurer_number": INSURER,
        "symbol": "1234",
        "number": "5550001",
        "branch": "01",
        "birth_date": "2000-01-02",
    }
    if op in ("new", "change", None):
        plain |= {"name": "見本 花子", "name_kana": "ミホン ハナコ", "sex": 2, "relation": 1, "gained_on": "2024-01-01"}
    return {name: value for name, value in (plain | members).items() if name != "op" or op is not None}


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_feed_is_seen_by_the_next_check(server: Served) -> None:
    assert verdict(server, "5550001") == "NOT_FOUND"
    reply = feed(server, row(number="5550001"), row(number="5550002", lost_on="2026-01-01", loss_reason="99"))
    assert reply.status == 200
    assert {name: reply.json[name] for name in ("insurer", "rows", "new", "changed", "replayed", "dry_run")} == {
        "insurer": INSURER,
        "rows": 2,
        "new": 2,
        "changed": 0,
        "replayed": False,
        "dry_run": False,
    }
    assert (verdict(server, "5550001"), verdict(server, "5550002")) == ("VALID", "INVALID")
    assert server.check.check().json["data_version"] == reply.json["data_version"]


def test_all_operations_by_file(server: Served) -> None:
    feed(server, row(number="5550001"), row(number="5550002"), row(number="5550003"))
    reply = feed(
        server,
        row(op="change", number="5550001", name="改名 太郎", name_kana="カイメイ タロウ"),
        row(op="lose", number="5550002", lost_on="2026-11-23", loss_reason="01"),
        row(op="cancel", number="5550003"),
    )
    assert (reply.json["changed"], reply.json["lost"], reply.json["cancelled"]) == (1, 1, 1)
    assert server.check.check(card=card("5550001")).json["qualification"]["name"] == "改名 太郎"
    assert server.check.check(card=card("5550002")).json["reason"] == "deceased"
    assert server.check.check(card=card("5550003")).json["reason"] == "cancelled"


def test_a_file_in_cp932(server: Served) -> None:
    body = text(row(number="5550001", name="髙﨑 ①郎")).encode("cp932")
    for kind, query in (("text/csv; charset=Shift_JIS", ""), ("text/csv", "?encoding=cp932")):
        reply = server.registry.send("POST", FEEDS + query, body, {"Content-Type": kind})
        assert reply.status == 200
    assert reply.json["replayed"]
    assert server.check.check(card=card("5550001")).json["qualification"]["name"] == "髙﨑 ①郎"


def test_a_file_in_ndjson(server: Served) -> None:
    lines = "".join(json.dumps(operation(number=f"555000{n}")) + "\n" for n in range(3))
    reply = server.registry.send("POST", FEEDS, lines, {"Content-Type": "application/x-ndjson"})
    assert (reply.status, reply.json["new"]) == (200, 3)
    assert verdict(server, "5550002") == "VALID"


def test_dry_run_changes_nothing(server: Served) -> None:
    before = server.check.check().json["data_version"]
    reply = feed(server, row(number="5550001"), query="?dry_run=true")
    assert (reply.status, reply.json["dry_run"], reply.json["new"]) == (200, True, 1)
    assert verdict(server, "5550001") == "NOT_FOUND"
    assert server.check.check().json["data_version"] == before
    assert not feed(server, row(number="5550001")).json["replayed"]


def test_the_same_file_again_changes_nothing_and_says_so(server: Served) -> None:
    first = feed(server, row(number="5550001"), query="?feed_number=7").json
    again = feed(server, row(number="5550001"), query="?feed_number=7").json
    assert again == first | {"replayed": True}
    assert server.check.check().json["data_version"] == first["data_version"]


def test_feed_numbers_go_up(server: Served) -> None:
    assert feed(server, row(number="5550001"), query="?feed_number=7").status == 200
    for number in (7, 6):
        reply = feed(server, row(number="5550002"), query=f"?feed_number={number}")
        assert (reply.status, reply.json["code"], reply.json["field"]) == (409, "feed.number", "feed_number")
    assert feed(server, row(number="5550002"), query="?feed_number=8&as_of=2026-11-20").status == 200
    shown = server.check.send("GET", f"/v1/insurers/{INSURER}").json
    assert (shown["feed_number"], shown["feed_as_of"]) == (8, "2026-11-20")


def test_the_operators_file_has_rows_of_several_insurers(server: Served) -> None:
    rows = row(number="5550001"), row(number="5550002", insurer_number=OTHER_INSURER)
    reply = feed(server, *rows, path="/v1/feeds")
    assert (reply.status, reply.json["insurer"], reply.json["new"]) == (200, None, 2)
    assert verdict(server, "5550002", insurer_number=OTHER_INSURER) == "VALID"


def test_a_large_upload_passes_through_the_spool(server: Served) -> None:
    rows = [row(number=str(6_000_000 + n)) for n in range(20_000)]
    assert feed(server, *rows).json["new"] == 20_000
    assert verdict(server, "6019999") == "VALID"
    assert list(server.settings.spool_dir.iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(server: Served) -> None:
    body = text(*[row(number=str(6_000_000 + n)) for n in range(5_000)]).encode()
    with server.registry.connect() as connection:
        lines = f"Host: localhost\r\nContent-Type: text/csv\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"POST {FEEDS} HTTP/1.1\r\n{lines}\r\n".encode())
        connection.sendall(body[:200_000])
        while not server.commits.importing:
            threading.Event().wait(0.01)
        # The place is taken from the first byte on: uploads side by side could fill the disk.
        assert feed(server, row(number="5550001")).json["code"] == "registry.busy"
        assert len(list(server.settings.spool_dir.iterdir())) <= 1
    while server.commits.importing:
        threading.Event().wait(0.01)
    assert feed(server, row(number="5550001")).status == 200
    assert verdict(server, "6000000") == "NOT_FOUND"
    for _ in range(100):
        if not list(server.settings.spool_dir.iterdir()):
            break
        threading.Event().wait(0.02)
    assert list(server.settings.spool_dir.iterdir()) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_over_the_limit_is_refused(server: Served, monkeypatch: pytest.MonkeyPatch, chunked: bool) -> None:
    monkeypatch.setattr(limits, "FEED_BYTES_MAX", 1_000)
    body = text(*[row(number=str(6_000_000 + n)) for n in range(20)]).encode()
    framing = f"Content-Length: {len(body)}"
    if chunked:
        framing, body = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with server.registry.connect() as connection:
        head = f"POST {FEEDS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n{framing}\r\n\r\n"
        connection.sendall(head.encode() + body)
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 413 ")
    monkeypatch.undo()
    assert not server.commits.importing
    assert feed(server, row(number="5550001")).status == 200


def test_a_large_call_does_not_keep_others_waiting(server: Served) -> None:
    """4 MiB of operations, too many of them, nested, or wrong: decoded beside the loop, in small steps."""
    deep = b"[" + (b"[" * 60 + b"]" * 60 + b",") * 500 + b"0]"
    for unit in (b"0", b"[]", b"[" + b"[]," * 20_000 + b"0]", deep, b'{"a":' + deep + b"}"):
        body = b'{"operations":[' + (unit + b",") * ((4_000_000) // (len(unit) + 1)) + b'0],"x":1}'
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda body=body, to=replies: to.append(post(server, body)))
        begun = time.process_time()
        thread.start()
        while thread.is_alive():
            assert server.registry.send("GET", "/readyz").status == 200
        assert replies[0].status in (400, 413, 422)
        assert time.process_time() - begun < 3


def post(server: Served, body: bytes) -> Reply:
    return server.registry.post(QUALIFICATIONS, body)


def test_a_full_disk_is_told_and_nothing_is_applied(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("api.handlers.registration._write_all", full)
    reply = feed(server, row(number="5550001"))
    assert (reply.status, reply.json["code"]) == (507, "store.full")
    monkeypatch.undo()
    assert list(server.settings.spool_dir.iterdir()) == []
    assert feed(server, row(number="5550001")).status == 200


def test_a_second_import_is_pushed_back(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    original = type(server.behind).import_feed

    def slow(*given: Any, **options: Any) -> Any:
        gate.wait(10)
        return original(*given, **options)

    monkeypatch.setattr(type(server.behind), "import_feed", slow)
    first: list[Reply] = []
    thread = threading.Thread(target=lambda: first.append(feed(server, row(number="5550001"))))
    thread.start()
    while not server.commits.importing:
        threading.Event().wait(0.01)
    reply = feed(server, row(number="5550002"))
    gate.set()
    thread.join()
    assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "registry.busy", "10")
    assert first[0].status == 200


PACED = ["Content-Type: text/csv", "Host: localhost", "Connection: close"]


def trickle(server: Served, piece: bytes, count: int, pause: float) -> bytes:
    """Upload a file, then pieces of blank lines, with a pause after each; returns what was answered."""
    body = text(row(number="5550001")).encode()
    length = len(body) + len(piece) * count
    with server.registry.connect() as connection:
        head = "\r\n".join([f"POST {FEEDS} HTTP/1.1", *PACED, f"Content-Length: {length}", "", ""])
        connection.sendall(head.encode() + body)
        with suppress(ConnectionError):
            for _ in range(count):
                time.sleep(pause)
                connection.sendall(piece)
                if select.select([connection], [], [], 0)[0]:
                    break
        received = b""
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    return received


def test_a_slow_upload_does_not_keep_the_place_for_imports(tmp_path: Path) -> None:
    """It never paused for long, so it kept all other files out as long as it liked."""
    with served(tmp_path, upload_seconds=0.5) as server:
        begun = time.monotonic()
        received: list[bytes] = []
        slow = threading.Thread(target=lambda: received.append(trickle(server, b"\r\n", 2_000, 0.02)))
        slow.start()
        while not server.commits.importing:
            time.sleep(0.001)
        assert feed(server, row(number="5550002")).json["code"] == "registry.busy"
        slow.join()
        assert 0.5 < time.monotonic() - begun < 20
        assert received[0].startswith(b"HTTP/1.1 408 ") and b'"code":"http.slow"' in received[0]
        assert not server.commits.importing
        assert list(server.settings.spool_dir.iterdir()) == []
        assert verdict(server, "5550001") == "NOT_FOUND"
        assert feed(server, row(number="5550002")).status == 200


def test_an_upload_that_takes_long_but_keeps_its_pace_is_taken(tmp_path: Path) -> None:
    with served(tmp_path, upload_seconds=0.5) as server:
        begun = time.monotonic()
        received = trickle(server, b"\r\n" * 64 * 1024, 10, 0.1)
        assert time.monotonic() - begun > 1
        assert received.startswith(b"HTTP/1.1 200 ")
        assert verdict(server, "5550001") == "VALID"


def test_a_slow_call_ends_in_time_too(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.handlers.http.BODY_SECONDS", 0.5)
    with server.registry.connect() as connection:
        head = f"POST {QUALIFICATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode())
        begun = time.monotonic()
        while not select.select([connection], [], [], 0.02)[0]:
            connection.sendall(b" ")
            assert time.monotonic() - begun < 20
        assert b'"code":"http.slow"' in connection.recv(65536)


# --- calls ----------------------------------------------------------------------------------------------------------


def test_operations_are_applied_in_order_and_seen_at_once(server: Served) -> None:
    operations = [
        operation(),
        operation("lose", gained_on="2024-01-01", lost_on="2025-01-01", loss_reason="03"),
        operation(gained_on="2025-06-01"),
    ]
    reply = server.registry.post(QUALIFICATIONS, {"operations": operations, "feed_number": 3, "as_of": "2026-11-01"})
    assert (reply.status, reply.json["new"], reply.json["lost"]) == (200, 2, 1)
    assert (reply.json["feed_number"], reply.json["as_of"]) == (3, "2026-11-01")
    assert verdict(server, "5550001") == "VALID"
    assert server.check.check(card=card("5550001"), as_of="2025-03-01").json["verdict"] == "INVALID"


def test_the_same_call_again_is_a_repeat(server: Served) -> None:
    value = {"operations": [operation()]}
    first = server.registry.post(QUALIFICATIONS, value).json
    assert server.registry.post(QUALIFICATIONS, value).json == first | {"replayed": True}


def test_a_call_is_applied_whole_or_not_at_all(server: Served) -> None:
    value = {"operations": [operation(), operation(number="5550002"), operation(number="5550002")]}
    reply = server.registry.post(QUALIFICATIONS, value)
    assert (reply.status, reply.json["code"]) == (422, "feed.rows")
    assert [(one["row"], one["code"]) for one in reply.json["errors"]] == [(3, "feed.duplicate")]
    assert verdict(server, "5550001") == "NOT_FOUND"


def test_a_state_is_new_or_a_change_as_needed(server: Served) -> None:
    def put(*states: dict[str, Any], **more: Any) -> dict[str, Any]:
        reply = server.registry.post(QUALIFICATIONS, {"qualifications": list(states)} | more, method="PUT")
        assert reply.status == 200, reply.json
        found: dict[str, Any] = reply.json
        return found

    def name() -> str:
        found: str = server.check.check(card=card("5550001")).json["qualification"]["name"]
        return found

    one, other = operation(None), operation(None, name="改名 花子", name_kana="カイメイ ハナコ")
    assert (put(one)["new"], name()) == (1, "見本 花子")
    assert (put(other)["changed"], name()) == (1, "改名 花子")
    # The first state once more is no repeat: it says how things are now.
    assert (put(one)["changed"], name()) == (1, "見本 花子")
    both = put(operation(None, lost_on="2025-01-01", loss_reason="99"), operation(None, gained_on="2025-02-01"))
    assert (both["changed"], both["new"]) == (1, 1)
    assert verdict(server, "5550001") == "VALID"


def test_a_state_with_a_feed_number_is_a_repeat(server: Served) -> None:
    value = {"qualifications": [operation(None)], "feed_number": 4}
    first = server.registry.post(QUALIFICATIONS, value, method="PUT").json
    assert server.registry.post(QUALIFICATIONS, value, method="PUT").json == first | {"replayed": True}


def test_twelve_digit_numbers_of_an_exempt_insurer(server: Served) -> None:
    path = f"/v1/insurers/{WIDE_INSURER}/qualifications"
    value = {"operations": [operation(insurer_number=WIDE_INSURER, number=MY_NUMBER, symbol="8")]}
    assert server.registry.post(path, value).status == 200
    assert verdict(server, MY_NUMBER, insurer_number=WIDE_INSURER, symbol="8") == "VALID"


def test_many_callers_share_the_writer(server: Served) -> None:
    replies: list[Reply] = []

    def call(start: int) -> None:
        for n in range(start, start + 10):
            replies.append(server.registry.post(QUALIFICATIONS, {"operations": [operation(number=str(n))]}))

    threads = [threading.Thread(target=call, args=(7_000_000 + 100 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status for reply in replies] == [200] * 80
    assert len({reply.json["feed"] for reply in replies}) == 80
    for n in range(8):
        assert verdict(server, str(7_000_009 + 100 * n)) == "VALID"


def test_an_acknowledged_call_is_seen_by_every_check_that_follows(server: Served) -> None:
    for n in range(30):
        number = str(8_000_000 + n)
        assert server.registry.post(QUALIFICATIONS, {"operations": [operation(number=number)]}).status == 200
        assert verdict(server, number) == "VALID"


def test_a_store_that_is_full_is_told(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise StoreFullError("the store is full; nothing was applied")

    monkeypatch.setattr(type(server.behind), "apply_calls", full)
    reply = server.registry.post(QUALIFICATIONS, {"operations": [operation()]})
    assert (reply.status, reply.json["code"]) == (507, "store.full")


# --- insurers -------------------------------------------------------------------------------------------------------


def test_insurers_are_registered_and_renamed(server: Served) -> None:
    path = "/v1/insurers/138040"
    assert server.registry.send("GET", path).json["code"] == "insurer.unknown"
    assert server.check.send("GET", path).status == 404
    reply = server.registry.post(path, {"name": "見本市", "name_kana": "ミホンシ"}, method="PUT")
    assert reply.json == {
        "number": "00138040",
        "name": "見本市",
        "name_kana": "ミホンシ",
        "twelve_digit_numbers": False,
        "fresh_at": None,
        "feed_as_of": None,
        "feed_number": None,
    }
    assert server.check.send("GET", path).json == server.registry.send("GET", path).json == reply.json
    assert reply.json in server.check.send("GET", "/v1/insurers").json["insurers"]
    renamed = server.registry.post(path, {"name": "新見本市", "twelve_digit_numbers": True}, method="PUT").json
    assert (renamed["name"], renamed["twelve_digit_numbers"]) == ("新見本市", True)
    assert server.check.send("GET", path).json == renamed


def test_renaming_keeps_freshness_and_shows_in_answers(server: Served) -> None:
    reply = server.registry.post(f"/v1/insurers/{INSURER}", {"name": "新しい名前"}, method="PUT")
    assert reply.json["fresh_at"] is not None and reply.json["feed_as_of"] == TODAY
    assert server.check.check().json["qualification"]["insurer_name"] == "新しい名前"


def test_an_answer_is_never_fresher_than_its_data(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store knows of a feed before the index does: an answer in between took old data for as fresh as new."""
    feed(server, row(number="5550001"))
    old = server.check.check(card=card("5550001")).json
    seen: list[Any] = []
    index = server.behind.index
    publish = type(index).publish

    def ask_before(*given: Any, **options: Any) -> None:
        seen.append(server.check.check(card=card("5550001")).json)
        seen.append(server.check.check(card=card("2000003", insurer_number=OTHER_INSURER, symbol="77")).json)
        seen.append(server.check.send("GET", f"/v1/insurers/{INSURER}").json)
        publish(*given, **options)
        seen.append(server.check.check(card=card("5550001")).json)

    monkeypatch.setattr(type(index), "publish", ask_before)
    later = NOW_MS + 60_000
    monkeypatch.setattr("engine.clock.Clock.now_ms", lambda self: later)
    lines = [row(op="change", number="5550001", name="改名 太郎", name_kana="カイメイ タロウ")]
    lines.append(row(number="2000004", insurer_number=OTHER_INSURER, symbol="77"))
    assert feed(server, *lines, path="/v1/feeds").status == 200
    during, other, listed, after = seen
    assert (during["data_version"], during["qualification"]["name"]) == (old["data_version"], "見本 太郎")
    assert during["insurer_fresh_at"] == old["insurer_fresh_at"] == listed["fresh_at"]
    assert other["insurer_fresh_at"] in (None, old["insurer_fresh_at"]), "it was never asked for before"
    assert (after["data_version"], after["qualification"]["name"]) == (old["data_version"] + 2, "改名 太郎")
    assert after["insurer_fresh_at"] > old["insurer_fresh_at"]


# --- description ----------------------------------------------------------------------------------------------------


def test_replies_fit_the_published_schema(server: Served) -> None:
    document = server.registry.send("GET", "/openapi.json").json

    def validate(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)

    validate("Receipt", feed(server, row(number="5550001")).json)
    validate("Receipt", server.registry.post(QUALIFICATIONS, {"operations": [operation(number="5550002")]}).json)
    validate("Problem", feed(server, row(number="5550001", sex="8")).json)
    validate("InsurerList", server.registry.send("GET", "/v1/insurers").json)
    validate("Operation", operation())
    assert set(document["components"]["schemas"]["Operation"]["properties"]) == set(columns.NAMES)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/version", "/openapi.json", "/docs"])
def test_service_pages(server: Served, path: str) -> None:
    assert server.registry.send("GET", path).status == 200
