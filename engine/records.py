"""Owns the nouns: Person, Qualification, Certificate, Inquiry, Verdict, Reason, Answer, with their units.

Dates are day numbers (engine/days), gained day inclusive, lost day the first day *without* cover. Records are
stored as MessagePack arrays in the order of the members below; members are only ever added at the end, with a
default, so that old records are read forever (docs/FORMATS.md). They hold no cycles, so the collector need not
track them (`gc=False`).
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec


class Verdict(enum.StrEnum):
    """資格有効性 (OQSCD006), decided for the as-of date; PENDING is ours (code 4 on wires that know only 1-6)."""

    VALID = "VALID"
    INVALID = "INVALID"
    SUPERSEDED = "SUPERSEDED"
    NOT_FOUND = "NOT_FOUND"
    AMBIGUOUS = "AMBIGUOUS"
    PENDING = "PENDING"


VERDICT_CODES: Final = {
    Verdict.VALID: 1,
    Verdict.INVALID: 2,
    Verdict.SUPERSEDED: 3,
    Verdict.NOT_FOUND: 4,
    Verdict.AMBIGUOUS: 5,
    Verdict.PENDING: 7,
}
"""Their numbers in the audit log: those of OQSCD006, whose 6 we never give, and one of ours."""


class Reason(enum.StrEnum):
    """Why a verdict is not VALID; each has front-desk advice in Japanese and English (api/advice)."""

    LOST = "lost"
    """The qualification ended; no more is known."""
    INSURANCE_CHANGED = "insurance_changed"
    """It ended because another insurance began (OQSCD008 03), which is not registered for this date."""
    DECEASED = "deceased"
    """OQSCD008 01."""
    PUBLIC_ASSISTANCE = "public_assistance"
    """OQSCD008 02: 生活保護受給開始."""
    NOT_YET_GAINED = "not_yet_gained"
    """It begins after the as-of date."""
    CANCELLED = "cancelled"
    """The registration was withdrawn (取消): it never was in force."""
    NEWER_QUALIFICATION = "newer_qualification"
    """Not in force, but the same person holds another one that is (SUPERSEDED)."""
    UNKNOWN_CARD = "unknown_card"
    """No qualification has these identifiers together with this birth date."""
    BRANCH_MISMATCH = "branch_mismatch"
    """Identifiers and birth date fit, the branch number does not."""
    UNKNOWN_CERTIFICATE = "unknown_certificate"
    CERTIFICATE_EXPIRED = "certificate_expired"
    """More than three months past its expiry."""
    CERTIFICATE_REVOKED = "certificate_revoked"
    NO_QUALIFICATION = "no_qualification"
    """The certificate's holder is known, but every registration was withdrawn, or there is none."""
    SEVERAL_PEOPLE = "several_people"
    """More than one person fits (AMBIGUOUS)."""
    ANNOUNCED = "announced"
    """Announced by the insurer, not confirmed yet (PENDING)."""


class Note(enum.StrEnum):
    """What a VALID answer adds for the front desk."""

    OVERLAP = "overlap"
    """Another qualification of this person is in force on the same date."""
    CARD_EXPIRED = "card_expired"
    """The card's own validity does not cover the as-of date; the qualification does."""
    CERTIFICATE_EXPIRING = "certificate_expiring"
    """The certificate expires within three months."""
    CERTIFICATE_GRACE = "certificate_grace"
    """The certificate has expired and is usable for eligibility only, up to three months after expiry."""


class State(enum.IntEnum):
    """How far a qualification's registration has come."""

    CONFIRMED = 0
    PENDING = 1
    CANCELLED = 2


class Relation(enum.IntEnum):
    """本人・家族の別 (OQSCD009)."""

    SELF = 1
    FAMILY = 2


class Sex(enum.IntEnum):
    """OQSCD007."""

    MALE = 1
    FEMALE = 2
    UNSET = 3


