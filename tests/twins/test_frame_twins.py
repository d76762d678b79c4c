"""ext/frame and its Python twin have the same outcome, on hostile arguments too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ext import frame_py
from tests.support.outcomes import compiled, outcome

frame = compiled("frame")

TOKENS = ["{", "}", "[", "]", ",", ":", '"', '"a"', '"b":', '"\\u0062":', "\\", '\\"', " ", "\n", "1", "-2.5e3", "true"]
TOKENS += ["null", "x", "\x00", "é", '"\\ud800":', "[" * 63, "]" * 63, '{"a":']
TEXTS = st.lists(st.sampled_from(TOKENS), max_size=25).map("".join).map(str.encode)
BODIES: st.SearchStrategy[Any] = (
    TEXTS | st.binary(max_size=40) | TEXTS.map(bytearray) | TEXTS.map(lambda text: memoryview(text))
)
ODD_BUILDERS: list[Callable[[], Any]] = [
    lambda: None,
    lambda: "[1]",
    lambda: [1],
    lambda: 1,
    lambda: memoryview(b"[1]  ")[::2],
    lambda: memoryview(b"[1, 2, 3]   ").cast("I"),
    lambda: memoryview(b"[1]" * 4).cast("B", (3, 4)),
    lambda: memoryview(b""),
    lambda: memoryview(b"12345678").cast("d"),
]
ODD_BODIES = st.sampled_from(ODD_BUILDERS).map(lambda build: build())
OFFSETS = st.integers(-2, 45) | st.sampled_from([2**62, 2**63, 2**63 - 1, -(2**63), 2**80, True, None, 1.0, "1"])


def same(name: str, *arguments: Any) -> None:
    assert outcome(getattr(frame, name), *arguments) == outcome(getattr(frame_py, name), *arguments)


def test_constants_are_the_same() -> None:
    assert frame.DEPTH_MAX == frame_py.DEPTH_MAX
    assert frame.NAMES_MAX == frame_py.NAMES_MAX


@given(BODIES | ODD_BODIES)
@example(b'{"a":"\\')
def test_members(body: Any) -> None:
    same("members", body)


@given(BODIES | ODD_BODIES)
@example(b"[" * 64 + b"]" * 64)
@example(b"[" * 65 + b"]" * 65)
@example(b'{"a":' * 63 + b"1" + b"}" * 63)
@example(b"{" + b",".join(b'"%d":0' % n for n in range(256)) + b"}")
@example(b"{" + b",".join(b'"%d":0' % n for n in range(257)) + b"}")
def test_distinct(body: Any) -> None:
    same("distinct", body)


@given(BODIES | ODD_BODIES, OFFSETS, OFFSETS)
def test_walking_functions(body: Any, offset: Any, bytes_max: Any) -> None:
    for name in ("next_member", "next_item", "skip"):
        same(name, body, offset, bytes_max)
        same(name, body, offset)


@given(BODIES | ODD_BODIES, OFFSETS)
def test_opening_and_finishing_functions(body: Any, offset: Any) -> None:
    for name in ("open_object", "open_array", "finish"):
        same(name, body, offset)


@given(TEXTS)
def test_whole_walk(body: bytes) -> None:
    """Every offset that one form hands out leads the other to the same place."""
    offset = 0
    for _ in range(30):
        for name in ("next_item", "next_member"):
            same(name, body, offset, 20)
        try:
            offset = frame.skip(body, offset)
        except ValueError:
            return
