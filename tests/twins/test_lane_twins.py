"""ext/lane and ext/ordinary and their Python twins have the same outcome, on hostile arguments too."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext import lane_py, ordinary_py
from tests.support import streams
from tests.support.outcomes import compiled, outcome
from tests.support.verdicts import AS_OF, BIRTH

lane, ordinary = compiled("lane"), compiled("ordinary")

SEEDS = st.integers(0, 2**32)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "x", 1.5, b"x", -1, 2**62, 2**63, 2**80, True, [], bytearray(b"x")]
)


def test_constants_are_the_same() -> None:
    for name in ("REQUEST_LINE", "HEAD_BYTES_MAX", "HEADERS_MAX", "REASONS"):
        assert getattr(lane, name) == getattr(lane_py, name)
    for name in ("ANSWER_BYTES_MAX", "PURPOSES", "AS_OF_MIN", "AS_OF_MAX", "BIRTH_DATE_MIN"):
        assert getattr(ordinary, name) == getattr(ordinary_py, name)
    for name in ("PERSON_MEMBERS", "QUALIFICATION_MEMBERS"):
        assert getattr(ordinary, name) == getattr(ordinary_py, name)


@given(SEEDS)
def test_frame(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(10):
        data = streams.odd_request(chance)
        data = data[: chance.randrange(len(data) + 1)] if chance.random() < 0.3 else data + b"x" * chance.randrange(3)
        start = chance.choice((0, 0, 0, chance.randrange(len(data) + 1)))
        most = chance.choice((16_384, 100, 0))
        assert outcome(lane.frame, data, start, most) == outcome(lane_py.frame, data, start, most)


@pytest.mark.parametrize("size", range(4_080, 4_110))
def test_frame_of_a_long_head(size: int) -> None:
    padding = size - len(streams.request(b"{}", more=[b"X: "])) + 2
    data = streams.request(b"{}", more=[b"X: " + b"y" * padding])
    assert data.index(b"{") == size
    for end in (size - 3, size, len(data)):
        assert outcome(lane.frame, data[:end], 0, 9) == outcome(lane_py.frame, data[:end], 0, 9)


@given(st.binary(max_size=300), ODD | st.integers(0, 300), ODD | st.integers(0, 300))
def test_frame_of_anything(data: bytes, start: Any, most: Any) -> None:
    for kind in (bytes, bytearray):
        assert outcome(lane.frame, kind(data), start, most) == outcome(lane_py.frame, kind(data), start, most)


@given(ODD | st.binary(), ODD | st.binary(), ODD | st.binary())
def test_response(head: Any, mark: Any, body: Any) -> None:
    assert outcome(lane.response, head, mark, body) == outcome(lane_py.response, head, mark, body)


def shown(ask: Any) -> Any:
    return ask and (ask.message, ask.as_of, ask.institution, ask.insurer_number)


@given(SEEDS)
def test_read(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(10):
        body = chance.choice(streams.BODIES)
        body = streams.mutated(chance, body) if chance.random() < 0.7 else body
        today = chance.choice((AS_OF, 0, 1, 65_533, 65_534))
        assert shown(ordinary.read(body, 0, len(body), today)) == shown(ordinary_py.read(body, 0, len(body), today))


@given(ODD | st.binary(max_size=20), ODD | st.integers(0, 20), ODD | st.integers(0, 20), ODD)
def test_read_of_anything(data: Any, start: Any, stop: Any, today: Any) -> None:
    assert outcome(ordinary.read, data, start, stop, today) == outcome(ordinary_py.read, data, start, stop, today)


def record(chance: random.Random) -> bytes:
    """A record that is ordinary, or nearly."""
    elderly = chance.choice((None, None, [1, 2, None, "020"], [1, 2, 3, "020"], [1, "x", None, ""], [1, 2], "x"))
    held: list[Any] = ["01130012", "1234", "1000001", "1234", "1000001", "01", AS_OF - 9, None, "", 0, 1, "", "01"]
    held += [
        None,
        AS_OF - 5,
        AS_OF + 5,
        "030",
        False,
        elderly,
        chance.choice((None, ["01"])),
        chance.choice(([], [[1]])),
    ]
    whole: list[Any] = [
        "名　前",
        "カナ",
        1,
        BIRTH,
        [held],
        chance.choice(([], [["a", "b", 1, False]])),
        "l",
        "",
        "",
        "",
        "住",
    ]
    odd = (
        None,
        "",
        "x",
        'q"',
        "b\\",
        "n\n",
        0,
        -1,
        2**31,
        -(2**31),
        2**40,
        AS_OF,
        True,
        1.5,
        b"x",
        [],
        {},
        "長" * 3_000,
    )
    for _ in range(chance.choice((0, 0, 1, 2))):
        members = chance.choice((held, whole))
        members[chance.randrange(len(members))] = chance.choice(odd)
    if chance.random() < 0.1:
        members = chance.choice((held, whole))
        chance.choice((members.pop, lambda: members.append(0)))()
    return msgspec.msgpack.encode(whole)


@given(SEEDS)
def test_answer(seed: int) -> None:
    chance = random.Random(seed)
    asks = [(body, ordinary.read(body, 0, len(body), AS_OF)) for body in streams.BODIES[:12]]
    for body, ask in asks:
        if ask is None:
            continue
        packed = record(chance)
        if chance.random() < 0.2:
            packed = bytes(packed[: chance.randrange(len(packed))]) + bytes([chance.randrange(256)]) * chance.randrange(
                3
            )
        packed = b"<" + packed + b">"
        arguments = (packed, 1, len(packed) - 1, chance.choice((0, 7, 2**62)), b'"name"', b"null", b"{}")
        twin = ordinary_py.read(body, 0, len(body), AS_OF)
        assert twin is not None
        found = outcome(ask.answer, *arguments)
        if isinstance(found[-1], bytes):
            try:
                found[-1].decode()
            except UnicodeDecodeError:
                continue  # the compiled form copies texts as they are; records have UTF-8 only
        assert found == outcome(twin.answer, *arguments)


@pytest.mark.parametrize("insurer", [b"01130012", "東京xx".encode(), b"0113001\xd9", b"0113001", b"011300120", b""])
def test_insurer_of_a_certificates_holder(insurer: bytes) -> None:
    """Found by fuzzing: by certificate the insurer is not compared with the inquiry, and a number that is not in ASCII
    was told by UnicodeDecodeError instead of by None."""
    held = ["01130012", "1234", "1000001", "1234", "1000001", "01", AS_OF - 9, None, "", 0, 1, "", "01"]
    held += [None, None, None, "030", False, None, None, []]
    certificate = ["cn=jpki,c=jp", "A01", AS_OF + 999, False]
    person = ["名　前", "カナ", 1, BIRTH, [held], [certificate], "l", "", "", "", "住"]
    packed = msgspec.msgpack.encode(person).replace(b"\xa801130012", bytes([0xA0 | len(insurer)]) + insurer)
    body = b'{"institution":"1311111114","certificate":{"issuer":"CN=JPKI,C=JP","serial":"0A01"}}'
    for module in (ordinary, ordinary_py):
        ask = module.read(body, 0, len(body), AS_OF)
        if insurer == b"0113001\xd9" and module is ordinary_py:
            continue  # the twin has no texts that are not UTF-8
        expected = "01130012" if insurer == b"01130012" else None
        assert outcome(ask.insurer_of, packed, 0, len(packed)) == outcome(lambda told: told, expected)


@given(st.tuples(ODD, ODD | st.integers(0, 5), ODD | st.integers(0, 5), ODD, ODD, ODD, ODD))
def test_answer_of_anything(arguments: tuple[Any, ...]) -> None:
    body = streams.BODIES[0]
    asks = [module.read(body, 0, len(body), AS_OF) for module in (ordinary, ordinary_py)]
    assert outcome(asks[0].answer, *arguments) == outcome(asks[1].answer, *arguments)  # type: ignore[union-attr]


@pytest.mark.parametrize("module", [ordinary, ordinary_py])
def test_an_ask_is_made_by_read_only(module: Any) -> None:
    with pytest.raises(TypeError, match=r"ordinary\.read"):
        module.Ask()
