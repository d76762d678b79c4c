"""The ledger and its Python twin write the same bytes and the same tree, and fail and go on in the same way."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
import time
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext import ledger_py
from tests.support import ledgers
from tests.support.outcomes import compiled, outcome

ledger = compiled("ledger")
FORMS = pytest.mark.parametrize("form", [ledger, ledger_py], ids=["compiled", "python"])


def written(folder: Path) -> dict[str, bytes]:
    """Every file of a log, without the zeros that a segment is filled with."""
    return {path.name: path.read_bytes().rstrip(b"\0") for path in folder.iterdir()}


def settled_head(one: Any) -> tuple[int, bytes]:
    """The tree, once the last batch is in it."""
    until = time.monotonic() + 10
    while one.head()[0] < one.entries and time.monotonic() < until:
        time.sleep(0.001)
    return one.head()  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(8))
def test_both_write_the_same(tmp_path: Path, seed: int) -> None:
    pair = [ledgers.opened(form, tmp_path / name) for form, name in ((ledger, "compiled"), (ledger_py, "python"))]
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 5, 40))):
        for _ in range(chance.choice((1, 2, 64, 300))):
            facts = ledgers.facts(chance)
            assert pair[0].append(**facts) == pair[1].append(**facts)
        assert ledgers.save(pair[0]) == ledgers.save(pair[1]) == (pair[0].entries, 0)
        assert settled_head(pair[0]) == settled_head(pair[1])
    for one in pair:
        one.close()
    assert written(tmp_path / "compiled") == written(tmp_path / "python")
    assert pair[0].name(7) == pair[1].name(7) == b"3-7"


def leaves_of(folder: Path) -> list[bytes]:
    """The hash of every entry, as a reader finds them."""
    found = []
    for path in sorted(folder.glob("segment-0*")):
        data, at = path.read_bytes(), 4096
        while at + 8 <= len(data) and (size := int.from_bytes(data[at + 4 : at + 6], "little")):
            found.append(hashlib.sha256(b"\0" + data[at + 8 : at + 8 + size]).digest())
            at += 8 + size + data[at + 6]
    return found


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


@FORMS
def test_the_tree_is_that_of_the_rfc(form: ModuleType, tmp_path: Path) -> None:
    one, chance = ledgers.opened(form, tmp_path), random.Random(1)
    assert one.head() == (0, hashlib.sha256(b"").digest())
    for count in (1, 1, 253, 1, 1, 300, 700):
        for _ in range(count):
            one.append(**ledgers.facts(chance))
        ledgers.save(one)
        leaves = leaves_of(tmp_path)
        assert settled_head(one) == (len(leaves), tree_hash(leaves))
    assert (tmp_path / "level-0").read_bytes() == b"".join(leaves)
    complete = range(0, len(leaves) // 256 * 256, 256)
    assert (tmp_path / "level-1").read_bytes() == b"".join(tree_hash(leaves[at : at + 256]) for at in complete)


@FORMS
def test_a_segment_that_lies_ready_is_begun(form: ModuleType, tmp_path: Path) -> None:
    one, chance = ledgers.opened(form, tmp_path, segment_bytes=32_768), random.Random(2)
    begun = 0
    for _ in range(600):
        one.append(**ledgers.facts(chance))
        ledgers.save(one)
        if one.wants_segment:
            ready = os.open(tmp_path / "segment-next", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            os.write(ready, bytes(32_768))
            one.provide(ready)
            begun += 1
            assert not one.wants_segment
    assert begun > 2
    with pytest.raises(ValueError, match="a segment lies ready"):
        one.provide(os.open(tmp_path / "segment-next", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC))
        one.provide(1)
    one.close()
    assert len(leaves_of(tmp_path)) == 600
    firsts = sorted(int(path.name.removeprefix("segment-"), 16) for path in tmp_path.glob("segment-0*"))
    for first in firsts[1:]:
        head = (tmp_path / f"segment-{first:016x}").read_bytes()[:64]
        assert (head[:8], int.from_bytes(head[8:16], "little")) == (b"SHKSEG1\0", first)
        assert (head[16:32], int.from_bytes(head[32:36], "little")) == (b"l" * 16, 3)
        assert (tmp_path / f"segment-{first:016x}").stat().st_size == 32_768


@FORMS
def test_after_an_error_nothing_is_recorded_until_it_goes_on(form: ModuleType, tmp_path: Path) -> None:
    one, chance = ledgers.opened(form, tmp_path), random.Random(3)
    for _ in range(20):
        one.append(**ledgers.facts(chance))
    ledgers.save(one)
    size, root = settled_head(one)
    # A descriptor that cannot be written stands for a disk that cannot.
    bad = ledgers.files(tmp_path / "other")
    os.close(bad["segment_fd"])
    bad["segment_fd"] = os.open(tmp_path / "other" / "segment-0000000000000000", os.O_RDONLY | os.O_CLOEXEC)
    one.close()
    one.resume(**bad)
    one.append(**ledgers.facts(chance))
    assert ledgers.save(one) == (0, errno.EBADF)
    assert outcome(one.append, **ledgers.facts(chance))[1] is OSError
    assert one.head()[0] == 0
    one.close()
    with pytest.raises(OSError):
        one.cut()
    good = ledgers.files(tmp_path)
    at = len((tmp_path / "segment-0000000000000000").read_bytes().rstrip(b"\0"))
    filled = (tmp_path / "segment-0000000000000000").stat().st_size
    kept = [tree_hash(leaves_of(tmp_path)[:16]), tree_hash(leaves_of(tmp_path)[16:])]
    one.resume(**good | {"offset": at, "filled": filled, "entries": size, "nodes": kept})
    assert one.head() == (size, root)
    assert one.append(**ledgers.facts(chance)) == size
    assert ledgers.save(one) == (size + 1, 0)
    one.close()
    assert tree_hash(leaves_of(tmp_path)) == one.head()[1]


@FORMS
def test_what_was_not_written_whole_is_cut(form: ModuleType, tmp_path: Path) -> None:
    one, chance = ledgers.opened(form, tmp_path), random.Random(4)
    for _ in range(5):
        one.append(**ledgers.facts(chance))
    ledgers.save(one)
    one.close()
    path = tmp_path / "segment-0000000000000000"
    whole = len(path.read_bytes().rstrip(b"\0"))
    with path.open("r+b") as file:
        file.seek(whole)
        file.write(b"half of a frame")
    one.cut()
    assert path.stat().st_size >= whole and leaves_of(tmp_path)[5:] == []
    assert not any(path.read_bytes()[whole:])


@FORMS
def test_what_waits_is_written_at_the_close(form: ModuleType, tmp_path: Path) -> None:
    one, chance = ledgers.opened(form, tmp_path), random.Random(5)
    for _ in range(5):
        one.append(**ledgers.facts(chance))
    one.close()
    assert one.settle() == (5, 0) and len(leaves_of(tmp_path)) == 5
    assert one.flushes[0] == 1


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=204), st.binary(max_size=32)), max_size=12), st.integers(0))
def test_both_find_the_same_frames(parts: list[tuple[bytes, bytes]], seed: int) -> None:
    data, chance = bytearray(), random.Random(seed)
    for entry, private in parts:
        rest = struct.pack("<HBB", len(entry), len(private), 0) + entry + private
        data += struct.pack("<I", zlib.crc32(rest)) + rest
    for _ in range(chance.choice((0, 0, 1, 3))):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    cut = bytes(data[: chance.choice((len(data), chance.randrange(len(data) + 1)))]) + bytes(chance.choice((0, 9)))
    for start in (0, len(cut), chance.randrange(len(cut) + 1)):
        assert ledger.scan(cut, start) == ledger_py.scan(cut, start)
    for bad in (-1, len(cut) + 1):
        assert outcome(ledger.scan, cut, bad) == outcome(ledger_py.scan, cut, bad)
    assert outcome(ledger.scan, bytearray(cut), 0) == outcome(ledger_py.scan, bytearray(cut), 0)


def test_what_is_not_as_it_must_be_is_refused(tmp_path: Path) -> None:
    pair = [ledgers.opened(form, tmp_path / name) for form, name in ((ledger, "compiled"), (ledger_py, "python"))]
    plain = ledgers.facts(random.Random(6))
    for bad in (
        {"kind": 256}, {"kind": -1}, {"purpose": 256}, {"verdict": 256}, {"flags": 65536}, {"as_of": -800_000},
        {"caller": b"x" * 17}, {"caller": "x"}, {"inquiry": b"x"}, {"inquiry": "x" * 16}, {"body": "x"}, {"mark": "x"},
        {"version": -1}, {"version": 2**64}, {"person": -1},
    ):  # fmt: skip
        found = [outcome(one.append, **plain | bad) for one in pair]
        assert found[0][0] == found[1][0] == "error", bad
    for one in pair:
        assert outcome(one.append_answer, None, b"", b"")[1] is TypeError
        assert one.entries == 0
        assert outcome(one.resume, **ledgers.files(tmp_path / "more"))[1] is ValueError
        assert outcome(one.cut)[1] is ValueError
        one.close()
    for form in (ledger, ledger_py):
        for bad in ({"log_id": b"x"}, {"level_fds": []}, {"nodes": [b"x" * 32]}, {"entries": 1}, {"code_key": b"x"}):
            given = ledgers.files(tmp_path / "more") | ledgers.KEYS | {"slot": 1, "log_id": b"l" * 16}
            assert outcome(form.Ledger, **given | {"segment_bytes": 4096} | bad)[1] is ValueError, bad
