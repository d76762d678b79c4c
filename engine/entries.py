"""Owns how a person becomes index entries: the one function behind import, recovery, rebuild and fsck.

An entry is a 128-bit keyed hash of one identifier plus what a slot of the index can hold. Layouts are drawn in
docs/FORMATS.md; reasons are in docs/design/0001-store-and-index.md.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine import days
from engine.keys import Keys
from engine.records import Certificate, Person, Qualification, State

CARD: Final = 1
CERTIFICATE: Final = 2
PERSON: Final = 3
LINK: Final = 4

ENTRY_DTYPE: Final = np.dtype([("hash", "V16"), ("gained", "<u2"), ("lost", "<u2"), ("aux", "<u2"), ("kind", "<u2")])
ENTRY_BYTES: Final = ENTRY_DTYPE.itemsize
assert ENTRY_BYTES == 24

# aux of every entry: the two low bits belong to the table (ext/probe) and are 0 here.
#   CARD, PERSON   bits 9-15 branch (0-99, 127 = none), 8 RECORD, 5-7 loss, 4 CANCELLED, 3 PENDING, 2 MULTI
#   CERTIFICATE    bits 2-15 expiry: days since EXPIRY_BASE + 2; 0 = read the record, 1 = revoked
#   LINK           0
AUX_SHIFT_BRANCH: Final = 9
BRANCH_NONE: Final = 127
AUX_RECORD: Final = 1 << 8
"""Slots cannot tell this person's qualifications apart as the record can: decide from the record."""
AUX_SHIFT_LOSS: Final = 5
AUX_CANCELLED: Final = 1 << 4
AUX_PENDING: Final = 1 << 3
AUX_MULTI: Final = 1 << 2
"""This person holds more than one qualification: the PERSON entries have them all."""

LOSS_CODES: Final = {"": 0, "01": 1, "02": 2, "03": 3, "99": 4}
AUX_SHIFT_EXPIRY: Final = 2
EXPIRY_OFFSET: Final = 2
"""What is added to the days since EXPIRY_BASE, to leave 0 and 1 free."""
EXPIRY_BASE: Final = days.parse_iso("2016-01-01")
"""Cards with these certificates were first issued in January 2016."""
EXPIRY_RECORD: Final = 0
EXPIRY_REVOKED: Final = 1
EXPIRY_MAX: Final = 2**14 - 1

GAINED_SEE_PERSON: Final = days.NO_DAY
"""`gained` of a CERTIFICATE entry whose holder's qualifications are in the PERSON entries (or are none)."""


_BRANCH_BITS: Final = {"": BRANCH_NONE << AUX_SHIFT_BRANCH} | {
    f"{branch:02}": branch << AUX_SHIFT_BRANCH for branch in range(100)
}
_LOSS_BITS: Final = {reason: code << AUX_SHIFT_LOSS for reason, code in LOSS_CODES.items()}
STATE_BITS: Final = {State.CONFIRMED: 0, State.PENDING: AUX_PENDING, State.CANCELLED: AUX_CANCELLED}


def card_aux(qualification: Qualification, multi: bool) -> int:
    """The 16 bits beside the dates of a CARD or PERSON entry."""
    aux = _BRANCH_BITS[qualification.branch] | _LOSS_BITS[qualification.loss_reason] | STATE_BITS[qualification.state]
    return aux | AUX_MULTI if multi else aux


def certificate_aux(certificate: Certificate) -> int:
    """The 16 bits beside the dates of a CERTIFICATE entry: when it expires, or that the record must say."""
    if certificate.revoked:
        return EXPIRY_REVOKED << AUX_SHIFT_EXPIRY
    expiry = certificate.expires_on - EXPIRY_BASE + EXPIRY_OFFSET
    return (expiry if EXPIRY_OFFSET <= expiry <= EXPIRY_MAX else EXPIRY_RECORD) << AUX_SHIFT_EXPIRY


def entries_of(keys: Keys, number: int, person: Person) -> bytes:
    """All index entries of one person, sorted, as packed ENTRY_DTYPE (24 bytes each).

    A person is *simple* with exactly one qualification that is confirmed; the certificate's entry then holds that
    one's days. Otherwise it says "see the PERSON entries", of which there is one for each qualification.
    """
    held = person.qualifications
    multi = len(held) > 1
    simple = not multi and len(held) == 1 and held[0].state is State.CONFIRMED
    slots = _slots(held, multi)
    itself = keys.person_hash(number) if not simple and (multi or person.certificates) else None
    packed = []
    for q, (gained, lost, aux) in zip(held, slots, strict=True):
        card = keys.card_hash(q.insurer_number, person.birth_date, q.symbol_key, q.number_key)
        packed.append(pack_entry(card, gained, lost, aux, CARD))
        if itself is not None:
            packed.append(pack_entry(itself, gained, lost, aux, PERSON))
    for c in person.certificates:
        gained, lost = slots[0][:2] if simple else (GAINED_SEE_PERSON, 0)
        packed.append(
            pack_entry(keys.certificate_hash(c.issuer, c.serial), gained, lost, certificate_aux(c), CERTIFICATE)
        )
    if person.link_code:
        packed.append(pack_entry(keys.link_hash(person.link_code), 0, 0, 0, LINK))
    return b"".join(sorted(set(packed)))


def _slots(held: tuple[Qualification, ...], multi: bool) -> list[tuple[int, int, int]]:
    """Gained, lost and aux of each qualification as a slot holds them.

    Two qualifications that look alike in slots would count as one (entries are a set), and saturated days have lost
    their order; one qualification alone can suffer neither.
    """
    pack = days.pack
    slots = [(pack(q.gained_on), pack(q.lost_on), card_aux(q, multi)) for q in held]
    if multi and (len(set(slots)) < len(slots) or any(map(_is_saturated, held, slots))):
        return [(gained, lost, aux | AUX_RECORD) for gained, lost, aux in slots]
    return slots


def _is_saturated(q: Qualification, slot: tuple[int, int, int]) -> bool:
    return slot[0] != q.gained_on or (q.lost_on is not None and slot[1] != q.lost_on)


def pack_entry(digest: bytes, gained: int, lost: int, aux: int, kind: int) -> bytes:
    """One entry: 16 bytes of hash, then four little-endian u16."""
    return digest + (gained | lost << 16 | aux << 32 | kind << 48).to_bytes(8, "little")
