"""Owns the semantics of registration: what one row does to one person. Pure, given a view of who is registered.

Rows come validated as far as that is possible without the store (engine/ingest/rows). What is refused here depends on
what is registered already; a refusal names a column, a code of FAULTS and the kind of the problem, never a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from msgspec.structs import replace

from engine import limits
from engine.ingest.rows import NO_TARGET, Op, Row, RowError
from engine.keys import Keys
from engine.records import Certificate, Person, Qualification, State

FAULTS: Final = {
    "feed.conflict": "link code, certificate and birth date are not those of one person",
    "feed.duplicate": "this qualification is registered already, with the same gained day",
    "feed.already_held": "this person holds this qualification for some of these days already",
    "feed.target_unknown": "no such qualification is registered",
    "feed.target_ambiguous": "several people have this qualification: give the branch or the link code",
    "feed.lost_before_gained": "lost_on is before gained_on",
    "feed.too_many": "more qualifications, certificates or people behind one card than can be kept",
    "insurer.mismatch": "the row is of another insurer than the feed",
    "insurer.unknown": "the insurer is not registered here",
}
"""Every code that a row error can get here, with its meaning."""

Known = tuple[int, Person]
"""A person number and what is known of that person now."""


class View(Protocol):
    """Who is registered at this moment of the feed: what was committed before, and every row until here."""

    def behind(self, digest: bytes) -> Iterable[Known]:
        """People that may have the identifier with this hash; some may turn out not to have it."""


class RefusedRow(Exception):
    """One row cannot be applied. Caught within ingest; it becomes a RowError of the feed's report."""

    def __init__(self, column: str, code: str, kind: str) -> None:
        super().__init__(code)
        self.column = column
        self.code = code
        self.kind = kind

    def error(self, row: int) -> RowError:
        """The report's entry for this refusal."""
        return RowError(row=row, column=self.column, code=self.code, kind=self.kind)


class Written(View, Protocol):
    """A view that what a row makes of a person is put into, for the rows behind it."""

    def put(self, number: int | None, person: Person) -> object:
        """Register a person anew (None), or as known from now on."""


def apply_rows(rows: Iterable[Row], view: Written, keys: Keys) -> tuple[dict[Op, int], list[RowError]]:
    """Apply rows one after the other: how many of each kind were, and why the others were refused."""
    counts, refused = dict.fromkeys(Op, 0), []
    for row in rows:
        try:
            view.put(*apply_row(row, view, keys))
            counts[row.op] += 1
        except RefusedRow as refusal:
            refused.append(refusal.error(row.row))
    return counts, refused


def apply_row(row: Row, view: View, keys: Keys) -> tuple[int | None, Person]:
    """What a row makes of whom: (person number, or None for somebody new; the person as known from now on).

    Raises RefusedRow.
    """
    if row.op is Op.NEW:
        return _register(row.person, view, keys)
    number, known, spell = _target(row, view, keys)
    if row.op is Op.CHANGE:
        person = _changed(number, known, spell, row.person, view, keys)
    elif row.op is Op.LOSE:
        asked = row.person.qualifications[0]
        person = _respelled(known, spell, replace(spell, lost_on=asked.lost_on, loss_reason=asked.loss_reason))
    else:
        person = _respelled(known, spell, replace(spell, state=State.CANCELLED))
    return number, person


def settled(row: Row, view: View, keys: Keys) -> Row:
    """A row that says how a qualification is, whether known or not, as an operation.

    It is a change if somebody has a spell with this card, branch and gained day that is not cancelled, else new.
    """
    asked = row.person.qualifications[0]
    for _, person in view.behind(_card_hash(row.person, asked, keys)):
        if person.birth_date == row.person.birth_date:
            spells = _spells(person, asked, exact_branch=True)
            if any(q.gained_on == asked.gained_on and q.state is not State.CANCELLED for q in spells):
                return Row(row.row, Op.CHANGE, row.person)
    return Row(row.row, Op.NEW, row.person)


# --- new ------------------------------------------------------------------------------------------------------


