"""Writer and reader of an index against a dictionary: any order of feeds, growth, rebuilds, restarts and snapshots."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.index import IndexReader, IndexWriter
from ext import probe
from tests.models.table import Row, TableModel
from tests.support import tables
from tests.support.tables import KEY_ID, STORE_ID, Batch

DIGESTS = [bytes(row) for row in tables.hashes(40, 5).view("V16").reshape(-1)]
ENTRY = st.tuples(
    st.sampled_from(DIGESTS),
    st.tuples(st.integers(1, 4), st.sampled_from([0, 65535]), st.just(9), st.sampled_from([0, 4])),
)
ENTRIES = st.lists(ENTRY, max_size=30)


def plain_rows(model: TableModel) -> list[tuple[bytes, Row]]:
    return [
        (digest, row) for digest, rows in model.rows.items() for row, provisional in rows.items() if not provisional
    ]


class IndexMachine(RuleBasedStateMachine):
    """One writer and two readers, one of which was there before anything happened."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="shikaku-test-"))
        self.model = TableModel()
        self.seq = 0

    @initialize(form=st.sampled_from(tables.FORMS))
    def make(self, form: int) -> None:
        self.writer = IndexWriter.create(self.directory / "index", store_id=STORE_ID, key_id=KEY_ID, keys=64, form=form)
        self.early = self.attach()
        self.find = self.early.find

    def attach(self) -> IndexReader:
        return IndexReader.attach(self.directory / "index", store_id=STORE_ID, key_id=KEY_ID)

    def entries(self) -> Iterator[Batch]:
        rows = plain_rows(self.model)
        for start in range(0, len(rows), 7):
            yield tables.packed(rows[start : start + 7])

    @rule(rows=ENTRIES)
    def stage(self, rows: list[tuple[bytes, Row]]) -> None:
        self.writer.reserve(len(rows), self.entries)
        self.writer.add_provisional(*tables.packed(rows))
        for digest, row in rows:
            self.model.insert(digest, row, provisional=True)

    @rule(added=ENTRIES, removed=ENTRIES, insurers=st.booleans())
    def publish(self, added: list[tuple[bytes, Row]], removed: list[tuple[bytes, Row]], insurers: bool) -> None:
        self.writer.reserve(len(added), self.entries)
        self.seq += 1
        before = self.early.insurers_version
        self.writer.publish(
            self.seq, added=tables.packed(added), removed=tables.packed(removed), insurers_changed=insurers
        )
        assert self.early.insurers_version == before + insurers
        for digest, row in added:
            self.model.insert(digest, row)
        for digest, row in removed:
            self.model.remove(digest, row)

    @rule()
    def finish_feed(self) -> None:
        """Everything staged becomes plain, in parts."""
        staged = [(d, row) for d, rows in self.model.rows.items() for row, hidden in rows.items() if hidden]
        for start in range(0, len(staged), 5):
            part = tables.packed(staged[start : start + 5])
            self.writer.publish(self.writer.data_version, added=part, removed=tables.packed([]), insurers_changed=False)
            assert self.early.still() == -1
        self.seq += 1
        nothing = tables.packed([])
        self.writer.publish(self.seq, added=nothing, removed=nothing, insurers_changed=True)
        for digest, row in staged:
            self.model.insert(digest, row)

    @rule()
    def drop(self) -> None:
        assert self.writer.drop_provisional() == self.model.sweep()

    @rule(extra=st.integers(0, 2000))
    def grow(self, extra: int) -> None:
        room = self.writer.lines * 4 * 0.7
        grew = self.writer.reserve(extra, self.entries)
        assert grew == (self.model.count + extra > room)

    @rule()
    def rebuild(self) -> None:
        self.seq += 1
        self.writer.rebuild(self.entries, seq=self.seq, keys=1)
        self.model.sweep()

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """Without `close`, as after a kill: what was provisional is still there, and is dropped by recovery."""
        if clean:
            self.writer.close()
        del self.writer  # its lock goes with it, as with a process
        self.writer = IndexWriter.attach(self.directory / "index", store_id=STORE_ID, key_id=KEY_ID)
        assert self.writer.provisional_count == self.model.provisional_count
        assert self.writer.drop_provisional() == self.model.sweep()

    @rule(form=st.sampled_from(tables.FORMS))
    def through_a_snapshot(self, form: int) -> None:
        path = self.directory / "snapshot"
        self.writer.save(path)
        self.writer.close()
        self.writer = IndexWriter.load(self.directory / "index", path, store_id=STORE_ID, key_id=KEY_ID, form=form)
        self.model.sweep()

    @invariant()
    def everybody_sees_what_they_should(self) -> None:
        if not hasattr(self, "writer"):
            return
        late = self.attach()
        asked = np.frombuffer(b"".join(DIGESTS), np.uint64).reshape(-1, 2)
        for view, provisional in ((self.early, False), (late, False), (self.writer, True)):
            counts, matches = view.find_many(asked)
            rows = iter(matches[["person", "gained", "lost", "aux"]].tolist())
            for digest, count in zip(DIGESTS, counts.tolist(), strict=True):
                expected = self.model.find(digest, provisional)
                assert sorted(next(rows) for _ in range(count)) == expected
        for digest in DIGESTS[:5]:
            assert sorted(self.find(digest)) == self.model.find(digest, provisional=False)
        assert self.early.data_version == self.seq == self.early.still() == late.still()
        assert self.writer.count == self.model.count
        assert [problem for problem in self.writer.check() if "provisional" not in problem] == []
        late.close()

    def teardown(self) -> None:
        shutil.rmtree(self.directory)


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=40)


