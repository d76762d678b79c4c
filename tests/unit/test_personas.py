"""The cast has somebody for every verdict, reason and note, and deserves the verdicts that it claims."""

from __future__ import annotations

import csv
import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from engine.records import Note, Reason, Verdict
from loadtest.population import expected, personas, write_personas
from loadtest.population.insurers import insurers
from loadtest.population.personas import cast

TODAY = date(2026, 11, 23)


def test_every_verdict_reason_and_note_has_a_persona() -> None:
    everybody = personas(TODAY)
    assert {each["verdict"] for each in everybody} == set(Verdict)
    assert {each["reason"] for each in everybody} - {None} == set(Reason)
    assert {note for each in everybody for note in each["notes"]} == set(Note)


def test_the_example_card_of_the_documentation_is_valid() -> None:
    asked = {
        "insurer_number": "01130012",
        "symbol": "1234",
        "number": "1987654",
        "branch": "01",
        "birth_date": "2000-01-02",
    }
    found = [each for each in personas(TODAY) if each["request"].get("card") == asked]
    assert [each["verdict"] for each in found] == ["VALID"]
    assert found[0]["request"]["institution"] == "1311111114"


@pytest.mark.parametrize("later", [0, 15, 30])
def test_claimed_verdicts_are_deserved_for_a_month(later: int) -> None:
    everybody = [person for each in cast(TODAY) for person in each.registered]
    presented = TODAY + timedelta(days=later)
    for persona in cast(TODAY):
        request = persona.request | {"as_of": presented.isoformat()}
        assert expected(everybody, request, presented) == (persona.verdict, persona.reason), persona.id


def test_personas_are_plain_values_with_notes_in_two_languages() -> None:
    everybody = json.loads(json.dumps(personas(TODAY), ensure_ascii=False))
    assert len({each["id"] for each in everybody}) == len(everybody)
    for each in everybody:
        assert {"name", "request", "verdict", "reason", "note"} <= set(each)
        japanese, english = each["note"].split(" / ")
        assert not japanese.isascii() and english.isascii()
        assert set(each["request"]) & {"card", "certificate"} and each["request"]["as_of"] == TODAY.isoformat()


def test_the_feed_of_the_cast_names_registered_insurers_only(tmp_path: Path) -> None:
    with open(write_personas(tmp_path, TODAY), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["insurer_number"].zfill(8) for row in rows} <= {each.number for each in insurers()}
    assert {row["op"] for row in rows} >= {"new", "cancel"}


def test_cards_of_the_cast_are_fixed() -> None:
    """Whoever pasted a persona's card into a script may keep it: only dates move with the day."""
    one = [each["request"] | {"as_of": ""} for each in personas(TODAY)]
    other = [each["request"] | {"as_of": ""} for each in personas(TODAY + timedelta(days=1000))]
    assert one == other
