"""Owns the oracle of feeds: reads a file character by character and row by row, in the plainest way.

It shares with the engine only the records, the row types and the rules of single identifiers (which have tests of
their own); how files are cut, what a column demands and what columns demand of each other is written here again.
"""

from __future__ import annotations

import json
import unicodedata
from datetime import date
from typing import Any

from engine import identifiers
from engine.errors import CheckDigitError, InputError, MyNumberError, TooLongError
from engine.ingest.rows import NO_TARGET, Op, Row, RowError
from engine.records import (
    Certificate,
    ElderlyCertificate,
    LimitCertificate,
    Person,
    Qualification,
    Relation,
    Sex,
    SpecificDisease,
    State,
)

NAMES = (
    "op insurer_number symbol number branch birth_date link_code name name_kana name_other name_other_kana sex "
    "postcode address relation insured_name gained_on lost_on loss_reason state card_class card_issued_on "
    "card_valid_from card_valid_to copay_ratio preschool certificate_issuer certificate_serial certificate_expires_on "
    "certificate_revoked elderly_issued_on elderly_valid_from elderly_valid_to elderly_ratio limit_category limit_band "
    "limit_issued_on limit_valid_from limit_valid_to limit_long_term_on diseases"
).split()
ALWAYS = ["op", "insurer_number", "number", "birth_date"]
NEEDED = {
    "new": ["name", "name_kana", "sex", "relation", "gained_on"],
    "change": ["name", "name_kana", "sex", "relation", "gained_on"],
    "lose": ["lost_on", "loss_reason"],
    "cancel": [],
}
DATES = [name for name in NAMES if name.endswith(("_on", "_from", "_to", "_date"))]
CODES = {
    "op": list(NEEDED),
    "sex": ["1", "2", "3"],
    "relation": ["1", "2"],
    "loss_reason": ["01", "02", "03", "99"],
    "state": ["confirmed", "pending"],
    "card_class": ["01", "02", "03", "04", "05", "06", "07", "A1"],
    "preschool": ["0", "1"],
    "certificate_revoked": ["0", "1"],
    "limit_category": ["01", "02", "03"],
    "limit_band": [f"A0{n}" for n in range(1, 7)] + [f"B{n:02}" for n in range(1, 11)],
}
LONGEST = {
    "symbol": 20,
    "number": 20,
    "link_code": 40,
    "name": 100,
    "name_kana": 100,
    "name_other": 100,
    "name_other_kana": 100,
    "address": 200,
    "insured_name": 100,
    "certificate_issuer": 200,
    "certificate_serial": 64,
}
DAY_0 = date(1920, 1, 1)


class FileError(Exception):
    """The file as a whole is refused: a code, and in which row (0 is the header row)."""


class Wrong(Exception):
    """A cell is refused: the code."""


# --- files ----------------------------------------------------------------------------------------------------


def read_csv(data: bytes, encoding: str, line_bytes_max: int, **rules: Any) -> tuple[list[Row], list[tuple]]:
    """All good rows, and (row, column, code) of all errors. Raises FileError."""
    header: list[str] | None = None
    rows: list[Row] = []
    errors: list[tuple] = []
    number = 0
    for fields, is_last_and_open in _csv_rows(data, encoding, line_bytes_max):
        if header is None:
            header = _check_header(fields)
            continue
        number += 1
        if fields is None:
            errors.append((number, "", "row.quotes"))
        elif len(fields) < len(header) and is_last_and_open:
            raise FileError("feed.truncated", number)
        elif len(fields) != len(header):
            errors.append((number, "", "row.fields"))
        else:
            _add(rows, errors, number, dict(zip(header, fields, strict=True)), {}, rules)
    if header is None:
        raise FileError("feed.header", 0)
    return rows, errors


def _check_header(fields: list[str] | None) -> list[str]:
    good = fields is not None and all(name in NAMES for name in fields) and len(set(fields)) == len(fields)
    if fields is None or not good or not set(ALWAYS) <= set(fields):
        raise FileError("feed.header", 0)
    return fields


