"""Owns the outline of JSON bodies: where members and items are, step by step, and that no member is given twice."""

from __future__ import annotations

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


class BatchOutline:
    """Where the items of a JSON batch are, found step by step so that the caller can see to others in between."""

    def __init__(self, body: bytes | bytearray) -> None:
        self.body = body
        self.items: list[tuple[int, int]] = []
        self.head = b""
        self._offset = 0

    def walk(self) -> Iterator[None]:
        """Walk the body, yielding after every item. Raises MalformedError, WrongTypeError, BodyTooLargeError."""
        members: dict[str, bytes] = {}
        try:
            self._offset = frame.open_object(self.body)
            while (name := self._next_name()) is not None:
                if name in members:
                    raise WrongTypeError("a member is given twice", field=shown(name))
                members[name] = b""
                if name == "items":
                    yield from self._walk_items()
                else:
                    members[name] = self._value()
            frame.finish(self.body, self._offset)
        except ValueError as error:
            raise MalformedError(f"not a well-formed batch behind byte {self._offset}: {error}") from None
        if members.pop("items", None) is None:
            raise WrongTypeError("this member is required", field="items")
        named = (msgspec.json.encode(name) + b":" + value for name, value in members.items())
        self.head = b"{" + b",".join(named) + b"}"

    def _next_name(self) -> str | None:
        name, self._offset = frame.next_member(self.body, self._offset, _OUTLINE_BYTES_MAX)
        return name

    def _value(self) -> bytes:
        start = self._offset
        self._offset = frame.skip(self.body, start, limits.BATCH_LINE_BYTES_MAX)
        return bytes(self.body[start : self._offset])

    def _walk_items(self) -> Iterator[None]:
        self._offset = frame.open_array(self.body, self._offset)
        while True:
            start, end, self._offset = frame.next_item(self.body, self._offset, _OUTLINE_BYTES_MAX)
            if start == end:
                return
            self.items.append((start, end))
            if len(self.items) > limits.BATCH_ITEMS_MAX:
                raise BodyTooLargeError(f"a batch has at most {limits.BATCH_ITEMS_MAX} items", field="items")
            yield


_OUTLINE_BYTES_MAX: Final = 128 * 1024
"""How far one step of the outline may go; an element longer than this is refused with the whole batch."""
