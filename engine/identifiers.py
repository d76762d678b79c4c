"""Owns the identifiers: how they are parsed, brought to canonical form and checked, and that My Number is refused.

Canonical form (ours; the operator's rule is not published): NFKC; blanks, format characters, variation selectors,
middle dots and slashes dropped; hyphens, dashes, minus signs and long-vowel marks unified to `-`; ASCII letters in
upper case. Insurer numbers are padded with zeros to 8 digits, branches to 2; numbers are compared without leading
zeros. Control characters and surrogates are refused. Plain ASCII takes the compiled path (ext/canon), which gives
the same result. `canonical_*` decide about form; `parse_*` also refuse My Number and apply the check digits.

No message quotes a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final
from unicodedata import is_normalized, normalize

from engine import days
from engine.config import CheckDigitPolicy
from engine.errors import CheckDigitError, DateError, FormatError, InputError, MyNumberError, TooLongError
from engine.limits import CERTIFICATE_ISSUER_CHARS_MAX, CERTIFICATE_SERIAL_CHARS_MAX, IDENTIFIER_CHARS_MAX
from engine.records import CardIdentifiers, CertificateIdentifiers, Warning
from ext import canon

INSURER_DIGITS: Final = 8
INSURER_DIGITS_MIN: Final = 5
"""A municipal insurer number has 6 digits; a spreadsheet may have eaten the zero of the first nine prefectures."""
INSTITUTION_DIGITS: Final = 10
ELDERLY_LAW: Final = "39"
"""法別番号 of 後期高齢者医療: insured numbers of 8 digits with a check digit, no symbol."""
ELDERLY_NUMBER_DIGITS: Final = 8
MY_NUMBER_DIGITS: Final = 12
SERIAL_DIGITS_MAX: Final = 40
"""20 octets (RFC 5280)."""
BIRTH_DATE_MIN: Final = days.parse_iso("1850-01-01")
_SUSPECT_CHARS_MAX: Final = 64
"""Twelve digits with as many separators are far shorter; longer text is not searched for a My Number."""


def _code_points(*ranges: int | tuple[int, int]) -> Iterable[int]:
    for item in ranges:
        first, last = item if isinstance(item, tuple) else (item, item)
        yield from range(first, last + 1)


HYPHENS: Final = frozenset(
    _code_points(
        0x002D,  # hyphen-minus; U+FF0D and U+FE63 become this by NFKC
        (0x2010, 0x2015),  # hyphen, non-breaking hyphen, figure, en and em dash, horizontal bar
        0x2043,  # hyphen bullet
        0x02D7,  # modifier letter minus
        0x2212,  # minus; U+207B and U+208B become this by NFKC
        (0x2500, 0x2501),  # box drawing horizontals, typed as dashes
        0x2796,  # heavy minus
        (0x2E3A, 0x2E3B),  # two-em and three-em dash
        0x30FC,  # long-vowel mark; U+FF70 becomes this by NFKC
    )
)
"""All that becomes `-`. cp932 systems write the same key as U+2212 or U+FF0D, and U+2014 or U+2015."""

BLANKS: Final = frozenset(
    _code_points(
        0x0020,
        0x00A0,
        0x1680,
        (0x2000, 0x200A),
        (0x2028, 0x2029),
        0x202F,
        0x205F,
        0x3000,  # ideographic
        0x2800,  # empty braille cell
        (0x115F, 0x1160),  # Hangul fillers
        # Format characters: soft hyphen, zero width, direction marks, byte order mark and their like.
        0x00AD,
        (0x0600, 0x0605),
        0x061C,
        0x06DD,
        0x070F,
        (0x0890, 0x0891),
        0x08E2,
        0x180E,
        (0x200B, 0x200F),
        (0x202A, 0x202E),
        (0x2060, 0x206F),
        0xFEFF,
        (0xFFF9, 0xFFFB),
        0x110BD,
        0x110CD,
        (0x13430, 0x1343F),
        (0x1BCA0, 0x1BCA3),
        (0x1D173, 0x1D17A),
        (0xE0000, 0xE007F),
        # Variation selectors: another drawing of the same character.
        (0xFE00, 0xFE0F),
        (0xE0100, 0xE01EF),
    )
)
"""All that is dropped as blank."""

MIDDLE_DOTS: Final = frozenset(_code_points(0x00B7, 0x2022, 0x2027, 0x2219, 0x22C5, 0x2E31, 0x30FB))
SLASHES: Final = frozenset(_code_points(0x002F, 0x2044, 0x2215, 0x29F8))

_DROP_BLANKS: Final[dict[int, str | None]] = dict.fromkeys(BLANKS, None)
_UNIFY: Final[dict[int, str | None]] = {
    **dict.fromkeys(HYPHENS, "-"),
    **dict.fromkeys(BLANKS | MIDDLE_DOTS | SLASHES, None),
    **{ord(letter): letter.upper() for letter in "abcdefghijklmnopqrstuvwxyz"},
    0x301C: "~",  # wave dash: the same cp932 byte pair as U+FF5E, which NFKC makes `~`
}
_SERIAL_SEPARATORS: Final[dict[int, str | None]] = {**_DROP_BLANKS, ord(":"): None, ord("-"): None}

_REFUSED: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HEX: Final = re.compile("(?:0[xX])?([0-9A-Fa-f]+)")
_LETTER: Final = re.compile("[A-Za-zぁ-ゖァ-ヺ㐀-䶿一-鿿ｦ-ｯｱ-ﾝ]")
"""Letters that stay letters in canonical form: most text that is no My Number shows it by its first character."""
_BETWEEN: Final = re.escape("".join(map(chr, sorted(HYPHENS | {0xFF0D, 0xFE63, 0xFF70, 0x20, 0xA0, 0x3000}))))
_MY_NUMBER_RUN: Final = re.compile(rf"[0-9０-９]{{4}}(?:[{_BETWEEN}]{{0,3}}[0-9０-９]{{4}}){{2}}")
"""What a My Number looks like inside other text: three groups of four digits, with hyphens or blanks between."""
_MY_NUMBER_APART: Final = re.compile(f"(?<![0-9０-９])(?={_MY_NUMBER_RUN.pattern}(?![0-9０-９]))")
_DIGIT_BYTES: Final = bytes(ord("0") if byte in b"0123456789" or 0x90 <= byte <= 0x99 else 0 for byte in range(256))
_AROUND_SEPARATORS: Final = re.compile(r" *(?<!\\)([,=+]) *")


def parse_card(
    insurer_number: str,
    symbol: str | None,
    number: str,
    branch: str | None,
    birth_date: str,
    *,
    policy: CheckDigitPolicy,
    exempt_12_digits: Callable[[str], bool],
    prefix: str = "card",
) -> tuple[CardIdentifiers, tuple[Warning, ...]]:
    """Canonical identifiers of an insurance card, and what is odd about them.

    Args:
        birth_date: `YYYY-MM-DD`.
        policy: what a wrong check digit is: `warn` (a Warning in the result) or `error` (a CheckDigitError).
        exempt_12_digits: says of a canonical insurer number that its insured numbers have 12 digits, so that
            `number` is not taken for a My Number.
        prefix: put before the name of the member in errors and warnings.
    Raises: InputError leaves whose `field` is a path such as `card.birth_date`.
    """
    try:
        insurer, insurer_fits = _insurer(insurer_number)
        symbol_key = ""
        if symbol:
            symbol_key = canonical_symbol(symbol)
            if is_my_number(symbol):
                raise _my_number("symbol")
        number_key = canonical_number(number)
        if is_my_number(number) and not exempt_12_digits(insurer):
            raise _my_number("number")
        branch_key = canonical_branch(branch) if branch else ""
        card = CardIdentifiers(insurer, symbol_key, number_key, branch_key, _birth_date(birth_date))
        if insurer_fits and not insurer.startswith(ELDERLY_LAW):
            return card, ()
        return card, _card_warnings(card, insurer_fits, number, policy, prefix)
    except InputError as error:
        error.field = f"{prefix}.{error.field}"
        raise


def parse_certificate(issuer: str, serial: str, prefix: str = "certificate") -> CertificateIdentifiers:
    """Canonical issuer and serial of a card certificate. Raises InputError leaves with paths as fields."""
    try:
        refuse_my_number(issuer, "issuer")
        refuse_my_number(serial, "serial")
        return CertificateIdentifiers(canonical_issuer(issuer), canonical_serial(serial))
    except InputError as error:
        error.field = f"{prefix}.{error.field}"
        raise


def parse_institution(
    text: str, *, policy: CheckDigitPolicy, field: str = "institution"
) -> tuple[str, tuple[Warning, ...]]:
    """The 10 digits of a 医療機関コード, and a warning if its check digit does not fit (an error by policy)."""
    code, fits = _institution(text, field)
    return code, () if fits else _wrong_check_digit("institution code", field, policy)


def canonical_symbol(text: str, field: str = "symbol") -> str:
    """Canonical 記号; "" if nothing is left of it, which is the same as absent."""
    if len(text) > IDENTIFIER_CHARS_MAX:
        raise _too_long(text, IDENTIFIER_CHARS_MAX, field)
    key = canon.fold(text)
    return _fold_wide(text, field) if key is None else key


def canonical_number(text: str, field: str = "number") -> str:
    """Canonical 番号 without leading zeros; refuses one of which nothing is left."""
    if len(text) > IDENTIFIER_CHARS_MAX:
        raise _too_long(text, IDENTIFIER_CHARS_MAX, field)
    key = canon.fold_number(text)
    if key is None:
        wide = _fold_wide(text, field)
        key = wide.lstrip("0") or wide[:1]
    if not key.strip("-"):
        raise FormatError("an insured number is empty", field=field)
    return key


@lru_cache(maxsize=1024)
def canonical_branch(text: str | None, field: str = "branch") -> str:
    """Two digits, or "" if the branch is absent or blank."""
    if not text:
        return ""
    if len(text) > IDENTIFIER_CHARS_MAX:
        raise _too_long(text, IDENTIFIER_CHARS_MAX, field)
    digits = _without_blanks(text, field)
    if digits and not (len(digits) <= 2 and digits.isascii() and digits.isdigit()):
        refuse_my_number(text, field)
        raise FormatError("a branch number has one or two digits", field=field)
    return digits and digits.zfill(2)


def canonical_insurer(text: str, field: str = "insurer_number") -> str:
    """Eight digits: `123456`, `  123456` and `00123456` are the same insurer."""
    return _insurer(text, field)[0]


@lru_cache(maxsize=4096)
def canonical_issuer(text: str, field: str = "issuer") -> str:
    """A certificate issuer's name: NFKC, case folded, blanks trimmed, single, and none around `,` `=` `+`.

    Names are compared as text in the order in which they are written (RFC 4514 writes the last part first).
    """
    if len(text) > CERTIFICATE_ISSUER_CHARS_MAX:
        raise _too_long(text, CERTIFICATE_ISSUER_CHARS_MAX, field)
    if _REFUSED.search(text):
        raise FormatError("an issuer holds a control character or a surrogate", field=field)
    # NFKC once more: case folding and closing the gaps may bring combining characters together.
    folded = normalize("NFKC", normalize("NFKC", text).casefold())
    name = _AROUND_SEPARATORS.sub(r"\1", " ".join(folded.split()))
    if not name:
        raise FormatError("an issuer is empty", field=field)
    return name


def canonical_serial(text: str, field: str = "serial") -> str:
    """A certificate's serial number: hexadecimal, upper case, without separators and leading zeros."""
    if len(text) > CERTIFICATE_SERIAL_CHARS_MAX:
        raise _too_long(text, CERTIFICATE_SERIAL_CHARS_MAX, field)
    match = _HEX.fullmatch(text)
    if not match:
        if _REFUSED.search(text):
            raise FormatError("a serial number holds a control character or a surrogate", field=field)
        match = _HEX.fullmatch(normalize("NFKC", text).translate(_SERIAL_SEPARATORS))
    digits = match[1].lstrip("0").upper() if match else ""
    if not digits:
        raise FormatError("a serial number is hexadecimal and not zero", field=field)
    if len(digits) > SERIAL_DIGITS_MAX:
        raise TooLongError(f"a serial number has at most {SERIAL_DIGITS_MAX} hexadecimal digits", field=field)
    return digits


