"""Owns the people and inquiries behind the golden files, written out by hand: nothing computes what is expected.

Each golden file that holds records was made from these values. They never change: a new layout gets new files beside
the old ones, and both are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.days import parse_iso
from engine.records import (
    Certificate,
    ElderlyCertificate,
    Insurer,
    LimitCertificate,
    Person,
    Qualification,
    Relation,
    Sex,
    SpecificDisease,
    State,
    Verdict,
)

HERE = Path(__file__).parent
MASTER_FILE = HERE / "master_v1.key"
"""32 known bytes: a key for tests and for nothing else."""
STORE_ID = bytes(range(0xA0, 0xB0))
NOW_MS = 1_795_388_400_000
"""2026-11-23T08:00:00+09:00."""
INSTITUTION = "1311111114"

INSURERS = (
    Insurer("01130012", "全国健康保険協会 東京支部", "ゼンコクケンコウホケンキョウカイ"),
    Insurer("33120015", "見本健康保険組合"),
    Insurer("39131156", "見本後期高齢者医療広域連合", twelve_digit_numbers=True),
)

FULL = Person(
    name="髙橋　花子",
    name_kana="タカハシ ハナコ",
    sex=Sex.FEMALE,
    birth_date=parse_iso("1954-11-03"),
    qualifications=(
        Qualification(
            insurer_number="01130012",
            symbol="1234",
            number="1000001",
            symbol_key="1234",
            number_key="1000001",
            branch="01",
            gained_on=parse_iso("2020-04-01"),
            lost_on=parse_iso("2027-04-01"),
            loss_reason="03",
            state=State.CONFIRMED,
            relation=Relation.FAMILY,
            insured_name="髙橋　一郎",
            card_class="01",
            card_issued_on=parse_iso("2020-04-10"),
            card_valid_from=parse_iso("2020-04-01"),
            card_valid_to=parse_iso("2027-03-31"),
            copay_ratio="030",
            preschool=False,
            elderly=ElderlyCertificate(
                parse_iso("2024-12-01"), parse_iso("2024-12-01"), parse_iso("2027-07-31"), "020"
            ),
            limit=LimitCertificate(
                "01",
                "A03",
                parse_iso("2026-04-01"),
                parse_iso("2026-04-01"),
                parse_iso("2027-03-31"),
                parse_iso("2026-06-01"),
            ),
            diseases=(
                SpecificDisease("1", parse_iso("2020-04-01"), parse_iso("2020-04-01"), parse_iso("2030-03-31"), 10_000),
                SpecificDisease("2", parse_iso("2021-05-01"), parse_iso("2021-05-01"), None, 20_000),
            ),
        ),
    ),
    certificates=(Certificate("cn=jpki,c=jp", "F3A", parse_iso("2029-11-03"), False),),
    link_code="LINK-0001",
    name_other="高橋 はな",
    name_other_kana="タカハシ ハナ",
    postcode="100-0001",
    address="東京都千代田区千代田１番１号",
)
"""Every member filled; the first row of feed_v1.csv says the same."""

MINIMAL = Person(
    name="見本 太郎",
    name_kana="ミホン タロウ",
    sex=Sex.MALE,
    birth_date=parse_iso("2000-01-02"),
    qualifications=(
        Qualification(
            insurer_number="01130012",
            symbol="1234",
            number="1000002",
            symbol_key="1234",
            number_key="1000002",
            branch="01",
            gained_on=parse_iso("2020-04-01"),
        ),
    ),
)
"""Nothing but what is required; the second row of feed_v1.csv."""

SEVERAL = Person(
    name="見本 三郎",
    name_kana="ミホン サブロウ",
    sex=Sex.UNSET,
    birth_date=parse_iso("1919-12-31"),
    qualifications=(
        MINIMAL.qualifications[0],
        Qualification(
            insurer_number="33120015",
            symbol="甲ア",
            number="00077",
            symbol_key="甲ア",
            number_key="77",
            branch="",
            gained_on=parse_iso("1919-01-01"),
            lost_on=parse_iso("2020-04-01"),
            loss_reason="99",
            state=State.CANCELLED,
        ),
    ),
    certificates=(
        Certificate("cn=jpki,c=jp", "1", parse_iso("2015-01-01"), False),
        Certificate("cn=jpki,c=jp", "2", parse_iso("2026-01-01"), True),
    ),
)
"""Two insurers, days outside what a slot can hold, a certificate older than all and one revoked."""

PEOPLE = {1: FULL, 2: MINIMAL, 0xFFFFFFFF: SEVERAL}
"""By person number; the last is the highest there can be."""


def inquiry(number: str, **others: Any) -> dict[str, Any]:
    """A request about a card of feed_v1.csv."""
    card = {"insurer_number": "01130012", "symbol": "1234", "number": number, "birth_date": "2000-01-02"}
    return {"institution": INSTITUTION, "as_of": "2026-11-23", "card": card} | others


def by_certificate(serial: str, **others: Any) -> dict[str, Any]:
    """A request with a card certificate."""
    asked = {"issuer": "CN=JPKI,C=JP", "serial": serial}
    return {"institution": INSTITUTION, "as_of": "2026-11-23", "certificate": asked} | others


_CONSENT = {"limit_certificate": True, "specific_diseases": True}
_FULL_CARD = {
    "insurer_number": "01130012",
    "symbol": "１２３４",
    "number": "1000001",
    "branch": "01",
    "birth_date": "1954-11-03",
}
_ELDERLY_CARD = {"insurer_number": "39131156", "number": "30000095", "birth_date": "2000-01-02"}
_WRONG_DIGIT = {"institution": "1311111115"}

INQUIRIES: dict[str, tuple[dict[str, Any], Verdict, str | None]] = {
    "everything": (inquiry("", card=_FULL_CARD, consent=_CONSENT, id="a1"), Verdict.VALID, None),
    "without consent": (inquiry("", card=_FULL_CARD), Verdict.VALID, None),
    "verdict only": (inquiry("", card=_FULL_CARD, detail="verdict"), Verdict.VALID, None),
    "certificate": (by_certificate("0f3a", purpose="dispensing"), Verdict.VALID, None),
    "certificate in grace": (by_certificate("0F3B"), Verdict.VALID, None),
    "minimal": (inquiry("1000002"), Verdict.VALID, None),
    "no branch, no symbol": (inquiry("", card=_ELDERLY_CARD), Verdict.VALID, None),
    "institution's check digit": (inquiry("1000002") | _WRONG_DIGIT, Verdict.VALID, None),
    "lost": (inquiry("1000003"), Verdict.INVALID, "lost"),
    "lost, on its last day": (inquiry("1000003", as_of="2025-04-30"), Verdict.VALID, None),
    "not yet gained": (inquiry("1000010"), Verdict.INVALID, "not_yet_gained"),
    "cancelled": (inquiry("1000007"), Verdict.INVALID, "cancelled"),
    "another insurer since": (inquiry("1000004"), Verdict.SUPERSEDED, "newer_qualification"),
    "twins without a branch": (inquiry("1000005"), Verdict.AMBIGUOUS, "several_people"),
    "announced": (inquiry("1000006"), Verdict.PENDING, "announced"),
    "unknown card": (inquiry("9999999"), Verdict.NOT_FOUND, "unknown_card"),
    "unknown certificate": (by_certificate("1"), Verdict.NOT_FOUND, "unknown_certificate"),
}
"""Requests against the golden data folder, and what the words of the domain say must come back."""
