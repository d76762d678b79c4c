"""Owns the readable specification of ext/ordinary: the ordinary check by card, and its answer."""

from __future__ import annotations

import calendar
import datetime
import json
import re
import struct
from typing import Any, Final, final

from ext import canon_py as canon

ANSWER_BYTES_MAX: Final = 8192
PURPOSES: Final = (
    "treatment",
    "dispensing",
    "dental",
    "home_visit",
    "online",
    "emergency",
    "appointment",
    "administration",
)
AS_OF_MIN: Final = 1
AS_OF_MAX: Final = 65533
BIRTH_DATE_MIN: Final = -25566
PERSON_MEMBERS: Final = 11
QUALIFICATION_MEMBERS: Final = 21
_IDENTIFIER_CHARS_MAX: Final = 20
_MARK_CHARS_MAX: Final = 64
_SUSPECT_DIGITS: Final = 12
_ELDERLY_MEMBERS: Final = 4
_RELATIONS: Final = {1: "self", 2: "family"}
_SEXES: Final = {1: "male", 2: "female", 3: "unset"}
_NULL: Final = "null"
_UNNOTED_DAYS: Final = 93
_LAST_EXPIRY: Final = 2_900_000
_EPOCH_ORDINAL: Final = datetime.date(1920, 1, 1).toordinal()


class _Odd(Exception):
    """This is for others."""


