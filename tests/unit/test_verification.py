"""Asks whether verification.py answers from the right source, at one version, and gives away nothing it must not."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import days, entries
from engine.records import Answer, Insurer, Note, Person, Qualification, Reason, State, Verdict
from engine.verification import Verifier
from tests.support.verdicts import (
    AS_OF,
    BIRTH,
    INSURER,
    ISSUER,
    OTHER_INSURER,
    by_card,
    by_certificate,
    certificate,
    person,
    qualification,
)
from tests.support.world import KEYS, Batch, World, clock_of

LOST = qualification("2020-04-01", "2026-10-01", loss="03")
NEWER = qualification("2026-10-01", insurer=OTHER_INSURER, symbol="NEWSYMBOL", number="7777777", branch="09")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, AS_OF) as made:
        yield made


class Untouchable:
    """A store that must not be read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the store was asked: {name}")


def from_memory(world: World) -> Verifier:
    """A verifier without a store."""
    store: Any = Untouchable()
    return Verifier(world.reader, store, KEYS, clock_of(AS_OF))


def shown(answer: Answer) -> tuple[Verdict, Reason | None, bool]:
    return answer.verdict, answer.reason, answer.qualification is not None


# --- what an answer carries -----------------------------------------------------------------------------------


def test_valid_by_card_carries_the_qualification_and_the_person(world: World) -> None:
    q = qualification()
    version = world.replace({1: person(q, certificates=(certificate(),))})
    answer = world.verifier.check(by_card("01"))
    assert shown(answer) == (Verdict.VALID, None, True)
    assert (answer.qualification, answer.insurer_number, answer.data_version) == (q, INSURER, version)
    assert answer.person is not None and answer.certificate is None
    assert (answer.person.name, answer.person.address) == ("資格 花子", "東京都千代田区千代田1-1")


def test_valid_by_certificate_carries_the_certificate(world: World) -> None:
    world.replace({1: person(qualification(), certificates=(certificate(), certificate(serial="99")))})
    answer = world.verifier.check(by_certificate())
    assert shown(answer) == (Verdict.VALID, None, True)
    assert answer.certificate == certificate()


@pytest.mark.parametrize(
    ("held", "verdict", "reason", "data"),
    [
        ((LOST,), Verdict.INVALID, Reason.INSURANCE_CHANGED, True),
        ((qualification("2027-01-01"),), Verdict.INVALID, Reason.NOT_YET_GAINED, True),
        ((qualification(state=State.CANCELLED),), Verdict.INVALID, Reason.CANCELLED, True),
        ((qualification(state=State.PENDING),), Verdict.PENDING, Reason.ANNOUNCED, False),
        ((LOST, NEWER), Verdict.SUPERSEDED, Reason.NEWER_QUALIFICATION, True),
    ],
)
def test_other_verdicts_carry_what_they_may(
    world: World, held: tuple[Qualification, ...], verdict: Verdict, reason: Reason, data: bool
) -> None:
    world.replace({1: person(*held)})
    answer = world.verifier.check(by_card("01"))
    assert shown(answer) == (verdict, reason, data)
    assert (answer.person is not None) is data
    assert answer.insurer_number == INSURER


def test_twins_are_ambiguous_without_data(world: World) -> None:
    world.replace({1: person(qualification(branch="02")), 2: person(qualification(branch="03"))})
    answer = world.verifier.check(by_card())
    assert shown(answer) == (Verdict.AMBIGUOUS, Reason.SEVERAL_PEOPLE, False)
    assert answer.person is None
    assert world.verifier.check(by_card("03")).qualification == qualification(branch="03")


def test_unknown_cards_and_wrong_birth_dates_look_alike(world: World) -> None:
    """A guesser learns nothing from the difference between a wrong number and a wrong birth date."""
    world.replace({1: person(qualification())})
    for inquiry in (
        by_card(birth=BIRTH + 1),
        by_card(number="1987655"),
        by_card(insurer=OTHER_INSURER),
        by_card(symbol=""),
    ):
        answer = world.verifier.check(inquiry)
        assert shown(answer) == (Verdict.NOT_FOUND, Reason.UNKNOWN_CARD, False)
        assert answer.insurer_number == inquiry.card.insurer_number  # type: ignore[union-attr]
    assert world.verifier.check(by_card("02")).reason is Reason.BRANCH_MISMATCH


