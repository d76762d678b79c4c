"""Owns POST /v1/eligibility/batch: a JSON array, or NDJSON streamed in and out, without starving single checks.

Who accepts text/csv only gets of each line of NDJSON just verdict, reason and the name of the receipt.

The event loop is never held for more than a slice (limits.BATCH_SLICE_NS and one item), and all batches of a process
share one turnstile, so that a pass of the loop does at most one slice of batch work however many batches run.
Output is written before more input is read: a client that does not read its answers stops being read from, and
memory stays at a few buffers however long the stream is. An item that cannot be asked becomes an error in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NamedTuple

from aiohttp import hdrs, web
from msgspec import structs

from api import problems
from api.handlers.checks import Answerer, require_own
from api.handlers.http import (
    CSV,
    GRANT,
    JSON,
    NDJSON,
    REQUEST_ID,
    Desk,
    accepts,
    collect_body,
    read_chunk,
    require_accepted,
    require_length,
    require_media_type,
)
from api.recorder import Recorder, purpose_code, told_plainly
from api.wire import reading, writing
from api.wire.outline import BatchOutline
from engine import clock, days, limits
from engine.errors import BodyTooLargeError, InputError, ShikakuError
from engine.records import Inquiry
from engine.verification import Verifier
from ext import many
from ext.grants import Gate, Grant

_Careful = Callable[[bytes], bytes | None]
_Block = Callable[[bytes, int, _Careful, bytes, bytes], tuple[bytes, int, int]]
_PACE_SECONDS: Final = 1.0
_MISS: Final = b'"verdict":"NOT_FOUND"'
_SHORT_MISS: Final = b"NOT_FOUND,"
_WRITE_BYTES: Final = 256 * 1024
"""Answers are sent on when this much has collected."""


class _Way(NamedTuple):
    """How lines are answered: in whole, or in short."""

    block: _Block
    """Many of them at once."""
    careful: Callable[[bytes, str | None, Inquiry], bytes]
    error: Callable[[bytes, ShikakuError], bytes]


class Turnstile:
    """Lets one slice of batch work through in each pass of the event loop, in the order of asking."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def slice(self) -> AsyncIterator[int]:
        """Wait for a turn. Gives the instant (clock.monotonic_ns) at which the work must stop."""
        async with self._lock:
            await asyncio.sleep(0)
            yield clock.monotonic_ns() + limits.BATCH_SLICE_NS


