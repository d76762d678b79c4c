"""Tests of engine/ingest/registry: whose registration a row is, what is refused, what failure leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from engine import days, limits
from engine.config import Config
from engine.errors import (
    FeedNumberError,
    FeedRowsError,
    FeedTruncatedError,
    IndexSpaceError,
    InsurerUnknownError,
    RecordCorruptError,
    ShikakuError,
    StoreFullError,
    StorePoisonedError,
    WriterBusyError,
)
from engine.index import IndexReader, IndexWriter
from engine.ingest.registry import DeltaCall, FeedReceipt, Registry
from engine.ingest.rows import Op, Row
from engine.ingest.spool import Spool
from engine.records import Insurer, Person, Sex, State
from tests.support import registries
from tests.support.registries import INSURERS, KEYS, applied, call, csv_line, lose, row, write_csv


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = registries.settings(tmp_path)
    registries.init(made)
    return made


@pytest.fixture
def registry(config: Config) -> Iterator[Registry]:
    with registries.opened(config) as opened:
        yield opened


def people(registry: Registry) -> list[Person]:
    store = registry.store
    found = store.people(range(1, store.next_person), store.committed_seq)
    return [person for person in found if person is not None]


def codes(result: object) -> list[tuple[int, str, str]]:
    assert isinstance(result, FeedRowsError), result
    return [(error.row, error.column, error.code) for error in result.report.errors]  # type: ignore[attr-defined]


def refused(registry: Registry, *rows: Row) -> list[str]:
    """The codes for which a call with these rows is refused; it must leave no trace."""
    before = (registry.store.committed_seq, registry.index.count, people(registry))
    (result,) = registry.apply_calls([call(*rows)])
    assert (registry.store.committed_seq, registry.index.count, people(registry)) == before
    return [code for _, _, code in codes(result)]


# --- whose registration a row is ----------------------------------------------------------------------------------


def test_a_row_that_touches_nobody_makes_a_new_person(registry: Registry) -> None:
    applied(registry, call(row(1), row(2)))
    assert [len(person.qualifications) for person in people(registry)] == [1, 1]


def test_a_known_link_code_makes_it_a_registration_of_that_person(registry: Registry) -> None:
    applied(registry, call(row(1, link="L", serial="A1", address="old")))
    applied(registry, call(row(2, insurer=INSURERS[1], link="L", serial="B2", address="new"), insurer=INSURERS[1]))
    (person,) = people(registry)
    assert [q.insurer_number for q in person.qualifications] == [INSURERS[0], INSURERS[1]]
    assert [c.serial for c in person.certificates] == ["A1", "B2"]
    assert person.address == "new"


def test_a_known_certificate_makes_it_a_registration_of_that_person(registry: Registry) -> None:
    applied(registry, call(row(1, serial="A1")), call(row(2, serial="A1", link="L")))
    (person,) = people(registry)
    assert (person.link_code, len(person.qualifications), len(person.certificates)) == ("L", 2, 1)


def test_link_code_and_certificate_of_different_people_are_a_conflict(registry: Registry) -> None:
    applied(registry, call(row(1, link="L"), row(2, serial="A1")))
    assert refused(registry, row(3, link="L", serial="A1")) == ["feed.conflict"]


def test_another_birth_date_is_a_conflict_until_everything_is_cancelled(registry: Registry) -> None:
    applied(registry, call(row(1, link="L", serial="A1")))
    for known in ({"link": "L"}, {"serial": "A1"}):
        assert refused(registry, row(2, born=29_001, **known)) == ["feed.conflict"]  # type: ignore[arg-type]
    applied(registry, call(row(1, Op.CANCEL)), call(row(1, born=29_001, link="L")))
    (person,) = people(registry)
    assert (person.birth_date, len(person.qualifications)) == (29_001, 2)


def test_a_person_has_one_link_code(registry: Registry) -> None:
    applied(registry, call(row(1, link="L", serial="A1")))
    assert refused(registry, row(2, link="M", serial="A1")) == ["feed.conflict"]
    applied(registry, call(lose(1)))
    assert refused(registry, row(1, gained=37_000, link="M")) == ["feed.conflict"]


def test_the_same_branch_kana_and_sex_gain_the_card_once_more(registry: Registry) -> None:
    applied(registry, call(row(1, lost=36_100, reason="99")), call(row(1, gained=36_200)))
    (person,) = people(registry)
    assert [q.gained_on for q in person.qualifications] == [36_000, 36_200]


@pytest.mark.parametrize("other", [{"branch": "02"}, {"kana": "スズキ"}, {"sex": Sex.FEMALE}, {"born": 29_001}])
def test_another_branch_kana_sex_or_birth_date_is_somebody_else(registry: Registry, other: dict[str, object]) -> None:
    applied(registry, call(row(1)), call(row(1, **other)))  # type: ignore[arg-type]
    assert len(people(registry)) == 2


def test_later_rows_and_calls_see_earlier_ones(registry: Registry) -> None:
    results = registry.apply_calls(
        [call(row(1, link="L"), lose(1)), call(row(1, gained=36_600)), call(row(9, link="L"))]
    )
    assert not any(isinstance(result, ShikakuError) for result in results)
    (person,) = people(registry)
    assert [(q.number, q.lost_on) for q in person.qualifications] == [("1", 36_500), ("1", None), ("9", None)]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_the_same_spell_twice_is_a_duplicate(registry: Registry) -> None:
    applied(registry, call(row(1)))
    assert refused(registry, row(1, address="elsewhere")) == ["feed.duplicate"]
    assert refused(registry, row(7), row(7)) == ["feed.duplicate"]


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [
        (36_099, None, ["feed.already_held"]),
        (36_100, None, []),
        (35_000, 36_000, []),
        (35_000, 36_001, ["feed.already_held"]),
        (36_050, 36_050, []),
        (36_000, 36_000, ["feed.duplicate"]),
    ],
)
def test_spells_of_one_card_may_touch_but_not_overlap(
    registry: Registry, gained: int, lost: int | None, expected: list[str]
) -> None:
    applied(registry, call(row(1, gained=36_000, lost=36_100, reason="99")))
    (result,) = registry.apply_calls([call(row(1, gained=gained, lost=lost, reason="99" if lost else ""))])
    assert ([] if not isinstance(result, ShikakuError) else [code for _, _, code in codes(result)]) == expected


def test_a_cancelled_spell_does_not_stand_in_the_way(registry: Registry) -> None:
    applied(registry, call(row(1)), call(row(1, Op.CANCEL)), call(row(1), salt="again"))
    (person,) = people(registry)
    assert [q.state for q in person.qualifications] == [State.CANCELLED, State.CONFIRMED]


def test_a_target_that_is_not_registered_is_unknown(registry: Registry) -> None:
    applied(registry, call(row(1)))
    for wrong in (lose(2), lose(1, branch="02"), lose(1, born=29_001), lose(1, gained=36_001), lose(1, link="L")):
        expected = [] if wrong.person.link_code else ["feed.target_unknown"]
        (result,) = registry.apply_calls([call(wrong)])
        assert ([code for _, _, code in codes(result)] if isinstance(result, ShikakuError) else []) == expected


def test_twins_without_branch_are_ambiguous_unless_a_link_code_tells(registry: Registry) -> None:
    applied(registry, call(row(1, branch="", link="A"), row(1, branch="", kana="ヤマダ ジロウ", link="B")))
    assert refused(registry, lose(1, branch="")) == ["feed.target_ambiguous"]
    assert refused(registry, lose(1, branch="", link="C")) == ["feed.target_unknown"]
    applied(registry, call(lose(1, branch="", link="B")))
    assert [person.qualifications[0].lost_on for person in people(registry)] == [None, 36_500]


def test_a_lost_day_before_the_gained_day_is_refused(registry: Registry) -> None:
    applied(registry, call(row(1)))
    assert refused(registry, lose(1, 35_999)) == ["feed.lost_before_gained"]
    assert refused(registry, row(2, lost=35_999, reason="99")) == ["feed.lost_before_gained"]
    applied(registry, call(lose(1, 36_000)))
    assert people(registry)[0].qualifications[0].lost_on == 36_000


def test_rows_of_another_insurer_are_refused(registry: Registry) -> None:
    assert refused(registry, row(1, insurer=INSURERS[1])) == ["insurer.mismatch"]


def test_a_person_holds_so_many_qualifications_and_no_more(registry: Registry) -> None:
    bound = limits.QUALIFICATIONS_PER_PERSON_MAX
    applied(registry, *(call(row(number, link="L")) for number in range(bound)))
    assert refused(registry, row(999, link="L")) == ["feed.too_many"]
    # every entry of this person changes at once, and both sets stand in the index for a moment
    applied(registry, call(row(0, Op.CHANGE, gained=-20_000, link="L")))
    assert len(people(registry)[0].qualifications) == bound


def test_a_card_has_so_many_people_behind_it_and_no_more(registry: Registry) -> None:
    bound = limits.PEOPLE_PER_KEY_MAX
    applied(registry, *(call(row(1, branch=f"{number:02d}")) for number in range(bound)))
    assert refused(registry, row(1, branch="99")) == ["feed.too_many"]


def test_a_person_has_so_many_certificates_and_no_more(registry: Registry) -> None:
    changes = [row(1, Op.CHANGE, serial=f"{number:x}") for number in range(1, limits.CERTIFICATES_PER_PERSON_MAX + 1)]
    applied(registry, call(row(1)), *map(call, changes))
    assert refused(registry, row(1, Op.CHANGE, serial="fff")) == ["feed.too_many"]


# --- change, lose, cancel -------------------------------------------------------------------------------------------


def test_change_replaces_the_spell_and_the_person_whole(registry: Registry) -> None:
    applied(registry, call(row(1, link="L", serial="A1", address="old")))
    applied(registry, call(row(1, Op.CHANGE, kana="スズキ", gained=36_001)))
    (person,) = people(registry)
    assert (person.name_kana, person.address, person.link_code) == ("スズキ", "", "L")
    assert [q.gained_on for q in person.qualifications] == [36_001]
    assert [c.serial for c in person.certificates] == ["A1"]


def test_change_means_the_spell_with_its_gained_day_else_the_latest(registry: Registry) -> None:
    applied(registry, call(row(1, lost=36_100, reason="99"), row(1, gained=36_200)))
    applied(registry, call(row(1, Op.CHANGE, gained=36_000, lost=36_050, reason="03")))
    assert [q.lost_on for q in people(registry)[0].qualifications] == [36_050, None]
    applied(registry, call(row(1, Op.CHANGE, gained=36_300)))
    assert [q.gained_on for q in people(registry)[0].qualifications] == [36_000, 36_300]


def test_change_cannot_take_identifiers_of_somebody_else(registry: Registry) -> None:
    applied(registry, call(row(1, serial="A1"), row(2, link="L")))
    assert refused(registry, row(2, Op.CHANGE, serial="A1")) == ["feed.conflict"]
    assert refused(registry, row(1, Op.CHANGE, link="L")) == ["feed.conflict"]


def test_lose_and_cancel_without_a_day_mean_the_latest_spell(registry: Registry) -> None:
    applied(registry, call(row(1, lost=36_100, reason="99"), row(1, gained=36_200)))
    applied(registry, call(row(1, Op.CANCEL, gained=None)))
    assert [q.state for q in people(registry)[0].qualifications] == [State.CONFIRMED, State.CANCELLED]
    applied(registry, call(lose(1, 36_150)))
    assert [q.lost_on for q in people(registry)[0].qualifications] == [36_150, None]


def test_every_version_stays_readable(registry: Registry) -> None:
    applied(registry, call(row(1)), call(lose(1)), call(row(1, Op.CANCEL)))
    states = [(q.lost_on, q.state) for _, _, person in registry.store.history(1) for q in person.qualifications]
    assert states == [(None, State.CONFIRMED), (36_500, State.CONFIRMED), (36_500, State.CANCELLED)]


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_failing_call_leaves_the_others_of_its_group(registry: Registry) -> None:
    results = registry.apply_calls(
        [
            call(row(1)),
            call(row(2), row(1)),
            call(row(3, insurer="99999999"), insurer="99999999"),
            call(row(2, link="L")),
        ]
    )
    assert [type(result).__name__ for result in results] == [
        "FeedReceipt", "FeedRowsError", "InsurerUnknownError", "FeedReceipt",
    ]  # fmt: skip
    assert codes(results[1]) == [(2, "gained_on", "feed.duplicate")]
    assert [person.link_code for person in people(registry)] == ["", "L"]
    assert [feed.feed for feed in registry.store.feeds()] == [2, 1]


def test_all_wrong_rows_of_a_call_are_reported(registry: Registry) -> None:
    (result,) = registry.apply_calls([call(lose(1), row(2), lose(3), row(2))])
    assert codes(result) == [
        (1, "number", "feed.target_unknown"),
        (3, "number", "feed.target_unknown"),
        (4, "gained_on", "feed.duplicate"),
    ]


def test_the_same_content_is_replayed_even_within_a_group(registry: Registry) -> None:
    first, second = registry.apply_calls([call(row(1)), call(row(1))])
    assert not isinstance(first, ShikakuError) and not isinstance(second, ShikakuError)
    assert (first.replayed, second.replayed) == (False, True)
    (third,) = applied(registry, call(row(1)))
    assert third == second
    assert registry.store.committed_seq == first.data_version == third.data_version


def test_a_call_that_returns_after_another_is_applied_again(registry: Registry) -> None:
    """Lost, corrected, lost again, without numbers: the third call once came back as a replay and changed nothing."""
    applied(registry, call(row(1, gained=36_000)))
    lost, corrected = call(lose(1, gained=36_000)), call(row(1, Op.CHANGE, gained=36_000))
    receipts = [*applied(registry, lost, corrected, lost), *applied(registry, lost)]
    assert [receipt.replayed for receipt in receipts] == [False, False, False, True]
    (person,) = people(registry)
    assert person.qualifications[0].lost_on == 36_500


def test_a_call_that_meets_a_damaged_record_leaves_no_trace_in_its_group(config: Config) -> None:
    """The new person of such a call was once committed together with the calls beside it."""
    registry = Registry.open(config, KEYS)
    applied(registry, call(row(1)), call(row(2)))
    registry.close()
    env = lmdb.open(str(config.store_dir), map_size=config.map_bytes, max_dbs=9)
    with env.begin(write=True) as txn:
        cursor = txn.cursor(env.open_db(b"versions", txn))
        assert cursor.first()
        key, value = cursor.item()
        cursor.put(key, value[:-6] + bytes([value[-6] ^ 1]) + value[-5:])
    env.close()
    registry = Registry.open(config, KEYS)
    try:
        damaged = call(row(3), row(1, Op.CHANGE, kana="サトウ"))
        bad, good = registry.apply_calls([damaged, call(row(4))])
        assert isinstance(bad, RecordCorruptError)
        assert isinstance(good, FeedReceipt) and (good.rows, good.data_version) == (1, 3)
        assert registry.store.next_person == 4
        assert registry.index.find(KEYS.card_hash(INSURERS[0], registries.BORN, "12", "3")) == ()
        assert registry.store.person(3, 3) is not None
    finally:
        registry.close()


def test_feed_numbers_go_up_within_their_scope(registry: Registry) -> None:
    applied(registry, call(row(1), feed_number=5))
    for number in (5, 4):
        (result,) = registry.apply_calls([call(row(2), feed_number=number)])
        assert isinstance(result, FeedNumberError)
    applied(registry, call(row(1, insurer=INSURERS[1]), insurer=INSURERS[1], feed_number=1))
    results = registry.apply_calls([call(row(3), feed_number=7), call(row(4), feed_number=6)])
    assert isinstance(results[1], FeedNumberError)
    assert [insurer.feed_number for insurer in registry.insurers()] == [7, 1, None]


@pytest.mark.parametrize("number", [-1, 2**63])
def test_a_feed_number_out_of_range_is_refused(registry: Registry, number: int) -> None:
    (result,) = registry.apply_calls([call(row(1), feed_number=number)])
    assert isinstance(result, FeedNumberError)


def test_a_call_without_rows_keeps_the_insurer_fresh(registry: Registry) -> None:
    (receipt,) = applied(registry, call(feed_number=3))
    assert (receipt.rows, receipt.data_version) == (0, 0)
    assert registry.insurers()[0].feed_number == 3
    applied(registry, call(row(1)))


def test_freshness_is_stored_and_shown(tmp_path: Path) -> None:
    config = registries.settings(tmp_path, clock_fixed_ms=1_700_000_000_000)
    registries.init(config)
    with registries.opened(config) as registry:
        version = registry.index.insurers_version
        applied(registry, call(row(1), feed_number=4))
        assert registry.index.insurers_version != version
        expected = Insurer(
            INSURERS[0],
            f"insurer {INSURERS[0]}",
            fresh_at_ms=1_700_000_000_000,
            feed_as_of=39_000,
            feed_number=4,
            last_feed=1,
        )
        assert registry.insurers()[0] == registry.store.insurer(INSURERS[0]) == expected
        renamed = registry.register_insurer(Insurer(INSURERS[0], "another name"))
        assert (renamed.name, renamed.feed_number) == ("another name", 4)
    with registries.opened(config) as registry:
        assert registry.insurers()[0] == renamed


def test_acknowledged_changes_are_visible_to_readers_at_once(config: Config, registry: Registry) -> None:
    index = IndexReader.attach(config.index_dir or Path(), store_id=registry.store.store_id, key_id=KEYS.key_id)
    card = KEYS.card_hash(INSURERS[0], registries.BORN, "12", "1")
    for number in range(1, 50):
        (receipt,) = applied(registry, call(row(1, branch="", kana=f"カナ{number}", gained=36_000 + number)))
        assert index.data_version == receipt.data_version == number
        if number < limits.PEOPLE_PER_KEY_MAX:
            assert len(index.find(card)) == number
        else:
            break
    index.close()


def test_one_writer_at_a_time(registry: Registry) -> None:
    class Nosy(list[DeltaCall]):
        def __iter__(self) -> Iterator[DeltaCall]:
            with pytest.raises(WriterBusyError):
                registry.apply_calls([])
            return iter([])

    assert registry.apply_calls(Nosy()) == []


def test_the_index_grows_while_calls_come_in(tmp_path: Path) -> None:
    config = registries.settings(tmp_path, index_keys=64)
    registries.init(config)
    with registries.opened(config) as registry:
        generation = registry.index.generation
        for start in range(0, 600, 100):
            applied(registry, *(call(row(start + at, serial=f"{start + at + 1:x}")) for at in range(100)))
        assert registry.index.generation > generation
        assert registry.index.count == 1200
        registries.assert_sound(config)


def test_no_room_for_the_index_refuses_the_group_and_changes_nothing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reserve(*_: object) -> bool:
        raise IndexSpaceError("no memory")

    monkeypatch.setattr(IndexWriter, "reserve", reserve)
    with pytest.raises(IndexSpaceError):
        registry.apply_calls([call(row(1))])
    monkeypatch.undo()
    assert registry.store.committed_seq == 0
    applied(registry, call(row(1)))


@pytest.mark.parametrize("failure", [MemoryError(), StoreFullError("no room"), IndexSpaceError("no room")], ids=repr)
@pytest.mark.parametrize("how", ["call", "file"])
def test_after_a_failure_between_store_and_index_only_a_new_registry_goes_on(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, how: str
) -> None:
    """It is durable: to say "nothing was applied", as a full disk does before the commit, would be wrong."""
    path = write_csv(tmp_path / "feed.csv", [csv_line(1)])
    with registries.opened(config) as registry:

        def fail(*_: object, **__: object) -> None:
            raise failure

        def write() -> object:
            if how == "call":
                return registry.apply_calls([call(row(1))])
            return registry.import_feed(path, insurer=INSURERS[0])

        monkeypatch.setattr(IndexWriter, "publish", fail)
        monkeypatch.setattr(IndexWriter, "rebuild", fail)
        before = registry.insurer(INSURERS[0])
        with pytest.raises(StorePoisonedError, match="durable") as raised:
            write()
        assert raised.value.__cause__ is failure
        assert registry.insurer(INSURERS[0]) == before
        monkeypatch.undo()
        with pytest.raises(StorePoisonedError):
            registry.apply_calls([call(row(2))])
    with registries.opened(config) as registry:
        assert len(people(registry)) == 1
        registries.assert_sound(config)


def test_a_disk_that_fills_up_during_an_import_refuses_it_before_the_commit(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was noted for the publication is small enough to stay in a buffer until it is read back."""
    path = write_csv(tmp_path / "feed.csv", [csv_line(n) for n in range(1, 4)])
    with registries.opened(config) as registry:
        settle = Spool.settle

        def full(spool: Spool) -> None:
            descriptor = os.open("/dev/full", os.O_WRONLY)
            os.dup2(descriptor, spool._added.fileno())
            os.close(descriptor)
            settle(spool)

        monkeypatch.setattr(Spool, "settle", full)
        with pytest.raises(StoreFullError):
            registry.import_feed(path, insurer=INSURERS[0])
        monkeypatch.undo()
        assert len(people(registry)) == 0
        assert registry.import_feed(path, insurer=INSURERS[0]).new == 3
        registries.assert_sound(config)


