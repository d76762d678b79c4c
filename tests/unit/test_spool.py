"""Tests of the spool where the disk refuses: its errors are the store's, and nothing stays open."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from engine.errors import StoreFullError, StorePoisonedError
from engine.ingest import spool
from engine.ingest.spool import Spool


def test_a_spool_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"a file in its place")
    with pytest.raises(StorePoisonedError, match="opening the spool"):
        Spool(tmp_path / "spool", "import-1")
    with pytest.raises(StorePoisonedError, match="emptying the spool"):
        spool.empty(tmp_path / "spool")


def test_a_spool_that_can_be_opened_in_part_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "import-1.changed").mkdir()
    before = psutil.Process().num_fds()
    with pytest.raises(StorePoisonedError, match="EISDIR"):
        Spool(tmp_path, "import-1")
    assert psutil.Process().num_fds() == before


def test_a_full_disk_is_a_full_store(tmp_path: Path) -> None:
    (tmp_path / "import-1.staged").symlink_to("/dev/full")
    with Spool(tmp_path, "import-1") as journal, pytest.raises(StoreFullError, match="writing the spool"):
        journal._staged.write(b"buffered")
        journal.staged().__next__()
