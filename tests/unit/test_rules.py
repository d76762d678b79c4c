"""Asks whether rules.py decides every line of the table in docs/design/0002-verdicts.md."""

from __future__ import annotations

import pytest

from engine import rules
from engine.records import Note, Qualification, Reason, State, Verdict
from engine.rules import Decision, Spell
from tests.support.verdicts import AS_OF, OTHER_INSURER, day, qualification

PENDING = State.PENDING
CANCELLED = State.CANCELLED


def spells(*held: Qualification, person: int = 7) -> list[Spell]:
    return rules.spells_of(person, held)


def nobody(person: int) -> list[Spell]:
    raise AssertionError("the other spells of this person cannot matter")


def decide(*asked: Qualification, others: tuple[Qualification, ...] = (), as_of: int = AS_OF) -> Decision:
    """Decide for one person who holds `asked` behind the card and `others` elsewhere."""
    held = spells(*asked, *others)
    return rules.decide_card(held[: len(asked)], None, as_of, lambda person: held)


def verdict(decision: Decision) -> tuple[Verdict, Reason | None]:
    return decision.verdict, decision.reason


def test_no_candidates_is_unknown_card() -> None:
    assert rules.decide_card([], None, AS_OF, nobody) == Decision(Verdict.NOT_FOUND, Reason.UNKNOWN_CARD)


def test_other_branch_is_branch_mismatch() -> None:
    held = spells(qualification(branch="01"))
    assert rules.decide_card(held, rules.BRANCH_CODES["02"], AS_OF, nobody) == rules.BRANCH_MISMATCH


def test_same_branch_is_found() -> None:
    held = spells(qualification(branch="01"))
    decision = rules.decide_card(held, rules.BRANCH_CODES["01"], AS_OF, nobody)
    assert (decision.verdict, decision.spell) == (Verdict.VALID, held[0])


def test_inquiry_without_branch_fits_every_branch() -> None:
    assert decide(qualification(branch="")).verdict is Verdict.VALID
    assert decide(qualification(branch="07")).verdict is Verdict.VALID


def test_registration_without_branch_does_not_fit_a_branch() -> None:
    held = spells(qualification(branch=""))
    for branch in ("00", "01", "99"):
        assert rules.decide_card(held, rules.BRANCH_CODES[branch], AS_OF, nobody) == rules.BRANCH_MISMATCH


@pytest.mark.parametrize(
    ("as_of", "expected"),
    [
        ("2020-03-31", (Verdict.INVALID, Reason.NOT_YET_GAINED)),
        ("2020-04-01", (Verdict.VALID, None)),
        ("2022-09-29", (Verdict.VALID, None)),
        ("2022-09-30", (Verdict.INVALID, Reason.LOST)),
        ("2022-10-01", (Verdict.INVALID, Reason.LOST)),
    ],
)
def test_gained_day_is_covered_and_lost_day_is_not(as_of: str, expected: tuple[Verdict, Reason | None]) -> None:
    assert verdict(decide(qualification("2020-04-01", "2022-09-30"), as_of=day(as_of))) == expected


def test_lost_on_the_gained_day_never_was_in_force() -> None:
    q = qualification("2022-09-30", "2022-09-30")
    assert verdict(decide(q, as_of=day("2022-09-29"))) == (Verdict.INVALID, Reason.NOT_YET_GAINED)
    assert verdict(decide(q, as_of=day("2022-09-30"))) == (Verdict.INVALID, Reason.LOST)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ("", Reason.LOST),
        ("01", Reason.DECEASED),
        ("02", Reason.PUBLIC_ASSISTANCE),
        ("03", Reason.INSURANCE_CHANGED),
        ("99", Reason.LOST),
    ],
)
def test_loss_reason_is_told_with_the_lost_ones_data(loss: str, reason: Reason) -> None:
    decision = decide(qualification("2020-04-01", "2022-09-30", loss=loss))
    assert verdict(decision) == (Verdict.INVALID, reason)
    assert decision.spell is not None


def test_a_coming_loss_does_not_matter_yet() -> None:
    assert verdict(decide(qualification("2020-04-01", "2030-01-01", loss="03"))) == (Verdict.VALID, None)