class Batches:
    """The batch handler of one application."""

    def __init__(
        self, desk: Desk, verifier: Verifier, reader: reading.Reader, writer: writing.Writer, answerer: Answerer
    ) -> None:
        self._desk = desk
        self._verifier = verifier
        self._reader = reader
        self._writer = writer
        self._recorder = answerer.recorder
        ledger = None if answerer.recorder is None else answerer.recorder.ledger
        self._many = many.Many(answerer.quick, ledger, writing.VERDICT_LINES)
        self._whole = _Way(self._many.answer_lines, self._careful, self._error)
        self._short = _Way(self._many.verdict_lines, self._said, self._short_error)
        self._cold = answerer.cold
        self._gate = answerer.gate
        self._turnstile = Turnstile()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a batch in the form in which it came."""
        media_type = require_media_type(request, JSON, NDJSON)
        accept = request.headers.get(hdrs.ACCEPT)
        if media_type == NDJSON and accept is not None and accepts(accept, CSV) and not accepts(accept, NDJSON):
            return await self._lines(request, CSV)
        require_accepted(request, media_type)
        return await (self._array(request) if media_type == JSON else self._lines(request, NDJSON))

    # --- a JSON object with items -----------------------------------------------------------------------------------

    async def _array(self, request: web.Request) -> web.StreamResponse:
        """Outline the whole body first, so that a batch that is not well formed is refused before any answer."""
        outline = BatchOutline(await collect_body(request, limits.BATCH_BODY_BYTES_MAX))
        await self._exhaust(outline.walk())
        context = self._reader.batch(outline.head)
        meter = _Meter(self._gate, request.get(GRANT))
        if meter.grant is not None:
            require_own(meter.grant, context.institution.encode())
        response = await self._begin(request, JSON)
        out = _Out(response, self._recorder)
        mark = response.headers[REQUEST_ID].encode()
        position = 0
        while position < len(outline.items):
            await meter.turn()
            first = position
            if not context.warnings and days.AS_OF_MIN <= context.as_of <= days.AS_OF_MAX:
                await self._warm(self._many.cold_items, outline.body, outline.items, position, context.as_of)
            async with self._turnstile.slice() as until:
                with told_plainly():
                    part, position = self._answer_items(outline, context, position, until, mark)
            meter.count(position - first, part)
            await out.write(part)
        await out.write(b"]}" if outline.items else b'{"items":[]}')
        await out.end()
        return response

    async def _exhaust(self, steps: Iterator[None]) -> None:
        """Run an iterator to its end, slice by slice; at least one step in each."""
        running = True
        while running:
            async with self._turnstile.slice() as until:
                running = next(steps, _END) is not _END
                while running and clock.monotonic_ns() < until:
                    running = next(steps, _END) is not _END

    def _answer_items(
        self, outline: BatchOutline, context: reading.BatchContext, position: int, until: int, mark: bytes
    ) -> tuple[bytes, int]:
        """Answer items from `position` until the slice is over; at least one. Each is followed by a comma."""
        parts = [] if position else [b'{"items":[']
        ordinary = not context.warnings and days.AS_OF_MIN <= context.as_of <= days.AS_OF_MAX
        careful = _until(until, partial(self._item, context=context, mark=mark))
        while position < len(outline.items):
            first = position
            if ordinary:
                part, position = self._many.answer_items(
                    outline.body,
                    outline.items,
                    position,
                    context.as_of,
                    careful,
                    mark,
                    context.institution.encode(),
                    purpose_code(context.purpose),
                )
                parts.append(part)
            if position == first:
                # Not for the quick way, or there was no more time for it: one is answered in any case.
                start, end = outline.items[position]
                parts += (self._item(bytes(outline.body[start:end]), context, mark), b",")
                position += 1
            if self._is_over(until):
                break
        if position == len(outline.items):
            parts[-1] = parts[-1][:-1]
        return b"".join(parts), position

    def _item(self, body: bytes, context: reading.BatchContext, mark: bytes) -> bytes:
        try:
            if len(body) > limits.BATCH_LINE_BYTES_MAX:
                raise _item_too_long()
            return self._careful(mark, *self._reader.item(body, context))
        except ShikakuError as error:
            return self._error(body, error)

    # --- NDJSON -----------------------------------------------------------------------------------------------------

    async def _lines(self, request: web.Request, form: str) -> web.StreamResponse:
        require_length(request)
        response = await self._begin(request, form)
        out = _Out(response, self._recorder)
        mark = response.headers[REQUEST_ID].encode()
        lines = Lines()
        way = self._whole if form == NDJSON else self._short
        meter = _Meter(self._gate, request.get(GRANT))
        try:
            while not lines.ended:
                lines.feed(await read_chunk(request))
                while lines.waiting:
                    await meter.turn()
                    given = lines.given
                    if way is self._whole:
                        await self._warm(lines.cold_keys, self._many)
                    async with self._turnstile.slice() as until:
                        with told_plainly():
                            part = self._answer_lines(lines, until, mark, way, meter.grant)
                    meter.count(lines.given - given, part, _MISS if way is self._whole else _SHORT_MISS)
                    if part:
                        await out.write(part)
                if lines.given > limits.BATCH_LINES_MAX:
                    raise BodyTooLargeError(f"a batch has at most {limits.BATCH_LINES_MAX} lines")
        except InputError as error:
            # The answers before are good; the last line says why there are no more.
            await out.write(way.error(b"", error) + b"\n")
            response.force_close()
        await out.end()
        return response

    def _answer_lines(self, lines: Lines, until: int, mark: bytes, way: _Way, grant: Grant | None) -> bytes:
        """Answer lines until none is waiting, the slice is over or enough has collected."""
        parts: list[bytes] = []
        size = 0
        careful = partial(self._line, mark=mark, way=way, grant=grant)
        caller = b"" if grant is None else grant.caller
        while size < _WRITE_BYTES:
            part = lines.answer(way.block, _until(until, careful), mark, caller)
            if part:
                size += len(part)
                parts.append(part)
                if self._is_over(until):
                    break
                continue
            line = lines.take()
            if line is None or lines.given > limits.BATCH_LINES_MAX:
                break
            if line:
                answer = careful(line) if line is not TOO_LONG else way.error(b"", _item_too_long())
                size += len(answer) + 1
                parts += (answer, b"\n")
            if clock.monotonic_ns() >= until:
                break
        return b"".join(parts)

    def _line(self, body: bytes, mark: bytes, way: _Way, grant: Grant | None) -> bytes:
        try:
            own_id, inquiry = self._reader.inquiry(body)
            if grant is not None:
                require_own(grant, inquiry.institution.encode())
            return way.careful(mark, own_id, inquiry)
        except ShikakuError as error:
            return way.error(body, error)

    async def _warm(self, cold_keys: Callable[..., list[bytes]], *given: object) -> None:
        """Wait for the records of the next block, if some may not be in memory."""
        if self._cold is not None:
            await self._cold.wait(*cold_keys(*given))

    # --- both -------------------------------------------------------------------------------------------------------

    def _is_over(self, until: int) -> bool:
        """Whether the slice is, behind a block. With cold records it is: only this block's were waited for."""
        return self._cold is not None or clock.monotonic_ns() >= until

    async def _begin(self, request: web.Request, content_type: str) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._desk.headers(request, content_type))
        self._desk.close_if_draining(response)
        await response.prepare(request)
        return response

    def _careful(self, mark: bytes, own_id: str | None, inquiry: Inquiry) -> bytes:
        answer = self._verifier.check(inquiry)
        body = self._writer.answer(inquiry, answer, own_id)
        if self._recorder is None:
            return body
        receipt = self._recorder.record(inquiry, answer, body, mark, batch=True)
        return body[:-1] + b',"receipt":"' + receipt + b'"}'

    def _said(self, mark: bytes, own_id: str | None, inquiry: Inquiry) -> bytes:
        """The same in short: as text/csv."""
        inquiry = structs.replace(inquiry, verdict_only=True)
        answer = self._verifier.check(inquiry)
        line = writing.verdict_line(answer.verdict, answer.reason)
        return line if self._recorder is None else line + self._recorder.record(inquiry, answer, line, mark, batch=True)

    def _short_error(self, body: bytes, error: ShikakuError) -> bytes:
        self._desk.note(error)
        return f"ERROR,{error.code},".encode()

    def _error(self, body: bytes, error: ShikakuError) -> bytes:
        self._desk.note(error)
        mark = reading.id_of(body) if len(body) <= limits.BATCH_LINE_BYTES_MAX else None
        return writing.item_error(mark, problems.problem(error))


