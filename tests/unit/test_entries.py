"""Asks whether a person becomes exactly the index entries that engine/entries and docs/design/0001 describe."""

from __future__ import annotations

import numpy as np
import pytest

from engine import days, entries
from engine.entries import CARD, CERTIFICATE, ENTRY_BYTES, ENTRY_DTYPE, LINK, PERSON
from engine.keys import Keys
from engine.records import Person, Qualification, Sex, State
from tests.support.verdicts import BIRTH, INSURER, ISSUER, OTHER_INSURER, certificate, day, person, qualification

KEYS = Keys(bytes(range(32)))
NUMBER = 4_000_000_000


def packed(of: Person, number: int = NUMBER) -> np.ndarray:
    return np.frombuffer(entries.entries_of(KEYS, number, of), ENTRY_DTYPE)


def of_kind(of: Person, kind: int) -> list[tuple[bytes, int, int, int]]:
    return [
        (bytes(entry["hash"]), int(entry["gained"]), int(entry["lost"]), int(entry["aux"]))
        for entry in packed(of)
        if entry["kind"] == kind
    ]


def card_hash(q: Qualification, birth: int = BIRTH) -> bytes:
    return KEYS.card_hash(q.insurer_number, birth, q.symbol_key, q.number_key)


def test_pack_entry_lays_out_24_bytes() -> None:
    digest = bytes(range(100, 116))
    assert entries.pack_entry(digest, 0x1122, 0x3344, 0x5566, 3) == digest + bytes.fromhex("2211 4433 6655 0300")
    assert ENTRY_BYTES == 24
    assert [ENTRY_DTYPE.fields[name][1] for name in ("hash", "gained", "lost", "aux", "kind")] == [0, 16, 18, 20, 22]  # type: ignore[index]


def test_a_simple_person_has_one_card_entry_and_a_link() -> None:
    q = qualification("2020-04-01", "2026-04-01", loss="03", branch="07")
    one = person(q)
    aux = 7 << entries.AUX_SHIFT_BRANCH | 3 << entries.AUX_SHIFT_LOSS
    assert of_kind(one, CARD) == [(card_hash(q), day("2020-04-01"), day("2026-04-01"), aux)]
    assert of_kind(one, PERSON) == []
    assert of_kind(one, LINK) == [(KEYS.link_hash("link-1"), 0, 0, 0)]
    assert len(packed(one)) == 2


def test_a_simple_persons_certificate_holds_the_days() -> None:
    one = person(qualification("2020-04-01"), certificates=(certificate("2029-05-01"),))
    expiry = day("2029-05-01") - entries.EXPIRY_BASE + entries.EXPIRY_OFFSET
    aux = expiry << entries.AUX_SHIFT_EXPIRY
    assert of_kind(one, CERTIFICATE) == [(KEYS.certificate_hash(ISSUER, "1A2B"), day("2020-04-01"), days.NO_DAY, aux)]
    assert of_kind(one, PERSON) == []


def test_everybody_elses_certificate_says_see_person() -> None:
    chip = (certificate(),)
    pending = person(qualification(state=State.PENDING), certificates=chip)
    several = person(qualification(), qualification("2021-04-01", insurer=OTHER_INSURER), certificates=chip)
    nothing = person(certificates=chip)
    for one, listed_count in ((pending, 1), (several, 2), (nothing, 0)):
        [(_, gained, lost, _)] = of_kind(one, CERTIFICATE)
        assert (gained, lost) == (entries.GAINED_SEE_PERSON, 0)
        assert len(of_kind(one, PERSON)) == listed_count


def test_several_qualifications_are_all_behind_card_and_person() -> None:
    first, second = qualification("2010-04-01", "2020-04-01"), qualification("2020-04-01", insurer=OTHER_INSURER)
    one = person(first, second)
    cards, listed = of_kind(one, CARD), of_kind(one, PERSON)
    assert {entry[0] for entry in cards} == {card_hash(first), card_hash(second)}
    assert {entry[0] for entry in listed} == {KEYS.person_hash(NUMBER)}
    assert {entry[1:] for entry in cards} == {entry[1:] for entry in listed}
    assert all(entry[3] & entries.AUX_MULTI and not entry[3] & entries.AUX_RECORD for entry in cards)


