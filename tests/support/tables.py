"""Owns how tests get tables, segments and entries to put in: aligned memory, random keys from a seed."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.entries import ENTRY_DTYPE
from ext import probe

STORE_ID = bytes(range(16))
KEY_ID = b"key-id-8"
Batch = tuple[NDArray[np.uint32], NDArray[np.void]]
FORMS = [probe.FORM_VERSIONED] + [probe.FORM_ATOMIC16] * probe.atomic16_supported()
"""The forms that this processor can use."""


def memory(lines: int, form: int, module: ModuleType = probe) -> mmap.mmap:
    """A formatted buffer, aligned as a mapping is."""
    buffer = mmap.mmap(-1, module.segment_bytes(lines))
    module.format(buffer, form=form, lines=lines)
    return buffer


def table(lines: int, form: int, module: ModuleType = probe, **options: Any) -> Any:
    """An empty table for writing that sees provisional entries."""
    return module.Table(memory(lines, form, module), **{"writable": True, "provisional": True, **options})


def hashes(count: int, seed: int) -> NDArray[np.uint64]:
    """Random 128-bit hashes, as uint64 (n, 2)."""
    return np.random.default_rng(seed).integers(0, 2**64, (count, 2), dtype=np.uint64)


def batch(keys: NDArray[np.uint64], first_person: int = 1, seed: int = 0) -> Batch:
    """One entry for each key with days and aux from a seed, and person numbers in order."""
    random = np.random.default_rng(seed)
    entries = np.zeros(len(keys), ENTRY_DTYPE)
    entries["hash"] = np.ascontiguousarray(keys).view("V16").reshape(-1)
    entries["gained"] = random.integers(0, 2**16, len(keys))
    entries["lost"] = random.integers(0, 2**16, len(keys))
    entries["aux"] = random.integers(0, 2**14, len(keys)) << 2
    return np.arange(first_person, first_person + len(keys), dtype=np.uint32), entries


def rows_of(persons: NDArray[np.uint32], entries: NDArray[np.void]) -> list[tuple[bytes, tuple[int, int, int, int]]]:
    """(digest, (person, gained, lost, aux)) of each entry, in Python's types."""
    columns = zip(
        persons.tolist(), entries["gained"].tolist(), entries["lost"].tolist(), entries["aux"].tolist(), strict=True
    )
    return list(zip(map(bytes, entries["hash"]), columns, strict=True))


def packed(rows: Iterable[tuple[bytes, tuple[int, int, int, int]]]) -> Batch:
    """The opposite of `rows_of`."""
    listed = list(rows)
    entries = np.array(
        [(np.void(digest), gained, lost, aux, 1) for digest, (_, gained, lost, aux) in listed], ENTRY_DTYPE
    )
    return np.array([row[0] for _, row in listed], np.uint32), entries.reshape(-1)
