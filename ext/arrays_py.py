"""Owns what is asked of every array that a caller lends to a twin: ext/arrays.pxd in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def checked_array(value: object, name: str, kind: str, dimensions: int) -> NDArray[Any]:
    """TypeError or ValueError unless `value` is an aligned C-contiguous array of this dtype in native byte order."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, not {type(value).__name__}")
    if value.dtype != kind:
        raise ValueError(f"{name} must have the dtype {kind}")
    if value.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension(s)")
    if not value.flags.c_contiguous or not value.flags.aligned:
        raise ValueError(f"{name} must be C-contiguous and aligned")
    return value


def writeable_array(value: object, name: str, kind: str, dimensions: int) -> NDArray[Any]:
    """As checked_array, and it may be written to."""
    array = checked_array(value, name, kind, dimensions)
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writeable")
    return array
