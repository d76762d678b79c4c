"""Owns the questions: inquiries drawn from a population, each with the verdict and reason that it deserves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, Final

from loadtest.population.check_digits import with_check_digit
from loadtest.population.households import ISSUER, Choice, Families, iso
from loadtest.population.model import Household, Person, Spell
from loadtest.population.truth import expected

Asked = tuple[dict[str, Any], str, str | None]
"""The request in the native JSON form, the verdict, the reason."""

INSTITUTION: Final = "1311111114"
NOBODY: Final = with_check_digit("0000999")
"""An insured number that no elderly person has: theirs begin at 1000 (without the check digit)."""
AS_OF_LAST: Final = date(2099, 6, 3).toordinal()
FULL_WIDTH: Final = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})
MANNERS: Final = (
    ("card", 0.34),
    ("card_without_branch", 0.14),
    ("card_as_typed", 0.12),
    ("certificate", 0.26),
    ("wrong_branch", 0.04),
    ("wrong_birth_date", 0.04),
    ("wrong_number", 0.03),
    ("wrong_serial", 0.03),
)
_MANNER = Choice([name for name, _ in MANNERS], [weight for _, weight in MANNERS])


class Population:
    """A population that need not be on disk: (people, seed, today) says all about it."""

    def __init__(self, people: int, seed: int, today: date) -> None:
        self.people, self.seed, self.today = people, seed, today

    def households(self) -> Iterator[Household]:
        """All households, in the order of the file."""
        return iter(Families(self.people, self.seed, self.today))

    def inquiries(self, count: int, seed: int) -> Iterator[Asked]:
        """Draw `count` inquiries about people chosen evenly; in the order of the file, deterministic for `seed`."""
        chance = random.Random(f"shikaku inquiries {seed} {count}")
        chosen = sorted(chance.randrange(self.people) for _ in range(count))
        at, first = 0, 0
        for household in self.households():
            first += household.humans
            while at < count and chosen[at] < first:
                at += 1
                request = ask(chance, household, self.today)
                yield request, *expected(household.people, request, self.today)


def ask(chance: random.Random, household: Household, today: date) -> dict[str, Any]:
    """An inquiry about somebody of a household, right or with something wrong."""
    person = chance.choice(household.people)
    spell = chance.choice(person.spells)
    request: dict[str, Any] = {"institution": INSTITUTION, "purpose": "treatment"}
    as_of = _as_of(chance, person, spell, today)
    if as_of is not None:
        request["as_of"] = iso(as_of)
    manner = str(_MANNER.of(chance.random()))
    if manner in ("certificate", "wrong_serial") and person.certificates:
        return request | {"certificate": _certificate(person, manner)}
    return request | {"card": _card(chance, person, spell, manner)}


def _certificate(person: Person, manner: str) -> dict[str, str]:
    serial = person.certificates[0].serial
    return {"issuer": ISSUER, "serial": "F" + serial if manner == "wrong_serial" else serial}


def _card(chance: random.Random, person: Person, spell: Spell, manner: str) -> dict[str, str]:
    card = {
        "insurer_number": spell.insurer,
        "symbol": spell.symbol,
        "number": spell.number,
        "branch": spell.branch,
        "birth_date": iso(person.birth),
    }
    if manner == "card_without_branch":
        card["branch"] = ""
    elif manner == "card_as_typed":
        card |= _as_typed(chance, card)
    elif manner == "wrong_branch":
        card["branch"] = f"{chance.randrange(100):02d}"
    elif manner == "wrong_birth_date":
        card["birth_date"] = iso(person.birth + chance.choice((-365, -1, 1, 30)))
    elif manner == "wrong_number":
        card |= {"number": NOBODY} if spell.insurer.startswith("39") else {"symbol": spell.symbol + "無"}
    return {name: text for name, text in card.items() if text}


def _as_typed(chance: random.Random, card: dict[str, str]) -> dict[str, str]:
    """The same identifiers in another spelling: width, blanks, hyphens, padding."""
    insurer, symbol, number = card["insurer_number"], card["symbol"], card["number"]
    zero = "" if insurer.startswith("39") else "0"
    return {
        "insurer_number": chance.choice((insurer, "  " + insurer[2:] if insurer.startswith("00") else insurer)),
        "symbol": chance.choice((symbol.translate(FULL_WIDTH), symbol.replace("・", "/"), symbol.replace("-", "－"))),
        "number": chance.choice((zero + number, number.translate(FULL_WIDTH), f" {number} ")),
    }


def _as_of(chance: random.Random, person: Person, spell: Spell, today: date) -> int | None:
    """None (today), today, a day on either side of a boundary, or any day of the last years."""
    drawn = chance.random()
    if drawn < 0.25:
        return None
    if drawn < 0.45:
        return today.toordinal()
    if drawn < 0.80:
        edges = [day for each in person.spells for day in (each.gained, each.lost) if day is not None]
        return min(chance.choice(edges) + chance.choice((-1, 0, 1)), AS_OF_LAST)
    return (today - timedelta(days=chance.randrange(3000) - 90)).toordinal()