def _register(fresh: Person, view: View, keys: Keys) -> tuple[int | None, Person]:
    asked = fresh.qualifications[0]
    _check_days(asked)
    owner = _owner(fresh, view, keys)
    behind = list(view.behind(_card_hash(fresh, asked, keys)))
    owner = owner or _regaining(fresh, asked, behind)
    _check_room(asked, behind)
    if owner is None:
        return None, fresh
    number, known = owner
    _check_birth(fresh, known)
    _check_spell(asked, known.qualifications)
    return number, _updated(known, fresh, (*known.qualifications, asked))


def _owner(fresh: Person, view: View, keys: Keys) -> Known | None:
    """Whoever has the row's link code or certificate already."""
    owner = _with_link(fresh.link_code, view, keys) if fresh.link_code else None
    for certificate in fresh.certificates:
        holder = _with_certificate(certificate, view, keys)
        if holder is not None and owner is not None and holder[0] != owner[0]:
            raise RefusedRow("link_code", "feed.conflict", "identifiers of different people")
        owner = owner or holder
    return owner


def _with_link(link_code: str, view: View, keys: Keys) -> Known | None:
    for known in view.behind(keys.link_hash(link_code)):
        if known[1].link_code == link_code:
            return known
    return None


def _with_certificate(certificate: Certificate, view: View, keys: Keys) -> Known | None:
    for known in view.behind(keys.certificate_hash(certificate.issuer, certificate.serial)):
        if any(_same_certificate(certificate, other) for other in known[1].certificates):
            return known
    return None


def _check_birth(fresh: Person, known: Person) -> None:
    """A link code or certificate with another birth date is somebody else's: joining them would mix two people.

    A wrong birth date is corrected by cancelling all that was registered with it and registering anew.
    """
    if fresh.birth_date == known.birth_date:
        return
    if any(held.state is not State.CANCELLED for held in known.qualifications):
        raise RefusedRow("birth_date", "feed.conflict", "another birth date than the person has")


def _check_room(asked: Qualification, behind: list[Known]) -> None:
    """A card can have so many spells behind it, of however many people, as the index can tell apart."""
    spells = sum(_same_card(held, asked) for _, person in behind for held in person.qualifications)
    if spells >= limits.PEOPLE_PER_KEY_MAX:
        raise RefusedRow("number", "feed.too_many", "a card with too many registrations")


def _regaining(fresh: Person, asked: Qualification, behind: list[Known]) -> Known | None:
    """Somebody behind the same card with the same branch, kana name and sex: gaining it once more."""
    fits = []
    for known in behind:
        person = known[1]
        same_person = person.name_kana == fresh.name_kana and person.sex is fresh.sex
        if same_person and person.birth_date == fresh.birth_date and _spells(person, asked, exact_branch=True):
            fits.append(known)
    if len(fits) > 1:
        raise RefusedRow("branch", "feed.target_ambiguous", "several people")
    return fits[0] if fits else None


# --- change, lose, cancel ---------------------------------------------------------------------------------------


def _target(row: Row, view: View, keys: Keys) -> tuple[int, Person, Qualification]:
    """The person and the spell that a row means."""
    asked = row.person.qualifications[0]
    fits = []
    for number, person in view.behind(_card_hash(row.person, asked, keys)):
        spell = _spell_meant(row, person, asked) if person.birth_date == row.person.birth_date else None
        if spell is not None:
            fits.append((number, person, spell))
    if row.person.link_code:
        linked = [fit for fit in fits if fit[1].link_code == row.person.link_code]
        fits = linked or [fit for fit in fits if not fit[1].link_code]
    if not fits:
        raise RefusedRow("number", "feed.target_unknown", "not registered")
    if len(fits) > 1:
        raise RefusedRow("branch", "feed.target_ambiguous", "several people")
    return fits[0]


def _spell_meant(row: Row, person: Person, asked: Qualification) -> Qualification | None:
    """The spell with the gained day asked for; else the latest, unless a lose or cancel named a day."""
    spells = [q for q in _spells(person, asked, exact_branch=False) if q.state is not State.CANCELLED]
    for spell in spells:
        if spell.gained_on == asked.gained_on:
            return spell
    if row.op is not Op.CHANGE and asked.gained_on != NO_TARGET:
        return None
    return max(spells, key=lambda spell: spell.gained_on, default=None)


