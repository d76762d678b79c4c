"""Owns the decision: spells x as-of date -> verdict with reason; pure, and the only place that decides.

A *spell* is one registration of one person's cover, as small as a slot of the index: person number, gained day
(inclusive), lost day (the first without cover), and the bits of engine/entries (branch, loss, state, MULTI). Spells
come from index slots (16-bit days) or from a record (exact days); the same code decides both, so an answer from memory
and an answer from the record cannot follow different rules. docs/design/0002-verdicts.md has the table in words.

Order never matters: any permutation of the same spells gives the same verdict and reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from engine import days
from engine.entries import (
    AUX_CANCELLED,
    AUX_MULTI,
    AUX_PENDING,
    AUX_SHIFT_BRANCH,
    AUX_SHIFT_LOSS,
    LOSS_CODES,
    card_aux,
)
from engine.records import Note, Qualification, Reason, Verdict

Spell = tuple[int, int, int, int]
"""Person number, gained day, lost day, aux; the same four numbers as a match of engine/index."""
Holder = tuple[int, int, bool]
"""Who holds a certificate: person number, the certificate's last day, whether it is revoked."""
Held = Callable[[int], Sequence[Spell]]
"""Fetches all spells of one person, at any card; called only when they can matter."""

BRANCH_CODES: Final[dict[str, int | None]] = {"": None} | {f"{code:02}": code for code in range(100)}
"""The branch as spells hold it; None for an inquiry that does not name one (then every branch fits)."""
FOREVER: Final = 2**31 - 1
"""The lost day of a spell that is not lost; later than every day of the calendar."""
GRACE_MONTHS: Final = 3
"""A certificate is usable for eligibility up to three months after its expiry, and warned of from three before."""