class _Meter:
    """Takes a batch's items from its caller's buckets, and slows it down when they are empty.

    A batch that has begun is not refused: its items wait, at the rate at which single checks would be let in.
    """

    def __init__(self, gate: Gate | None, grant: Grant | None) -> None:
        self._gate = gate
        self.grant = grant
        self._first = True

    async def turn(self) -> None:
        """Wait until there is an inquiry left to be made."""
        if self._gate is None or self.grant is None:
            return
        buckets = self._gate.buckets
        while True:
            now = clock.monotonic_ns()
            wait = max(buckets.wait(self.grant.slot, now), buckets.miss_wait(self.grant.slot, now))
            if not wait:
                return
            await asyncio.sleep(min(wait / 1e9, _PACE_SECONDS))

    def count(self, items: int, answers: bytes, miss: bytes = _MISS) -> None:
        """Take what was answered; the first was taken with the request."""
        if self._gate is None or self.grant is None:
            return
        taken, self._first = max(0, items - self._first), self._first and not items
        self._gate.buckets.charge(self.grant.slot, clock.monotonic_ns(), taken)
        # Quotes within a value are escaped: nothing else in an answer looks like this.
        self._gate.missed(self.grant, answers.count(miss))


class _Out:
    """What is written of a response: each part once what it says is recorded, while the next one is made."""

    def __init__(self, response: web.StreamResponse, recorder: Recorder | None) -> None:
        self._response = response
        self._recorder = recorder
        self._part = b""
        self._entries = 0

    async def write(self, part: bytes) -> None:
        if self._recorder is None:
            await self._response.write(part)
            return
        self._recorder.want()
        part, self._part = self._part, part
        entries, self._entries = self._entries, self._recorder.ledger.entries
        if part:
            await self._recorder.saved(entries)
            await self._response.write(part)

    async def end(self) -> None:
        await self.write(b"")
        await self._response.write_eof()