def test_two_people_are_ambiguous_whatever_the_dates() -> None:
    """The twin whose cover ended may be the one at the desk: a verdict on the other would be wrong for them."""
    insured = spells(qualification("2020-04-01"), person=1)
    ended = spells(qualification("2010-04-01", "2015-04-01"), person=2)
    decision = rules.decide_card(insured + ended, None, AS_OF, nobody)
    assert decision == Decision(Verdict.AMBIGUOUS, Reason.SEVERAL_PEOPLE)


def test_branch_tells_twins_apart() -> None:
    twins = spells(qualification(branch="02"), person=1) + spells(qualification(branch="03"), person=2)
    decision = rules.decide_card(twins, rules.BRANCH_CODES["03"], AS_OF, nobody)
    assert decision.verdict is Verdict.VALID and decision.spell == twins[1]


def test_cancelled_of_another_person_is_ignored() -> None:
    """A registration that was withdrawn (entered for the wrong person) must not make the right one ambiguous."""
    wrong = spells(qualification(state=CANCELLED), person=1)
    right = spells(qualification(), person=2)
    for candidates in (wrong + right, right + wrong):
        assert rules.decide_card(candidates, None, AS_OF, nobody).spell == right[0]


def test_all_cancelled_is_cancelled() -> None:
    decision = decide(qualification("2020-04-01", state=CANCELLED))
    assert verdict(decision) == (Verdict.INVALID, Reason.CANCELLED)
    both = decide(qualification("2018-04-01", "2019-01-01", state=CANCELLED), qualification(state=CANCELLED))
    assert verdict(both) == (Verdict.INVALID, Reason.CANCELLED)


def test_several_in_force_the_one_gained_last_decides() -> None:
    earlier, later = qualification("2020-04-01"), qualification("2022-04-01")
    for order in ((earlier, later), (later, earlier)):
        decision = decide(*order)
        assert verdict(decision) == (Verdict.VALID, None)
        assert decision.spell is not None and decision.spell[1] == later.gained_on
        assert decision.notes == (Note.OVERLAP,)


def test_overlap_with_another_card_is_noted() -> None:
    decision = decide(qualification("2020-04-01"), others=(qualification("2022-04-01", insurer=OTHER_INSURER),))
    assert verdict(decision) == (Verdict.VALID, None)
    assert decision.spell is not None and decision.spell[1] == day("2020-04-01"), "the asked-for one decides"
    assert decision.notes == (Note.OVERLAP,)


@pytest.mark.parametrize(
    "other",
    [
        qualification("2010-04-01", "2020-04-01", insurer=OTHER_INSURER),
        qualification("2027-04-01", insurer=OTHER_INSURER),
        qualification("2022-04-01", insurer=OTHER_INSURER, state=PENDING),
        qualification("2022-04-01", insurer=OTHER_INSURER, state=CANCELLED),
    ],
    ids=["ended", "not begun", "pending", "cancelled"],
)
def test_only_cover_in_force_overlaps_or_supersedes(other: Qualification) -> None:
    assert decide(qualification("2020-04-01"), others=(other,)).notes == ()
    lost = qualification("2020-04-01", "2021-04-01")
    assert verdict(decide(lost, others=(other,))) == (Verdict.INVALID, Reason.LOST)


def test_announced_cover_is_pending_without_data() -> None:
    decision = decide(qualification("2026-11-01", state=PENDING))
    assert decision == Decision(Verdict.PENDING, Reason.ANNOUNCED)


def test_confirmed_cover_beats_announced_cover() -> None:
    decision = decide(qualification("2026-11-01", state=PENDING), qualification("2020-04-01"))
    assert verdict(decision) == (Verdict.VALID, None)


def test_announced_cover_behind_the_card_beats_newer_cover_elsewhere() -> None:
    other = qualification("2022-04-01", insurer=OTHER_INSURER)
    decision = decide(qualification("2026-11-01", state=PENDING), others=(other,))
    assert verdict(decision) == (Verdict.PENDING, Reason.ANNOUNCED)


def test_announced_cover_that_has_not_begun_shows_no_data() -> None:
    decision = decide(qualification("2027-01-01", state=PENDING))
    assert decision == Decision(Verdict.INVALID, Reason.NOT_YET_GAINED, None)


