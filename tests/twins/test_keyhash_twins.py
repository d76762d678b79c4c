"""ext/keyhash and its Python twin have the same outcome, on hostile arguments too."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ext import keyhash_py
from tests.support.outcomes import compiled, outcome

keyhash = compiled("keyhash")

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, 1, 1.5, "text", "\ud800", bytearray(16), memoryview(bytes(16)), [], (), object]
)
KEYS = st.binary(min_size=16, max_size=16) | st.binary(max_size=40) | ODD
MESSAGES = st.binary(max_size=80) | ODD


def same(name: str, *arguments: Any) -> None:
    assert outcome(getattr(keyhash, name), *arguments) == outcome(getattr(keyhash_py, name), *arguments)


def test_constants_are_the_same() -> None:
    assert keyhash.KEY_BYTES == keyhash_py.KEY_BYTES == 16


@given(KEYS, MESSAGES)
def test_one(key: Any, message: Any) -> None:
    same("siphash128", key, message)


@given(KEYS, st.lists(st.binary(max_size=80), max_size=20) | st.lists(MESSAGES, max_size=10) | ODD)
def test_many(key: Any, messages: Any) -> None:
    same("siphash128_many", key, messages)


@given(st.data())
def test_rows_with_arrays_that_fit(data: st.DataObject) -> None:
    count, width = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 70))
    rows = data.draw(hnp.arrays(np.uint8, (count, width)))
    lengths = data.draw(hnp.arrays(np.uint16, count, elements=st.integers(0, width)))
    expected = np.zeros((count, 2), np.uint64)
    key = data.draw(st.binary(min_size=16, max_size=16))
    keyhash_py.siphash128_rows(key, rows, lengths, expected)
    for form in keyhash.FORMS:
        out = np.zeros((count, 2), np.uint64)
        keyhash.siphash128_rows(key, rows, lengths, out, form=form)
        assert out.tolist() == expected.tolist()


def arrays(dtype: str, *shape: int) -> st.SearchStrategy[Any]:
    """Arrays that fit, and each way in which one may not."""
    good = np.zeros(shape, dtype)
    frozen = good.copy()
    frozen.flags.writeable = False
    shifted = np.frombuffer(bytes(good.nbytes + 1), np.uint8)[1:].view(dtype).reshape(shape)
    bad = [
        frozen,
        shifted,
        good.astype(good.dtype.newbyteorder()),
        good.astype(np.int64),
        good.astype(np.float64),
        good.astype(object),
        good.reshape(1, *shape),
        good.reshape(-1),
        np.zeros((*shape[:-1], shape[-1] * 2), dtype)[..., ::2],
        np.zeros(tuple(size + 1 for size in shape), dtype),
        np.zeros((0,) * len(shape), dtype),
        np.asfortranarray(good),
        np.zeros((), dtype),
        np.full(shape, 60_000 if dtype == "uint16" else 1, dtype),
        good.view(type("Sub", (np.ndarray,), {})),
    ]
    return st.just(good) | st.sampled_from(bad) | ODD


@given(KEYS, arrays("uint8", 3, 10), arrays("uint16", 3), arrays("uint64", 3, 2))
def test_rows_with_hostile_arrays(key: Any, rows: Any, lengths: Any, out: Any) -> None:
    same("siphash128_rows", key, rows, lengths, out)
