"""Tests of engine/ingest/bulk: whatever is made for many at once is what would be made for each."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine import days, entries, store
from engine.ingest import bulk
from engine.ingest.rows import Op, Row
from engine.records import Certificate, State
from tests.support.registries import KEYS, row

any_day = st.sampled_from([-500, 0, 1, 36_000, days.DAY_MAX, days.DAY_MAX + 1, 80_000])
certificates = st.builds(
    Certificate,
    issuer=st.sampled_from(["JPKI", "日本"]),
    serial=st.sampled_from(["0a", "0b"]),
    expires_on=st.sampled_from(
        [entries.EXPIRY_BASE + offset for offset in (-9, -2, -1, 0, 1, entries.EXPIRY_MAX - 2, entries.EXPIRY_MAX - 1)]
    ),
    revoked=st.booleans(),
)


@st.composite
def some_rows(draw: st.DrawFn) -> Row:
    made = row(
        draw(st.integers(1, 50)),
        op=draw(st.sampled_from([Op.NEW, Op.NEW, Op.NEW, Op.LOSE])),
        branch=draw(st.sampled_from(["", "01", "99"])),
        link=draw(st.sampled_from(["", "A", "連"])),
        gained=draw(any_day),
        lost=draw(st.one_of(st.none(), any_day)),
        reason=draw(st.sampled_from(["", "01", "99"])),
        state=draw(st.sampled_from([State.CONFIRMED, State.CONFIRMED, State.PENDING])),
    )
    return Row(made.row, made.op, replace(made.person, certificates=tuple(draw(st.lists(certificates, max_size=1)))))


@given(st.lists(some_rows(), min_size=1, max_size=8))
def test_entries_and_records_are_those_of_each_person(rows: list[Row]) -> None:
    staged = bulk.stage_rows(KEYS, rows)
    plain = np.flatnonzero(staged.rows["plain"])
    chosen, people = staged.rows[plain], staged.people(staged.rows["plain"])
    of_row, packed = bulk.entries_of_rows(chosen)
    records = bulk.records_of_rows(chosen, people, packed, first_person=7, first_seq=30, recorded_at_ms=5)
    assert len(records) == len(plain)
    for position, (at, (key, record)) in enumerate(zip(plain, records, strict=True)):
        person = rows[at].person
        expected = entries.entries_of(KEYS, 7 + position, person)
        assert packed[of_row == position].tobytes() == expected
        assert store.unpack_record(key, record) == (7 + position, 30 + position, 5, expected, person)


@given(st.lists(some_rows(), min_size=1, max_size=8))
def test_plain_rows_are_new_and_need_no_person_number(rows: list[Row]) -> None:
    for each, plain in zip(rows, bulk.stage_rows(KEYS, rows).rows["plain"], strict=True):
        (held,) = each.person.qualifications
        independent = entries.entries_of(KEYS, 1, each.person) == entries.entries_of(KEYS, 2, each.person)
        in_order = held.lost_on is None or held.lost_on >= held.gained_on
        assert plain == (each.op is Op.NEW and independent and in_order)


class Knows:
    """An index that knows some hashes."""

    def __init__(self, known: set[bytes]) -> None:
        self.known = known

    def find_many(self, hashes: np.ndarray) -> tuple[np.ndarray, object]:
        return np.array([each.tobytes() in self.known for each in hashes], np.uint8), None


@given(st.lists(some_rows(), min_size=1, max_size=8), st.integers(0, 8))
def test_independent_rows_touch_nobody_known_and_nobody_before_them(rows: list[Row], known: int) -> None:
    staged = bulk.stage_rows(KEYS, rows).rows
    digests = bulk.digests_of(staged)
    before: set[bytes] = {digest for each in digests[:known:2] for digest in each}
    index = Knows(set(before))
    apart, shared = bulk.independent(staged, index)
    for at, each in enumerate(digests):
        assert apart[at] == (staged["plain"][at] and not before & set(each))
        later = {digest for others in digests[at + 1 :] for digest in others}
        assert shared[at] == (apart[at] and bool(later & set(each)))
        before |= set(each)


def test_a_chunk_without_rows_has_nothing() -> None:
    staged = bulk.stage_rows(KEYS, [])
    assert (len(staged.rows), staged.blob) == (0, b"")
