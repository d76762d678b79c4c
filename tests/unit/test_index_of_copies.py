"""One index for each data folder: what a copy of a store must never see, take away, or be checked against."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from engine import fsck
from engine.config import Config
from engine.days import NO_DAY
from engine.entries import ENTRY_DTYPE
from engine.errors import StoreFullError, StoreLockedError
from engine.index import NO_ENTRIES, IndexReader, IndexWriter
from engine.ingest.registry import Registry
from engine.recovery import index_directory
from engine.store import HISTORIES_KEPT, StoreReader
from tests.support import registries, tables
from tests.support.registries import KEYS, applied, assert_sound, call, lose, row
from tests.support.tables import KEY_ID, STORE_ID

LOST_ON = 36_500


def directory_of(config: Config) -> Path:
    store = StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    try:
        return index_directory(config, store.store_id)
    finally:
        store.close()


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Config]:
    config = registries.settings(tmp_path, index_dir=None)
    registries.init(config)
    directory = directory_of(config)
    yield config
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def copy(original: Config, tmp_path: Path) -> Iterator[Config]:
    """The settings of a copy that tests make."""
    config = replace(original, data_dir=tmp_path / "copy")
    yield config
    if config.data_dir.exists():
        shutil.rmtree(directory_of(config), ignore_errors=True)


def last_day(config: Config) -> int:
    """The day on which card 1 was lost, as the live index has it."""
    store = StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    index = IndexReader.attach(index_directory(config, store.store_id), store_id=store.store_id, key_id=KEYS.key_id)
    try:
        return lost_in(store, index)
    finally:
        index.close()
        store.close()


def lost_in(store: StoreReader, index: IndexReader) -> int:
    (_, entries), *_ = store.entries(store.committed_seq)
    (match,) = index.find(entries["hash"][0].tobytes())
    return match[2]


def test_a_copy_leaves_the_index_of_the_original_alone(original: Config, copy: Config) -> None:
    """The original records a loss after the copy was made; then the copy is opened, written and checked."""
    with registries.opened(original) as first:
        applied(first, call(row(1)))
        first.snapshot(copy.data_dir)
        applied(first, call(lose(1, LOST_ON)))
        store_id, directory = first.store.store_id, directory_of(original)
        reader = IndexReader.attach(directory, store_id=store_id, key_id=KEYS.key_id)
        before = (reader.generation, reader.data_version)
        assert lost_in(first.store, reader) == LOST_ON
        assert_sound(copy)
        with registries.opened(copy) as second:
            assert second.store.store_id == store_id and directory_of(copy) != directory
            applied(second, call(row(2)))
            assert (reader.generation, reader.data_version) == before
            assert lost_in(first.store, reader) == last_day(original) == LOST_ON != last_day(copy)
            assert_sound(copy)
            assert_sound(original)
        applied(first, call(row(3)))
        assert_sound(original)
        reader.close()


def test_a_folder_that_was_copied_by_hand_has_its_own_index(original: Config, copy: Config) -> None:
    with registries.opened(original) as first:
        applied(first, call(row(1)))
    shutil.copytree(original.data_dir, copy.data_dir)
    with registries.opened(original) as first:
        applied(first, call(lose(1, LOST_ON)))
        report = fsck.run(copy, KEYS)
        assert report.problems == [] and "index_entries" not in report.counts, "there is no index of the copy yet"
        with registries.opened(copy):
            assert last_day(original) == LOST_ON != last_day(copy)


def test_a_copy_with_the_same_index_directory_by_setting_is_refused(original: Config, copy: Config) -> None:
    shared = original.data_dir.parent / "shared"
    with registries.opened(replace(original, index_dir=shared)) as first:
        applied(first, call(row(1)))
        first.snapshot(copy.data_dir)
        applied(first, call(lose(1, LOST_ON)))
        with pytest.raises(StoreLockedError, match="another writer uses the index"):
            Registry.open(replace(copy, index_dir=shared), KEYS)
        assert last_day(replace(original, index_dir=shared)) == LOST_ON
        assert_sound(replace(original, index_dir=shared))
    shutil.rmtree(shared)


@pytest.mark.parametrize("left", ["live", "saved"])
def test_an_index_of_another_history_is_not_used(original: Config, tmp_path: Path, left: str) -> None:
    """The store is put back and written further elsewhere; then it meets what was made of it before."""
    with registries.opened(original) as first:
        applied(first, call(row(1)))
        first.snapshot(tmp_path / "kept")
        applied(first, call(lose(1, LOST_ON)))
    elsewhere = replace(original, data_dir=tmp_path / "kept", index_dir=tmp_path / "index")
    with registries.opened(elsewhere) as second:
        applied(second, call(row(2)), call(row(3)))
    shutil.rmtree(original.store_dir)
    shutil.copytree(elsewhere.store_dir, original.store_dir)
    if left == "saved":
        shutil.rmtree(directory_of(original))
    with registries.opened(original) as again:
        assert again.index.data_version == again.store.committed_seq == 3
        assert last_day(original) == NO_DAY
    assert_sound(original)


def test_an_index_of_an_earlier_opening_is_brought_up_to_date(
    original: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registries.opened(original) as first:
        applied(first, call(row(1)))
    saved = original.snapshot_file.read_bytes()
    for at in range(2, 5):
        with registries.opened(original) as later:
            applied(later, call(row(at)))
    shutil.rmtree(directory_of(original))
    original.snapshot_file.write_bytes(saved)
    monkeypatch.setattr(IndexWriter, "rebuild", None)  # must not be needed
    with registries.opened(original) as again:
        assert again.index.data_version == 4
    assert_sound(original)


def test_histories_are_bounded_and_old_stores_have_none(original: Config) -> None:
    with registries.opened(original) as registry:
        applied(registry, call(row(1)))
        store = registry.store
        assert store.has_been(registry.index.history, 1) and not store.has_been(registry.index.history, 2)
        assert not store.has_been(0, 0)
        first = registry.index.history
        later = [store.begin_history() for _ in range(HISTORIES_KEPT)]
        assert not store.has_been(first, 1) and all(store.has_been(history, 1) for history in later)


HOLDER = """
import sys, time
from pathlib import Path
from engine.index import IndexWriter
writer = IndexWriter.create(Path(sys.argv[1]), store_id=bytes(range(16)), key_id=bytes.fromhex(sys.argv[2]), keys=64)
print("held", flush=True)
time.sleep(600)
"""


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "index"), KEY_ID.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            with pytest.raises(StoreLockedError):
                IndexWriter.attach(tmp_path / "index", store_id=STORE_ID, key_id=KEY_ID)
            with pytest.raises(StoreLockedError):
                IndexWriter.create(tmp_path / "index", store_id=STORE_ID, key_id=KEY_ID, keys=64)
        finally:
            process.send_signal(signal.SIGKILL)
        process.wait()
        IndexWriter.attach(tmp_path / "index", store_id=STORE_ID, key_id=KEY_ID).close()


# --- what an index begins with ------------------------------------------------------------------------------------


def create(directory: Path, spool_dir: Path | None = None) -> IndexWriter:
    return IndexWriter.create(directory, store_id=STORE_ID, key_id=KEY_ID, keys=1000, spool_dir=spool_dir)


def test_no_index_begins_at_a_number_of_insurers_that_was_met_before(tmp_path: Path) -> None:
    met = set()
    for _ in range(3):
        writer = create(tmp_path / "index")
        writer.publish(1, added=NO_ENTRIES, removed=NO_ENTRIES, insurers_changed=True)
        writer.save(tmp_path / "snapshot")
        met.add(writer.insurers_version)
        writer.close()
        writer = IndexWriter.load(tmp_path / "index", tmp_path / "snapshot", store_id=STORE_ID, key_id=KEY_ID)
        met.add(writer.insurers_version)
        writer.close()
    assert len(met) == 6


def test_what_was_rebuilt_from_everything_is_settled(tmp_path: Path) -> None:
    writer = create(tmp_path / "index")
    reader = IndexReader.attach(tmp_path / "index", store_id=STORE_ID, key_id=KEY_ID)
    batch = tables.batch(tables.hashes(10, 1), 1, 1)

    def cut_off() -> Iterator[tables.Batch]:
        yield batch
        raise StoreFullError("cut off")

    with pytest.raises(StoreFullError):
        writer.publish(5, added=cut_off(), removed=NO_ENTRIES, insurers_changed=False)
    assert reader.still() == -1
    writer.rebuild(lambda: [batch], seq=5, keys=10)
    assert (reader.data_version, reader.still()) == (5, 5) and writer.check() == []
    writer.publish(5, added=NO_ENTRIES, removed=NO_ENTRIES, insurers_changed=True)
    assert reader.still() == 5
    reader.close()
    writer.close()


# --- provisional entries that cannot be written down --------------------------------------------------------------


def test_provisional_entries_are_written_down_in_the_folder_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    for spool_dir in (None, tmp_path / "spool"):
        writer = create(tmp_path / "index", spool_dir)
        writer.add_provisional(*tables.batch(tables.hashes(10, 1), 1, 1))
        assert writer.reserve(100_000, lambda: [NO_ENTRIES]) and writer.provisional_count == 10
        writer.close()
    assert list((tmp_path / "spool").iterdir()) == []


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from engine.entries import ENTRY_DTYPE
from engine.errors import StoreFullError
from engine.index import IndexWriter
folder = Path(sys.argv[1])
writer = IndexWriter.create(folder / "index", store_id=bytes(16), key_id=bytes(8), keys=64, spool_dir=folder / "spool")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
entries = np.zeros(40_000, ENTRY_DTYPE)
try:
    writer.add_provisional(np.arange(40_000, dtype=np.uint32), entries)
except StoreFullError as error:
    print(error.code, writer.count)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert writer.drop_provisional() == 0
writer.add_provisional(np.arange(1, 3, dtype=np.uint32), entries[:2])
print(writer.provisional_count)
writer.close()
"""


def test_no_room_to_write_them_down_is_a_full_store(tmp_path: Path) -> None:
    assert ENTRY_DTYPE.itemsize * 40_000 > 4096
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.split() == [StoreFullError.code, "0", "2"]
