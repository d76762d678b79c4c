"""Owns how answers are written: Answer -> bytes, with what the patient did not agree to disclose left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal

import msgspec
from msgspec import UNSET

from api.advice import advise_json
from api.problems import Problem
from api.wire.native import (
    CertificateView,
    CheckAnswer,
    ElderlyCertificateView,
    ItemError,
    LimitCertificateView,
    QualificationView,
    SpecificDiseaseView,
)
from engine import clock, days, rules
from engine.records import (
    Answer,
    ElderlyCertificate,
    Inquiry,
    Insurer,
    LimitCertificate,
    Person,
    Qualification,
    Reason,
    Relation,
    Sex,
    SpecificDisease,
    Verdict,
)
from engine.rules import GRACE_MONTHS

_RELATIONS: Final[dict[Relation, Literal["self", "family"]]] = {Relation.SELF: "self", Relation.FAMILY: "family"}
_SEXES: Final[dict[Sex, Literal["male", "female", "unset"]]] = {
    Sex.MALE: "male",
    Sex.FEMALE: "female",
    Sex.UNSET: "unset",
}
_iso = days.format_iso
_instant = lru_cache(maxsize=8192)(clock.format_instant)
_encode = msgspec.json.Encoder().encode


class Writer:
    """Turns answers into response bodies. `insurer` finds a registered insurer as of a data version."""

    def __init__(self, *, insurer: Callable[[str, int], Insurer | None]) -> None:
        self._insurer = insurer

    def answer(self, inquiry: Inquiry, answer: Answer, mark: str | None = None) -> bytes:
        """The body for one answer; `mark` is the caller's id, returned if it was given."""
        insurer = self._insurer(answer.insurer_number, answer.data_version) if answer.insurer_number else None
        qualification, person = answer.qualification, answer.person
        held = answer.certificate
        return _encode(
            CheckAnswer(
                answer.verdict,
                answer.reason,
                _iso(answer.as_of),
                None if qualification is None or person is None else _view(inquiry, qualification, person, insurer),
                advise_json(  # type: ignore[arg-type]
                    answer.verdict, answer.reason, answer.notes, tuple([one.field for one in answer.warnings])
                ),
                answer.data_version,
                None if insurer is None or insurer.fresh_at_ms is None else _instant(insurer.fresh_at_ms),
                answer.notes,  # type: ignore[arg-type]
                answer.warnings,  # type: ignore[arg-type]
                None if held is None else _certificate(held.expires_on),
                UNSET if mark is None else mark,
            )
        )


def verdict_line(verdict: Verdict, reason: Reason | None) -> bytes:
    """What text/csv says of one inquiry: verdict, reason, and room for the name of the receipt."""
    return f"{verdict},{reason or ''},".encode()


VERDICT_LINES: Final = [verdict_line(one.verdict, one.reason) for one in rules.SAYINGS]
"""What ext/quick can say, in its order."""


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