def test_content_meant_again_is_applied_whatever_came_between(registry: Registry, tmp_path: Path) -> None:
    """Lost under number 2, corrected without a number, lost again under number 3: the person is not insured."""
    new = write_csv(tmp_path / "new.csv", [csv_line(1)])
    lose = write_csv(tmp_path / "lose.csv", [csv_line(1, "lose", lost="2021-01-01", reason="03", gained="")])
    correct = write_csv(tmp_path / "correct.csv", [csv_line(1, "change")])
    insurer = INSURERS[0]
    registry.import_feed(new, insurer=insurer, feed_number=1)
    assert registry.import_feed(lose, insurer=insurer, feed_number=2).lost == 1
    assert registry.import_feed(lose, insurer=insurer, feed_number=3).replayed
    assert registry.import_feed(correct, insurer=insurer).changed == 1
    assert not registry.import_feed(lose, insurer=insurer, feed_number=3).replayed
    (person,) = people(registry)
    assert person.qualifications[0].lost_on is not None
    assert registry.import_feed(correct, insurer=insurer).replayed


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_applied_and_its_receipt_counts(config: Config, registry: Registry, tmp_path: Path) -> None:
    lines = [csv_line(n, link=f"L{n}", serial=f"{n:02x}") for n in range(1, 6)]
    lines += [
        csv_line(1, "change", gained="2020-05-01"),
        csv_line(2, "lose", lost="2021-01-01", reason="03", gained=""),
    ]
    lines += [csv_line(3, "cancel", gained=""), csv_line(2, gained="2022-01-01")]
    seen: list[tuple[int, int, int]] = []
    path = write_csv(tmp_path / "feed.csv", lines)
    receipt = registry.import_feed(path, insurer=INSURERS[0], feed_number=1, progress=lambda *each: seen.append(each))
    assert (receipt.rows, receipt.new, receipt.changed, receipt.lost, receipt.cancelled) == (9, 6, 1, 1, 1)
    assert (receipt.feed, receipt.data_version, receipt.insurer) == (1, 9, INSURERS[0])
    size = path.stat().st_size
    assert seen[-1] == (size, size, 9)
    assert len(people(registry)) == 5
    assert list(config.spool_dir.iterdir()) == []
    registries.assert_sound(config)