def test_newer_cover_elsewhere_supersedes_with_the_lost_ones_data_only() -> None:
    lost = qualification("2020-04-01", "2026-10-01", loss="03")
    decision = decide(lost, others=(qualification("2026-10-01", insurer=OTHER_INSURER),))
    assert verdict(decision) == (Verdict.SUPERSEDED, Reason.NEWER_QUALIFICATION)
    assert decision.spell is not None and decision.spell[1] == lost.gained_on


def test_cover_under_another_branch_of_the_same_card_supersedes() -> None:
    held = spells(qualification("2015-04-01", "2020-04-01", branch="02"), qualification("2020-04-01", branch="01"))
    decision = rules.decide_card(held, rules.BRANCH_CODES["02"], AS_OF, lambda person: held)
    assert verdict(decision) == (Verdict.SUPERSEDED, Reason.NEWER_QUALIFICATION)
    assert decision.spell == held[0]


def test_last_begun_spell_gives_the_reason() -> None:
    first = qualification("2010-04-01", "2012-04-01", loss="03")
    last = qualification("2015-04-01", "2026-01-01", loss="01")
    future = qualification("2027-04-01")
    for order in ((first, last, future), (future, last, first)):
        assert verdict(decide(*order)) == (Verdict.INVALID, Reason.DECEASED)


def test_first_to_begin_is_shown_before_any_has_begun() -> None:
    near, far = qualification("2027-04-01", "2027-05-01"), qualification("2028-04-01")
    for order in ((near, far), (far, near)):
        decision = decide(*order)
        assert verdict(decision) == (Verdict.INVALID, Reason.NOT_YET_GAINED)
        assert decision.spell is not None and decision.spell[1] == near.gained_on


def test_others_are_not_fetched_for_a_person_with_one_spell() -> None:
    for q in (qualification(), qualification("2010-04-01", "2012-04-01"), qualification(state=PENDING)):
        rules.decide_card(spells(q), None, AS_OF, nobody)


# --- by certificate -------------------------------------------------------------------------------------------


def by_certificate(
    *held: Qualification, expires: str = "2029-05-01", revoked: bool = False, today: str = "2026-11-23"
) -> Decision:
    of_holder = spells(*held)
    return rules.decide_certificate([(7, day(expires), revoked)], day(today), AS_OF, lambda person: of_holder)


def test_unknown_certificate() -> None:
    assert rules.decide_certificate([], AS_OF, AS_OF, nobody) == rules.UNKNOWN_CERTIFICATE


def test_revoked_certificate_finds_nothing() -> None:
    assert by_certificate(qualification(), revoked=True) == rules.CERTIFICATE_REVOKED


def test_certificate_without_qualification() -> None:
    assert by_certificate() == Decision(Verdict.NOT_FOUND, Reason.NO_QUALIFICATION)


def test_certificate_whose_holders_registrations_were_all_withdrawn() -> None:
    """A card names one of them, so by card the answer is "cancelled"; by certificate nothing is left to name."""
    withdrawn = qualification(state=CANCELLED), qualification("2015-04-01", "2018-04-01", state=CANCELLED)
    assert by_certificate(*withdrawn) == rules.NO_QUALIFICATION
    assert by_certificate(*withdrawn, qualification("2019-04-01")).verdict is Verdict.VALID


@pytest.mark.parametrize(
    ("today", "verdict", "notes"),
    [
        ("2026-08-22", Verdict.VALID, ()),
        ("2026-08-23", Verdict.VALID, (Note.CERTIFICATE_EXPIRING,)),
        ("2026-11-23", Verdict.VALID, (Note.CERTIFICATE_EXPIRING,)),
        ("2026-11-24", Verdict.VALID, (Note.CERTIFICATE_GRACE,)),
        ("2027-02-23", Verdict.VALID, (Note.CERTIFICATE_GRACE,)),
        ("2027-02-24", Verdict.NOT_FOUND, ()),
    ],
)
def test_certificate_is_usable_three_months_past_expiry(today: str, verdict: Verdict, notes: tuple[Note, ...]) -> None:
    decision = by_certificate(qualification(), expires="2026-11-23", today=today)
    assert (decision.verdict, decision.notes) == (verdict, notes)


def test_certificate_grace_ends_on_a_short_months_last_day() -> None:
    assert by_certificate(qualification(), expires="2026-11-30", today="2027-02-28").verdict is Verdict.VALID
    expired = by_certificate(qualification(), expires="2026-11-30", today="2027-03-01")
    assert expired == rules.CERTIFICATE_EXPIRED


