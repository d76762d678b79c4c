"""Asks of the express lane, over real sockets: what it answers, when it lets go, and what it owes to slow peers."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api import lane
from api.app import _LANE
from ext import connection as lanes
from tests.support import api, streams
from tests.support.api import Served

CHECK = streams.request(json.dumps(api.inquiry()).encode())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with api.served(tmp_path_factory.mktemp("lane")) as running:
        yield running


@pytest.fixture
def shared(served: Served) -> Iterator[lane.Lane]:
    """The lane, with nobody in it."""
    found = served.check.app[_LANE]
    found.handed_over.clear()
    yield found
    until(lambda: not found.connections)


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_SECONDS", "HEAD_SECONDS", "BODY_GRACE_SECONDS"):
        monkeypatch.setattr(lane, name, {"IDLE_SECONDS": 3}.get(name, 1))


def until(holds: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def read_answers(connection: socket.socket, count: int) -> list[bytes]:
    """So many whole responses, and nothing behind them."""
    found = []
    with connection.makefile("rb") as file:
        for _ in range(count):
            lines = []
            while (line := file.readline()) != b"\r\n":
                assert line, f"closed after {len(found)} answers"
                lines.append(line)
            length = next(int(line[16:]) for line in lines if line.startswith(b"Content-Length: "))
            found.append(b"".join([*lines, b"\r\n", file.read(length)]))
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            assert not file.read1(1)
        connection.setblocking(True)
    return found


def test_many_checks_on_one_connection_stay_in_the_lane(served: Served, shared: lane.Lane) -> None:
    before = shared.answered
    with served.check.connect() as connection:
        for _ in range(3):
            connection.sendall(CHECK)
            (answer,) = read_answers(connection, 1)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b'"verdict":"VALID"' in answer
        assert len(shared.connections) == 1
    assert shared.answered == before + 3 and not shared.handed_over


def test_headers_are_those_of_the_general_server(served: Served) -> None:
    replies = [
        port.post("/v1/eligibility/check", api.inquiry(), X_Request_ID="abc") for port in (served.check, served.general)
    ]
    assert replies[0].body == replies[1].body and replies[0].status == 200
    for reply in replies:
        reply.headers.pop("date")
    assert replies[0].headers == replies[1].headers and replies[0].headers["x-request-id"] == "abc"


def test_pipelined_checks_are_answered_in_order_however_they_are_cut(served: Served, shared: lane.Lane) -> None:
    marks = [f"m{number}" for number in range(500)]
    data = b"".join(streams.request(json.dumps(api.inquiry(id=mark)).encode()) for mark in marks)
    for size in (len(data), 1_000, 97):
        with served.check.connect() as connection:
            for at in range(0, len(data), size):
                connection.sendall(data[at : at + size])
            found = [json.loads(answer.partition(b"\r\n\r\n")[2])["id"] for answer in read_answers(connection, 500)]
        assert found == marks
    assert not shared.handed_over


def test_a_connection_that_was_handed_over_never_comes_back(served: Served, shared: lane.Lane) -> None:
    before = shared.answered
    with served.check.connect() as connection:
        connection.sendall(CHECK + streams.END + CHECK)
        answers = read_answers(connection, 3)
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 3
        assert not shared.connections
        connection.sendall(CHECK)
        read_answers(connection, 1)
    assert shared.answered == before + 1 and shared.handed_over == {"request_line": 1}


def test_what_is_refused_is_said_by_the_general_server(served: Served, shared: lane.Lane) -> None:
    reply = served.check.check(as_of="2026-02-30")
    assert (reply.status, reply.json["code"]) == (400, "input.date")
    assert shared.handed_over == {"refused": 1}


def test_a_half_closed_peer_gets_what_it_asked_for(served: Served, shared: lane.Lane) -> None:
    with served.check.connect() as connection:
        connection.sendall(CHECK * (2 * lanes.REQUESTS_AT_A_TIME + 5))
        connection.shutdown(socket.SHUT_WR)
        read_answers(connection, 2 * lanes.REQUESTS_AT_A_TIME + 5)
        assert connection.recv(1) == b""


def test_a_peer_that_does_not_read_stops_being_answered(served: Served, shared: lane.Lane) -> None:
    """What it is owed waits in the kernel and in one buffer, and is all there when it reads again."""
    before, sent = shared.answered, 0
    with served.check.connect() as connection:
        connection.setblocking(False)
        quiet = time.monotonic()
        while time.monotonic() - quiet < 1:
            try:
                sent += connection.send((CHECK * 20)[sent % len(CHECK) :])
                quiet = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
        held = shared.answered - before
        time.sleep(0.3)
        assert shared.answered - before == held < sent // len(CHECK)
        (one,) = shared.connections
        assert one.unanswered_bytes < 1_000_000
        others = served.check.check()
        assert others.status == 200
        connection.setblocking(True)
        read_answers(connection, sent // len(CHECK))
        connection.sendall(CHECK[sent % len(CHECK) :])
        read_answers(connection, 1)


@pytest.mark.parametrize("part", [0, 1, 60, 100])
@pytest.mark.usefixtures("quick_clock")
def test_a_slow_head_or_an_idle_connection_is_closed(served: Served, shared: lane.Lane, part: int) -> None:
    with served.check.connect() as connection:
        connection.sendall(CHECK[:part])
        connection.settimeout(10)
        begun = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.5 < time.monotonic() - begun < 8
    assert not shared.handed_over


@pytest.mark.usefixtures("quick_clock")
def test_all_connections_are_looked_at_however_many(
    served: Served, shared: lane.Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "LOOKED_AT_MAX", 3)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(served.check.connect()) for _ in range(20)]
        for connection in connections:
            connection.sendall(CHECK[:50])
        for connection in connections:
            connection.settimeout(10)
            assert connection.recv(1) == b""


@pytest.mark.usefixtures("quick_clock")
def test_a_slow_body_is_left_to_the_general_server(served: Served, shared: lane.Lane) -> None:
    with served.check.connect() as connection:
        connection.sendall(CHECK[:-1])
        until(lambda: shared.handed_over == {"body_late": 1})
        connection.sendall(CHECK[-1:])
        (answer,) = read_answers(connection, 1)
        assert b'"verdict":"VALID"' in answer


def test_one_byte_at_a_time(served: Served, shared: lane.Lane) -> None:
    with served.check.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(CHECK)):
            connection.sendall(CHECK[at : at + 1])
        (answer,) = read_answers(connection, 1)
    assert b'"verdict":"VALID"' in answer


def test_while_it_drains_every_answer_is_the_last(served: Served, shared: lane.Lane) -> None:
    with served.check.connect() as connection:
        connection.sendall(CHECK)
        read_answers(connection, 1)
        served.check.set_switch("draining", True)
        try:
            connection.sendall(CHECK)
            (answer,) = read_answers(connection, 1)
            assert b"connection: close" in answer.lower() and b'"verdict":"VALID"' in answer
            assert connection.recv(1) == b""
        finally:
            served.check.set_switch("draining", False)
    assert shared.handed_over == {"draining": 1}


def test_the_lane_can_be_switched_off(tmp_path: Path) -> None:
    with api.served(tmp_path, express_lane=False) as running:
        assert _LANE not in running.check.app
        assert running.check.check().status == 200
