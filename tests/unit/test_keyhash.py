"""ext/keyhash against the authors' vectors and its own forms against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ext import keyhash

VECTORS = Path(__file__).parents[1] / "golden" / "siphash128_vectors"
KEY = bytes(range(16))


def vectors() -> list[bytes]:
    return [bytes.fromhex(line) for line in VECTORS.read_text().splitlines() if not line.startswith("#")]


def as_words(digests: list[bytes]) -> list[list[int]]:
    return [[int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")] for digest in digests]


def hash_rows(rows: NDArray[np.uint8], lengths: NDArray[np.uint16], *, form: str = keyhash.FORM) -> list[list[int]]:
    out = np.zeros((len(rows), 2), np.uint64)
    keyhash.siphash128_rows(KEY, rows, lengths, out, form=form)
    return out.tolist()


def test_one_message_gives_the_official_vectors() -> None:
    assert len(vectors()) == 64
    assert [keyhash.siphash128(KEY, bytes(range(n))) for n in range(64)] == vectors()


def test_many_gives_the_official_vectors_as_little_endian_words() -> None:
    assert keyhash.siphash128_many(KEY, [bytes(range(n)) for n in range(64)]).tolist() == as_words(vectors())


@pytest.mark.parametrize("form", keyhash.FORMS)
def test_rows_of_different_lengths_give_the_official_vectors(form: str) -> None:
    rows = np.tile(np.arange(63, dtype=np.uint8), (64, 1))
    assert hash_rows(rows, np.arange(64, dtype=np.uint16), form=form) == as_words(vectors())


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form must be one of"):
        hash_rows(np.zeros((1, 8), np.uint8), np.full(1, 8, np.uint16), form="avx1024")


@pytest.mark.parametrize("form", keyhash.FORMS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17])
def test_rows_agree_with_one_message_for_every_rest_of_eight(count: int, form: str) -> None:
    random = np.random.default_rng(count)
    rows = random.integers(0, 256, (count, 45), np.uint8)
    lengths = random.integers(0, 46, count).astype(np.uint16)
    messages = [rows[position, :length].tobytes() for position, length in enumerate(lengths)]
    expected = as_words([keyhash.siphash128(KEY, message) for message in messages])
    assert hash_rows(rows, lengths, form=form) == expected
    assert keyhash.siphash128_many(KEY, messages).tolist() == expected


def test_rows_do_not_depend_on_bytes_behind_a_message() -> None:
    rows = np.zeros((8, 24), np.uint8)
    dirty = rows.copy()
    dirty[:, 11:] = 255
    lengths = np.full(8, 11, np.uint16)
    assert hash_rows(rows, lengths) == hash_rows(dirty, lengths)


def test_message_longer_than_255_bytes_counts_its_length_modulo_256() -> None:
    """A length above 255 keeps only its low byte; 16 bits of length reach past that in a matrix."""
    row = np.zeros((8, 600), np.uint8)
    words = hash_rows(row, np.array([0, 8, 255, 256, 257, 264, 512, 600], np.uint16))
    expected = [keyhash.siphash128(KEY, bytes(n)) for n in (0, 8, 255, 256, 257, 264, 512, 600)]
    assert words == as_words(expected)
    assert len({tuple(word) for word in words}) == 8


def test_another_key_gives_another_hash() -> None:
    assert keyhash.siphash128(KEY, b"1234") != keyhash.siphash128(bytes(16), b"1234")


def test_wrong_length_leaves_the_output_untouched() -> None:
    out = np.full((20, 2), 7, np.uint64)
    lengths = np.zeros(20, np.uint16)
    lengths[19] = 5
    with pytest.raises(ValueError, match="a length is more than the width of rows"):
        keyhash.siphash128_rows(KEY, np.zeros((20, 4), np.uint8), lengths, out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("key", "message", "error"),
    [
        (b"short", b"", "key must have 16 bytes"),
        (bytearray(16), b"", "key must be bytes, not bytearray"),
        ("k" * 16, b"", "key must be bytes, not str"),
        (KEY, "text", "message must be bytes, not str"),
        (KEY, None, "message must be bytes, not NoneType"),
    ],
)
def test_wrong_arguments_are_refused(key: bytes, message: bytes, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        keyhash.siphash128(key, message)
