"""Owns the fuzzing of ext/ordinary.read: inquiries in any bytes; ordinary ones are answered from real records.

The first byte says which day it is, whether this is an item of a batch, and what lies around the inquiry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ext import ordinary_py
from tests.fuzz.target import Target
from tests.fuzz.targets.record import RECORDS, SAID
from tests.support import streams
from tests.support.outcomes import compiled, outcome
from tests.support.verdicts import AS_OF

ordinary = compiled("ordinary")
TODAY = (AS_OF, 1, 65_533, 0)
SHOWN = ("message", "as_of", "institution", "by_certificate", "insurer_number", "verdict_only", "branch")
WORDS = (
    *(
        "institution",
        "card",
        "certificate",
        "insurer_number",
        "symbol",
        "number",
        "branch",
        "birth_date",
        "as_of",
        "id",
    ),
    *("purpose", "detail", "full", "verdict", "consent", "limit_certificate", "specific_diseases", "issuer", "serial"),
    *("1311111114", "01130012", "39131156", "2000-01-02", "2026-11-23", "983205673214", *ordinary.PURPOSES),
)


def parts(data: bytes) -> tuple[bytes, int, int, int, bool]:
    """Bytes, where the inquiry begins and ends in them, today, and whether it is an item."""
    first, body = (data[0], data[1:]) if data else (0, b"")
    start = min(first >> 3 & 3, len(body))
    return body, start, max(start, len(body) - (first >> 5)), TODAY[first & 3], bool(first & 4)


def asked(module: Any, data: bytes) -> Any:
    body, start, stop, today, item = parts(data)
    return module.read(body, start, stop, today, item=item)


def run(data: bytes) -> None:
    ask = asked(ordinary, data)
    if ask is None:
        return
    assert ask.message and ordinary.AS_OF_MIN <= ask.as_of <= ordinary.AS_OF_MAX
    assert ask.branch is None or 0 <= ask.branch <= 99
    for record in RECORDS:
        answer = ask.answer(record, 0, len(record), *SAID)
        assert answer is None or ask.insurer_of(record, 0, len(record)) is not None
    ask.bare(b"{", 1, b"null", b"{}")


def compare(data: bytes) -> None:
    run(data)
    asks = [asked(module, data) for module in (ordinary, ordinary_py)]
    if None in asks:
        assert asks == [None, None]
        return
    for name in SHOWN:
        assert outcome(getattr, asks[0], name) == outcome(getattr, asks[1], name), name
    for record in RECORDS:
        answers = [outcome(ask.answer, record, 0, len(record), *SAID) for ask in asks]
        assert answers[0] == answers[1]
        insurers = [outcome(ask.insurer_of, record, 0, len(record)) for ask in asks]
        assert insurers[0] == insurers[1]
    bare = [outcome(ask.bare, b"{", 1, b"null", b"{}") for ask in asks]
    assert bare[0] == bare[1]


def target(folder: Path) -> Target:
    seeds = [bytes([first]) + body for body in streams.BODIES for first in (0, 4)]
    seeds += [b"\0" + body.replace(b'"institution": "1311111114", ', b"") for body in streams.BODIES[:12]]
    seeds += [bytes([1 << 3 | 2 << 5]) + b"x" + body + b"yz" for body in streams.BODIES[:12]]
    return Target(seeds, [b'"%b"' % word.encode() for word in WORDS], run, compare)
