"""Owns the one path from an inquiry to its answer: identifiers -> index -> record -> rules -> answer.

Two sources, one set of rules (engine/rules):

- An answer with data comes from records. The index only names candidates; each candidate's record is read at the
  visible version and compared with every identifier of the inquiry, so a match in the index alone never yields data.
- A verdict alone comes from the index. Where a slot cannot say everything (engine/entries: RECORD, an expiry out of
  its range, why a certificate's holder lost cover), or while a change is being published, the records are asked.

Every answer belongs to one data version: the visible one, read before the index and found unchanged after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from msgspec import structs

from engine import entries, memory, rules
from engine.clock import Clock
from engine.days import AS_OF_MAX, AS_OF_MIN
from engine.entries import AUX_RECORD
from engine.index import IndexReader, Match
from engine.keys import Keys, card_message, certificate_message
from engine.records import (
    VERDICT_CODES,
    Answer,
    CardIdentifiers,
    Certificate,
    CertificateIdentifiers,
    Inquiry,
    Insurer,
    Person,
    Qualification,
    Reason,
    Verdict,
)
from engine.rules import BRANCH_CODES, Decision, Holder, Spell, decide_card, spells_of
from engine.store import StoreReader
from ext import keyhash, quick

_Known = tuple[int, tuple[tuple[int, Insurer], ...]]
"""Of one insurer: `insurers_version` when it was read, and the newest states with the change of each, newest first."""
_OLDER_KEPT: Final = 2


class Verifier:
    """Answers inquiries from one index and one store; one per thread."""

    __slots__ = (
        "_clock",
        "_index",
        "_index_key",
        "_insurers",
        "_keys",
        "_listed",
        "_store",
    )

    def __init__(self, index: IndexReader, store: StoreReader, keys: Keys, clock: Clock) -> None:
        self._index = index
        self._store = store
        self._keys = keys
        self._index_key = keys.index_key
        self._clock = clock
        self._insurers: dict[str, _Known] = {}
        self._listed: tuple[int, list[Insurer]] | None = None

    def check(self, inquiry: Inquiry) -> Answer:
        """Answer an inquiry; with data where the verdict may carry data, unless it asks for the verdict only.

        A verdict-only answer by certificate names no insurer, and none has the note CARD_EXPIRED: answers from
        memory could not, and an answer does not depend on where it came from.
        """
        if inquiry.verdict_only:
            version, decision = self._decided(inquiry)
            return _without_data(inquiry, version, decision)
        return self._from_records(inquiry).answer(inquiry)

    def verdict(self, inquiry: Inquiry) -> Decision:
        """The decision alone, without notes that need the record: what a verdict-only answer says."""
        return self._decided(inquiry)[1]

    def quick(
        self,
        insurer: Callable[[str, int], tuple[bytes, bytes]],
        words: Callable[[Verdict, Reason | None], tuple[bytes, bytes]],
        *,
        looks_first: bool = False,
        notes: bool = False,
    ) -> quick.Quick:
        """The quick way (ext/quick) over this index and store. It compares the record with the inquiry, as here.

        Args:
            words: how an answer begins, up to the date, and its advice as JSON.
            looks_first: whether it looks if a record is in memory before it reads it.
            notes: whether it notes what there is to record of each answer.
        """
        said = [(*words(one.verdict, one.reason), VERDICT_CODES[one.verdict]) for one in rules.SAYINGS]
        index, store = self._index, self._store
        today = self._clock.today
        return quick.Quick(
            index.live, store.pages, self._index_key, today, insurer, said, looks_first=looks_first, notes=notes
        )

    def subject(self, inquiry: Inquiry) -> tuple[bytes, int | None]:
        """What is recorded of an inquiry: the index's hash of it, and the one person whom it names, if any."""
        if inquiry.card is not None:
            message = _message_of_card(inquiry.card)
        else:
            certificate = _certificate_of(inquiry)
            message = certificate_message(certificate.issuer, certificate.serial)
        people = {match[0] for match in self._index.find_message(self._index_key, message)}
        return keyhash.siphash128(self._index_key, message), people.pop() if len(people) == 1 else None

    def looks_first(self, chosen: Literal["auto", "always", "never"]) -> bool:
        """Whether records may be where reading them waits for a disk, by the setting `cold_reads`."""
        return chosen == "always" or (chosen == "auto" and 2 * self._store.size_bytes() > memory.total_bytes())

    def touch(self, keys: Sequence[bytes]) -> None:
        """Bring records into memory, by keys that the quick way gave; from any thread."""
        self._store.touch(keys)

    @property
    def insurers_version(self) -> int:
        """Moves when any insurer's record changed."""
        return self._index.insurers_version

    def insurer(self, number: str, version: int | None = None) -> Insurer | None:
        """A registered insurer, no fresher than a data version (default: the visible one). Kept until one changes.

        The store knows of a feed before the index does: what it says may be newer than the data of an answer.
        """
        if version is None:
            version = self._index.data_version
        changed = self._index.insurers_version
        known = self._insurers.get(number)
        if known is None or known[0] != changed:
            known = self._read_insurer(number, changed, known)
            if known is None:
                return None
        for since, insurer in known[1]:
            if since <= version:
                return insurer
        # Its first feed is on its way, or it was never asked for before this one.
        return structs.replace(known[1][0][1], fresh_at_ms=None, feed_as_of=None, feed_number=None)

    def _read_insurer(self, number: str, changed: int, known: _Known | None) -> _Known | None:
        found = self._store.insurer_since(number)
        if found is None:
            # Unknown numbers are not remembered: callers could fill the memory with them.
            return None
        insurer, since = found
        older = () if known is None else tuple(each for each in known[1] if each[0] < since)
        read = self._insurers[number] = (changed, ((since, insurer), *older[:_OLDER_KEPT]))
        return read

    def insurers(self) -> list[Insurer]:
        """All registered insurers by number; the same list as long as no insurer changes."""
        version = self._index.insurers_version
        if self._listed is None or self._listed[0] != version:
            self._listed = (version, self._store.insurers())
        return self._listed[1]

    def _decided(self, inquiry: Inquiry) -> tuple[int, Decision]:
        """Data version and decision, from memory if it knows enough and holds still."""
        index = self._index
        version = index.still()
        if version >= 0:
            decision = self._from_memory(inquiry)
            if decision is not None and index.still() == version:
                return version, decision
        found = self._from_records(inquiry)
        return found.version, found.decision

    def _from_memory(self, inquiry: Inquiry) -> Decision | None:
        """Decide from index slots; None if they cannot say."""
        as_of = inquiry.as_of
        if not AS_OF_MIN <= as_of <= AS_OF_MAX:
            return None
        card = inquiry.card
        if card is None:
            return self._from_certificate_slots(_certificate_of(inquiry), as_of)
        matches = self._index.find_card(
            self._index_key, card.insurer_number, card.birth_date, card.symbol_key, card.number_key
        )
        if len(matches) == 1:
            if matches[0][3] & AUX_RECORD:
                return None
        elif any(match[3] & AUX_RECORD for match in matches):
            return None
        return decide_card(matches, BRANCH_CODES[card.branch], as_of, self._spells_in_memory)

    def _from_certificate_slots(self, certificate: CertificateIdentifiers, as_of: int) -> Decision | None:
        matches = self._index.find_message(self._index_key, certificate_message(certificate.issuer, certificate.serial))
        spells: Sequence[Spell] = ()
        for person, gained, lost, aux in matches:
            if aux >> entries.AUX_SHIFT_EXPIRY == entries.EXPIRY_RECORD:
                return None
            if gained == entries.GAINED_SEE_PERSON:
                spells = self._spells_in_memory(person)
                if any(spell[3] & AUX_RECORD for spell in spells):
                    return None
            elif gained <= as_of and lost <= as_of:
                # The slot has no room for the reason of loss beside the expiry.
                return None
            else:
                spells = ((person, gained, lost, 0),)
        holders = [_holder_of_slot(match) for match in matches]
        return rules.decide_certificate(holders, self._clock.today(), as_of, lambda person: spells)

    def _spells_in_memory(self, person: int) -> list[Match]:
        return [match for match in self._index.find(self._keys.person_hash(person)) if match[0] == person]

    def _from_records(self, inquiry: Inquiry) -> _Found:
        if inquiry.card is not None:
            version, people = self._people(_message_of_card(inquiry.card))
            return _decide_card(version, people, inquiry.card, inquiry.as_of)
        certificate = _certificate_of(inquiry)
        version, people = self._people(certificate_message(certificate.issuer, certificate.serial))
        return _decide_certificate(version, people, certificate, self._clock.today(), inquiry.as_of)

    def _people(self, message: bytes) -> tuple[int, dict[int, Person]]:
        """Data version, and everybody whom the index names for `message`, as recorded in that version.

        Entries of new versions are written before the version becomes visible, and those of old ones are removed
        after it: if the version has not moved, the index held all that the version asks for, and perhaps more.
        """
        index = self._index
        version = index.data_version
        while True:
            matches = index.find_message(self._index_key, message)
            seen, version = version, index.data_version
            if seen == version:
                break
        people = {}
        for match in matches:
            number = match[0]
            if number not in people:
                person = self._store.person(number, version)
                if person is not None:
                    people[number] = person
        return version, people