def test_superseded_never_shows_anything_of_the_newer_one(world: World) -> None:
    lost = qualification("2020-04-01", "2026-10-01", loss="03")
    world.replace({1: person(lost, NEWER, certificates=(certificate(serial="SECRETSERIAL"),))})
    answer = world.verifier.check(by_card("01"))
    assert answer.qualification == lost
    written = msgspec.json.encode(answer).decode()
    for secret in (OTHER_INSURER, "NEWSYMBOL", "7777777", "千代田", "1000001", "SECRETSERIAL", "link-1"):
        assert secret not in written


@pytest.mark.parametrize("inquiry", [by_card("01"), by_certificate()], ids=["card", "certificate"])
def test_no_answer_shows_the_persons_other_registrations(world: World, inquiry: Any) -> None:
    world.replace(
        {
            1: person(
                qualification(), qualification("2015-04-01", "2020-04-01", number="555"), certificates=(certificate(),)
            )
        }
    )
    answer = world.verifier.check(inquiry)
    assert answer.person is not None
    assert (answer.person.qualifications, answer.person.certificates, answer.person.link_code) == ((), (), "")


def test_card_expiry_is_noted_in_full_answers(world: World) -> None:
    world.replace({1: person(qualification(card_valid_to=AS_OF - 1))})
    assert world.verifier.check(by_card()).notes == (Note.CARD_EXPIRED,)
    assert world.verifier.check(by_card(verdict_only=True)).notes == ()


def test_warnings_are_passed_on(world: World) -> None:
    warning = ("card.insurer_number", "input.check_digit")
    for verdict_only in (False, True):
        inquiry = msgspec.structs.replace(by_card(verdict_only=verdict_only), warnings=(warning,))
        assert world.verifier.check(inquiry).warnings == (warning,)


# --- a match alone never yields data ----------------------------------------------------------------------------


def planted_hashes() -> list[bytes]:
    return [KEYS.card_hash(INSURER, BIRTH, "", "4242"), KEYS.certificate_hash(ISSUER, "4242")]


def test_a_false_match_yields_nothing(world: World) -> None:
    """Two keys with the same tag (1.4e-14 an unknown key): the index then names somebody else altogether."""
    world.replace({1: person(qualification(), certificates=(certificate(),))})
    for digest in planted_hashes():
        world.plant(digest, 1)
    by_number = world.verifier.check(by_card(number="4242", symbol=""))
    assert shown(by_number) == (Verdict.NOT_FOUND, Reason.UNKNOWN_CARD, False)
    by_serial = world.verifier.check(by_certificate("4242"))
    assert shown(by_serial) == (Verdict.NOT_FOUND, Reason.UNKNOWN_CERTIFICATE, False)
    assert by_number.person is by_serial.person is None


def test_a_false_match_beside_a_true_one_is_left_out(world: World) -> None:
    q = qualification()
    stranger = person(qualification(number="31337"), birth=BIRTH + 9)
    world.replace({1: person(q, certificates=(certificate(),)), 2: stranger})
    world.plant(KEYS.card_hash(INSURER, BIRTH, q.symbol_key, q.number_key), 2)
    world.plant(KEYS.certificate_hash(ISSUER, "1A2B"), 2)
    assert world.verifier.check(by_card()).qualification == q
    assert world.verifier.check(by_certificate()).qualification == q


def test_a_match_without_a_record_yields_nothing(world: World) -> None:
    world.replace({1: person(qualification())})
    world.plant(planted_hashes()[0], 999)
    assert world.verifier.check(by_card(number="4242", symbol="")).verdict is Verdict.NOT_FOUND


@pytest.mark.parametrize(
    "other",
    [
        person(qualification(), birth=BIRTH + 1),
        person(qualification(number="1987655")),
        person(qualification(symbol="1235")),
        person(qualification(insurer=OTHER_INSURER)),
    ],
    ids=["birth date", "number", "symbol", "insurer"],
)
def test_every_identifier_is_compared_with_the_record(world: World, other: Person) -> None:
    world.replace({1: other})
    world.plant(KEYS.card_hash(INSURER, BIRTH, "1234", "1987654"), 1)
    assert shown(world.verifier.check(by_card())) == (Verdict.NOT_FOUND, Reason.UNKNOWN_CARD, False)


def test_issuer_and_serial_are_both_compared(world: World) -> None:
    world.replace({1: person(qualification(), certificates=(certificate(serial="77"),))})
    world.plant(KEYS.certificate_hash(ISSUER, "1A2B"), 1)
    assert world.verifier.check(by_certificate()).reason is Reason.UNKNOWN_CERTIFICATE


