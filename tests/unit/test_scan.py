"""Asks whether reading all entries of a store, in one process or in several, finds what everybody has now."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engine import scan
from engine.errors import RecordCorruptError, StorePoisonedError
from engine.store import StoreWriter, pack_record, version_key
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
        monkeypatch.setattr(scan, "BLOCK_BYTES", 8192)
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
    for seq in (store.committed_seq, PEOPLE, 17):
        exact = store.key_count(seq)
        assert scan.keys_estimated(store, seq) == exact
        monkeypatch.setattr(scan, "COUNTED_MAX", 10)
        assert scan.keys_estimated(store, seq) == exact, "of a small store every leaf is a sample"
        if seq >= PEOPLE:
            monkeypatch.setattr(scan, "SAMPLES", 20)
            assert abs(scan.keys_estimated(store, seq) - exact) < exact * 0.4
        monkeypatch.undo()
    store.close()


@pytest.mark.parametrize("where", ["first", "last", "between"])
def test_changes_that_cluster_on_few_people_are_not_multiplied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Samples said how many entries a version has, and there were as many versions as changes: where most changes
    were about a few people whom no sample met, ten times as much memory as needed was asked for, and not got."""
    made = Versions(tmp_path, random.Random(6), bodies=(300,))
    made.put(list(range(1, 2_001)))
    few = {"first": [1, 2], "last": [1_999, 2_000], "between": [700, 1_300]}[where]
    for _ in range(20):
        made.put(few * 500)
    exact = len(made.truth(made.seq))
    monkeypatch.setattr(scan, "COUNTED_MAX", 10)
    monkeypatch.setattr(scan, "SAMPLES", 500)
    assert exact * 0.9 <= scan.keys_estimated(made.store, made.seq) < exact * 1.6
    made.store.close()


def test_a_few_people_with_many_versions_are_estimated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer people than samples there was no step from one to the next, and a server did not start."""
    config = registries.settings(tmp_path)
    registries.init(config)
    lines = [csv_line(1)] + [csv_line(1, "change", gained=f"20{year}-04-01") for year in range(10, 24)]
    with registries.opened(config) as registry:
        registry.import_feed(write_csv(tmp_path / "feed.csv", lines), as_of=39_000)
    store = StoreWriter(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    monkeypatch.setattr(scan, "COUNTED_MAX", 3)
    assert store.committed_seq > scan.COUNTED_MAX
    assert scan.keys_estimated(store, store.committed_seq) == store.key_count(store.committed_seq)
    store.close()
    config.snapshot_file.unlink(missing_ok=True)
    registries.assert_sound(config)


def test_a_process_that_cannot_read_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    monkeypatch.setattr(scan, "ALONE_MAX", 10)
    store.path = tmp_path / "nowhere"
    with pytest.raises(StorePoisonedError):
        list(scan.all_entries(store, store.committed_seq))
    store.path = tmp_path / "data" / "store"
    monkeypatch.setattr(scan, "send_leaves", _ends_at_once)
    with pytest.raises(StorePoisonedError):
        list(scan.all_entries(store, store.committed_seq))
    store.close()


def _ends_at_once(*_: object) -> None:
    return


class Versions:
    """A store with versions of nobody in particular: some people have very many, some records pages of their own."""

    def __init__(
        self, folder: Path, chance: random.Random, bodies: tuple[int, ...] = (10, 200, 300, 400, 1_900, 6_000)
    ) -> None:
        config = registries.settings(folder)
        registries.init(config)
        # With room for all the pages that a reader keeps from being written again.
        self.store = StoreWriter(config.store_dir, key_id=KEYS.key_id, map_bytes=1 << 30)
        self.seq = 0
        self._chance, self._bodies = chance, bodies
        self._found: dict[int, list[tuple[int, bytes]]] = {}

    def put(self, numbers: list[int]) -> None:
        """One more version of each of these people, in a transaction."""
        records = []
        for seq, number in enumerate(numbers, self.seq + 1):
            entries = b"".join(self._chance.randbytes(24) for _ in range(self._chance.choice((0, 1, 2, 2, 3, 5, 32))))
            key = version_key(number, seq)
            person = bytes(self._chance.choice(self._bodies))
            records.append((key, pack_record(key, 0, entries, person)))
            self._found.setdefault(number, []).append((seq, entries))
        with self.store.transaction() as txn:
            txn.put_versions(sorted(records), append=False)
            txn.put_changes(self.seq + 1, np.array(numbers, np.uint32))
            self.seq += len(numbers)
            txn.advance(committed_seq=self.seq, next_person=1 + max(self._found), next_feed=1)

    def truth(self, upto: int) -> list[tuple[int, bytes]]:
        """What everybody had after change `upto`."""
        current = (
            (number, max(upto_ for upto_ in had if upto_[0] <= upto)[1])
            for number, had in self._found.items()
            if had[0][0] <= upto
        )
        return sorted((number, packed[at : at + 24]) for number, packed in current for at in range(0, len(packed), 24))


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes, which take a few pages at a time."""
    monkeypatch.setattr(scan, "ALONE_MAX", 0)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 5 * 4096)
    monkeypatch.setattr(scan, "STRIPE_BLOCKS", 2)