def _text_lines(data: bytes, encoding: str, line_bytes_max: int):
    """(text of a line with its end, whether the file ends there without one); a FileError instead of a bad line."""
    if encoding == "utf-8":
        data = data.removeprefix(b"\xef\xbb\xbf")
    while data:
        line, newline, data = data.partition(b"\n")
        if len(line) > line_bytes_max:
            yield FileError("input.too_large"), False
            return
        is_open = not newline and line.strip(b"\r") != b""
        try:
            yield (line + newline).decode(encoding), is_open
        except UnicodeDecodeError as error:
            cut_short = (
                is_open and error.end == len(line) and ("unexpected end" in str(error) or "incomplete" in str(error))
            )
            yield FileError("feed.truncated" if cut_short else "feed.encoding"), False
            return


def _csv_rows(data: bytes, encoding: str, line_bytes_max: int):
    """(fields or None for a row that is not CSV, whether it is the last and has no line end); blank ones left out."""
    lines = _text_lines(data, encoding, line_bytes_max)
    number = 0
    for text, is_open in lines:
        if isinstance(text, FileError):
            raise FileError(*text.args, number)
        parser = _RowParser()
        length = len(text)
        parser.feed(text)
        while parser.state == "quoted":
            if length > line_bytes_max:
                raise FileError("input.too_large", number)
            text, is_open = next(lines, (None, False))
            if text is None:
                raise FileError("feed.truncated", number)
            if isinstance(text, FileError):
                raise FileError(*text.args, number)
            length += len(text)
            if length > line_bytes_max:
                raise FileError("input.too_large", number)
            parser.feed(text)
        if length > line_bytes_max:
            raise FileError("input.too_large", number)
        if parser.bad or not parser.blank:
            yield (None if parser.bad else [*parser.fields, parser.field]), is_open
            number += 1


class _RowParser:
    def __init__(self) -> None:
        self.fields: list[str] = []
        self.field = ""
        self.state = "start"
        self.blank = True
        self.bad = False

    def feed(self, line: str) -> None:
        for character in line:
            if self.bad:
                return
            if self.state == "quoted":
                if character == '"':
                    self.state = "after quote"
                else:
                    self.field += character
            elif self.state == "end":
                self.bad = character not in "\r\n"
            elif character in "\r\n":
                self.state = "end"
            elif character == ",":
                self.blank = False
                self.fields.append(self.field)
                self.field = ""
                self.state = "start"
            elif character == '"' and self.state in ("start", "after quote"):
                self.blank = False
                self.field += '"' if self.state == "after quote" else ""
                self.state = "quoted"
            elif self.state == "after quote":
                self.bad = True
            else:
                self.blank = False
                self.field += character
                self.state = "plain"
        if self.bad:
            self.state = "bad"


def _noting(twice: list[int]) -> Any:
    """Makes objects of members, and notes of each how many names were given before."""

    def make(members: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.append(len(members) - len(dict(members)))
        return dict(members)

    return make


def read_ndjson(data: bytes, encoding: str, line_bytes_max: int, **rules: Any) -> tuple[list[Row], list[tuple]]:
    """The same for NDJSON."""
    rows: list[Row] = []
    errors: list[tuple] = []
    number = 0
    for text, is_open in _text_lines(data, encoding, line_bytes_max):
        if isinstance(text, FileError):
            raise FileError(*text.args, number + 1)
        if not text.strip(" \t\r\n"):
            continue
        number += 1
        twice: list[int] = []
        try:
            value = json.loads(text, parse_constant=lambda name: 1 / 0, object_pairs_hook=_noting(twice))
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, ZeroDivisionError, RecursionError):
            if is_open:
                raise FileError("feed.truncated", number) from None
            errors.append((number, "", "row.json"))
            continue
        if any(twice):
            errors.append((number, "", "row.json"))
            continue
        add_object(rows, errors, number, value, rules)
    return rows, errors


