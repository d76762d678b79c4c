"""Owns the fuzzing of ext/ordinary's reading of records: answers to fixed inquiries out of any bytes.

The first byte chooses the inquiry; the rest stands where the store would have a person in MessagePack.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import structs

from engine.records import Certificate, ElderlyCertificate, Person
from engine.store import encode_person
from ext import ordinary_py
from tests.fuzz.target import Target
from tests.support import api, streams
from tests.support.outcomes import compiled, outcome
from tests.support.verdicts import AS_OF, person, qualification

ordinary = compiled("ordinary")
SAID = (7, '"見本"'.encode(), b"null", b"{}")
"""Data version, name and freshness of the insurer, advice."""
HELD = qualification(number="1000001", card_valid_from=AS_OF - 9, card_valid_to=AS_OF + 9)
ELDERLY = ElderlyCertificate(AS_OF - 3, AS_OF - 2, None, "020")
CERTIFICATE = Certificate("cn=jpki,c=jp", "A01", AS_OF + 1_000)
PEOPLE: list[Person] = [
    person(HELD),
    person(HELD, certificates=(CERTIFICATE,)),
    person(structs.replace(HELD, lost_on=AS_OF + 1, loss_reason="03", insured_name="資格 一郎", elderly=ELDERLY)),
    person(
        structs.replace(HELD, symbol="", copay_ratio="030", preschool=True), certificates=(CERTIFICATE, CERTIFICATE)
    ),
    person(HELD, HELD),
    structs.replace(person(HELD), address="東京都" * 900, name_other="John", name_other_kana="ジョン"),
    structs.replace(person(HELD), name='quote"', link_code="back\\slash"),
    person(structs.replace(HELD, gained_on=AS_OF + 1)),
]
RECORDS = [encode_person(one) for one in PEOPLE]
INQUIRIES: list[dict[str, Any]] = [
    api.inquiry(),
    api.inquiry() | {"card": {name: value for name, value in api.card().items() if name != "branch"}},
    api.inquiry(consent={"limit_certificate": True, "specific_diseases": True}, id="x-1"),
    {"institution": api.INSTITUTION, "certificate": {"issuer": api.ISSUER, "serial": "0A01"}},
]
BODIES = [json.dumps(one).encode() for one in INQUIRIES]
ASKS = [ordinary.read(body, 0, len(body), AS_OF) for body in BODIES]
TWINS = [ordinary_py.read(body, 0, len(body), AS_OF) for body in BODIES]
assert None not in ASKS and None not in TWINS


def parts(data: bytes) -> tuple[int, tuple[Any, ...]]:
    """Which inquiry, and where the record is."""
    number, record = (data[0] % len(BODIES), data[1:]) if data else (0, b"")
    return number, (b"<" + record + b">", 1, len(record) + 1)


def run(data: bytes) -> None:
    number, place = parts(data)
    answer = ASKS[number].answer(*place, *SAID)
    insurer = ASKS[number].insurer_of(*place)
    if answer is not None:
        assert len(answer) <= ordinary.ANSWER_BYTES_MAX and answer.startswith(b'{"verdict":"VALID",')
        assert insurer is not None or number == 3


def compare(data: bytes) -> None:
    run(data)
    number, place = parts(data)
    try:
        value, _ = ordinary_py._value(data[1:], 0)
        json.dumps(value)
    except UnicodeDecodeError:
        return  # the compiled form copies texts as they are; records have UTF-8 only
    except (ordinary_py._Odd, IndexError, RecursionError):
        pass
    answers = [outcome(ask.answer, *place, *SAID) for ask in (ASKS[number], TWINS[number])]
    assert answers[0] == answers[1]
    insurers = [outcome(ask.insurer_of, *place) for ask in (ASKS[number], TWINS[number])]
    assert insurers[0] == insurers[1]
    if answers[0][2] is not None:
        assert json.loads(answers[0][2])["verdict"] == "VALID"


def target(folder: Path) -> Target:
    seeds = [bytes([number]) + record for record in RECORDS for number in range(len(BODIES))]
    heads = [bytes([head]) for head in (0x90, 0x94, 0x9B, 0xA0, 0xC0, 0xC2, 0xC3, 0xCC, 0xCD, 0xD1, 0xD2, 0xD9, 0xDA)]
    words = [
        *heads,
        b"\xdc\x00\x15",
        b"\xce\xff\xff\xff\xff",
        b"01130012",
        b"1000001",
        b"cn=jpki,c=jp",
        b"\xdc\xff\xff",
    ]
    return Target([*seeds, *(b"\0" + body for body in streams.BODIES[:1])], words, run, compare)
