"""Owns the measurement of canonical form and of parsing a whole card, beside the same rule in plain Python."""

from __future__ import annotations

import random
import zlib
from typing import Any

import msgspec
import pytest

from engine import identifiers
from ext import canon, canon_py, frame

SEED = 20261123
CARDS = {"smoke": 1_000, "standard": 10_000, "large": 100_000}

Card = tuple[str, str, str, str, str]


@pytest.fixture(scope="module")
def cards(size: str) -> list[Card]:
    """Plain ASCII cards of 200 insurers, as systems send them."""
    chance = random.Random(SEED)
    bases = [f"{1 + chance.randrange(34):02}{chance.randrange(10**5):05}" for _ in range(200)]
    insurers = [base + digit for base in bases for digit in "0123456789" if identifiers.check_digit_ok(base + digit)]
    return [
        (
            chance.choice(insurers),
            f"{chance.randrange(10**4):04}" if chance.random() < 0.7 else f"ab-{chance.randrange(100)}",
            f"{chance.randrange(10**8):08}",
            f"{chance.randrange(4):02}",
            f"{chance.randrange(1930, 2026)}-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}",
        )
        for _ in range(CARDS[size])
    ]


def fold_all(fold: Any, texts: list[str]) -> list[str]:
    return [fold(text) for text in texts]


def checksum(values: list[Any]) -> str:
    return f"{zlib.crc32(repr(values).encode()):08x}"


@pytest.mark.benchmark(group="canon: fold a symbol")
def bench_fold(benchmark: Any, cards: list[Card]) -> None:
    symbols = [card[1] for card in cards]
    folded = benchmark(fold_all, canon.fold, symbols)
    benchmark.extra_info["checksum"] = checksum(folded)
    assert folded == fold_all(canon_py.fold, symbols)


@pytest.mark.benchmark(group="canon: fold a symbol")
def bench_fold_reference_python(benchmark: Any, cards: list[Card]) -> None:
    folded = benchmark(fold_all, canon_py.fold, [card[1] for card in cards])
    benchmark.extra_info["checksum"] = checksum(folded)


@pytest.mark.benchmark(group="canon: fold a symbol")
def bench_fold_reference_slow_path(benchmark: Any, cards: list[Card]) -> None:
    symbols = [card[1] for card in cards]
    folded = benchmark(lambda: [identifiers._fold_wide(symbol, "symbol") for symbol in symbols])
    benchmark.extra_info["checksum"] = checksum(folded)
    assert folded == fold_all(canon.fold, symbols)


def parse_all(cards: list[Card]) -> list[Any]:
    return [identifiers.parse_card(*card, policy="warn", exempt_12_digits=lambda insurer: False)[0] for card in cards]


@pytest.mark.benchmark(group="identifiers: parse a card")
def bench_parse_card_ascii(benchmark: Any, cards: list[Card]) -> None:
    parsed = benchmark(parse_all, cards)
    benchmark.extra_info["checksum"] = checksum(parsed)


@pytest.mark.benchmark(group="identifiers: parse a card")
def bench_parse_card_full_width(benchmark: Any, cards: list[Card]) -> None:
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
    texts = [(card[0], card[1].translate(wide), card[2].translate(wide), card[3], card[4]) for card in cards]
    parsed = benchmark(parse_all, texts)
    benchmark.extra_info["checksum"] = checksum(parsed)
    assert parsed == parse_all(cards)


def walk(body: bytes) -> int:
    """How many elements the array has, found one call each."""
    count, offset = 0, frame.open_array(body)
    while True:
        start, end, offset = frame.next_item(body, offset, 16_384)
        if start == end:
            return count
        count += 1


def batch(cards: list[Card]) -> bytes:
    item = '{{"id": "{2}", "card": {{"insurer_number": "{0}", "symbol": "{1}", "number": "{2}", "birth_date": "{4}"}}}}'
    return ("[" + ", ".join(item.format(*card) for card in cards) + "]").encode()


@pytest.mark.benchmark(group="frame: find the elements of a batch")
def bench_next_item(benchmark: Any, cards: list[Card]) -> None:
    body = batch(cards)
    assert benchmark(walk, body) == len(cards)
    benchmark.extra_info["checksum"] = zlib.crc32(body)


@pytest.mark.benchmark(group="frame: find the elements of a batch")
def bench_next_item_reference_msgspec_raw(benchmark: Any, cards: list[Card]) -> None:
    """The whole array at once, elements left undecoded; unlike ours it cannot be interrupted."""
    body = batch(cards)
    decoder = msgspec.json.Decoder(list[msgspec.Raw])
    assert len(benchmark(decoder.decode, body)) == len(cards)
    benchmark.extra_info["checksum"] = zlib.crc32(body)
