"""Tests of engine/store: history by sequence number, one writer, and every way in which a store can be wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

from engine import store
from engine.entries import ENTRY_BYTES, entries_of
from engine.errors import (
    KeyMismatchError,
    RecordCorruptError,
    StoreFullError,
    StoreLockedError,
    StoreMissingError,
    StoreVersionError,
)
from engine.records import Insurer, Person
from engine.store import Feed, StoreReader, StoreWriter
from tests.support.registries import KEYS, row

MAP_BYTES = 1 << 26


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store.create(tmp_path / "store", key_id=KEYS.key_id, map_bytes=MAP_BYTES, now_ms=77)
    return tmp_path / "store"


@pytest.fixture
def writer(path: Path) -> Iterator[StoreWriter]:
    opened = StoreWriter(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    yield opened
    opened.close()


def put(writer: StoreWriter, seq: int, number: int, person: Person, *, commit: bool = True) -> None:
    key = store.version_key(number, seq)
    record = store.pack_record(key, 1000 + seq, entries_of(KEYS, number, person), store.encode_person(person))
    with writer.transaction() as txn:
        txn.put_versions([(key, record)], append=False)
        txn.put_changes(seq, np.array([number], np.uint32))
        if commit:
            txn.advance(committed_seq=seq, next_person=number + 1, next_feed=1)


def somebody(number: int, **changes: object) -> Person:
    return row(number, **changes).person  # type: ignore[arg-type]


def test_record_bytes_are_as_formats_says() -> None:
    person = somebody(1)
    key = store.version_key(0x01020304, 5)
    assert key == bytes.fromhex("01020304") + (2**64 - 1 - 5).to_bytes(8, "big")
    entries, encoded = entries_of(KEYS, 1, person), store.encode_person(person)
    record = store.pack_record(key, 0x1122, entries, encoded)
    assert record[:4] == bytes([1, 1, 0, 0])
    assert record[4:12] == (0x1122).to_bytes(8, "little")
    assert record[12 : 12 + ENTRY_BYTES] == entries
    assert record[12 + ENTRY_BYTES : -4] == encoded
    assert store.unpack_record(key, record) == (0x01020304, 5, 0x1122, entries, person)


@pytest.mark.parametrize("where", ["head", "entries", "person", "checksum"])
def test_a_flipped_bit_anywhere_is_found(where: str) -> None:
    person = somebody(1)
    key = store.version_key(1, 1)
    record = bytearray(store.pack_record(key, 9, entries_of(KEYS, 1, person), store.encode_person(person)))
    record[{"head": 1, "entries": 20, "person": 60, "checksum": -1}[where]] ^= 0x10
    with pytest.raises(RecordCorruptError):
        store.unpack_record(key, bytes(record))


def test_a_record_at_another_key_is_found() -> None:
    person = somebody(1)
    record = store.pack_record(store.version_key(1, 1), 9, entries_of(KEYS, 1, person), store.encode_person(person))
    with pytest.raises(RecordCorruptError):
        store.unpack_record(store.version_key(2, 1), record)


@pytest.mark.parametrize("length", [0, 3, 15, 16])
def test_a_record_that_is_too_short_is_found(length: int) -> None:
    with pytest.raises(RecordCorruptError):
        store.unpack_record(store.version_key(1, 1), bytes(length))


def test_a_reader_lands_on_the_version_that_was_current(writer: StoreWriter) -> None:
    first, second, other = somebody(1), somebody(1, address="二"), somebody(2)
    put(writer, 1, 1, first)
    put(writer, 2, 2, other)
    put(writer, 5, 1, second)
    assert [writer.person(1, seq) for seq in (0, 1, 4, 5, 9)] == [None, first, first, second, second]
    assert writer.person(2, 1) is None
    assert writer.person(3, 9) is None
    assert writer.people([2, 1, 3], 4) == [other, first, None]


def test_history_is_whole_and_hides_what_is_not_committed(writer: StoreWriter) -> None:
    first, second, third = (somebody(1, address=text) for text in "abc")
    put(writer, 1, 1, first)
    put(writer, 2, 1, second)
    put(writer, 3, 1, third, commit=False)
    assert writer.history(1) == [(1, 1001, first), (2, 1002, second)]
    assert writer.history(7) == []


def test_entries_are_those_of_the_version_asked_for(writer: StoreWriter) -> None:
    first, second = somebody(1), somebody(1, lost=36_001, reason="99")
    put(writer, 1, 1, first)
    put(writer, 2, 1, second)
    put(writer, 3, 2, somebody(2))
    for seq, expected in [(0, []), (1, [(1, first)]), (2, [(1, second)]), (3, [(1, second), (2, somebody(2))])]:
        pieces = list(writer.entries(seq))
        persons = np.concatenate([np.empty(0, np.uint32), *(each for each, _ in pieces)])
        packed = b"".join(entries.tobytes() for _, entries in pieces)
        assert persons.tolist() == [number for number, _ in expected]
        assert packed == b"".join(entries_of(KEYS, number, person) for number, person in expected)
    assert writer.key_count(3) == 2


def test_entries_come_in_pieces(writer: StoreWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SCAN_VERSIONS", 2)
    for number in range(1, 6):
        put(writer, number, number, somebody(number))
    pieces = list(writer.entries(5))
    assert [persons.tolist() for persons, _ in pieces] == [[1, 2], [3, 4], [5]]


def test_roll_back_deletes_only_what_was_not_committed(writer: StoreWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ROLLBACK_CHUNK", 2)
    put(writer, 1, 1, somebody(1))
    for seq in range(2, 9):
        put(writer, seq, seq, somebody(seq), commit=False)
    assert writer.roll_back() == 7
    assert list(writer.walk_changes()) == [(1, 1)]
    assert [store.split_key(key) for key, _ in writer.walk()] == [(1, 1)]
    assert writer.roll_back() == 0


def test_a_transaction_that_raises_leaves_nothing(writer: StoreWriter) -> None:
    person = somebody(1)
    key = store.version_key(1, 1)
    with pytest.raises(ZeroDivisionError), writer.transaction() as txn:
        record = store.pack_record(key, 1, entries_of(KEYS, 1, person), store.encode_person(person))
        txn.put_versions([(key, record)], append=True)
        1 / 0  # noqa: B018
    assert writer.person(1, 1) is None
    put(writer, 1, 1, person)
    assert writer.person(1, 1) == person


def test_a_version_is_never_overwritten(writer: StoreWriter) -> None:
    put(writer, 1, 1, somebody(1))
    with pytest.raises(RecordCorruptError):
        put(writer, 1, 1, somebody(1, address="x"))
    assert writer.history(1) == [(1, 1001, somebody(1))]


def a_feed(feed: int, **changes: object) -> Feed:
    given = {
        "feed": feed, "scope": "01130012", "digest": bytes([feed]) * 32, "feed_number": None, "as_of": 1, "rows": 0,
        "new": 0, "changed": 0, "lost": 0, "cancelled": 0, "first_seq": 1, "last_seq": 0, "received_at_ms": 5,
    }  # fmt: skip
    return Feed(**(given | changes))  # type: ignore[arg-type]


def test_feeds_are_found_by_digest_within_their_scope(writer: StoreWriter) -> None:
    one, two = a_feed(1), a_feed(2, scope="operator", digest=bytes([1]) * 32)
    with writer.transaction() as txn:
        txn.put_feed(one)
        txn.put_feed(two)
        assert txn.feed_by_digest("01130012", one.digest) == one
    assert writer.feed_by_digest("01130012", one.digest) == one
    assert writer.feed_by_digest("operator", one.digest) == two
    assert writer.feed_by_digest("33120015", one.digest) is None
    assert writer.feeds() == [two, one]
    assert writer.feeds(scope="01130012") == [one]
    assert writer.feeds(limit=1) == [two]


def test_the_last_feed_number_is_that_of_the_scope(writer: StoreWriter) -> None:
    with writer.transaction() as txn:
        txn.put_feed(a_feed(1, feed_number=300))
        txn.put_feed(a_feed(2, feed_number=7))
        txn.put_feed(a_feed(3, scope="39131156", feed_number=5))
        assert txn.last_feed_number("39131156") == 5
    assert writer.last_feed_number("01130012") == 300
    assert writer.last_feed_number("39131156") == 5
    assert writer.last_feed_number("33120015") is None
    assert writer.last_feed_number("operator") is None


def test_insurers_come_back_as_they_were(writer: StoreWriter) -> None:
    insurers = [Insurer("01130012", "協会けんぽ", fresh_at_ms=3), Insurer("39131156", "広域連合")]
    with writer.transaction() as txn:
        for insurer in reversed(insurers):
            txn.put_insurer(insurer)
    assert writer.insurers() == insurers
    assert writer.insurer("39131156") == insurers[1]
    assert writer.insurer("33120015") is None


def test_there_is_one_writer(path: Path, writer: StoreWriter) -> None:
    with pytest.raises(StoreLockedError):
        StoreWriter(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    code = (
        "import sys; from pathlib import Path; from engine.errors import StoreLockedError\n"
        "from engine.store import StoreWriter\n"
        "try: StoreWriter(Path(sys.argv[1]), key_id=bytes.fromhex(sys.argv[2]), map_bytes=1 << 26)\n"
        "except StoreLockedError: sys.exit(42)"
    )
    command = [sys.executable, "-c", code, path, KEYS.key_id.hex()]
    assert subprocess.run(command, check=False).returncode == 42
    assert store.writer_is_running(path)
    writer.close()
    assert not store.writer_is_running(path)
    assert subprocess.run(command, check=False).returncode == 0


def test_readers_of_other_processes_see_each_commit(path: Path, writer: StoreWriter) -> None:
    code = (
        "import sys; from pathlib import Path; from engine.store import StoreReader\n"
        "reader = StoreReader(Path(sys.argv[1]), key_id=bytes.fromhex(sys.argv[2]), map_bytes=1 << 26)\n"
        "for line in sys.stdin: print(reader.person(1, int(line)) is not None, flush=True)"
    )
    command = [sys.executable, "-c", code, str(path), KEYS.key_id.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        for expected in ("False", "True"):
            print(1, file=child.stdin, flush=True)
            assert child.stdout.readline().strip() == expected
            if expected == "False":
                put(writer, 1, 1, somebody(1))
        child.stdin.close()


def test_no_read_transaction_stays_open(writer: StoreWriter) -> None:
    put(writer, 1, 1, somebody(1))
    writer.person(1, 1)
    for seq in range(2, 200):
        put(writer, seq, 1, somebody(1, address=str(seq)))
        writer.person(1, seq)
    # an open reader would keep every page that was ever replaced
    assert writer.sizes()["used_bytes"] < 60 * 4096 + 198 * 600


def test_reader_and_writer_of_one_process_share_the_environment(path: Path, writer: StoreWriter) -> None:
    reader = StoreReader(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    put(writer, 1, 1, somebody(1))
    assert reader.person(1, 1) == somebody(1)
    writer.close()
    assert reader.person(1, 1) == somebody(1)
    reader.close()


def test_a_reader_cannot_become_a_writer(path: Path) -> None:
    reader = StoreReader(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    with pytest.raises(StoreLockedError):
        StoreWriter(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    reader.close()
    StoreWriter(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES).close()


def test_create_refuses_to_replace_a_store(path: Path) -> None:
    with pytest.raises(FileExistsError):
        store.create(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    reader = StoreReader(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    assert (len(reader.store_id), reader.created_ms, reader.committed_seq) == (16, 77, 0)
    reader.close()


def test_a_missing_store_is_said_to_be_missing(tmp_path: Path) -> None:
    for kind in (StoreReader, StoreWriter):
        with pytest.raises(StoreMissingError):
            kind(tmp_path / "none", key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    assert not (tmp_path / "none").exists()


def test_a_creation_cut_short_is_missing_and_may_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "store"
    lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=9).close()
    with pytest.raises(StoreMissingError):
        StoreReader(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    store.create(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    StoreReader(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES).close()


def test_a_wrong_key_is_refused(path: Path) -> None:
    for kind in (StoreReader, StoreWriter):
        with pytest.raises(KeyMismatchError):
            kind(path, key_id=bytes(8), map_bytes=MAP_BYTES)
    StoreWriter(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES).close()


def test_a_store_of_another_version_is_refused(path: Path) -> None:
    env = lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=9)
    with env.begin(write=True, db=env.open_db(b"meta")) as txn:
        txn.put(b"schema", (99).to_bytes(4, "big"))
    env.close()
    with pytest.raises(StoreVersionError, match="99"):
        StoreReader(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)


def test_a_file_that_is_no_store_is_refused(path: Path) -> None:
    (path / "data.mdb").write_bytes(b"not LMDB at all" * 1000)
    with pytest.raises(StoreVersionError):
        StoreReader(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES)


def test_a_full_map_is_said_to_be_full_and_leaves_the_writer_usable(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store.create(path, key_id=KEYS.key_id, map_bytes=1 << 18)
    writer = StoreWriter(path, key_id=KEYS.key_id, map_bytes=1 << 18)
    put(writer, 1, 1, somebody(1))
    before = writer.sizes()
    with pytest.raises(StoreFullError), writer.transaction() as txn:
        for seq in range(2, 5000):
            key = store.version_key(seq, seq)
            txn.put_versions([(key, store.pack_record(key, 1, b"", bytes(500)))], append=True)
    assert writer.person(1, 1) == somebody(1)
    assert {**writer.sizes(), "used_bytes": 0} == {**before, "used_bytes": 0}
    put(writer, 2, 2, somebody(2))
    assert writer.person(2, 2) == somebody(2)
    writer.close()


def test_copy_is_a_store_of_its_own(writer: StoreWriter, tmp_path: Path) -> None:
    put(writer, 1, 1, somebody(1))
    writer.copy(tmp_path / "copy/store")
    put(writer, 2, 2, somebody(2))
    reader = StoreReader(tmp_path / "copy/store", key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    assert (reader.store_id, reader.committed_seq) == (writer.store_id, 1)
    assert reader.person(1, 9) == somebody(1)
    assert reader.person(2, 9) is None
    reader.close()


def test_reading_keeps_the_locks_that_say_so(path: Path) -> None:
    """LMDB starts its lock file anew when nobody holds a lock on it: with readers at work that would be the end.

    Trigger: the lock file was mapped, and its descriptor closed, which gave up the locks of the whole process.
    """
    attempt = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'r+b') as file:\n"
        "    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    )
    readers = [StoreReader(path, key_id=KEYS.key_id, map_bytes=MAP_BYTES) for _ in range(2)]
    assert readers[0].person(1, 0) is None
    readers.pop().close()
    done = subprocess.run([sys.executable, "-c", attempt, path / "lock.mdb"], capture_output=True, text=True)
    readers.pop().close()
    assert "BlockingIOError" in done.stderr