def _changed(number: int, known: Person, spell: Qualification, fresh: Person, view: View, keys: Keys) -> Person:
    asked = fresh.qualifications[0]
    owner = _owner(fresh, view, keys)
    if owner is not None and owner[0] != number:
        raise RefusedRow("link_code", "feed.conflict", "identifiers of another person")
    return _updated(_respelled(known, spell, asked), fresh, None)


def _respelled(known: Person, old: Qualification, new: Qualification) -> Person:
    """The person with one spell replaced, at its place."""
    at = next(at for at, held in enumerate(known.qualifications) if held is old)
    others = (*known.qualifications[:at], *known.qualifications[at + 1 :])
    if new.state is not State.CANCELLED:
        _check_days(new)
        _check_spell(new, others)
    return replace(known, qualifications=(*known.qualifications[:at], new, *known.qualifications[at + 1 :]))


# --- shared -----------------------------------------------------------------------------------------------------


def _updated(known: Person, fresh: Person, held: tuple[Qualification, ...] | None) -> Person:
    """The row's personal data with all that is held; identifiers add up and are never taken away."""
    if fresh.link_code and known.link_code and fresh.link_code != known.link_code:
        raise RefusedRow("link_code", "feed.conflict", "another code than the person has")
    replaced = [c for c in known.certificates if not any(_same_certificate(c, new) for new in fresh.certificates)]
    person = replace(
        fresh,
        qualifications=known.qualifications if held is None else held,
        certificates=(*replaced, *fresh.certificates),
        link_code=fresh.link_code or known.link_code,
    )
    if len(person.qualifications) > limits.QUALIFICATIONS_PER_PERSON_MAX:
        raise RefusedRow("", "feed.too_many", "too many qualifications")
    if len(person.certificates) > limits.CERTIFICATES_PER_PERSON_MAX:
        raise RefusedRow("certificate_serial", "feed.too_many", "too many certificates")
    return person


def _check_days(spell: Qualification) -> None:
    if spell.lost_on is not None and spell.lost_on < spell.gained_on:
        raise RefusedRow("lost_on", "feed.lost_before_gained", "before the gained day")


def _check_spell(asked: Qualification, held: Iterable[Qualification]) -> None:
    """No two spells of one qualification may begin on the same day or share a day."""
    for spell in held:
        if spell.state is State.CANCELLED or not _same_card(spell, asked) or spell.branch != asked.branch:
            continue
        if spell.gained_on == asked.gained_on:
            raise RefusedRow("gained_on", "feed.duplicate", "registered already")
        if _overlap(spell, asked):
            raise RefusedRow("gained_on", "feed.already_held", "within a spell that is registered")


def _overlap(one: Qualification, other: Qualification) -> bool:
    begin = max(one.gained_on, other.gained_on)
    ends = [spell.lost_on for spell in (one, other) if spell.lost_on is not None]
    if any(spell.lost_on == spell.gained_on for spell in (one, other)):
        return False  # never in force
    return not ends or begin < min(ends)


def _spells(person: Person, asked: Qualification, *, exact_branch: bool) -> list[Qualification]:
    """A person's spells on the card asked for; a row without branch asks for any branch unless `exact_branch`."""
    any_branch = not exact_branch and not asked.branch
    return [q for q in person.qualifications if _same_card(q, asked) and (any_branch or q.branch == asked.branch)]


def _same_card(one: Qualification, other: Qualification) -> bool:
    return (
        one.number_key == other.number_key
        and one.symbol_key == other.symbol_key
        and one.insurer_number == other.insurer_number
    )


def _same_certificate(one: Certificate, other: Certificate) -> bool:
    return one.serial == other.serial and one.issuer == other.issuer


def _card_hash(person: Person, asked: Qualification, keys: Keys) -> bytes:
    return keys.card_hash(asked.insurer_number, person.birth_date, asked.symbol_key, asked.number_key)