def add_object(rows: list[Row], errors: list[tuple], number: int, value: Any, rules: dict) -> None:
    """One JSON object of a file or a call."""
    if not isinstance(value, dict):
        errors.append((number, "", "row.json"))
        return
    cells: dict[str, str] = {}
    bad: dict[str, str] = {}
    for name, item in value.items():
        if name not in NAMES:
            bad[""] = "input.unknown"
        elif isinstance(item, str):
            cells[name] = item
        elif name in ("preschool", "certificate_revoked") and (item is True or item is False):
            cells[name] = "1" if item else "0"
        elif name in ("preschool", "certificate_revoked") and type(item) is int and item in (0, 1):
            cells[name] = str(item)
        elif name in ("sex", "relation") and type(item) is int:
            cells[name] = str(item)
        elif name == "diseases" and isinstance(item, list):
            try:
                cells[name] = ";".join(_disease_text(disease) for disease in item)
            except Wrong as wrong:
                bad[name] = wrong.args[0]
        elif item is not None:
            bad[name] = "input.type"
    _add(rows, errors, number, cells, bad, rules)


def _disease_text(disease: Any) -> str:
    members = ["category", "issued_on", "valid_from", "valid_to", "self_pay"]
    if not isinstance(disease, dict) or any(name not in members for name in disease):
        raise Wrong("input.format")
    if type(disease.get("self_pay")) is not int:
        raise Wrong("input.type")
    texts = []
    for name in members[:4]:
        item = disease.get(name)
        if item is not None and not isinstance(item, str):
            raise Wrong("input.type")
        texts.append(item or "")
    texts.append(str(disease["self_pay"]))
    if any(character not in "0123456789-" for text in texts for character in text):
        raise Wrong("input.format")
    return ":".join(texts)


# --- rows -----------------------------------------------------------------------------------------------------


def _add(rows: list, errors: list, number: int, cells: dict[str, str], bad: dict[str, str], rules: dict) -> None:
    outcome = check(number, cells, dict(bad), **rules)
    if isinstance(outcome, Row):
        rows.append(outcome)
    else:
        errors.extend((number, column, code) for column, code in sorted(outcome.items(), key=_place))


def _place(item: tuple[str, str]) -> int:
    return NAMES.index(item[0]) if item[0] else -1


def check(
    number: int,
    cells: dict[str, str],
    bad: dict[str, str],
    *,
    insurer: str | None = None,
    policy: str = "error",
    exempt: frozenset[str] = frozenset(),
    known: frozenset[str] | None = None,
) -> Row | dict[str, str]:
    """The row, or the first thing that is wrong with each bad column."""
    cells = {name: text for name, text in cells.items() if text}
    values: dict[str, Any] = {}

    def filled(name: str) -> bool:
        return name in cells or name in bad

    for name in NAMES:
        if name in cells and name not in bad:
            try:
                values[name] = cell(name, cells[name], values.get("insurer_number") in exempt)
            except Wrong as wrong:
                bad[name] = wrong.args[0]
    for name in ALWAYS + NEEDED.get(values.get("op", "cancel"), []):
        if not filled(name):
            bad[name] = "input.required"
    mine = values.get("insurer_number")
    if mine is not None:
        if not identifiers.check_digit_ok(mine) and policy == "error":
            bad.setdefault("insurer_number", "input.check_digit")
        if insurer is not None and mine != insurer:
            bad.setdefault("insurer_number", "insurer.mismatch")
        elif known is not None and mine not in known:
            bad.setdefault("insurer_number", "insurer.unknown")
    if mine is not None and mine[:2] == "39":
        if values.get("symbol", ("", ""))[1]:
            bad.setdefault("symbol", "input.unexpected")
        if values.get("branch"):
            bad.setdefault("branch", "input.unexpected")
        if "number" in values:
            digits = identifiers.canonical_symbol(cells["number"])
            if not (len(digits) == 8 and all(character in "0123456789" for character in digits)):
                bad.setdefault("number", "input.format")
            elif policy == "error" and not identifiers.check_digit_ok(digits):
                bad.setdefault("number", "input.check_digit")
    for needed, others in (
        (["certificate_issuer", "certificate_serial", "certificate_expires_on"], []),
        (["elderly_issued_on", "elderly_valid_from", "elderly_ratio"], ["elderly_valid_to"]),
        (
            ["limit_category", "limit_band", "limit_issued_on", "limit_valid_from"],
            ["limit_valid_to", "limit_long_term_on"],
        ),
        (["lost_on"], ["loss_reason"]),
    ):
        any_filled = any(filled(name) for name in needed + others)
        if needed[0] == "certificate_issuer" and values.get("certificate_revoked") == "1":
            any_filled = True
        for name in needed:
            if any_filled and not filled(name):
                bad[name] = "input.group"
    for kind in ("card", "elderly", "limit"):
        start, end = values.get(f"{kind}_valid_from"), values.get(f"{kind}_valid_to")
        if start is not None and end is not None and end < start:
            bad.setdefault(f"{kind}_valid_to", "input.period")
    if "lost_on" in values and "gained_on" in values and values["lost_on"] < values["gained_on"]:
        bad.setdefault("lost_on", "feed.lost_before_gained")
    return bad or _row(number, values)