def check_digit_ok(digits: str) -> bool:
    """Whether the last digit fits the others: weights 2, 1, 2, 1... from the right, digits of products summed.

    The rule of insurer numbers (6 or 8 digits; padding with zeros changes nothing), elderly insured numbers, public
    payer and recipient numbers, and institution codes. False for anything but two or more ASCII digits.
    """
    if len(digits) < 2 or not (digits.isascii() and digits.isdigit()):
        return False
    total = sum(map(int, digits[-1::-2]))
    for digit in digits[-2::-2]:
        double = 2 * int(digit)
        total += double - 9 if double > 9 else double
    return total % 10 == 0


def is_my_number(text: str) -> bool:
    """Whether the text is a 個人番号, in any width and with any separators: 12 digits whose check digit fits."""
    if len(text) < MY_NUMBER_DIGITS and text.isascii() or len(text) > _SUSPECT_CHARS_MAX or _LETTER.search(text):
        return False
    unified = normalize("NFKC", text).translate(_UNIFY)
    characters = [character for character in unified if character.isalnum()]
    if len(characters) != MY_NUMBER_DIGITS or not all(character.isdecimal() for character in characters):
        return False
    check, *base = (int(character) for character in reversed(characters))
    remainder = sum(digit * (n + 1 if n <= 6 else n - 5) for n, digit in enumerate(base, 1)) % 11
    return check == (0 if remainder <= 1 else 11 - remainder)


