"""Tests of what `shikaku import` says when a server rejects a feed, and when none answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.cli import import_feeds
from api.cli.client import Client
from api.cli.registrar import Feed, _Server
from api.exits import CommandError, Exit

ERROR = {"row": 1, "column": "sex", "code": "input.code", "kind": "unknown code"}
PROBLEM = {"code": "feed.rows", "detail": "3000 rows are wrong", "error_count": 3000, "errors": [ERROR] * 1000}


@contextmanager
def server(answer: bytes | None) -> Iterator[Client]:
    """A client of a server that reads one request to its end and answers with this, or (None) never."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer = listener.accept()[0]
            with peer:
                received = b""
                while not received.endswith(b"the end\n"):
                    received += peer.recv(1 << 16)
                if answer is not None:
                    peer.sendall(answer)
                done.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Client("127.0.0.1", listener.getsockname()[1], timeout=0.5)
        finally:
            done.set()
            thread.join()


def a_feed(folder: Path) -> Feed:
    """A file of which only its last bytes matter here."""
    path = folder / "feed.csv"
    path.write_bytes(b"op\n" * 100_000 + b"the end\n")
    return Feed(path=path, format="csv", encoding="utf-8")


def test_the_number_of_errors_is_the_servers_and_not_that_of_those_it_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = json.dumps(PROBLEM).encode()
    answer = b"HTTP/1.1 422 Unprocessable\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    report = tmp_path / "report.json"
    with server(answer) as client, pytest.raises(CommandError) as ended:
        import_feeds.import_one(_Server(client), a_feed(tmp_path), report, as_json=True)
    assert ended.value.exit_code == Exit.NEGATIVE
    for found in (json.loads(report.read_text("utf-8")), json.loads(capsys.readouterr().out)):
        assert found["error_count"] == 3000
        assert found["errors"] == PROBLEM["errors"]


def test_no_answer_to_a_feed_that_was_sent_says_that_it_may_be_applied(tmp_path: Path) -> None:
    with server(None) as client, pytest.raises(CommandError) as ended:
        import_feeds.import_one(_Server(client), a_feed(tmp_path))
    assert ended.value.exit_code == Exit.UNREACHABLE
    assert "may still be applied" in ended.value.detail and "Repeating the command is safe" in ended.value.detail


def test_no_server_at_all_says_nothing_of_the_kind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CommandError) as ended:
        import_feeds.import_one(_Server(Client("127.0.0.1", port)), a_feed(tmp_path))
    assert ended.value.exit_code == Exit.UNREACHABLE and "applied" not in ended.value.detail
