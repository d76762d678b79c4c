"""Owns POST /v1/eligibility/check: one inquiry in, one answer out. This is the hot path: nothing here is for show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web

from api.handlers.http import (
    GRANT,
    JSON,
    REQUEST_ID,
    Desk,
    Handler,
    ordinary_body,
    read_body,
    require_accepted,
    require_media_type,
)
from api.recorder import Recorder
from api.wire import quick, reading, writing
from engine import limits
from engine.errors import CallerMismatchError
from engine.records import VERDICT_CODES, Verdict
from engine.verification import Verifier
from ext.grants import Gate, Grant

THREADS: Final = 16
"""How many records are waited for at the same time."""
PATH: Final = "/v1/eligibility/check"
_MISS: Final = VERDICT_CODES[Verdict.NOT_FOUND]


class Answerer:
    """Turns the body of a check into that of its answer, and records it if there is somewhere to."""

    def __init__(
        self,
        verifier: Verifier,
        reader: reading.Reader,
        writer: writing.Writer,
        *,
        looks_first: bool = False,
        recorder: Recorder | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.gate = gate
        self._verifier = verifier
        notes = recorder is not None or gate is not None
        self.quick = quick.quick_way(verifier, looks_first=looks_first, notes=notes)
        self.cold = Cold(verifier.touch) if looks_first else None
        self.recorder = recorder
        self._quick = self.quick.answer
        self._reader = reader
        self._writer = writer

    def answer(self, data: bytes, mark: bytes, grant: Grant | None = None) -> tuple[bytes, bytes | None]:
        """The answer to a check, and the name of its receipt. Raises InputError, RecordCorruptError and the like.

        Args: mark: of the request, for the record; grant: of its caller, in whose own name alone it may be.
        """
        body = self._quick(data, 0, len(data))
        if body is None:
            return self._careful(data, mark, grant)
        if grant is not None:
            institution, verdict = self.quick.told
            require_own(grant, institution)
            if verdict == _MISS:
                self._missed(grant)
        return body, None if self.recorder is None else self.recorder.record_quick(self.quick, body, mark)

    def careful(self, data: bytes, start: int, stop: int, mark: bytes, grant: Grant | None) -> bytes:
        """The same for what the quick way has no answer to; here, its receipt is the last one."""
        return self._careful(data[start:stop], mark, grant)[0]

    def _missed(self, grant: Grant) -> None:
        if self.gate is not None:
            self.gate.missed(grant, 1)

    def _careful(self, data: bytes, mark: bytes, grant: Grant | None) -> tuple[bytes, bytes | None]:
        own_id, inquiry = self._reader.inquiry(data)
        if grant is not None:
            require_own(grant, inquiry.institution.encode())
        answer = self._verifier.check(inquiry)
        body = self._writer.answer(inquiry, answer, own_id)
        if grant is not None and answer.verdict is Verdict.NOT_FOUND:
            self._missed(grant)
        return body, None if self.recorder is None else self.recorder.record(inquiry, answer, body, mark)


def require_own(grant: Grant, institution: bytes) -> None:
    """Raise CallerMismatchError unless an inquiry is in its caller's own name."""
    if grant.caller != institution:
        raise CallerMismatchError("an institution asks in its own name only", field="institution")


class Cold:
    """Waits for records that are not in memory, while others are answered."""

    def __init__(self, touch: Callable[[Sequence[bytes]], None]) -> None:
        self._touch = touch
        self._threads = ThreadPoolExecutor(THREADS, "cold")

    async def wait(self, *keys: bytes | None) -> None:
        """Bring these records into memory."""
        wanted = [key for key in keys if key is not None]
        if wanted:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._touch, wanted)

    def warm(self, keys: Sequence[bytes], then: Callable[..., object], *given: object) -> None:
        """The same, and call a function when they are there."""
        loop = asyncio.get_running_loop()
        self._threads.submit(self._touch, keys).add_done_callback(lambda done: loop.call_soon_threadsafe(then, *given))


def check(desk: Desk, answerer: Answerer) -> Handler:
    """The handler of single checks. It turns errors into problems itself."""
    answer, recorder = answerer.answer, answerer.recorder

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            body = ordinary_body(request, limits.CHECK_BODY_BYTES_MAX)
            if body is None:
                require_media_type(request, JSON)
                require_accepted(request, JSON)
                body = await read_body(request, limits.CHECK_BODY_BYTES_MAX)
            if answerer.cold is not None:
                await answerer.cold.wait(answerer.quick.cold_key(body, 0, len(body)))
            mark = desk.mark(request.headers.get(REQUEST_ID))
            told, receipt = answer(body, mark, request.get(GRANT))
            if recorder is not None:
                await recorder.saved()
            return desk.answer(request, told, mark, receipt)
        except Exception as error:
            return desk.failed(request, error)

    return handle