def may_hold_my_number(text: str) -> bool:
    """Whether there are four digits in a row, in either width: quick, and right whenever it says no.

    Without their first two bytes the full-width digits are the bytes 0x90 to 0x99, which other characters have only
    behind a byte that stays.
    """
    return b"0000" in text.encode("utf-8", "surrogatepass").translate(_DIGIT_BYTES, b"\xef\xbc")


def holds_my_number(text: str) -> bool:
    """Whether a 個人番号 stands somewhere in free text: 12 digits, also as 4-4-4, apart from other digits."""
    if not may_hold_my_number(text):
        return False
    starts = (match.start() for match in _MY_NUMBER_APART.finditer(text))
    runs = (_MY_NUMBER_RUN.match(text, start) for start in starts)
    return any(run is not None and is_my_number(run[0]) for run in runs)


def refuse_my_number(text: str, field: str) -> None:
    """Raise MyNumberError if the text is a 個人番号."""
    if is_my_number(text):
        raise _my_number(field)


def _my_number(field: str) -> MyNumberError:
    return MyNumberError("a My Number (個人番号) must not be sent; it was neither kept nor logged", field=field)


def _too_long(text: str, chars_max: int, field: str) -> InputError:
    if is_my_number(text):
        return _my_number(field)
    return TooLongError(f"this value has at most {chars_max} characters", field=field)