class _Found:
    """What the records say: the decision and, by spell, where it came from."""

    __slots__ = ("_spells", "certificate", "decision", "people", "version")

    def __init__(self, version: int, people: dict[int, Person]) -> None:
        self.version = version
        self.people = people
        self._spells: dict[int, list[Spell]] = {}
        self.decision = rules.UNKNOWN_CARD
        self.certificate: Certificate | None = None

    def held(self, number: int) -> list[Spell]:
        """All spells of one of these people, in the order of the qualifications; the same objects every time."""
        spells = self._spells.get(number)
        if spells is None:
            spells = self._spells[number] = spells_of(number, self.people[number].qualifications)
        return spells

    def answer(self, inquiry: Inquiry) -> Answer:
        """The answer with the deciding qualification's data, if the decision shows any."""
        decision = self.decision
        spell = decision.spell
        if spell is None:
            return _without_data(inquiry, self.version, decision)
        person = self.people[spell[0]]
        qualification = self._qualification(person, spell)
        decision = rules.with_card_dates(decision, qualification, inquiry.as_of)
        return Answer(
            decision.verdict,
            decision.reason,
            inquiry.as_of,
            self.version,
            qualification.insurer_number,
            decision.notes,
            inquiry.warnings,
            _disclosed(person, decision.verdict),
            qualification,
            self.certificate,
        )

    def _qualification(self, person: Person, spell: Spell) -> Qualification:
        held = person.qualifications
        if len(held) == 1:
            return held[0]
        for candidate, qualification in zip(self.held(spell[0]), held, strict=True):
            if candidate is spell:
                return qualification
        raise AssertionError("a decision's spell is one of those that it was given")


