"""Owns the plain nouns of the population: Person, Spell, Certificate, Household, with dates as proleptic ordinals.

A `Person` is one person as a registry can know them: somebody who changed insurers without a link code or a
certificate is two of them. `lost` is the first day without cover; None means not lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NEVER = 10**7
"""An ordinal later than every date."""


@dataclass(slots=True)
class Spell:
    """One registered qualification as it stands after the whole file was imported."""

    insurer: str
    symbol: str
    number: str
    branch: str
    gained: int
    lost: int | None = None
    loss_reason: str = ""
    pending: bool = False
    cancelled: bool = False
    family: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    """What a verdict does not depend on: card dates, copay ratio, limit certificate, ..."""


@dataclass(slots=True)
class Certificate:
    """A card's certificate; `expires` is its last day."""

    issuer: str
    serial: str
    expires: int
    revoked: bool = False


@dataclass(slots=True)
class Person:
    """One person as registered, with spells in the order of their registration."""

    name: str
    kana: str
    sex: int
    birth: int
    postcode: str = ""
    address: str = ""
    link_code: str = ""
    spells: list[Spell] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    moved: bool = False
    """The file changes this person's address after registering it."""


@dataclass(slots=True)
class Household:
    """People who share cards: nobody outside has a symbol and number of theirs."""

    people: list[Person]
    humans: int
    """How many human beings these are (a succession that nobody linked makes two people of one)."""
