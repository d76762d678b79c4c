"""Owns the people that the HTTP contenders answer about, and the requests and answers that all of them share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.support import api as support

PEOPLE = 1_000
CHECK = "/v1/eligibility/check"


class Card(msgspec.Struct):
    """What a contender that decodes the request looks up by."""

    insurer_number: str
    symbol: str
    number: str
    birth_date: str


class Inquiry(msgspec.Struct):
    """The members that such a contender reads."""

    institution: str
    card: Card


def numbers() -> list[str]:
    """Insured numbers of the people; equally long, as are all answers."""
    return [str(3_000_000 + n) for n in range(PEOPLE)]


def rows() -> list[str]:
    """The people as lines of a feed: ordinary ones, in force."""
    return [
        support.row(number=number, postcode="100-0001", address="東京都千代田区千代田１番１号", copay_ratio="030")
        for number in numbers()
    ]


def bodies() -> list[bytes]:
    """A check for each of them."""
    return [json.dumps(support.inquiry(number)).encode() for number in numbers()]


def verified(body: bytes, number: str) -> bytes:
    """An answer as it came, if it says that this person is insured. Raises ValueError if not."""
    found = json.loads(body)
    if found["verdict"] != "VALID" or found["qualification"]["number"] != number:
        raise ValueError("the reference itself answers wrongly")
    return body


def write_answers(path: Path, answers: list[bytes]) -> None:
    """Keep ready answers for the contenders that only look them up."""
    path.write_bytes(msgspec.msgpack.encode(dict(zip(numbers(), answers, strict=True))))


def from_a_dict(path: Path) -> Callable[[bytes], bytes]:
    """The least that an application of one's own would do: decode the request, look the answer up in a dict."""
    known: dict[str, bytes] = msgspec.msgpack.decode(path.read_bytes(), type=dict[str, bytes])
    decode = msgspec.json.Decoder(Inquiry).decode

    def answer(body: bytes) -> bytes:
        return known[decode(body).card.number]

    return answer
