"""Many checks at once get the answers that each gets by itself, whatever is among them, and as the twin gives them."""

from __future__ import annotations

import json
import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from api.wire.quick import quick_way
from engine import rules
from engine.records import Certificate, Insurer, Person, Qualification, Sex, State
from ext import many_py
from tests.properties.test_quick_model import twin_of
from tests.support.api import INSTITUTION, INSURER
from tests.support.outcomes import compiled, outcome
from tests.support.verdicts import AS_OF, BIRTH
from tests.support.world import World

many = compiled("many")
COUNT = 400


def person(number: int) -> Person:
    """Three in four are ordinary; the others are lost, pending, or long."""
    kind = number % 12
    held = Qualification(INSURER, "1234", str(number), "1234", str(number), "01", AS_OF - 100)
    if kind == 1:
        held = structs.replace(held, lost_on=AS_OF - 3, loss_reason="03")
    elif kind == 2:
        held = structs.replace(held, state=State.PENDING)
    elif kind == 3:
        held = structs.replace(held, gained_on=AS_OF + 1)
    address = "東京都" * (1500 if kind == 4 else 300 if kind == 5 else 3)
    certificates = (Certificate("cn=x", f"{number:X}", AS_OF + 10 * number),)
    return Person(
        "見本　太郎", "ミホン タロウ", Sex.MALE, BIRTH, (held,), certificates, postcode="100-0001", address=address
    )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), AS_OF, keys=4 * COUNT) as made:
        with made.store.transaction() as txn:
            txn.put_insurer(Insurer(INSURER, "見本健康保険組合", fresh_at_ms=1_795_388_400_000))
        made.replace({number: person(number) for number in range(1, COUNT + 1)})
        yield made


def line(chance: random.Random, *, item: bool = False) -> bytes:
    """An inquiry, ordinary or not; now and then no inquiry at all."""
    number = chance.randrange(1, COUNT + 30)
    card = {"insurer_number": INSURER, "symbol": "1234", "number": str(number), "birth_date": "2000-01-02"}
    which: dict[str, Any] = {"card": card}
    if chance.random() < 0.3:
        which = {"certificate": {"issuer": "CN=x", "serial": f"{number:X}"}}
    asked = which if item else {"institution": INSTITUTION} | which
    if chance.random() < 0.3:
        asked["detail"] = chance.choice(("verdict", "full"))
    if chance.random() < 0.3:
        asked["id"] = f"n{number}"
    if chance.random() < 0.2:
        card["branch"] = chance.choice(("01", "1", "02", ""))
    if chance.random() < 0.2 and not item:
        asked["as_of"] = chance.choice(("2026-11-23", "2026-11-24", "1990-01-01", "2099-12-31", "x", None))
    text = json.dumps(asked, ensure_ascii=chance.random() < 0.9)
    if chance.random() < 0.1:
        text = chance.choice((text[:-1], text + "x", "nonsense", "{}", text.replace("1234", "１２３４"), "[" * 500))
    return text.encode() + b" " * chance.choice((0, 0, 0, 0, 3, 600))


def careful(body: bytes) -> bytes:
    return b"<%b>" % body.strip()


@given(seed=st.integers(0, 2**32))
def test_lines(world: World, seed: int) -> None:
    chance = random.Random(seed)
    ways = [quick_way(world.verifier), quick_way(twin_of(world))]
    forms = [many.Many(ways[0]), many_py.Many(ways[1])]
    lines = [line(chance) for _ in range(chance.choice((1, 5, 64, 150)))]
    expected = [ways[0].answer(one, 0, len(one)) or careful(one) for one in lines]
    data = b"".join(one + b"\n" for one in lines) + chance.choice((b"", b"rest", b" \r\nrest\n", b"x" * 20_000 + b"\n"))
    for form in forms:
        answers, offset, count = b"", 0, -1
        while count:
            part, offset, count = form.answer_lines(data, offset, careful)
            assert part.count(b"\n") == count <= many.ITEMS_MAX
            answers += part
        assert answers == b"".join(one + b"\n" for one in expected)
        assert offset == sum(len(one) + 1 for one in lines) + (data.endswith(b"\nrest") and 0)


@given(seed=st.integers(0, 2**32))
def test_verdict_lines(world: World, seed: int) -> None:
    """In short they say what a verdict-only answer says; what that cannot say goes the careful way."""
    chance = random.Random(seed)
    lines = [line(chance) for _ in range(chance.choice((1, 5, 64, 150)))]
    whole = quick_way(world.verifier)
    expected = []
    for one in lines:
        try:
            answer = whole.answer(asked := json.dumps(json.loads(one) | {"detail": "verdict"}).encode(), 0, len(asked))
        except (ValueError, TypeError, RecursionError):
            answer = None
        short = answer and verdict_line(json.loads(answer))
        expected.append(short if short and whole.answer(one, 0, len(one)) else None)
    found = []
    for way, form in ((quick_way(world.verifier), many), (quick_way(twin_of(world)), many_py)):
        block, answers, offset, count = form.Many(way, None, VERDICTS), b"", 0, -1
        while count:
            part, offset, count = block.verdict_lines(b"".join(one + b"\n" for one in lines), offset, careful)
            answers += part
        found.append(answers)
    assert found[0] == found[1]
    for said, wanted, one in zip(found[0].split(b"\n"), expected, lines, strict=False):
        assert said == careful(one) or wanted is None or said == wanted


def verdict_line(answer: dict[str, Any]) -> bytes:
    return f"{answer['verdict']},{answer['reason'] or ''},".encode()


