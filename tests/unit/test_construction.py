"""engine/construction: what is begun with too little room grows, and readers have all of it in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.construction import Construction
from engine.index import IndexReader, IndexWriter
from tests.support import tables
from tests.support.tables import KEY_ID, STORE_ID, Batch


def batches(count: int, seed: int) -> list[Batch]:
    return [tables.batch(tables.hashes(count, seed + n)) for n in range(5)]


@pytest.mark.parametrize("keys", [1, 1_000, 4_999, 5_000, 20_000])
def test_an_estimate_that_was_too_small_is_mended(tmp_path: Path, keys: int) -> None:
    """A load that went on from a store with more entries than estimated filled its table to the brim, and failed."""
    index = IndexWriter.create(tmp_path, store_id=STORE_ID, key_id=KEY_ID, keys=10)
    construction = Construction(index, keys)
    all_, asked = batches(1_000, 7), []

    def source() -> Iterator[Batch]:
        asked.append(construction.segment_bytes)
        yield from all_

    construction.begin_anew(keys, source)
    assert construction.count == 5_000 and construction.has_room(0)
    assert len(asked) == len(set(asked)) and (len(asked) > 1) == (keys < 4_990)
    construction.finish(3)
    reader = IndexReader.attach(tmp_path, store_id=STORE_ID, key_id=KEY_ID)
    for _, entries in all_:
        hashes = np.frombuffer(entries["hash"].tobytes(), "<u8").reshape(-1, 2).astype(np.uint64)
        assert reader.find_many(hashes)[0].all()
    assert len(list(tmp_path.glob("*.seg"))) == 1, "what was too small is gone"
    reader.close()
    index.close()
