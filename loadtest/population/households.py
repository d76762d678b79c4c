"""Owns how people come about: ages as in Japan, households that share a card, lives across insurers, certificates.

Everything is drawn from one random stream, so that (seed, people, today) decides every byte. Memory does not
grow with the number of people: what is kept is one counter for each insurer.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from itertools import accumulate
from typing import Final, Generic, TypeVar

from loadtest.population.check_digits import with_check_digit
from loadtest.population.insurers import PREFECTURES, Insurer, insurers
from loadtest.population.model import Certificate, Household, Person, Spell
from loadtest.population.names import FEMALE, MALE, SURNAMES

T = TypeVar("T")
ISSUER: Final = "OU=JPKI for user authentication, OU=Japan Agency for Local Authority Information Systems, O=JPKI, C=JP"
YEAR: Final = 365.2425
NUMBERS: Final = 9_999_991
"""A prime: how many numbers an insurer gives before they grow by a digit."""
SCRAMBLE: Final = 6_180_339

# Ages of adults in five-year bands from 20 to 74, in units of ten thousand people, and of the elderly from 75.
ADULTS: Final = (620, 650, 640, 690, 760, 880, 960, 840, 750, 720, 800)
ELDERLY: Final = (790, 610, 420, 210, 60, 9)
CIRCUMSTANCES: Final = (("single", 0.499), ("couple", 0.115), ("family", 0.140), ("elderly", 0.246))
"""Kinds of households; families are what brings about children."""

LIVES: Final = (
    ("held", 0.800),
    ("lost", 0.055),
    ("succeeded", 0.065),
    ("succeeded_twice", 0.010),
    ("overlapping", 0.012),
    ("overlapping_until", 0.006),
    ("regained", 0.006),
    ("pending", 0.008),
    ("pending_successor", 0.006),
    ("cancelled", 0.007),
    ("cancelled_then_right", 0.004),
    ("cancelled_successor", 0.004),
    ("announced_next", 0.007),
    ("future_successor", 0.006),
    ("never_in_force", 0.004),
)
"""What happens to a household's cover."""

SYMBOL_WORDS: Final = ("公立", "警視", "地共", "国保", "医", "建", "ア", "カキ", "さくら", "ひので")
FULL_WIDTH: Final = str.maketrans("0123456789", "０１２３４５６７８９")


class Choice(Generic[T]):
    """Draws one of some values by weight, from one random number."""

    def __init__(self, values: Sequence[T], weights: Sequence[float]) -> None:
        self._values = values
        self._bounds = list(accumulate(weights))

    def of(self, fraction: float) -> T:
        """The value that covers `fraction` (0 <= fraction < 1) of the weight."""
        return self._values[min(bisect(self._bounds, fraction * self._bounds[-1]), len(self._values) - 1)]


_CIRCUMSTANCE = Choice([name for name, _ in CIRCUMSTANCES], [weight for _, weight in CIRCUMSTANCES])
_LIFE = Choice([name for name, _ in LIVES], [weight for _, weight in LIVES])
_ADULT_AGE = Choice(list(range(20, 75, 5)), list(ADULTS))
_ELDERLY_AGE = Choice(list(range(75, 105, 5)), list(ELDERLY))
_PREFECTURE = Choice(list(range(47)), [float(each[3]) for each in PREFECTURES])
_KIND = Choice(["kyokai", "kumiai", "kyosai", "municipal", "guild"], [0.36, 0.24, 0.08, 0.29, 0.03])
_KIND_RETIRED = Choice(["kyokai", "kumiai", "kyosai", "municipal", "guild"], [0.18, 0.08, 0.03, 0.68, 0.03])
_SURNAME = Choice(list(SURNAMES), [1 / (8 + rank) for rank in range(len(SURNAMES))])
_LOSS_REASON = Choice(["01", "02", "03", "99", ""], [0.25, 0.15, 0.35, 0.2, 0.05])


