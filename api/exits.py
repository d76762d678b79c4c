"""Owns how processes end and what they say: the exit codes, which error leads to which, and the log's one line.

The table is printed by `shikaku --help` and quoted in docs/OPERATING.md; scripts may rely on it.
"""

from __future__ import annotations

import ctypes
import enum
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Final

from engine.errors import (
    ConfigError,
    CorruptionError,
    IndexCorruptError,
    InputError,
    PushbackError,
    RefusedError,
    ShikakuError,
    StoreError,
)

_PR_SET_PDEATHSIG: Final = 1
_FRAMES: Final = 4
"""Places named in the line of a defect, innermost first."""


class Exit(enum.IntEnum):
    """What a process says with its end."""

    OK = 0
    NEGATIVE = 1
    USAGE = 2
    UNREACHABLE = 3
    STORE = 4
    CORRUPTION = 5
    BUSY = 6
    PORT = 7
    INDEX = 8
    DEFECT = 9
    INTERRUPTED = 130


MEANINGS: Final = {
    Exit.OK: "done",
    Exit.NEGATIVE: "done, with a negative result: problems found, feed rejected, other verdict than expected",
    Exit.USAGE: "wrong option, setting or value: change the command",
    Exit.UNREACHABLE: "no server answers",
    Exit.STORE: "the store or its key is missing, locked, full, or of another version",
    Exit.CORRUPTION: "stored bytes are not what was written: stop and restore",
    Exit.BUSY: "the server is starting or its queue is full: try again later",
    Exit.PORT: "a port cannot be listened on",
    Exit.INDEX: "the index is damaged; it holds nothing of its own and is made anew when the server starts",
    Exit.DEFECT: "a defect of this program",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}

_FAMILIES: Final = (
    (IndexCorruptError, Exit.INDEX),
    (CorruptionError, Exit.CORRUPTION),
    (ConfigError, Exit.USAGE),
    (StoreError, Exit.STORE),
    (PushbackError, Exit.BUSY),
    (InputError, Exit.USAGE),
    (RefusedError, Exit.USAGE),
)


class CommandError(Exception):
    """A process or command cannot go on; `code` is stable, `detail` is one sentence without personal data."""

    def __init__(self, exit_code: Exit, code: str, detail: str) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
        self.code = code
        self.detail = detail


def exit_of(error: BaseException) -> Exit:
    """The exit code that an error leads to."""
    if isinstance(error, CommandError):
        return error.exit_code
    return next((code for family, code in _FAMILIES if isinstance(error, family)), Exit.DEFECT)


def line_of(error: BaseException) -> str:
    """One line for the log: what happened, its code and, for a defect, where; never a value."""
    if isinstance(error, CommandError | ShikakuError):
        field = getattr(error, "field", None)
        return f"{field + ': ' if field else ''}{error.detail} [{error.code}]"
    frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return f"defect: {type(error).__name__} at {' < '.join(frames[: -1 - _FRAMES : -1])} [internal]"


def say(role: str, line: str) -> None:
    """One line to the log (standard error), in a single write, so that lines of several processes stay whole."""
    sys.stderr.write(f"shikaku {role}[{os.getpid()}]: {line}\n")
    sys.stderr.flush()


def die_with_parent(parent_pid: int, number: signal.Signals) -> None:
    """Ask the kernel for a signal to this process when its parent ends, whatever ends it (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(Exit.OK)
