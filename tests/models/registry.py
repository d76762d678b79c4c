"""Owns the plain model of registration: a dict of people, looked through from end to end for every row.

Written from the documented semantics, not from engine/ingest/apply: no hashes, no index, no sequence numbers.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

from msgspec.structs import replace

from engine.ingest.rows import NO_TARGET, Op, Row
from engine.records import Person, Qualification, State

Refused = tuple[int, str]
"""Row number and code."""


class _Refusal(Exception):
    """A row that changes nothing; its argument is the code."""


@dataclass
class Model:
    """Everybody who is registered, with all versions of each."""

    insurers: set[str]
    people: list[list[Person]] = field(default_factory=list)
    """Versions of each person, oldest first."""
    receipts: dict[tuple[str, bytes], dict[Op, int]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    latest: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """The last content, of anybody, that had rows of an insurer; of "operator": the last of all."""

    def apply(
        self, scope: str, digest: bytes, rows: list[Row], feed_number: int | None = None, *, is_call: bool = False
    ) -> object:
        """What a call or a feed must give: counts, ("replayed", counts), "feed.number", or the set of refused rows."""
        if (scope, digest) in self.receipts:
            # Sent again because the answer was lost, unless something newer came and this is meant to follow it.
            is_newest = self.latest[scope] == (scope, digest)
            follows = is_call if feed_number is None else feed_number > self.numbers.get(scope, -1)
            if is_newest or not follows:
                return ("replayed", self.receipts[scope, digest])
        if feed_number is not None and feed_number <= self.numbers.get(scope, -1):
            return "feed.number"
        before = deepcopy(self.people)
        refused: set[Refused] = set()
        counts = dict.fromkeys(Op, 0)
        for row in rows:
            try:
                self._row(scope, row)
                counts[row.op] += 1
            except _Refusal as refusal:
                refused.add((row.row, str(refusal)))
        if refused:
            self.people = before
            return refused
        self.receipts[scope, digest] = counts
        concerned = {row.person.qualifications[0].insurer_number for row in rows} if scope == "operator" else {scope}
        self.latest |= dict.fromkeys({*concerned, "operator"}, (scope, digest))
        if feed_number is not None:
            self.numbers[scope] = feed_number
        return counts

    def accepted(self, scope: str, rows: list[Row]) -> list[int]:
        """Positions of the rows that would be applied if every other one were left out. Changes nothing."""
        before = deepcopy(self.people)
        positions = []
        for at, row in enumerate(rows):
            try:
                self._row(scope, row)
                positions.append(at)
            except _Refusal:
                continue
        self.people = before
        return positions

    def _row(self, scope: str, row: Row) -> None:
        insurer = row.person.qualifications[0].insurer_number
        if scope not in ("operator", insurer):
            raise _Refusal("insurer.mismatch")
        if insurer not in self.insurers:
            raise _Refusal("insurer.unknown")
        if row.op is Op.NEW:
            self._new(row.person)
        else:
            self._others(row)

    def _new(self, fresh: Person) -> None:
        asked = fresh.qualifications[0]
        if asked.lost_on is not None and asked.lost_on < asked.gained_on:
            raise _Refusal("feed.lost_before_gained")
        versions = self._same_person(fresh)
        if versions is None:
            self.people.append([fresh])
            return
        held = versions[-1].qualifications
        if fresh.birth_date != versions[-1].birth_date and any(q.state is not State.CANCELLED for q in held):
            raise _Refusal("feed.conflict")
        _free(asked, held)
        versions.append(_joined(versions[-1], fresh, (*held, asked)))

    def _same_person(self, fresh: Person) -> list[Person] | None:
        asked = fresh.qualifications[0]
        by_link = [v for v in self.people if fresh.link_code and v[-1].link_code == fresh.link_code]
        by_certificate = [v for v in self.people if _shares_certificate(v[-1], fresh)]
        if by_link and by_certificate and by_link[0] is not by_certificate[0]:
            raise _Refusal("feed.conflict")
        for found in (by_link, by_certificate):
            if found:
                return found[0]
        regained = [
            v
            for v in self.people
            if (v[-1].birth_date, v[-1].name_kana, v[-1].sex) == (fresh.birth_date, fresh.name_kana, fresh.sex)
            and any(_card(q) == _card(asked) and q.branch == asked.branch for q in v[-1].qualifications)
        ]
        if len(regained) > 1:
            raise _Refusal("feed.target_ambiguous")
        return regained[0] if regained else None

    def _others(self, row: Row) -> None:
        asked = row.person.qualifications[0]
        fits = []
        for versions in self.people:
            if versions[-1].birth_date == row.person.birth_date:
                spell = _meant(row.op, asked, versions[-1].qualifications)
                if spell is not None:
                    fits.append((versions, spell))
        link = row.person.link_code
        if link:
            linked = [fit for fit in fits if fit[0][-1].link_code == link]
            fits = linked or [fit for fit in fits if fit[0][-1].link_code == ""]
        if len(fits) != 1:
            raise _Refusal("feed.target_ambiguous" if fits else "feed.target_unknown")
        versions, at = fits[0]
        known = versions[-1]
        spell = known.qualifications[at]
        if row.op is Op.CANCEL:
            versions.append(_with(known, at, replace(spell, state=State.CANCELLED)))
            return
        new = asked if row.op is Op.CHANGE else replace(spell, lost_on=asked.lost_on, loss_reason=asked.loss_reason)
        if row.op is Op.CHANGE:
            self._not_of_another(versions, row.person)
        if new.lost_on is not None and new.lost_on < new.gained_on:
            raise _Refusal("feed.lost_before_gained")
        if new.state is not State.CANCELLED:
            _free(new, [q for other, q in enumerate(known.qualifications) if other != at])
        changed = _with(known, at, new)
        versions.append(_joined(changed, row.person, changed.qualifications) if row.op is Op.CHANGE else changed)

    def _not_of_another(self, versions: list[Person], fresh: Person) -> None:
        owners = [v for v in self.people if fresh.link_code and v[-1].link_code == fresh.link_code]
        owners += [v for v in self.people if _shares_certificate(v[-1], fresh)]
        if any(owner is not versions for owner in owners):
            raise _Refusal("feed.conflict")


def _card(q: Qualification) -> tuple[str, str, str]:
    return q.insurer_number, q.symbol_key, q.number_key


def _shares_certificate(person: Person, fresh: Person) -> bool:
    return bool(
        {(c.issuer, c.serial) for c in person.certificates} & {(c.issuer, c.serial) for c in fresh.certificates}
    )


def _meant(op: Op, asked: Qualification, held: tuple[Qualification, ...]) -> int | None:
    spells = [
        at
        for at, q in enumerate(held)
        if _card(q) == _card(asked) and asked.branch in ("", q.branch) and q.state is not State.CANCELLED
    ]
    for at in spells:
        if held[at].gained_on == asked.gained_on:
            return at
    if not spells or (op is not Op.CHANGE and asked.gained_on != NO_TARGET):
        return None
    return max(spells, key=lambda at: held[at].gained_on)


def _days(q: Qualification) -> set[int]:
    return set(range(q.gained_on, 40_000 if q.lost_on is None else q.lost_on))


def _free(asked: Qualification, held: object) -> None:
    for q in held:  # type: ignore[attr-defined]
        if _card(q) == _card(asked) and q.branch == asked.branch and q.state is not State.CANCELLED:
            if q.gained_on == asked.gained_on:
                raise _Refusal("feed.duplicate")
            if _days(q) & _days(asked):
                raise _Refusal("feed.already_held")


def _with(known: Person, at: int, spell: Qualification) -> Person:
    held = list(known.qualifications)
    held[at] = spell
    return replace(known, qualifications=tuple(held))


def _joined(known: Person, fresh: Person, held: tuple[Qualification, ...]) -> Person:
    if known.link_code and fresh.link_code and known.link_code != fresh.link_code:
        raise _Refusal("feed.conflict")
    new = {(c.issuer, c.serial) for c in fresh.certificates}
    kept = tuple(c for c in known.certificates if (c.issuer, c.serial) not in new)
    return replace(
        fresh,
        qualifications=held,
        certificates=kept + fresh.certificates,
        link_code=known.link_code or fresh.link_code,
    )