VERDICTS = [f"{one.verdict},{one.reason or ''},".encode() for one in rules.SAYINGS]


@given(seed=st.integers(0, 2**32))
def test_items(world: World, seed: int) -> None:
    chance = random.Random(seed)
    data, spans = bytearray(b"["), []
    for _ in range(chance.choice((1, 5, 64, 150))):
        body = line(chance, item=True)
        spans.append((len(data), len(data) + len(body)))
        data += body + b", "
    found = []
    for form in (many.Many(quick_way(world.verifier)), many_py.Many(quick_way(twin_of(world)))):
        answers, position = b"", 0
        while position < len(spans):
            part, position = form.answer_items(data, spans, position, AS_OF, careful)
            answers += part
        found.append(answers)
    assert found[0] == found[1]
    single = quick_way(world.verifier)
    for (start, end), answer in zip(spans, json.loads(b"[" + _quoted(found[0]) + b"]"), strict=True):
        item = bytes(data[start:end])
        whole = item.replace(b"{", b'{"institution":"%b","as_of":"2026-11-23",' % INSTITUTION.encode(), 1)
        alone = single.answer(whole, 0, len(whole))
        assert answer == (json.loads(alone) if alone else careful(item).decode())


def _quoted(answers: bytes) -> bytes:
    """What `careful` gave, as strings of JSON."""
    parts = []
    for part in answers.removesuffix(b",").split(b">,"):
        while part.startswith(b"{"):
            end = part.find(b"},{", 0) + 1 or part.find(b"},<") + 1 or len(part)
            parts.append(part[:end])
            part = part[end + 1 :]
        if part.startswith(b"<"):
            parts.append(json.dumps(part.removesuffix(b">").decode() + ">").encode())
    return b",".join(parts)


def test_no_more_than_there_is_time_for(world: World) -> None:
    chance = random.Random(1)
    ordinary = [one for one in (line(chance) for _ in range(900)) if quick_way(world.verifier).answer(one, 0, len(one))]
    lines = [*ordinary[:10], b"odd", *ordinary[10:20], b"odd", *ordinary[20:90]]
    data = b"".join(one + b"\n" for one in lines)
    for form in (many.Many(quick_way(world.verifier)), many_py.Many(quick_way(twin_of(world)))):
        left = [1]
        found = form.answer_lines(data, 0, lambda body, left=left: careful(body) if left and left.pop() else None)
        assert (found[1], found[2]) == (sum(len(one) + 1 for one in lines[:21]), 21)
        assert form.answer_lines(data, found[1], lambda body: None) == (b"", found[1], 0)


def test_others_take_turns(world: World) -> None:
    data = b"odd\n" * 50
    for form in (many.Many(quick_way(world.verifier)), many_py.Many(quick_way(twin_of(world)))):
        assert form.answer_lines(data, 0, careful)[1:] == (4 * many.CAREFUL_MAX, many.CAREFUL_MAX)


def test_errors_pass(world: World) -> None:
    def fail(body: bytes) -> bytes:
        raise KeyError("x")

    for form in (many.Many(quick_way(world.verifier)), many_py.Many(quick_way(twin_of(world)))):
        assert outcome(form.answer_lines, b"odd\n", 0, fail) == ("error", KeyError, "'x'")
        assert form.answer_lines(b"odd\n", 0, careful)[2] == 1
        for given_ in (("x", 0), (b"x", 2), (b"x", -1), (b"x", None)):
            assert outcome(form.answer_lines, *given_, careful)[0] == "error"
        for spans in ([(0, 2)], [(-1, 1)], [(1, 0)]):
            assert outcome(form.answer_items, b"x", spans, 0, AS_OF, careful)[0] == "error"
        for day in (0, 65534, None):
            assert outcome(form.answer_items, b"x", [(0, 1)], 0, day, careful)[0] == "error"


def test_all_answers_are_of_one_version_beside_a_writer(world: World) -> None:
    """People who change in one commit are never seen half changed within a block."""
    numbers = range(1, COUNT + 1)
    lines = b"".join(_verdict(number) + b"\n" for number in range(1, 60))
    form = many.Many(quick_way(world.verifier))
    stop = threading.Event()

    def change() -> None:
        day = 0
        while not stop.is_set():
            day += 1
            gained = AS_OF - 100 if day % 2 else AS_OF + 1
            world.replace(
                {
                    number: structs.replace(
                        one, qualifications=(structs.replace(one.qualifications[0], gained_on=gained, lost_on=None),)
                    )
                    for number, one in ((number, person(number)) for number in numbers)
                }
            )

    writer = threading.Thread(target=change)
    writer.start()
    seen = set()
    try:
        for _ in range(3000):
            answers, _, count = form.answer_lines(lines, 0, lambda body: None)
            found = [json.loads(answer) for answer in answers.splitlines()]
            assert len(found) == count
            assert len({one["data_version"] for one in found}) <= 1
            plain = {one["verdict"] for one in found if one["id"] not in PENDING}
            assert len(plain) <= 1
            seen |= plain
    finally:
        stop.set()
        writer.join()
    assert "VALID" in seen


PENDING = {f"n{number}" for number in range(1, COUNT + 1) if number % 12 == 2}


def _verdict(number: int) -> bytes:
    card = {"insurer_number": INSURER, "symbol": "1234", "number": str(number), "birth_date": "2000-01-02"}
    asked = {"institution": INSTITUTION, "as_of": "2026-11-23", "card": card, "id": f"n{number}"}
    return json.dumps(asked | ({"detail": "verdict"} if number % 2 else {})).encode()