def test_certificate_is_judged_today_and_not_on_the_as_of_date() -> None:
    of_holder = spells(qualification("2010-04-01"))
    holders = [(7, day("2020-05-01"), False)]
    decision = rules.decide_certificate(holders, day("2026-11-23"), day("2019-01-01"), lambda person: of_holder)
    assert decision == rules.CERTIFICATE_EXPIRED


def test_certificate_dates_at_the_calendars_ends_are_decided() -> None:
    assert by_certificate(qualification(), expires="9999-12-31").verdict is Verdict.VALID
    assert by_certificate(qualification(), expires="0001-01-01") == rules.CERTIFICATE_EXPIRED


def test_certificate_of_several_people_is_ambiguous() -> None:
    holders = [(1, day("2029-05-01"), False), (2, day("2029-05-01"), True)]
    assert rules.decide_certificate(holders, AS_OF, AS_OF, nobody) == rules.SEVERAL_PEOPLE


def test_certificate_registered_twice_for_one_person_takes_the_stricter() -> None:
    held = spells(qualification())
    once, again = (7, day("2026-01-01"), False), (7, day("2031-01-01"), False)
    for holders in ([once, again], [again, once]):
        assert rules.decide_certificate(holders, AS_OF, AS_OF, lambda person: held) == rules.CERTIFICATE_EXPIRED
    revoked = [(7, day("2031-01-01"), True), again]
    assert rules.decide_certificate(revoked, AS_OF, AS_OF, lambda person: held) == rules.CERTIFICATE_REVOKED


def test_by_certificate_the_one_gained_last_decides_with_overlap_note() -> None:
    old, new = qualification("2020-04-01"), qualification("2022-04-01", insurer=OTHER_INSURER)
    decision = by_certificate(old, new)
    assert verdict(decision) == (Verdict.VALID, None)
    assert decision.spell is not None and decision.spell[1] == new.gained_on
    assert decision.notes == (Note.OVERLAP,)


def test_overlap_and_expiring_certificate_are_both_noted() -> None:
    decision = by_certificate(qualification("2020-04-01"), qualification("2021-04-01"), expires="2026-12-01")
    assert decision.notes == (Note.OVERLAP, Note.CERTIFICATE_EXPIRING)


def test_by_certificate_announced_cover_is_pending() -> None:
    lost = qualification("2020-04-01", "2026-10-01", loss="03")
    decision = by_certificate(lost, qualification("2026-10-01", state=PENDING, insurer=OTHER_INSURER))
    assert decision == rules.ANNOUNCED


def test_by_certificate_the_last_lost_one_gives_the_reason() -> None:
    decision = by_certificate(
        qualification("2010-04-01", "2015-04-01", loss="03"),
        qualification("2015-04-01", "2026-11-01", loss="02"),
        qualification("2026-11-01", state=CANCELLED),
    )
    assert verdict(decision) == (Verdict.INVALID, Reason.PUBLIC_ASSISTANCE)


def test_certificate_notes_only_accompany_valid() -> None:
    decision = by_certificate(qualification("2010-04-01", "2015-04-01"), expires="2026-12-01")
    assert (decision.verdict, decision.notes) == (Verdict.INVALID, ())


# --- the card's own dates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("valid_from", "valid_to", "noted"),
    [
        (None, None, False),
        (AS_OF, AS_OF, False),
        (None, AS_OF - 1, True),
        (AS_OF + 1, None, True),
        (AS_OF - 9, AS_OF + 9, False),
    ],
)
def test_card_dates_are_inclusive(valid_from: int | None, valid_to: int | None, noted: bool) -> None:
    q = qualification(card_valid_from=valid_from, card_valid_to=valid_to)
    decision = rules.with_card_dates(decide(q), q, AS_OF)
    assert decision.verdict is Verdict.VALID
    assert (Note.CARD_EXPIRED in decision.notes) is noted


def test_card_dates_are_not_noted_without_cover() -> None:
    q = qualification("2010-04-01", "2015-04-01", card_valid_to=AS_OF - 1)
    decision = decide(q)
    assert rules.with_card_dates(decision, q, AS_OF) is decision
