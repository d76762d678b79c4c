"""Owns streams of requests for the express lane: canonical ones, everything near them, and what a server made of them.

A stream is sent to a protocol in this process: the same bytes, cut in the same places, to a connection that begins in
the lane and to one of the general server. What both wrote must be the same answers.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from tests.support import api

PATH = b"/v1/eligibility/check"
END = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
"""What follows a stream: a server that still reads requests answers it."""
HEADERS = [
    b"User-Agent: clinic/1.0",
    b"Accept: */*",
    b"Accept: application/json",
    b"Accept: text/html",
    b"Accept: application/json;q=0",
    b"accept-encoding: gzip, deflate, br",
    b"X-Request-ID: abc-1",
    b"X-Request-ID: ",
    b"X-Request-ID: 983205673214",
    b"X-Request-ID: a b",
    b"Connection: keep-alive",
    b"connection: KEEP-ALIVE",
    b"Connection: close",
    b"Connection: keep-alive, close",
    b"Connection: upgrade",
    b"Upgrade: h2c",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"transfer-encoding : chunked",
    b"Transfer-Encoding:\tchunked",
    b"Content-Encoding: gzip",
    b"Content-Encoding: identity",
    b"Expect: 100-continue",
    b"Expect: something",
    b"TE: trailers",
    b"Trailer: X",
    b"Host: 127.0.0.1:9",
    b"Host: example.org",
    b"Host:",
    b"hOST:  localhost ",
    b"Host: [::1]:80",
    b"Content-Type: application/json",
    b"Content-Type: application/json; charset=utf-8",
    b"Content-Type: text/plain",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 005",
    b"Content-Length: 5, 5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 20000",
    b" folded: x",
    b"X: y\r\n z",
    b"X",
    b": x",
    b"X : y",
    b"X\x00: y",
    b"X: y\x00",
    b"X: \xe9",
    b"X: y\rz",
    b"X: y\nZ: z",
    b"X: " + b"y" * 5000,
    b"\xe9: y",
    b"Cookie: a=b",
    b"Authorization: Bearer x",
    b"HTTP2-Settings: x",
    b"Sec-WebSocket-Key: x",
    b"Proxy-Connection: keep-alive",
    b"Content-Location: /",
    b"Content-Range: bytes 0-1/2",
    b"ETag: x",
    b"Max-Forwards: 1",
    b"Server: x",
    b"User-Agent: ",
]
LINES = [
    b"POST /v1/eligibility/check HTTP/1.1",
    b"POST /v1/eligibility/check HTTP/1.0",
    b"POST  /v1/eligibility/check HTTP/1.1",
    b"POST /v1/eligibility/check?x=1 HTTP/1.1",
    b"POST /v1/eligibility/check#x HTTP/1.1",
    b"POST http://127.0.0.1/v1/eligibility/check HTTP/1.1",
    b"POST /v1/eligibility/%63heck HTTP/1.1",
    b"PUT /v1/eligibility/check HTTP/1.1",
    b"GET /v1/eligibility/check HTTP/1.1",
    b"post /v1/eligibility/check HTTP/1.1",
    b"POST /v1/eligibility/check HTTP/2.0",
    b"POST /v1/eligibility/check",
    b"\r\nPOST /v1/eligibility/check HTTP/1.1",
    b"GET /livez HTTP/1.1",
]


def bodies() -> list[bytes]:
    """Bodies of every kind of answer and refusal."""
    people = [f"100000{n}" for n in range(1, 8)]
    asked: list[Any] = [api.inquiry(number) for number in people]
    asked += [api.inquiry(id="x-1", purpose="dispensing", consent={}), api.inquiry(id=api.MY_NUMBER)]
    asked += [
        api.inquiry(consent={"limit_certificate": True, "specific_diseases": True}),
        api.inquiry(detail="verdict"),
    ]
    asked += [api.inquiry(as_of=None), api.inquiry(as_of="2026-02-30"), api.inquiry(colour="red"), [], {}, "x", 7]
    asked += [{"institution": api.INSTITUTION, "certificate": {"issuer": api.ISSUER, "serial": "0A01"}}]
    asked += [api.inquiry() | {"card": api.card(**more)} for more in CARDS]
    texts = [json.dumps(one) for one in asked] + [json.dumps(one, separators=(",", ":")) for one in asked[:9]]
    texts += [json.dumps(asked[0], indent=1), json.dumps(asked[0]).replace("1234", "１２３４"), " ", "{", "nul"]
    texts += [json.dumps(asked[0]).replace('"card"', '"card": null, "card"'), json.dumps(asked[0]) + " x"]
    return [text.encode() for text in texts]


CARDS: list[dict[str, Any]] = [
    {"branch": "1"},
    {"branch": ""},
    {"branch": "9"},
    {"branch": "001"},
    {"branch": None},
    {"number": " 1000001"},
    {"number": "01000001"},
    {"number": "１００００01"},
    {"number": "---"},
    {"number": api.MY_NUMBER},
    {"symbol": "12-34"},
    {"symbol": " 1/234"},
    {"symbol": None},
    {"symbol": api.MY_NUMBER},
    {"insurer_number": "1130012"},
    {"insurer_number": "01130013"},
    {"insurer_number": api.ELDERLY_INSURER},
    {"insurer_number": api.WIDE_INSURER, "symbol": "9", "number": api.MY_NUMBER},
    {"birth_date": "2000-01-03"},
    {"birth_date": "20000102"},
    {"birth_date": "1849-12-31"},
]
BODIES = bodies()


def request(body: bytes, line: bytes = LINES[0], more: Sequence[bytes] = ()) -> bytes:
    """A request with the headers that every check has, and perhaps more."""
    headers = [b"Host: 127.0.0.1:8443", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join([line, *headers, b"", body])


def odd_request(chance: random.Random) -> bytes:
    """A request that may be wrong in any way."""
    body = chance.choice(BODIES)
    if chance.random() < 0.2:
        body = mutated(chance, body)
    more = [chance.choice(HEADERS) for _ in range(chance.choice((0, 0, 1, 1, 2, 4)))]
    line = LINES[0] if chance.random() < 0.9 else chance.choice(LINES)
    made = request(body, line, more)
    if chance.random() < 0.2:
        # In the place of the header of the same name, if there is one.
        other = chance.choice(HEADERS)
        name = other.partition(b":")[0].strip().lower()
        lines = [other if one.lower().startswith(name + b":") else one for one in made.split(b"\r\n")]
        made = b"\r\n".join(lines)
    if chance.random() < 0.2:
        lines = made.partition(b"\r\n\r\n")[0].split(b"\r\n")
        at = chance.randrange(1, len(lines))
        chance.choice((lambda: lines.pop(at), lambda: lines.append(lines[at]), lambda: chance.shuffle(lines)))()
        made = b"\r\n".join(lines) + b"\r\n\r\n" + body
    return mutated(chance, made) if chance.random() < 0.3 else made


def mutated(chance: random.Random, data: bytes) -> bytes:
    """A few bytes changed, inserted, taken away or doubled."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed) + 1)
        what = chance.randrange(4)
        if what == 0 and at < len(changed):
            changed[at] = chance.choice((chance.randrange(256), 0x0D, 0x0A, 0x20, 0x3A, 0x22))
        elif what == 1:
            changed[at:at] = chance.choice((b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\x80", b"0", b"{", b'"'))
        elif what == 2:
            del changed[at : at + chance.choice((1, 1, 2, 10))]
        else:
            changed[at:at] = changed[at : at + chance.choice((1, 5, 50))]
    return bytes(changed)


def stream(chance: random.Random, requests: int, shown: Sequence[bytes] = ()) -> bytes:
    """Some requests one behind the other, the early ones mostly canonical, and END.

    Args: shown: lines that say who asks: mostly the first of them is sent.
    """
    made: list[bytes] = []
    for _ in range(requests):
        share = chance.random()
        usual = BODIES[:7] if share < 0.5 else BODIES
        one = request(chance.choice(usual)) if share < 0.65 else odd_request(chance)
        if shown and chance.random() < 0.95:
            line = shown[0] if chance.random() < 0.9 else chance.choice(shown)
            one = one.replace(b"\r\nContent-Type", b"\r\n" + line + b"\r\nContent-Type", 1)
        made.append(one)
    return b"".join(made) + END


def cut(chance: random.Random, data: bytes) -> list[bytes]:
    """The stream in pieces as a network might deliver it."""
    count = chance.choice((0, 0, 1, 2, 5, 20))
    places = sorted(chance.randrange(len(data) + 1) for _ in range(count))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.written = bytearray()
        self.closing = False
        self.reading = True

    def write(self, data: Any) -> None:
        if not self.closing:
            self.written += data

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.write(part)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Answer(NamedTuple):
    """One response, without what may differ: the date, and marks of our own."""

    status: bytes
    headers: frozenset[tuple[bytes, bytes]]
    body: bytes


class Outcome(NamedTuple):
    """What became of a stream."""

    answers: list[Answer]
    closed: bool
    rest: bytes


Saved = Callable[[], Awaitable[object]]


async def nothing() -> None:
    """Nobody waits for a disk."""


async def outcome(server: Any, pieces: list[bytes], saved: Saved = nothing) -> Outcome:
    """Send a stream, in pieces, to a new connection of a server, and wait until it rests.

    Args: saved: waits until all that was recorded is on the disk.
    """
    transport = Transport()
    transport.protocol = server()
    transport.protocol.connection_made(transport)
    for piece in pieces:
        if transport.closing:
            break
        while not transport.reading:
            await asyncio.sleep(0)
        transport.protocol.data_received(piece)
        await _rest(transport, saved)
    closed = transport.closing
    transport.close()
    await _rest(transport, saved)
    return Outcome(*_answers(bytes(transport.written), closed))


async def _rest(transport: Transport, saved: Saved) -> None:
    quiet, seen = 0, -1
    while quiet < 6:
        await asyncio.sleep(0)
        await saved()
        quiet = quiet + 1 if len(transport.written) == seen else 0
        seen = len(transport.written)


def _answers(written: bytes, closed: bool) -> tuple[list[Answer], bool, bytes]:
    found = []
    while written:
        head, separator, rest = written.partition(b"\r\n\r\n")
        if not separator:
            break
        status, *lines = head.split(b"\r\n")
        headers = {(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)}
        # Each way has a log of its own, and finds in the buckets what the other has left.
        headers = {(name, b"" if name in (b"shikaku-receipt", b"ratelimit") else value) for name, value in headers}
        length = next((int(value) for name, value in headers if name == b"content-length"), 0)
        kept = frozenset((name, value) for name, value in headers if name != b"date" and not _ours(name, value))
        found.append(Answer(status, kept, rest[:length]))
        written = rest[length:]
    return found, closed, written


def _ours(name: bytes, value: bytes) -> bool:
    return name == b"x-request-id" and is_our_mark(value)


def is_our_mark(value: bytes) -> bool:
    """Whether an X-Request-ID is one that we made."""
    return len(value) == 21 and value[12:13] == b"-"