def test_a_file_that_was_applied_changes_nothing_and_says_so(registry: Registry, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "feed.csv", [csv_line(1)])
    first = registry.import_feed(path, insurer=INSURERS[0], feed_number=1)
    again = registry.import_feed(path, insurer=INSURERS[0], feed_number=2)
    assert again.replayed and again.feed == first.feed and again.feed_number == 1
    assert registry.store.committed_seq == 1
    write_csv(path, [csv_line(2)])
    with pytest.raises(FeedNumberError):
        registry.import_feed(path, insurer=INSURERS[0], feed_number=1)


def test_content_that_returns_after_other_content_is_applied_under_its_new_number(
    registry: Registry, tmp_path: Path
) -> None:
    """Lost, not lost, lost again: the third file has the bytes of the first and must not be taken for it."""
    name, kept = INSURERS[0], csv_line(1, "change", gained="2020-04-01")
    lost = csv_line(1, "lose", lost="2021-01-01", reason="03", gained="2020-04-01")
    number = 0
    for line in (csv_line(1, gained="2020-04-01"), lost, kept, lost):
        number += 1
        path = write_csv(tmp_path / "feed.csv", [line])
        assert not registry.import_feed(path, insurer=name, feed_number=number).replayed
    (person,) = people(registry)
    assert person.qualifications[0].lost_on == days.parse_iso("2021-01-01")
    assert registry.import_feed(path, insurer=name).replayed
    assert registry.import_feed(path, insurer=name, feed_number=number + 1).replayed


