"""Owns the way to absl's flat_hash_map (flat.cc), which is compiled when it is first wanted."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("flat.cc")
FOLDER = Path(__file__).parents[2] / "var" / "peers"
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_uint64


class FlatMissing(Exception):
    """It cannot be built here; the message says what is needed."""


def library() -> ctypes.CDLL:
    """The compiled map. Raises FlatMissing."""
    built = FOLDER / "flat.so"
    if not built.exists() or built.stat().st_mtime < SOURCE.stat().st_mtime:
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        if compiler is None:
            raise FlatMissing("needs a C++ compiler (Debian: g++)")
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [compiler, "-O3", "-std=c++17", "-shared", "-fPIC", "-o", str(built), str(SOURCE)]
        command += ["-labsl_raw_hash_set", "-labsl_hash", "-labsl_city", "-labsl_low_level_hash"]
        if subprocess.run(command, capture_output=True, timeout=300).returncode:
            raise FlatMissing("needs absl (Debian: libabsl-dev)")
    loaded = ctypes.CDLL(str(built))
    loaded.flat_make.restype, loaded.flat_make.argtypes = _POINTER, [_COUNT]
    loaded.flat_insert.restype, loaded.flat_insert.argtypes = None, [_POINTER, _POINTER, _POINTER, _COUNT]
    loaded.flat_bytes.restype, loaded.flat_bytes.argtypes = _COUNT, [_POINTER]
    loaded.flat_free.restype, loaded.flat_free.argtypes = None, [_POINTER]
    for find in (loaded.flat_find, loaded.flat_find_ahead):
        find.restype, find.argtypes = _COUNT, [_POINTER, _POINTER, _COUNT, _POINTER]
    return loaded


class Flat:
    """A map from hashes, uint64 (n, 2), to person numbers above 0, with room for so many keys."""

    def __init__(self, keys: int) -> None:
        self._library = library()
        self._map = self._library.flat_make(keys)

    def insert(self, hashes: NDArray[np.uint64], persons: NDArray[np.uint32]) -> None:
        assert hashes.flags.c_contiguous and persons.flags.c_contiguous and len(hashes) == len(persons)
        self._library.flat_insert(self._map, hashes.ctypes.data, persons.ctypes.data, len(hashes))

    def find(self, hashes: NDArray[np.uint64], persons: NDArray[np.uint32], *, ahead: bool) -> int:
        """Write the person of each hash, 0 for none. Returns how many were found."""
        assert hashes.flags.c_contiguous and persons.flags.c_contiguous and len(hashes) == len(persons)
        find = self._library.flat_find_ahead if ahead else self._library.flat_find
        return int(find(self._map, hashes.ctypes.data, len(hashes), persons.ctypes.data))

    @property
    def bytes(self) -> int:
        """How much memory it holds."""
        return int(self._library.flat_bytes(self._map))

    def close(self) -> None:
        self._library.flat_free(self._map)
