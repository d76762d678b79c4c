"""Owns how twin tests compare: the outcome of a call is its value, or the type and message of its error."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ext


def outcome(function: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[Any, ...]:
    """("value", type, value) or ("error", type, message)."""
    try:
        value = function(*arguments, **named)
    except Exception as error:
        return "error", type(error), str(error)
    if isinstance(value, np.ndarray):
        return "value", value.dtype, value.shape, value.tolist()
    return "value", type(value), value


def compiled(name: str) -> ModuleType:
    """The compiled module, whichever form SHIKAKU_EXT chose; the test fails with the build command if it is missing."""
    chosen = getattr(ext, name)
    try:
        return importlib.import_module(f"ext.{name}")
    except ImportError:
        pytest.fail(f"ext.{name} is not compiled: run `make build`", pytrace=False)
    finally:
        # The import put the compiled module where others look for the chosen one.
        setattr(ext, name, chosen)
