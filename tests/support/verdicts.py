"""Owns small builders of people and inquiries for the tests of rules and verification."""

from __future__ import annotations

from engine import days
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

INSURER = "01130012"
OTHER_INSURER = "33120015"
ISSUER = "JPKI-TEST"
BIRTH = days.parse_iso("2000-01-02")
AS_OF = days.parse_iso("2026-11-23")


def day(text: str) -> int:
    """Day number of `YYYY-MM-DD`."""
    return days.parse_iso(text)


def qualification(
    gained: str | int = "2020-04-01",
    lost: str | int | None = None,
    *,
    loss: str = "",
    state: State = State.CONFIRMED,
    branch: str = "01",
    number: str = "1987654",
    symbol: str = "1234",
    insurer: str = INSURER,
    card_valid_from: int | None = None,
    card_valid_to: int | None = None,
) -> Qualification:
    """A qualification; dates as text or day number."""
    return Qualification(
        insurer_number=insurer,
        symbol=symbol,
        number=number,
        symbol_key=symbol,
        number_key=number,
        branch=branch,
        gained_on=day(gained) if isinstance(gained, str) else gained,
        lost_on=day(lost) if isinstance(lost, str) else lost,
        loss_reason=loss,
        state=state,
        card_valid_from=card_valid_from,
        card_valid_to=card_valid_to,
    )


def person(*held: Qualification, certificates: tuple[Certificate, ...] = (), birth: int = BIRTH) -> Person:
    """A person with these qualifications."""
    return Person(
        name="資格 花子",
        name_kana="シカク ハナコ",
        sex=Sex.FEMALE,
        birth_date=birth,
        qualifications=held,
        certificates=certificates,
        link_code="link-1",
        postcode="1000001",
        address="東京都千代田区千代田1-1",
    )


def certificate(expires: str | int = "2029-05-01", *, serial: str = "1A2B", revoked: bool = False) -> Certificate:
    """A card certificate."""
    return Certificate(ISSUER, serial, day(expires) if isinstance(expires, str) else expires, revoked)


def by_card(
    branch: str = "",
    *,
    as_of: int = AS_OF,
    number: str = "1987654",
    symbol: str = "1234",
    insurer: str = INSURER,
    birth: int = BIRTH,
    verdict_only: bool = False,
) -> Inquiry:
    """A card-less inquiry."""
    card = CardIdentifiers(insurer, symbol, number, branch, birth)
    return Inquiry("1311111114", as_of, "treatment", card=card, verdict_only=verdict_only)


def by_certificate(serial: str = "1A2B", *, as_of: int = AS_OF, verdict_only: bool = False) -> Inquiry:
    """An inquiry by card certificate."""
    asked = CertificateIdentifiers(ISSUER, serial)
    return Inquiry("1311111114", as_of, "treatment", certificate=asked, verdict_only=verdict_only)