# --- from memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ((qualification(),), (Verdict.VALID, None)),
        ((LOST,), (Verdict.INVALID, Reason.INSURANCE_CHANGED)),
        ((LOST, NEWER), (Verdict.SUPERSEDED, Reason.NEWER_QUALIFICATION)),
        ((qualification(state=State.PENDING),), (Verdict.PENDING, Reason.ANNOUNCED)),
    ],
)
def test_verdicts_by_card_need_no_store(
    world: World, held: tuple[Qualification, ...], expected: tuple[Verdict, Reason | None]
) -> None:
    version = world.replace({1: person(*held)})
    answer = from_memory(world).check(by_card("01", verdict_only=True))
    assert (answer.verdict, answer.reason) == expected
    assert (answer.data_version, answer.insurer_number, answer.person) == (version, INSURER, None)
    assert from_memory(world).verdict(by_card("02")).reason is Reason.BRANCH_MISMATCH
    assert from_memory(world).verdict(by_card(number="1")).reason is Reason.UNKNOWN_CARD


def test_overlap_is_noted_from_memory(world: World) -> None:
    world.replace({1: person(qualification(), NEWER, certificates=(certificate(),))})
    assert from_memory(world).verdict(by_card("01")).notes == (Note.OVERLAP,)
    assert from_memory(world).verdict(by_certificate()).notes == (Note.OVERLAP,)


def test_verdicts_by_certificate_need_no_store(world: World) -> None:
    world.replace(
        {
            1: person(qualification(), certificates=(certificate(serial="A"), certificate(serial="B", revoked=True))),
            2: person(LOST, qualification("2027-01-01"), certificates=(certificate(serial="C"),)),
            3: person(certificates=(certificate(serial="D"), certificate("2026-01-01", serial="E"))),
            4: person(qualification("2027-04-01"), certificates=(certificate(serial="F"),)),
        }
    )
    verifier = from_memory(world)
    answers = {serial: verifier.verdict(by_certificate(serial)) for serial in "ABCDEFG"}
    assert {serial: answer.reason for serial, answer in answers.items()} == {
        "A": None,
        "B": Reason.CERTIFICATE_REVOKED,
        "C": Reason.INSURANCE_CHANGED,
        "D": Reason.NO_QUALIFICATION,
        "E": Reason.CERTIFICATE_EXPIRED,
        "F": Reason.NOT_YET_GAINED,
        "G": Reason.UNKNOWN_CERTIFICATE,
    }
    assert answers["A"].verdict is Verdict.VALID


@pytest.mark.parametrize(
    ("held", "chip", "expected"),
    [
        ((LOST,), certificate(), (Verdict.INVALID, Reason.INSURANCE_CHANGED)),
        ((qualification(),), certificate("2015-12-31"), (Verdict.NOT_FOUND, Reason.CERTIFICATE_EXPIRED)),
        ((qualification(),), certificate("2099-12-31"), (Verdict.VALID, None)),
    ],
    ids=["reason of loss", "before the range", "after the range"],
)
def test_what_a_certificate_slot_cannot_say_is_asked_of_the_record(
    world: World, held: tuple[Qualification, ...], chip: Any, expected: tuple[Verdict, Reason | None]
) -> None:
    world.replace({1: person(*held, certificates=(chip,))})
    decision = world.verifier.verdict(by_certificate())
    assert (decision.verdict, decision.reason) == expected
    with pytest.raises(AssertionError, match="the store was asked"):
        from_memory(world).verdict(by_certificate())


def test_qualifications_alike_in_slots_are_asked_of_the_record(world: World) -> None:
    world.replace({1: person(qualification(), qualification(insurer=OTHER_INSURER), certificates=(certificate(),))})
    assert world.verifier.verdict(by_card()).notes == (Note.OVERLAP,)
    assert world.verifier.verdict(by_certificate()).notes == (Note.OVERLAP,)


def test_saturated_days_keep_their_order(world: World) -> None:
    """Both spells lie before 1920, so that a slot has day 0 for both; only the record knows which one ended last."""
    world.replace({1: person(qualification(-10_000, -9_000, loss="99"), qualification(-100, -50, loss="01"))})
    assert world.verifier.verdict(by_card()).reason is world.verifier.check(by_card()).reason is Reason.DECEASED