@final
class Ask:
    __slots__ = (
        "_birth_date",
        "_branch",
        "_consent",
        "_certificate",
        "_today",
        "by_certificate",
        "_mark",
        "_purpose",
        "_number_key",
        "_symbol_key",
        "as_of",
        "insurer_number",
        "institution",
        "branch",
        "message",
        "verdict_only",
    )
    branch: int | None
    message: bytes
    verdict_only: bool
    as_of: int
    institution: str
    by_certificate: bool
    insurer_number: str | None
    _certificate: tuple[str, str]
    _today: int
    _symbol_key: str
    _number_key: str
    _branch: str
    _birth_date: int
    _consent: dict[str, bool]
    _mark: str | None
    _purpose: str

    def __init__(self) -> None:
        raise TypeError("made by ordinary.read only")

    def answer(
        self,
        record: bytes | memoryview,
        start: int,
        stop: int,
        data_version: int,
        insurer_name: bytes,
        fresh_at: bytes,
        advice: bytes,
    ) -> bytes | None:
        _check_said(data_version, (insurer_name, fresh_at, advice))
        with _view(record) as view:
            _places(start, stop, len(view))
            packed = bytes(view[start:stop])
        try:
            person = _members(_unpacked(packed), PERSON_MEMBERS)
            text = self._answer(person, data_version, insurer_name.decode(), fresh_at.decode(), advice.decode())
        except (_Odd, IndexError, UnicodeDecodeError):
            return None
        answer = text.encode()
        return answer if len(answer) <= ANSWER_BYTES_MAX else None

    def insurer_of(self, record: bytes | memoryview, start: int, stop: int) -> str | None:
        # What an answer would say of anything else does not matter here.
        if self.answer(record, start, stop, 0, b"null", b"null", b"null") is None and not self._fits(
            record, start, stop
        ):
            return None
        with _view(record) as view:
            insurer_number = _unpacked(bytes(view[start:stop]))[4][0][0]
        return insurer_number if len(insurer_number) == 8 and insurer_number.isascii() else None

    def _fits(self, record: bytes | memoryview, start: int, stop: int) -> bool:
        """Whether it is who was asked for, and an ordinary one, whatever writing it down would meet."""
        with _view(record) as view:
            packed = bytes(view[start:stop])
        try:
            person = _members(_unpacked(packed), PERSON_MEMBERS)
            for value in person:
                _require(value is person[4] or value is person[5] or not isinstance(value, list))
            (q,) = (_members(one, QUALIFICATION_MEMBERS) for one in _members(person[4], 1))
            if q[18] is not None:
                for member in _members(q[18], _ELDERLY_MEMBERS):
                    _require(not isinstance(member, list))
            self._require_in_force(q)
            if self.by_certificate:
                self._require_certificate(person[5])
            else:
                self._require_card(q, person[3])
        except (_Odd, IndexError, UnicodeDecodeError):
            return False
        return True

    def bare(self, head: bytes, data_version: int, fresh_at: bytes, advice: bytes) -> bytes | None:
        _check_said(data_version, (head, fresh_at, advice))
        answer = head + _day(self.as_of).encode() + b',"qualification":null,'
        answer += self._rest(data_version, fresh_at.decode(), advice.decode()).encode()
        return answer if len(answer) <= ANSWER_BYTES_MAX else None

    def _rest(self, data_version: int, fresh_at: str, advice: str, certificate: str = _NULL) -> str:
        """What stands behind the qualification."""
        rest = {
            "advice": advice,
            "data_version": str(data_version),
            "insurer_fresh_at": fresh_at,
            "notes": "[]",
            "warnings": "[]",
            "certificate": certificate,
        }
        if self._mark is not None:
            rest["id"] = _text(self._mark)
        return _object(rest)[1:]

    def _answer(self, person: list[Any], data_version: int, insurer_name: str, fresh_at: str, advice: str) -> str:
        name, kana, sex, birth_date, held, certificates, _, name_other, kana_other, postcode, address = person
        for value in person:
            _require(value is person[4] or value is certificates or not isinstance(value, list))
        (q,) = (_members(one, QUALIFICATION_MEMBERS) for one in _members(held, 1))
        self._require_in_force(q)
        certificate = _NULL
        if self.by_certificate:
            certificate = self._require_certificate(certificates)
        else:
            self._require_card(q, birth_date)
        elderly = None if q[18] is None else _members(q[18], _ELDERLY_MEMBERS)
        _require(not self._consent.get("limit_certificate") or q[19] is None)
        diseases = _NULL
        if self._consent.get("specific_diseases"):
            _require(q[20] == [])
            diseases = "[]"
        qualification = {
            "insurer_number": _text(q[0]),
            "insurer_name": insurer_name,
            "symbol": _text_or_null(q[1]),
            "number": _text(q[2]),
            "branch": _text_or_null(q[5]),
            "relation": _choice(q[10], _RELATIONS),
            "name": _text(name),
            "name_kana": _text_or_null(kana),
            "sex": _choice(sex, _SEXES),
            "birth_date": _day(birth_date),
            "gained_on": _day(q[6]),
            "lost_on": _day_or_null(q[7]),
            "loss_reason": _text_or_null(q[8]),
            "insured_name": _text_or_null(q[11]),
            "name_other": _text_or_null(name_other),
            "name_other_kana": _text_or_null(kana_other),
            "postcode": _text_or_null(postcode),
            "address": _text_or_null(address),
            "card_class": _text(q[12]),
            "card_issued_on": _day_or_null(q[13]),
            "card_valid_from": _day_or_null(q[14]),
            "card_valid_to": _day_or_null(q[15]),
            "copay_ratio": _text_or_null(q[16]),
            "preschool": _flag(q[17]),
            "elderly_certificate": _NULL if elderly is None else _elderly(elderly),
            "limit_certificate": _NULL,
            "specific_diseases": diseases,
        }
        answer = {
            "verdict": '"VALID"',
            "reason": _NULL,
            "as_of": _day(self.as_of),
            "qualification": _object(qualification),
        }
        return f"{_object(answer)[:-1]},{self._rest(data_version, fresh_at, advice, certificate)}"

    def _require_in_force(self, q: list[Any]) -> None:
        """Confirmed, in force, and with nothing that asks for a note."""
        _require(isinstance(q[0], str))
        _require(type(q[9]) is int and q[9] == 0)
        _require(type(q[6]) is int and q[6] <= self.as_of)
        lost_on, valid_from, valid_to = q[7], q[14], q[15]
        for day in (lost_on, valid_from, valid_to):
            _require(day is None or type(day) is int)
        _require(lost_on is None or lost_on > self.as_of)
        _require(valid_from is None or valid_from <= self.as_of)
        _require(valid_to is None or valid_to >= self.as_of)

    def _require_card(self, q: list[Any], birth_date: Any) -> None:
        """The card's own qualification."""
        _require(type(birth_date) is int and birth_date == self._birth_date)
        _require(all(isinstance(q[at], str) for at in (0, 3, 4, 5)))
        _require((q[0], q[3], q[4]) == (self.insurer_number, self._symbol_key, self._number_key))
        _require(self._branch in ("", q[5]))

    def _require_certificate(self, certificates: Any) -> str:
        """The one certificate that was asked with, good for so long that it needs no note."""
        _require(isinstance(certificates, list))
        found = []
        for one in certificates:
            issuer, serial, expires_on, revoked = _members(one, 4)
            if (issuer, serial) == self._certificate:
                _require(type(expires_on) is int and revoked is False)
                found.append(expires_on)
        _require(len(found) == 1 and self._today + _UNNOTED_DAYS < found[0] <= _LAST_EXPIRY)
        return _object({"expires_on": _day(found[0]), "usable_until": f'"{_later(found[0], 3)}"'})


def _view(record: bytes | memoryview) -> memoryview:
    if not isinstance(record, bytes | bytearray | memoryview):
        raise TypeError(f"a bytes-like object is required, not {type(record).__name__!r}")
    return memoryview(record)


