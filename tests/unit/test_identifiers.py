"""engine/identifiers: what is accepted, what is refused, and which spellings are the same identifier."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import days, identifiers
from engine.errors import CheckDigitError, DateError, FormatError, InputError, MyNumberError, TooLongError
from engine.records import CardIdentifiers, CertificateIdentifiers, Warning
from ext import canon

MY_NUMBER = "983205673214"
"""The published test value."""
MY_NUMBER_SPELLINGS = [
    MY_NUMBER,
    "９８３２０５６７３２１４",
    "9832 0567 3214",
    "9832-0567-3214",
    "９８３２　０５６７　３２１４",
    "9832ー0567ー3214",
    "9832–0567−3214",
    "9832.0567.3214",
    "9832・0567・3214",
    "9832\u200b05673214",
    "9-8-3-2-0-5-6-7-3-2-1-4",
    "٩٨٣٢٠٥٦٧٣٢١٤",
    " (9832)05673214",
]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=24)
TWENTY = st.text(max_size=20)


def never(_: str) -> bool:
    return False


def card(
    insurer_number: str = "01130012",
    symbol: str | None = "1234",
    number: str = "1987654",
    branch: str | None = "01",
    birth_date: str = "2000-01-02",
    policy: Any = "warn",
    exempt: Any = never,
    **named: Any,
) -> tuple[CardIdentifiers, tuple[Warning, ...]]:
    return identifiers.parse_card(
        insurer_number, symbol, number, branch, birth_date, policy=policy, exempt_12_digits=exempt, **named
    )


# --- check digits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digits",
    ["33120015", "01130012", "39131156", "138040", "00138040", "123455", "01234566", "54016027", "0012344"]
    + ["0110113719", "2714206386", "1311111114"],
)
def test_check_digit_fits(digits: str) -> None:
    assert identifiers.check_digit_ok(digits)


@pytest.mark.parametrize("digits", ["123456", "0012345", "1311111111", "", "0", "12a455", "１２３４５５", "²2", "-18"])
def test_check_digit_does_not_fit(digits: str) -> None:
    assert not identifiers.check_digit_ok(digits)


@given(st.text("0123456789", min_size=1, max_size=12))
def test_exactly_one_check_digit_fits_and_padding_changes_nothing(base: str) -> None:
    fitting = [digit for digit in "0123456789" if identifiers.check_digit_ok(base + digit)]
    assert len(fitting) == 1
    assert identifiers.check_digit_ok("00" + base + fitting[0])


@given(st.text("0123456789", min_size=2, max_size=10), st.data())
def test_one_wrong_digit_is_always_seen(base: str, data: st.DataObject) -> None:
    right = next(base + digit for digit in "0123456789" if identifiers.check_digit_ok(base + digit))
    position = data.draw(st.integers(0, len(right) - 1))
    other = data.draw(st.sampled_from([digit for digit in "0123456789" if digit != right[position]]))
    assert not identifiers.check_digit_ok(right[:position] + other + right[position + 1 :])


# --- My Number ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", MY_NUMBER_SPELLINGS)
def test_my_number_is_recognised_in_every_spelling(text: str) -> None:
    assert identifiers.is_my_number(text)


@pytest.mark.parametrize(
    "text", ["983205673215", "98320567321", "9832056732140", "98320567321A", "", "カ983205673214", "1987654", "〇" * 12]
)
def test_other_values_are_no_my_number(text: str) -> None:
    assert not identifiers.is_my_number(text)


@given(st.text("0123456789", min_size=11, max_size=11))
def test_my_number_check_digit_follows_the_ordinance(base: str) -> None:
    """平成26年総務省令第85号 第5条, written out once more."""
    weights = [6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]
    remainder = sum(int(digit) * weight for digit, weight in zip(base, weights, strict=True)) % 11
    check = str(0 if remainder <= 1 else 11 - remainder)
    assert [digit for digit in "0123456789" if identifiers.is_my_number(base + digit)] == [check]


@given(st.text("9832 056-73214ーａアｰ\u3000・①⑫Aあ漢é１２", min_size=8, max_size=24) | ANY_TEXT)
def test_letters_that_end_the_search_early_change_no_answer(text: str) -> None:
    unified = unicodedata.normalize("NFKC", text).translate(identifiers._UNIFY)
    kept = "".join(character for character in unified if character.isalnum())
    digits = "".join(str(int(character)) if character.isdecimal() else "x" for character in kept)
    assert identifiers.is_my_number(text) == (len(digits) == 12 and identifiers.is_my_number(digits))


@pytest.mark.parametrize("text", MY_NUMBER_SPELLINGS)
@pytest.mark.parametrize("member", ["insurer_number", "symbol", "number", "branch", "birth_date"])
def test_my_number_is_refused_wherever_a_card_identifier_is_expected(member: str, text: str) -> None:
    with pytest.raises(MyNumberError) as caught:
        card(**{member: text})
    assert caught.value.field == f"card.{member}"
    assert text not in str(caught.value)


@pytest.mark.parametrize("text", MY_NUMBER_SPELLINGS)
def test_my_number_is_refused_as_serial_issuer_and_institution(text: str) -> None:
    with pytest.raises(MyNumberError) as caught:
        identifiers.parse_certificate("CN=JPKI", text)
    assert caught.value.field == "certificate.serial"
    with pytest.raises(MyNumberError) as caught:
        identifiers.parse_certificate(text, "0A")
    assert caught.value.field == "certificate.issuer"
    with pytest.raises(MyNumberError) as caught:
        identifiers.parse_institution(text, policy="warn")
    assert caught.value.field == "institution"


def test_twelve_digit_numbers_of_an_exempted_insurer_are_accepted() -> None:
    asked: list[str] = []

    def exempt(insurer: str) -> bool:
        asked.append(insurer)
        return True

    assert card(insurer_number="138040", number=MY_NUMBER, exempt=exempt)[0].number_key == MY_NUMBER
    assert asked == ["00138040"]
    with pytest.raises(MyNumberError):
        card(symbol=MY_NUMBER, exempt=exempt)


def test_twelve_digits_that_are_no_my_number_are_accepted() -> None:
    assert card(number="983205673215")[0].number_key == "983205673215"


def test_a_refused_my_number_stays_in_no_cache() -> None:
    cached = {
        identifiers._insurer: 1,
        identifiers._institution: 0,
        identifiers.canonical_branch: 0,
        identifiers.canonical_issuer: 0,
    }
    for function in cached:
        function.cache_clear()
    for member in ("insurer_number", "branch"):
        with pytest.raises(MyNumberError):
            card(**{member: MY_NUMBER})
    with pytest.raises(MyNumberError):
        card(branch=None, birth_date=MY_NUMBER)
    with pytest.raises(MyNumberError):
        identifiers.parse_institution(MY_NUMBER, policy="warn")
    with pytest.raises(MyNumberError):
        identifiers.parse_certificate(MY_NUMBER, "0A")
    assert {function: function.cache_info().currsize for function in cached} == cached


# --- canonical form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spellings", "key"),
    [
        (["1234", "１２３４", " 12 34 ", "12\u300034", "12/34", "１２／３４", "12・34", "12･34", "1\u200b234"], "1234"),
        (
            [f"12{hyphen}34" for hyphen in "-－−‐‑‒–—―ーｰ─━﹣⁻₋"],
            "12-34",
        ),
        (["あいう"], "あいう"),
        (["ｱｲｳ", "アイウ"], "アイウ"),
        (["ｶﾞｷﾞ", "ガギ", "ガギ"], "ガギ"),
        (["abc", "ABC", "ａｂｃ", "Ａ Ｂ Ｃ"], "ABC"),
        (["公立1", "公立１", "公 立 ①"], "公立1"),
        (["〜", "～", "~"], "~"),
        (["葛", "葛\U000e0100"], "葛"),
        (["", "　", "・", "/", "\ufeff"], ""),
        (["か\u200b\u3099", "が"], "が"),
    ],
)
def test_spellings_of_one_symbol_have_one_canonical_form(spellings: list[str], key: str) -> None:
    assert {identifiers.canonical_symbol(spelling) for spelling in spellings} == {key}


@pytest.mark.parametrize(
    ("text", "key"),
    [("187", "187"), ("１８７", "187"), ("00187", "187"), ("0", "0"), ("０００", "0"), ("ア00", "ア00"), ("0-7", "-7")],
)
def test_number_is_compared_without_leading_zeros(text: str, key: str) -> None:
    assert identifiers.canonical_number(text) == key


@pytest.mark.parametrize("text", ["", " ", "　", "/", "・", "-", "ーー", "\u200b"])
def test_number_of_which_nothing_is_left_is_refused(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        card(number=text)
    assert caught.value.field == "card.number"


@given(TWENTY)
def test_canonical_form_is_its_own_canonical_form(text: str) -> None:
    try:
        key = identifiers.canonical_symbol(text)
    except FormatError:
        return
    assert identifiers._fold_wide(key, "symbol") == key
    if len(key) <= 20:
        assert identifiers.canonical_symbol(key) == key


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=64))
def test_compiled_fast_path_agrees_with_the_slow_path(text: str) -> None:
    assert canon.fold(text) == identifiers._fold_wide(text, "symbol")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20))
def test_full_width_spelling_is_the_same_identifier(text: str) -> None:
    wide = "".join(chr(ord(character) + 0xFEE0) for character in text)
    assert identifiers.canonical_symbol(wide) == identifiers.canonical_symbol(text)


def test_all_blanks_and_format_characters_of_unicode_are_listed() -> None:
    everything = map(chr, range(0x110000))
    blank = {ord(c) for c in everything if unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cf")}
    assert blank <= identifiers.BLANKS
    assert not identifiers.BLANKS & (identifiers.HYPHENS | identifiers.MIDDLE_DOTS | identifiers.SLASHES)


@given(ANY_TEXT)
def test_any_text_is_folded_or_refused_without_being_quoted(text: str) -> None:
    for parse in (
        identifiers.canonical_symbol,
        identifiers.canonical_number,
        identifiers.canonical_insurer,
        identifiers.canonical_branch,
        identifiers.canonical_issuer,
        identifiers.canonical_serial,
    ):
        try:
            parse(text).encode()
        except InputError as error:
            assert error.field
            assert len(text) < 8 or text not in error.detail


@pytest.mark.parametrize("bad", ["\x00", "12\n", "1\t2", "\x7f", "\x85", "\ud800", "1\x1f2", "あ\n", "\udfff１"])
def test_control_characters_and_surrogates_are_refused(bad: str) -> None:
    for member in ("insurer_number", "symbol", "number", "branch"):
        with pytest.raises(FormatError) as caught:
            card(**{member: bad})
        assert caught.value.field == f"card.{member}"
    for issuer, serial in ((bad, "0A"), ("CN=JPKI", bad)):
        with pytest.raises(FormatError):
            identifiers.parse_certificate(issuer, serial)
    with pytest.raises(FormatError):
        identifiers.parse_institution(bad, policy="warn")


def test_over_long_values_are_refused() -> None:
    assert card(symbol="1" * 20, number="2" * 20)[0].number_key == "2" * 20
    for member in ("insurer_number", "symbol", "number", "branch"):
        with pytest.raises(TooLongError) as caught:
            card(**{member: "1" * 21})
        assert caught.value.field == f"card.{member}"


# --- insurer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["123456", "  123456", "00123456", "１２３４５６", "　　123456", "12 34 56"])
def test_municipal_insurer_number_is_the_same_however_it_is_padded(text: str) -> None:
    assert identifiers.canonical_insurer(text) == "00123456"


def test_insurer_number_that_lost_its_leading_zeros_is_padded() -> None:
    assert identifiers.canonical_insurer("1130012") == "01130012"
    assert identifiers.canonical_insurer("10017") == "00010017"


@pytest.mark.parametrize("text", ["", "1234", "123456789", "1234567a", "12-34567", "123/4567", "あ", "1234567٣"])
@pytest.mark.parametrize("policy", ["warn", "error"])
def test_insurer_number_of_another_form_is_always_an_error(text: str, policy: str) -> None:
    with pytest.raises(FormatError) as caught:
        card(insurer_number=text, policy=policy)
    assert caught.value.field == "card.insurer_number"


def test_wrong_check_digit_of_insurer_is_a_warning_or_an_error_by_policy() -> None:
    parsed, warnings = card(insurer_number="  123456")
    assert (parsed.insurer_number, warnings) == ("00123456", (Warning("card.insurer_number", "check_digit"),))
    with pytest.raises(CheckDigitError) as caught:
        card(insurer_number="  123456", policy="error")
    assert caught.value.field == "card.insurer_number"


# --- the whole card -----------------------------------------------------------------------------------------


def test_card_is_parsed() -> None:
    expected = CardIdentifiers("01130012", "1234", "1987654", "01", days.parse_iso("2000-01-02"))
    assert card(policy="error") == (expected, ())


def test_fhir_member_id_example_is_parsed() -> None:
    """JP-CLINS example `00012345:あいう:１８７:05`: kana symbol, full-width number."""
    insurer, symbol, number, branch = "00012345:あいう:１８７:05".split(":")
    parsed, warnings = card(insurer, symbol, number, branch)
    assert (parsed.insurer_number, parsed.symbol_key, parsed.number_key, parsed.branch) == (
        "00012345",
        "あいう",
        "187",
        "05",
    )
    assert warnings == (Warning("card.insurer_number", "check_digit"),)


@pytest.mark.parametrize("absent", [None, "", " ", "　"])
def test_symbol_and_branch_may_be_absent(absent: str | None) -> None:
    parsed, _ = card(symbol=absent, branch=absent)
    assert (parsed.symbol_key, parsed.branch) == ("", "")


@pytest.mark.parametrize(("text", "branch"), [("1", "01"), ("01", "01"), ("０１", "01"), (" 1", "01"), ("99", "99")])
def test_branch_is_padded(text: str, branch: str) -> None:
    assert card(branch=text)[0].branch == branch


@pytest.mark.parametrize("text", ["001", "a", "-1", "1-", "٣", "一"])
def test_branch_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        card(branch=text)
    assert caught.value.field == "card.branch"


@pytest.mark.parametrize("text", ["1850-01-01", "2000-02-29", "2026-11-23"])
def test_birth_date_is_accepted(text: str) -> None:
    assert card(birth_date=text)[0].birth_date == days.parse_iso(text)


@pytest.mark.parametrize(
    "text",
    ["1849-12-31", "2001-02-29", "2000-13-01", "2000-00-10", "20000102", "2000/01/02", "", "２０００-01-02", "\ud800"],
)
def test_birth_date_is_refused(text: str) -> None:
    with pytest.raises(DateError) as caught:
        card(birth_date=text)
    assert caught.value.field == "card.birth_date"


def test_prefix_is_part_of_every_path() -> None:
    assert card(insurer_number="123456", prefix="items[3].card")[1][0].field == "items[3].card.insurer_number"
    with pytest.raises(FormatError) as caught:
        card(number="", prefix="items[3].card")
    assert caught.value.field == "items[3].card.number"


# --- 後期高齢 -----------------------------------------------------------------------------------------------


def test_elderly_card_is_parsed() -> None:
    parsed, warnings = card("39131156", "", "01234566", "", policy="error")
    assert (parsed.symbol_key, parsed.number_key, warnings) == ("", "1234566", ())


def test_elderly_number_with_wrong_check_digit_follows_the_policy() -> None:
    assert card("39131156", None, "０１２３４５６７")[1] == (Warning("card.number", "check_digit"),)
    with pytest.raises(CheckDigitError) as caught:
        card("39131156", None, "01234567", policy="error")
    assert caught.value.field == "card.number"


def test_elderly_card_with_two_wrong_check_digits_warns_twice() -> None:
    fields = [warning.field for warning in card("39131157", None, "01234567")[1]]
    assert fields == ["card.insurer_number", "card.number"]


@pytest.mark.parametrize("number", ["1234566", "001234566", "0123456a", "0123-4566", "あ1234566"])
@pytest.mark.parametrize("policy", ["warn", "error"])
def test_elderly_number_has_eight_digits(number: str, policy: str) -> None:
    with pytest.raises(FormatError) as caught:
        card("39131156", None, number, policy=policy)
    assert caught.value.field == "card.number"


def test_elderly_card_has_no_symbol() -> None:
    with pytest.raises(FormatError) as caught:
        card("39131156", "12", "01234566")
    assert caught.value.field == "card.symbol"


# --- institution --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0110113719", "2714206386", "1311111114", "１３１１１１１１１４", " 1311111114 "])
def test_institution_is_parsed(text: str) -> None:
    code, warnings = identifiers.parse_institution(text, policy="error")
    assert (len(code), code.isascii(), warnings) == (10, True, ())


def test_wrong_check_digit_of_institution_follows_the_policy() -> None:
    assert identifiers.parse_institution("1311111111", policy="warn") == (
        "1311111111",
        (Warning("institution", "check_digit"),),
    )
    with pytest.raises(CheckDigitError) as caught:
        identifiers.parse_institution("1311111111", policy="error")
    assert caught.value.field == "institution"


@pytest.mark.parametrize("text", ["", "131111111", "13111111114", "131111111a", "13-1111111", "1" * 21])
def test_institution_of_another_form_is_refused(text: str) -> None:
    with pytest.raises((FormatError, TooLongError)) as caught:
        identifiers.parse_institution(text, policy="warn")
    assert caught.value.field == "institution"


# --- certificate --------------------------------------------------------------------------------------------


def test_certificate_is_parsed() -> None:
    parsed = identifiers.parse_certificate("CN=Japan Agency, O=JPKI,  C=JP", "0a:1B:2c")
    assert parsed == CertificateIdentifiers("cn=japan agency,o=jpki,c=jp", "A1B2C")


@pytest.mark.parametrize(
    "text",
    [
        "CN=J LIS,O=JPKI",
        "cn = j  lis , o=jpki",
        " CN=J LIS,O=JPKI ",
        "ＣＮ＝Ｊ　ＬＩＳ，Ｏ＝ＪＰＫＩ",
        "CN=J\u00a0LIS,O=JPKI",
    ],
)
def test_spellings_of_one_issuer_have_one_canonical_form(text: str) -> None:
    assert identifiers.canonical_issuer(text) == "cn=j lis,o=jpki"


def test_blank_behind_an_escaped_comma_stays() -> None:
    assert identifiers.canonical_issuer("O=A\\, B, C=JP") == "o=a\\, b,c=jp"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30) | st.text("a ,=+\\", max_size=12))
def test_canonical_issuer_is_its_own_canonical_form(text: str) -> None:
    try:
        issuer = identifiers.canonical_issuer(text)
    except FormatError:
        return
    assert identifiers.canonical_issuer(issuer) == issuer if len(issuer) <= 200 else True


@pytest.mark.parametrize("text", ["A1B2C", "a1b2c", "00A1B2C", "0a:1b:2c", "0A 1B 2C", "0x0a1b2c", "Ａ１B2C"])
def test_spellings_of_one_serial_have_one_canonical_form(text: str) -> None:
    assert identifiers.canonical_serial(text) == "A1B2C"


@pytest.mark.parametrize("text", ["", "0", "00:00", "0x", "xyz", "1.2", "-", "あ", "0x0x1", "é"])
def test_serial_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        identifiers.parse_certificate("CN=JPKI", text)
    assert caught.value.field == "certificate.serial"


def test_serial_has_at_most_20_octets() -> None:
    assert identifiers.canonical_serial("00" + "F" * 40) == "F" * 40
    for text in ("1" + "0" * 40, "0" * 65):
        with pytest.raises(TooLongError):
            identifiers.canonical_serial(text)


@pytest.mark.parametrize("text", ["", "  ", "\u3000"])
def test_empty_issuer_is_refused(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        identifiers.parse_certificate(text, "0A")
    assert caught.value.field == "certificate.issuer"
    with pytest.raises(TooLongError):
        identifiers.canonical_issuer("c" * 201)
