"""A whole population is imported and asked about: every verdict and reason agrees with the independent truth."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from loadtest.population import Population, generate, personas, write_personas
from tests.support.registered import Registered

TODAY = date(2026, 11, 23)


def _imported(folder: Path, people: int, seed: int) -> Registered:
    written = generate(people, seed, TODAY, folder)
    registered = Registered(folder, TODAY)
    registered.insurers(written.insurers_file)
    receipt = registered.registry.import_feed(
        written.population_file, format="csv", encoding="utf-8", insurer=None, feed_number=None, as_of=None
    )
    assert receipt.rows == written.rows
    return registered


def _differences(registered: Registered, population: Population, count: int, seed: int) -> tuple[list[object], Counter]:
    """What was answered otherwise than deserved, with data and without, and how often each verdict was given."""
    wrong: list[object] = []
    verdicts: Counter = Counter()
    for request, verdict, reason in population.inquiries(count, seed):
        verdicts[verdict, reason] += 1
        for detail in ("full", "verdict"):
            answer = registered.ask(request | {"detail": detail})
            if (answer["verdict"], answer["reason"]) != (verdict, reason):
                wrong.append((request, detail, (answer["verdict"], answer["reason"]), (verdict, reason)))
    return wrong, verdicts


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_about_a_population_are_those_that_it_deserves(tmp_path: Path, seed: int) -> None:
    with _imported(tmp_path, 2500, seed) as registered:
        wrong, verdicts = _differences(registered, Population(2500, seed, TODAY), 4000, seed)
    assert wrong == []
    assert len(verdicts) > 10


def test_the_cast_gets_what_it_claims_amid_a_population(tmp_path: Path) -> None:
    with _imported(tmp_path, 300, 3) as registered:
        registered.registry.import_feed(
            write_personas(tmp_path, TODAY), format="csv", encoding="utf-8", insurer=None, feed_number=None, as_of=None
        )
        for persona in personas(TODAY):
            answer = registered.ask(persona["request"])
            assert (answer["verdict"], answer["reason"]) == (persona["verdict"], persona["reason"]), persona["id"]
            assert answer["notes"] == persona["notes"], persona["id"]
            assert answer["advice"]["ja"] and answer["advice"]["en"]


@pytest.mark.long
def test_answers_about_100_000_people_are_those_that_they_deserve(tmp_path: Path) -> None:
    with _imported(tmp_path, 100_000, 4) as registered:
        wrong, _ = _differences(registered, Population(100_000, 4, TODAY), 50_000, 4)
    assert wrong == []
