"""Owns starting a process that works for this one over a pipe, and is not disturbed by Ctrl-C."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess


def start(
    serve: Callable[..., None], *given: object, name: str | None = None, duplex: bool = True
) -> tuple[BaseProcess, Connection]:
    """Start `serve(its end of a pipe, *given)` in a process of its own. Returns the process and this end of the pipe.

    The process ends with this one. If it ends first, this end of the pipe raises EOFError.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex)
    child = context.Process(target=serve, args=(theirs, *given), daemon=True, name=name)
    with _interrupts_later():
        child.start()
    theirs.close()  # the child's end is the last one then, and this side is told when it dies
    return child, ours


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C comes to this process when the block is left, and never to a process that is started in it.

    It reaches every process of a terminal. A child that began to ignore it in `serve` would show a traceback if it came
    while its modules are loaded, and so would one that is not told what to do because its parent was interrupted. The
    signals that are blocked are inherited; the handler is there for those that reach another thread of this process.
    """
    resource_tracker.ensure_running()  # whose start would unblock them
    came: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()  # the only one that is ever interrupted
    handler = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number)) if in_main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if in_main:
            signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)
