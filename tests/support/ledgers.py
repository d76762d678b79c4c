"""Owns logs for tests of ext/ledger: the files that it is handed, and facts to record."""

from __future__ import annotations

import os
import random
import select
from pathlib import Path
from types import ModuleType
from typing import Any

LEVELS = 8
NOW_MS = 1_795_388_400_000
KEYS: dict[str, Any] = {"inquiry_key": b"i" * 16, "code_key": b"c" * 16, "person_key": b"p" * 16}


def files(folder: Path) -> dict[str, Any]:
    """What a ledger is handed of an empty log in a folder."""
    folder.mkdir(exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    return {
        "folder_fd": os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
        "level_fds": [os.open(folder / f"level-{level}", flags) for level in range(LEVELS)],
        "segment_fd": os.open(folder / "segment-0000000000000000", flags),
        "offset": 4096,
        "filled": 4096,
        "entries": 0,
        "nodes": [],
    }


def opened(form: ModuleType, folder: Path, **more: Any) -> Any:
    """A ledger of either form over an empty log; its clock stands still."""
    given = files(folder) | KEYS | {"slot": 3, "log_id": b"l" * 16, "segment_bytes": 1 << 20, "fixed_ms": NOW_MS}
    return form.Ledger(**given | more)


def facts(chance: random.Random) -> dict[str, Any]:
    """Something to record, of any kind."""
    return {
        "kind": chance.choice((1, 2, 3, 4)),
        "purpose": chance.randrange(9),
        "verdict": chance.choice((1, 2, 3, 4, 5, 7, 255)),
        "flags": chance.choice((0, 2, 8, 10)),
        "as_of": chance.choice((None, 1, 38_000, 65_533, -700_899, 2_951_159)),
        "version": chance.choice((0, 1, 2**40, 2**64 - 1)),
        "caller": chance.choice((b"1311111114", b"", b"x" * 16)),
        "inquiry": chance.randbytes(16),
        "person": chance.choice((None, 0, 1, 2**40)),
        "body": chance.randbytes(chance.choice((0, 1, 54, 55, 56, 63, 64, 65, 119, 120, 1_000))),
        "mark": bytes(chance.choices(b"abc-123", k=chance.choice((0, 1, 21, 63, 64, 65)))),
    }


def save(ledger: Any) -> tuple[int, int]:
    """Have everything written, and wait for it. Returns what `settle` says then."""
    ledger.flush()
    while True:
        durable, failure = ledger.settle()
        if durable == ledger.entries or failure:
            return durable, failure
        select.select([ledger.fileno], [], [], 10)
