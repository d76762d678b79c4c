"""Owns the examples that the OpenAPI documents show: they are sent from the page as they are."""

from __future__ import annotations

from typing import Any, Final

from api import advice
from engine.records import Reason

Json = dict[str, Any]

CARD: Final = {
    "insurer_number": "01130012",
    "symbol": "1234",
    "number": "1987654",
    "branch": "01",
    "birth_date": "2000-01-02",
}
CHECK: Final = {
    "institution": "1311111114",
    "as_of": "2026-11-23",
    "purpose": "treatment",
    "card": CARD,
    "consent": {"limit_certificate": True},
}
CERTIFICATE: Final = {
    "institution": "1311111114",
    "certificate": {"issuer": "CN=JPKI,C=JP", "serial": "0F3A"},
}
QUALIFICATION: Final = {
    "insurer_number": "01130012",
    "insurer_name": "全国健康保険協会東京都支部",
    "symbol": "1234",
    "number": "1987654",
    "branch": "01",
    "relation": "self",
    "name": "見本 太郎",
    "name_kana": "ミホン タロウ",
    "sex": "male",
    "birth_date": "2000-01-02",
    "gained_on": "2023-04-01",
    "lost_on": None,
    "loss_reason": None,
    "insured_name": "見本 太郎",
    "name_other": None,
    "name_other_kana": None,
    "postcode": "100-0001",
    "address": "東京都千代田区千代田１番１号",
    "card_class": "01",
    "card_issued_on": "2023-04-10",
    "card_valid_from": "2023-04-01",
    "card_valid_to": None,
    "copay_ratio": "030",
    "preschool": False,
    "elderly_certificate": None,
    "limit_certificate": None,
    "specific_diseases": None,
}
ANSWER: Final[Json] = {
    "verdict": "VALID",
    "reason": None,
    "as_of": "2026-11-23",
    "qualification": QUALIFICATION,
    "advice": {"ja": advice.VALID.ja, "en": advice.VALID.en},
    "data_version": 123456,
    "insurer_fresh_at": "2026-11-23T08:00:00+09:00",
    "notes": [],
    "warnings": [],
    "certificate": None,
}
UNKNOWN: Final = {
    **ANSWER,
    "verdict": "NOT_FOUND",
    "reason": "unknown_card",
    "qualification": None,
    "advice": {"ja": advice.REASONS[Reason.UNKNOWN_CARD].ja, "en": advice.REASONS[Reason.UNKNOWN_CARD].en},
}
BATCH: Final = {
    "institution": "1311111114",
    "as_of": "2026-11-23",
    "items": [{"id": "a1", "card": CARD}, {"id": "a2", "certificate": CERTIFICATE["certificate"]}],
}
OPERATION: Final = {
    "op": "new",
    "insurer_number": "06139992",
    "symbol": "55",
    "number": "2",
    "branch": "00",
    "birth_date": "1992-05-01",
    "name": "見本 二郎",
    "name_kana": "ミホン ジロウ",
    "sex": 1,
    "relation": 1,
    "gained_on": "2026-04-01",
}
"""Sent from the page as it is, it must not change what the sample data have."""
STATE: Final = {name: value for name, value in OPERATION.items() if name != "op"}
CSV: Final = (
    "op,insurer_number,symbol,number,branch,birth_date,name,name_kana,sex,relation,gained_on\r\n"
    "new,06139992,55,3,00,1994-06-01,見本 三郎,ミホン サブロウ,1,1,2026-04-01\r\n"
)
INSURER: Final = {
    "number": "06139992",
    "name": "見本健康保険組合",
    "name_kana": None,
    "twelve_digit_numbers": False,
    "fresh_at": "2026-11-23T08:00:00+09:00",
    "feed_as_of": "2026-11-22",
    "feed_number": 321,
}
