"""Owns what a target of fuzzing is: where to begin, and what is done with an input; and the list of all there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

NAMES = ("lane", "ordinary", "record", "many", "connection", "pages", "outline", "sheet")
"""Files of tests/fuzz/targets; each has `target`."""


class Target(NamedTuple):
    """One scanner, driven by bytes.

    Args:
        seeds: inputs from which others are made; the scanner takes most of them.
        words: what is put into inputs, besides single bytes.
        run: gives an input to the compiled form. Raises AssertionError if what it says cannot be.
        compare: gives it to both forms. Raises AssertionError if they differ; does all that `run` does.
    """

    seeds: Sequence[bytes]
    words: Sequence[bytes]
    run: Callable[[bytes], None]
    compare: Callable[[bytes], None]


def of(name: str, folder: Path) -> Target:
    """The target of that name. What it needs on disk it puts into `folder`, which is empty."""
    made: Target = importlib.import_module(f"tests.fuzz.targets.{name}").target(folder)
    return made
