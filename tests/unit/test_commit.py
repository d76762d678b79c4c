"""Asks whether the queue groups calls, keeps order and bounds, and tells every caller what became of its call.

The registry here is a stand-in that can be held up: what is asked is what the queue does while the writer is busy. The
real Registry behind it is asked in tests/integration/test_registry_api.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from api.commit import Commits
from engine import limits
from engine.errors import (
    FeedNumberError,
    ShikakuError,
    StartingError,
    StoreFullError,
    StorePoisonedError,
    WriterBusyError,
)
from engine.ingest.registry import DeltaCall, FeedReceipt
from engine.ingest.rows import Op, Row
from engine.records import Insurer, Person, Sex

ROW = Row(1, Op.NEW, Person("", "", Sex.UNSET, 0))


def call(name: str = "00000000", rows: int = 1) -> DeltaCall:
    return DeltaCall(name, None, None, [ROW] * rows, name.encode())


def receipt(number: int, name: str | None = None) -> FeedReceipt:
    return FeedReceipt(number, name, None, "", 1, 1, 0, 0, 0, False, False, number, 0, 0)


class HeldRegistry:
    """Answers each call with its number; waits at every write until `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.groups: list[list[str]] = []
        self.threads: set[int] = set()
        self.error: BaseException | None = None
        self.count = 0

    def _hold(self) -> None:
        self.threads.add(threading.get_ident())
        self.begun.set()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error

    def apply_calls(self, calls: list[DeltaCall]) -> Sequence[FeedReceipt | ShikakuError]:
        self.groups.append([one.insurer for one in calls])
        self._hold()
        return [self._result(one) for one in calls]

    def _result(self, one: DeltaCall) -> FeedReceipt | ShikakuError:
        if one.insurer == "refused":
            return FeedNumberError("feed numbers must go up")
        self.count += 1
        return receipt(self.count, one.insurer)

    def import_feed(self, path: Path, **options: Any) -> FeedReceipt:
        self.groups.append([path.name])
        self._hold()
        return receipt(99)

    def register_insurer(self, insurer: Insurer) -> Insurer:
        self.groups.append([insurer.number])
        self._hold()
        return insurer


@pytest.fixture
def registry() -> HeldRegistry:
    return HeldRegistry()


@pytest.fixture
def commits(registry: HeldRegistry) -> Iterator[Commits]:
    made = Commits(registry)
    yield made
    registry.gate.set()
    made.close()


async def begun(registry: HeldRegistry) -> None:
    """Wait until the writer thread is held."""
    assert await asyncio.to_thread(registry.begun.wait, 10)


def test_calls_that_wait_are_written_together(registry: HeldRegistry, commits: Commits) -> None:
    async def run() -> list[FeedReceipt]:
        tasks = [asyncio.create_task(commits.submit(call("first")))]
        await begun(registry)
        tasks += [asyncio.create_task(commits.submit(call(f"c{n}"))) for n in range(20)]
        await asyncio.sleep(0.01)
        assert commits.waiting == 20
        registry.gate.set()
        return await asyncio.gather(*tasks)

    receipts = asyncio.run(run())
    assert registry.groups == [["first"], [f"c{n}" for n in range(20)]]
    assert [one.feed for one in receipts] == list(range(1, 22))
    assert commits.waiting == 0
    assert len(registry.threads) == 1 and threading.get_ident() not in registry.threads


def test_a_refused_call_fails_alone(registry: HeldRegistry, commits: Commits) -> None:
    registry.gate.set()

    async def run() -> list[FeedReceipt | BaseException]:
        tasks = (commits.submit(call(name)) for name in ("a", "refused", "b"))
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert isinstance(first, FeedReceipt) and isinstance(third, FeedReceipt)
    assert isinstance(second, FeedNumberError)


def test_a_group_is_bounded(registry: HeldRegistry, commits: Commits) -> None:
    async def run() -> None:
        tasks = [asyncio.create_task(commits.submit(call("first")))]
        await begun(registry)
        tasks += [asyncio.create_task(commits.submit(call(f"c{n}", rows=900))) for n in range(3)]
        await asyncio.sleep(0.01)
        registry.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert registry.groups == [["first"], ["c0", "c1"], ["c2"]]


def test_a_full_queue_pushes_back_and_recovers(registry: HeldRegistry, commits: Commits) -> None:
    async def run() -> FeedReceipt:
        tasks = [asyncio.create_task(commits.submit(call("first")))]
        await begun(registry)
        full = limits.DELTA_QUEUE_MAX // 1000
        tasks += [asyncio.create_task(commits.submit(call(f"c{n}", rows=1000))) for n in range(full)]
        await asyncio.sleep(0.01)
        with pytest.raises(WriterBusyError) as caught:
            await commits.submit(call("late"))
        assert caught.value.retry_after_ms > 0
        registry.gate.set()
        await asyncio.gather(*tasks)
        return await commits.submit(call("later"))

    assert asyncio.run(run()).insurer == "later"


def test_imports_and_calls_keep_their_order(registry: HeldRegistry, commits: Commits) -> None:
    done: list[int] = []

    async def run() -> None:
        tasks = [asyncio.create_task(commits.submit(call("a")))]
        await begun(registry)
        tasks.append(asyncio.create_task(commits.submit(call("b"))))
        await asyncio.sleep(0)
        feed = commits.import_feed(Path("feed"), format="csv", encoding="utf-8", after=lambda: done.append(1))
        tasks.append(asyncio.create_task(feed))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(commits.submit(call("c"))))
        await asyncio.sleep(0)
        registry.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert registry.groups == [["a"], ["b"], ["feed"], ["c"]]
    assert done == [1]


def test_a_second_import_is_pushed_back_until_the_first_is_done(registry: HeldRegistry, commits: Commits) -> None:
    async def run() -> None:
        first = asyncio.create_task(commits.import_feed(Path("one"), format="csv", encoding="utf-8"))
        await begun(registry)
        with pytest.raises(WriterBusyError):
            commits.reserve_import()
        with pytest.raises(WriterBusyError):
            await commits.import_feed(Path("two"), format="csv", encoding="utf-8")
        registry.gate.set()
        await first
        await commits.import_feed(Path("three"), format="csv", encoding="utf-8")

    asyncio.run(run())
    assert registry.groups == [["one"], ["three"]]
    assert not commits.importing


def test_a_failed_import_lets_the_next_one_in(registry: HeldRegistry, commits: Commits) -> None:
    registry.error = StoreFullError("the disk is full")
    registry.gate.set()
    done: list[int] = []

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(StoreFullError):
                await commits.import_feed(Path("feed"), format="csv", encoding="utf-8", after=lambda: done.append(1))

    asyncio.run(run())
    assert done == [1, 1] and not commits.importing


def test_an_error_of_the_writer_reaches_every_caller_and_the_process(registry: HeldRegistry, commits: Commits) -> None:
    registry.error = StorePoisonedError("an earlier write failed")
    fatal: list[BaseException] = []
    commits.on_fatal = fatal.append

    async def run() -> list[FeedReceipt | BaseException]:
        tasks = [asyncio.create_task(commits.submit(call("a")))]
        await begun(registry)
        tasks += [asyncio.create_task(commits.submit(call(name))) for name in ("b", "c")]
        await asyncio.sleep(0.01)
        registry.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, StorePoisonedError) for result in asyncio.run(run()))
    assert fatal == [registry.error, registry.error]


def test_a_defect_of_the_writer_does_not_leave_callers_waiting(registry: HeldRegistry, commits: Commits) -> None:
    """A group with too few results ended the thread without a word: every later call waited for ever."""
    fatal: list[BaseException] = []
    commits.on_fatal = fatal.append
    registry.gate.set()

    async def run(count: int) -> list[FeedReceipt | BaseException]:
        tasks = [asyncio.create_task(commits.submit(call(name))) for name in "abc"[:count]]
        async with asyncio.timeout(10):
            return await asyncio.gather(*tasks, return_exceptions=True)

    apply_calls = registry.apply_calls
    registry.apply_calls = lambda calls: apply_calls(calls)[1:]  # type: ignore[method-assign]
    assert all(isinstance(result, ValueError) for result in asyncio.run(run(3)))
    assert fatal and all(isinstance(error, ValueError) for error in fatal)
    registry.apply_calls = apply_calls  # type: ignore[method-assign]
    assert [type(result) for result in asyncio.run(run(1))] == [FeedReceipt], "the thread goes on"


@pytest.mark.parametrize("error", [StopIteration(), KeyboardInterrupt()], ids=repr)
def test_an_error_that_no_future_takes_reaches_its_caller(
    registry: HeldRegistry, commits: Commits, error: BaseException
) -> None:
    fatal: queue.Queue[BaseException] = queue.Queue()
    commits.on_fatal = fatal.put
    registry.error = error
    registry.gate.set()

    async def run() -> None:
        async with asyncio.timeout(10):
            await commits.submit(call("a"))

    with pytest.raises(RuntimeError, match=type(error).__name__):
        asyncio.run(run())
    assert fatal.get(timeout=10) is error


def test_an_upload_that_cannot_be_thrown_away_is_no_failure_of_its_import(
    registry: HeldRegistry, commits: Commits
) -> None:
    def done() -> None:
        raise PermissionError

    registry.gate.set()
    fatal: list[BaseException] = []
    commits.on_fatal = fatal.append

    async def run() -> FeedReceipt:
        async with asyncio.timeout(10):
            return await commits.import_feed(Path("feed"), format="csv", encoding="utf-8", after=done)

    assert asyncio.run(run()).feed == 99
    assert not fatal


def test_a_caller_that_went_away_disturbs_nobody(registry: HeldRegistry, commits: Commits) -> None:
    async def run() -> FeedReceipt:
        gone = asyncio.create_task(commits.submit(call("gone")))
        await begun(registry)
        stays = asyncio.create_task(commits.submit(call("stays")))
        await asyncio.sleep(0)
        gone.cancel()
        registry.gate.set()
        return await stays

    assert asyncio.run(run()).insurer == "stays"
    assert registry.groups == [["gone"], ["stays"]]


def test_a_loop_that_was_closed_meanwhile_disturbs_nobody(registry: HeldRegistry, commits: Commits) -> None:
    async def leave() -> None:
        task = asyncio.create_task(commits.submit(call("left")))
        await begun(registry)
        task.cancel()

    asyncio.run(leave())
    registry.gate.set()

    async def again() -> FeedReceipt:
        return await commits.submit(call("again"))

    assert asyncio.run(again()).insurer == "again"


def test_close_finishes_what_was_taken_and_takes_no_more(registry: HeldRegistry) -> None:
    commits = Commits(registry)

    async def run() -> list[FeedReceipt]:
        tasks = [asyncio.create_task(commits.submit(call(f"c{n}"))) for n in range(3)]
        await begun(registry)
        registry.gate.set()
        receipts = await asyncio.gather(*tasks)
        await asyncio.to_thread(commits.close)
        with pytest.raises(StartingError):
            await commits.submit(call("late"))
        return list(receipts)

    assert len(asyncio.run(run())) == 3


def test_insurers_are_registered_in_the_writer_thread(registry: HeldRegistry, commits: Commits) -> None:
    registry.gate.set()
    insurer = Insurer("01130012", "見本")

    async def run() -> Insurer:
        return await commits.register_insurer(insurer)

    assert asyncio.run(run()) == insurer
    assert threading.get_ident() not in registry.threads