def test_the_operators_file_has_rows_of_all_insurers(registry: Registry, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "feed.csv", [csv_line(1), csv_line(2, insurer=INSURERS[1])])
    receipt = registry.import_feed(path, feed_number=9, as_of=39_001)
    assert receipt.insurer is None
    assert [insurer.feed_as_of for insurer in registry.insurers()] == [39_001, 39_001, None]
    assert [insurer.feed_number for insurer in registry.insurers()] == [None, None, None]


def test_one_wrong_row_and_nothing_is_applied(config: Config, registry: Registry, tmp_path: Path) -> None:
    lines = [csv_line(1), csv_line(2, "lose", lost="2021-01-01", reason="03"), csv_line(3), csv_line(1)]
    with pytest.raises(FeedRowsError) as caught:
        registry.import_feed(write_csv(tmp_path / "feed.csv", lines), insurer=INSURERS[0])
    assert codes(caught.value) == [(2, "number", "feed.target_unknown"), (4, "gained_on", "feed.duplicate")]
    assert (registry.store.committed_seq, registry.index.count, registry.store.feeds()) == (0, 0, [])
    assert registry.store.sizes()["versions"] == 0
    assert list(config.spool_dir.iterdir()) == []
    registry.import_feed(write_csv(tmp_path / "feed.csv", [lines[0], lines[2]]), insurer=INSURERS[0])
    registries.assert_sound(config)