def test_states_and_missing_branch_have_their_bits() -> None:
    for state, bit in (
        (State.CONFIRMED, 0),
        (State.PENDING, entries.AUX_PENDING),
        (State.CANCELLED, entries.AUX_CANCELLED),
    ):
        aux = entries.card_aux(qualification(state=state, branch=""), False)
        assert aux == entries.BRANCH_NONE << entries.AUX_SHIFT_BRANCH | bit


@pytest.mark.parametrize("branch", ["", "00", "01", "99"])
@pytest.mark.parametrize("loss", list(entries.LOSS_CODES))
def test_aux_leaves_the_tables_bits_free_and_fits(branch: str, loss: str) -> None:
    aux = entries.card_aux(qualification(branch=branch, loss=loss), True)
    assert aux & 3 == 0 and aux < 2**16


def test_qualifications_that_look_alike_in_slots_ask_for_the_record() -> None:
    """Two insurers, the same days: as entries of the person they are one, and an overlap would be missed."""
    one = person(qualification(insurer=INSURER), qualification(insurer=OTHER_INSURER))
    assert len(of_kind(one, PERSON)) == 1
    assert all(entry[3] & entries.AUX_RECORD for entry in of_kind(one, PERSON) + of_kind(one, CARD))


@pytest.mark.parametrize(
    ("gained", "lost", "asks"),
    [
        (-1, None, True),
        (0, None, False),
        (days.DAY_MAX, None, False),
        (days.DAY_MAX + 1, None, True),
        (5, days.DAY_MAX, False),
        (5, days.DAY_MAX + 1, True),
        (-5, -1, True),
    ],
)
def test_saturated_days_ask_for_the_record_where_order_matters(gained: int, lost: int | None, asks: bool) -> None:
    alone = person(qualification(gained, lost))
    assert not any(entry[3] & entries.AUX_RECORD for entry in of_kind(alone, CARD))
    both = person(qualification(gained, lost), qualification("2020-04-01", insurer=OTHER_INSURER))
    assert all(bool(entry[3] & entries.AUX_RECORD) is asks for entry in of_kind(both, CARD) + of_kind(both, PERSON))


@pytest.mark.parametrize(
    ("expires_on", "revoked", "code"),
    [
        (entries.EXPIRY_BASE - 1, False, entries.EXPIRY_RECORD),
        (entries.EXPIRY_BASE, False, 2),
        (entries.EXPIRY_BASE + 1, False, 3),
        (entries.EXPIRY_BASE + entries.EXPIRY_MAX - 2, False, entries.EXPIRY_MAX),
        (entries.EXPIRY_BASE + entries.EXPIRY_MAX - 1, False, entries.EXPIRY_RECORD),
        (entries.EXPIRY_BASE + 1, True, entries.EXPIRY_REVOKED),
    ],
)
def test_certificate_expiry_is_exact_or_left_to_the_record(expires_on: int, revoked: bool, code: int) -> None:
    aux = entries.certificate_aux(certificate(expires_on, revoked=revoked))
    assert aux >> entries.AUX_SHIFT_EXPIRY == code
    assert aux & 3 == 0 and aux < 2**16


def test_entries_are_sorted_and_a_set() -> None:
    twice = person(qualification(), qualification(), certificates=(certificate(), certificate()))
    raw = entries.entries_of(KEYS, NUMBER, twice)
    listed = [raw[i : i + ENTRY_BYTES] for i in range(0, len(raw), ENTRY_BYTES)]
    assert listed == sorted(set(listed))


def test_entries_do_not_depend_on_the_order_of_qualifications() -> None:
    first, second = qualification("2010-04-01", "2020-04-01"), qualification("2020-04-01", insurer=OTHER_INSURER)
    assert entries.entries_of(KEYS, 1, person(first, second)) == entries.entries_of(KEYS, 1, person(second, first))


def test_nobody_has_no_entries() -> None:
    assert entries.entries_of(KEYS, 1, Person("名", "ﾅ", Sex.UNSET, BIRTH)) == b""
