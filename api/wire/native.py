"""Owns the native JSON of checks: inquiry bytes -> Inquiry, Answer -> bytes, and the names that clients depend on.

The Structs below are the wire: the decoder uses them, and /openapi.json is generated from them. Decoding is strict:
unknown and repeated members, wrong types and anything that could be a My Number are refused. Error texts name the
place and what was expected; they never repeat what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.advice import advise_json
from api.problems import Advice, Problem
from engine import clock, days, identifiers, limits
from engine.errors import (
    BodyTooLargeError,
    DateError,
    FormatError,
    InputError,
    InquiryShapeError,
    MalformedError,
    MyNumberError,
    TooLongError,
    WrongTypeError,
)
from engine.records import (
    Answer,
    ElderlyCertificate,
    Inquiry,
    Insurer,
    LimitCertificate,
    Note,
    Person,
    Qualification,
    Reason,
    Relation,
    Sex,
    SpecificDisease,
    Verdict,
    Warning,
)
from engine.rules import GRACE_MONTHS
from ext import frame

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


# --- decoding -------------------------------------------------------------------------------------------------------


class BatchContext(msgspec.Struct, frozen=True, gc=False):
    """What all items of a JSON batch share, already checked."""

    institution: str
    as_of: int
    purpose: str
    warnings: tuple[Warning, ...]


class Reader:
    """Turns request bodies into inquiries.

    Args:
        policy: what a wrong check digit means on inquiries.
        today: today's day number in Japan.
        insurer: finds a registered insurer (whose numbers may be exempt from the My Number guard).
    """

    def __init__(
        self, *, policy: Literal["warn", "error"], today: Callable[[], int], insurer: Callable[[str], Insurer | None]
    ) -> None:
        self._policy: Literal["warn", "error"] = policy
        self._today = today
        self._insurer = insurer
        self._check = msgspec.json.Decoder(CheckRequest).decode
        self._item = msgspec.json.Decoder(BatchItem).decode
        self._head = msgspec.json.Decoder(BatchHead).decode

    def inquiry(self, body: bytes) -> tuple[str | None, Inquiry]:
        """The caller's id and the inquiry of one check (or one NDJSON line). Raises InputError."""
        try:
            request = self._check(body)
            refuse_repeated(body)
            institution, warnings = identifiers.parse_institution(request.institution, policy=self._policy)
            as_of = as_of_day(request.as_of) if request.as_of else self._absent_as_of(request.as_of)
            purpose = request.purpose or PURPOSE_DEFAULT
            return request.id or None, self._inquiry(request, institution, as_of, purpose, warnings)
        except (InputError, ValueError, RecursionError) as error:
            raise self._explain(body, error) from None

    def item(self, body: bytes, context: BatchContext) -> tuple[str | None, Inquiry]:
        """The caller's id and the inquiry of one item of a JSON batch. Raises InputError."""
        try:
            request = self._item(body)
            refuse_repeated(body)
            return request.id or None, self._inquiry(
                request, context.institution, context.as_of, context.purpose, context.warnings
            )
        except (InputError, ValueError, RecursionError) as error:
            raise self._explain(body, error) from None

    def batch(self, head: bytes) -> BatchContext:
        """What the items of a batch share, from its members without `items`. Raises InputError."""
        try:
            request = self._head(head)
            institution, warnings = identifiers.parse_institution(request.institution, policy=self._policy)
            as_of = as_of_day(request.as_of) if request.as_of else self._absent_as_of(request.as_of)
            return BatchContext(institution, as_of, request.purpose, warnings)
        except (InputError, ValueError, RecursionError) as error:
            raise self._explain(head, error) from None

    def _absent_as_of(self, given: str | UnsetType | None) -> int:
        if given == "":
            raise DateError("a date has the form YYYY-MM-DD", field="as_of")
        return self._today()

    def _inquiry(
        self,
        request: CheckRequest | BatchItem,
        institution: str,
        as_of: int,
        purpose: str,
        warnings: tuple[Warning, ...],
    ) -> Inquiry:
        card = certificate = None
        if request.card and not request.certificate:
            given = request.card
            card, found = identifiers.parse_card(
                given.insurer_number,
                given.symbol or None,
                given.number,
                given.branch or None,
                given.birth_date,
                policy=self._policy,
                exempt_12_digits=self._exempt,
            )
            if found:
                warnings = (*warnings, *found)
        elif request.certificate and not request.card:
            certificate = identifiers.parse_certificate(request.certificate.issuer, request.certificate.serial)
        else:
            raise InquiryShapeError("give exactly one of card and certificate")
        if request.id:
            _refuse_bad_id(request.id)
        consent = request.consent or _NO_CONSENT
        return Inquiry(
            institution,
            as_of,
            purpose,
            card,
            certificate,
            consent.limit_certificate is True,
            consent.specific_diseases is True,
            request.detail == "verdict",
            warnings,
        )

    def _exempt(self, insurer_number: str) -> bool:
        insurer = self._insurer(insurer_number)
        return insurer is not None and insurer.twelve_digit_numbers

    def _explain(self, body: bytes, error: Exception) -> InputError:
        return explain(body, error, self._exempt_path)

    def _exempt_path(self, given: object) -> str | None:
        """The path of the one value that may have 12 digits, if the inquiry's insurer has such numbers."""
        card = given.get("card") if isinstance(given, dict) else None
        number = card.get("insurer_number") if isinstance(card, dict) else None
        try:
            exempt = isinstance(number, str) and self._exempt(identifiers.canonical_insurer(number))
        except InputError:
            return None
        return "card.number" if exempt else None


