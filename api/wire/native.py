"""Owns the native JSON of checks: its Structs, and the names that clients depend on.

The Structs are the wire: api/wire/reading decodes them, api/wire/writing fills them, /openapi.json is generated from
them. Decoding is strict: unknown and repeated members, wrong types and anything that could be a My Number are
refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.problems import Advice, Problem
from engine import limits
from engine.records import Note, Reason, Verdict

Purpose = Literal[
    "treatment", "dispensing", "dental", "home_visit", "online", "emergency", "appointment", "administration"
]
PURPOSE_DEFAULT: Final = "treatment"
PURPOSES: Final[dict[str, str]] = {
    "treatment": "診療（外来・入院） treatment",
    "dispensing": "調剤 dispensing",
    "dental": "歯科診療 dental treatment",
    "home_visit": "訪問診療・訪問看護 home visit",
    "online": "オンライン診療・服薬指導 online treatment",
    "emergency": "救急 emergency",
    "appointment": "予約患者の事前確認 check ahead of an appointment",
    "administration": "請求などの事務 billing and other administration",
}

_DATE_PATTERN: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


def text_meta(description: str, example: str, *, chars_max: int | None = None, pattern: str | None = None) -> Meta:
    """Documentation only: the rules themselves are in engine/identifiers, so that they exist once."""
    schema: dict[str, Any] = {}
    if chars_max is not None:
        schema["maxLength"] = chars_max
    if pattern is not None:
        schema["pattern"] = pattern
    return Meta(description=description, examples=[example], extra_json_schema=schema)


Institution = Annotated[
    str, text_meta("医療機関コード: ten digits, the last is a check digit", "1311111114", pattern="^[0-9]{10}$")
]
AsOf = Annotated[
    str, text_meta("資格確認日, 1920-01-02 to 2099-06-03; default: today in Japan", "2026-11-23", pattern=_DATE_PATTERN)
]
Date = Annotated[str, text_meta("YYYY-MM-DD", "2000-01-02", pattern=_DATE_PATTERN)]
ItemId = Annotated[
    str, text_meta("The caller's own mark, returned as it came", "a1", chars_max=limits.INQUIRY_ID_CHARS_MAX)
]
PurposeText = Annotated[Purpose, Meta(description="照会の目的. " + "; ".join(f"{k}: {v}" for k, v in PURPOSES.items()))]
Detail = Annotated[
    Literal["full", "verdict"],
    Meta(description="`verdict`: answer from memory, without data and without notes about the card's own dates"),
]


# --- what comes in --------------------------------------------------------------------------------------------------


class Card(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Identifiers of an insurance card or certificate of eligibility, with the holder's birth date."""

    insurer_number: Annotated[
        str, text_meta("保険者番号: 8 digits, or 6 for municipal insurance", "01130012", chars_max=8)
    ]
    symbol: (
        Annotated[str, text_meta("記号; none with insurers 39...", "1234", chars_max=limits.IDENTIFIER_CHARS_MAX)]
        | UnsetType
        | None
    ) = UNSET
    number: Annotated[str, text_meta("番号", "1987654", chars_max=limits.IDENTIFIER_CHARS_MAX)]
    branch: Annotated[str, text_meta("枝番", "01", pattern="^[0-9]{1,2}$")] | UnsetType | None = UNSET
    birth_date: Annotated[str, text_meta("生年月日", "2000-01-02", pattern=_DATE_PATTERN)]


class CardCertificate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """The user authentication certificate on a My Number card, as the card reader gives it."""

    issuer: Annotated[str, text_meta("Issuer", "CN=JPKI,C=JP", chars_max=limits.CERTIFICATE_ISSUER_CHARS_MAX)]
    serial: Annotated[str, text_meta("Serial number", "0F3A", chars_max=limits.CERTIFICATE_SERIAL_CHARS_MAX)]


class Consent(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, gc=False):
    """What the patient agreed to disclose at the desk."""

    limit_certificate: bool | UnsetType = UNSET
    specific_diseases: bool | UnsetType = UNSET


class CheckRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One inquiry. Exactly one of `card` and `certificate` is given."""

    institution: Institution
    as_of: AsOf | UnsetType | None = UNSET
    purpose: PurposeText | UnsetType = UNSET
    card: Card | UnsetType | None = UNSET
    certificate: CardCertificate | UnsetType | None = UNSET
    consent: Consent | UnsetType | None = UNSET
    detail: Detail | UnsetType = UNSET
    id: ItemId | UnsetType | None = UNSET


class BatchItem(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """One inquiry of a batch; institution, date and purpose are the batch's."""

    id: ItemId | UnsetType | None = UNSET
    card: Card | UnsetType | None = UNSET
    certificate: CardCertificate | UnsetType | None = UNSET
    consent: Consent | UnsetType | None = UNSET
    detail: Detail | UnsetType = UNSET


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Up to 10,000 inquiries of one institution for one date. Members may come in any order."""

    institution: Institution
    as_of: AsOf | None = None
    purpose: PurposeText = "treatment"
    items: Annotated[list[BatchItem], Meta(extra_json_schema={"maxItems": limits.BATCH_ITEMS_MAX})]


class BatchHead(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A batch without its items, which are decoded one by one."""

    institution: str
    as_of: str | None = None
    purpose: Purpose = "treatment"


# --- what goes out --------------------------------------------------------------------------------------------------


class ElderlyCertificateView(msgspec.Struct, gc=False):
    """高齢受給者証."""

    issued_on: Date
    valid_from: Date
    valid_to: Date | None
    ratio: str


class LimitCertificateView(msgspec.Struct, gc=False):
    """限度額適用認定証 (only with consent): category OQSCD011, band OQSCD012."""

    category: str
    band: str
    issued_on: Date
    valid_from: Date
    valid_to: Date | None
    long_term_on: Date | None


class SpecificDiseaseView(msgspec.Struct, gc=False):
    """特定疾病療養受療証 (only with consent): category OQSCD013, self_pay in yen."""

    category: str
    issued_on: Date
    valid_from: Date
    valid_to: Date | None
    self_pay: int


class QualificationView(msgspec.Struct, gc=False):
    """The qualification that decided, with its holder. Absent values are null."""

    insurer_number: str
    insurer_name: str | None
    symbol: str | None
    number: str
    branch: str | None
    relation: Annotated[Literal["self", "family"], Meta(description="本人・家族の別")]
    name: str
    name_kana: str | None
    sex: Literal["male", "female", "unset"]
    birth_date: Date
    gained_on: Annotated[str, text_meta("資格取得年月日: first day of cover", "2026-04-01")]
    lost_on: Annotated[str, text_meta("資格喪失年月日: first day without cover", "2027-04-01")] | None
    loss_reason: Annotated[str, text_meta("OQSCD008", "03")] | None
    insured_name: str | None
    name_other: str | None
    name_other_kana: str | None
    postcode: str | None
    address: str | None
    card_class: Annotated[str, text_meta("OQSCD010", "01")]
    card_issued_on: Date | None
    card_valid_from: Date | None
    card_valid_to: Date | None
    copay_ratio: Annotated[str, text_meta("Three digits: 030 is 30 %", "030")] | None
    preschool: bool
    elderly_certificate: ElderlyCertificateView | None
    limit_certificate: LimitCertificateView | None
    specific_diseases: Annotated[list[SpecificDiseaseView], Meta(description="null without consent")] | None


class CertificateView(msgspec.Struct, gc=False):
    """The card certificate that was asked with."""

    expires_on: Date
    usable_until: Annotated[str, text_meta("Last day on which it is accepted for this check", "2027-04-01")]


class WarningView(msgspec.Struct, gc=False):
    """Something odd that did not stop the inquiry: where, and what."""

    field: str
    code: str


class CheckAnswer(msgspec.Struct, gc=False):
    """The answer to one inquiry. `reason` is null exactly if the verdict is VALID."""

    verdict: Verdict
    reason: Reason | None
    as_of: Date
    qualification: QualificationView | None
    advice: Advice
    data_version: Annotated[int, Meta(description="Number of the last change that this answer takes into account")]
    insurer_fresh_at: (
        Annotated[str, text_meta("When the insurer's last feed took effect", "2026-11-23T08:00:00+09:00")] | None
    )
    notes: list[Note]
    warnings: list[WarningView]
    certificate: CertificateView | None
    id: ItemId | UnsetType = UNSET
    receipt: (
        Annotated[
            str,
            text_meta(
                "Names what was recorded of this answer; in batches only, a single check has it in the header"
                " Shikaku-Receipt",
                "0-12345",
            ),
        ]
        | UnsetType
    ) = UNSET


class ItemError(msgspec.Struct, gc=False):
    """An item of a batch that could not be asked. It never fails the batch."""

    id: str | None
    error: Problem


class BatchAnswer(msgspec.Struct, gc=False):
    """Answers in the order of the inquiries."""

    items: Annotated[
        list[Any],
        Meta(
            extra_json_schema={
                "items": {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("CheckAnswer", "ItemError")]}
            }
        ),
    ]
