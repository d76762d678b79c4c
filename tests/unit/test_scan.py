"""Asks whether reading all entries of a store, in one process or in several, finds what everybody has now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import scan
from engine.errors import ShikakuError, StorePoisonedError
from engine.store import StoreWriter
from tests.support import registries
from tests.support.registries import KEYS, csv_line, write_csv

PEOPLE = 300


def filled(folder: Path) -> StoreWriter:
    """A store whose people have one to three versions each."""
    config = registries.settings(folder)
    registries.init(config)
    lines = [csv_line(n, serial=f"{n:X}B") for n in range(1, PEOPLE + 1)]
    lines += [csv_line(n, "change", gained="2020-04-01") for n in range(1, PEOPLE + 1, 2)]
    lines += [csv_line(n, "lose", lost="2022-01-01", reason="03") for n in range(1, PEOPLE + 1, 4)]
    with registries.opened(config) as registry:
        registry.import_feed(write_csv(folder / "feed.csv", lines), as_of=39_000)
    return StoreWriter(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)


def sorted_entries(batches: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[int, bytes]]:
    return sorted(
        (int(person), entry.tobytes())
        for persons, entries in batches
        for person, entry in zip(persons, entries, strict=True)
    )


def test_several_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    for seq in (store.committed_seq, PEOPLE + 1, PEOPLE, 17):
        expected = sorted_entries(list(store.entries(seq)))
        monkeypatch.setattr(scan, "ALONE_MAX", 10)
        monkeypatch.setattr(scan, "SLICE", 64)
        found = sorted_entries(list(scan.all_entries(store, seq)))
        monkeypatch.undo()
        assert found == expected
    store.close()


def test_ranges_of_people_make_up_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a piece ends between two versions of one person."""
    store = filled(tmp_path)
    whole = sorted_entries(list(store.entries(store.committed_seq)))
    for versions in (1, 2, 3, 7, 1_000):
        monkeypatch.setattr("engine.store.SCAN_VERSIONS", versions)
        parts = [piece for at in range(0, 400, 50) for piece in store.entries(store.committed_seq, at, at + 50)]
        assert sorted_entries(parts) == whole
    store.close()


def test_samples_tell_how_many_entries_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    exact = store.key_count(store.committed_seq)
    assert scan.keys_estimated(store, store.committed_seq) == exact
    monkeypatch.setattr(scan, "COUNTED_MAX", 10)
    for name in ("engine.scan.SCAN_VERSIONS", "engine.store.SCAN_VERSIONS"):
        monkeypatch.setattr(name, 8)
    assert abs(scan.keys_estimated(store, store.committed_seq) - exact) < exact * 0.2
    store.close()


def test_a_few_people_with_many_versions_are_estimated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer people than samples there was no step from one to the next, and a server did not start."""
    config = registries.settings(tmp_path)
    registries.init(config)
    lines = [csv_line(1)] + [csv_line(1, "change", gained=f"20{year}-04-01") for year in range(10, 24)]
    with registries.opened(config) as registry:
        registry.import_feed(write_csv(tmp_path / "feed.csv", lines), as_of=39_000)
    store = StoreWriter(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    monkeypatch.setattr(scan, "COUNTED_MAX", 3)
    assert store.committed_seq > scan.COUNTED_MAX and store.next_person < scan.SPOTS
    assert scan.keys_estimated(store, store.committed_seq) >= 0
    store.close()
    config.snapshot_file.unlink(missing_ok=True)
    registries.assert_sound(config)


def test_a_process_that_cannot_read_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    monkeypatch.setattr(scan, "ALONE_MAX", 10)
    store.path = tmp_path / "nowhere"
    with pytest.raises(ShikakuError):
        list(scan.all_entries(store, store.committed_seq))
    store.path = tmp_path / "data" / "store"
    monkeypatch.setattr(scan, "send_entries", _ends_at_once)
    with pytest.raises(StorePoisonedError):
        list(scan.all_entries(store, store.committed_seq))
    store.close()


def _ends_at_once(*_: object) -> None:
    return
