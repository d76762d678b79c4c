"""ext/pages and its twin read an LMDB file as LMDB does: whatever is in it, beside a writer, and when damaged."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import shm
from ext import pages_py
from tests.support.outcomes import compiled, outcome

pages = compiled("pages")

MAP_BYTES = 1 << 28
NAME = b"versions"
ROOT = Path(__file__).parents[2]


class Made:
    """An environment, and what both forms and LMDB itself find in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = lmdb.open(os.fspath(folder), map_size=MAP_BYTES, max_dbs=4, lib_version=0)
        self.db = self.env.open_db(NAME)
        self._files: list[shm.Window] = []
        self._held: list[Any] = []

    def put(self, entries: dict[bytes, bytes]) -> None:
        with self.env.begin(write=True, db=self.db) as txn:
            for key, value in entries.items():
                txn.put(key, value)

    def files(self) -> tuple[Any, Any]:
        data, lock = shm.Window(self.folder / "data.mdb", MAP_BYTES), shm.Window(self.folder / "lock.mdb", 4096)
        self._files += [data, lock]
        return data.buffer, lock.buffer

    def forms(self, name: bytes = NAME) -> list[Any]:
        made = [form.Pages(*self.files(), name) for form in (pages, pages_py)]
        self._held += made
        return made

    def truth(self, wanted: bytes) -> tuple[bytes, bytes] | None:
        with self.env.begin(db=self.db) as txn:
            cursor = txn.cursor()
            # LMDB has no empty keys, and refuses to look for one.
            found = cursor.set_range(wanted) if wanted else cursor.first()
            return cursor.item() if found else None

    def close(self) -> None:
        for form in self._held:
            form.release()
        self.env.close()
        for file in self._files:
            file.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    one = Made(tmp_path)
    yield one
    one.close()


def filled(made: Made, count: int, chance: random.Random) -> list[bytes]:
    """Keys as records have them, with values short, long, and on pages of their own."""
    sizes = (0, 30, 300, 330, 1500, 2030, 4080, 9000)
    keys = [struct.pack(">IQ", 3 * number, 2**64 - 1 - number) for number in range(count)]
    made.put({key: chance.randbytes(chance.choice(sizes[: 4 if count > 1000 else 8])) for key in keys})
    return keys


@pytest.mark.parametrize("count", [0, 1, 2, 40, 400, 30_000])
def test_entries_are_those_of_lmdb(made: Made, count: int) -> None:
    chance = random.Random(count)
    keys = filled(made, count, chance)
    compiled_form, twin = made.forms()
    wanted = [b"", b"\0", b"\xff" * 12, b"\xff" * 511]
    for key in keys if count <= 400 else chance.sample(keys, 2_000):
        number, inverted = struct.unpack(">IQ", key)
        wanted += [key, key[:4], key + b"\0", struct.pack(">IQ", number, 0), struct.pack(">IQ", number, 2**64 - 1)]
        wanted += [struct.pack(">IQ", number + 1, 0), struct.pack(">IQ", number, inverted - 1 & 2**64 - 1)]
    for key in wanted:
        assert compiled_form.seek(key) == twin.seek(key) == made.truth(key)


def test_every_commit_is_seen_at_once(made: Made) -> None:
    forms = made.forms()
    for number in range(200):
        key = struct.pack(">IQ", number, 1)
        assert [form.seek(key) for form in forms] == [None] * 2
        made.put({key: bytes(number)})
        assert [form.seek(key) for form in forms] == [(key, bytes(number))] * 2
        assert [form.txnid for form in forms] == [made.env.info()["last_txnid"]] * 2


def test_where_the_tree_is_told_with_its_commit(made: Made) -> None:
    forms = made.forms()
    for count in (0, 1, 300, 9_000):
        made.put({struct.pack(">IQ", number, 1): bytes(100) for number in range(count)})
        told = [form.tree() for form in forms]
        with made.env.begin(db=made.db) as txn:
            assert told[0] == told[1] and told[0][0] == txn.id()
            assert (told[0][1], told[0][3]) == (txn.stat()["psize"], txn.stat()["depth"])
            assert (told[0][2] == 0) == (count == 0)
    assert [form.tree() for form in made.forms(b"nothing")] == [None] * 2


def test_what_is_deleted_is_gone(made: Made) -> None:
    chance = random.Random(5)
    keys = filled(made, 400, chance)
    forms = made.forms()
    while keys:
        gone = [keys.pop(chance.randrange(len(keys))) for _ in range(min(len(keys), 40))]
        with made.env.begin(write=True, db=made.db) as txn:
            for key in gone:
                txn.delete(key)
        for key in gone:
            assert [form.seek(key) for form in forms] == [made.truth(key)] * 2


def test_a_database_that_is_not_there_is_for_lmdb_to_tell(made: Made) -> None:
    made.put({b"key": b"value"})
    for name in (b"version", b"versionsx", b"", b"other"):
        assert [form.seek(b"key") for form in made.forms(name)] == [(), ()]


def test_a_database_with_flags_is_for_lmdb_to_tell(made: Made) -> None:
    db = made.env.open_db(b"doubles", dupsort=True)
    with made.env.begin(write=True, db=db) as txn:
        txn.put(b"key", b"value")
        txn.put(b"key", b"other")
    assert [form.seek(b"key") for form in made.forms(b"doubles")] == [(), ()]


