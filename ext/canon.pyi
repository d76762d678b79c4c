"""Owns the canonical form of identifiers for plain ASCII; anything else is left to engine/identifiers."""

from typing import Final

CHARS_MAX: Final = 64
"""Longer text is not folded here; no identifier is that long."""

def fold(text: str) -> str | None:
    """Canonical form of an identifier: blanks and slashes dropped, letters in upper case, all else kept.

    Returns: None if the text has other than printable ASCII or is longer than CHARS_MAX: then
        `engine.identifiers` must decide. The same object if nothing changes.
    Raises: TypeError.
    """

def fold_number(text: str) -> str | None:
    """The same without leading zeros; nothing but zeros becomes "0"."""
