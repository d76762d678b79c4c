"""Tests of engine/fsck: each kind of damage is found and named, and a sound store has no problems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from engine import fsck, store
from engine.config import Config
from engine.entries import entries_of
from engine.errors import KeyMismatchError, RecordCorruptError, StoreMissingError
from engine.ingest.rows import Op
from engine.keys import Keys
from tests.support import registries
from tests.support.registries import KEYS, applied, call, lose, row

DATABASES = ("meta", "versions", "changes", "insurers", "feeds", "feed_digests", "feed_numbers")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = registries.settings(tmp_path)
    registries.init(made)
    with registries.opened(made) as registry:
        applied(
            registry, call(row(1, link="L", serial="A1")), call(row(2, link="M")), call(lose(1)), call(row(3, link="L"))
        )
    return made


def edit(config: Config, change: Callable[[Any, dict[str, Any]], None]) -> None:
    """Change the store behind everybody's back."""
    env = lmdb.open(str(config.store_dir), map_size=config.map_bytes, max_dbs=9)
    dbs = {name: env.open_db(name.encode()) for name in DATABASES}
    with env.begin(write=True) as txn:
        change(txn, dbs)
    env.close()


def problems(config: Config) -> str:
    report = fsck.run(config, KEYS)
    assert not report.ok and report.problem_count >= len(report.problems) > 0
    return "\n".join(report.problems)


def test_a_sound_store_has_no_problems(config: Config) -> None:
    report = registries.assert_sound(config)
    assert report.ok
    assert report.counts == {
        "changes": 4, "changes_unfinished": 0, "versions": 4, "people": 2, "feeds": 4, "insurers": 3,
        "index_entries": 8,
    }  # fmt: skip


def test_an_empty_store_has_no_problems(tmp_path: Path) -> None:
    config = registries.settings(tmp_path)
    registries.init(config)
    assert registries.assert_sound(config).counts["versions"] == 0


def test_a_flipped_byte_in_a_record_is_found_by_fsck_and_by_readers(config: Config) -> None:
    key = store.version_key(1, 1)

    def flip(txn: Any, dbs: dict[str, Any]) -> None:
        record = bytearray(txn.get(key, db=dbs["versions"]))
        record[-20] ^= 1
        txn.put(key, bytes(record), db=dbs["versions"])

    edit(config, flip)
    assert "version 1: a record fails its checksum" in problems(config)
    reader = store.StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    with pytest.raises(RecordCorruptError):
        reader.person(1, 1)
    assert reader.person(2, 2) is not None
    reader.close()


def test_entries_that_do_not_fit_the_person_are_found(config: Config) -> None:
    key = store.version_key(2, 2)

    def replace(txn: Any, dbs: dict[str, Any]) -> None:
        person = row(2, gained=1).person
        record = store.pack_record(key, 1, entries_of(KEYS, 2, row(2).person), store.encode_person(person))
        txn.put(key, record, db=dbs["versions"])

    edit(config, replace)
    assert "version 2 has other index entries" in problems(config)


def test_a_missing_change_and_its_version_are_found(config: Config) -> None:
    edit(config, lambda txn, dbs: txn.delete((2).to_bytes(8, "big"), db=dbs["changes"]))
    found = problems(config)
    assert "changes 2 to 2 are missing" in found
    assert "version 2 is of another person" in found


def test_a_missing_version_is_found(config: Config) -> None:
    edit(config, lambda txn, dbs: txn.delete(store.version_key(2, 2), db=dbs["versions"]))
    assert "there are 3 versions for 4 changes" in problems(config)


def test_what_was_never_committed_is_found(config: Config) -> None:
    edit(config, lambda txn, dbs: txn.put(b"committed_seq", (3).to_bytes(8, "big"), db=dbs["meta"]))
    found = problems(config)
    assert "1 changes belong to a feed that was never committed" in found
    assert "version 4 was never committed" in found


def test_a_missing_feed_is_found(config: Config) -> None:
    edit(config, lambda txn, dbs: txn.delete((2).to_bytes(8, "big"), db=dbs["feeds"]))
    assert "feed 2 is missing" in problems(config)


def test_a_lost_digest_is_found(config: Config) -> None:
    def forget(txn: Any, dbs: dict[str, Any]) -> None:
        with txn.cursor(dbs["feed_digests"]) as cursor:
            cursor.first()
            cursor.delete()

    edit(config, forget)
    assert "is not found by its digest" in problems(config)


def test_an_insurer_that_is_not_registered_is_found(config: Config) -> None:
    edit(config, lambda txn, dbs: txn.delete(b"01130012", db=dbs["insurers"]))
    assert "names an insurer that is not registered" in problems(config)


def test_a_person_number_not_given_out_is_found(config: Config) -> None:
    edit(config, lambda txn, dbs: txn.put(b"next_person", (2).to_bytes(4, "big"), db=dbs["meta"]))
    assert "a person number was used before it was given out" in problems(config)


def test_an_entry_missing_from_the_index_is_found(config: Config) -> None:
    with registries.opened(config) as registry:
        entry = registry.store.version(2, 2)
        assert entry is not None
        persons, entries = registries.as_arrays([(2, entry.entries[:24])])
        registry.index._table.remove_many(persons, entries)
        found = "\n".join(fsck.run(config, KEYS).problems)
        assert "1 people's entries are not in the index exactly once" in found
        registry._broken = True  # nothing of this is saved
    assert "the index has 7 entries, the store asks for 8" in problems(config)


def test_an_invented_entry_in_the_index_is_found(config: Config) -> None:
    with registries.opened(config) as registry:
        persons, entries = registries.as_arrays([(9, entries_of(KEYS, 9, row(9).person))])
        registry.index._table.insert_many(persons, entries)
        registry._broken = True
    assert "the index has 9 entries, the store asks for 8" in problems(config)


def test_an_unusable_index_is_found(config: Config) -> None:
    assert config.index_dir is not None
    (config.index_dir / "CURRENT").write_text("nonsense")
    assert "the index cannot be used" in problems(config)


def test_the_check_runs_beside_a_live_writer(config: Config) -> None:
    """Calls are applied while the check compares: what has moved is looked at again, and nothing is wrong."""
    with registries.opened(config) as registry:
        for number in range(60):
            applied(registry, call(row(100 + number, link=f"N{number}")))
        real = registry.store.entries
        busy = iter(range(60))

        def entries(seq: int) -> Any:
            for piece in real(seq):
                number = next(busy)
                applied(registry, call(lose(100 + number)), call(row(100 + number, Op.CANCEL, gained=None)))
                yield piece

        store.StoreReader.entries, kept = entries_beside(entries), store.StoreReader.entries  # type: ignore[method-assign]
        try:
            assert fsck.run(config, KEYS).problems == []
        finally:
            store.StoreReader.entries = kept  # type: ignore[method-assign]
        assert next(busy) > 0
    registries.assert_sound(config)


def entries_beside(entries: Callable[[int], Any]) -> Any:
    return lambda self, seq: entries(seq)


def test_a_wrong_key_and_a_missing_store_are_errors(config: Config, tmp_path: Path) -> None:
    with pytest.raises(KeyMismatchError):
        fsck.run(config, Keys(bytes(32)))
    with pytest.raises(StoreMissingError):
        fsck.run(registries.settings(tmp_path / "none"), KEYS)


def test_problems_name_no_person(config: Config) -> None:
    edit(config, lambda txn, dbs: txn.delete(b"01130012", db=dbs["insurers"]))
    found = problems(config)
    for value in ("ヤマダ", "山田", "01130012", "A1"):
        assert value not in found
