"""Owns what insurers write: feed files, delta calls, states, and their own registration.

A feed is taken to the spool as it arrives, so memory does not depend on its size; the writer thread then imports it.
Every answer is sent after the write is durable and visible to all checks.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import hdrs, web

from api.commit import Commits
from api.handlers.http import (
    CSV,
    JSON,
    NDJSON,
    Desk,
    Pace,
    parse_media_type,
    read_body,
    read_chunk,
    refuse_coding,
    require_accepted,
    require_length,
    require_media_type,
)
from api.handlers.insurers import number_in
from api.problems import MediaTypeError, ParameterError
from api.wire import reading, registration
from engine import limits
from engine.config import Config
from engine.errors import BodyTooLargeError, DateError, StoreFullError
from engine.ingest.registry import FEED_NUMBER_MAX, DeltaCall
from engine.records import Insurer

INSURER_BODY_BYTES_MAX: Final = 16 * 1024
_SPOOL_BYTES: Final = 1024 * 1024
"""Uploads are written in pieces of this size, in a thread."""
_ENCODINGS: Final = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "cp932": "cp932",
    "shift_jis": "cp932",
    "windows-31j": "cp932",
    "ms932": "cp932",
}
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}
_FEED_PARAMETERS: Final = frozenset({"feed_number", "as_of", "dry_run", "encoding"})


class Registrations:
    """The write handlers of one registry."""

    def __init__(self, desk: Desk, commits: Commits, find: Callable[[str], Insurer | None], config: Config) -> None:
        self._desk = desk
        self._commits = commits
        self._find = find
        self._policy = config.registration_check_digits
        self._spool_dir = config.spool_dir
        self._upload_seconds = config.upload_seconds
        self._decoding = asyncio.Lock()
        """Large bodies are decoded beside the event loop, and one at a time: together they would only take memory."""

    # --- insurers ---------------------------------------------------------------------------------------------------

    async def put_insurer(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/insurers/{number}."""
        number = number_in(request)
        body = await self._json(request, INSURER_BODY_BYTES_MAX)
        stored = await self._commits.register_insurer(registration.insurer(body, number, policy=self._policy))
        return self._desk.respond(request, registration.insurer_body(stored))

    # --- calls ------------------------------------------------------------------------------------------------------

    async def post_operations(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/insurers/{number}/qualifications."""
        return await self._call(request, registration.delta)

    async def put_qualifications(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/insurers/{number}/qualifications."""
        return await self._call(request, registration.state)

    async def _call(self, request: web.Request, decode: Callable[..., DeltaCall]) -> web.StreamResponse:
        number = number_in(request)
        body = await self._json(request, limits.DELTA_BODY_BYTES_MAX)
        async with self._decoding:
            call = await asyncio.to_thread(decode, body, number, policy=self._policy, exempt=self._exempt)
        return self._desk.respond(request, registration.receipt(await self._commits.submit(call)))

    async def _json(self, request: web.Request, bytes_max: int) -> bytes:
        require_media_type(request, JSON)
        require_accepted(request, JSON)
        _parameters(request, frozenset())
        return await read_body(request, bytes_max)

    def _exempt(self, number: str) -> bool:
        insurer = self._find(number)
        return insurer is not None and insurer.twelve_digit_numbers

    # --- files ------------------------------------------------------------------------------------------------------

    async def post_feed(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/insurers/{number}/feeds: one insurer's file."""
        return await self._feed(request, number_in(request))

    async def post_operator_feed(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/feeds: the operator's file, with rows of any insurer."""
        return await self._feed(request, None)

    async def _feed(self, request: web.Request, number: str | None) -> web.StreamResponse:
        given = _parameters(request, _FEED_PARAMETERS)
        form, encoding = _form_of(request, given.get("encoding"))
        require_accepted(request, JSON)
        require_length(request, limits.FEED_BYTES_MAX)
        feed_number, as_of, dry_run = _feed_number(given), _as_of(given), _flag(given, "dry_run")
        self._commits.reserve_import()
        path = self._spool_dir / f"upload-{secrets.token_hex(8)}"
        try:
            await spool(request, path, Pace(self._upload_seconds))
        except BaseException:
            self._commits.release_import()
            path.unlink(missing_ok=True)
            raise
        receipt = await self._commits.import_feed(
            path,
            format=form,
            encoding=encoding,
            insurer=number,
            feed_number=feed_number,
            as_of=as_of,
            dry_run=dry_run,
            after=lambda: path.unlink(missing_ok=True),
            reserved=True,
        )
        return self._desk.respond(request, registration.receipt(receipt))


async def spool(request: web.Request, path: Path, pace: Pace) -> None:
    """Write the body to a file as it arrives. Raises StoreFullError, BodyTooLargeError, SlowBodyError.

    Meanwhile no other import can begin, so the caller must keep up the pace.
    """
    try:
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        with await asyncio.to_thread(path.open, "xb", buffering=0) as file:
            await _spool_pieces(request, file, pace)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFullError("the disk is full; nothing was applied") from None
        raise


async def _spool_pieces(request: web.Request, file: BinaryIO, pace: Pace) -> None:
    parts: list[bytes] = []
    size = whole = 0
    while chunk := await read_chunk(request, pace):
        parts.append(chunk)
        size += len(chunk)
        whole += len(chunk)
        if whole > limits.FEED_BYTES_MAX:
            raise BodyTooLargeError(f"a file has at most {limits.FEED_BYTES_MAX} bytes")
        if size >= _SPOOL_BYTES:
            await asyncio.to_thread(_write_all, file, b"".join(parts))
            parts, size = [], 0
    if parts:
        await asyncio.to_thread(_write_all, file, b"".join(parts))


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _form_of(request: web.Request, encoding: str | None) -> tuple[str, str]:
    """Format and encoding of a feed, from Content-Type, its charset, and the query."""
    media_type, parameters = parse_media_type(request.headers.get(hdrs.CONTENT_TYPE, ""))
    refuse_coding(request)
    if media_type not in (CSV, NDJSON):
        raise MediaTypeError(f"send {CSV} or {NDJSON}", field="Content-Type")
    charset = parameters.get("charset")
    found = _ENCODINGS.get(encoding or charset or "utf-8")
    if found is None or (encoding and charset and _ENCODINGS.get(charset) != found):
        if encoding:
            raise ParameterError("encoding is utf-8 or cp932, and agrees with the charset", field="encoding")
        raise MediaTypeError("the charset is utf-8 or cp932", field="Content-Type")
    if media_type == NDJSON and found != "utf-8":
        raise MediaTypeError("NDJSON is always in utf-8", field="Content-Type")
    return ("csv" if media_type == CSV else "ndjson"), found


# --- query parameters -----------------------------------------------------------------------------------------------


def _parameters(request: web.Request, known: frozenset[str]) -> dict[str, str]:
    """The query, each parameter once. Raises ParameterError for others, whose names are not repeated."""
    query = request.query
    if not set(query) <= known:
        raise ParameterError(f"known parameters: {', '.join(sorted(known)) or 'none'}")
    for name in query:
        if len(query.getall(name)) > 1:
            raise ParameterError("a parameter is given twice", field=name)
    return dict(query)


def _feed_number(given: dict[str, str]) -> int | None:
    text = given.get("feed_number")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(FEED_NUMBER_MAX))):
        raise ParameterError("a feed number is a whole number", field="feed_number")
    if int(text) > FEED_NUMBER_MAX:
        raise ParameterError(f"a feed number is at most {FEED_NUMBER_MAX}", field="feed_number")
    return int(text)


def _as_of(given: dict[str, str]) -> int | None:
    text = given.get("as_of")
    try:
        return None if text is None else reading.as_of_day(text)
    except DateError as error:
        raise ParameterError(error.detail, field="as_of") from None


def _flag(given: dict[str, str], name: str) -> bool:
    text = given.get(name, "false")
    if text not in _FLAGS:
        raise ParameterError("true or false", field=name)
    return _FLAGS[text]
