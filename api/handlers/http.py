"""Owns the strict half of HTTP that every handler shares: media types, lengths, bodies, request ids, problems.

Handlers raise errors; `Desk.guarded` turns them into problems. There is no middleware: a handler on the hot path pays
only for the calls that it makes itself.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Final

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from api import problems
from engine import clock, identifiers, limits
from engine.errors import AuditUnavailableError, BodyTooLargeError, CorruptionError, StartingError, StorePoisonedError
from ext import lane
from ext.grants import Gate, Grant

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
BODY_SECONDS: Final = 30.0
"""How long a body may pause before the request is given up."""
REQUEST_ID_CHARS_MAX: Final = 64
RETRY_STARTING_MS: Final = 1_000

REQUEST_ID: Final = type(hdrs.HOST)("X-Request-ID")
"""Of aiohttp's own type for names of headers, whose look-up folds no case again."""
RECEIPT: Final = "Shikaku-Receipt"
"""Names what was recorded of an answer in the audit log."""
_RECEIPT_HEADER: Final = f"\r\n{RECEIPT}: ".encode()
_FIXED_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "shikaku"}

GRANT: Final = web.RequestKey("grant", Grant)
"""Where a request has what its caller may do (ext/grants), if callers are known."""
_ACCEPTING_ALL: Final = (None, "*/*", JSON)

log = logging.getLogger("shikaku.api")


class Switch:
    """Whether this process takes work; turned by the process, read by handlers.

    `on_fatal` is called with an error after which the process must not go on serving.
    """

    __slots__ = ("draining", "on_fatal", "ready")

    def __init__(self) -> None:
        self.ready = True
        self.draining = False
        self.on_fatal: Callable[[BaseException], None] | None = None

    def require(self) -> None:
        """Raise StartingError unless requests are to be sent here."""
        if self.draining:
            raise StartingError("the process is stopping", retry_after_ms=RETRY_STARTING_MS)
        if not self.ready:
            raise StartingError("the process is starting", retry_after_ms=RETRY_STARTING_MS)


