"""Tests that the memory of an import is bounded by the chunk and not by the feed, in processes of their own.

Counted is what a process has of its own (RssAnon): the store and the index are mapped, grow with the feed, and are
the kernel's to reclaim.
"""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.entries import ENTRY_BYTES
from engine.ingest import publication, spool
from engine.ingest.publication import Pairs, publish_feed
from engine.ingest.spool import Spool
from tests.support.processes import ROOT
from tests.support.registries import CSV_COLUMNS, assert_sound, csv_line, init, settings

FEW, MANY = 20_000, 80_000
GROWTH_BYTES_MAX = 40 << 20
IMPORT = """
import sys
from pathlib import Path
from tests.support.registries import opened, settings
with opened(settings(Path(sys.argv[1]), index_keys=1 << 19, map_bytes=1 << 30)) as registry:
    print(registry.import_feed(Path(sys.argv[2]), format="csv").rows)
"""


def write_feed(
    path: Path, rows: int, op: str = "new", gained: str = "2020-04-01", lost: str = "", reason: str = ""
) -> Path:
    """A feed of so many people, from one line as a template."""
    before, after = csv_line("@", op, gained=gained, lost=lost, reason=reason).split("@")
    with path.open("w", encoding="utf-8") as file:
        file.write(CSV_COLUMNS + "\n")
        file.writelines(f"{before}{number}{after}\n" for number in range(1, rows + 1))
    return path


def own_bytes(pid: int) -> int:
    """What a process has of its own in memory; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)


def peak_of_import(folder: Path, feed: Path, rows: int) -> int:
    """The most that a process has of its own while it imports a feed."""
    command = [sys.executable, "-c", IMPORT, str(folder), str(feed)]
    peak = 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, own_bytes(process.pid))
            time.sleep(0.002)
        assert process.stdout is not None
        assert process.stdout.read().split() == [str(rows)]
    return peak


def test_memory_of_an_import_does_not_grow_with_the_feed(tmp_path: Path) -> None:
    peaks: dict[str, list[int]] = {"new": [], "change": []}
    for rows in (FEW, MANY):
        folder = tmp_path / str(rows)
        config = settings(folder, map_bytes=1 << 30)
        init(config)
        peaks["new"].append(peak_of_import(folder, write_feed(tmp_path / "new.csv", rows), rows))
        changed = write_feed(tmp_path / "lose.csv", rows, "lose", lost="2024-03-31", reason="01")
        peaks["change"].append(peak_of_import(folder, changed, rows))
    assert_sound(config)
    for kind, (few, many) in peaks.items():
        assert many - few < GROWTH_BYTES_MAX, f"{kind}: {few >> 20} MiB of {FEW} rows, {many >> 20} MiB of {MANY}"


class ManyPeople:
    """A store of people who each moved from one entry to another, made up as they are asked for."""

    def entries_since(self, numbers: Iterable[int], newest: int, before: int) -> Iterator[tuple[int, list[bytes]]]:
        for number in numbers:
            packed = number.to_bytes(ENTRY_BYTES, "little")
            yield number, [packed] if before == newest else [packed, bytes(ENTRY_BYTES - 4) + packed[:4]]


class Counted:
    """An index that takes what is published, counts it, and keeps nothing."""

    def publish(self, seq: int, *, added: Iterable[Pairs], removed: Iterable[Pairs], insurers_changed: bool) -> None:
        self.added = sum(len(persons) for persons, _ in added)
        self.removed = sum(len(persons) for persons, _ in removed)


def peak_of_publication(folder: Path, people: int) -> int:
    """The most that publishing so many changed people allocates."""
    index = Counted()
    with Spool(folder, "publication") as journal:
        for first in range(1, people, 1_000):
            journal.note_changed(first, np.arange(first, first + 1_000, dtype=np.uint32))
        tracemalloc.start()
        publish_feed(ManyPeople(), index, journal, before=0, upto=people)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (index.added, index.removed) == (people, people)
    return peak


def test_memory_of_a_publication_does_not_grow_with_the_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "PEOPLE_AT_A_TIME", 1_000)
    monkeypatch.setattr(spool, "PIECE", 2_000)
    few = peak_of_publication(tmp_path, 6_000)
    many = peak_of_publication(tmp_path, 24_000)
    kept_for_each = (many - few) / 18_000
    assert kept_for_each < 2, f"{kept_for_each:.0f} bytes for each person changed"
