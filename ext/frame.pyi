"""Owns the outline of a JSON text: where members and elements begin and end, without decoding them.

A large batch is walked one element a call, so that the caller can see to others in between; what a call may walk
over is bounded by `bytes_max`. Brackets, strings, commas and colons between the elements are checked here; inside an
element only brackets and strings are: whoever decodes it refuses the rest.

    offset = open_object(body)
    while True:
        name, offset = next_member(body, offset, 4096)
        if name is None:
            break
        if name == "items":
            offset = open_array(body, offset)
            while True:
                start, end, offset = next_item(body, offset, 16384)
                if start == end:
                    break
                decode(body[start:end])
        else:
            end = skip(body, offset, 4096)
            ...
            offset = end
    finish(body, offset)

All raise TypeError, and ValueError with one of a few messages that quote nothing of the body.
"""

from typing import Final

DEPTH_MAX: Final = 64
"""How deep brackets inside one element may be nested."""
NAMES_MAX: Final = 256
"""How many names of open objects `distinct` compares."""

Body = bytes | bytearray | memoryview

def open_object(body: Body, offset: int = 0) -> int:
    """The offset behind `{`, where the first member is looked for."""

def open_array(body: Body, offset: int = 0) -> int:
    """The offset behind `[`, where the first element is looked for."""

def next_member(body: Body, offset: int, bytes_max: int = ...) -> tuple[str | None, int]:
    """The name of the next member and where its value begins.

    Args: offset: from `open_object`, or the end of the last member's value.
    Returns: (None, the offset behind `}`) when there is no more. Names given twice are the caller's to refuse.
    """

def next_item(body: Body, offset: int, bytes_max: int = ...) -> tuple[int, int, int]:
    """Where the next element of an array begins (inclusive) and ends (exclusive), and where to go on.

    Args: offset: from `open_array`, or where the last call said to go on.
    Returns: start == end when there is no more; the third is then behind `]`.
    """

def skip(body: Body, offset: int, bytes_max: int = ...) -> int:
    """The offset behind the value that begins at `offset`."""

def finish(body: Body, offset: int) -> None:
    """Refuse anything but blanks behind the end of the outermost value."""

def members(body: Body) -> list[tuple[str, int, int]]:
    """All members of an object: name, start and end of the value. For small bodies: it walks the whole text.

    Refuses a name given twice, anything behind the object, and whatever is not an object.
    """

def distinct(body: Body) -> bool:
    """Whether no object anywhere in a well-formed text names a member twice.

    False also where that cannot be told in one pass: names with escapes, more than NAMES_MAX names in objects that are
    open at once, brackets nested deeper than DEPTH_MAX or not balanced. Looks at names only as far as they go: says
    nothing of whether the text is well formed. For small bodies: it walks the whole text.
    """