def cell(name: str, text: str, exempt: bool) -> Any:
    """The value of one filled cell. Raises Wrong."""
    if name == "address":
        text = text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    for character in text:
        if character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            raise Wrong("input.control")
    if identifiers.is_my_number(text) and not (name == "number" and exempt):
        raise Wrong("input.my_number")
    if (name == "address" or "name" in name) and identifiers.holds_my_number(text):
        raise Wrong("input.my_number")
    if name == "name_kana" or name == "name_other_kana":
        text = unicodedata.normalize("NFKC", text)
        if not all(_is_kana(character) for character in text):
            raise Wrong("input.format")
    if (name == "address" or "name" in name) and not text.strip():
        raise Wrong("input.format")
    if len(text) > LONGEST.get(name, 10**9):
        raise Wrong("input.too_long")
    if name in CODES:
        if text not in CODES[name]:
            raise Wrong("input.code")
        return text
    if name in DATES:
        day = _day(text)
        if name == "birth_date" and day < (date(1850, 1, 1) - DAY_0).days:
            raise Wrong("input.date")
        return day
    return _other_cell(name, text)


def _other_cell(name: str, text: str) -> Any:
    digits_only = all(character in "0123456789" for character in text)
    if name in ("copay_ratio", "elderly_ratio"):
        if not (digits_only and len(text) == 3 and int(text) <= 100):
            raise Wrong("input.format")
        return text
    if name == "postcode":
        digits = text[:3] + text[4:] if text[3:4] == "-" else text
        if not (len(digits) == 7 and all(character in "0123456789" for character in digits)):
            raise Wrong("input.format")
        return f"{digits[:3]}-{digits[3:]}"
    if name == "link_code":
        if not all("!" <= character <= "~" for character in text):
            raise Wrong("input.format")
        return text
    if name == "diseases":
        parts = text.split(";")
        if len(parts) > 8:
            raise Wrong("input.too_long")
        return tuple(_disease(part) for part in parts)
    if name in ("symbol", "number"):
        return text, _identifier(getattr(identifiers, f"canonical_{name}"), text)
    if name in ("branch", "insurer_number", "certificate_issuer", "certificate_serial"):
        return _identifier(getattr(identifiers, "canonical_" + name.split("_")[name.startswith("certificate")]), text)
    return text


def _identifier(canonical: Any, text: str) -> str:
    try:
        return canonical(text)
    except InputError as error:
        for kind, code in (
            (MyNumberError, "input.my_number"),
            (TooLongError, "input.too_long"),
            (CheckDigitError, "input.check_digit"),
        ):
            if isinstance(error, kind):
                raise Wrong(code) from None
        raise Wrong("input.format") from None