_UNCONFIRMED = AUX_PENDING | AUX_CANCELLED
_NOT_PLAIN = _UNCONFIRMED | AUX_MULTI
_VALID = Verdict.VALID
_LOSS_MASK = 7
_LOSS_REASONS = {
    LOSS_CODES[""]: Reason.LOST,
    LOSS_CODES["01"]: Reason.DECEASED,
    LOSS_CODES["02"]: Reason.PUBLIC_ASSISTANCE,
    LOSS_CODES["03"]: Reason.INSURANCE_CHANGED,
    LOSS_CODES["99"]: Reason.LOST,
}


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What the rules found. `spell` is the deciding one, set only if the answer may carry its data."""

    verdict: Verdict
    reason: Reason | None = None
    spell: Spell | None = None
    notes: tuple[Note, ...] = ()


UNKNOWN_CARD: Final = Decision(Verdict.NOT_FOUND, Reason.UNKNOWN_CARD)
BRANCH_MISMATCH: Final = Decision(Verdict.NOT_FOUND, Reason.BRANCH_MISMATCH)
UNKNOWN_CERTIFICATE: Final = Decision(Verdict.NOT_FOUND, Reason.UNKNOWN_CERTIFICATE)
CERTIFICATE_REVOKED: Final = Decision(Verdict.NOT_FOUND, Reason.CERTIFICATE_REVOKED)
CERTIFICATE_EXPIRED: Final = Decision(Verdict.NOT_FOUND, Reason.CERTIFICATE_EXPIRED)
NO_QUALIFICATION: Final = Decision(Verdict.NOT_FOUND, Reason.NO_QUALIFICATION)
SEVERAL_PEOPLE: Final = Decision(Verdict.AMBIGUOUS, Reason.SEVERAL_PEOPLE)
ANNOUNCED: Final = Decision(Verdict.PENDING, Reason.ANNOUNCED)


SAYINGS: Final = (
    Decision(Verdict.VALID),
    UNKNOWN_CARD,
    BRANCH_MISMATCH,
    Decision(Verdict.INVALID, Reason.NOT_YET_GAINED),
    *(Decision(Verdict.INVALID, _LOSS_REASONS.get(code, Reason.LOST)) for code in range(_LOSS_MASK + 1)),
    UNKNOWN_CERTIFICATE,
)
"""The decisions that ext/quick can tell from one slot, in its order."""


def spells_of(person: int, qualifications: Sequence[Qualification]) -> list[Spell]:
    """The spells of all that one recorded person holds, in the same order, with exact days."""
    multi = len(qualifications) > 1
    return [
        (person, q.gained_on, FOREVER if q.lost_on is None else q.lost_on, card_aux(q, multi)) for q in qualifications
    ]


def decide_card(candidates: Sequence[Spell], branch: int | None, as_of: int, held: Held) -> Decision:
    """Decide a card-less inquiry.

    Args:
        candidates: every spell, of anybody, with the inquiry's insurer, symbol, number and birth date.
        branch: of BRANCH_CODES, by the inquiry's branch.
        as_of: day number.
        held: fetches all spells of the one person who is left.
    """
    if len(candidates) == 1:
        # Nine checks in ten are this one, which needs none of the care below.
        spell = candidates[0]
        _, gained, lost, aux = spell
        if gained <= as_of < lost and not aux & _NOT_PLAIN and (branch is None or branch == aux >> AUX_SHIFT_BRANCH):
            return Decision(_VALID, None, spell)
    elif not candidates:
        return UNKNOWN_CARD
    if branch is not None:
        candidates = [spell for spell in candidates if spell[3] >> AUX_SHIFT_BRANCH == branch]
        if not candidates:
            return BRANCH_MISMATCH
    return _decide(candidates, as_of, held)


def decide_certificate(holders: Sequence[Holder], today: int, as_of: int, held: Held) -> Decision:
    """Decide an inquiry by card certificate.

    Args:
        holders: everybody registered with the inquiry's issuer and serial.
        today: the day on which the card is presented; the certificate's validity is judged on it, not on as_of.
        as_of: day number.
        held: fetches all spells of the holder.
    """
    if not holders:
        return UNKNOWN_CERTIFICATE
    person, expires_on, revoked = holders[0]
    for other, other_expires_on, other_revoked in holders[1:]:
        if other != person:
            return SEVERAL_PEOPLE
        # Registered twice for one person: the stricter counts.
        expires_on, revoked = min(expires_on, other_expires_on), revoked or other_revoked
    if revoked:
        return CERTIFICATE_REVOKED
    in_grace = today > expires_on
    if in_grace and today > days.add_months(expires_on, GRACE_MONTHS):
        return CERTIFICATE_EXPIRED
    spells = held(person)
    if all(spell[3] & AUX_CANCELLED for spell in spells):
        return NO_QUALIFICATION
    decision = _decide(spells, as_of, held)
    if decision.verdict is not Verdict.VALID:
        return decision
    if in_grace:
        return _noted(decision, Note.CERTIFICATE_GRACE)
    if today >= days.add_months(expires_on, -GRACE_MONTHS):
        return _noted(decision, Note.CERTIFICATE_EXPIRING)
    return decision


def with_card_dates(decision: Decision, qualification: Qualification, as_of: int) -> Decision:
    """Add CARD_EXPIRED to a VALID decision if the deciding card's own dates do not cover `as_of`.

    Both dates are inclusive; an index slot has no room for them, so an answer from memory cannot carry this note.
    """
    valid_from, valid_to = qualification.card_valid_from, qualification.card_valid_to
    begun = valid_from is None or valid_from <= as_of
    ended = valid_to is not None and valid_to < as_of
    if decision.verdict is not Verdict.VALID or (begun and not ended):
        return decision
    return _noted(decision, Note.CARD_EXPIRED)


def _decide(asked: Sequence[Spell], as_of: int, held: Held) -> Decision:
    """Decide between the spells that were asked for; there is at least one."""
    if len(asked) > 1:
        asked = [spell for spell in asked if not spell[3] & AUX_CANCELLED] or asked
        # Before any date is looked at: two people behind one card stay ambiguous even if only one is insured now,
        # because nobody can say which of them stands at the desk.
        if any(spell[0] != asked[0][0] for spell in asked):
            return SEVERAL_PEOPLE
    person, _, _, aux = asked[0]
    in_force = _in_force(asked, as_of)
    if in_force:
        overlap = aux & AUX_MULTI and len(_in_force(held(person), as_of)) > 1
        spell = in_force[0] if len(in_force) == 1 else max(in_force, key=_recency)
        return Decision(Verdict.VALID, None, spell, (Note.OVERLAP,) if overlap else ())
    if any(spell[3] & AUX_PENDING and spell[1] <= as_of < spell[2] for spell in asked):
        return ANNOUNCED
    spell = _most_relevant(asked, as_of)
    # What the insurer has only announced is nobody's business yet: the verdict, but none of its data.
    shown = None if spell[3] & AUX_PENDING else spell
    if aux & AUX_MULTI and _in_force(held(person), as_of):
        return Decision(Verdict.SUPERSEDED, Reason.NEWER_QUALIFICATION, shown)
    return Decision(Verdict.INVALID, _reason(spell, as_of), shown)


def _in_force(spells: Sequence[Spell], as_of: int) -> list[Spell]:
    return [spell for spell in spells if spell[1] <= as_of < spell[2] and not spell[3] & _UNCONFIRMED]


def _most_relevant(asked: Sequence[Spell], as_of: int) -> Spell:
    """Of spells that are not in force: the last begun, else the first to begin."""
    if len(asked) == 1:
        return asked[0]
    begun = [spell for spell in asked if spell[1] <= as_of]
    return max(begun, key=_recency) if begun else max(asked, key=_nearness)


def _recency(spell: Spell) -> tuple[int, int, int, bool]:
    """Gained last, then lost last; loss and state only make the order the same for slots and records."""
    return spell[1], spell[2], _loss(spell), not spell[3] & AUX_PENDING


def _nearness(spell: Spell) -> tuple[int, int, int, bool]:
    """Gained first, then as in `_recency`."""
    return -spell[1], spell[2], _loss(spell), not spell[3] & AUX_PENDING


def _loss(spell: Spell) -> int:
    return spell[3] >> AUX_SHIFT_LOSS & _LOSS_MASK


def _reason(spell: Spell, as_of: int) -> Reason:
    if spell[3] & AUX_CANCELLED:
        return Reason.CANCELLED
    return Reason.NOT_YET_GAINED if spell[1] > as_of else _LOSS_REASONS[_loss(spell)]


def _noted(decision: Decision, note: Note) -> Decision:
    return Decision(decision.verdict, decision.reason, decision.spell, (*decision.notes, note))
