"""The quick way of a check gives what the careful way gives, byte for byte, or nothing: no VALID may come of haste."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from api.wire.quick import quick_way
from api.wire.reading import Reader
from api.wire.writing import Writer
from engine import days, rules
from engine.errors import InputError
from engine.records import (
    VERDICT_CODES,
    Certificate,
    ElderlyCertificate,
    Insurer,
    LimitCertificate,
    Person,
    Qualification,
    Relation,
    Sex,
    SpecificDisease,
    State,
)
from engine.store import encode_person
from engine.verification import Verifier
from ext import ordinary, ordinary_py, pages_py, quick_py
from tests.support.api import ELDERLY_INSURER, INSTITUTION, INSURER, MY_NUMBER, OTHER_INSURER
from tests.support.verdicts import AS_OF, BIRTH
from tests.support.world import KEYS, World, clock_of

NEAR = st.integers(AS_OF - 2, AS_OF + 2)
DAYS = NEAR | st.integers(30_000, 50_000) | st.sampled_from([-30_000, 0, 65_534, 70_000])
TEXTS = st.sampled_from(
    ["", "山田　太郎", "ミホン", "A-1 ﾊﾝｶｸ", 'quote"', "back\\slash", "tab\there", "\x7f", "𠮷" * 90]
)
SYMBOLS = st.sampled_from(["", "1234", "12-34", " 12/34", "ab", "-", "１２", "記号", MY_NUMBER])
NUMBERS = st.sampled_from(["1", "01", "1987654", "19 87654", "---", "-1", "１", MY_NUMBER, "12345674", "0012345674"])
BRANCHES = st.sampled_from(["", "0", "1", "01", "02", "99", "001", "x", "１"])
INSURERS = st.sampled_from([INSURER, OTHER_INSURER, ELDERLY_INSURER, "01130013", "1130012", "130013"])
ELDERLY = st.none() | st.builds(ElderlyCertificate, DAYS, DAYS, st.none() | DAYS, st.sampled_from(["020", ""]))
LIMIT = st.none() | st.builds(LimitCertificate, st.just("01"), st.just("A03"), DAYS, DAYS, st.none() | DAYS)
DISEASES = st.lists(st.builds(SpecificDisease, st.just("1"), DAYS, DAYS, st.none() | DAYS, st.just(10_000)), max_size=1)


def key(text: str, number: bool = False) -> str:
    """A canonical form, of what is in these lists."""
    folded = text.translate({ord("１"): "1", ord("２"): "2", ord(" "): None, ord("/"): None}).upper()
    return (folded.lstrip("0") or folded[:1]) if number else folded


@st.composite
def qualifications(draw: st.DrawFn) -> Qualification:
    symbol, number = draw(SYMBOLS), draw(NUMBERS)
    return Qualification(
        insurer_number=draw(st.sampled_from([INSURER, OTHER_INSURER, ELDERLY_INSURER])),
        symbol=symbol,
        number=number,
        symbol_key=key(symbol),
        number_key=key(number, True),
        branch=draw(st.sampled_from(["", "00", "01", "02"])),
        gained_on=draw(DAYS),
        lost_on=draw(st.none() | DAYS),
        loss_reason=draw(st.sampled_from(["", "01", "99"])),
        state=draw(st.sampled_from([State.CONFIRMED, State.CONFIRMED, *State])),
        relation=draw(st.sampled_from(list(Relation))),
        insured_name=draw(TEXTS),
        card_issued_on=draw(st.none() | DAYS),
        card_valid_from=draw(st.none() | DAYS),
        card_valid_to=draw(st.none() | DAYS),
        copay_ratio=draw(st.sampled_from(["", "030"])),
        preschool=draw(st.booleans()),
        elderly=draw(ELDERLY),
        limit=draw(LIMIT),
        diseases=tuple(draw(DISEASES)),
    )


ISSUERS = ["CN=JPKI, C=JP", "cn=jpki,c=jp", " O = J-LIS + OU=x  y ", "ou=x y,c=jp", "認証局", "1234"]
SERIALS = ["0F3A", "f3a", "F3A", "0", "00", "1" * 40, "1" * 41, "a1", MY_NUMBER, MY_NUMBER + "A", "0x1f", "12 34", "é"]


@st.composite
def certificates(draw: st.DrawFn) -> Certificate:
    near = st.sampled_from([-100, -92, -1, 0, 88, 89, 90, 91, 92, 93, 94, 95, 400, 2000])
    return Certificate(
        draw(st.sampled_from(["cn=jpki,c=jp", "o=j-lis+ou=x y"])),
        draw(st.sampled_from(["F3A", "A1"])),
        AS_OF + draw(near),
        draw(st.integers(0, 7)) == 0,
    )


@st.composite
def people(draw: st.DrawFn) -> Person:
    return Person(
        draw(TEXTS),
        draw(TEXTS),
        draw(st.sampled_from(list(Sex))),
        draw(st.sampled_from([BIRTH, BIRTH + 1])),
        tuple(draw(st.lists(qualifications(), min_size=1, max_size=2))),
        tuple(draw(st.lists(certificates(), max_size=2))),
        "",
        draw(TEXTS),
        draw(TEXTS),
        draw(TEXTS),
        draw(TEXTS),
    )


ODD: st.SearchStrategy[Any] = st.sampled_from([None, "", 0, True, [], {}, "x", "2026-11-23", "é", '"', "\\"])


@st.composite
def inquiries(draw: st.DrawFn, known: list[Person]) -> bytes:
    """Mostly about somebody known, spelt in some way, with something odd now and then."""
    whose = draw(st.sampled_from(known))
    held = draw(st.sampled_from(whose.qualifications))
    card: dict[str, Any] = {
        "insurer_number": held.insurer_number if draw(st.integers(0, 9)) else draw(INSURERS),
        "symbol": held.symbol if draw(st.integers(0, 5)) else draw(SYMBOLS | st.none()),
        "number": held.number if draw(st.integers(0, 5)) else draw(NUMBERS),
        "branch": held.branch if draw(st.integers(0, 3)) else draw(BRANCHES | st.none()),
        "birth_date": days.format_iso(whose.birth_date if draw(st.integers(0, 9)) else draw(DAYS)),
    }
    request: dict[str, Any] = {"institution": INSTITUTION, "card": card}
    if not draw(st.integers(0, 2)):
        card = {"issuer": draw(st.sampled_from(ISSUERS)), "serial": draw(st.sampled_from(SERIALS))}
        if whose.certificates and draw(st.integers(0, 3)):
            issuer, serial = whose.certificates[0].issuer, whose.certificates[0].serial
            card = {"issuer": issuer if draw(st.booleans()) else issuer.upper().replace(",", " , "), "serial": serial}
        request = {"institution": INSTITUTION, "certificate": card}
    if not draw(st.integers(0, 3)):
        request["detail"] = draw(st.sampled_from(["full", "verdict", "verdict", "x"]))
    if draw(st.booleans()):
        request["as_of"] = days.format_iso(draw(DAYS))
    if draw(st.booleans()):
        request["purpose"] = draw(st.sampled_from(["treatment", "home_visit", "administration", "other"]))
    if draw(st.booleans()):
        names = st.sampled_from(["limit_certificate", "specific_diseases"])
        request["consent"] = draw(st.none() | st.dictionaries(names, st.booleans()))
    if draw(st.booleans()):
        request["id"] = draw(st.sampled_from(["a1", "", None, "x" * 64, "x" * 65, MY_NUMBER, MY_NUMBER + "a", "é"]))
    if not draw(st.integers(0, 5)):
        target = draw(st.sampled_from([request, card]))
        target[draw(st.sampled_from([*target, "colour", "detail", "certificate"]))] = draw(ODD)
    if not draw(st.integers(0, 5)):
        target = draw(st.sampled_from([request, card]))
        target.pop(draw(st.sampled_from(list(target))))
    return _text(draw, request).encode("utf-8", "surrogatepass")


def _text(draw: st.DrawFn, request: dict[str, Any]) -> str:
    style = draw(st.integers(0, 7))
    text = json.dumps(request, ensure_ascii=style < 2, indent=1 if style == 2 else None)
    if style == 3:
        text = json.dumps(request, ensure_ascii=False, separators=(",", ":"))
    if style == 4:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from([" ", "\n", ",", "}", '"', "\x00", "null"])) + text[at:]
    return text


def both(world: World, body: bytes) -> tuple[bytes | None, bytes | None]:
    """The answer of the quick way, and that of the careful way; None if there is none."""
    clock = clock_of(AS_OF)
    reader = Reader(policy="warn", today=clock.today, insurer=world.verifier.insurer)
    try:
        mark, inquiry = reader.inquiry(body)
        careful = Writer(insurer=world.verifier.insurer).answer(inquiry, world.verifier.check(inquiry), mark)
    except InputError:
        careful = None
    framed = b"<" + body + b">"
    answers = [quick_way(verifier).answer(framed, 1, len(framed) - 1) for verifier in (world.verifier, twin_of(world))]
    assert answers[0] == answers[1], "the quick way and its twin"
    return answers[0], careful


def twin_of(world: World) -> Verifier:
    """A verifier whose quick way is the one in plain Python."""

    class Twin(Verifier):
        __slots__ = ()

        def quick(self, insurer: Any, words: Any, *, looks_first: bool = False, notes: bool = False) -> Any:
            pages = pages_py.Pages(*world.store.files, b"versions")
            said = [(*words(one.verdict, one.reason), VERDICT_CODES[one.verdict]) for one in rules.SAYINGS]
            return quick_py.Quick(self._index.live, pages, self._index_key, self._clock.today, insurer, said)

    return Twin(world.reader, world.store, KEYS, clock_of(AS_OF))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_the_quick_way_never_answers_otherwise(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name, World(Path(name), AS_OF) as world:
        with world.store.transaction() as txn:
            txn.put_insurer(Insurer(INSURER, '協会 "けんぽ"', fresh_at_ms=1_795_388_400_000))
        known = data.draw(st.lists(people(), min_size=1, max_size=4))
        world.replace(dict(enumerate(known, 1)))
        for _ in range(25):
            quick, careful = both(world, data.draw(inquiries(known)))
            assert quick is None or quick == careful


def ordinary_people() -> list[Person]:
    held = Qualification(INSURER, "1234", "7", "1234", "7", "01", AS_OF - 100)
    person = Person("見本　花子", "ミホン", Sex.FEMALE, BIRTH, (held,))
    elderly = structs.replace(held, insurer_number=ELDERLY_INSURER, symbol="", symbol_key="", number="12345674")
    elderly = structs.replace(elderly, number_key="12345674", elderly=ElderlyCertificate(1, 2, None, "020"))
    return [
        person,
        structs.replace(person, qualifications=(elderly,), name="後期　高齢"),
        structs.replace(person, qualifications=(structs.replace(held, number="8", number_key="8", lost_on=AS_OF + 1),)),
    ]


def test_checks_by_certificate_take_the_quick_way(tmp_path: Path) -> None:
    person, *_ = ordinary_people()
    held = Certificate("cn=jpki,c=jp", "F3A", AS_OF + 400)
    with World(tmp_path, AS_OF) as world:
        world.replace({1: structs.replace(person, certificates=(held,))})
        for given_, verdict in (
            ({"issuer": "CN=JPKI, C=JP", "serial": "0f3A"}, "VALID"),
            ({"issuer": "CN=JPKI, C=JP", "serial": "1"}, "NOT_FOUND"),
        ):
            for more in ({}, {"id": "a1"}, {"as_of": "2026-11-22"}):
                asked = {"institution": INSTITUTION, "certificate": given_} | more
                quick, careful = both(world, json.dumps(asked).encode())
                assert quick is not None and quick == careful
                assert json.loads(quick)["verdict"] == verdict


@pytest.mark.parametrize("days_left", range(88, 96))
def test_a_certificate_that_ends_soon_is_noted(tmp_path: Path, days_left: int) -> None:
    person, *_ = ordinary_people()
    with World(tmp_path, AS_OF) as world:
        world.replace({1: structs.replace(person, certificates=(Certificate("cn=x", "A1", AS_OF + days_left),))})
        quick, careful = both(
            world, json.dumps({"institution": INSTITUTION, "certificate": {"issuer": "CN=x", "serial": "A1"}}).encode()
        )
        assert careful is not None and quick in (None, careful)
        assert quick is None or not json.loads(careful)["notes"]


def test_until_when_a_certificate_is_usable() -> None:
    """Every day of four years: months of all lengths, and a leap day."""
    for expires_on in range(AS_OF + 100, AS_OF + 100 + 1461):
        assert_usable(expires_on)


def assert_usable(expires_on: int) -> None:
    held = Certificate("cn=x", "A1", expires_on)
    person = structs.replace(ordinary_people()[0], certificates=(held,))
    body = json.dumps({"institution": INSTITUTION, "certificate": {"issuer": "CN=x", "serial": "A1"}}).encode()
    record = encode_person(person)
    answers = [
        form.read(body, 0, len(body), AS_OF).answer(record, 0, len(record), 7, b"null", b"null", b"null")
        for form in (ordinary, ordinary_py)
    ]
    assert answers[0] == answers[1]
    until = json.loads(answers[0])["certificate"]["usable_until"]
    assert until == days.format_iso(days.add_months(expires_on, 3))


@pytest.mark.parametrize("at", range(3))
def test_ordinary_checks_take_the_quick_way(tmp_path: Path, at: int) -> None:
    known = ordinary_people()
    (held,) = known[at].qualifications
    with World(tmp_path, AS_OF) as world:
        world.replace(dict(enumerate(known, 1)))
        card = {"insurer_number": held.insurer_number, "number": held.number, "birth_date": "2000-01-02"}
        card |= {"symbol": held.symbol, "branch": "1"}
        for more in ({}, {"id": "a1"}, {"consent": {"limit_certificate": True}}, {"purpose": "dental", "as_of": None}):
            quick, careful = both(world, json.dumps({"institution": INSTITUTION, "card": card} | more).encode())
            assert quick is not None and quick == careful
            assert json.loads(quick)["verdict"] == "VALID"
