"""Owns what is said of a body that is refused: a My Number in it comes first, then where it is wrong, and how.

Error texts name the place and what was expected; they never repeat what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec

from engine import identifiers
from engine.errors import InputError, MalformedError, MyNumberError, TooLongError, WrongTypeError

MY_NUMBER_DIGITS: Final = 12
_SUSPECTS_MAX: Final = 12
_NODES_MAX: Final = 250
"""How far a refused body is searched for a My Number; it is refused in any case, only code and place would differ."""
_SUSPECT_BYTES_MAX: Final = 6 * 64
"""The longest string that can be a My Number, all of it escaped."""
_WINDOW_BYTES: Final = 32 * 1024
_OVERLAP_BYTES: Final = _SUSPECT_BYTES_MAX + 2
_LOCATED_BYTES_MAX: Final = 4096
"""The longest body that is decoded to name the place; a real inquiry has a few hundred bytes."""
_UNREAD: Final = object()
_SUSPECT_STRING: Final = re.compile(
    rb'"(?=[^"]{12,%d}+")(?!\xe3[\x81-\x83]|[\xe4-\xe9])' % _SUSPECT_BYTES_MAX
    + rb'((?:[^"\\A-Za-z]++|\\u[0-9A-Fa-f]{4}|\\[^"u])*+)(?=")'
)
"""What may have the digits of a My Number between two quotes: it has no letters and begins with neither kana nor kanji.

The second quote is left for the next match. What stands between two strings is found, too, and is no harm.
"""
_SUSPECT_NUMBER: Final = re.compile(rb"[0-9.]{8,25}+(?:[eE]\+?[0-9]{1,2})?")
_DIGITS_ONLY: Final = bytes(
    48 if chr(byte) in "0123456789." else 101 if chr(byte) in "eE" else 32 for byte in range(256)
)
_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_SAFE_PATH: Final = re.compile(r"(?:\.?[a-z_]+|\[\.\.\.\])*")
"""Paths that can only be ours: the text of an error may hold a member name that was made to look like a path."""
_EXPECTED: Final = re.compile(r"Expected `([a-z |]+)`(?:, got `([a-z]+)`| of length <= ([0-9]+))")
_BYTE: Final = re.compile(r"\(byte ([0-9]+)\)$")
_MISSING: Final = re.compile(r"missing required field `(\w+)`")
_UNKNOWN: Final = re.compile(r"unknown field `(.*)`", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_-]{0,39}")
"""A member name that may be repeated in an error: letters only, so that it cannot be a value in disguise."""


def explain(body: bytes, error: Exception, exempt: Callable[[object], str | None] | None = None) -> InputError:
    """The error to report: a My Number anywhere (but at the path `exempt`) comes before all else that is wrong.

    The bytes are searched first, and decoded only if they hold something with the digits of a My Number.
    """
    field = None
    if _suspicious(body):
        given = _any_json(body) if len(body) <= _LOCATED_BYTES_MAX else _UNREAD
        field = "" if given is _UNREAD else _my_number_in(given, exempt(given) if exempt else None)
    if field is not None:
        return MyNumberError(
            "a My Number (個人番号) must not be sent; it was neither kept nor logged", field=field or None
        )
    return error if isinstance(error, InputError) else schema_error(error)


def schema_error(error: Exception) -> InputError:
    """What msgspec found, as an error with a field path and without any value that was sent."""
    if isinstance(error, RecursionError):
        return MalformedError("the JSON is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        place = _BYTE.search(str(error))
        return MalformedError("the body is not well-formed JSON in UTF-8" + (f", at byte {place[1]}" if place else ""))
    text = str(error)
    located = _PATH.search(text)
    path = located[1] if located and _SAFE_PATH.fullmatch(located[1]) else ""
    text = text[: located.start()] if located else text
    if missing := _MISSING.search(text):
        return WrongTypeError("this member is required", field=_join(path, missing[1]))
    if unknown := _UNKNOWN.search(text):
        name = unknown[1] if _NAME.fullmatch(unknown[1]) else None
        return WrongTypeError("this member is unknown", field=_join(path, name))
    if expected := _EXPECTED.match(text):
        wanted, got, chars_max = expected.groups()
        if chars_max is not None:
            return TooLongError(f"at most {chars_max} characters", field=path or None)
        return WrongTypeError(f"expected {wanted}, got {got}", field=path or None)
    return WrongTypeError("this value is not one of those allowed", field=path or None)


def _join(path: str, name: str | None) -> str | None:
    return ".".join(part for part in (path, name) if part) or None


def _any_json(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None


def _suspicious(body: bytes) -> bool:
    """Whether bytes of JSON hold something that reads as a My Number: in a string, a number or a member name.

    A large body is searched in windows, for one step of the search lets no other thread run.
    """
    return any(
        _suspicious_part(body[start : start + _WINDOW_BYTES + _OVERLAP_BYTES])
        for start in range(0, len(body), _WINDOW_BYTES)
    )


def _suspicious_part(body: bytes) -> bool:
    outline = body.translate(_DIGITS_ONLY)
    if (b"0" * (MY_NUMBER_DIGITS - 1) in outline or b"00000000e" in outline) and any(
        _could_be_my_number(_number(found[0])) for found in islice(_SUSPECT_NUMBER.finditer(body), _SUSPECTS_MAX)
    ):
        return True
    return any(
        identifiers.is_my_number(_plain(found[1])) for found in islice(_SUSPECT_STRING.finditer(body), _SUSPECTS_MAX)
    )


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _plain(text: bytes) -> str:
    """The text of a string's inside, or of something between two strings, which is no My Number then."""
    if b"\\" not in text:
        return text.decode(errors="replace")
    try:
        return msgspec.json.decode(b'"%b"' % text, type=str)
    except ValueError:
        return ""


def _could_be_my_number(value: object) -> bool:
    if isinstance(value, str):
        return identifiers.is_my_number(value)
    if isinstance(value, int | float) and 10 ** (MY_NUMBER_DIGITS - 2) <= value < 10**MY_NUMBER_DIGITS:
        # As a JSON number a My Number may have lost a leading zero.
        return identifiers.is_my_number(f"{value:.0f}".zfill(MY_NUMBER_DIGITS))
    return False


def _my_number_in(given: object, exempt: str | None) -> str | None:
    """The path of the first value or member name that could be a My Number; None if there is none.

    A body that holds one too deep within it to be found in time has it at an unknown place: "".
    """
    trail: list[str] = []
    rooms: list[Iterator[tuple[str | int, object]]] = [iter((("", given),))]
    for _ in range(_NODES_MAX):
        while (step := next(rooms[-1], None)) is None:
            rooms.pop()
            if not rooms:
                return None
            trail.pop()
        name, value = step
        if isinstance(name, str) and identifiers.is_my_number(name):
            return _path(trail)
        trail.append(name if isinstance(name, str) else f"[{name}]")
        if _could_be_my_number(value) and (found := _path(trail)) != exempt:
            return found
        if isinstance(value, dict):
            rooms.append(iter(value.items()))
        elif isinstance(value, list):
            rooms.append(iter(enumerate(value)))
        else:
            trail.pop()
    return None if exempt else ""


def _path(trail: list[str]) -> str:
    return "".join(part if _INDEX.fullmatch(part) else f".{shown(part)}" for part in trail[1:]).lstrip(".")


_INDEX: Final = re.compile(r"\[[0-9]+\]")


def shown(name: str) -> str:
    """A member's name as an error may show it."""
    return name if _NAME.fullmatch(name) else "?"
