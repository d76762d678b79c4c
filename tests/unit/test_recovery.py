"""Tests of engine/recovery: whatever a crash or a visitor left, the next start agrees with what was committed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine import keys, recovery
from engine.config import Config
from engine.errors import KeyMismatchError, StoreFullError, StoreLockedError, StoreMissingError
from engine.index import IndexWriter
from engine.ingest.registry import Registry
from engine.ingest.rows import Op
from engine.store import StoreWriter
from tests.support import registries
from tests.support.registries import KEYS, applied, call, lose, row

CARDS = 40


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = registries.settings(tmp_path)
    registries.init(made)
    with registries.opened(made) as registry:
        applied(registry, *(call(row(number, link=f"L{number}")) for number in range(CARDS)))
    return made


def assert_as_committed(config: Config, seq: int = CARDS) -> None:
    """The next start finds everything, and the one after that finds it so already."""
    for _ in range(2):
        with registries.opened(config) as registry:
            assert registry.store.committed_seq == registry.index.data_version == registry.index.visible_version == seq
        registries.assert_sound(config)


def index_files(config: Config) -> list[Path]:
    assert config.index_dir is not None
    return sorted(config.index_dir.glob("*.seg"))


def test_a_live_index_is_taken_over(config: Config) -> None:
    before = [path.name for path in index_files(config)]
    assert_as_committed(config)
    assert [path.name for path in index_files(config)] == before


def test_without_a_live_index_the_snapshot_is_loaded(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.index_dir is not None
    shutil.rmtree(config.index_dir)
    monkeypatch.setattr(IndexWriter, "rebuild", None)  # must not be needed
    assert_as_committed(config)


def test_an_old_snapshot_is_brought_up_to_date(config: Config) -> None:
    saved = config.snapshot_file.read_bytes()
    with registries.opened(config) as registry:
        applied(registry, call(lose(1)), call(row(2, Op.CANCEL)), call(row(99)), call(row(100, link="L3")))
    assert config.index_dir is not None
    shutil.rmtree(config.index_dir)
    config.snapshot_file.write_bytes(saved)
    assert_as_committed(config, CARDS + 4)


def test_without_index_and_snapshot_it_is_rebuilt(config: Config) -> None:
    assert config.index_dir is not None
    shutil.rmtree(config.index_dir)
    config.snapshot_file.unlink()
    assert_as_committed(config)


def test_an_index_that_is_saved_already_is_not_saved_again(config: Config) -> None:
    """A replayed import used to write the whole index to disk once more, gigabytes for a country."""
    before = config.snapshot_file.stat().st_ino
    with registries.opened(config) as registry:
        applied(registry, call(row(CARDS - 1, link=f"L{CARDS - 1}")))  # repeated: the receipt of then
        assert registry.store.committed_seq == CARDS
    assert config.snapshot_file.stat().st_ino == before
    with registries.opened(config) as registry:
        applied(registry, call(row(99)))
    assert config.snapshot_file.stat().st_ino != before


def saved_elsewhere(config: Config, saved: bytes) -> bytes:
    """The same bytes with the history of another store."""
    return saved[:32] + bytes(8) + saved[40:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda config, saved: saved[:-1],
        lambda config, saved: b"",
        lambda config, saved: b"x" + saved[1:],
        saved_elsewhere,
        None,
    ],
)
def test_a_snapshot_that_could_not_be_loaded_is_written_anew(
    config: Config, damage: Callable[[Config, bytes], bytes] | None
) -> None:
    saved = config.snapshot_file.read_bytes()
    if damage is None:
        config.snapshot_file.unlink()
    else:
        config.snapshot_file.write_bytes(damage(config, saved))
    with registries.opened(config):
        pass
    assert len(config.snapshot_file.read_bytes()) == len(saved)
    assert config.index_dir is not None
    shutil.rmtree(config.index_dir)
    assert_as_committed(config)


def test_a_snapshot_of_an_earlier_change_is_replaced(config: Config) -> None:
    saved = config.snapshot_file.read_bytes()
    with registries.opened(config) as registry:
        applied(registry, call(lose(1)))
    config.snapshot_file.write_bytes(saved)
    with registries.opened(config):
        pass
    assert config.snapshot_file.read_bytes() != saved


def damage_header(config: Config) -> None:
    with index_files(config)[0].open("r+b") as file:
        file.seek(20)
        file.write(b"\xff" * 8)


def damage_current(config: Config) -> None:
    assert config.index_dir is not None
    (config.index_dir / "CURRENT").write_bytes(b"../../etc/passwd\n")


def empty_segment(config: Config) -> None:
    os.truncate(index_files(config)[0], 0)


def cut_segment(config: Config) -> None:
    path = index_files(config)[0]
    os.truncate(path, path.stat().st_size // 2)


def damage_snapshot(config: Config) -> None:
    assert config.index_dir is not None
    shutil.rmtree(config.index_dir)
    saved = bytearray(config.snapshot_file.read_bytes())
    saved[len(saved) // 2] ^= 1
    config.snapshot_file.write_bytes(saved)


def cut_snapshot(config: Config) -> None:
    assert config.index_dir is not None
    shutil.rmtree(config.index_dir)
    os.truncate(config.snapshot_file, config.snapshot_file.stat().st_size - 1)


@pytest.mark.parametrize(
    "damage", [damage_header, damage_current, empty_segment, cut_segment, damage_snapshot, cut_snapshot]
)
def test_a_damaged_index_is_made_anew(config: Config, damage: Callable[[Config], None]) -> None:
    damage(config)
    assert_as_committed(config)


def test_an_index_of_a_later_state_is_not_used(config: Config, tmp_path: Path) -> None:
    shutil.copytree(config.store_dir, tmp_path / "old")
    with registries.opened(config) as registry:
        applied(registry, call(row(500)))
    shutil.rmtree(config.store_dir)
    shutil.copytree(tmp_path / "old", config.store_dir)
    assert_as_committed(config)


def test_a_snapshot_of_another_history_is_gone_before_the_store_has_got_as_far(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk no new history could be begun, and the snapshot would later have been taken for ours."""
    shutil.copytree(config.store_dir, tmp_path / "old")
    with registries.opened(config) as registry:
        applied(registry, call(row(500)))
    assert config.snapshot_file.exists()
    shutil.rmtree(config.store_dir)
    shutil.copytree(tmp_path / "old", config.store_dir)

    def full(self: object) -> int:
        raise StoreFullError("no room")

    monkeypatch.setattr(StoreWriter, "begin_history", full)
    registry = Registry.open(config, KEYS)
    applied(registry, call(row(501)))
    registry.index.close()
    registry.store.close()
    monkeypatch.undo()
    shutil.rmtree(recovery.index_directory(config, registry.store.store_id))
    assert_as_committed(config, CARDS + 1)