@dataclass(slots=True)
class Cover:
    """One registration of a whole household: who insures, the card, from when to when."""

    insurer: Insurer
    symbol: str
    number: str
    gained: int
    lost: int | None = None
    reason: str = ""
    pending: bool = False
    cancelled: bool = False


Before = Callable[[int], Cover]
"""Makes an older cover at another insurer, begun at least so many days earlier and lost when this one begins."""


class Families:
    """Makes households one after another until there are `people` human beings."""

    def __init__(self, people: int, seed: int, today: date) -> None:
        self._people = people
        self._today = today.toordinal()
        self._random = random.Random(f"shikaku population {seed} {people} {today.isoformat()}")
        self._given = [0] * len(insurers())
        self._humans = 0

    def __iter__(self) -> Iterator[Household]:
        left = self._people
        while left > 0:
            household = self._household(left)
            left -= household.humans
            yield household

    # --- one household ------------------------------------------------------------------------------------

    def _household(self, room: int) -> Household:
        chance = self._random.random
        kind = _CIRCUMSTANCE.of(chance())
        prefecture = _PREFECTURE.of(chance())
        humans = self._members(kind, _SURNAME.of(chance()), prefecture)[:room]
        retired = humans[0].birth < self._today - 62 * YEAR
        elderly = kind == "elderly"
        covers = self._covers(prefecture, humans[0], retired, elderly)
        branchless = not elderly and chance() < 0.04
        linked = chance() < 0.8 or branchless
        people: list[Person] = []
        for position, human in enumerate(humans):
            self._identify(human, branchless)
            people += self._register(human, position, covers, branchless, linked)
        return Household(people, len(humans))

    def _members(self, kind: str, surname: tuple[str, str], prefecture: int) -> list[Person]:
        chance = self._random.random
        band = (_ELDERLY_AGE if kind == "elderly" else _ADULT_AGE).of(chance())
        age = 28 + chance() * 24 if kind == "family" else band + chance() * 5
        sex = 1 if chance() < 0.5 else 2
        address = self._address(prefecture)
        members = [self._person(surname, sex, age, address, ())]
        if kind in ("couple", "family") and chance() < (0.75 if kind == "family" else 1):
            members.append(self._person(surname, 3 - sex, max(20.5, age + chance() * 6 - 3), address, members))
        if kind == "family":
            for _ in range(1 + (chance() < 0.6) + (chance() < 0.2)):
                young = chance() * min(20, age - 21)
                members.append(self._person(surname, 1 + (chance() < 0.49), young, address, members))
            if chance() < 0.04:
                twin = self._person(surname, members[-1].sex, 0, address, members)
                twin.birth = members[-1].birth
                members.append(twin)
        return members

    def _person(
        self, surname: tuple[str, str], sex: int, age: float, address: tuple[str, str], kin: Sequence[Person]
    ) -> Person:
        """Somebody of that age; no two of one household are called alike."""
        pool = (MALE if sex == 1 else FEMALE)[min(2, int(age / 30))]
        taken = [each.kana for each in kin]
        at = int(self._random.random() * len(pool))
        while f"{surname[1]}　{pool[at][1]}" in taken:
            at = (at + 1) % len(pool)
        given = pool[at]
        return Person(
            f"{surname[0]}　{given[0]}", f"{surname[1]}　{given[1]}", sex, self._today - int(age * YEAR), *address
        )

    def _address(self, prefecture: int) -> tuple[str, str]:
        chance = self._random.random
        _, name, _, _, *cities = PREFECTURES[prefecture]
        city = cities[2 * int(chance() * 3)]
        postcode = f"{prefecture * 21 % 900 + 100:03d}-{int(chance() * 10000):04d}"
        return (
            postcode,
            f"{name}{city}中央{1 + int(chance() * 9)}丁目{1 + int(chance() * 30)}番{1 + int(chance() * 20)}号",
        )

    def _identify(self, human: Person, branchless: bool) -> None:
        """Give a certificate to three in four, and a link code to half and to whom no branch tells from a twin."""
        chance = self._random.random
        self._humans += 1
        if chance() < 0.75:
            human.certificates.append(self._certificate(human.birth, self._humans, chance()))
        if chance() < 0.5 or branchless:
            human.link_code = link_code(self._humans)

    def _certificate(self, birth: int, ordinal: int, fraction: float) -> Certificate:
        """Valid to a birthday within five years; one in twenty five has expired, one in two hundred is revoked."""
        years = self._today - birth
        ahead = 0 if fraction < 0.04 else 1 + int(fraction * 5)
        expires = birthday(birth, int(years / YEAR) + ahead)
        return Certificate(ISSUER, serial(ordinal), expires, revoked=fraction > 0.995)

    # --- what they are covered by -------------------------------------------------------------------------

    def _covers(self, prefecture: int, head: Person, retired: bool, elderly: bool) -> list[Cover]:
        chance = self._random.random
        life = _LIFE.of(chance())
        adult = head.birth + int(18 * YEAR)
        gained = max(adult, self._today - 30 - int(chance() ** 2 * 7000))
        if elderly:
            gained = min(birthday(head.birth, 75), self._today - 5)
            if life == "succeeded_twice":
                life = "succeeded"
        card = self._card(prefecture, "elderly" if elderly else self._kind(retired), gained)

        def before(days: int) -> Cover:
            start = card.gained - days - int(chance() * 3000)
            return replace(self._card(prefecture, self._kind(retired), start), lost=card.gained, reason="03")

        covers: list[Cover] = getattr(self, f"_life_{life}")(card, before)
        return covers

    def _kind(self, retired: bool) -> str:
        return (_KIND_RETIRED if retired else _KIND).of(self._random.random())

    def _card(self, prefecture: int, kind: str, gained: int) -> Cover:
        choices = _by_prefecture(prefecture, kind)
        insurer = choices[int(self._random.random() * len(choices))]
        count = self._given[insurer.ordinal]
        self._given[insurer.ordinal] = count + 1
        return Cover(insurer, *card_identifiers(insurer, count), gained)

    def _recently(self) -> int:
        return self._today - 1 - int(self._random.random() * 400)

    def _soon(self) -> int:
        return self._today + 1 + int(self._random.random() * 60)

    def _life_held(self, card: Cover, before: Before) -> list[Cover]:
        return [card]

    def _life_lost(self, card: Cover, before: Before) -> list[Cover]:
        lost = max(card.gained + 1, self._recently())
        return [replace(card, lost=lost, reason=_LOSS_REASON.of(self._random.random()))]

    def _life_succeeded(self, card: Cover, before: Before) -> list[Cover]:
        gap = int(self._random.random() * 25) if self._random.random() < 0.25 else 0
        return [replace(before(30), lost=card.gained - gap), card]

    def _life_succeeded_twice(self, card: Cover, before: Before) -> list[Cover]:
        middle = before(30)
        first = self._card(middle.insurer.prefecture, self._kind(False), middle.gained - 400)
        return [replace(first, lost=middle.gained, reason="03"), middle, card]

    def _life_overlapping(self, card: Cover, before: Before) -> list[Cover]:
        return [replace(before(30), lost=None, reason=""), card]

    def _life_overlapping_until(self, card: Cover, before: Before) -> list[Cover]:
        return [replace(before(30), lost=card.gained + 1 + int(self._random.random() * 60)), card]

    def _life_regained(self, card: Cover, before: Before) -> list[Cover]:
        start = card.gained - 500
        return [replace(card, gained=start, lost=start + 200 + int(self._random.random() * 300), reason="99"), card]

    def _life_pending(self, card: Cover, before: Before) -> list[Cover]:
        return [replace(card, gained=self._today - int(self._random.random() * 20), pending=True)]

    def _life_pending_successor(self, card: Cover, before: Before) -> list[Cover]:
        start = self._today - int(self._random.random() * 20)
        old = before(30)
        lost = start if self._random.random() < 0.6 else None
        return [replace(old, lost=lost, reason="03" if lost else ""), replace(card, gained=start, pending=True)]

    def _life_cancelled(self, card: Cover, before: Before) -> list[Cover]:
        return [replace(card, cancelled=True)]

    def _life_cancelled_then_right(self, card: Cover, before: Before) -> list[Cover]:
        return [replace(card, gained=card.gained - 31, cancelled=True), card]

    def _life_cancelled_successor(self, card: Cover, before: Before) -> list[Cover]:
        return [replace(before(30), lost=None, reason=""), replace(card, cancelled=True)]

    def _life_announced_next(self, card: Cover, before: Before) -> list[Cover]:
        return [replace(card, gained=self._soon())]

    def _life_future_successor(self, card: Cover, before: Before) -> list[Cover]:
        soon = self._soon()
        return [replace(before(30), lost=soon), replace(card, gained=soon)]

    def _life_never_in_force(self, card: Cover, before: Before) -> list[Cover]:
        return [replace(card, lost=card.gained, reason="99")]

    # --- registration -------------------------------------------------------------------------------------

    def _register(self, human: Person, position: int, covers: list[Cover], bare: bool, linked: bool) -> list[Person]:
        """The person, or the people that a registry takes this human being for."""
        chance = self._random.random
        spells = []
        for cover in covers:
            gained = max(cover.gained, human.birth)
            if cover.lost is not None and cover.lost < gained:
                continue
            spells.append(self._spell(human, position, cover, gained, bare))
        if not spells:
            spells.append(self._spell(human, position, replace(covers[-1], lost=None, reason=""), human.birth, bare))
        known = bool(human.certificates or human.link_code)
        several = len(spells) > 1 and len({(each.insurer, each.symbol, each.number) for each in spells}) > 1
        if several and not (linked and known):
            people = [
                replace(human, spells=[each], certificates=human.certificates if n == 0 else [], link_code="")
                for n, each in enumerate(spells)
            ]
            return people
        human.spells = spells
        human.moved = chance() < 0.004
        return [human]

    def _spell(self, human: Person, position: int, cover: Cover, gained: int, bare: bool) -> Spell:
        kind = cover.insurer.kind
        if kind == "elderly" or bare:
            branch = ""
        else:
            branch = f"{position + (kind in ('municipal', 'guild')):02d}"
        lost, reason = cover.lost, cover.reason
        chance = self._random.random
        if position and lost is None and not (cover.pending or cover.cancelled) and chance() < 0.01:
            lost, reason = max(gained + 1, self._recently()), "03"
        family = position > 0 and kind in ("kyokai", "kumiai", "kyosai")
        spell = Spell(
            cover.insurer.number, cover.symbol, cover.number, branch, gained, lost, reason, cover.pending,
            cover.cancelled, family,
        )  # fmt: skip
        spell.columns = self._columns(human, gained, kind)
        return spell

    def _columns(self, human: Person, gained: int, kind: str) -> dict[str, str]:
        chance = self._random.random
        age = (self._today - human.birth) / YEAR
        columns = {
            "card_class": "01",
            "card_issued_on": iso(gained),
            "card_valid_from": iso(gained),
            "copay_ratio": _copay(age, chance()),
        }
        if kind in ("municipal", "guild", "elderly"):
            year = date.fromordinal(self._today).year + (0 if chance() < 0.1 else 1)
            columns["card_valid_to"] = max(f"{year}-07-31", iso(gained + 30))
        if age < 6:
            columns["preschool"] = "1"
        if 70 <= age < 75:
            begins, ends = iso(max(gained, birthday(human.birth, 70))), iso(birthday(human.birth, 75) - 1)
            columns |= {"elderly_issued_on": begins, "elderly_valid_from": begins}
            columns |= {"elderly_valid_to": max(begins, ends), "elderly_ratio": columns["copay_ratio"]}
        if chance() < 0.06:
            columns |= self._limit(age, gained)
        if chance() < 0.004:
            start = iso(gained)
            columns["diseases"] = f"{1 + int(chance() * 3)}:{start}:{start}::{10000 if chance() < 0.8 else 20000}"
        return columns

    def _limit(self, age: float, gained: int) -> dict[str, str]:
        chance = self._random.random
        band = f"A0{1 + int(chance() * 5)}" if age < 70 else f"B0{1 + int(chance() * 6)}"
        start = iso(max(gained, self._today - 120))
        made = {
            "limit_category": "02" if band in ("A05", "B05", "B06") else "01",
            "limit_band": band,
            "limit_issued_on": start,
            "limit_valid_from": start,
            "limit_valid_to": iso(self._today + 245),
        }
        return made | {"limit_long_term_on": start} if chance() < 0.1 else made


