"""Owns the outline of JSON bodies: where members and items are, step by step, and that no member is given twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from api.wire.refusal import shown
from engine import limits
from engine.errors import BodyTooLargeError, MalformedError, WrongTypeError
from ext import frame


def refuse_repeated(body: bytes) -> None:
    """Refuse a member given twice, in a body that decoded well: two readers could take two different values."""
    if not frame.distinct(body):
        _refuse_within(body.strip(), "")


def _refuse_within(body: bytes, path: str) -> None:
    """Look at every object by itself: `distinct` does not see through escapes, and names no place."""
    if body[:1] == b"{":
        try:
            members = frame.members(body)
        except ValueError:
            raise WrongTypeError("a member is given twice", field=path or None) from None
        for name, start, end in members:
            _refuse_within(body[start:end], f"{path}.{shown(name)}".lstrip("."))
    elif body[:1] == b"[":
        offset, position = frame.open_array(body), 0
        while (item := frame.next_item(body, offset))[0] != item[1]:
            start, end, offset = item
            _refuse_within(body[start:end], f"{path}[{position}]")
            position += 1


class Outline:
    """Where the items of a JSON body are, found step by step so that the caller can see to others in between.

    Args:
        body: an object of whose members one, `name`, is a list.
        items_max: how many items it may have.
        kind: what such a body is called.
    After `walk`: `items` are offsets of the items, inclusive and exclusive; `head` is the object without the list.
    """

    def __init__(self, body: bytes | bytearray, name: str, items_max: int, kind: str) -> None:
        self.body = body
        self.items: list[tuple[int, int]] = []
        self.head = b""
        self._name = name
        self._items_max = items_max
        self._kind = kind
        self._offset = 0
        self._inside = False

    def walk(self) -> Iterator[None]:
        """Walk the body, yielding after every item. Raises MalformedError, WrongTypeError, BodyTooLargeError."""
        members: dict[str, bytes] = {}
        try:
            self._require(b"{", "object", None)
            self._offset = frame.open_object(self.body)
            while (name := self._next_name()) is not None:
                if name in members:
                    raise WrongTypeError("a member is given twice", field=shown(name))
                members[name] = b""
                if name == self._name:
                    yield from self._walk_items()
                else:
                    members[name] = self._value()
            frame.finish(self.body, self._offset)
        except ValueError as error:
            raise self._explained(error) from None
        if members.pop(self._name, None) is None:
            raise WrongTypeError("this member is required", field=self._name)
        named = (msgspec.json.encode(name) + b":" + value for name, value in members.items())
        self.head = b"{" + b",".join(named) + b"}"

    def _explained(self, error: ValueError) -> MalformedError | BodyTooLargeError:
        if str(error) == _TOO_LONG:
            field = self._name if self._inside else None
            return BodyTooLargeError(f"a part of {self._kind} is too long, behind byte {self._offset}", field=field)
        return MalformedError(f"not a well-formed {self._kind.partition(' ')[2]} behind byte {self._offset}: {error}")

    def _require(self, bracket: bytes, expected: str, field: str | None) -> None:
        """Tell a value of another type from one that is none."""
        begin = _BLANKS.match(self.body, self._offset)
        first = bytes(self.body[begin.end() : begin.end() + 1]) if begin else b""
        if first != bracket and first in _TYPES:
            raise WrongTypeError(f"expected {expected}, got {_TYPES[first]}", field=field)

    def _next_name(self) -> str | None:
        name, self._offset = frame.next_member(self.body, self._offset, _OUTLINE_BYTES_MAX)
        return name

    def _value(self) -> bytes:
        start = self._offset
        self._offset = frame.skip(self.body, start, limits.BATCH_LINE_BYTES_MAX)
        return bytes(self.body[start : self._offset])

    def _walk_items(self) -> Iterator[None]:
        self._require(b"[", "array", self._name)
        self._inside = True
        self._offset = frame.open_array(self.body, self._offset)
        while True:
            start, end, self._offset = frame.next_item(self.body, self._offset, _OUTLINE_BYTES_MAX)
            if start == end:
                self._inside = False
                return
            self.items.append((start, end))
            if len(self.items) > self._items_max:
                raise BodyTooLargeError(f"{self._kind} has at most {self._items_max} {self._name}", field=self._name)
            yield


class BatchOutline(Outline):
    """The outline of a JSON batch of checks."""

    def __init__(self, body: bytes | bytearray) -> None:
        super().__init__(body, "items", limits.BATCH_ITEMS_MAX, "a batch")


_OUTLINE_BYTES_MAX: Final = 128 * 1024
"""How far one step of the outline may go; an element longer than this is refused with the whole body."""
_TOO_LONG: Final = "an element is too long"
"""What ext/frame says of one."""
_BLANKS: Final = re.compile(rb"[ \t\n\r]{0,1024}+")
_TYPES: Final = {
    b"{": "object",
    b"[": "array",
    b'"': "str",
    b"t": "bool",
    b"f": "bool",
    b"n": "null",
    **{bytes([byte]): "number" for byte in b"-0123456789"},
}