def test_rows_that_are_wrong_in_themselves_are_reported_together(registry: Registry, tmp_path: Path) -> None:
    lines = [
        csv_line(1),
        csv_line(2, insurer=INSURERS[1]),
        csv_line(3, birth="2020-13-01"),
        csv_line(4, insurer="06010011"),
    ]
    with pytest.raises(FeedRowsError) as caught:
        registry.import_feed(write_csv(tmp_path / "feed.csv", lines), insurer=INSURERS[0])
    found = {(row, code) for row, _, code in codes(caught.value)}
    assert {(2, "insurer.mismatch"), (3, "input.date")} < found
    assert registry.store.committed_seq == 0


def test_the_report_lists_so_many_errors_and_counts_all(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FEED_ERRORS_MAX", 5)
    lines = [csv_line(n, "lose", lost="2021-01-01", reason="03") for n in range(1, 13)]
    with pytest.raises(FeedRowsError) as caught:
        registry.import_feed(write_csv(tmp_path / "feed.csv", lines), insurer=INSURERS[0])
    assert caught.value.report.error_count == 12  # type: ignore[attr-defined]
    assert len(codes(caught.value)) == 5


def test_a_truncated_file_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "feed.csv", [csv_line(1), csv_line(2, kana='"ヤマ')])
    with pytest.raises(FeedTruncatedError):
        registry.import_feed(path, insurer=INSURERS[0])
    assert registry.store.sizes()["versions"] == 0


