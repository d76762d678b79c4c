"""Asks whether a verifier over a real store and index answers as the oracle, from records and from memory alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from engine.records import Answer, Inquiry, Note, Qualification, Verdict
from tests.models import rules as model
from tests.support import populations
from tests.support.populations import Population
from tests.support.world import World, clock_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), populations.TODAY) as made:
        yield made


def card_dates_cover(q: Qualification, as_of: int) -> bool:
    return q.card_valid_to is None or as_of <= q.card_valid_to


def assert_full_answer(answer: Answer, expected: model.Expected, inquiry: Inquiry) -> None:
    assert (answer.verdict, answer.reason) == (expected.verdict, expected.reason)
    assert frozenset(answer.notes) - {Note.CARD_EXPIRED} == expected.notes
    assert (answer.qualification is None) is (answer.person is None) is (expected.shown == ())
    if answer.qualification is None:
        assert Note.CARD_EXPIRED not in answer.notes
        return
    assert answer.qualification in expected.shown
    covered = answer.verdict is not Verdict.VALID or card_dates_cover(answer.qualification, inquiry.as_of)
    assert (Note.CARD_EXPIRED in answer.notes) is not covered
    assert answer.insurer_number == answer.qualification.insurer_number
    assert answer.person is not None
    assert (answer.person.qualifications, answer.person.certificates, answer.person.link_code) == ((), (), "")


def check_everything(world: World, people: Population, today: int) -> None:
    version = world.replace(people)
    world.use_clock(clock_of(today))
    for inquiry in populations.every_inquiry(people):
        expected = model.expected(people, inquiry, today)
        full = world.verifier.check(inquiry)
        assert_full_answer(full, expected, inquiry)
        decision = world.verifier.verdict(inquiry)
        assert (decision.verdict, decision.reason) == (expected.verdict, expected.reason)
        assert frozenset(decision.notes) == expected.notes
        assert full.data_version == version


@settings(deadline=None)
@given(populations.populations(), populations.todays)
def test_answers_are_the_oracles(world: World, people: Population, today: int) -> None:
    check_everything(world, people, today)


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(populations.populations(), populations.todays)
def test_a_million_answers_are_the_oracles(world: World, people: Population, today: int) -> None:
    check_everything(world, people, today)


@settings(deadline=None)
@given(populations.populations())
def test_verdict_only_answers_carry_no_data(world: World, people: Population) -> None:
    version = world.replace(people)
    world.use_clock(clock_of(populations.TODAY))
    for inquiry in populations.every_inquiry(people, verdict_only=True):
        answer = world.verifier.check(inquiry)
        decision = world.verifier.verdict(inquiry)
        asked = inquiry.card.insurer_number if inquiry.card else ""
        assert answer == Answer(
            decision.verdict, decision.reason, inquiry.as_of, version, asked, decision.notes, inquiry.warnings
        )


@settings(deadline=None)
@given(populations.populations())
def test_a_rebuilt_index_gives_the_same_answers(world: World, people: Population) -> None:
    world.replace(people)
    asked = list(populations.every_inquiry(people))[::7]
    before = said(world, asked)
    for step in (1, -1):
        generation = world.reader.generation
        world.index.rebuild([(who[::step].copy(), what[::step].copy()) for who, what in world.entries()], seq=world.seq)
        assert world.reader.generation > generation
        assert said(world, asked) == before


def said(world: World, asked: list[Inquiry]) -> list[tuple[object, ...]]:
    """What is answered, from records and from memory.

    Not the spell that a verdict from memory was decided by: of two that begin on the same day it is the one that the
    table gives first, and no answer shows it.
    """
    decisions = [world.verifier.verdict(inquiry) for inquiry in asked]
    told = [(decision.verdict, decision.reason, decision.notes) for decision in decisions]
    return [(world.verifier.check(inquiry), *each) for inquiry, each in zip(asked, told, strict=True)]
