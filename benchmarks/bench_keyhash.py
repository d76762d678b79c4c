"""Owns the measurement of the keyed hash: one, many and rows, beside hashlib's keyed BLAKE2b and scalar code."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ext import keyhash

KEY = bytes(range(16))
SEED = 20261123
ROWS = {"smoke": 10_000, "standard": 200_000, "large": 2_000_000}
CALLS = 1_000
"""Calls in one round of the one-message benchmarks: the loop around them is part of what is measured."""


def matrix(count: int, width: int, shortest: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Rows of random bytes whose lengths are between `shortest` and `width`."""
    random = np.random.default_rng(SEED)
    lengths = random.integers(shortest, width + 1, count).astype(np.uint16)
    return random.integers(0, 256, (count, width), np.uint8), lengths


@pytest.fixture(scope="module")
def messages(size: str) -> list[bytes]:
    rows, _ = matrix(ROWS[size] // 10, 40, 40)
    return [row.tobytes() for row in rows]


def checksum(words: NDArray[np.uint64]) -> str:
    return f"{int(np.bitwise_xor.reduce(words, axis=None)):016x}"


def expected(messages: list[bytes]) -> str:
    """The checksum by way of the one-message form, which unit tests hold against the authors' vectors."""
    return checksum(np.frombuffer(b"".join(keyhash.siphash128(KEY, message) for message in messages), "<u8"))


def hash_one_by_one(messages: list[bytes]) -> list[bytes]:
    siphash128 = keyhash.siphash128
    return [siphash128(KEY, message) for message in messages]


def blake_one_by_one(messages: list[bytes]) -> list[bytes]:
    """As fast as hashlib gets: the keyed state is prepared once and copied."""
    prepared = hashlib.blake2b(key=KEY, digest_size=16)
    digests = []
    for message in messages:
        state = prepared.copy()
        state.update(message)
        digests.append(state.digest())
    return digests


@pytest.mark.benchmark(group="keyhash: 1,000 calls, 40 bytes each")
def bench_one_siphash128(benchmark: Any, messages: list[bytes]) -> None:
    digests = benchmark(hash_one_by_one, messages[:CALLS])
    words = np.frombuffer(b"".join(digests), "<u8")
    benchmark.extra_info["checksum"] = checksum(words)
    assert checksum(words) == checksum(keyhash.siphash128_many(KEY, messages[:CALLS]))


@pytest.mark.benchmark(group="keyhash: 1,000 calls, 40 bytes each")
def bench_one_reference_blake2b(benchmark: Any, messages: list[bytes]) -> None:
    digests = benchmark(blake_one_by_one, messages[:CALLS])
    benchmark.extra_info["checksum"] = checksum(np.frombuffer(b"".join(digests), "<u8"))
    assert digests[0] == hashlib.blake2b(messages[0], key=KEY, digest_size=16).digest()


@pytest.mark.benchmark(group="keyhash: a list of messages of 40 bytes")
def bench_many_siphash128(benchmark: Any, messages: list[bytes]) -> None:
    words = benchmark(keyhash.siphash128_many, KEY, messages)
    benchmark.extra_info["checksum"] = checksum(words)
    assert checksum(words) == expected(messages)


@pytest.mark.benchmark(group="keyhash: a list of messages of 40 bytes")
def bench_many_reference_one_by_one(benchmark: Any, messages: list[bytes]) -> None:
    digests = benchmark(hash_one_by_one, messages)
    benchmark.extra_info["checksum"] = checksum(np.frombuffer(b"".join(digests), "<u8"))


@pytest.mark.benchmark(group="keyhash: a list of messages of 40 bytes")
def bench_many_reference_blake2b(benchmark: Any, messages: list[bytes]) -> None:
    digests = benchmark(blake_one_by_one, messages)
    benchmark.extra_info["checksum"] = checksum(np.frombuffer(b"".join(digests), "<u8"))


def run_rows(benchmark: Any, size: str, width: int, shortest: int, form: str) -> None:
    rows, lengths = matrix(ROWS[size], width, shortest)
    out = np.zeros((len(rows), 2), np.uint64)
    benchmark(keyhash.siphash128_rows, KEY, rows, lengths, out, form=form)
    benchmark.extra_info["checksum"] = checksum(out)
    benchmark.extra_info["form"] = form
    benchmark.extra_info["ns_per_row"] = round(benchmark.stats.stats.min / len(rows) * 1e9, 2)
    sample = [row[:length].tobytes() for row, length in zip(rows[:100], lengths[:100], strict=True)]
    assert checksum(out[:100]) == expected(sample)


@pytest.mark.parametrize("form", keyhash.FORMS)
@pytest.mark.benchmark(group="keyhash: rows of 32 bytes")
def bench_rows_32(benchmark: Any, size: str, form: str) -> None:
    run_rows(benchmark, size, 32, 32, form)


@pytest.mark.parametrize("form", keyhash.FORMS)
@pytest.mark.benchmark(group="keyhash: rows of 20 to 44 bytes")
def bench_rows_mixed(benchmark: Any, size: str, form: str) -> None:
    run_rows(benchmark, size, 44, 20, form)