@pytest.mark.parametrize("as_of", [days.AS_OF_MIN - 1, days.AS_OF_MAX + 1, -5, 80_000])
def test_days_outside_the_slots_range_are_asked_of_the_record(world: World, as_of: int) -> None:
    world.replace({1: person(qualification(-10, 90_000))})
    assert world.verifier.verdict(by_card(as_of=as_of)).verdict is Verdict.VALID
    assert world.verifier.verdict(by_card(as_of=90_000)).verdict is Verdict.INVALID


# --- one version ------------------------------------------------------------------------------------------------


def test_what_is_committed_but_not_visible_is_not_answered(world: World) -> None:
    version = world.replace({1: person(qualification())})
    added, removed = world.commit({1: person(LOST)})
    for verdict_only in (False, True):
        answer = world.verifier.check(by_card(verdict_only=verdict_only))
        assert (answer.verdict, answer.data_version) == (Verdict.VALID, version)
    world.index.publish(world.seq, added=added, removed=removed, insurers_changed=False)
    for verdict_only in (False, True):
        answer = world.verifier.check(by_card(verdict_only=verdict_only))
        assert (answer.verdict, answer.data_version) == (Verdict.INVALID, world.seq)


def test_in_the_middle_of_a_change_every_answer_is_of_one_version(world: World) -> None:
    """A card goes from one person to another. Between the steps the index holds both, and a verdict taken from it
    then would be AMBIGUOUS, which was never true."""
    world.replace({1: person(qualification()), 2: person(certificates=(certificate(),))})
    added, removed = world.commit(
        {1: person(qualification(state=State.CANCELLED)), 2: person(qualification(), certificates=(certificate(),))}
    )
    seen: list[tuple[Verdict, Reason | None, int]] = []

    def ask() -> None:
        for inquiry in (by_card(), by_card(verdict_only=True), by_certificate(verdict_only=True)):
            answer = world.verifier.check(inquiry)
            seen.append((answer.verdict, answer.reason, answer.data_version))

    def watched(batch: Batch) -> Iterator[Batch]:
        ask()
        for at in range(len(batch[0])):
            yield batch[0][at : at + 1], batch[1][at : at + 1]
            ask()

    before = world.index.visible_version
    world.index.publish(world.seq, added=watched(added), removed=watched(removed), insurers_changed=False)
    ask()
    assert {version for _, _, version in seen} == {before, world.seq}
    for verdict, reason, version in seen:
        by_nobody = (verdict, reason) == (Verdict.NOT_FOUND, Reason.NO_QUALIFICATION)
        assert verdict is Verdict.VALID or (by_nobody and version == before)


def test_readers_follow_to_the_next_generation(world: World) -> None:
    insured, lost = person(qualification()), person(LOST)
    world.replace({1: insured})
    for now, verdict in ((lost, Verdict.INVALID), (insured, Verdict.VALID), (lost, Verdict.INVALID)):
        generation = world.reader.generation
        world.index.rebuild(world.entries(), seq=world.seq)
        version = world.replace({1: now})
        for verdict_only in (False, True):
            answer = world.verifier.check(by_card(verdict_only=verdict_only))
            assert (answer.verdict, answer.data_version) == (verdict, version)
        assert world.reader.generation > generation


def test_answers_stay_consistent_while_a_writer_publishes(world: World) -> None:
    """One thread turns a person from state to state; each answer must be what its own data version says."""
    states = [
        person(qualification(), certificates=(certificate(),)),
        person(LOST, NEWER, certificates=(certificate(),)),
        person(qualification(number="2222222"), certificates=(certificate(),)),
        person(qualification(), NEWER, certificates=(certificate(),)),
    ]
    expected = {
        0: (Verdict.VALID, Verdict.VALID, ()),
        1: (Verdict.SUPERSEDED, Verdict.VALID, ()),
        2: (Verdict.NOT_FOUND, Verdict.VALID, ()),
        3: (Verdict.VALID, Verdict.VALID, (Note.OVERLAP,)),
    }
    first = world.replace({1: states[0]})
    stop = threading.Event()
    wrong: list[object] = []
    asked = [0]

    def read() -> None:
        verifier = Verifier(world.reader, world.store, KEYS, clock_of(AS_OF))
        while not stop.is_set():
            for verdict_only in (True, False):
                for inquiry in (by_card(verdict_only=verdict_only), by_certificate(verdict_only=verdict_only)):
                    answer = verifier.check(inquiry)
                    by_card_, by_chip, notes = expected[(answer.data_version - first) % len(states)]
                    right = (by_card_ if inquiry.card else by_chip, notes if inquiry.card or notes else ())
                    if (answer.verdict, answer.notes) != right:
                        wrong.append((answer, right))
                    asked[0] += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    readers = [threading.Thread(target=read) for _ in range(2)]
    try:
        for thread in readers:
            thread.start()
        for turn in range(1, 400):
            world.replace({1: states[turn % len(states)]})
            if turn % 50 == 0:
                world.index.rebuild(world.entries(), seq=world.seq)
    finally:
        stop.set()
        for thread in readers:
            thread.join()
        sys.setswitchinterval(before)
    assert wrong == []
    assert asked[0] > 400


