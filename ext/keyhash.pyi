"""Owns the keyed hash of identifiers: SipHash-2-4 with 128-bit output, for one message and for many."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

KEY_BYTES: Final = 16

FORMS: tuple[str, ...]
"""What `siphash128_rows` can run on here, the fastest last: `scalar`, `avx2`, `avx512`; `python` in the twin."""
FORM: str
"""The fastest of them: what is used unless something else is asked for."""

def siphash128(key: bytes, message: bytes) -> bytes:
    """Hash one message.

    Returns: 16 bytes, as in the authors' reference implementation.
    Raises: TypeError, ValueError if the key has not KEY_BYTES bytes.
    """

def siphash128_many(key: bytes, messages: list[bytes]) -> NDArray[np.uint64]:
    """Hash a list of messages, eight at a time.

    Returns: uint64, shape (n, 2); a row is [lo, hi], the 16 bytes of `siphash128` read little-endian.
    """

def siphash128_rows(
    key: bytes,
    rows: NDArray[np.uint8],
    lengths: NDArray[np.uint16],
    out: NDArray[np.uint64],
    *,
    form: str = ...,
) -> None:
    """Hash the rows of a matrix, eight at a time.

    Args:
        rows: uint8, shape (n, w), C-contiguous.
        lengths: uint16, shape (n,): how many bytes of each row are its message; at most w.
        out: uint64, shape (n, 2), writeable, C-contiguous, no part of the others; receives [lo, hi] of each row.
        form: one of FORMS (for tests and as the reference of benchmarks).
    Raises: TypeError, ValueError; then nothing is written.
    Takes no lock; releases the GIL.
    """
