"""Owns one cell: text of a column -> value, or a Fault that says what is wrong without showing the value."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final

from engine import days, identifiers, limits
from engine.config import CheckDigitPolicy
from engine.errors import CheckDigitError, DateError, InputError, MyNumberError, TooLongError
from engine.ingest import columns
from engine.ingest.columns import Column, Form
from engine.ingest.rows import Op
from engine.records import Relation, Sex, SpecificDisease, State

MY_NUMBER: Final = "twelve digits that may be a My Number"
UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\ufffd\ud800-\udfff\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
"""Control and format characters, separators of lines, lone surrogates, and U+FFFD: what nobody can read on a screen.

Variation selectors and private-use characters (外字) pass: names are written with them."""
KANA: Final = re.compile("[ァ-ヺーヽヾ・゙゚ぁ-ゖゝゞA-Za-z0-9 .,'()/&\\-‐−]*")
LINK: Final = re.compile("[!-~]+")
POSTCODE: Final = re.compile("([0-9]{3})-?([0-9]{4})")
RATIO: Final = re.compile("0[0-9]{2}|100")
DISEASE: Final = re.compile("([0-9]):([0-9-]+):([0-9-]+):([0-9-]*):([0-9]{1,7})")
LINE_BREAK: Final = re.compile("\r\n|\n|\r")

_VALUES: Final[dict[str, dict[str, Any]]] = {
    "op": {op.value: op for op in Op},
    "sex": {str(sex.value): sex for sex in Sex},
    "relation": {str(relation.value): relation for relation in Relation},
    "state": {"confirmed": State.CONFIRMED, "pending": State.PENDING},
}
_FLAGS: Final = {"0": False, "1": True}


class Fault(Exception):
    """What is wrong with a cell: a code of columns.FAULTS and the kind of the value."""

    def __init__(self, code: str, kind: str) -> None:
        super().__init__(code, kind)
        self.code = code
        self.kind = kind


def _never(insurer: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about a row beyond the row itself.

    `insurer` is whose feed it is (canonical, or None for the operator's), `policy` says what a wrong check digit
    is, `exempt_12_digits` names insurers whose insured numbers have 12 digits, `known_insurer` those registered.
    """

    insurer: str | None = None
    policy: CheckDigitPolicy = "error"
    exempt_12_digits: Callable[[str], bool] = field(default=_never)
    known_insurer: Callable[[str], bool] | None = None

    @staticmethod
    def of(
        insurer: str | None,
        policy: CheckDigitPolicy,
        exempt_12_digits: Callable[[str], bool] | None,
        known_insurer: Callable[[str], bool] | None,
    ) -> Rules:
        """Rules from optional arguments; without `exempt_12_digits` no insurer is exempt."""
        return Rules(insurer, policy, exempt_12_digits or _never, known_insurer)


def kind_of(text: str) -> str:
    """What sort of value this is, in words that do not tell it."""
    folded = unicodedata.normalize("NFKC", text)
    if not folded.strip():
        return "blank"
    if folded.isdecimal():
        return f"{len(folded)} digits" if len(folded) <= limits.ADDRESS_CHARS_MAX else "digits"
    if folded.isalpha():
        return "letters"
    return "letters and digits" if folded.isalnum() else "mixed characters"


def read(column: Column, text: str, *, exempt: bool = False) -> Any:
    """The value of a filled cell. Identifiers give (as registered, canonical). Raises Fault.

    Args: exempt: twelve digits are not taken for a My Number.
    """
    if column.form is Form.TEXT and column.name == "address":
        text = LINE_BREAK.sub(" ", text)
    if UNSEEN.search(text):
        raise Fault("input.control", "control or unreadable character")
    if not exempt and identifiers.is_my_number(text):
        raise Fault("input.my_number", MY_NUMBER)
    if column.form in (Form.TEXT, Form.KANA) and identifiers.holds_my_number(text):
        raise Fault("input.my_number", MY_NUMBER)
    reader = _READERS[column.form]
    try:
        return reader(column, text)
    except InputError as error:
        raise fault_of(error, text) from None


def memo_reader(column: Column) -> Callable[[str], Any]:
    """`read` for one column; without its first questions where a good value answers them. May raise InputError."""
    if column.form in (Form.DATE, Form.POSTCODE, Form.CODE, Form.FLAG, Form.RATIO):
        return partial(_READERS[column.form], column)
    return partial(read, column)


def fault_of(error: InputError, text: str) -> Fault:
    """The row error's code and kind for an error of engine/identifiers or engine/days."""
    if isinstance(error, MyNumberError):
        return Fault("input.my_number", MY_NUMBER)
    if isinstance(error, TooLongError):
        return Fault("input.too_long", "too long")
    if isinstance(error, CheckDigitError):
        return Fault("input.check_digit", "wrong check digit")
    if isinstance(error, DateError):
        return Fault("input.date", "not a date")
    return Fault("input.format", kind_of(text))


def check_digit_fits(insurer_number: str) -> bool:
    """Whether a canonical insurer number ends with its check digit."""
    return identifiers.check_digit_ok(insurer_number)