_NO_CONSENT: Final = Consent()
_encode = msgspec.json.Encoder().encode


def refuse_repeated(body: bytes) -> None:
    """Refuse a member given twice, in a body that decoded well: two readers could take two different values."""
    if not frame.distinct(body):
        _refuse_within(body.strip(), "")


def _refuse_within(body: bytes, path: str) -> None:
    """Look at every object by itself: `distinct` does not see through escapes, and names no place."""
    if body[:1] == b"{":
        try:
            members = frame.members(body)
        except ValueError:
            raise WrongTypeError("a member is given twice", field=path or None) from None
        for name, start, end in members:
            _refuse_within(body[start:end], f"{path}.{_shown(name)}".lstrip("."))
    elif body[:1] == b"[":
        offset, position = frame.open_array(body), 0
        while (item := frame.next_item(body, offset))[0] != item[1]:
            start, end, offset = item
            _refuse_within(body[start:end], f"{path}[{position}]")
            position += 1


class BatchOutline:
    """Where the items of a JSON batch are, found step by step so that the caller can see to others in between."""

    def __init__(self, body: bytes | bytearray) -> None:
        self.body = body
        self.items: list[tuple[int, int]] = []
        self.head = b""
        self._offset = 0

    def walk(self) -> Iterator[None]:
        """Walk the body, yielding after every item. Raises MalformedError, WrongTypeError, BodyTooLargeError."""
        members: dict[str, bytes] = {}
        try:
            self._offset = frame.open_object(self.body)
            while (name := self._next_name()) is not None:
                if name in members:
                    raise WrongTypeError("a member is given twice", field=_shown(name))
                members[name] = b""
                if name == "items":
                    yield from self._walk_items()
                else:
                    members[name] = self._value()
            frame.finish(self.body, self._offset)
        except ValueError as error:
            raise MalformedError(f"not a well-formed batch behind byte {self._offset}: {error}") from None
        if members.pop("items", None) is None:
            raise WrongTypeError("this member is required", field="items")
        named = (msgspec.json.encode(name) + b":" + value for name, value in members.items())
        self.head = b"{" + b",".join(named) + b"}"

    def _next_name(self) -> str | None:
        name, self._offset = frame.next_member(self.body, self._offset, _OUTLINE_BYTES_MAX)
        return name

    def _value(self) -> bytes:
        start = self._offset
        self._offset = frame.skip(self.body, start, limits.BATCH_LINE_BYTES_MAX)
        return bytes(self.body[start : self._offset])

    def _walk_items(self) -> Iterator[None]:
        self._offset = frame.open_array(self.body, self._offset)
        while True:
            start, end, self._offset = frame.next_item(self.body, self._offset, _OUTLINE_BYTES_MAX)
            if start == end:
                return
            self.items.append((start, end))
            if len(self.items) > limits.BATCH_ITEMS_MAX:
                raise BodyTooLargeError(f"a batch has at most {limits.BATCH_ITEMS_MAX} items", field="items")
            yield


