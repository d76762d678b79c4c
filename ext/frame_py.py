"""Owns the readable specification of ext/frame: the outline of a JSON text, in plain Python."""

from __future__ import annotations

import json

DEPTH_MAX = 64
NAMES_MAX = 256

Body = bytes | bytearray | memoryview
_BLANKS = b" \t\n\r"
_SCALAR = b"+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CLOSING = {ord("{"): ord("}"), ord("["): ord("]")}


def open_object(body: Body, offset: int = 0) -> int:
    return _open(body, offset, ord("{"), "an object was expected")


def open_array(body: Body, offset: int = 0) -> int:
    return _open(body, offset, ord("["), "an array was expected")


def next_member(body: Body, offset: int, bytes_max: int = 2**62) -> tuple[str | None, int]:
    view, offset, limit = _checked(body, offset, bytes_max)
    offset, closed = _next(view, offset, limit, ord("{"))
    if closed:
        return None, offset
    if _at(view, offset, limit) != ord('"'):
        raise ValueError("the name of a member was expected")
    end = _skip_string(view, offset, limit)
    name = _name(bytes(view[offset:end]))
    offset = _skip_blanks(view, end, limit)
    if _at(view, offset, limit) != ord(":"):
        raise ValueError("a colon was expected")
    return name, _skip_blanks(view, offset + 1, limit)


def next_item(body: Body, offset: int, bytes_max: int = 2**62) -> tuple[int, int, int]:
    view, offset, limit = _checked(body, offset, bytes_max)
    start, closed = _next(view, offset, limit, ord("["))
    if closed:
        return start, start, start
    end = _skip_value(view, start, limit)
    return start, end, end


def skip(body: Body, offset: int, bytes_max: int = 2**62) -> int:
    view, offset, limit = _checked(body, offset, bytes_max)
    return _skip_value(view, _skip_blanks(view, offset, limit), limit)


def finish(body: Body, offset: int) -> None:
    view, offset, limit = _checked(body, offset, 2**62)
    if _skip_blanks(view, offset, limit) != len(view):
        raise ValueError("there is more after the end")


def members(body: Body) -> list[tuple[str, int, int]]:
    offset = open_object(body)
    found: dict[str, tuple[str, int, int]] = {}
    while True:
        name, offset = next_member(body, offset)
        if name is None:
            finish(body, offset)
            return list(found.values())
        if name in found:
            raise ValueError("a member is given twice")
        end = skip(body, offset)
        found[name] = (name, offset, end)
        offset = end


def distinct(body: Body) -> bool:
    view, offset, limit = _checked(body, 0, 2**62)
    opened: list[tuple[int, int]] = []
    names: list[bytes] = []
    while offset < limit:
        byte = view[offset]
        if byte == ord('"'):
            start = offset
            try:
                offset = _skip_string(view, start, limit)
            except ValueError:
                return False
            follows = _skip_blanks(view, offset, limit)
            if opened and opened[-1][0] == ord("{") and follows < limit and view[follows] == ord(":"):
                name = bytes(view[start:offset])
                if b"\\" in name or name in names[opened[-1][1] :] or len(names) == NAMES_MAX:
                    return False
                names.append(name)
            continue
        if byte in _CLOSING:
            if len(opened) == DEPTH_MAX:
                return False
            opened.append((byte, len(names)))
        elif byte in b"]}":
            if not opened or _CLOSING[opened[-1][0]] != byte:
                return False
            del names[opened.pop()[1] :]
        offset += 1
    return not opened


def _checked(body: Body, offset: int, bytes_max: int) -> tuple[memoryview, int, int]:
    """The body as bytes, the offset, and the offset that this call must not walk past."""
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"body must be bytes-like, not {type(body).__name__}")
    for value, name in ((offset, "offset"), (bytes_max, "bytes_max")):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be int, not {type(value).__name__}")
    view = memoryview(body)
    if not view.c_contiguous:
        raise ValueError("body must be contiguous")
    view = view.cast("B") if view.nbytes else memoryview(b"")
    if not 0 <= offset <= len(view):
        raise ValueError("offset is outside the body")
    if bytes_max < 0:
        raise ValueError("bytes_max must not be negative")
    return view, offset, min(len(view), offset + bytes_max)


def _open(body: Body, offset: int, bracket: int, message: str) -> int:
    view, offset, limit = _checked(body, offset, 2**62)
    offset = _skip_blanks(view, offset, limit)
    if offset == limit or view[offset] != bracket:
        raise ValueError(message)
    return offset + 1


def _next(view: memoryview, offset: int, limit: int, bracket: int) -> tuple[int, bool]:
    """Where the next element begins; or behind the closing bracket, and True.

    No value ends in an opening bracket, so one just before the offset says that this is the first element.
    """
    first = offset > 0 and view[offset - 1] == bracket
    offset = _skip_blanks(view, offset, limit)
    byte = _at(view, offset, limit)
    if byte == _CLOSING[bracket]:
        return offset + 1, True
    if first:
        return offset, False
    if byte != ord(","):
        raise ValueError("a comma or the closing bracket was expected")
    return _skip_blanks(view, offset + 1, limit), False


def _at(view: memoryview, offset: int, limit: int) -> int:
    if offset < limit:
        return view[offset]
    raise _ended(view, limit)


def _ended(view: memoryview, limit: int) -> ValueError:
    return ValueError("the text ends too early" if limit == len(view) else "an element is too long")


def _skip_blanks(view: memoryview, offset: int, limit: int) -> int:
    while offset < limit and view[offset] in _BLANKS:
        offset += 1
    return offset


def _skip_value(view: memoryview, offset: int, limit: int) -> int:
    """The offset behind the value that begins at `offset`; commas and scalars are left to the decoder."""
    byte = _at(view, offset, limit)
    if byte == ord('"'):
        return _skip_string(view, offset, limit)
    if byte in _CLOSING:
        return _skip_brackets(view, offset, limit)
    start = offset
    while offset < limit and view[offset] in _SCALAR:
        offset += 1
    if offset == start:
        raise ValueError("a value was expected")
    if offset == limit < len(view):
        raise _ended(view, limit)
    return offset


def _skip_brackets(view: memoryview, offset: int, limit: int) -> int:
    open_brackets: list[int] = []
    while True:
        byte = _at(view, offset, limit)
        if byte == ord('"'):
            offset = _skip_string(view, offset, limit)
            continue
        if byte in _CLOSING:
            if len(open_brackets) == DEPTH_MAX:
                raise ValueError("brackets are nested too deeply")
            open_brackets.append(byte)
        elif byte in b"]}":
            if _CLOSING[open_brackets.pop()] != byte:
                raise ValueError("brackets do not match")
            if not open_brackets:
                return offset + 1
        offset += 1


def _skip_string(view: memoryview, offset: int, limit: int) -> int:
    offset += 1
    while (byte := _at(view, offset, limit)) != ord('"'):
        if byte < 0x20:
            raise ValueError("a string holds a control character")
        offset += 2 if byte == ord("\\") else 1
    return offset + 1


def _name(text: bytes) -> str:
    try:
        name: str = json.loads(text)
        name.encode()
    except ValueError:
        raise ValueError("the name of a member is not valid text") from None
    return name