class Desk:
    """Answers for one application: makes responses and problems, and knows whether to close connections."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._prefix_bytes = secrets.token_hex(6).encode()
        self._count = itertools.count(1)
        self._head = b""
        self.gate: Gate | None = None
        """Who may ask, if that is asked: answers then say how much their callers have left."""

    def request_id(self, request: web.BaseRequest) -> str:
        """The caller's X-Request-ID if it may be repeated, else one of ours."""
        return self.mark(request.headers.get(REQUEST_ID)).decode()

    def mark(self, given: str | None) -> bytes:
        """What goes back as X-Request-ID: what was given if it may be repeated, else one of ours."""
        if given is not None and _may_be_repeated(given):
            return given.encode()
        return b"%b-%08x" % (self._prefix_bytes, next(self._count))

    def respond(
        self, request: web.BaseRequest, body: bytes, *, content_type: str = JSON, status: int = 200
    ) -> web.Response:
        """A response with the headers that all of ours carry."""
        response = web.Response(body=body, status=status, headers=self.headers(request, content_type))
        self.close_if_draining(response)
        return response

    def answer(
        self, request: web.BaseRequest, body: bytes, mark: bytes, receipt: bytes | None = None
    ) -> web.StreamResponse:
        """As `respond` for JSON and status 200, at a fraction of the cost where the connection is an ordinary one.

        Args: mark: of the request; receipt: the name of what was recorded of the answer.
        """
        if self._switch.draining or request.version != HttpVersion11 or not request.keep_alive:
            response = self.respond(request, body)
            response.headers[REQUEST_ID] = mark.decode()
            if receipt is not None:
                response.headers[RECEIPT] = receipt.decode()
            return response
        if self.gate is not None and (grant := request.get(GRANT)) is not None:
            mark += self.gate.headers(grant)
        if receipt is not None:
            mark += _RECEIPT_HEADER + receipt
        return WrittenResponse(lane.response(self.head(), mark, body))

    def unrecorded(self) -> bytes:
        """A whole response for whoever waits for an answer that could not be recorded; their connection ends."""
        error = AuditUnavailableError("answers cannot be recorded just now", retry_after_ms=RETRY_STARTING_MS)
        found = problems.problem(error)
        body = msgspec.json.encode(found)
        headers = {
            "Content-Type": problems.MEDIA_TYPE,
            **_FIXED_HEADERS,
            REQUEST_ID: self.mark(None).decode(),
            **problems.headers(error, found),
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {found.status} Service Unavailable\r\n{lines}\r\n".encode() + body

    @property
    def draining(self) -> bool:
        """Whether this process is stopping."""
        return self._switch.draining

    def head(self) -> bytes:
        """The head of an answer with status 200 up to the value of X-Request-ID; good for a second."""
        return self._head or self._renewed_head(asyncio.get_running_loop())

    def lane_head(self) -> bytes | None:
        """As `head`; None while the process stops, and answers must say that their connection ends."""
        return None if self._switch.draining else self._head or self.head()

    def _renewed_head(self, loop: asyncio.AbstractEventLoop) -> bytes:
        fixed = "".join(f"{name}: {value}\r\n" for name, value in _FIXED_HEADERS.items())
        date = formatdate(usegmt=True)
        self._head = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\n{fixed}Date: {date}\r\n{REQUEST_ID}: ".encode()
        loop.call_later(1.0, self._forget_head)
        return self._head

    def _forget_head(self) -> None:
        self._head = b""

    def close_if_draining(self, response: web.StreamResponse) -> None:
        """While the process stops, every answer is its connection's last."""
        if self._switch.draining:
            response.force_close()

    def headers(self, request: web.BaseRequest, content_type: str) -> dict[str, str]:
        """Headers of every response: answers are about people and must not be kept by anything on the way."""
        found = {"Content-Type": content_type, **_FIXED_HEADERS, REQUEST_ID: self.request_id(request)}
        if self.gate is not None and (grant := request.get(GRANT)) is not None:
            lines = self.gate.headers(grant).decode("ascii").strip().split("\r\n")
            found.update((name, value) for name, _, value in (line.partition(": ") for line in lines))
        return found

    def problem(self, request: web.BaseRequest, error: BaseException) -> web.Response:
        """The response that an error becomes; what is not ours is logged by its class only."""
        self.note(error)
        found = problems.problem(error)
        response = self.respond(
            request, msgspec.json.encode(found), content_type=problems.MEDIA_TYPE, status=found.status
        )
        response.headers.update(problems.headers(error, found))
        if not request.content.is_eof():
            # Part of the body was not read: the connection cannot carry another request.
            response.force_close()
        return response

    def note(self, error: BaseException) -> None:
        """Log an error that points to a defect or to damage, and tell the process if it must not go on."""
        known, entry = problems.lookup(error)
        if entry.status >= 500 and not isinstance(error, StartingError):
            log.error("%s [%s]", type(error).__name__, known.code)
        if isinstance(error, CorruptionError | StorePoisonedError) and self._switch.on_fatal is not None:
            self._switch.on_fatal(error)

    def guarded(self, handler: Handler) -> Handler:
        """The handler with every error turned into a problem."""

        async def run(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except Exception as error:
                return self.failed(request, error)

        return run

    def failed(self, request: web.BaseRequest, error: Exception) -> web.Response:
        """The problem for an error that a handler raised; a connection that broke, or must break, stays an error."""
        if isinstance(error, ConnectionError):
            raise error
        if request.writer.output_size:
            # Part of an answer is on its way: all that is left is to break it off where everybody can see it.
            self.note(error)
            raise ConnectionAbortedError from None
        return self.problem(request, error)

    def refuse(self, make: Callable[[], problems.HttpError]) -> Handler:
        """A handler that always answers with the same problem."""

        async def run(request: web.Request) -> web.StreamResponse:
            return self.problem(request, make())

        return run

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """Handle the Expect header: 100-continue, or a problem."""
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            return self.problem(request, problems.ExpectationError("only 100-continue is known", field="Expect"))
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None


class WrittenResponse(web.StreamResponse):
    """An answer whose bytes are already made, head and all; it leaves in one write and keeps the connection.

    aiohttp asks three things of a response: `prepare`, `write_eof`, `keep_alive`. What it would do in between (a
    multidict of headers, their serialising, a chunked writer) costs more than the check itself.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def keep_alive(self) -> bool | None:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        request.transport.write(self._data)
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def _may_be_repeated(given: str) -> bool:
    if not 0 < len(given) <= REQUEST_ID_CHARS_MAX or not given.isascii() or not given.isprintable() or " " in given:
        return False
    return not identifiers.is_my_number(given)


# --- media types ----------------------------------------------------------------------------------------------------


def require_media_type(request: web.BaseRequest, *allowed: str) -> str:
    """The body's media type, one of `allowed`; its charset must be UTF-8. Raises MediaTypeError."""
    given = request.headers.get(hdrs.CONTENT_TYPE)
    if given == allowed[0]:
        found = allowed[0]
    else:
        found, parameters = parse_media_type(given or "")
        if found not in allowed:
            raise problems.MediaTypeError(f"send {' or '.join(allowed)}", field="Content-Type")
        if parameters.get("charset", "utf-8") not in ("utf-8", "utf8"):
            raise problems.MediaTypeError("the charset must be utf-8", field="Content-Type")
    refuse_coding(request)
    return found


def refuse_coding(request: web.BaseRequest) -> None:
    """Raise MediaTypeError if the body is compressed."""
    if hdrs.CONTENT_ENCODING in request.headers and request.headers[hdrs.CONTENT_ENCODING].lower() != "identity":
        raise problems.MediaTypeError(
            "send the body uncompressed", field="Content-Encoding", headers={"Accept-Encoding": "identity"}
        )


def parse_media_type(text: str) -> tuple[str, dict[str, str]]:
    """`type/subtype` in lower case, and its parameters with lower-case names and values."""
    first, *rest = text.split(";")
    parameters = {}
    for part in rest:
        name, _, value = part.partition("=")
        parameters[name.strip().lower()] = value.strip().strip('"').lower()
    return first.strip().lower(), parameters


def require_accepted(request: web.BaseRequest, media_type: str) -> None:
    """Raise NotAcceptableError unless the caller accepts `media_type`."""
    given = request.headers.get(hdrs.ACCEPT)
    if given is None or given == "*/*" or given == media_type or accepts(given, media_type):
        return
    raise problems.NotAcceptableError(f"{media_type} is all that there is", field="Accept")


def accepts(given: str, media_type: str) -> bool:
    """Whether an Accept header allows a media type (RFC 9110 12.5.1: the most specific range counts)."""
    family = media_type.split("/", 1)[0]
    best, quality = -1, 0.0
    for part in given.split(","):
        found, parameters = parse_media_type(part)
        rank = {media_type: 2, f"{family}/*": 1, "*/*": 0}.get(found, -1)
        if rank > best:
            best, quality = rank, _quality(parameters.get("q", "1"))
    return quality > 0


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


# --- bodies ---------------------------------------------------------------------------------------------------------


def require_length(request: web.BaseRequest, bytes_max: int | None = None) -> None:
    """Raise unless the request says how its body ends, and within `bytes_max` if it says how long it is."""
    length = request.headers.get(hdrs.CONTENT_LENGTH)
    if length is None:
        if hdrs.TRANSFER_ENCODING not in request.headers:
            raise problems.LengthRequiredError("give a Content-Length, or send the body chunked")
    elif bytes_max is not None and int(length) > bytes_max:
        raise _too_large(bytes_max)


def ordinary_body(request: web.BaseRequest, bytes_max: int) -> bytes | None:
    """The body of a request that is in every respect as most are, and has arrived; None for all others.

    One step instead of `require_media_type`, `require_accepted` and `read_body`, for the hot path.
    """
    headers, content = request.headers, request.content
    if (
        headers.get(hdrs.CONTENT_TYPE) != JSON
        or headers.get(hdrs.ACCEPT) not in _ACCEPTING_ALL
        or hdrs.CONTENT_ENCODING in headers
        or hdrs.CONTENT_LENGTH not in headers
        or not content.is_eof()
    ):
        return None
    body = content.read_nowait(-1)
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    return body


async def read_body(request: web.BaseRequest, bytes_max: int) -> bytes:
    """The whole body. Raises BodyTooLargeError, LengthRequiredError, ReadTimeoutError, SlowBodyError."""
    require_length(request, bytes_max)
    content = request.content
    if content.is_eof():
        body = content.read_nowait(-1)
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    return await _read_on(request, bytes_max)


async def _read_on(request: web.BaseRequest, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    pace = Pace(BODY_SECONDS)
    while chunk := await read_chunk(request, pace):
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(bytes_max)
        parts.append(chunk)
    return b"".join(parts)


async def collect_body(request: web.BaseRequest, bytes_max: int) -> bytearray:
    """As `read_body` for bodies of megabytes: they grow as they arrive, and are never joined in one step."""
    require_length(request, bytes_max)
    body = bytearray()
    pace = Pace(BODY_SECONDS)
    while chunk := await read_chunk(request, pace):
        if len(body) + len(chunk) > bytes_max:
            raise _too_large(bytes_max)
        body += chunk
    return body


class Pace:
    """How long a body may keep us waiting in all: some seconds, and more as more of it arrives.

    Only waiting counts, and not what is done with the parts between: a busy disk is not the caller's fault.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    @property
    def left(self) -> float:
        """Seconds that may still be waited; none or less when the body has come too slowly."""
        return self._left

    def note(self, waited: float, received: int) -> None:
        """Count one wait, and what came of it."""
        self._left += received / limits.BODY_BYTES_PER_SECOND_MIN - waited


async def read_chunk(request: web.BaseRequest, pace: Pace | None = None) -> bytes:
    """What has arrived of the body; b"" at its end. Raises ReadTimeoutError, SlowBodyError, ProtocolError."""
    left = BODY_SECONDS if pace is None else min(BODY_SECONDS, pace.left)
    begun = clock.monotonic_ns()
    try:
        async with asyncio.timeout(left):
            chunk = await request.content.readany()
    except TimeoutError:
        if left < BODY_SECONDS:
            raise problems.SlowBodyError("the body arrives too slowly") from None
        raise problems.ReadTimeoutError(f"no part of the body arrived for {BODY_SECONDS:.0f} s") from None
    except web.RequestPayloadError:
        raise problems.ProtocolError("the body is not framed as the headers say") from None
    if pace is not None:
        pace.note((clock.monotonic_ns() - begun) / 1e9, len(chunk))
        if chunk and pace.left <= 0:
            raise problems.SlowBodyError("the body arrives too slowly")
    return chunk


def _too_large(bytes_max: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body may have {bytes_max} bytes at most")
