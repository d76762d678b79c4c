"""What `make fuzz` does with an input is done here to a few, without a fuzzer: the targets must not rot."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import target
from tests.support import streams

SEEDS = 60


@pytest.mark.parametrize("name", target.NAMES)
def test_a_target_holds_for_its_seeds_and_near_them(tmp_path: Path, name: str) -> None:
    made = target.of(name, tmp_path)
    chance = random.Random(name)
    for seed in (b"", *chance.sample(list(made.seeds), min(SEEDS, len(made.seeds)))):
        made.run(seed)
        for data in (seed, streams.mutated(chance, seed)):
            made.compare(data)


def test_every_target_is_listed() -> None:
    folder = Path(target.__file__).with_name("targets")
    assert sorted(path.stem for path in folder.glob("*.py")) == sorted(target.NAMES)