def _until(instant: int, answer: Callable[[bytes], bytes]) -> _Careful:
    """The same, as long as there is time."""
    return lambda body: answer(body) if clock.monotonic_ns() < instant else None


TOO_LONG: Final = b"too long"
"""Stands for a line over its limit; told by identity."""


class Lines:
    """Cuts arriving bytes into lines, one at a time, so that no number of short lines takes long.

    `given` counts the lines that are not blank. A line over its limit is given once, as TOO_LONG, as soon as that is
    known; the rest of it is skipped.
    """

    def __init__(self) -> None:
        self.ended = False
        self.waiting = False
        self.given = 0
        self._buffer = b""
        self._offset = 0
        self._skipping = False

    def feed(self, chunk: bytes) -> None:
        """Take in what has arrived; b"" is the end. Called only when nothing is waiting."""
        if not chunk:
            self.ended, chunk = True, b"\n"
        self._buffer = self._buffer[self._offset :] + chunk
        self._offset = 0
        self.waiting = True

    def take(self) -> bytes | None:
        """The next line without its end; b"" for a blank one; None if no complete line is waiting."""
        start = self._offset
        end = self._buffer.find(b"\n", start)
        if end < 0:
            self.waiting = False
            return self._part(start)
        self._offset = end + 1
        if self._skipping:
            self._skipping = False
            return b""
        return self._counted(self._buffer[start:end] if end - start <= limits.BATCH_LINE_BYTES_MAX else TOO_LONG)

    def answer(self, block: _Block, careful: _Careful, mark: bytes, caller: bytes = b"") -> bytes:
        """The answers to the next whole lines, a line each; none if the next is for `take`."""
        if self._skipping or self.given + many.ITEMS_MAX > limits.BATCH_LINES_MAX:
            return b""
        answers, self._offset, count = block(self._buffer, self._offset, careful, mark, caller)
        self.given += count
        return answers

    def cold_keys(self, block: many.Many) -> list[bytes]:
        """Keys of the records that the next lines need, and that are not in memory."""
        return [] if self._skipping else block.cold_lines(self._buffer, self._offset)

    def _part(self, start: int) -> bytes | None:
        """Keep the beginning of a line, unless it is already too long."""
        if self._skipping or len(self._buffer) - start > limits.BATCH_LINE_BYTES_MAX:
            self._offset = len(self._buffer)
            if not self._skipping:
                self._skipping = True
                return self._counted(TOO_LONG)
        return None

    def _counted(self, line: bytes) -> bytes:
        if line.isspace() or not line:
            return b""
        self.given += 1
        return line


def _item_too_long() -> BodyTooLargeError:
    return BodyTooLargeError(f"an inquiry has at most {limits.BATCH_LINE_BYTES_MAX} bytes")


_END: Final = object()