def feeds(directory: Path, form: int, rounds: int, rows: int, seed: int) -> None:
    """Large feeds, half of them rolled back, with the expected state in arrays."""
    random = np.random.default_rng(seed)
    writer = IndexWriter.create(directory, store_id=STORE_ID, key_id=KEY_ID, keys=64, form=form)
    reader = IndexReader.attach(directory, store_id=STORE_ID, key_id=KEY_ID)
    keys = tables.hashes(rows * rounds, seed)
    persons, entries = tables.batch(keys)
    present = np.zeros(len(keys), bool)

    def stored() -> Iterator[Batch]:
        held = np.flatnonzero(present)
        for start in range(0, len(held), 10_000):
            part = held[start : start + 10_000]
            yield persons[part], entries[part]

    for seq in range(1, rounds + 1):
        chosen = np.unique(random.integers(0, len(keys), rows))
        for part in np.array_split(chosen, 5):
            writer.reserve(len(part), stored)
            writer.add_provisional(persons[part], entries[part])
        if random.random() < 0.5:
            assert writer.drop_provisional() == np.count_nonzero(~present[chosen])
            chosen = chosen[:0]
        gone = np.unique(random.integers(0, len(keys), rows // 3))
        present[chosen] = True
        present[gone] = False
        writer.publish(
            seq,
            added=(persons[chosen], entries[chosen]),
            removed=(persons[gone], entries[gone]),
            insurers_changed=False,
        )
        counts, matches = reader.find_many(keys)
        assert (counts == present).all() and (matches["person"] == persons[present]).all()
        assert (reader.data_version, reader.count, writer.check()) == (seq, present.sum(), [])
    writer.close()
    reader.close()


@pytest.mark.parametrize("form", tables.FORMS)
def test_feeds_of_many_rows(tmp_path: Path, form: int) -> None:
    large = probe.__name__ == "ext.probe"
    feeds(tmp_path / "index", form, rounds=20, rows=10_000 if large else 100, seed=form)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", tables.FORMS)
def test_feeds_of_millions_of_rows(tmp_path: Path, form: int) -> None:
    for seed in range(5):
        feeds(tmp_path / f"index-{seed}", form, rounds=20, rows=100_000, seed=seed)