def link_code(ordinal: int) -> str:
    """The link code of the human being with this number."""
    return f"L{ordinal * 0x9E3779B97F4A7C15 % 2**64:016X}"


def serial(ordinal: int) -> str:
    """The serial of the certificate of the human being with this number."""
    return f"{(ordinal * 0x5DEECE66D + 11) % 2**48 + 2**52:014X}"


def card_identifiers(insurer: Insurer, count: int) -> tuple[str, str]:
    """Symbol and number of the card that an insurer gives after so many others."""
    round_, place = divmod(count, NUMBERS)
    number = 1000 + round_ * 10 * NUMBERS + (place * SCRAMBLE + 1_234_567) % NUMBERS
    return _symbol(insurer, count), _number(insurer, number)


@lru_cache(maxsize=100_000)
def iso(ordinal: int) -> str:
    """`YYYY-MM-DD` of an ordinal."""
    return date.fromordinal(ordinal).isoformat()


def birthday(birth: int, age: int) -> int:
    """The ordinal of somebody's birthday at that age; the 28th for those born on 29 February."""
    born = date.fromordinal(birth)
    day = 28 if (born.month, born.day) == (2, 29) else born.day
    return date(born.year + age, born.month, day).toordinal()


@lru_cache(maxsize=1000)
def _by_prefecture(prefecture: int, kind: str) -> tuple[Insurer, ...]:
    """Insurers of that kind in the prefecture, or the nearest that has one (by code, downwards, then Tokyo)."""
    found = tuple(each for each in insurers() if each.kind == kind and each.prefecture == prefecture)
    return found or _by_prefecture(12, kind)


