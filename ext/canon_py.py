"""Owns the readable specification of ext/canon: the canonical form of identifiers in plain ASCII."""

from __future__ import annotations

CHARS_MAX = 64


def fold(text: str) -> str | None:
    if not isinstance(text, str):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    text = str.__str__(text)
    if len(text) > CHARS_MAX or not (text.isascii() and text.isprintable()):
        return None
    return text.replace(" ", "").replace("/", "").upper()


def fold_number(text: str) -> str | None:
    folded = fold(text)
    return folded.lstrip("0") or folded[:1] if folded else folded
