"""Owns the measurement of the rules alone: a decision between spells, beside the same decision on calendar dates."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pytest

from engine import days, rules
from engine.entries import AUX_MULTI, AUX_SHIFT_BRANCH, AUX_SHIFT_LOSS
from engine.records import Verdict
from engine.rules import Spell

SEED = 20261123
CASES = {"smoke": 1_000, "standard": 10_000, "large": 100_000}
AS_OF = days.parse_iso("2026-11-23")
EPOCH = date(1920, 1, 1)


def one_spell(count: int) -> list[list[Spell]]:
    """Nine in ten are in force; one in ten was lost."""
    pick = random.Random(SEED)
    cases = []
    for person in range(count):
        lost = AS_OF - pick.randrange(1, 900) if pick.random() < 0.1 else days.NO_DAY
        aux = 1 << AUX_SHIFT_BRANCH | (3 << AUX_SHIFT_LOSS if lost < days.NO_DAY else 0)
        cases.append([(person, AS_OF - pick.randrange(1000, 9000), lost, aux)])
    return cases


def two_spells(count: int) -> list[list[Spell]]:
    """Everybody has lost one and gained another."""
    pick = random.Random(SEED)
    cases = []
    for person in range(count):
        turn = AS_OF - pick.randrange(-300, 3000)
        aux = 1 << AUX_SHIFT_BRANCH | AUX_MULTI
        cases.append([(person, turn - 2000, turn, aux | 3 << AUX_SHIFT_LOSS), (person, turn, days.NO_DAY, aux)])
    return cases


def tally(verdicts: Sequence[Verdict]) -> str:
    return " ".join(f"{verdict}:{count}" for verdict, count in sorted(Counter(verdicts).items()))


def measure(benchmark: Any, run: Callable[[], list[Verdict]]) -> str:
    verdicts = benchmark(run)
    benchmark.extra_info["checksum"] = tally(verdicts)
    benchmark.extra_info["ns_per_decision"] = round(benchmark.stats.stats.min / len(verdicts) * 1e9)
    return tally(verdicts)


def decide_all(cases: list[list[Spell]], branch: int | None) -> list[Verdict]:
    decide_card = rules.decide_card
    return [decide_card(case, branch, AS_OF, lambda person, case=case: case).verdict for case in cases]  # type: ignore[misc]


@dataclass
class DatedSpell:
    """What one would write first: the reference."""

    person: int
    branch: str
    gained: date
    lost: date | None
    confirmed: bool = True


def dated(case: list[Spell]) -> list[DatedSpell]:
    return [
        DatedSpell(person, "01", EPOCH + timedelta(gained), None if lost == days.NO_DAY else EPOCH + timedelta(lost))
        for person, gained, lost, _ in case
    ]


def decide_dated(cases: list[list[DatedSpell]], branch: str) -> list[Verdict]:
    as_of = EPOCH + timedelta(AS_OF)
    verdicts = []
    for case in cases:
        asked = [spell for spell in case if spell.branch == branch]
        if len({spell.person for spell in asked}) > 1:
            verdicts.append(Verdict.AMBIGUOUS)
            continue
        in_force = [
            spell
            for spell in asked
            if spell.confirmed and spell.gained <= as_of and (spell.lost is None or as_of < spell.lost)
        ]
        verdicts.append(Verdict.VALID if in_force else Verdict.INVALID)
    return verdicts


@pytest.mark.benchmark(group="rules: one spell behind the card")
def bench_decide_one_spell(benchmark: Any, size: str) -> None:
    cases = one_spell(CASES[size])
    assert measure(benchmark, lambda: decide_all(cases, 1)) == tally(decide_dated([dated(c) for c in cases], "01"))


@pytest.mark.benchmark(group="rules: one spell behind the card")
def bench_decide_one_spell_reference_dates(benchmark: Any, size: str) -> None:
    cases = [dated(case) for case in one_spell(CASES[size])]
    measure(benchmark, lambda: decide_dated(cases, "01"))


@pytest.mark.benchmark(group="rules: two spells of one person")
def bench_decide_two_spells(benchmark: Any, size: str) -> None:
    cases = two_spells(CASES[size])
    assert measure(benchmark, lambda: decide_all(cases, None)) == tally(decide_dated([dated(c) for c in cases], "01"))


@pytest.mark.benchmark(group="rules: two spells of one person")
def bench_decide_two_spells_reference_dates(benchmark: Any, size: str) -> None:
    cases = [dated(case) for case in two_spells(CASES[size])]
    measure(benchmark, lambda: decide_dated(cases, "01"))