def _check_said(data_version: int, pieces: tuple[bytes, ...]) -> None:
    if not isinstance(data_version, int):
        raise TypeError("data_version must be int")
    if not 0 <= data_version < 2**63:
        raise ValueError("data_version is out of range")
    for piece in pieces:
        if not isinstance(piece, bytes):
            raise TypeError(f"a piece of the answer must be bytes, not {type(piece).__name__}")


def read(data: bytes, start: int, stop: int, today: int, *, item: bool = False) -> Ask | None:
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    _places(start, stop, len(data))
    if not isinstance(today, int):
        raise TypeError("today must be int")
    body = data[start:stop]
    if not AS_OF_MIN <= today <= AS_OF_MAX or b"\\" in body or any(byte > 0x7E for byte in body):
        return None
    try:
        return _ask(json.loads(body.decode("ascii"), object_pairs_hook=_distinct), today, item)
    except (_Odd, ValueError, RecursionError):
        return None


def _ask(given: Any, today: int, item: bool) -> Ask:
    """An item of a batch has no institution, date and purpose of its own."""
    own = set() if item else {"institution"}
    _shape(given, own, {"card", "certificate", "consent", "detail", "id"} | (own and {"as_of", "purpose"}))
    _require(("card" in given) != ("certificate" in given))
    consent = given.get("consent")
    if consent is not None:
        _shape(consent, set(), {"limit_certificate", "specific_diseases"})
        _require(all(isinstance(value, bool) for value in consent.values()))
    for name, value in given.items():
        if name not in ("card", "certificate", "consent"):
            _require(isinstance(value, str) or (value is None and name in ("as_of", "id")))
    ask: Ask = Ask.__new__(Ask)
    ask.institution = "" if item else _checked_digits(given["institution"], 10)
    ask._today = today
    ask.as_of = today if given.get("as_of") is None else _date(given["as_of"])
    _require(AS_OF_MIN <= ask.as_of <= AS_OF_MAX)
    _require(given.get("purpose", "treatment") in PURPOSES and given.get("detail", "full") in ("full", "verdict"))
    ask._purpose = given.get("purpose", "treatment")
    ask.verdict_only = given.get("detail") == "verdict"
    ask._consent = consent or {}
    ask._mark = given.get("id")
    if ask._mark is not None:
        _require(0 < len(ask._mark) <= _MARK_CHARS_MAX)
        _require(len(ask._mark) < _SUSPECT_DIGITS or any(letter.isalpha() for letter in ask._mark))
    ask.by_certificate = "certificate" in given
    if ask.by_certificate:
        _take_certificate(ask, given["certificate"])
    else:
        _take_card(ask, given["card"])
    return ask


def _take_card(ask: Ask, card: Any) -> None:
    _shape(card, {"insurer_number", "number", "birth_date"}, {"symbol", "branch"})
    for name, value in card.items():
        _require(isinstance(value, str) or (value is None and name in ("symbol", "branch")))
    ask.insurer_number = _checked_digits(card["insurer_number"], 8)
    symbol, number = card.get("symbol") or "", card["number"]
    for text in (symbol, number):
        _require(len(text) <= _IDENTIFIER_CHARS_MAX and sum(map(str.isdigit, text)) < _SUSPECT_DIGITS)
    ask._symbol_key, ask._number_key = canon.fold(symbol) or "", canon.fold_number(number) or ""
    _require(bool(ask._number_key.strip("-")))
    if ask.insurer_number.startswith("39"):
        _require(not ask._symbol_key)
        _checked_digits(number, 8)
    branch = card.get("branch") or ""
    _require(len(branch) <= 2 and (not branch or branch.isdigit()))
    ask._branch = branch and branch.zfill(2)
    ask.branch = int(branch) if branch else None
    ask._birth_date = _date(card["birth_date"])
    _require(ask._birth_date >= BIRTH_DATE_MIN)
    ask.message = canon.card_message(ask.insurer_number, ask._birth_date, ask._symbol_key, ask._number_key)


def _take_certificate(ask: Ask, certificate: Any) -> None:
    issuer, serial = (_shape(certificate, {"issuer", "serial"}, set())[name] for name in ("issuer", "serial"))
    _require(isinstance(issuer, str) and isinstance(serial, str))
    _require(len(issuer) <= 200 and any(letter.isalpha() for letter in issuer))
    _require(len(serial) <= 40 and re.fullmatch("[0-9A-Fa-f]+", serial) is not None)
    _require(sum(map(str.isdigit, serial)) < _SUSPECT_DIGITS or any(letter.isalpha() for letter in serial))
    name = re.sub(" *([,=+]) *", r"\1", re.sub(" +", " ", issuer.strip(" ")).lower())
    digits = serial.lstrip("0").upper()
    _require(bool(digits))
    ask.insurer_number, ask.branch, ask._branch = None, None, ""
    ask._certificate = name, digits
    ask.message = f"\x02{name}\x1f{digits}".encode("ascii")