def test_the_file_may_grow_behind_what_was_there_when_it_was_mapped(made: Made) -> None:
    forms = made.forms()
    size = (made.folder / "data.mdb").stat().st_size
    keys = filled(made, 30_000, random.Random(1))
    assert (made.folder / "data.mdb").stat().st_size > 10 * size
    assert [form.seek(keys[-1]) for form in forms] == [made.truth(keys[-1])] * 2


WRITER = """
import lmdb, random, struct, sys, zlib
env = lmdb.open(sys.argv[1], map_size=1 << 28, max_dbs=4, lib_version=0)
db = env.open_db(b"versions")
chance = random.Random(7)
for turn in range(10**9):
    with env.begin(write=True, db=db) as txn:
        for _ in range(chance.choice((1, 1, 10, 100))):
            number = chance.randrange(2_000)
            key = struct.pack(">IQ", number, 5)
            body = struct.pack(">Q", turn) * chance.choice((1, 40, 100, 250, 600))
            txn.put(key, body + struct.pack("<I", zlib.crc32(body)))
            if chance.random() < 0.3:
                txn.delete(struct.pack(">IQ", chance.randrange(2_000), 5))
"""


@pytest.mark.parametrize("form", [0, 1], ids=["compiled", "twin"])
def test_what_is_read_beside_a_writer_is_whole(made: Made, form: int) -> None:
    """Pages are freed and written again all the time: nothing torn, nothing of another key, nothing from before."""
    filled(made, 2_000, random.Random(2))
    reader = made.forms()[form]
    newest: dict[bytes, int] = {}
    chance = random.Random(3)
    seen = unsure = 0
    with subprocess.Popen([sys.executable, "-c", WRITER, os.fspath(made.folder)], cwd=ROOT) as writer:
        try:
            while seen < (20_000 if form == 0 else 3_000) or len(newest) < 500:
                assert writer.poll() is None
                wanted = struct.pack(">IQ", chance.randrange(2_000), 5)
                found = reader.seek(wanted)
                unsure += found == ()
                if not found or found[1][-4:] != struct.pack("<I", zlib.crc32(found[1][:-4])):
                    # The first 2,000 hold other values until the writer has replaced them; those have even keys of 3.
                    continue
                key, value = found
                assert key >= wanted and key[4:] == wanted[4:]
                turn = struct.unpack_from(">Q", value)[0]
                assert turn >= newest.get(key, 0)
                newest[key] = turn
                seen += 1
        finally:
            writer.kill()
    assert unsure < seen


@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_read_alike_and_never_beyond_their_end(pristine: tuple[bytes, bytes], seed: int) -> None:
    chance = random.Random(seed)
    data, lock = bytearray(pristine[0]), bytearray(pristine[1])
    for _ in range(chance.choice((1, 3, 30, 300))):
        at = chance.randrange(len(data)) if chance.random() < 0.5 else 4096 * chance.randrange(len(data) // 4096)
        at = min(at + chance.randrange(160), len(data) - 1)
        data[at] = chance.choice((0, 1, 2, 4, 15, 16, 255, chance.randrange(256)))
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    if chance.random() < 0.2:
        lock[chance.randrange(64)] = chance.randrange(256)
    made = [outcome(form.Pages, bytes(data), bytes(lock), NAME) for form in (pages, pages_py)]
    if "error" in (made[0][0], made[1][0]):
        assert made[0] == made[1]
        return
    for _ in range(10):
        wanted = struct.pack(">IQ", chance.randrange(1_300), chance.choice((0, 2**64 - 1)))
        assert outcome(made[0][2].seek, wanted) == outcome(made[1][2].seek, wanted)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    made = Made(tmp_path_factory.mktemp("pristine"))
    filled(made, 400, random.Random(4))
    found = tuple((made.folder / name).read_bytes() for name in ("data.mdb", "lock.mdb"))
    made.close()
    return found[0], found[1]


@pytest.mark.parametrize("data", [b"", bytes(100), bytes(8192), None, "x"], ids=["", "short", "zeros", "None", "text"])
@pytest.mark.parametrize("name", [NAME, "versions", None])
def test_what_is_no_environment_is_refused(pristine: tuple[bytes, bytes], data: Any, name: Any) -> None:
    for given_data, lock in ((data, pristine[1]), (pristine[0], data)):
        assert outcome(pages.Pages, given_data, lock, name)[0] == "error"
        if isinstance(given_data, bytes) and isinstance(lock, bytes):
            assert outcome(pages.Pages, given_data, lock, name) == outcome(pages_py.Pages, given_data, lock, name)


def test_nothing_is_read_after_release(made: Made) -> None:
    made.put({b"key": b"value"})
    for form in made.forms():
        form.release()
        form.release()
        assert outcome(getattr, form, "txnid") == outcome(form.seek, b"key")
        assert outcome(form.seek, b"key")[0] == "error"
        assert outcome(form.seek, "key")[0] == "error"


def test_memory_stays_mapped_while_it_is_read(made: Made) -> None:
    window = shm.Window(made.folder / "data.mdb", MAP_BYTES)
    form = pages.Pages(window.buffer, (made.folder / "lock.mdb").read_bytes(), NAME)
    with pytest.raises(BufferError):
        window.close()
    form.release()
    window.close()
    window.close()
