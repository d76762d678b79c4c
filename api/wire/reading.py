"""Owns how inquiries are read: bytes of a check, an NDJSON line or a batch's item -> Inquiry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec
from msgspec import UnsetType

from api.wire.native import PURPOSE_DEFAULT, BatchHead, BatchItem, CheckRequest, Consent
from api.wire.outline import refuse_repeated
from api.wire.refusal import MY_NUMBER_DIGITS, explain
from engine import days, identifiers, limits
from engine.errors import DateError, FormatError, InputError, InquiryShapeError, TooLongError
from engine.records import Inquiry, Insurer, Warning


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
    if len(mark) >= MY_NUMBER_DIGITS:
        identifiers.refuse_my_number(mark, "id")