def _day(text: str) -> int:
    shape = "".join("0" if character in "0123456789" else character for character in text)
    if shape not in ("00000000", "0000-00-00"):
        raise Wrong("input.date")
    digits = text.replace("-", "")
    try:
        return (date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) - DAY_0).days
    except ValueError:
        raise Wrong("input.date") from None


def _disease(text: str) -> SpecificDisease:
    parts = text.split(":")
    if len(parts) != 5:
        raise Wrong("input.format")
    category, issued, start, end, pay = parts
    if len(category) != 1 or category not in "0123456789":
        raise Wrong("input.format")
    if not (1 <= len(pay) <= 7 and all(character in "0123456789" for character in pay)):
        raise Wrong("input.format")
    for part, may_be_empty in ((issued, False), (start, False), (end, True)):
        if not all(character in "0123456789-" for character in part) or not (part or may_be_empty):
            raise Wrong("input.format")
    if category not in "123":
        raise Wrong("input.code")
    days = [_day(issued), _day(start), _day(end) if end else None]
    if days[2] is not None and days[2] < days[1]:
        raise Wrong("input.period")
    return SpecificDisease(category, days[0], days[1], days[2], int(pay))


def _is_kana(character: str) -> bool:
    allowed = "ーヽヾ・ゝゞ 　.,'()/&-‐−\u3099\u309a"
    plain = character.isascii() and character.isalnum()
    return "ァ" <= character <= "ヺ" or "ぁ" <= character <= "ゖ" or plain or character in allowed


def _row(number: int, v: dict[str, Any]) -> Row:
    symbol, number_ = v.get("symbol", ("", "")), v["number"]
    elderly = limit = None
    if "elderly_ratio" in v:
        elderly = ElderlyCertificate(
            v["elderly_issued_on"], v["elderly_valid_from"], v.get("elderly_valid_to"), v["elderly_ratio"]
        )
    if "limit_band" in v:
        limit = LimitCertificate(
            v["limit_category"],
            v["limit_band"],
            v["limit_issued_on"],
            v["limit_valid_from"],
            v.get("limit_valid_to"),
            v.get("limit_long_term_on"),
        )
    held = Qualification(
        insurer_number=v["insurer_number"],
        symbol=symbol[0],
        number=number_[0],
        symbol_key=symbol[1],
        number_key=number_[1],
        branch=v.get("branch", ""),
        gained_on=v.get("gained_on", NO_TARGET),
        lost_on=v.get("lost_on"),
        loss_reason=v.get("loss_reason", ""),
        state={"confirmed": State.CONFIRMED, "pending": State.PENDING}[v.get("state", "confirmed")],
        relation=Relation(int(v.get("relation", "1"))),
        insured_name=v.get("insured_name", ""),
        card_class=v.get("card_class", "01"),
        card_issued_on=v.get("card_issued_on"),
        card_valid_from=v.get("card_valid_from"),
        card_valid_to=v.get("card_valid_to"),
        copay_ratio=v.get("copay_ratio", ""),
        preschool=v.get("preschool") == "1",
        elderly=elderly,
        limit=limit,
        diseases=v.get("diseases", ()),
    )
    certificates: tuple[Certificate, ...] = ()
    if "certificate_issuer" in v:
        certificates = (
            Certificate(
                v["certificate_issuer"],
                v["certificate_serial"],
                v["certificate_expires_on"],
                v.get("certificate_revoked") == "1",
            ),
        )
    person = Person(
        name=v.get("name", ""),
        name_kana=v.get("name_kana", ""),
        sex=Sex(int(v.get("sex", "3"))),
        birth_date=v["birth_date"],
        qualifications=(held,),
        certificates=certificates,
        link_code=v.get("link_code", ""),
        name_other=v.get("name_other", ""),
        name_other_kana=v.get("name_other_kana", ""),
        postcode=v.get("postcode", ""),
        address=v.get("address", ""),
    )
    return Row(number, Op(v["op"]), person)


def shown(errors: list[RowError]) -> list[tuple]:
    """Row errors of the engine in the oracle's form."""
    return [(error.row, error.column, error.code) for error in errors]
