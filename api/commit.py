"""Owns the queue in front of the one writer thread: many callers wait, one thread writes, one sync serves a group.

Delta calls that wait while the writer is busy are applied together in one `Registry.apply_calls`: one transaction
and one sync for all of them, each call still all-or-nothing. Imports run in the same thread, one at a time; deltas
that arrive meanwhile wait their turn. Nothing is acknowledged before it is durable and visible.

Invariants: only the thread touches the registry while it writes; `_waiting` is what is queued and not begun, counted
in operations; after `close` nothing new is taken and everything taken is finished.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from engine import limits
from engine.errors import ShikakuError, StartingError, WriterBusyError
from engine.ingest.registry import DeltaCall, FeedReceipt
from engine.records import Insurer

RETRY_DELTA_MS: Final = 1_000
RETRY_IMPORT_MS: Final = 10_000
_GROUP_OPERATIONS_MAX: Final = 2_000
"""Operations in one transaction: long enough to share a sync well, short enough that the first caller is not kept."""

_log: Final = logging.getLogger("shikaku.registry")
_Result = TypeVar("_Result")


class Writer(Protocol):
    """What the thread needs of a Registry."""

    def apply_calls(self, calls: list[DeltaCall]) -> Sequence[FeedReceipt | ShikakuError]: ...

    @property
    def import_feed(self) -> Callable[..., FeedReceipt]: ...

    def register_insurer(self, insurer: Insurer) -> Insurer: ...


class _Delta:
    """One delta call with the future of its caller."""

    __slots__ = ("call", "future", "loop")

    def __init__(self, call: DeltaCall, loop: asyncio.AbstractEventLoop) -> None:
        self.call = call
        self.loop = loop
        self.future: asyncio.Future[FeedReceipt] = loop.create_future()


class _Work:
    """Any other work for the writer thread, with the future of its caller."""

    __slots__ = ("done", "future", "loop", "run")

    def __init__(self, run: Callable[[], Any], done: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self.run = run
        self.done = done
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()


class Commits:
    """The async face of the writer. Made in any thread; used from event loops.

    Args:
        registry: the writer's registry; this object does not close it.
        on_fatal: called in the writer thread with an error after which the process must not go on serving.
    """

    def __init__(self, registry: Writer, *, on_fatal: Callable[[BaseException], None] | None = None) -> None:
        self._registry = registry
        self.on_fatal = on_fatal
        self._queue: deque[_Delta | _Work] = deque()
        self._waiting = 0
        self._importing = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Operations that are queued and not begun."""
        return self._waiting

    @property
    def importing(self) -> bool:
        """Whether an import is queued or under way."""
        return self._importing

    async def submit(self, call: DeltaCall) -> FeedReceipt:
        """Apply one delta call. Returns once it is durable and visible. Raises ShikakuError."""
        item = _Delta(call, asyncio.get_running_loop())
        self._put(item, max(1, len(call.rows)))
        return await item.future

    async def import_feed(
        self,
        path: Path,
        *,
        format: str,
        encoding: str,
        insurer: str | None = None,
        feed_number: int | None = None,
        as_of: int | None = None,
        dry_run: bool = False,
        progress: Callable[..., None] | None = None,
        after: Callable[[], None] | None = None,
        reserved: bool = False,
    ) -> FeedReceipt:
        """Import a feed file. Raises ShikakuError; WriterBusyError if another import is queued or under way.

        `reserved`: the caller holds the place that `reserve_import` gave; it is given back in any case.
        `after` is called in the writer thread when the file is no longer needed, also if the caller has gone away.
        """
        if not reserved:
            self.reserve_import()

        def done() -> None:
            self._importing = False
            if after is not None:
                after()

        try:
            item = self._work(
                lambda: self._registry.import_feed(
                    path,
                    format=format,
                    encoding=encoding,
                    insurer=insurer,
                    feed_number=feed_number,
                    as_of=as_of,
                    dry_run=dry_run,
                    progress=progress,
                ),
                done,
            )
        except ShikakuError:
            done()
            raise
        receipt: FeedReceipt = await item.future
        return receipt

    def reserve_import(self) -> None:
        """Take the one place for imports before an upload is taken in, so that uploads beside it do not fill the disk.

        Raises WriterBusyError if it is taken.
        """
        if self._importing:
            raise WriterBusyError("another import is under way", retry_after_ms=RETRY_IMPORT_MS)
        self._importing = True

    def release_import(self) -> None:
        """Give the place back without an import."""
        self._importing = False

    async def register_insurer(self, insurer: Insurer) -> Insurer:
        """Register an insurer, or change its name and setting; returns it as stored. Raises ShikakuError."""
        return await self._do(lambda: self._registry.register_insurer(insurer))

    def close(self) -> None:
        """Finish what was taken, then end the thread. Blocks; call it after the server has stopped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    async def _do(self, run: Callable[[], _Result]) -> _Result:
        result: _Result = await self._work(run, _nothing).future
        return result

    def _work(self, run: Callable[[], Any], done: Callable[[], None]) -> _Work:
        item = _Work(run, done, asyncio.get_running_loop())
        self._put(item, 1)
        return item

    def _put(self, item: _Delta | _Work, operations: int) -> None:
        with self._changed:
            if self._closed:
                raise StartingError("the registry is stopping", retry_after_ms=RETRY_DELTA_MS)
            if self._waiting and self._waiting + operations > limits.DELTA_QUEUE_MAX:
                raise WriterBusyError("too many operations are waiting for the writer", retry_after_ms=RETRY_DELTA_MS)
            self._waiting += operations
            self._queue.append(item)
            self._changed.notify()

    # --- the writer thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            if isinstance(taken, _Work):
                self._finish_work(taken)
            else:
                self._finish_deltas(taken)

    def _take(self) -> list[_Delta] | _Work | None:
        """The next work, or all deltas at the head of the queue that fit in one group; None once closed and empty."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if not self._queue:
                return None
            first = self._queue.popleft()
            if isinstance(first, _Work):
                self._waiting -= 1
                return first
            group, operations = [first], len(first.call.rows)
            self._waiting -= max(1, operations)
            while self._queue and isinstance(following := self._queue[0], _Delta):
                operations += len(following.call.rows)
                if operations > _GROUP_OPERATIONS_MAX:
                    break
                self._queue.popleft()
                self._waiting -= max(1, len(following.call.rows))
                group.append(following)
            return group

    def _finish_work(self, item: _Work) -> None:
        try:
            try:
                result = item.run()
            finally:
                _let_go(item)
        except BaseException as error:
            self._fail([item], error)
        else:
            _call_loop(item.loop, _settle, [(item.future, result)])

    def _finish_deltas(self, group: list[_Delta]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        try:
            results = self._registry.apply_calls([item.call for item in group])
            for item, result in zip(group, results, strict=True):
                by_loop.setdefault(item.loop, []).append((item.future, result))
        except BaseException as error:
            # Whatever it is: if this thread died of it, every later call would wait for ever.
            self._fail(group, error)
            return
        for loop, settled in by_loop.items():
            _call_loop(loop, _settle, settled)

    def _fail(self, items: Sequence[_Delta | _Work], error: BaseException) -> None:
        told = error
        if isinstance(error, StopIteration) or not isinstance(error, Exception):
            # A future does not take these, and its caller would wait for ever.
            told = RuntimeError(type(error).__name__)
        for item in items:
            _call_loop(item.loop, _settle, [(item.future, told)])
        if self.on_fatal is not None:
            self.on_fatal(error)


def _let_go(item: _Work) -> None:
    """Let go of what the work held. A failure of that is no failure of the work, which is done."""
    try:
        item.done()
    except OSError as error:
        _log.warning("an upload could not be thrown away: %s", type(error).__name__)


def _nothing() -> None:
    """What is left to do after work that holds nothing."""


def _settle(results: list[tuple[asyncio.Future[Any], Any]]) -> None:
    """Hand results to their callers, in the loop's thread. Callers that have gone away get nothing."""
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


def _call_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., None], argument: object) -> None:
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        # The loop was closed while its call was written: it is applied, and nobody is left to be told.
        assert loop.is_closed()
