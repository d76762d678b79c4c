"""Owns GET /v1/receipts/{id}: the proof that an answer was recorded, for whoever holds its name.

A receipt is made of any worker's log, from its files. It needs a checkpoint that covers the entry; logs sign one each
second, so that the newest receipts are waited for. Reading a log is work for a thread: the loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from aiohttp import web

from api.handlers.http import GRANT, Desk, require_accepted
from engine import limits
from engine.audit import receipt
from engine.audit.entry import decode
from engine.audit.log import LogReader
from engine.errors import AuditMissingError, AuditRangeError, AuditUnavailableError, ReceiptUnknownError

TEXT: Final = "text/plain"
WAIT_SECONDS: Final = 3.0
"""How long the next checkpoint is waited for."""
POLL_SECONDS: Final = 0.05
_NAME: Final = re.compile("(0|[1-9][0-9]{0,2})-(0|[1-9][0-9]{0,18})", re.ASCII)


class Receipts:
    """The receipts of all logs below a folder."""

    def __init__(self, desk: Desk, directory: Path) -> None:
        self._desk = desk
        self._directory = directory
        self._readers: dict[int, LogReader] = {}
        self._thread = ThreadPoolExecutor(1, "receipts")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer with the receipt as a text."""
        require_accepted(request, TEXT)
        slot, index = _place(request.match_info["id"])
        grant = request.get(GRANT)
        text = await self.receipt(slot, index, None if grant is None or grant.who.sees_all else grant.who.id)
        return self._desk.respond(request, text, content_type=f"{TEXT}; charset=utf-8")

    async def receipt(self, slot: int, index: int, caller: str | None = None) -> bytes:
        """A receipt. If a caller is given, only of its own: what is another's looks like what is not there.

        Raises ReceiptUnknownError, AuditUnavailableError, AuditDamagedError.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT_SECONDS
        while True:
            text = await loop.run_in_executor(self._thread, self._made, slot, index, caller)
            if text is not None:
                return text
            if loop.time() >= until:
                raise AuditUnavailableError("the log has signed no checkpoint lately", retry_after_ms=1_000)
            await asyncio.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Let go of the logs."""
        self._thread.shutdown()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _made(self, slot: int, index: int, caller: str | None) -> bytes | None:
        """A receipt; None if no checkpoint covers the entry yet."""
        reader = self._reader(slot)
        if index >= reader.size and index >= reader.refresh():
            raise _unknown()
        if caller is not None and all(decode(one).caller != caller for one in reader.entries(index, index + 1)):
            raise _unknown()
        try:
            return receipt.make(reader, index)
        except AuditRangeError:
            return None

    def _reader(self, slot: int) -> LogReader:
        reader = self._readers.get(slot)
        if reader is None:
            try:
                reader = self._readers[slot] = LogReader(self._directory / str(slot))
            except AuditMissingError:
                raise _unknown() from None
        return reader


def _place(name: str) -> tuple[int, int]:
    """The log and the index that a receipt's name says. Raises ReceiptUnknownError."""
    found = _NAME.fullmatch(name)
    if found is None or int(found[1]) >= limits.AUDIT_LOGS_MAX:
        raise _unknown()
    return int(found[1]), int(found[2])


def _unknown() -> ReceiptUnknownError:
    return ReceiptUnknownError("there is no receipt of this name", field="id")
