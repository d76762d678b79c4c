"""ext/canon: what of an identifier in plain ASCII is kept, and what is left to engine/identifiers."""

from __future__ import annotations

import pytest

from ext import canon


@pytest.mark.parametrize(
    ("text", "folded", "number"),
    [
        ("1234", "1234", "1234"),
        ("  12 34 ", "1234", "1234"),
        ("ab-12/3", "AB-123", "AB-123"),
        ("a.b_c~", "A.B_C~", "A.B_C~"),
        ("0012", "0012", "12"),
        ("000", "000", "0"),
        (" 0 / 0 ", "00", "0"),
        ("0", "0", "0"),
        ("0-1", "0-1", "-1"),
        ("0a0", "0A0", "A0"),
        ("", "", ""),
        (" / ", "", ""),
        ("z" * 64, "Z" * 64, "Z" * 64),
    ],
)
def test_printable_ascii_is_folded(text: str, folded: str, number: str) -> None:
    assert canon.fold(text) == folded
    assert canon.fold_number(text) == number


@pytest.mark.parametrize(
    "text", ["１２", "あ", "1\t2", "12\n", "\x00", "\x7f", "\x80", "é", "\ud800", "-" * 65, "1ー2"]
)
def test_anything_else_is_left_to_the_slow_path(text: str) -> None:
    assert canon.fold(text) is None
    assert canon.fold_number(text) is None


def test_every_printable_byte_is_kept_but_blank_slash_and_case() -> None:
    kept = {byte: canon.fold(chr(byte)) for byte in range(0x20, 0x7F)}
    assert {chr(byte) for byte, folded in kept.items() if folded == ""} == {" ", "/"}
    assert all(folded in ("", chr(byte).upper()) for byte, folded in kept.items())


@pytest.mark.parametrize("value", [None, 12, b"12", ["1"]])
def test_anything_but_text_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=f"text must be str, not {type(value).__name__}"):
        canon.fold(value)  # type: ignore[arg-type]