_OUTLINE_BYTES_MAX: Final = 128 * 1024
"""How far one step of the outline may go; an element longer than this is refused with the whole batch."""


def id_of(body: bytes) -> str | None:
    """The caller's mark of an item that could not be read, if it can be told and may be repeated."""
    try:
        mark = _decode_marked(body).id
        if mark is not None:
            _refuse_bad_id(mark)
    except (InputError, ValueError, RecursionError):
        return None
    return mark


class _Marked(msgspec.Struct):
    """An item of which only the caller's mark is wanted; the rest is passed over, not built."""

    id: str | None = None


_decode_marked: Final = msgspec.json.Decoder(_Marked).decode


def as_of_day(text: str) -> int:
    try:
        day = days.parse_iso(text)
    except DateError as error:
        raise DateError(error.detail, field="as_of") from None
    if not days.AS_OF_MIN <= day <= days.AS_OF_MAX:
        raise DateError("as_of lies between 1920-01-02 and 2099-06-03", field="as_of")
    return day


def _refuse_bad_id(mark: str) -> None:
    if len(mark) > limits.INQUIRY_ID_CHARS_MAX:
        raise TooLongError(f"an id has at most {limits.INQUIRY_ID_CHARS_MAX} characters", field="id")
    if not mark.isprintable():
        raise FormatError("an id has printable characters only", field="id")
    if len(mark) >= _MY_NUMBER_DIGITS:
        identifiers.refuse_my_number(mark, "id")


# --- explaining what is wrong with a body ---------------------------------------------------------------------------

_MY_NUMBER_DIGITS: Final = 12
_SUSPECTS_MAX: Final = 12
_NODES_MAX: Final = 250
"""How far a refused body is searched for a My Number; it is refused in any case, only code and place would differ."""
_SUSPECT_BYTES_MAX: Final = 6 * 64
"""The longest string that can be a My Number, all of it escaped."""
_LOCATED_BYTES_MAX: Final = 4096
"""The longest body that is decoded to name the place; a real inquiry has a few hundred bytes."""
_UNREAD: Final = object()
_SUSPECT_STRING: Final = re.compile(
    rb'"(?=[^"]{12,%d}+")(?!\xe3[\x81-\x83]|[\xe4-\xe9])' % _SUSPECT_BYTES_MAX
    + rb'((?:[^"\\A-Za-z]++|\\u[0-9A-Fa-f]{4}|\\[^"u])*+)(?=")'
)
"""What may have the digits of a My Number between two quotes: it has no letters and begins with neither kana nor kanji.

The second quote is left for the next match. What stands between two strings is found, too, and is no harm.
"""
_SUSPECT_NUMBER: Final = re.compile(rb"[0-9.]{8,25}+(?:[eE]\+?[0-9]{1,2})?")
_DIGITS_ONLY: Final = bytes(
    48 if chr(byte) in "0123456789." else 101 if chr(byte) in "eE" else 32 for byte in range(256)
)
_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_SAFE_PATH: Final = re.compile(r"(?:\.?[a-z_]+|\[\.\.\.\])*")
"""Paths that can only be ours: the text of an error may hold a member name that was made to look like a path."""
_EXPECTED: Final = re.compile(r"Expected `([a-z |]+)`(?:, got `([a-z]+)`| of length <= ([0-9]+))")
_BYTE: Final = re.compile(r"\(byte ([0-9]+)\)$")
_MISSING: Final = re.compile(r"missing required field `(\w+)`")
_UNKNOWN: Final = re.compile(r"unknown field `(.*)`", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_-]{0,39}")
"""A member name that may be repeated in an error: letters only, so that it cannot be a value in disguise."""


def explain(body: bytes, error: Exception, exempt: Callable[[object], str | None] | None = None) -> InputError:
    """The error to report: a My Number anywhere (but at the path `exempt`) comes before all else that is wrong.

    The bytes are searched first, and decoded only if they hold something with the digits of a My Number.
    """
    field = None
    if _suspicious(body):
        given = _any_json(body) if len(body) <= _LOCATED_BYTES_MAX else _UNREAD
        field = "" if given is _UNREAD else _my_number_in(given, exempt(given) if exempt else None)
    if field is not None:
        return MyNumberError(
            "a My Number (個人番号) must not be sent; it was neither kept nor logged", field=field or None
        )
    return error if isinstance(error, InputError) else schema_error(error)


