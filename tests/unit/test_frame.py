"""ext/frame: slices of valid JSON are those that a decoder sees; broken JSON is refused and never walked past."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext import frame

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)
LAYOUTS = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def encode(value: Any, layout: dict[str, Any]) -> bytes:
    return json.dumps(value, **layout).encode("utf-8", "replace")


class Pairs(list[tuple[str, Any]]):
    """An object whose names may repeat."""


def write(value: Any, blank: str) -> str:
    """JSON text of a value that may hold Pairs."""
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        return "{" + blank + ",".join(f"{json.dumps(n)}{blank}:{blank}{write(v, blank)}" for n, v in value) + "}"
    if isinstance(value, list):
        return "[" + f"{blank},".join(write(item, blank) for item in value) + "]"
    return json.dumps(value)


def items(body: bytes, offset: int = 0, bytes_max: int = 2**62) -> tuple[list[bytes], int]:
    offset = frame.open_array(body, offset)
    found: list[bytes] = []
    while True:
        start, end, offset = frame.next_item(body, offset, bytes_max)
        if start == end:
            return found, offset
        found.append(body[start:end])


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), JSON, max_size=5), LAYOUTS)
def test_members_are_those_of_the_decoder(value: dict[str, Any], layout: dict[str, Any]) -> None:
    body = encode(value, layout)
    decoded = {name: json.loads(body[start:end]) for name, start, end in frame.members(body)}
    assert decoded == json.loads(body)


@given(st.lists(JSON, max_size=6), LAYOUTS, st.text(" \t\r\n", max_size=3))
def test_items_are_those_of_the_decoder(value: list[Any], layout: dict[str, Any], blanks: str) -> None:
    body = blanks.encode() + encode(value, layout) + blanks.encode()
    found, offset = items(body)
    frame.finish(body, offset)
    assert [json.loads(item) for item in found] == json.loads(body)


@given(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), LAYOUTS, st.data())
def test_a_changed_byte_is_refused_or_changes_nothing_else(
    value: dict[str, Any], layout: dict[str, Any], data: st.DataObject
) -> None:
    """What the outline accepts and a decoder accepts slice by slice is what a decoder accepts as a whole."""
    body = bytearray(encode(value, layout))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        decoded = {name: json.loads(bytes(body[start:end])) for name, start, end in frame.members(body)}
    except ValueError:
        return
    assert repr(decoded) == repr(json.loads(bytes(body)))


@given(st.binary(max_size=60) | st.text('{}[]",:\\ 1nul\x00', max_size=40).map(str.encode), st.integers(0, 60))
def test_any_bytes_are_walked_or_refused(body: bytes, offset: int) -> None:
    for walk in (frame.next_item, frame.next_member, frame.skip):
        try:
            result = walk(body, offset)
        except ValueError:
            continue
        last = result if isinstance(result, int) else result[-1]
        assert offset < last <= len(body)
    try:
        frame.members(body)
    except ValueError:
        return
    assert body.strip(b" \t\r\n")[:1] == b"{"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "an object was expected"),
        (b"[]", "an object was expected"),
        (b"\xef\xbb\xbf{}", "an object was expected"),
        (b"{", "the text ends too early"),
        (b'{"a"', "the text ends too early"),
        (b'{"a', "the text ends too early"),
        (b'{"a":', "the text ends too early"),
        (b'{"a":1', "the text ends too early"),
        (b'{"a":[1', "the text ends too early"),
        (b'{"a":"\\', "the text ends too early"),
        (b'{"a":"x\\"}', "the text ends too early"),
        (b"{,}", "the name of a member was expected"),
        (b"{1:2}", "the name of a member was expected"),
        (b'{"a":1,}', "the name of a member was expected"),
        (b'{"a" 1}', "a colon was expected"),
        (b'{"a":}', "a value was expected"),
        (b'{"a":,"b":1}', "a value was expected"),
        (b'{"a":1 "b":2}', "a comma or the closing bracket was expected"),
        (b'{"a":1]', "a comma or the closing bracket was expected"),
        (b'{"a":[1}', "brackets do not match"),
        (b'{"a":{"b":1]}', "brackets do not match"),
        (b'{"a":"\n"}', "a string holds a control character"),
        (b'{"a\x00":1}', "a string holds a control character"),
        (b'{"\xff":1}', "the name of a member is not valid text"),
        (b'{"\\x":1}', "the name of a member is not valid text"),
        (b'{"\\ud800":1}', "the name of a member is not valid text"),
        (b'{"\xed\xa0\x80\\n":1}', "the name of a member is not valid text"),
        (b'{"a":1,"a":2}', "a member is given twice"),
        (b'{"a":1,"\\u0061":2}', "a member is given twice"),
        (b"{} x", "there is more after the end"),
        (b"{}{}", "there is more after the end"),
        (b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", "brackets are nested too deeply"),
    ],
)
def test_broken_bodies_are_refused_with_a_stable_message(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        frame.members(body)


def test_depth_of_64_is_accepted() -> None:
    value = b"[" * 64 + b"]" * 64
    assert frame.members(b'{"a":' + value + b"}") == [("a", 5, 5 + 128)]


@pytest.mark.parametrize("body", [b"[1,]", b"[,1]", b"[,]", b"[1 2]", b"[1,,2]", b"[1}", b"["])
def test_broken_arrays_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="expected|too early"):
        items(body)


def test_a_batch_is_walked_one_element_a_call() -> None:
    body = b'{"institution": "1311111114", "items": [ {"id": "a]1"} , {"id": "b"} ], "as_of": "2026-11-23"}'
    offset = frame.open_object(body)
    name, offset = frame.next_member(body, offset, 4096)
    end = frame.skip(body, offset, 4096)
    assert (name, body[offset:end]) == ("institution", b'"1311111114"')
    name, offset = frame.next_member(body, end, 4096)
    assert name == "items"
    found, offset = items(body, offset, 64)
    assert found == [b'{"id": "a]1"}', b'{"id": "b"}']
    name, offset = frame.next_member(body, offset, 4096)
    assert name == "as_of"
    assert frame.next_member(body, frame.skip(body, offset)) == (None, len(body))
    frame.finish(body, len(body))


@pytest.mark.parametrize("item", [b'"' + b"x" * 100 + b'"', b"[" + b"1," * 50 + b"1]", b"1" * 100, b" " * 100 + b"1"])
def test_one_call_walks_no_further_than_its_bound(item: bytes) -> None:
    body = b"[" + item + b"]"
    with pytest.raises(ValueError, match="^an element is too long$"):
        frame.next_item(body, 1, 50)
    assert frame.next_item(body, 1, len(item) + 1)[2] == 1 + len(item)


@pytest.mark.parametrize("body", [b"[1]", bytearray(b"[1]"), memoryview(b"[1]")])
def test_all_byte_forms_are_taken(body: Any) -> None:
    assert frame.next_item(body, frame.open_array(body)) == (1, 2, 2)


def test_nothing_is_read_behind_the_offset_range() -> None:
    for offset in (-1, 4, 2**70, -(2**70)):
        with pytest.raises(ValueError, match="^offset is outside the body$"):
            frame.next_item(b"[1]", offset)


PAIRS = st.recursive(
    st.integers() | st.text("ab:,", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.sampled_from(["a", "b", "c:", ""]), inner), max_size=4).map(dict)
        | st.lists(st.tuples(st.sampled_from(["a", "b", "c:", ""]), inner), max_size=4).map(Pairs)
    ),
    max_leaves=12,
)


@given(PAIRS, st.sampled_from(["", " ", "\n\t"]))
def test_distinct_is_what_a_decoder_of_pairs_sees(value: Any, blank: str) -> None:
    body = write(value, blank).encode()
    repeated = False

    def pairs(members: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated |= len({name for name, _ in members}) < len(members)

    json.loads(body, object_pairs_hook=pairs)
    assert frame.distinct(body) is not repeated


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", True),
        (b"1", True),
        (b'{"a":1,"b":{"a":2}}', True),
        (b'{"a":{"b":1},"c":{"b":1}}', True),
        (b'{"a":"b","b":"a"}', True),
        (b'["a","a"]', True),
        (b'{"a":1,"a":2}', False),
        (b'{"a":1 , "a" :2}', False),
        (b'[{"b":[{"a":1,"a":1}]}]', False),
        (b'{"a":1,"\\u0061":2}', False),
        (b'{"\\u0061":2}', False),
        (b'{"a":1', False),
        (b'{"a', False),
        (b"]", False),
    ],
)
def test_distinct(body: bytes, expected: bool) -> None:
    assert frame.distinct(body) is expected