class ElderlyCertificate(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """高齢受給者証. `ratio` is the copay ratio as three digits of a percentage of ten ("020" = 20 %)."""

    issued_on: int
    valid_from: int
    valid_to: int | None
    ratio: str


class LimitCertificate(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """限度額適用認定証: `category` OQSCD011, `band` OQSCD012."""

    category: str
    band: str
    issued_on: int
    valid_from: int
    valid_to: int | None = None
    long_term_on: int | None = None


class SpecificDisease(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """特定疾病療養受療証: `category` OQSCD013, `self_pay` in yen."""

    category: str
    issued_on: int
    valid_from: int
    valid_to: int | None
    self_pay: int


class Qualification(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One person's cover by one insurer from `gained_on` to the day before `lost_on`.

    `symbol` and `number` are as registered; `symbol_key` and `number_key` are their canonical forms
    (engine/identifiers). `branch` is two digits or "". `copay_ratio` is "030" for 30 %, or "".
    """

    insurer_number: str
    symbol: str
    number: str
    symbol_key: str
    number_key: str
    branch: str
    gained_on: int
    lost_on: int | None = None
    loss_reason: str = ""
    state: State = State.CONFIRMED
    relation: Relation = Relation.SELF
    insured_name: str = ""
    card_class: str = "01"
    card_issued_on: int | None = None
    card_valid_from: int | None = None
    card_valid_to: int | None = None
    copay_ratio: str = ""
    preschool: bool = False
    elderly: ElderlyCertificate | None = None
    limit: LimitCertificate | None = None
    diseases: tuple[SpecificDisease, ...] = ()


class Certificate(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """利用者証明用電子証明書 of a card: canonical issuer and serial identify it; `expires_on` is its last day."""

    issuer: str
    serial: str
    expires_on: int
    revoked: bool = False


class Person(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One insured person as known after one change. The person number is the store's key, not a member."""

    name: str
    name_kana: str
    sex: Sex
    birth_date: int
    qualifications: tuple[Qualification, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    link_code: str = ""
    name_other: str = ""
    name_other_kana: str = ""
    postcode: str = ""
    address: str = ""


class CardIdentifiers(msgspec.Struct, frozen=True, gc=False):
    """Canonical identifiers of an insurance card; `branch` is "" when the inquiry does not carry one."""

    insurer_number: str
    symbol_key: str
    number_key: str
    branch: str
    birth_date: int


class CertificateIdentifiers(msgspec.Struct, frozen=True, gc=False):
    """Canonical issuer and serial of a card certificate."""

    issuer: str
    serial: str


class Warning(msgspec.Struct, frozen=True, gc=False):
    """Something odd about an inquiry that did not stop it: the field's path and a code."""

    field: str
    code: str


class Inquiry(msgspec.Struct, frozen=True, gc=False):
    """One question: is this person insured on `as_of`, and by whom. Exactly one of card, certificate is set."""

    institution: str
    as_of: int
    purpose: str
    card: CardIdentifiers | None = None
    certificate: CertificateIdentifiers | None = None
    consent_limit_certificate: bool = False
    consent_specific_diseases: bool = False
    verdict_only: bool = False
    warnings: tuple[Warning, ...] = ()


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What verification found. `person` and `qualification` are set only where the verdict may carry data."""

    verdict: Verdict
    reason: Reason | None
    as_of: int
    data_version: int
    insurer_number: str
    """The insurer whose freshness the answer quotes; "" when none is concerned."""
    notes: tuple[Note, ...] = ()
    warnings: tuple[Warning, ...] = ()
    person: Person | None = None
    qualification: Qualification | None = None
    certificate: Certificate | None = None


class Insurer(msgspec.Struct, frozen=True, gc=False):
    """An insurer (保険者) registered here, with its freshness."""

    number: str
    name: str
    name_kana: str = ""
    fresh_at_ms: int | None = None
    """When its last feed became visible."""
    feed_as_of: int | None = None
    """The day for which that feed was drawn up."""
    feed_number: int | None = None
    """The last feed sequence number."""
    twelve_digit_numbers: bool = False
    """Its insured numbers have 12 digits: exempt from the My Number guard on `number`."""
    last_feed: int | None = None
    """The id of the last feed, of anybody, that had rows of this insurer: tells a repeated call from a new one."""