def test_a_dry_run_checks_against_the_store_and_leaves_no_trace(
    config: Config, registry: Registry, tmp_path: Path
) -> None:
    good = write_csv(tmp_path / "good.csv", [csv_line(1), csv_line(1, "lose", lost="2021-01-01", reason="03")])
    trial = registry.import_feed(good, insurer=INSURERS[0], feed_number=3, dry_run=True)
    assert (trial.dry_run, trial.new, trial.lost, trial.data_version) == (True, 1, 1, 0)
    assert (registry.store.sizes()["versions"], registry.store.feeds(), registry.index.count) == (0, [], 0)
    real = registry.import_feed(good, insurer=INSURERS[0], feed_number=3)
    assert (real.dry_run, real.replayed, real.data_version) == (False, False, 2)
    bad = write_csv(tmp_path / "bad.csv", [csv_line(2), csv_line(1, gained="2020-12-31")])
    with pytest.raises(FeedRowsError) as caught:
        registry.import_feed(bad, insurer=INSURERS[0], dry_run=True)
    assert codes(caught.value) == [(2, "gained_on", "feed.already_held")]
    registries.assert_sound(config)


def test_an_unknown_insurer_has_no_feed(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InsurerUnknownError):
        registry.import_feed(write_csv(tmp_path / "feed.csv", []), insurer="99999999")