def unfinished(config: Config, *, index_too: bool) -> None:
    """Leave what a writer that was killed in the middle of a feed leaves."""
    store, index = recovery.open_for_writing(config, KEYS)
    person = row(700).person
    for seq in range(CARDS + 1, CARDS + 5):
        key = registries.store.version_key(seq, seq)
        entries = registries.entries_of(KEYS, seq, person)
        with store.transaction() as txn:
            record = registries.store.pack_record(key, 1, entries, registries.store.encode_person(person))
            txn.put_versions([(key, record)], append=True)
            txn.put_changes(seq, np.array([seq], np.uint32))
        if index_too:
            index.add_provisional(*registries.as_arrays([(seq, entries)]))
    index.close()
    store.close()


@pytest.mark.parametrize("index_too", [False, True])
def test_a_feed_that_was_cut_off_is_rolled_back(config: Config, index_too: bool) -> None:
    unfinished(config, index_too=index_too)
    config.spool_dir.mkdir(exist_ok=True)
    (config.spool_dir / "import-7.staged").write_bytes(b"left behind")
    assert registries.fsck.run(config, KEYS).problem_count > 0
    assert_as_committed(config)
    assert list(config.spool_dir.iterdir()) == []


@pytest.mark.parametrize("cut", ["added", "visible", "removed"])
def test_a_publication_that_was_cut_off_is_finished(config: Config, cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before, between and within the steps of a publication: the next start does all of it again."""

    class Cut(BaseException):
        pass

    real = IndexWriter.publish

    def publish(self: IndexWriter, seq: int, *, added: object, removed: object, insurers_changed: bool) -> None:
        def stop(where: str) -> object:
            if where == cut:
                raise Cut
            yield from ()

        def steps(where: str, batches: object) -> object:
            yield from stop(where)
            yield from [batches] if isinstance(batches, tuple) else batches  # type: ignore[misc]
            if where == "added":
                yield from stop("visible")

        real(
            self,
            seq,
            added=steps("added", added),  # type: ignore[arg-type]
            removed=steps("removed", removed),  # type: ignore[arg-type]
            insurers_changed=insurers_changed,
        )

    registry = Registry.open(config, KEYS)
    monkeypatch.setattr(IndexWriter, "publish", publish)
    with pytest.raises(Cut):
        registry.apply_calls([call(lose(1), row(2, Op.CANCEL), row(900, link="L5"))])
    monkeypatch.undo()
    registry.index.close()
    registry.store.close()
    assert_as_committed(config, CARDS + 3)


def test_there_is_one_registry(config: Config) -> None:
    with registries.opened(config), pytest.raises(StoreLockedError):
        Registry.open(config, KEYS)
    assert_as_committed(config)


def test_a_wrong_key_opens_nothing(config: Config) -> None:
    with pytest.raises(KeyMismatchError):
        Registry.open(config, keys.Keys(bytes(32)))
    assert_as_committed(config)


def test_without_a_store_nothing_is_made(tmp_path: Path) -> None:
    config = registries.settings(tmp_path / "none")
    with pytest.raises(StoreMissingError):
        Registry.open(config, KEYS)
    assert not (tmp_path / "none").exists()


def test_a_snapshot_is_a_data_folder(config: Config, tmp_path: Path) -> None:
    with registries.opened(config) as registry:
        registry.snapshot(tmp_path / "copy")
        applied(registry, call(row(800)))
        with pytest.raises(FileExistsError):
            registry.snapshot(tmp_path / "copy")
    copy = registries.settings(tmp_path, data_dir=tmp_path / "copy", index_dir=tmp_path / "copy-index")
    assert_as_committed(copy)
    assert_as_committed(config, CARDS + 1)


def test_a_failed_start_lets_go_of_the_lock(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def roll_back(self: StoreWriter) -> int:
        raise MemoryError

    monkeypatch.setattr(StoreWriter, "roll_back", roll_back)
    with pytest.raises(MemoryError):
        Registry.open(config, KEYS)
    monkeypatch.undo()
    assert_as_committed(config)


@pytest.mark.parametrize("saved", [True, False])
def test_readers_see_an_index_only_when_it_is_up_to_date(
    config: Config, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """A rebuilt index was once announced empty, and a saved one as old as it was: everybody unknown, losses undone."""
    registry = Registry.open(config, KEYS)
    applied(registry, call(lose(1)))
    registry.index.close()
    registry.store.close()
    assert config.index_dir is not None
    shutil.rmtree(config.index_dir)
    if not saved:
        config.snapshot_file.unlink()
    seen: list[str] = []

    def look(*_: object, **__: object) -> None:
        seen.extend(path.name for path in config.index_dir.iterdir() if path.name == "CURRENT")  # type: ignore[union-attr]

    for name, owner in (("rebuild", IndexWriter), ("drop_provisional", IndexWriter), ("replay", recovery.publication)):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _run=original, **k: (look(), _run(*a, **k))[1])
    recovered = Registry.open(config, KEYS)
    # Looked at before each step; what was rebuilt is announced full, what was loaded only after the last step.
    assert seen == ([] if saved else ["CURRENT"])
    recovered.close()
    assert_as_committed(config, CARDS + 1)