def schema_error(error: Exception) -> InputError:
    """What msgspec found, as an error with a field path and without any value that was sent."""
    if isinstance(error, RecursionError):
        return MalformedError("the JSON is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        place = _BYTE.search(str(error))
        return MalformedError("the body is not well-formed JSON in UTF-8" + (f", at byte {place[1]}" if place else ""))
    text = str(error)
    located = _PATH.search(text)
    path = located[1] if located and _SAFE_PATH.fullmatch(located[1]) else ""
    text = text[: located.start()] if located else text
    if missing := _MISSING.search(text):
        return WrongTypeError("this member is required", field=_join(path, missing[1]))
    if unknown := _UNKNOWN.search(text):
        name = unknown[1] if _NAME.fullmatch(unknown[1]) else None
        return WrongTypeError("this member is unknown", field=_join(path, name))
    if expected := _EXPECTED.match(text):
        wanted, got, chars_max = expected.groups()
        if chars_max is not None:
            return TooLongError(f"at most {chars_max} characters", field=path or None)
        return WrongTypeError(f"expected {wanted}, got {got}", field=path or None)
    return WrongTypeError("this value is not one of those allowed", field=path or None)


def _join(path: str, name: str | None) -> str | None:
    return ".".join(part for part in (path, name) if part) or None


def _any_json(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None


def _suspicious(body: bytes) -> bool:
    """Whether bytes of JSON hold something that reads as a My Number: in a string, a number or a member name."""
    outline = body.translate(_DIGITS_ONLY)
    if (b"0" * (_MY_NUMBER_DIGITS - 1) in outline or b"00000000e" in outline) and any(
        _could_be_my_number(_number(found[0])) for found in islice(_SUSPECT_NUMBER.finditer(body), _SUSPECTS_MAX)
    ):
        return True
    return any(
        identifiers.is_my_number(_plain(found[1])) for found in islice(_SUSPECT_STRING.finditer(body), _SUSPECTS_MAX)
    )


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _plain(text: bytes) -> str:
    """The text of a string's inside, or of something between two strings, which is no My Number then."""
    if b"\\" not in text:
        return text.decode(errors="replace")
    try:
        return msgspec.json.decode(b'"%b"' % text, type=str)
    except ValueError:
        return ""


def _could_be_my_number(value: object) -> bool:
    if isinstance(value, str):
        return identifiers.is_my_number(value)
    if isinstance(value, int | float) and 10 ** (_MY_NUMBER_DIGITS - 2) <= value < 10**_MY_NUMBER_DIGITS:
        # As a JSON number a My Number may have lost a leading zero.
        return identifiers.is_my_number(f"{value:.0f}".zfill(_MY_NUMBER_DIGITS))
    return False


def _my_number_in(given: object, exempt: str | None) -> str | None:
    """The path of the first value or member name that could be a My Number; None if there is none.

    A body that holds one too deep within it to be found in time has it at an unknown place: "".
    """
    trail: list[str] = []
    rooms: list[Iterator[tuple[str | int, object]]] = [iter((("", given),))]
    for _ in range(_NODES_MAX):
        while (step := next(rooms[-1], None)) is None:
            rooms.pop()
            if not rooms:
                return None
            trail.pop()
        name, value = step
        if isinstance(name, str) and identifiers.is_my_number(name):
            return _path(trail)
        trail.append(name if isinstance(name, str) else f"[{name}]")
        if _could_be_my_number(value) and (found := _path(trail)) != exempt:
            return found
        if isinstance(value, dict):
            rooms.append(iter(value.items()))
        elif isinstance(value, list):
            rooms.append(iter(enumerate(value)))
        else:
            trail.pop()
    return None if exempt else ""


def _path(trail: list[str]) -> str:
    return "".join(part if _INDEX.fullmatch(part) else f".{_shown(part)}" for part in trail[1:]).lstrip(".")


_INDEX: Final = re.compile(r"\[[0-9]+\]")


def _shown(name: str) -> str:
    return name if _NAME.fullmatch(name) else "?"


# --- encoding -------------------------------------------------------------------------------------------------------

_RELATIONS: Final[dict[Relation, Literal["self", "family"]]] = {Relation.SELF: "self", Relation.FAMILY: "family"}
_SEXES: Final[dict[Sex, Literal["male", "female", "unset"]]] = {
    Sex.MALE: "male",
    Sex.FEMALE: "female",
    Sex.UNSET: "unset",
}
_iso = days.format_iso
_instant = lru_cache(maxsize=8192)(clock.format_instant)


class Writer:
    """Turns answers into response bodies. `insurer` finds a registered insurer, for its name and freshness."""

    def __init__(self, *, insurer: Callable[[str], Insurer | None]) -> None:
        self._insurer = insurer

    def answer(self, inquiry: Inquiry, answer: Answer, mark: str | None = None) -> bytes:
        """The body for one answer; `mark` is the caller's id, returned if it was given."""
        insurer = self._insurer(answer.insurer_number) if answer.insurer_number else None
        qualification, person = answer.qualification, answer.person
        held = answer.certificate
        return _encode(
            CheckAnswer(
                answer.verdict,
                answer.reason,
                _iso(answer.as_of),
                None if qualification is None or person is None else _view(inquiry, qualification, person, insurer),
                advise_json(answer.verdict, answer.reason, answer.notes),  # type: ignore[arg-type]
                answer.data_version,
                None if insurer is None or insurer.fresh_at_ms is None else _instant(insurer.fresh_at_ms),
                answer.notes,  # type: ignore[arg-type]
                answer.warnings,  # type: ignore[arg-type]
                None if held is None else _certificate(held.expires_on),
                UNSET if mark is None else mark,
            )
        )


def item_error(mark: str | None, problem: Problem) -> bytes:
    """The line for an item that could not be asked."""
    return _encode(ItemError(mark, problem))


def _view(inquiry: Inquiry, q: Qualification, person: Person, insurer: Insurer | None) -> QualificationView:
    lost, issued, valid_from, valid_to = q.lost_on, q.card_issued_on, q.card_valid_from, q.card_valid_to
    return QualificationView(
        q.insurer_number,
        None if insurer is None else insurer.name,
        q.symbol or None,
        q.number,
        q.branch or None,
        _RELATIONS[q.relation],
        person.name,
        person.name_kana or None,
        _SEXES[person.sex],
        _iso(person.birth_date),
        _iso(q.gained_on),
        None if lost is None else _iso(lost),
        q.loss_reason or None,
        q.insured_name or None,
        person.name_other or None,
        person.name_other_kana or None,
        person.postcode or None,
        person.address or None,
        q.card_class,
        None if issued is None else _iso(issued),
        None if valid_from is None else _iso(valid_from),
        None if valid_to is None else _iso(valid_to),
        q.copay_ratio or None,
        q.preschool,
        None if q.elderly is None else _elderly(q.elderly),
        _limit(q.limit) if inquiry.consent_limit_certificate and q.limit is not None else None,
        [_disease(one) for one in q.diseases] if inquiry.consent_specific_diseases else None,
    )


def _day(day: int | None) -> str | None:
    return None if day is None else _iso(day)


def _elderly(held: ElderlyCertificate) -> ElderlyCertificateView:
    return ElderlyCertificateView(_iso(held.issued_on), _iso(held.valid_from), _day(held.valid_to), held.ratio)


def _limit(held: LimitCertificate) -> LimitCertificateView:
    return LimitCertificateView(
        held.category,
        held.band,
        _iso(held.issued_on),
        _iso(held.valid_from),
        _day(held.valid_to),
        _day(held.long_term_on),
    )


def _disease(held: SpecificDisease) -> SpecificDiseaseView:
    return SpecificDiseaseView(
        held.category, _iso(held.issued_on), _iso(held.valid_from), _day(held.valid_to), held.self_pay
    )


@lru_cache(maxsize=8192)
def _certificate(expires_on: int) -> CertificateView:
    return CertificateView(_iso(expires_on), _iso(days.add_months(expires_on, GRACE_MONTHS)))
