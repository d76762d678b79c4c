"""A table in any form is a set of entries for each digest: against a dictionary, over many operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ext import probe
from tests.models.table import Row, TableModel
from tests.support import tables

# Few digests over few lines, so that chains and keys of many entries come up all the time; each with a tag of its own,
# because a table cannot tell keys of one tag apart where their chains meet (docs/FORMATS.md has the odds).
HOMES = [0, 1, 2**62 + 2, 2**63, 2**63 + 3, 2**64 - 1]
DIGESTS = st.sampled_from(
    [
        home.to_bytes(8, "little") + ((3 * position + copy << 16) + copy).to_bytes(8, "little")
        for position, home in enumerate(HOMES, 1)
        for copy in range(3)
    ]
)
ROWS: st.SearchStrategy[Row] = st.tuples(
    st.integers(0, 5), st.sampled_from([0, 65535]), st.sampled_from([0, 65535]), st.sampled_from([0, 65532])
)


class TableMachine(RuleBasedStateMachine):
    """Random steps on one table with a reading view beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TableModel()

    @initialize(lines=st.sampled_from([1, 3, 7, 9]), form=st.sampled_from(tables.FORMS))
    def make(self, lines: int, form: int) -> None:
        buffer = tables.memory(lines, form)
        self.slots = 4 * lines
        self.table = probe.Table(buffer, writable=True, provisional=True)
        self.reader = probe.Table(buffer)

    @rule(digest=DIGESTS, row=ROWS, provisional=st.booleans())
    def insert(self, digest: bytes, row: Row, provisional: bool) -> None:
        new = row not in self.model.rows.get(digest, {})
        if new and self.model.count == self.slots:
            with pytest.raises(probe.TableFullError):
                self.table.insert(digest, *row, provisional)
        else:
            assert self.table.insert(digest, *row, provisional) == self.model.insert(digest, row, provisional)

    @rule(digest=DIGESTS, row=ROWS)
    def remove(self, digest: bytes, row: Row) -> None:
        assert self.table.remove(digest, *row) == self.model.remove(digest, row)

    @rule(digest=DIGESTS, row=ROWS, new=ROWS)
    def replace(self, digest: bytes, row: Row, new: Row) -> None:
        target = (row[0], *new[1:])
        assert self.table.replace(digest, *row, *target[1:]) == self.model.replace(digest, row, target)

    @rule()
    def sweep(self) -> None:
        assert self.table.sweep() == self.model.sweep()

    @rule(rows=st.lists(st.tuples(DIGESTS, ROWS), max_size=12), provisional=st.booleans())
    def insert_many(self, rows: list[tuple[bytes, Row]], provisional: bool) -> None:
        if self.model.count + len(rows) <= self.slots:
            added = sum(self.model.insert(digest, row, provisional) for digest, row in rows)
            assert self.table.insert_many(*tables.packed(rows), provisional) == added

    @precondition(lambda self: self.model.count)
    @rule(rows=st.lists(st.tuples(DIGESTS, ROWS), max_size=12))
    def remove_many(self, rows: list[tuple[bytes, Row]]) -> None:
        removed = sum(self.model.remove(digest, row) for digest, row in rows)
        assert self.table.remove_many(*tables.packed(rows)) == removed

    @rule(digest=DIGESTS)
    def find(self, digest: bytes) -> None:
        assert sorted(self.table.find(digest)) == self.model.find(digest)
        assert sorted(self.reader.find(digest)) == self.model.find(digest, provisional=False)

    @invariant()
    def counts_are_right(self) -> None:
        assert self.table.count == self.model.count == self.table.scan()["entries"]
        assert self.table.provisional_count == self.model.provisional_count == self.table.scan()["provisional"]

    def teardown(self) -> None:
        for digest in self.model.rows:
            self.find(digest)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=150, stateful_step_count=60)


class Churn:
    """Many random insertions, removals and lookups of arrays, with the expected state in arrays too.

    Each key has up to three entries; an entry of person p behind key k has days and aux that follow from both.
    """

    def __init__(self, keys: int, form: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.keys = tables.hashes(keys, seed)
        self.table = tables.table(int(keys * 3 / 2.8) | 1, form)
        self.present = np.zeros((keys, 3), bool)
        self.operations = 0

    def entries(self, chosen: Any, which: Any) -> tables.Batch:
        persons, entries = tables.batch(self.keys[chosen])
        persons = (chosen * 3 + which + 1).astype(np.uint32)
        entries["gained"], entries["lost"] = persons & 0xFFFF, persons >> 3 & 0xFFFF
        entries["aux"] = persons << 2 & 0xFFFC
        return persons, entries

    def step(self, size: int) -> None:
        chosen, which = self.random.integers(0, len(self.keys), size), self.random.integers(0, 3, size)
        add = bool(self.random.random() < 0.55 - 0.1 * (self.present.mean() > 0.5))
        before = int(self.present.sum())
        self.present[chosen, which] = add
        changed = abs(int(self.present.sum()) - before)
        change = self.table.insert_many if add else self.table.remove_many
        assert change(*self.entries(chosen, which)) == changed
        self.operations += size

    def check(self) -> None:
        order = self.random.permutation(len(self.keys))
        counts = np.zeros(len(order), np.uint8)
        matches = np.zeros(3 * len(order) + 64, probe.MATCH_DTYPE)
        done, used = self.table.find_many(np.ascontiguousarray(self.keys[order]), counts, matches)
        assert done == len(order) and used == self.present.sum() == self.table.count
        assert (counts == self.present[order].sum(axis=1)).all()
        found = matches[:used]
        owners = np.repeat(order, counts)
        which = found["person"].astype(np.int64) - 1 - owners * 3
        assert ((which >= 0) & (which < 3)).all() and self.present[owners, which].all()
        assert len(np.unique(found["person"])) == used
        assert (found["gained"] == (found["person"] & 0xFFFF)).all()
        assert (found["lost"] == (found["person"] >> 3 & 0xFFFF)).all()
        assert (found["aux"] == (found["person"] << 2 & 0xFFFC)).all()
        self.operations += len(order)


def churn(form: int, keys: int, operations: int, seed: int) -> None:
    run = Churn(keys, form, seed)
    while run.operations < operations:
        for _ in range(20):
            run.step(int(run.random.integers(1, keys)))
        run.check()


@pytest.mark.parametrize("form", tables.FORMS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hundred_thousands_of_operations(form: int, seed: int) -> None:
    large = probe.__name__ == "ext.probe"
    churn(form, 5_000 if large else 300, 300_000 if large else 10_000, seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", tables.FORMS)
def test_millions_of_operations(form: int) -> None:
    for seed in range(10):
        churn(form, 100_000, 5_000_000, seed)