@pytest.mark.usefixtures("spread")
@pytest.mark.parametrize("seed", range(2))
def test_a_tree_that_grew_in_any_order_is_read_as_it_lies(tmp_path: Path, seed: int) -> None:
    """Leaves far from their neighbours, people whose versions fill many of them, versions that nobody sees yet."""
    chance = random.Random(seed)
    made = Versions(tmp_path, chance)
    assert sorted_entries(list(scan.all_entries(made.store, 0))) == []
    few = chance.sample(range(1, 400), 4)
    for _ in range(12):
        made.put([chance.choice(few) if chance.random() < 0.5 else chance.randrange(1, 400) for _ in range(120)])
    for seq in (made.seq, made.seq - 1, made.seq // 2, 1):
        found = sorted_entries(list(scan.all_entries(made.store, seq)))
        assert found == made.truth(seq) == sorted_entries(list(made.store.entries(seq)))
    made.store.close()


@pytest.mark.usefixtures("spread")
def test_what_is_read_beside_a_writer_is_of_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of the commit that is read are not written again while it is: here after each block there is another."""
    chance = random.Random(9)
    made = Versions(tmp_path, chance)
    for _ in range(30):
        made.put(chance.sample(range(1, 600), 150))
    seq, expected = made.seq, made.truth(made.seq)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 4096)
    reading = scan.all_entries(made.store, seq)
    found = [next(reading)]
    with ThreadPoolExecutor(1) as writer:  # LMDB wants another thread beside a transaction that reads
        for batch in reading:
            found.append(batch)
            writer.submit(made.put, chance.sample(range(1, 600), 20)).result()
    assert made.seq > seq + 500 and sorted_entries(found) == expected
    assert sorted_entries(list(scan.all_entries(made.store, made.seq))) == made.truth(made.seq)
    made.store.close()


@pytest.mark.usefixtures("spread")
def test_where_commits_come_too_fast_lmdb_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Versions(tmp_path, random.Random(3))
    made.put(list(range(1, 100)))

    class Restless:
        def tree(self) -> tuple[int, int, int, int]:
            return 0, 4096, 2, 1  # of a commit that is no more

        def release(self) -> None:
            return

    made.store.pages.release()
    monkeypatch.setattr(made.store, "pages", Restless())
    assert sorted_entries(list(scan.all_entries(made.store, made.seq))) == made.truth(made.seq)
    made.store.close()


@pytest.mark.usefixtures("spread")
@pytest.mark.parametrize("kind", ["leaf", "branch", "another leaf", "a leaf that is not in the tree", "a short file"])
def test_damaged_pages_end_the_reading(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Versions(tmp_path, random.Random(4))
    made.put(list(range(1, 400)))
    with made.store.pinned() as tree:
        assert tree is not None and tree.levels == 2
        pages = scan.leaf_pages(tree).tolist()
        root, size = tree.root, tree.page_bytes
    if kind == "a leaf that is not in the tree":
        monkeypatch.setattr(scan, "leaf_pages", lambda tree: np.array(pages[:-1], np.uint64))
    elif kind == "a short file":
        monkeypatch.setattr(scan, "leaf_pages", lambda tree: np.array([*pages[:-1], 2**30], np.uint64))
    with open(made.store.path / "data.mdb", "r+b") as file:
        before = file.read()
        if kind == "another leaf":
            file.seek(pages[3] * size)
            file.write(before[pages[4] * size : (pages[4] + 1) * size])
        elif kind in ("leaf", "branch"):
            file.seek((root if kind == "branch" else pages[2]) * size + 16)
            file.write(b"\xff" * 64)
    with pytest.raises(RecordCorruptError):
        list(scan.all_entries(made.store, made.seq))
    made.store.close()
