"""Owns the audit log of a check worker: what is recorded of an answer, and that no answer leaves before it is on disk.

Records collect while the previous ones are written; a thread without the GIL (ext/ledger) writes and syncs what has
collected, and then all its answers go out. An answer costs a share of a sync, and a sync is waited for by many.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Literal

from api.wire.native import PURPOSES
from engine.audit.appender import Appender
from engine.audit.entry import NO_HASH, NO_VERDICT, Kind
from engine.audit.notes import Signer
from engine.config import Config
from engine.errors import AuditUnavailableError, ShikakuError
from engine.keys import Keys, load_signing
from engine.records import VERDICT_CODES, Answer, Inquiry
from engine.verification import Verifier
from ext import quick

RELAXED_SECONDS: Final = 0.05
"""How long a record may wait before it is written, where answers do not wait for it."""
RETRY_SECONDS: Final = 1.0
"""How often a log that has failed is opened again."""
RETRY_MS: Final = 1_000
_PURPOSE_CODES: Final = {name: number for number, name in enumerate(PURPOSES, 1)}


def purpose_code(name: str) -> int:
    """The number by which the log knows a purpose."""
    return _PURPOSE_CODES[name]


log = logging.getLogger("shikaku.audit")


def open_recorder(config: Config, keys: Keys, verifier: Verifier) -> Recorder | None:
    """The recorder of a check worker; None if nothing is to be recorded.

    Raises AuditKeyError, AuditDamagedError, AuditLockedError and what else opening a log raises.
    """
    if config.audit == "off":
        return None
    key = load_signing(config.audit_key_file)
    appender = Appender(
        config.audit_dir,
        lambda slot: Signer(f"{config.audit_origin}/{slot}", key),
        keys,
        fixed_ms=config.clock_fixed_ms,
    )
    return Recorder(appender, verifier, config.audit)


class Recorder:
    """Records answers in the log of this process, and lets those who wait know when that is on the disk.

    Args:
        appender: the log, open.
        verifier: says whom an inquiry is about.
        mode: `strict`: answers wait; `relaxed`: they do not, and records are written within RELAXED_SECONDS.
    """

    def __init__(self, appender: Appender, verifier: Verifier, mode: Literal["strict", "relaxed"]) -> None:
        self._appender = appender
        self.ledger = appender.ledger
        self.waits = mode == "strict"
        self._verifier = verifier
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._durable = self.ledger.entries
        self._wanted = False
        self._failed = False
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._signing: Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_saved: Callable[[int], object] = lambda durable: None
        """Told how many entries are on the disk."""
        self.on_failed: Callable[[], object] = lambda: None
        """Told that records which waited will not be written, and answers must not leave."""

    def start(self) -> None:
        """Follow the log in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.ledger.fileno, self._settle)

    def tend(self) -> None:
        """Sign what was recorded since the last time; to be called each second."""
        if not self._failed and (self._signing is None or self._signing.done()):
            # Its file is synced, too, and nobody waits for that.
            self._signing = self._thread.submit(self._sign)

    def close(self) -> None:
        """Write what is left and let go of the log."""
        if self._loop is not None:
            self._loop.remove_reader(self.ledger.fileno)
        self._thread.shutdown()
        self._appender.close()

    def finish(self) -> None:
        """As `close`. Raises AuditUnavailableError if something could not be written."""
        self.close()
        durable, failure = self.ledger.settle()
        if failure or durable < self.ledger.entries:
            raise _unavailable()

    # --- recording --------------------------------------------------------------------------------------------------

    def record_quick(self, way: quick.Quick, body: bytes, mark: bytes) -> bytes:
        """Record the answer that the quick way gave last. Returns the name of its receipt."""
        try:
            index = self.ledger.append_answer(way, body, mark)
        except OSError:
            raise _unavailable() from None
        self.want()
        return self.ledger.name(index)

    def record(self, inquiry: Inquiry, answer: Answer, body: bytes, mark: bytes, *, batch: bool = False) -> bytes:
        """Record an answer that was found the careful way. Returns the name of its receipt."""
        asked, person = self._verifier.subject(inquiry)
        consent = inquiry.consent_limit_certificate or inquiry.consent_specific_diseases
        try:
            index = self.ledger.append(
                kind=(1 if inquiry.card is not None else 2) + (2 if batch else 0),
                purpose=purpose_code(inquiry.purpose),
                verdict=VERDICT_CODES[answer.verdict],
                flags=(2 if consent else 0) | (8 if inquiry.verdict_only else 0),
                as_of=answer.as_of,
                version=answer.data_version,
                caller=inquiry.institution.encode(),
                inquiry=asked,
                person=person,
                body=body,
                mark=mark,
            )
        except OSError:
            raise _unavailable() from None
        self.want()
        return self.ledger.name(index)

    def event(self, caller: bytes, what: bytes) -> None:
        """Record that something happened, beside the answers.

        Args: what: its name, whose digest is recorded.
        """
        try:
            self.ledger.append(
                kind=int(Kind.EVENT),
                purpose=0,
                verdict=NO_VERDICT,
                flags=0,
                as_of=None,
                version=0,
                caller=caller,
                inquiry=NO_HASH,
                person=None,
                body=what,
                mark=b"event-" + what,
            )
        except OSError:
            raise _unavailable() from None
        self.want()

    def want(self) -> None:
        """Have what was recorded written, when everybody whose turn is now had it."""
        if not self._wanted and self._loop is not None:
            self._wanted = True
            if self.waits:
                self._loop.call_soon(self._flush)
            else:
                self._loop.call_later(RELAXED_SECONDS, self._flush)

    async def saved(self, count: int | None = None) -> None:
        """Wait until the first so many entries are on the disk; all that there are, if it is not said.

        Raises AuditUnavailableError if they will not be.
        """
        wanted = self.ledger.entries if count is None else count
        if not self.waits or self._durable >= wanted:
            return
        assert self._loop is not None
        if self._failed:
            raise _unavailable()
        future = self._loop.create_future()
        self._waiting.append((wanted, future))
        await future

    # --- the writer -------------------------------------------------------------------------------------------------

    def _sign(self) -> None:
        try:
            self._appender.sign_checkpoint()
        except ShikakuError as error:
            log.error("the audit log's checkpoint cannot be written [%s]", error.code)

    def _flush(self) -> None:
        self._wanted = False
        self.ledger.flush()

    def _settle(self) -> None:
        self._durable, failure = self.ledger.settle()
        self.on_saved(self._durable)
        waiting = self._waiting
        while waiting and waiting[0][0] <= self._durable:
            future = waiting.popleft()[1]
            if not future.done():
                future.set_result(None)
        if failure and not self._failed:
            self._fail(failure)
        else:
            self._appender.tend()

    def _fail(self, failure: int) -> None:
        """Nothing that waits leaves; the log is opened again until that succeeds."""
        self._failed = True
        log.error("the audit log cannot be written (error %d): no checks are answered", failure)
        self.on_failed()
        while self._waiting:
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_exception(_unavailable())
        assert self._loop is not None
        self._loop.call_later(RETRY_SECONDS, self._reopen)

    def _reopen(self) -> None:
        """Try to go on; checks are answered again when that succeeds."""
        assert self._loop is not None
        try:
            self._appender.reopen()
        except ShikakuError as error:
            log.error("the audit log cannot be opened again [%s]", error.code)
            self._loop.call_later(RETRY_SECONDS, self._reopen)
            return
        self._failed = False
        self._durable = self.ledger.entries
        log.warning("the audit log is written again")


@contextmanager
def told_plainly() -> Iterator[None]:
    """What ext/many records by itself: that it could not is an AuditUnavailableError here, too."""
    try:
        yield
    except OSError:
        raise _unavailable() from None


def _unavailable() -> AuditUnavailableError:
    return AuditUnavailableError("answers cannot be recorded just now", retry_after_ms=RETRY_MS)
