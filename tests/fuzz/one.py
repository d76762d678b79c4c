"""Owns the process in which libFuzzer drives one target; tests/fuzz/run.py starts it, beside the sanitizers."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import atheris

import ext.lane
from tests.fuzz import target


def dictionary(words: Sequence[bytes]) -> str:
    """As libFuzzer reads it."""
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words if word)


def main(name: str, tree: str, corpus: str, every: str, *options: str) -> None:
    """Drive a target; every so many inputs are given to the Python form too."""
    assert Path(ext.lane.__file__).is_relative_to(tree), "these are not the instrumented modules"
    folder = tempfile.TemporaryDirectory(prefix="shikaku-fuzz-")
    chosen = target.of(name, Path(folder.name))
    turn, turns = 0, int(every)

    def look(data: bytes) -> None:
        nonlocal turn
        turn += 1
        if turn % turns:
            chosen.run(data)
        else:
            chosen.compare(data)

    seeds = Path(corpus) / "seeds"
    for number, seed in enumerate(chosen.seeds):
        (seeds / f"{number:04}").write_bytes(seed)
    words = Path(corpus) / "words"
    words.write_text(dictionary(chosen.words))
    atheris.Setup([sys.argv[0], f"-dict={words}", *options], look, internal_libfuzzer=False)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
