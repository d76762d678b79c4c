"""Owns the oracle of verdicts: the rules of docs/design/0002-verdicts.md, slow and obvious, over a whole population.

It knows nothing of spells, slots or keys: it walks everybody, with calendar dates, and follows the page's sentences
one by one.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import date, timedelta
from typing import NamedTuple

from engine.records import Inquiry, Note, Person, Qualification, Reason, State, Verdict

EPOCH = date(1920, 1, 1)
LOSS_REASONS = {
    "": Reason.LOST,
    "01": Reason.DECEASED,
    "02": Reason.PUBLIC_ASSISTANCE,
    "03": Reason.INSURANCE_CHANGED,
    "99": Reason.LOST,
}
LOSS_ORDER = ["", "01", "02", "03", "99"]


class Expected(NamedTuple):
    """What an answer must say. `shown` are the qualifications whose data it may carry: exactly one of them."""

    verdict: Verdict
    reason: Reason | None
    notes: frozenset[Note] = frozenset()
    shown: tuple[Qualification, ...] = ()


def expected(population: Mapping[int, Person], inquiry: Inquiry, today: int) -> Expected:
    """The answer to `inquiry`, asked on day `today`, if `population` is all that is registered."""
    if inquiry.card is not None:
        return _by_card(population, inquiry)
    return _by_certificate(population, inquiry, EPOCH + timedelta(days=today))


def _by_card(population: Mapping[int, Person], inquiry: Inquiry) -> Expected:
    card = inquiry.card
    assert card is not None
    behind = [
        (person, q)
        for person in population.values()
        for q in person.qualifications
        if person.birth_date == card.birth_date
        and q.insurer_number == card.insurer_number
        and q.symbol_key == card.symbol_key
        and q.number_key == card.number_key
    ]
    if not behind:
        return Expected(Verdict.NOT_FOUND, Reason.UNKNOWN_CARD)
    if card.branch:
        behind = [(person, q) for person, q in behind if q.branch == card.branch]
        if not behind:
            return Expected(Verdict.NOT_FOUND, Reason.BRANCH_MISMATCH)
    if any(q.state != State.CANCELLED for _, q in behind):
        behind = [(person, q) for person, q in behind if q.state != State.CANCELLED]
    person = behind[0][0]
    if any(other is not person for other, _ in behind):
        return Expected(Verdict.AMBIGUOUS, Reason.SEVERAL_PEOPLE)
    return _of_person(person, [q for _, q in behind], _date(inquiry.as_of))


def _by_certificate(population: Mapping[int, Person], inquiry: Inquiry, today: date) -> Expected:
    asked = inquiry.certificate
    assert asked is not None
    held = [
        (person, c)
        for person in population.values()
        for c in person.certificates
        if (c.issuer, c.serial) == (asked.issuer, asked.serial)
    ]
    if not held:
        return Expected(Verdict.NOT_FOUND, Reason.UNKNOWN_CERTIFICATE)
    person = held[0][0]
    if any(other is not person for other, _ in held):
        return Expected(Verdict.AMBIGUOUS, Reason.SEVERAL_PEOPLE)
    if any(c.revoked for _, c in held):
        return Expected(Verdict.NOT_FOUND, Reason.CERTIFICATE_REVOKED)
    expires_on = _date(min(c.expires_on for _, c in held))
    if today > _months_later(expires_on, 3):
        return Expected(Verdict.NOT_FOUND, Reason.CERTIFICATE_EXPIRED)
    if all(q.state == State.CANCELLED for q in person.qualifications):
        return Expected(Verdict.NOT_FOUND, Reason.NO_QUALIFICATION)
    asked_for = [q for q in person.qualifications if q.state != State.CANCELLED] or list(person.qualifications)
    answer = _of_person(person, asked_for, _date(inquiry.as_of))
    if answer.verdict != Verdict.VALID:
        return answer
    if today > expires_on:
        return answer._replace(notes=answer.notes | {Note.CERTIFICATE_GRACE})
    if today >= _months_later(expires_on, -3):
        return answer._replace(notes=answer.notes | {Note.CERTIFICATE_EXPIRING})
    return answer


def _of_person(person: Person, asked: list[Qualification], as_of: date) -> Expected:
    in_force = [q for q in asked if q.state == State.CONFIRMED and _covers(q, as_of)]
    of_the_person = [q for q in person.qualifications if q.state == State.CONFIRMED and _covers(q, as_of)]
    if in_force:
        shown = _last(in_force)
        notes = frozenset({Note.OVERLAP}) if len(of_the_person) > 1 else frozenset()
        return Expected(Verdict.VALID, None, notes, tuple(shown))
    if any(q.state == State.PENDING and _covers(q, as_of) for q in asked):
        return Expected(Verdict.PENDING, Reason.ANNOUNCED)
    begun = [q for q in asked if _date(q.gained_on) <= as_of]
    candidates = _last(begun) if begun else _first(asked)
    highest = max(LOSS_ORDER.index(q.loss_reason) for q in candidates)
    relevant = [q for q in candidates if q.loss_reason == LOSS_ORDER[highest]]
    shown = tuple(q for q in relevant if q.state != State.PENDING)
    if of_the_person:
        return Expected(Verdict.SUPERSEDED, Reason.NEWER_QUALIFICATION, shown=shown)
    if all(q.state == State.CANCELLED for q in asked):
        return Expected(Verdict.INVALID, Reason.CANCELLED, shown=shown)
    if not begun:
        return Expected(Verdict.INVALID, Reason.NOT_YET_GAINED, shown=shown)
    return Expected(Verdict.INVALID, LOSS_REASONS[relevant[0].loss_reason], shown=shown)


def _covers(q: Qualification, as_of: date) -> bool:
    if as_of < _date(q.gained_on):
        return False
    return q.lost_on is None or as_of < _date(q.lost_on)


def _last(of: list[Qualification]) -> list[Qualification]:
    """Those gained last, and of these those lost last (not lost at all is later than any day)."""
    latest = [q for q in of if q.gained_on == max(q.gained_on for q in of)]
    return _lost_last(latest)


def _first(of: list[Qualification]) -> list[Qualification]:
    """Those gained first, and of these those lost last."""
    return _lost_last([q for q in of if q.gained_on == min(q.gained_on for q in of)])


def _lost_last(of: list[Qualification]) -> list[Qualification]:
    return [q for q in of if _lost(q) == max(_lost(q) for q in of)]


def _lost(q: Qualification) -> date:
    return date.max if q.lost_on is None else _date(q.lost_on)


def _date(day: int) -> date:
    return EPOCH + timedelta(days=day)


def _months_later(day: date, months: int) -> date:
    """The same day of the month, or that month's last day where it has no such day."""
    months += day.year * 12 + day.month - 1
    year, month = months // 12, months % 12 + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))