def elderly_number_fault(text: str) -> Fault | None:
    """What is wrong with an insured number of an insurer 39...: eight digits, the last a check digit."""
    try:
        digits = identifiers.canonical_symbol(text)
    except InputError as error:
        return fault_of(error, text)
    if len(digits) != identifiers.ELDERLY_NUMBER_DIGITS or not (digits.isascii() and digits.isdigit()):
        return Fault("input.format", kind_of(text))
    return None if identifiers.check_digit_ok(digits) else Fault("input.check_digit", "wrong check digit")


def read_date(text: str) -> int:
    """Day number of YYYY-MM-DD or YYYYMMDD. Raises DateError."""
    return days.parse_iso(text) if len(text) == 10 else days.parse_compact(text)


def _bounded(column: Column, text: str) -> str:
    assert column.chars_max is not None
    if len(text) > column.chars_max:
        raise Fault("input.too_long", "too long")
    return text


def _code(column: Column, text: str) -> Any:
    assert column.codes is not None
    if text not in column.codes:
        raise Fault("input.code", "unknown code")
    known = _VALUES.get(column.name)
    return text if known is None else known[text]


def _flag(column: Column, text: str) -> bool:
    if text not in _FLAGS:
        raise Fault("input.code", "unknown code")
    return _FLAGS[text]


def _date(column: Column, text: str) -> int:
    day = read_date(text)
    if column.name == "birth_date" and day < identifiers.BIRTH_DATE_MIN:
        raise Fault("input.date", "before 1850")
    return day


def _insurer(column: Column, text: str) -> str:
    return identifiers.canonical_insurer(text)


def _identifier(column: Column, text: str) -> tuple[str, str]:
    _bounded(column, text)
    canonical = identifiers.canonical_number if column.name == "number" else identifiers.canonical_symbol
    return text, canonical(text)


def _branch(column: Column, text: str) -> str:
    return identifiers.canonical_branch(text)


def _issuer(column: Column, text: str) -> str:
    return identifiers.canonical_issuer(_bounded(column, text))


def _serial(column: Column, text: str) -> str:
    return identifiers.canonical_serial(_bounded(column, text))


def _link(column: Column, text: str) -> str:
    if not LINK.fullmatch(_bounded(column, text)):
        raise Fault("input.format", kind_of(text))
    return text


def _postcode(column: Column, text: str) -> str:
    found = POSTCODE.fullmatch(text)
    if found is None:
        raise Fault("input.format", kind_of(text))
    return f"{found[1]}-{found[2]}"


def _ratio(column: Column, text: str) -> str:
    if not RATIO.fullmatch(text):
        raise Fault("input.format", kind_of(text))
    return text


def _text(column: Column, text: str) -> str:
    if not text.strip():
        raise Fault("input.format", "blank")
    return _bounded(column, text)


def _kana(column: Column, text: str) -> str:
    folded = unicodedata.normalize("NFKC", text)
    if not folded.strip():
        raise Fault("input.format", "blank")
    if not KANA.fullmatch(folded):
        raise Fault("input.format", "not kana")
    return _bounded(column, folded)


def _diseases(column: Column, text: str) -> tuple[SpecificDisease, ...]:
    parts = text.split(";")
    if len(parts) > limits.DISEASES_PER_QUALIFICATION_MAX:
        raise Fault("input.too_long", "too many diseases")
    return tuple(map(_disease, parts))


def _disease(text: str) -> SpecificDisease:
    found = DISEASE.fullmatch(text)
    if found is None:
        raise Fault("input.format", "not a list of diseases")
    if found[1] not in columns.DISEASE_CATEGORIES:
        raise Fault("input.code", "unknown code")
    issued, start, end = read_date(found[2]), read_date(found[3]), read_date(found[4]) if found[4] else None
    if end is not None and end < start:
        raise Fault("input.period", "ends before it begins")
    return SpecificDisease(found[1], issued, start, end, int(found[5]))


_READERS: Final[dict[Form, Callable[[Column, str], Any]]] = {
    Form.CODE: _code,
    Form.FLAG: _flag,
    Form.DATE: _date,
    Form.INSURER: _insurer,
    Form.IDENTIFIER: _identifier,
    Form.BRANCH: _branch,
    Form.ISSUER: _issuer,
    Form.SERIAL: _serial,
    Form.LINK: _link,
    Form.POSTCODE: _postcode,
    Form.RATIO: _ratio,
    Form.TEXT: _text,
    Form.KANA: _kana,
    Form.DISEASES: _diseases,
}


@lru_cache(maxsize=65_536)
def begins_a_word(character: str) -> bool:
    """Whether a text that begins with this character is surely neither blank nor a My Number: a letter does.

    The long-vowel mark (a *modifier* letter) and the letters that count as blanks do not.
    """
    first = unicodedata.normalize("NFKC", character)[0]
    return unicodedata.category(first) in ("Lo", "Lu", "Ll", "Lt") and ord(first) not in identifiers.BLANKS