def _without_blanks(text: str, field: str) -> str:
    if _REFUSED.search(text):
        raise FormatError("this value holds a control character or a surrogate", field=field)
    return normalize("NFKC", text).translate(_DROP_BLANKS)


def _fold_wide(text: str, field: str) -> str:
    """The canonical form of any text: what ext/canon leaves to us."""
    if _REFUSED.search(text):
        raise FormatError("this value holds a control character or a surrogate", field=field)
    folded = normalize("NFKC", text).translate(_UNIFY)
    # Where something was dropped, neighbours may now compose.
    return folded if is_normalized("NFKC", folded) else normalize("NFKC", folded)


@lru_cache(maxsize=16_384)
def _insurer(text: str, field: str = "insurer_number") -> tuple[str, bool]:
    """The canonical insurer number, and whether its check digit fits. Only what was accepted stays in the cache."""
    if len(text) > IDENTIFIER_CHARS_MAX:
        raise _too_long(text, IDENTIFIER_CHARS_MAX, field)
    digits = _without_blanks(text, field)
    if not (INSURER_DIGITS_MIN <= len(digits) <= INSURER_DIGITS and digits.isascii() and digits.isdigit()):
        refuse_my_number(text, field)
        raise FormatError("an insurer number has 8 digits, or 6 of a municipality", field=field)
    return digits.zfill(INSURER_DIGITS), check_digit_ok(digits)


@lru_cache(maxsize=262_144)
def _institution(text: str, field: str) -> tuple[str, bool]:
    """The institution code, and whether its check digit fits. Only what was accepted stays in the cache."""
    if len(text) > IDENTIFIER_CHARS_MAX:
        raise _too_long(text, IDENTIFIER_CHARS_MAX, field)
    digits = _without_blanks(text, field)
    if not (len(digits) == INSTITUTION_DIGITS and digits.isascii() and digits.isdigit()):
        refuse_my_number(text, field)
        raise FormatError(f"an institution code has {INSTITUTION_DIGITS} digits", field=field)
    return digits, check_digit_ok(digits)


def _birth_date(text: str) -> int:
    try:
        day = days.parse_iso(text)
    except DateError as error:
        refuse_my_number(text, "birth_date")
        raise DateError(error.detail, field="birth_date") from None
    if day < BIRTH_DATE_MIN:
        raise DateError("a birth date is not before 1850", field="birth_date")
    return day


def _card_warnings(
    card: CardIdentifiers, insurer_fits: bool, number: str, policy: CheckDigitPolicy, prefix: str
) -> tuple[Warning, ...]:
    """Check digits that do not fit, and what a card of 後期高齢 must look like."""
    warnings: tuple[Warning, ...] = ()
    if not insurer_fits:
        warnings += _wrong_check_digit("insurer number", "insurer_number", policy, prefix)
    if card.insurer_number.startswith(ELDERLY_LAW):
        if card.symbol_key:
            raise FormatError("a card of 後期高齢 has no symbol", field="symbol")
        digits = canonical_symbol(number, "number")
        if not (len(digits) == ELDERLY_NUMBER_DIGITS and digits.isascii() and digits.isdigit()):
            raise FormatError("an insured number of 後期高齢 has 8 digits", field="number")
        if not check_digit_ok(digits):
            warnings += _wrong_check_digit("insured number", "number", policy, prefix)
    return warnings


def _wrong_check_digit(noun: str, field: str, policy: CheckDigitPolicy, prefix: str = "") -> tuple[Warning, ...]:
    """The warning; as an error by policy, whose field gets its prefix from the caller's handler."""
    if policy == "error":
        raise CheckDigitError(f"the check digit of the {noun} does not fit", field=field)
    return (Warning(f"{prefix}.{field}" if prefix else field, "check_digit"),)
