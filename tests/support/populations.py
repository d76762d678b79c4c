"""Owns hypothesis strategies for small populations in which identifiers, dates and states collide often."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import msgspec
from hypothesis import strategies as st

from engine import days, entries
from engine.records import (
    CardIdentifiers,
    Certificate,
    CertificateIdentifiers,
    Inquiry,
    Person,
    Qualification,
    Sex,
    State,
)

Population = dict[int, Person]

TODAY = days.parse_iso("2026-11-23")
INSURERS = ("01130012", "33120015", "39131156")
NUMBERS = ("1", "187")
SYMBOLS = ("", "1234")
BRANCHES = ("", "00", "01", "02")
BIRTHS = (days.parse_iso("1950-05-05"), days.parse_iso("2000-01-02"), days.parse_iso("1911-11-11"))
SERIALS = ("1A", "2B", "3C")
ISSUER = "JPKI"

NEAR = [TODAY + offset for offset in (-400, -91, -2, -1, 0, 1, 2, 92, 400)]
FAR = [-10_000, -1, 0, 1, days.DAY_MAX - 1, days.DAY_MAX, days.DAY_MAX + 1, days.NO_DAY, days.NO_DAY + 5]
near_days = st.sampled_from(NEAR)
any_days = st.one_of(near_days, near_days, near_days, st.sampled_from(FAR))
AS_OFS = (days.AS_OF_MIN, *NEAR, days.AS_OF_MAX)
todays = st.sampled_from([TODAY, TODAY + 1, TODAY - 90])
expiries = st.one_of(
    st.sampled_from([days.add_months(TODAY, months) + offset for months in (-3, 0, 3, 40) for offset in (-1, 0, 1)]),
    st.sampled_from([entries.EXPIRY_BASE - 1, entries.EXPIRY_BASE, entries.EXPIRY_BASE + entries.EXPIRY_MAX, 10**6]),
)


@st.composite
def qualifications(draw: st.DrawFn) -> Qualification:
    """One qualification; its lost day is on or after the gained day, as registration demands."""
    gained = draw(any_days)
    lost = draw(st.one_of(st.none(), any_days.filter(lambda day: day >= gained), st.just(gained)))
    number, symbol = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(SYMBOLS))
    return Qualification(
        insurer_number=draw(st.sampled_from(INSURERS)),
        symbol=symbol,
        number=number,
        symbol_key=symbol,
        number_key=number,
        branch=draw(st.sampled_from(BRANCHES)),
        gained_on=gained,
        lost_on=lost,
        loss_reason=draw(st.sampled_from(tuple(entries.LOSS_CODES))),
        state=draw(st.sampled_from([State.CONFIRMED, State.CONFIRMED, State.PENDING, State.CANCELLED])),
        card_valid_to=draw(st.one_of(st.none(), near_days)),
    )


@st.composite
def certificates(draw: st.DrawFn) -> Certificate:
    """One certificate; serials repeat between people on purpose."""
    revoked = draw(st.sampled_from([False, False, False, True]))
    return Certificate(ISSUER, draw(st.sampled_from(SERIALS)), draw(expiries), revoked)


@st.composite
def people(draw: st.DrawFn) -> Person:
    """One person."""
    return Person(
        name="資格 太郎",
        name_kana="シカク タロウ",
        sex=Sex.MALE,
        birth_date=draw(st.sampled_from(BIRTHS)),
        qualifications=tuple(draw(st.lists(qualifications(), max_size=4))),
        certificates=tuple(draw(st.lists(certificates(), max_size=2))),
        link_code=draw(st.sampled_from(["", "L1"])),
        postcode="1000001",
        address="東京都千代田区千代田1-1",
    )


def populations() -> st.SearchStrategy[Population]:
    """A handful of people by person number."""
    return st.lists(people(), min_size=1, max_size=5).map(lambda found: dict(enumerate(found, start=1)))


def every_inquiry(known: Population, *, verdict_only: bool = False) -> Iterator[Inquiry]:
    """Everything that can be asked of this population: each card with each branch and each as-of date, cards with a
    wrong part, and each certificate, known or not."""
    cards = {(insurer, "", "1", BIRTHS[0]) for insurer in INSURERS}
    for one in known.values():
        cards |= {(q.insurer_number, q.symbol_key, q.number_key, one.birth_date) for q in one.qualifications}
    for as_of in AS_OFS:
        for insurer, symbol, number, birth in sorted(cards):
            for branch in (*BRANCHES, "99"):
                card = CardIdentifiers(insurer, symbol, number, branch, birth)
                yield Inquiry("1311111114", as_of, "treatment", card=card, verdict_only=verdict_only)
        for serial in (*SERIALS, "unknown"):
            asked = CertificateIdentifiers(ISSUER, serial)
            yield Inquiry("1311111114", as_of, "treatment", certificate=asked, verdict_only=verdict_only)


def shuffled(known: Population, random: Random) -> Population:
    """The same people in another order, with their qualifications in another order."""
    numbers = list(known)
    random.shuffle(numbers)
    mixed = {}
    for number in numbers:
        held = list(known[number].qualifications)
        random.shuffle(held)
        mixed[number] = msgspec.structs.replace(known[number], qualifications=tuple(held))
    return mixed
