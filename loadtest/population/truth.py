"""Owns the independent truth: what verdict an inquiry deserves, written slowly and obviously from the domain's rules.

Nothing of the engine is used here, neither its code nor its constants; where the two differ, one of them is wrong.
"""

from __future__ import annotations

import unicodedata
from calendar import monthrange
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

from loadtest.population.model import NEVER, Person, Spell

Expected = tuple[str, str | None]
"""Verdict and reason."""

DROPPED = set("・･/／·•‧∙⁄∕")
"""Middle dots and slashes carry no meaning in a symbol."""
HYPHENS = set("-‐‑‒–—―−ー─━ｰ")
"""Hyphens, dashes, minus signs and long-vowel marks are one and the same."""
LOSS = {"": "lost", "01": "deceased", "02": "public_assistance", "03": "insurance_changed", "99": "lost"}


def expected(people: Iterable[Person], request: dict[str, Any], today: date) -> Expected:
    """Verdict and reason for a request, if `people` are all whom it could be about.

    Args:
        request: an inquiry in the native form.
        today: when the card is presented; also the as-of date if none is given.
    """
    as_of = date.fromisoformat(request["as_of"]).toordinal() if "as_of" in request else today.toordinal()
    if "certificate" in request:
        return _by_certificate(list(people), request["certificate"], today, as_of)
    return _by_card(list(people), request["card"], as_of)


def _by_card(people: list[Person], card: dict[str, str], as_of: int) -> Expected:
    def on_card(person: Person, spell: Spell) -> bool:
        return (
            insurer(spell.insurer) == insurer(card["insurer_number"])
            and canonical(spell.symbol) == canonical(card.get("symbol", ""))
            and number(spell.number) == number(card["number"])
            and date.fromordinal(person.birth).isoformat() == card["birth_date"]
        )

    def with_branch(person: Person, spell: Spell) -> bool:
        return on_card(person, spell) and spell.branch == canonical(card["branch"]).zfill(2)

    fits = on_card
    if not _holders(people, fits):
        return "NOT_FOUND", "unknown_card"
    if card.get("branch"):
        fits = with_branch
    if not _holders(people, fits):
        return "NOT_FOUND", "branch_mismatch"
    # A cancelled registration makes nobody a candidate, unless there is nothing else.
    holders = _holders(people, lambda person, spell: fits(person, spell) and not spell.cancelled)
    holders = holders or _holders(people, fits)
    if len(holders) > 1:
        return "AMBIGUOUS", "several_people"
    return _decide([spell for spell in holders[0].spells if fits(holders[0], spell)], holders[0].spells, as_of)


def _by_certificate(people: list[Person], asked: dict[str, str], today: date, as_of: int) -> Expected:
    for person in people:
        for certificate in person.certificates:
            if _folded(certificate.issuer) != _folded(asked["issuer"]) or certificate.serial != asked["serial"]:
                continue
            if certificate.revoked:
                return "NOT_FOUND", "certificate_revoked"
            if today.toordinal() > three_months_after(certificate.expires):
                return "NOT_FOUND", "certificate_expired"
            if all(spell.cancelled for spell in person.spells):
                return "NOT_FOUND", "no_qualification"
            return _decide(person.spells, person.spells, as_of)
    return "NOT_FOUND", "unknown_certificate"


def _decide(asked: list[Spell], everything: list[Spell], as_of: int) -> Expected:
    asked = [spell for spell in asked if not spell.cancelled] or asked
    if any(in_force(spell, as_of) for spell in asked):
        return "VALID", None
    if any(spell.pending and not spell.cancelled and covers(spell, as_of) for spell in asked):
        return "PENDING", "announced"
    if any(in_force(spell, as_of) for spell in everything):
        return "SUPERSEDED", "newer_qualification"
    begun = [spell for spell in asked if spell.gained <= as_of]
    if begun:
        last = max(begun, key=lambda spell: (spell.gained, spell.lost or NEVER))
        return "INVALID", "cancelled" if last.cancelled else LOSS[last.loss_reason]
    return "INVALID", "cancelled" if asked[0].cancelled else "not_yet_gained"


def covers(spell: Spell, as_of: int) -> bool:
    """Gained day inclusive, lost day exclusive."""
    return spell.gained <= as_of and (spell.lost is None or as_of < spell.lost)


def in_force(spell: Spell, as_of: int) -> bool:
    """Confirmed, not withdrawn, and covering the day."""
    return covers(spell, as_of) and not spell.pending and not spell.cancelled


def _holders(people: list[Person], fits: Callable[[Person, Spell], bool]) -> list[Person]:
    return [person for person in people if any(fits(person, spell) for spell in person.spells)]


def canonical(text: str) -> str:
    """A symbol or number without what does not count in it: width, blanks, dots, case, kind of hyphen."""
    folded = unicodedata.normalize("NFKC", text)
    kept = (char for char in folded if char not in DROPPED and not char.isspace())
    return "".join("-" if char in HYPHENS else char for char in kept).upper()


def number(text: str) -> str:
    """Canonical, and without leading zeros."""
    return canonical(text).lstrip("0") or "0"


def insurer(text: str) -> str:
    """Eight digits."""
    return canonical(text).zfill(8)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def three_months_after(ordinal: int) -> int:
    """The same day three months later, or that month's last day."""
    day = date.fromordinal(ordinal)
    year, month = (day.year, day.month + 3) if day.month <= 9 else (day.year + 1, day.month - 9)
    return date(year, month, min(day.day, monthrange(year, month)[1])).toordinal()
