"""engine/index: generations, visibility, growth, snapshots, and every file that must be refused."""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine import index as module
from engine import shm
from engine.errors import IndexCorruptError, IndexSpaceError, KeyMismatchError, StartingError, StoreFullError
from engine.index import NO_ENTRIES, IndexReader, IndexWriter, default_directory
from ext import probe
from tests.support import tables
from tests.support.tables import KEY_ID, STORE_ID, Batch

SEGMENT = "index-{:016x}.seg"


@pytest.fixture(params=tables.FORMS, ids=lambda form: {1: "atomic16", 2: "versioned"}[form])
def form(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "index"


def create(directory: Path, form: int | None = None, keys: int = 1000) -> IndexWriter:
    return IndexWriter.create(directory, store_id=STORE_ID, key_id=KEY_ID, keys=keys, form=form)


def attach(directory: Path) -> IndexWriter:
    return IndexWriter.attach(directory, store_id=STORE_ID, key_id=KEY_ID)


def reader_of(directory: Path) -> IndexReader:
    return IndexReader.attach(directory, store_id=STORE_ID, key_id=KEY_ID)


def some(count: int, seed: int = 1) -> Batch:
    return tables.batch(tables.hashes(count, seed), 1 + 10_000 * seed, seed)


def sees(view: IndexReader | IndexWriter, batch: Batch) -> int:
    """How many of these entries a view finds, one key at a time and many at once."""
    rows = tables.rows_of(*batch)
    found = sum(row in view.find(digest) for digest, row in rows)
    counts, matches = view.find_many(tables_hashes(batch))
    assert len(counts) == len(rows) and counts.sum() == len(matches) >= found
    return found


def tables_hashes(batch: Batch) -> np.ndarray:
    return np.frombuffer(batch[1]["hash"].tobytes(), np.uint64).reshape(-1, 2).copy()


def publish(writer: IndexWriter, seq: int, added: Batch = NO_ENTRIES, removed: Batch = NO_ENTRIES) -> None:
    writer.publish(seq, added=added, removed=removed, insurers_changed=False)


def test_the_default_directory_is_in_memory_and_named_after_store_and_folder(tmp_path: Path) -> None:
    here, link = tmp_path / "data", tmp_path / "link"
    link.symlink_to(here)
    named = default_directory(STORE_ID, here)
    assert named.parent == Path("/dev/shm") and re.fullmatch(r"shikaku-000102030405-[0-9a-f]{8}", named.name)
    assert default_directory(STORE_ID, link) == named, "the same folder by another name"
    assert default_directory(STORE_ID, tmp_path / "copy") != named != default_directory(KEY_ID * 2, here)


def test_a_publication_is_seen_by_readers_at_once(directory: Path, form: int) -> None:
    writer, batch = create(directory, form), some(100)
    reader = reader_of(directory)
    assert (reader.data_version, reader.still(), reader.count, reader.generation) == (0, 0, 0, 1)
    publish(writer, 7, batch)
    assert (reader.data_version, reader.still(), reader.count) == (7, 7, 100)
    assert sees(reader, batch) == sees(writer, batch) == 100
    publish(writer, 9, some(10, 2), (batch[0][:30], batch[1][:30]))
    assert reader.data_version == 9 and sees(reader, batch) == 70 and sees(reader, some(10, 2)) == 10


def test_find_message_and_rows_hash_on_the_way(directory: Path, form: int) -> None:
    from ext import keyhash

    writer = create(directory, form)
    reader = reader_of(directory)
    key, messages = b"k" * 16, [b"one", b"two", b"three"]
    hashes = keyhash.siphash128_many(key, messages)
    publish(writer, 1, tables.batch(hashes[:2]))
    assert [len(reader.find_message(key, message)) for message in messages] == [1, 1, 0]
    rows = np.zeros((3, 8), np.uint8)
    for row, message in zip(rows, messages, strict=True):
        row[: len(message)] = list(message)
    counts, matches = reader.find_many_rows(key, rows, np.array([3, 3, 5], np.uint16))
    assert counts.tolist() == [1, 1, 0] and matches["person"].tolist() == [1, 2]


def test_insurers_version_moves_only_when_told(directory: Path) -> None:
    writer, reader = create(directory), None
    reader = reader_of(directory)
    first = reader.insurers_version
    publish(writer, 1, some(5))
    assert reader.insurers_version == first
    writer.publish(1, added=NO_ENTRIES, removed=NO_ENTRIES, insurers_changed=True)
    assert reader.insurers_version == writer.insurers_version == first + 1 and reader.still() == 1


def test_publishing_again_changes_nothing(directory: Path) -> None:
    writer = create(directory)
    reader = reader_of(directory)
    for _ in range(3):
        publish(writer, 5, some(50), some(3, 9))
        assert (writer.count, reader.data_version, reader.still()) == (50, 5, 5)


def test_an_entry_that_is_added_and_removed_is_removed(directory: Path) -> None:
    writer, batch = create(directory), some(5)
    publish(writer, 1, batch, batch)
    assert writer.count == 0


def test_batches_may_be_given_one_after_the_other(directory: Path) -> None:
    writer = create(directory)
    parts = [some(50, seed) for seed in (1, 2, 3)]
    writer.publish(1, added=iter(parts), removed=iter(parts[:1]), insurers_changed=False)
    assert writer.count == 100 and sees(writer, parts[2]) == 50


def test_a_change_in_parts_is_not_settled_before_its_last_part(directory: Path) -> None:
    """A verdict from memory in between would rest on half of a feed."""
    writer = create(directory)
    reader = reader_of(directory)
    publish(writer, 10, some(10))
    publish(writer, writer.data_version, some(10, 2))
    assert (reader.data_version, reader.still(), writer.data_version) == (10, -1, 10)
    publish(writer, writer.data_version, removed=some(1))
    writer.publish(10, added=NO_ENTRIES, removed=NO_ENTRIES, insurers_changed=True)
    assert reader.still() == -1, "another insurer's name does not end it"
    publish(writer, 12, removed=some(10))
    assert (reader.data_version, reader.still(), writer.data_version) == (12, 12, 12)


def test_provisional_entries_are_the_writers_until_they_are_published(directory: Path, form: int) -> None:
    writer, batch = create(directory, form), some(60)
    reader = reader_of(directory)
    writer.add_provisional(*batch)
    assert sees(writer, batch) == 60 and sees(reader, batch) == 0 and writer.provisional_count == 60
    publish(writer, 1, (batch[0][:20], batch[1][:20]))
    assert sees(reader, batch) == 20 and writer.provisional_count == 40
    assert writer.drop_provisional() == 40
    assert sees(writer, batch) == sees(reader, batch) == 20 == writer.count
    writer.add_provisional(*batch)
    assert sees(reader, batch) == 20, "what is plain stays plain"


def test_reserve_does_nothing_while_there_is_room(directory: Path) -> None:
    writer = create(directory, keys=1000)

    def never() -> list[Batch]:
        raise AssertionError("not asked for")

    assert not writer.reserve(1000, never)
    publish(writer, 1, some(700))
    assert not writer.reserve(300, never)


def test_a_generation_that_cannot_be_named_is_thrown_away(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try to grow left a segment of full size behind, in a memory that was full already."""
    writer, plain = create(directory, keys=500), some(400)
    publish(writer, 1, plain)
    before = sorted(directory.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(module.durable, "write_atomic", full)
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            writer.reserve(10_000, lambda: iter([plain]))
    assert sorted(directory.iterdir()) == before
    assert sees(writer, plain) == sees(reader_of(directory), plain) == 400


def test_growth_keeps_everything_and_readers_follow(directory: Path, form: int) -> None:
    writer, plain, hidden = create(directory, form, keys=500), some(400), some(300, 2)
    reader = reader_of(directory)
    writer.publish(3, added=plain, removed=NO_ENTRIES, insurers_changed=True)
    insurers = writer.insurers_version
    lines = writer.lines
    find = reader.find
    writer.add_provisional(hidden[0][:90], hidden[1][:90])
    assert writer.reserve(10_000, lambda: iter([(plain[0][:150], plain[1][:150]), (plain[0][150:], plain[1][150:])]))
    writer.add_provisional(hidden[0][90:], hidden[1][90:])
    assert writer.lines > 2 * lines and writer.generation == 2
    assert sees(writer, plain) == 400 and sees(writer, hidden) == 300 and writer.provisional_count == 300
    digest, row = tables.rows_of(*plain)[0]
    assert find(digest) == (row,), "a function that was taken before goes on in the new generation"
    assert sees(reader, plain) == 400 and sees(reader, hidden) == 0
    assert (reader.generation, reader.data_version, reader.still()) == (2, 3, 3)
    assert reader.insurers_version == insurers, "growth goes on counting"
    assert writer.reserve(100_000, lambda: [plain]) and sees(writer, hidden) == 300, "and once more"
    publish(writer, 4, hidden)
    assert sees(reader, hidden) == 300 and writer.check() == []
    assert sorted(os.listdir(directory)) == ["CURRENT", SEGMENT.format(3)]


def test_what_was_removed_while_provisional_does_not_come_back_with_growth(directory: Path, form: int) -> None:
    writer, batch = create(directory, form), some(60)
    writer.add_provisional(*batch)
    first, second = (batch[0][:20], batch[1][:20]), (batch[0][20:40], batch[1][20:40])
    writer.publish(1, added=NO_ENTRIES, removed=first, insurers_changed=False)
    publish(writer, 2, second)
    writer.publish(3, added=NO_ENTRIES, removed=second, insurers_changed=False)
    assert writer.reserve(100_000, list) and writer.generation == 2
    assert sees(writer, first) == sees(writer, second) == 0 and writer.provisional_count == 20 == writer.count
    publish(writer, 4, first)
    writer.add_provisional(*first)
    assert writer.reserve(1_000_000, lambda: [first])
    assert sees(reader_of(directory), first) == 20 and writer.provisional_count == 20


def test_every_property_of_a_reader_follows(directory: Path) -> None:
    for name in ("data_version", "still", "insurers_version", "generation", "count"):
        writer = create(directory)
        writer.publish(5, added=some(10), removed=NO_ENTRIES, insurers_changed=True)
        reader = reader_of(directory)
        writer.rebuild([some(20)], seq=6, keys=20)
        insurers = writer.insurers_version
        expected = {"data_version": 6, "still": 6, "insurers_version": insurers, "count": 20}
        found = getattr(reader, name)
        assert (found() if callable(found) else found) == expected.get(name, writer.generation)
        reader.close()
        writer.close()


def test_growth_grows_further_when_the_store_has_more_than_was_said(directory: Path) -> None:
    writer = create(directory, keys=64)
    publish(writer, 1, some(10))
    assert writer.reserve(100, lambda: [some(1000, seed) for seed in (1, 2, 3)])
    assert writer.count == 3000 and writer.check() == []
    writer.rebuild(lambda: [some(5000)], seq=2, keys=1)
    assert writer.count == 5000 and writer.check() == []


def test_rebuild_from_entries_that_come_once_needs_the_right_number(directory: Path) -> None:
    writer = create(directory)
    publish(writer, 1, some(10))
    with pytest.raises(IndexSpaceError, match="more entries"):
        writer.rebuild(iter([some(5000)]), seq=2, keys=64)
    assert sees(writer, some(10)) == 10 and sorted(os.listdir(directory)) == ["CURRENT", SEGMENT.format(1)]


def test_rebuild_replaces_everything(directory: Path, form: int) -> None:
    writer = create(directory, form)
    reader = reader_of(directory)
    publish(writer, 1, some(100))
    writer.add_provisional(*some(10, 2))
    writer.rebuild([some(50, 3)], seq=8, keys=50)
    for view in (writer, reader):
        assert view.count == 50 and view.data_version == 8
        assert sees(view, some(50, 3)) == 50 and sees(view, some(100)) == 0 and sees(view, some(10, 2)) == 0


def test_a_source_that_fails_leaves_the_old_generation_in_use(directory: Path) -> None:
    writer, reader = create(directory), None
    reader = reader_of(directory)
    publish(writer, 1, some(100))

    def broken() -> Iterator[Batch]:
        yield some(50, 2)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        writer.reserve(100_000, broken)
    assert sees(reader, some(100)) == 100 and writer.generation == reader.generation == 1
    assert sorted(os.listdir(directory)) == ["CURRENT", SEGMENT.format(1)]


def test_a_full_index_is_an_error_that_names_what_to_do(directory: Path) -> None:
    writer = create(directory, keys=64)
    with pytest.raises(IndexSpaceError, match="reserved"):
        publish(writer, 1, some(1000))
    assert writer.data_version == 0
    with pytest.raises(IndexSpaceError):
        writer.add_provisional(*some(1000))


def test_no_room_for_a_new_generation(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    writer = create(directory)
    publish(writer, 1, some(100))
    with pytest.raises(IndexSpaceError, match="no room"):
        writer.reserve(10**12, lambda: [some(100)])
    assert sees(writer, some(100)) == 100 and sorted(os.listdir(directory)) == ["CURRENT", SEGMENT.format(1)]


def test_the_writer_comes_back_to_what_it_left(directory: Path, form: int) -> None:
    writer = create(directory, form)
    publish(writer, 4, some(100))
    writer.add_provisional(*some(10, 2))
    writer.close()
    writer = attach(directory)
    assert (writer.data_version, writer.visible_version, writer.count, writer.provisional_count) == (4, 4, 110, 10)
    assert writer.drop_provisional() == 10 and writer.check() == []


def test_a_publication_that_was_cut_short_is_told_to_recovery(directory: Path) -> None:
    """Readers see change 9, but entries that it ended are still there: recovery has to start after change 5."""
    writer = create(directory)
    reader = reader_of(directory)
    publish(writer, 5, some(100))

    def cut() -> Iterator[Batch]:
        yield some(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.publish(9, added=some(10, 2), removed=cut(), insurers_changed=False)
    writer.close()
    writer = attach(directory)
    assert (writer.data_version, writer.visible_version) == (5, 9)
    assert (reader.data_version, reader.still()) == (9, -1) and "applied to its end" in writer.check()[0]
    publish(writer, writer.data_version, some(10, 2))
    assert reader.data_version == 9 and reader.still() == -1
    publish(writer, 9, some(10, 2), some(100))
    assert (reader.data_version, reader.still(), writer.count) == (9, 9, 10) and writer.check() == []


def test_an_attaching_writer_removes_what_was_never_published(directory: Path) -> None:
    writer = create(directory)
    publish(writer, 1, some(10))
    for name in (SEGMENT.format(7), "CURRENT.tmp-00aa"):
        shutil.copy(directory / SEGMENT.format(1), directory / name)
    (directory / SEGMENT.format(8)).write_bytes(b"short")
    (directory / "notes.txt").write_text("not ours")
    writer.close()
    writer = attach(directory)
    assert sorted(os.listdir(directory)) == ["CURRENT", SEGMENT.format(1), "notes.txt"]
    assert sees(writer, some(10)) == 10


def test_readers_of_a_generation_left_behind_are_sent_on(directory: Path) -> None:
    """Killed between naming the new generation and retiring the old one: the next writer retires it."""
    writer = create(directory)
    publish(writer, 1, some(10))
    old = directory / SEGMENT.format(1)
    shutil.copy(old, directory / "kept")
    reader = reader_of(directory)
    os.link(old, directory / "again")
    writer.rebuild([some(20)], seq=2, keys=20)
    os.rename(directory / "again", old)
    segment = shm.open_(old, writable=True)
    segment.buffer[128:136] = bytes(8)
    assert reader.data_version == 1
    writer.close()
    attach(directory)
    assert reader.data_version == 2 and reader.count == 20


def test_create_takes_the_place_of_a_damaged_index_and_its_readers_follow(directory: Path) -> None:
    writer = create(directory)
    publish(writer, 1, some(10))
    reader = reader_of(directory)
    segment = shm.open_(directory / SEGMENT.format(1), writable=True)
    segment.buffer[0:4] = b"XXXX"
    writer.close()
    with pytest.raises(IndexCorruptError):
        attach(directory)
    writer = create(directory)
    publish(writer, 2, some(20, 2))
    assert reader.generation == 2 and sees(reader, some(20, 2)) == 20


def test_refresh_finds_an_index_that_was_made_anew_by_hand(directory: Path) -> None:
    create(directory).close()
    reader = reader_of(directory)
    assert not reader.refresh()
    shutil.rmtree(directory)
    with pytest.raises(FileNotFoundError):
        reader.refresh()
    create(directory).close()
    writer = create(directory)
    publish(writer, 5, some(10))
    assert reader.data_version == 0
    assert reader.refresh() and reader.data_version == 5


def test_a_reader_whose_next_generation_is_missing_pushes_back(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    monkeypatch.setattr(module, "_FOLLOW_TRIES", 2)
    writer = create(directory)
    reader = reader_of(directory)
    (directory / "CURRENT").unlink()
    segment = shm.open_(directory / SEGMENT.format(1), writable=True)
    segment.buffer[128] = 1
    for use in (lambda: reader.find(bytes(16)), lambda: reader.data_version, lambda: reader.find_many(
        tables.hashes(1, 1)
    )):  # fmt: skip
        with pytest.raises(StartingError):
            use()
    writer.close()
    create(directory)
    assert reader.find(bytes(16)) == () and reader.count == 0


def test_absent_indexes_are_not_found(directory: Path) -> None:
    for attempt in (attach, reader_of):
        with pytest.raises(FileNotFoundError):
            attempt(directory)
    directory.mkdir()
    (directory / "CURRENT").write_text(SEGMENT.format(1) + "\n")
    for attempt in (attach, reader_of):
        with pytest.raises(FileNotFoundError):
            attempt(directory)


@pytest.mark.parametrize(
    "text", ["", "\n", "index-1.seg\n", "../index-0000000000000001.seg\n", "x" * 10_000, "\0\xff", "CURRENT\n"]
)
def test_a_damaged_current_is_refused(directory: Path, text: str) -> None:
    create(directory).close()
    (directory / "CURRENT").write_text(text, "latin-1")
    for attempt in (attach, reader_of):
        with pytest.raises(IndexCorruptError, match="CURRENT"):
            attempt(directory)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"NOTOURS!"),
        (8, b"\x02"),
        (12, b"\x07"),
        (16, b"\xff" * 8),
        (24, b"\x09"),
        (33, b"\xff"),
        (124, b"\0\0\0\0"),
    ],
)
def test_a_damaged_header_is_refused(directory: Path, offset: int, value: bytes) -> None:
    create(directory).close()
    segment = shm.open_(directory / SEGMENT.format(1), writable=True)
    segment.buffer[offset : offset + len(value)] = value
    for attempt in (attach, reader_of):
        with pytest.raises(IndexCorruptError):
            attempt(directory)


@pytest.mark.parametrize("size", [0, 1, 4096, 12287, 12288, -64, -1, 1])
def test_a_segment_of_another_length_is_refused(directory: Path, size: int) -> None:
    create(directory).close()
    path = directory / SEGMENT.format(1)
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole + b"\0" if size == 1 else whole[:size])
    for attempt in (attach, reader_of):
        with pytest.raises(IndexCorruptError):
            attempt(directory)


def test_a_segment_under_another_name_is_refused(directory: Path) -> None:
    create(directory).close()
    os.rename(directory / SEGMENT.format(1), directory / SEGMENT.format(2))
    (directory / "CURRENT").write_text(SEGMENT.format(2) + "\n")
    with pytest.raises(IndexCorruptError, match="generation"):
        reader_of(directory)


def test_another_store_or_key_is_refused(directory: Path) -> None:
    create(directory).close()
    for kind in (IndexReader, IndexWriter):
        with pytest.raises(IndexCorruptError, match="another store"):
            kind.attach(directory, store_id=bytes(16), key_id=KEY_ID)
        with pytest.raises(KeyMismatchError):
            kind.attach(directory, store_id=STORE_ID, key_id=bytes(8))


def test_a_snapshot_comes_back_whole(directory: Path, tmp_path: Path, form: int) -> None:
    writer = create(directory, form)
    reader = reader_of(directory)
    writer.publish(6, added=some(500), removed=NO_ENTRIES, insurers_changed=True)
    writer.add_provisional(*some(10, 2))
    writer.save(tmp_path / "snapshot")
    writer.close()
    for target in (directory, tmp_path / "elsewhere"):
        for other in tables.FORMS:
            loaded = IndexWriter.load(target, tmp_path / "snapshot", store_id=STORE_ID, key_id=KEY_ID, form=other)
            assert (loaded.data_version, loaded.visible_version) == (6, 6)
            assert loaded.count == 500 == sees(loaded, some(500)) and loaded.check() == []
            publish(loaded, 7, some(10, 3))
            assert sees(reader_of(target), some(10, 3)) == 10
            loaded.close()
    assert sees(reader, some(500)) == 500 and reader.data_version == 7


def test_a_snapshot_is_written_in_bounded_memory(directory: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1000)
    writer = create(directory)
    publish(writer, 1, some(500))
    writer.save(tmp_path / "snapshot")
    loaded = IndexWriter.load(tmp_path / "b", tmp_path / "snapshot", store_id=STORE_ID, key_id=KEY_ID)
    assert sees(loaded, some(500)) == 500


def test_damaged_snapshots_are_refused_and_nothing_is_published(directory: Path, tmp_path: Path) -> None:
    writer = create(directory, keys=64)
    publish(writer, 1, some(60))
    path, target = tmp_path / "snapshot", tmp_path / "target"
    writer.save(path)
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    damaged = [whole[:-1], whole + b"\0", whole[:71], b"", whole[:40], bytes(len(whole))]
    for position in [0, 8, 16, 47, 48, 63, len(whole) - 1, *random.integers(0, len(whole), 40).tolist()]:
        changed = bytearray(whole)
        changed[position] ^= 1 << int(random.integers(0, 8))
        damaged.append(bytes(changed))
    huge = bytearray(whole)
    struct.pack_into("<Q", huge, 8, 2**60)
    damaged.append(bytes(huge))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises((IndexCorruptError, KeyMismatchError)):
            IndexWriter.load(target, path, store_id=STORE_ID, key_id=KEY_ID)
        assert not target.exists() or os.listdir(target) == []
    path.write_bytes(whole)
    with pytest.raises(IndexCorruptError, match="another store"):
        IndexWriter.load(target, path, store_id=bytes(16), key_id=KEY_ID)
    with pytest.raises(KeyMismatchError):
        IndexWriter.load(target, path, store_id=STORE_ID, key_id=bytes(8))
    with pytest.raises(FileNotFoundError):
        IndexWriter.load(target, tmp_path / "absent", store_id=STORE_ID, key_id=KEY_ID)
    assert IndexWriter.load(target, path, store_id=STORE_ID, key_id=KEY_ID).count == 60


def test_a_snapshot_that_does_not_fit_leaves_the_old_one(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = create(directory)
    writer.save(tmp_path / "snapshot")
    before = (tmp_path / "snapshot").read_bytes()
    publish(writer, 1, some(10))

    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexWriter, "_write_snapshot", lambda self, file: full(file))
    with pytest.raises(StoreFullError):
        writer.save(tmp_path / "snapshot")
    assert (tmp_path / "snapshot").read_bytes() == before and len(os.listdir(tmp_path)) == 2


def test_check_names_each_kind_of_damage(directory: Path) -> None:
    writer = create(directory)
    publish(writer, 1, some(100))
    assert writer.check() == []
    writer.add_provisional(*some(3, 2))
    segment = shm.open_(directory / SEGMENT.format(1), writable=True)
    struct.pack_into("<Q", segment.buffer, 192, 5)
    struct.pack_into("<Q", segment.buffer, 4096 + 8 * 77, 3)
    segment.buffer[128] = 1
    text = " | ".join(writer.check())
    for part in ("counts 5 entries and holds 103", "3 provisional", "1 stripes", "retired"):
        assert part in text


def test_contains_tells_entry_by_entry(directory: Path) -> None:
    writer, batch = create(directory), some(100)
    publish(writer, 1, (batch[0][:40], batch[1][:40]))
    assert writer.contains(*batch).tolist() == [True] * 40 + [False] * 60


def test_find_many_with_more_matches_than_keys(directory: Path, form: int) -> None:
    writer = create(directory, form, keys=10_000)
    reader = reader_of(directory)
    keys = tables.hashes(200, 1)
    for person in range(20):
        persons, entries = tables.batch(keys)
        publish(writer, person + 1, (persons + 1000 * person, entries))
    counts, matches = reader.find_many(keys)
    assert set(counts.tolist()) == {20} and len(matches) == 4000
    owners = np.repeat(np.arange(200), counts)
    assert ((matches["person"] - 1) % 1000 == owners).all()
    counts, matches = reader.find_many(keys[:0])
    assert len(counts) == len(matches) == 0


def test_entries_of_another_dtype_are_refused(directory: Path) -> None:
    writer = create(directory)
    with pytest.raises(ValueError, match="ENTRY_DTYPE"):
        writer.add_provisional(np.zeros(2, np.uint32), np.zeros(3, probe.MATCH_DTYPE))
    with pytest.raises(ValueError, match="one person number"):
        writer.add_provisional(np.zeros(2, np.uint32), some(3)[1])


def test_closing(directory: Path) -> None:
    writer, reader = create(directory), None
    reader = reader_of(directory)
    writer.close()
    reader.close()
    for use in (lambda: writer.count, lambda: reader.find(bytes(16)), lambda: reader.data_version):
        with pytest.raises(ValueError, match="released"):
            use()


def test_old_generations_are_unmapped_when_nobody_uses_them(directory: Path) -> None:
    writer = create(directory)
    reader = reader_of(directory)
    for seq in range(1, 6):
        writer.rebuild([some(10)], seq=seq, keys=10)
        assert reader.data_version == seq
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(directory) in line]
    assert {line.split("/")[-1].split(" ")[0] for line in maps} == {SEGMENT.format(6)}


def test_several_threads_may_search_while_generations_change(directory: Path, form: int) -> None:
    writer, batch = create(directory, form), some(200)
    publish(writer, 1, batch)
    reader = reader_of(directory)
    stop, problems, rounds = threading.Event(), [], []

    def search() -> None:
        while not stop.is_set():
            if sees(reader, batch) != 200:
                problems.append("an entry was missed")
            rounds.append(1)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seq in range(2, 40):
        writer.rebuild([batch], seq=seq, keys=200 + seq)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems and len(rounds) > 3


def test_a_writer_that_closed_its_index_is_told_from_one_that_was_killed(tmp_path: Path) -> None:
    """A table of a country takes a second to walk: only after a kill is there anything to look for."""
    identity = {"store_id": bytes(16), "key_id": bytes(8)}
    writer = IndexWriter.create(tmp_path, keys=100, **identity)
    assert not writer.is_tidy
    writer.close()
    writer = IndexWriter.attach(tmp_path, **identity)
    assert writer.is_tidy
    # What a killed writer leaves: its lock is gone and nothing was closed.
    writer._lock.release()
    other = IndexWriter.attach(tmp_path, **identity)
    assert not other.is_tidy
    other.close()
    (tmp_path / "CLOSED").write_bytes(b"index-00000000000000ff.seg")
    assert not IndexWriter.attach(tmp_path, **identity).is_tidy