def _later(day: int, months: int) -> str:
    """The date so many months after a day: the same day of the month, or its last where it is shorter."""
    start = datetime.date.fromordinal(day + _EPOCH_ORDINAL)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    return f"{year:04}-{month + 1:02}-{min(start.day, calendar.monthrange(year, month + 1)[1]):02}"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    _require(len(found) == len(pairs))
    return found


def _shape(value: Any, needed: set[str], optional: set[str]) -> dict[str, Any]:
    _require(isinstance(value, dict) and needed <= value.keys() <= needed | optional)
    found: dict[str, Any] = value
    return found


def _checked_digits(text: str, count: int) -> str:
    """So many digits whose check digit fits."""
    _require(len(text) == count and text.isdigit())
    doubled = [2 * int(digit) for digit in text[-2::-2]]
    total = sum(map(int, text[-1::-2])) + sum(digit - 9 if digit > 9 else digit for digit in doubled)
    _require(total % 10 == 0)
    return text


def _date(text: str) -> int:
    day = canon.day_of_iso(text)
    if day is None:
        raise _Odd
    return day


def _places(start: int, stop: int, size: int) -> None:
    for value, name in ((start, "start"), (stop, "stop")):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be int, not {type(value).__name__}")
        if not 0 <= value <= size:
            raise ValueError(f"{name} is not within data")
    if start > stop:
        raise ValueError("start is behind stop")


def _require(holds: bool) -> None:
    if not holds:
        raise _Odd


def _unpacked(packed: bytes) -> Any:
    """The one value in MessagePack, of the kinds that records have."""
    value, end = _value(packed, 0)
    _require(end == len(packed))
    return value


def _value(packed: bytes, at: int) -> tuple[Any, int]:
    """The value that begins there, and where it ends."""
    head = packed[at]
    at += 1
    if head < 0x80 or head >= 0xE0:
        return (head if head < 0x80 else head - 0x100), at
    if head in _WORDS:
        return _WORDS[head], at
    if head in _NUMBERS:
        layout = _NUMBERS[head]
        _require(at + layout.size <= len(packed))
        return layout.unpack_from(packed, at)[0], at + layout.size
    if 0xA0 <= head < 0xC0 or head in _TEXT_SIZES:
        width = _TEXT_SIZES.get(head, 0)
        _require(at + width <= len(packed))
        size = int.from_bytes(packed[at : at + width], "big") if width else head & 31
        end = at + width + size
        _require(end <= len(packed))
        return packed[at + width : end].decode(), end
    _require(0x90 <= head < 0xA0 or (head == 0xDC and at + 2 <= len(packed)))
    count, at = (head & 15, at) if head < 0xA0 else (int.from_bytes(packed[at : at + 2], "big"), at + 2)
    members = []
    for _ in range(count):
        member, at = _value(packed, at)
        members.append(member)
    return members, at


_WORDS: Final[dict[int, bool | None]] = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS: Final = {
    head: struct.Struct(f">{code}")
    for head, code in ((0xCC, "B"), (0xCD, "H"), (0xCE, "I"), (0xD0, "b"), (0xD1, "h"), (0xD2, "i"))
}
_TEXT_SIZES: Final = {0xD9: 1, 0xDA: 2}


def _members(value: Any, count: int) -> list[Any]:
    """An array of so many members."""
    _require(isinstance(value, list) and len(value) == count)
    found: list[Any] = value
    return found


def _integer(value: Any) -> int:
    _require(type(value) is int)
    found: int = value
    return found


def _text(value: Any) -> str:
    _require(isinstance(value, str) and not any(letter < " " or letter in '"\\' for letter in value))
    return f'"{value}"'


def _text_or_null(value: Any) -> str:
    return _NULL if value == "" else _text(value)


def _day(value: Any) -> str:
    _require(canon.DAY_FIRST <= _integer(value) <= canon.DAY_LAST)
    return _text(canon.iso_of_day(value))


def _day_or_null(value: Any) -> str:
    return _NULL if value is None else _day(value)


def _flag(value: Any) -> str:
    _require(isinstance(value, bool))
    return "true" if value else "false"


def _choice(value: Any, words: dict[int, str]) -> str:
    _require(_integer(value) in words)
    return _text(words[value])


def _elderly(members: list[Any]) -> str:
    _require(not any(isinstance(member, list) for member in members))
    issued_on, valid_from, valid_to, ratio = members
    return _object(
        {
            "issued_on": _day(issued_on),
            "valid_from": _day(valid_from),
            "valid_to": _day_or_null(valid_to),
            "ratio": _text(ratio),
        }
    )


def _object(members: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"
