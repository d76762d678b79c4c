"""Owns a population as large as a country: one town drawn person by person, and copies with identifiers of their own.

Drawing takes 50 to 90 us a person, which for 125 million would be hours. So a *town* is drawn once as every population
is (households), and each *part* of the country is that town anew: the same names, days and fates, but no card,
certificate or link code that any other part has. What a part's rows cost whoever reads and stores them is the same.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

from loadtest.population.feed import write_rows
from loadtest.population.households import Cover, Families, card_identifiers, link_code, serial
from loadtest.population.inquiries import Asked, ask
from loadtest.population.insurers import Insurer
from loadtest.population.model import Household, Person
from loadtest.population.truth import expected

TOWN_PEOPLE: Final = 250_000
SAMPLE: Final = 500
"""Households of the town that are kept, to be asked about."""
_MARK: Final = "\ue000"
"""Encloses the number of an identifier in the town's text; in no name and no code."""
_MARKED: Final = re.compile(f"{_MARK}(\\d+){_MARK}")


class _Town(Families):
    """Draws the town, and remembers which identifiers it gave."""

    def __init__(self, people: int, seed: int, today: date) -> None:
        super().__init__(people, seed, today)
        self.cards: list[tuple[Insurer, int]] = []
        self.card_at: dict[tuple[str, str, str], int] = {}

    def _card(self, prefecture: int, kind: str, gained: int) -> Cover:
        cover = super()._card(prefecture, kind, gained)
        self.card_at[cover.insurer.number, cover.symbol, cover.number] = len(self.cards)
        self.cards.append((cover.insurer, self._given[cover.insurer.ordinal] - 1))
        return cover

    def cards_given(self, insurer: Insurer) -> int:
        """How many cards an insurer has given in the town."""
        return self._given[insurer.ordinal]


class Nation:
    """A country of `parts` towns of `town_people` human beings; (people, seed, today) decides every byte."""

    def __init__(self, people: int, seed: int, today: date, town_people: int = TOWN_PEOPLE) -> None:
        self.parts = max(1, round(people / town_people))
        self.town_people = max(1, people // self.parts)
        self.people = self.parts * self.town_people
        self.today = today
        self._seed = seed
        self._town = _Town(self.town_people, seed, today)
        self._sample: list[Household] = []
        text = io.StringIO()
        self.town_rows = write_rows(text, self._marked_people())
        self._pieces = _MARKED.split(text.getvalue())
        self._wanted = [int(number) for number in self._pieces[1::2]]

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return self.parts * self.town_rows

    def write_part(self, part: int, path: Path) -> int:
        """Write the feed of one part. Returns how many rows it has."""
        given = self._identifiers(part)
        pieces = self._pieces.copy()
        pieces[1::2] = [given[number] for number in self._wanted]
        path.write_bytes("".join(pieces).encode())
        return self.town_rows

    def inquiries(self, part: int, count: int) -> Iterator[Asked]:
        """Inquiries about people of one part, with the verdicts that they deserve."""
        chance = random.Random(f"shikaku nation {self._seed} {part} {count}")
        given = self._identifiers(part)
        for _ in range(count):
            kept = chance.choice(self._sample)
            household = Household([_filled(person, given) for person in kept.people], kept.humans)
            request = ask(chance, household, self.today)
            yield request, *expected(household.people, request, self.today)

    def _marked_people(self) -> Iterator[Person]:
        """Everybody of the town, with marks in place of identifiers."""
        humans, between = 0, max(1, self.town_people // (2 * SAMPLE))
        links: dict[str, int] = {link_code(n): n for n in range(1, self.town_people + 1)}
        serials: dict[str, int] = {serial(n): n for n in range(1, self.town_people + 1)}
        for household in self._town:
            people = [self._marked(person, links, serials) for person in household.people]
            humans += household.humans
            if humans // between > len(self._sample):
                self._sample.append(Household(people, household.humans))
            yield from people

    def _marked(self, person: Person, links: dict[str, int], serials: dict[str, int]) -> Person:
        # Numbers: link code and serial of each human being, then symbol and number of each card.
        first_card = 2 * self.town_people
        spells = []
        for spell in person.spells:
            at = first_card + 2 * self._town.card_at[spell.insurer, spell.symbol, spell.number]
            spells.append(replace(spell, symbol=spell.symbol and _mark(at), number=_mark(at + 1)))
        link = _mark(2 * links[person.link_code] - 2) if person.link_code else ""
        certificates = [replace(each, serial=_mark(2 * serials[each.serial] - 1)) for each in person.certificates]
        return replace(person, link_code=link, spells=spells, certificates=certificates)

    def _identifiers(self, part: int) -> list[str]:
        """Every identifier of a part, by number."""
        if not 0 <= part < self.parts:
            raise ValueError(f"there are parts 0 to {self.parts - 1}")
        first = part * self.town_people
        given: list[str] = []
        for ordinal in range(first + 1, first + self.town_people + 1):
            given += (link_code(ordinal), serial(ordinal))
        for insurer, count in self._town.cards:
            given += card_identifiers(insurer, count + part * self._town.cards_given(insurer))
        return given


def _mark(number: int) -> str:
    return f"{_MARK}{number}{_MARK}"


def _filled(person: Person, given: list[str]) -> Person:
    def fill(text: str) -> str:
        return _MARKED.sub(lambda found: given[int(found[1])], text)

    spells = [replace(each, symbol=fill(each.symbol), number=fill(each.number)) for each in person.spells]
    certificates = [replace(each, serial=fill(each.serial)) for each in person.certificates]
    return replace(person, link_code=fill(person.link_code), spells=spells, certificates=certificates)
