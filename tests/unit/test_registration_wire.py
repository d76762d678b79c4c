"""Asks of the registry's JSON what is read, what is refused and where, and that no body holds other threads up."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from api.wire import registration
from engine import limits
from engine.errors import FeedRowsError, InputError, MyNumberError
from engine.ingest.registry import DeltaCall

INSURER = "01130012"
OPERATION = {
    "op": "new",
    "insurer_number": INSURER,
    "symbol": "1234",
    "number": "5550001",
    "branch": "01",
    "birth_date": "2000-01-02",
    "name": "見本 花子",
    "name_kana": "ミホン ハナコ",
    "sex": 2,
    "relation": 1,
    "gained_on": "2024-01-01",
}
DISEASE = {"category": "1", "issued_on": "2020-04-01", "valid_from": "2020-04-01", "self_pay": 10000}


def delta(value: Any) -> DeltaCall:
    body = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return registration.delta(body, INSURER, policy="error", exempt=lambda number: False)


def state(value: Any) -> DeltaCall:
    body = json.dumps(value, ensure_ascii=False).encode()
    return registration.state(body, INSURER, policy="error", exempt=lambda number: False)


def refusal(value: Any) -> tuple[str, str | None]:
    with pytest.raises(InputError) as caught:
        delta(value)
    return caught.value.code, caught.value.field


def kinds(**members: Any) -> list[tuple[str, str, str | None]]:
    """Column, code and kind of what is wrong with one operation."""
    with pytest.raises(FeedRowsError) as caught:
        delta({"operations": [OPERATION | members]})
    return [(one.column, one.code, one.kind) for one in caught.value.report.errors]


# --- what is read ---------------------------------------------------------------------------------------------------


def test_members_come_in_any_order() -> None:
    given = {"as_of": "2026-11-01", "operations": [OPERATION], "feed_number": 7}
    call = delta(given)
    assert (call.feed_number, len(call.rows), call.settle) == (7, 1, False)
    turned = delta(dict(reversed(given.items())))
    assert (turned.feed_number, turned.as_of, turned.rows) == (call.feed_number, call.as_of, call.rows)


def test_the_digest_is_that_of_the_bytes() -> None:
    body = json.dumps({"operations": [OPERATION]}).encode()
    assert delta(body).digest == hashlib.sha256(body).digest()
    numbered = {"qualifications": [{k: v for k, v in OPERATION.items() if k != "op"}], "feed_number": 1}
    assert state(numbered).digest == hashlib.sha256(json.dumps(numbered, ensure_ascii=False).encode()).digest()
    del numbered["feed_number"]
    assert state(numbered).digest != state(numbered).digest, "each state without a number is a new one"


def test_diseases_are_read() -> None:
    (row,) = delta({"operations": [OPERATION | {"diseases": [DISEASE] * 2}]}).rows
    assert [one.self_pay for one in row.person.qualifications[0].diseases] == [10000, 10000]
    longest = [DISEASE] * limits.DISEASES_PER_QUALIFICATION_MAX
    (row,) = delta({"operations": [OPERATION | {"diseases": longest}]}).rows
    assert len(row.person.qualifications[0].diseases) == limits.DISEASES_PER_QUALIFICATION_MAX


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (b"", "input.malformed", None),
        (b"\xff", "input.malformed", None),
        (b'{"operations":[', "input.malformed", None),
        (b'{"operations":[{}]} x', "input.malformed", None),
        (b'{"operations":[{"op":}]}', "input.malformed", None),
        (b'{"operations":[{"op":"\xff"}]}', "input.malformed", None),
        ([], "input.schema", None),
        ("text", "input.schema", None),
        ({}, "input.schema", "operations"),
        ({"operations": None}, "input.schema", "operations"),
        ({"operations": {}}, "input.schema", "operations"),
        ({"operations": []}, "input.schema", "operations"),
        ({"operations": [OPERATION], "colour": 1}, "input.schema", "colour"),
        ({"operations": [OPERATION], "feed_number": "1"}, "input.schema", "feed_number"),
        ({"operations": [OPERATION], "feed_number": -1}, "input.schema", "feed_number"),
        ({"operations": [OPERATION], "as_of": "2026-02-30"}, "input.date", "as_of"),
        ({"operations": [OPERATION], "memo": "983205673214"}, "input.my_number", "memo"),
        ({"operations": [OPERATION], "memo": "9832-0567-3214" + " " * 9000}, "input.schema", "memo"),
        ({"operations": [OPERATION] * (limits.DELTA_OPERATIONS_MAX + 1)}, "input.too_large", "operations"),
        ({"operations": ["x" * limits.FEED_LINE_BYTES_MAX]}, "input.too_large", "operations"),
        ({"operations": ["x" * 1_000_000]}, "input.too_large", "operations"),
        (b'{"operations":[' + b"[" * 65 + b"]" * 65 + b"]}", "input.malformed", None),
    ],
)
def test_a_bad_call(value: Any, code: str, field: str | None) -> None:
    assert refusal(value) == (code, field)


def test_a_my_number_behind_much_else_is_found() -> None:
    """What is refused is searched in windows; one that lies across an edge is in the next, too."""
    for before in range(65_536 - 30, 65_536 + 30):
        body = b'{"operations":3,"x":"' + b"-" * (before - 21) + b'","y":"983205673214"}'
        assert refusal(body)[0] == "input.my_number"


TWICE = {
    "member": (b'{"operations":[{}],"as_of":null,"as_of":"2026-11-23"}', "as_of"),
    "list": (b'{"operations":[{}],"operations":[{}]}', "operations"),
    "in an operation": (b'{"operations":[{},{"number":"1","number":"2"}]}', "operations[1]"),
    "with an escape": (b'{"operations":[{},{"number":"1","n\\u0075mber":"2"}]}', "operations[1]"),
    "in a disease": (b'{"operations":[{"diseases":[{},{"self_pay":1,"self_pay":2}]}]}', "operations[0].diseases[1]"),
    "both": (
        b'{"operations":[{"n\\u0061me":"1","diseases":[{"self_pay":1,"self_pay":2}]}]}',
        "operations[0].diseases[0]",
    ),
}


@pytest.mark.parametrize("kind", TWICE)
def test_a_member_given_twice_is_refused(kind: str) -> None:
    body, field = TWICE[kind]
    assert refusal(body) == ("input.schema", field)


def test_members_of_other_operations_are_no_repeats() -> None:
    assert len(delta({"operations": [OPERATION, OPERATION | {"number": "5550002"}]}).rows) == 2


def test_values_of_the_wrong_kind_are_told_by_kind() -> None:
    assert kinds(number=[]) == kinds(number=[[[1]]]) == [("number", "input.type", "a list")]
    assert kinds(number={}) == kinds(number={"a": {"b": 1}}) == [("number", "input.type", "an object")]
    assert kinds(diseases={"a": 1}) == [("diseases", "input.type", "an object")]
    assert kinds(diseases=[[]]) == kinds(diseases=[7]) == [("diseases", "input.format", "not a list of diseases")]
    assert kinds(diseases=[DISEASE | {"self_pay": [[]]}]) == [
        ("diseases", "input.type", "a disease with a member of the wrong type")
    ]
    assert kinds(diseases=[DISEASE | {"colour": 1}]) == [("diseases", "input.format", "not a list of diseases")]
    assert kinds(colour=1) == kinds(colour=[[]]) == [("", "input.unknown", "unknown member")]
    assert kinds(diseases=[DISEASE] * 9)[0][:2] == kinds(diseases=[DISEASE] * 200)[0][:2]


WITHIN = [
    "983205673214",
    "９８３２０５６７３２１４",
    "9832-0567-3214",
    "９８３２－０５６７－３２１４",
    "9832 0567 3214",
    "9832ー0567ー3214",
]


@pytest.mark.parametrize("member", ["name", "name_kana"])
@pytest.mark.parametrize("text", WITHIN)
@pytest.mark.parametrize("form", ["{}", "見本組合 {}", "{}見本組合", "見本組合（{}）東京支部"])
def test_a_my_number_in_an_insurer_s_name_is_refused(member: str, text: str, form: str) -> None:
    given = {"name": "見本組合"} | {member: form.format(text)}
    with pytest.raises(MyNumberError) as caught:
        registration.insurer(json.dumps(given, ensure_ascii=False).encode(), INSURER, policy="error")
    assert caught.value.field == member
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["見本組合 983205673215", "見本組合 1983205673214", "第9832組合", "電話 03-1234-5678 の組合"]
)
def test_other_digits_in_an_insurer_s_name_are_taken(name: str) -> None:
    body = json.dumps({"name": name}).encode()
    assert registration.insurer(body, INSURER, policy="error").name == name


# --- what holds others up -------------------------------------------------------------------------------------------


class Steps:
    """The most CPU time that passed in this thread between two calls or returns: others get their turn at each.

    A thread beside it would notice the same by the clock, but also all else that the machine does.
    """

    def __enter__(self) -> Steps:
        self.worst = 0
        self._last = time.thread_time_ns()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _note(self, *event: object) -> None:
        self.worst = max(self.worst, time.thread_time_ns() - self._last)
        self._last = time.thread_time_ns()


def repeated(unit: bytes, bytes_max: int) -> bytes:
    return b",".join([unit] * (bytes_max // (len(unit) + 1)))


def operations(*parts: bytes) -> bytes:
    """A call of nearly the longest kind whose operations are as long as may be, too."""
    unit = b"".join(parts)
    return b'{"operations":[' + repeated(unit, limits.DELTA_BODY_BYTES_MAX - 100) + b"]}"


LONG = limits.FEED_LINE_BYTES_MAX - 100
ESCAPES = b"{" + b",".join(b'"\\u0041%d":1' % n for n in range(LONG // 17)) + b"}"
HOSTILE = {
    "nothing but brackets": b"[" * 4_000_000,
    "a list of brackets": b'{"operations":' + b"[" * 4_000_000,
    "a member of lists": b'{"x":[' + repeated(b"[]", 4_000_000) + b'],"operations":[{}]}',
    "operations of nothing": operations(b"0"),
    "operations of lists": operations(b'{"a":[', repeated(b"[]", LONG), b"]}"),
    "operations of deep lists": operations(b'{"a":[', repeated(b"[" * 60 + b"]" * 60, LONG), b"]}"),
    "bare deep lists": operations(b"[", repeated(b"[" * 60 + b"]" * 60, LONG), b"]"),
    "diseases of lists": operations(b'{"diseases":[', repeated(b"[[]]", LONG), b"]}"),
    "diseases of names": operations(b'{"diseases":[', repeated(b'{"\\u0061":0}', LONG), b"]}"),
    "deep objects": operations(b'{"a":[', repeated(b'{"a":' * 50 + b"1" + b"}" * 50, LONG), b"]}"),
    "numbers": operations(b'{"a":[', repeated(b"1.5", LONG), b"]}"),
    "names": operations(b"{", b",".join(b'"%d":1' % n for n in range(LONG // 12)), b"}"),
    "names with escapes": operations(ESCAPES),
    "quotes": operations(b'"', b'\\"' * (LONG // 2), b'"'),
    "digits": operations(b'{"a":[', repeated(b'"983205673215"', LONG), b"]}"),
    "digits in a refused body": b'{"operations":0,"x":[' + repeated(b'"98320567321"', 4_000_000) + b"]}",
    "one long string": b'{"operations":["' + b"7" * 4_000_000 + b'"]}',
}


SHORTER = {"names with escapes": b'{"operations":[' + repeated(ESCAPES, 2**18) + b"]}"}
"""In place of a body that takes long to watch: its steps are no shorter."""


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> Iterator[bytes]:
    """A body; all other objects are out of the cycle collector's sight, as a server's are (api/serving)."""
    gc.collect()
    gc.freeze()
    yield HOSTILE[request.param]
    gc.unfreeze()


def test_no_body_holds_others_up(hostile: bytes, request: pytest.FixtureRequest) -> None:
    """4 MiB are read in steps, each far below the hundred milliseconds that lists of lists once took.

    Up to three attempts: a virtual machine that stands still for a moment takes it for CPU time.
    """
    assert len(hostile) <= limits.DELTA_BODY_BYTES_MAX
    hostile = SHORTER.get(request.node.callspec.params["hostile"], hostile)
    worst: list[int] = []
    while len(worst) < 3 and min(worst, default=10_000_000) >= 10_000_000:
        with Steps() as steps, pytest.raises(InputError):
            delta(hostile)
        worst.append(steps.worst)
    assert 0 < min(worst) < 10_000_000


def test_no_body_takes_long(hostile: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(InputError):
        delta(hostile)
    assert time.process_time() - begun < 2