def _decide_card(version: int, people: dict[int, Person], card: CardIdentifiers, as_of: int) -> _Found:
    """Compare the records with the card, and decide between those that fit."""
    found = _Found(version, people)
    candidates: list[Spell] = []
    number_key, symbol_key, insurer_number = card.number_key, card.symbol_key, card.insurer_number
    for number, person in people.items():
        if person.birth_date != card.birth_date:
            continue
        # Not strict, which would cost more than the rest of the loop: both are as long by construction.
        for spell, q in zip(found.held(number), person.qualifications):  # noqa: B905
            if q.number_key == number_key and q.symbol_key == symbol_key and q.insurer_number == insurer_number:
                candidates.append(spell)
    found.decision = decide_card(candidates, BRANCH_CODES[card.branch], as_of, found.held)
    return found


def _decide_certificate(
    version: int, people: dict[int, Person], asked: CertificateIdentifiers, today: int, as_of: int
) -> _Found:
    """Compare the records with the certificate, and decide for its holder."""
    found = _Found(version, people)
    holders: list[Holder] = []
    for number, person in people.items():
        for certificate in person.certificates:
            if certificate.serial == asked.serial and certificate.issuer == asked.issuer:
                holders.append((number, certificate.expires_on, certificate.revoked))
                found.certificate = certificate
    found.decision = rules.decide_certificate(holders, today, as_of, found.held)
    return found


def _holder_of_slot(match: Match) -> Holder:
    expiry = match[3] >> entries.AUX_SHIFT_EXPIRY
    return match[0], expiry - entries.EXPIRY_OFFSET + entries.EXPIRY_BASE, expiry == entries.EXPIRY_REVOKED


def _message_of_card(card: CardIdentifiers) -> bytes:
    return card_message(card.insurer_number, card.birth_date, card.symbol_key, card.number_key)


def _certificate_of(inquiry: Inquiry) -> CertificateIdentifiers:
    certificate = inquiry.certificate
    assert certificate is not None, "an inquiry has a card or a certificate"
    return certificate


def _without_data(inquiry: Inquiry, version: int, decision: Decision) -> Answer:
    """An answer of verdict, reason and notes. Its insurer is the one that the inquiry itself names."""
    card = inquiry.card
    insurer_number = card.insurer_number if card is not None else ""
    return Answer(
        decision.verdict,
        decision.reason,
        inquiry.as_of,
        version,
        insurer_number,
        decision.notes,
        inquiry.warnings,
    )


def _disclosed(person: Person, verdict: Verdict) -> Person:
    """The person without other qualifications, certificates and link code, which no answer may carry.

    SUPERSEDED leaves out where the person lives, too: it may have come with the newer registration, which is none of
    the asking institution's business.
    """
    newer = verdict is Verdict.SUPERSEDED
    return Person(
        person.name,
        person.name_kana,
        person.sex,
        person.birth_date,
        (),
        (),
        "",
        person.name_other,
        person.name_other_kana,
        "" if newer else person.postcode,
        "" if newer else person.address,
    )
