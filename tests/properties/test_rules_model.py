"""Asks whether rules.py agrees with the oracle for any population, as records and as index slots, in any order."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import entries, rules
from engine.keys import Keys
from engine.records import Inquiry, Verdict
from engine.rules import Decision, Spell
from tests.models import rules as model
from tests.support import populations
from tests.support.populations import Population

KEYS = Keys(bytes(range(32)))
Spells = dict[int, list[Spell]]


def spells_of(people: Population) -> Spells:
    return {number: rules.spells_of(number, one.qualifications) for number, one in people.items()}


def decide(people: Population, held: Spells, inquiry: Inquiry, today: int) -> Decision:
    """By the exact days of the records."""
    if inquiry.certificate is not None:
        asked = inquiry.certificate
        holders = [
            (number, c.expires_on, c.revoked)
            for number, one in people.items()
            for c in one.certificates
            if (c.issuer, c.serial) == (asked.issuer, asked.serial)
        ]
        return rules.decide_certificate(holders, today, inquiry.as_of, held.__getitem__)
    card = inquiry.card
    assert card is not None
    candidates = [
        spell
        for number, one in people.items()
        for spell, q in zip(held[number], one.qualifications, strict=True)
        if (q.insurer_number, q.symbol_key, q.number_key, one.birth_date)
        == (card.insurer_number, card.symbol_key, card.number_key, card.birth_date)
    ]
    return rules.decide_card(candidates, rules.BRANCH_CODES[card.branch], inquiry.as_of, held.__getitem__)


def slots_of(people: Population) -> dict[bytes, list[Spell]]:
    """What an index would find, by hash."""
    found: dict[bytes, list[Spell]] = {}
    for number, one in people.items():
        raw = entries.entries_of(KEYS, number, one)
        for digest, gained, lost, aux, _ in struct.iter_unpack("<16s4H", raw):
            found.setdefault(digest, []).append((number, gained, lost, aux))
    return found


def assert_agrees(decision: Decision, expected: model.Expected) -> None:
    assert (decision.verdict, decision.reason) == (expected.verdict, expected.reason)
    assert frozenset(decision.notes) == expected.notes


def check_records(people: Population, today: int) -> None:
    held = spells_of(people)
    for inquiry in populations.every_inquiry(people):
        expected = model.expected(people, inquiry, today)
        decision = decide(people, held, inquiry, today)
        assert_agrees(decision, expected)
        assert (decision.spell is not None) is bool(expected.shown)
        if decision.spell is not None:
            shown = people[decision.spell[0]].qualifications[held[decision.spell[0]].index(decision.spell)]
            assert any(
                (q.gained_on, q.lost_on, q.loss_reason, q.state)
                == (shown.gained_on, shown.lost_on, shown.loss_reason, shown.state)
                for q in expected.shown
            )


@given(populations.populations(), populations.todays)
def test_records_decide_as_the_oracle(people: Population, today: int) -> None:
    check_records(people, today)


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(populations.populations(), populations.todays)
def test_a_million_decisions_are_the_oracles(people: Population, today: int) -> None:
    check_records(people, today)


@given(populations.populations())
def test_slots_decide_as_the_oracle_or_ask_for_the_record(people: Population) -> None:
    slots = slots_of(people)
    for inquiry in populations.every_inquiry(people):
        card = inquiry.card
        if card is None:
            continue
        digest = KEYS.card_hash(card.insurer_number, card.birth_date, card.symbol_key, card.number_key)
        candidates = slots.get(digest, [])
        if any(spell[3] & entries.AUX_RECORD for spell in candidates):
            continue
        decision = rules.decide_card(
            candidates,
            rules.BRANCH_CODES[card.branch],
            inquiry.as_of,
            lambda person: slots[KEYS.person_hash(person)],
        )
        assert_agrees(decision, model.expected(people, inquiry, populations.TODAY))


@given(populations.populations(), populations.todays, st.randoms(use_true_random=False))
def test_order_of_people_and_qualifications_does_not_matter(people: Population, today: int, random: Random) -> None:
    shuffled = populations.shuffled(people, random)
    for inquiry in populations.every_inquiry(people):
        one = decide(people, spells_of(people), inquiry, today)
        other = decide(shuffled, spells_of(shuffled), inquiry, today)
        assert (one.verdict, one.reason, one.notes) == (other.verdict, other.reason, other.notes)
        assert (one.spell and one.spell[:3]) == (other.spell and other.spell[:3])


@given(populations.populations(), populations.todays)
def test_valid_needs_exactly_one_person_insured_that_day(people: Population, today: int) -> None:
    """Stated without the oracle, because it is the promise that matters most."""
    held = spells_of(people)
    for inquiry in populations.every_inquiry(people):
        decision = decide(people, held, inquiry, today)
        if decision.verdict is Verdict.VALID:
            assert decision.spell is not None
            q = people[decision.spell[0]].qualifications[held[decision.spell[0]].index(decision.spell)]
            assert q.state == 0
            assert q.gained_on <= inquiry.as_of
            assert q.lost_on is None or inquiry.as_of < q.lost_on
        else:
            assert decision.reason is not None
            assert decision.notes == ()