def test_a_person_met_again_in_a_later_chunk_is_the_same(
    config: Config, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.ingest import feed

    monkeypatch.setattr(limits, "FEED_ROWS_PER_CHUNK", 10)
    monkeypatch.setattr(feed, "ROWS_PER_BLOCK_MAX", 10)
    lines = [csv_line(n, link=f"L{n}") for n in range(1, 21)]
    lines += [csv_line(100 + n, link=f"L{n}", serial=f"{n:02x}") for n in range(1, 21)]
    lines += [csv_line(100 + n, "lose", lost="2021-01-01", reason="03", gained="") for n in range(1, 21)]
    receipt = registry.import_feed(write_csv(tmp_path / "feed.csv", lines), insurer=INSURERS[0])
    assert (receipt.new, receipt.lost) == (40, 20)
    assert [[q.lost_on is None for q in person.qualifications] for person in people(registry)] == [[True, False]] * 20
    # entries that only the middle of the feed had are gone: fsck counts
    registries.assert_sound(config)


def test_a_corrected_birth_date_is_seen_by_the_other_rows_of_its_chunk(
    config: Config, registry: Registry, tmp_path: Path
) -> None:
    """The bulk path took row 4 for a stranger's: nothing in row 3 showed that it moves the person to row 4's card."""
    lines = [csv_line(1, link="L"), csv_line(2, link="L"), csv_line(1, "cancel"), csv_line(2, "cancel")]
    registry.import_feed(write_csv(tmp_path / "one.csv", lines), insurer=INSURERS[0])
    lines = [csv_line(3, birth="1990-01-03", link="L"), csv_line(1, birth="1990-01-03")]
    registry.import_feed(write_csv(tmp_path / "two.csv", lines), insurer=INSURERS[0])
    (person,) = people(registry)
    assert [q.number for q in person.qualifications] == ["1", "2", "3", "1"]
    registries.assert_sound(config)


def test_a_full_map_refuses_the_feed_and_leaves_the_store_usable(tmp_path: Path) -> None:
    config = registries.settings(tmp_path, map_bytes=1 << 20)
    registries.init(config)
    with registries.opened(config) as registry:
        applied(registry, call(row(1)))
        lines = [csv_line(n, link=f"L{n}", serial=f"{n:04x}") for n in range(100, 12_000)]
        with pytest.raises(StoreFullError):
            registry.import_feed(write_csv(tmp_path / "large.csv", lines), insurer=INSURERS[0])
        assert registry.store.committed_seq == 1
        applied(registry, call(row(2)))
        registry.import_feed(write_csv(tmp_path / "small.csv", [csv_line(5)]), insurer=INSURERS[0])
        registries.assert_sound(config)


DISK_FULL = """
import resource, sys
from pathlib import Path
from engine.errors import StoreFullError
from tests.support import registries
from tests.support.registries import INSURERS, applied, call, row
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
config = registries.settings(folder)
with registries.opened(config) as registry:
    before = registry.store.committed_seq
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        registry.import_feed(folder / "large.csv", insurer=INSURERS[0])
    except StoreFullError:
        pass
    else:
        sys.exit("the file was not refused")
    assert registry.store.committed_seq == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    applied(registry, call(row(77)))
    registries.assert_sound(config)
sys.exit(42)
"""


@pytest.mark.parametrize("limit", [300_000, 2_500_000, 6_000_000])
def test_a_full_disk_refuses_the_feed_and_leaves_the_store_usable(config: Config, tmp_path: Path, limit: int) -> None:
    """Files cannot grow beyond the limit: the spool meets it first, or the store, in its first or a later chunk."""
    with registries.opened(config) as registry:
        applied(registry, call(row(1)))
    lines = [csv_line(n, link=f"L{n}", serial=f"{n:04x}") for n in range(100, 25_000)]
    write_csv(tmp_path / "large.csv", lines)
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 42, done.stderr
    with registries.opened(config) as registry:
        assert len(people(registry)) == 2
        registry.import_feed(tmp_path / "large.csv", insurer=INSURERS[0])
        registries.assert_sound(config)