# --- insurers ---------------------------------------------------------------------------------------------------


def test_insurers_are_remembered_until_one_changes(world: World) -> None:
    world.register_insurer(Insurer(INSURER, "協会けんぽ"))
    assert world.verifier.insurer(INSURER) == Insurer(INSURER, "協会けんぽ")
    world.register_insurer(Insurer(INSURER, "協会けんぽ", fresh_at_ms=5), publish=False)
    known = world.verifier.insurer(INSURER)
    assert known is not None and known.fresh_at_ms is None, "the same answer until the change is visible"
    world.register_insurer(Insurer(INSURER, "協会けんぽ", fresh_at_ms=6))
    known = world.verifier.insurer(INSURER)
    assert known is not None and known.fresh_at_ms == 6


def test_an_insurer_is_no_fresher_than_the_version_asked_for(world: World) -> None:
    """The change of its last feed says since when it is so; a few older states are kept for answers under way."""
    reads: list[str] = []
    states = [(Insurer(INSURER, "協会けんぽ", fresh_at_ms=seq, last_feed=seq), seq) for seq in (3, 5, 8, 9)]

    class Store:
        def insurer_since(self, number: str) -> tuple[Insurer, int]:
            reads.append(number)
            return states[0]

    class Index:
        insurers_version = data_version = 0

    store: Any = Store()
    index: Any = Index()
    verifier = Verifier(index, store, KEYS, clock_of(AS_OF))

    def fresh(version: int) -> int | None:
        found = verifier.insurer(INSURER, version)
        assert found is not None and found.name == "協会けんぽ"
        return found.fresh_at_ms

    assert (fresh(2), fresh(3), fresh(7)) == (None, 3, 3)
    assert len(reads) == 1
    for _ in range(3):
        del states[0]
        index.insurers_version += 1
        fresh(0)
    assert [fresh(version) for version in (4, 5, 7, 8, 9, 10)] == [None, 5, 5, 8, 9, 9]
    assert len(reads) == 4
    index.data_version = 8
    found = verifier.insurer(INSURER)
    assert found is not None and found.fresh_at_ms == 8


def test_unknown_insurers_are_not_remembered(world: World) -> None:
    assert world.verifier.insurer(OTHER_INSURER) is None
    world.register_insurer(Insurer(OTHER_INSURER, "組合"), publish=False)
    assert world.verifier.insurer(OTHER_INSURER) is not None


def test_an_insurers_freshness_is_seen_after_a_new_generation(world: World) -> None:
    world.register_insurer(Insurer(INSURER, "協会けんぽ"))
    assert world.verifier.insurer(INSURER) is not None
    world.replace({1: person(qualification())})
    world.index.rebuild(world.entries(), seq=world.seq)
    world.register_insurer(Insurer(INSURER, "協会けんぽ", fresh_at_ms=7))
    known = world.verifier.insurer(INSURER)
    assert known is not None and known.fresh_at_ms == 7


def test_the_last_day_of_a_slot_range_is_exact(world: World) -> None:
    last = entries.EXPIRY_BASE + entries.EXPIRY_MAX - entries.EXPIRY_OFFSET
    world.replace({1: person(qualification(), certificates=(certificate(last),))})
    for today, verdict in ((last, Verdict.VALID), (days.add_months(last, 3) + 1, Verdict.NOT_FOUND)):
        store: Any = Untouchable()
        verifier = Verifier(world.reader, store, KEYS, clock_of(today))
        assert verifier.verdict(by_certificate()).verdict is verdict
    assert days.format_iso(last) == "2060-11-06"