def _symbol(insurer: Insurer, count: int) -> str:
    """A symbol in the insurer's own manner: digits, hyphens, kanji, kana, full width, or none."""
    if insurer.kind == "elderly" or (insurer.kind == "municipal" and insurer.ordinal % 7 == 0):
        return ""
    workplace = 1 + count // 40
    style = insurer.ordinal % 4
    if insurer.kind == "kyokai":
        return str(21_010_000 + workplace)
    if insurer.kind == "kumiai":
        text = str(100 + workplace)
        return (text, f"{text}-{insurer.ordinal % 90 + 10}", text.translate(FULL_WIDTH), f"ア-{text}")[style]
    word = SYMBOL_WORDS[insurer.ordinal % len(SYMBOL_WORDS)]
    text = str(workplace)
    return (f"{word}{text}", f"{word}・{text.translate(FULL_WIDTH)}", f"{word}－{text}", f"{word} {text}")[style]


def _number(insurer: Insurer, number: int) -> str:
    """A number in the insurer's own manner; the elderly's has eight digits, the last one a check digit."""
    if insurer.kind == "elderly":
        return with_check_digit(f"{number % 10_000_000:07d}")
    style = insurer.ordinal % 5
    if insurer.kind == "kyokai" or style > 2:
        return str(number)
    return (f"{number:08d}", str(number).translate(FULL_WIDTH), f"{number:08d}"[:4] + "-" + f"{number:08d}"[4:])[style]


def _copay(age: float, fraction: float) -> str:
    if age < 6:
        return "020"
    if age < 70:
        return "030"
    if age < 75:
        return "020" if fraction < 0.88 else "030"
    return "010" if fraction < 0.72 else "020" if fraction < 0.92 else "030"
