"""Owns the processes that prepare files for a bulk load, and gives back what they made in the order of the files.

A thread stands by each process, which may be a few files ahead of the writer. Files get their person numbers in their
own order, as soon as their lines are counted, so that what is written later is appended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, NamedTuple, cast

from engine import children, limits
from engine.errors import ShikakuError, StoreFullError, StorePoisonedError
from engine.ingest.pieces import NUMBERS_A_ROW, Looked, Prepared, Rules, serve

AHEAD: Final = 2
"""Files that may be prepared, or in preparation, beyond the number of processes: they take room in the spool."""


class Ready(NamedTuple):
    """One file, looked at and prepared."""

    path: Path
    size_bytes: int
    received_at_ms: int
    digest: bytes
    next_person: int
    """The first person number that this file and those before it leave free."""
    prepared: Prepared | None
    """None: its content was applied before."""
    spooled: Path


class Preparers:
    """Prepares files while the caller writes. Use as a context; `each` may be called once."""

    def __init__(
        self,
        rules: Rules,
        spool_dir: Path,
        *,
        processes: int,
        next_person: int,
        now_ms: Callable[[], int],
        known: Callable[[bytes], bool],
    ) -> None:
        self._spool_dir = spool_dir
        # A process that outlived a killed load for a moment may still write to a file of its own.
        self._spooled_name = f"load-{os.getpid()}-"
        self._now_ms = now_ms
        self._known = known
        self._processes = processes
        self._rules = rules
        self._changed = threading.Condition()
        self._taking = threading.Lock()
        self._files: Iterator[Path] = iter(())
        self._taken = self._numbered = self._given = 0
        self._next_person = next_person
        self._exhausted = self._stopping = False
        self._results: dict[int, Ready | BaseException] = {}
        self._children: list[tuple[BaseProcess, Connection]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Preparers:
        for number in range(self._processes):
            self._children.append(children.start(serve, self._rules, name=f"preparer-{number}"))
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for child, _connection in self._children:
            child.terminate()
            child.join()
        for thread in self._threads:
            thread.join()
        for _child, connection in self._children:
            connection.close()
        # What was prepared and will not be written: records of people, and as large as the files.
        with suppress(OSError):
            for left in self._spool_dir.glob(f"{self._spooled_name}*"):
                left.unlink()

    def each(self, files: Iterator[Path]) -> Iterator[Ready]:
        """What became of each file, in order. Raises what ended the preparation of one (ShikakuError, OSError)."""
        self._files = files
        self._threads = [threading.Thread(target=self._feed, args=(each,), daemon=True) for _, each in self._children]
        for thread in self._threads:
            thread.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._given in self._results or self._at_end())
                if self._given not in self._results:
                    return
                result = self._results.pop(self._given)
            if isinstance(result, BaseException):
                raise result
            yield result
            with self._changed:
                self._given += 1
                self._changed.notify_all()

    def _at_end(self) -> bool:
        return self._exhausted and self._given >= self._taken

    def _feed(self, connection: Connection) -> None:
        while (taken := self._take()) is not None:
            at, path = taken
            result: Ready | BaseException
            try:
                result = self._made(connection, at, path)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                result = StorePoisonedError("a process that prepares feeds has ended")
            except BaseException as error:
                result = error
            with self._changed:
                self._results[at] = result
                self._changed.notify_all()

    def _take(self) -> tuple[int, Path] | None:
        """The next file, when its turn to be prepared has come."""
        most = self._processes + AHEAD
        with self._taking:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._exhausted or self._taken - self._given < most)
                if self._stopping or self._exhausted:
                    return None
            # Whoever names the files may take a while over it; what is prepared goes on meanwhile.
            path, failed = None, None
            try:
                path = next(self._files, None)
            except BaseException as error:
                failed = error
            with self._changed:
                if failed is not None:
                    self._results[self._taken] = failed
                if path is None:
                    self._exhausted = True
                    self._changed.notify_all()
                    return None
                self._taken += 1
                return self._taken - 1, path

    def _made(self, connection: Connection, at: int, path: Path) -> Ready:
        spooled = self._spool_dir / f"{self._spooled_name}{at}"
        size_bytes = 0
        try:
            size_bytes = path.stat().st_size
            looked = cast(Looked, _answer(connection, path))
        except BaseException:
            self._number(at, 0)
            raise
        known, now_ms = self._known(looked.digest), self._now_ms()
        first, end = self._number(at, 0 if known else NUMBERS_A_ROW * looked.lines)
        if known:
            return Ready(path, size_bytes, now_ms, looked.digest, end, None, spooled)
        prepared = cast(Prepared, _answer(connection, (path, first, now_ms, spooled)))
        return Ready(path, size_bytes, now_ms, looked.digest, end, prepared, spooled)

    def _number(self, at: int, people: int) -> tuple[int, int]:
        """Give a file its person numbers, after all files before it have theirs."""
        with self._changed:
            self._changed.wait_for(lambda: self._numbered == at or self._stopping)
            first = self._next_person
            if first + people > limits.PERSON_NUMBER_MAX:
                raise StoreFullError("all person numbers are given out")
            self._next_person += people
            self._numbered += 1
            self._changed.notify_all()
            return first, self._next_person


def _answer(connection: Connection, asked: object) -> Looked | Prepared:
    connection.send(asked)
    answer = connection.recv()
    if isinstance(answer, ShikakuError):
        raise answer
    return cast(Looked | Prepared, answer)
