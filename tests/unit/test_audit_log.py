"""Tests of engine/audit/log: what was appended stays, and a log that lost what it signed is refused."""

from __future__ import annotations

import os
import random
import shutil
import threading
from pathlib import Path

import pytest

from engine.audit import frames, log, merkle, notes
from engine.audit.log import LogReader, LogWriter
from engine.audit.notes import Policy
from engine.errors import (
    AuditDamagedError,
    AuditEntryError,
    AuditLockedError,
    AuditMissingError,
    AuditRangeError,
    StoreFullError,
    StorePoisonedError,
)
from tests.models import merkle as model
from tests.support.audit import SEGMENT_BYTES, make_log, signer, some_entries

COUNT = 700


def reopened(folder: Path) -> LogWriter:
    return LogWriter(folder, signer(), segment_bytes=SEGMENT_BYTES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    folder = tmp_path_factory.mktemp("audit") / "log"
    return folder, make_log(folder, COUNT)


def test_entries_hashes_roots_and_proofs_are_those_of_the_model(made: tuple[Path, list[bytes]]) -> None:
    folder, entries = made
    with LogReader(folder) as reader:
        assert reader.size == COUNT and len(reader.segments) > 3
        assert list(reader.entries(0, COUNT)) == entries
        for start, end in ((0, 0), (5, 6), (99, 350), (COUNT, COUNT)):
            assert list(reader.entries(start, end)) == entries[start:end]
        assert [reader.entry(index) for index in (0, 128, 699)] == [entries[0], entries[128], entries[699]]
        assert reader.frame(3) == (entries[3], b"sealed")
        for size in (0, 1, 255, 256, 257, 512, 699, 700):
            assert reader.root(size) == model.root(entries[:size])
        assert reader.inclusion_proof(300, COUNT) == model.path(300, entries)
        assert reader.consistency_proof(257, COUNT) == model.proof(257, entries)
        assert reader.tile(0, 2, 188) == merkle.leaf_hashes(entries[512:])
        assert reader.tile(1, 0, 2) == model.root(entries[:256]) + model.root(entries[256:512])


def test_the_checkpoint_and_the_key_are_the_logs(made: tuple[Path, list[bytes]]) -> None:
    folder, entries = made
    assert (folder / "vkey").read_text() == f"{signer().verifier.vkey}\n"
    found = notes.check((folder / "checkpoint").read_bytes(), Policy(signer().verifier)).checkpoint
    assert (found.size, found.root) == (COUNT, model.root(entries))


@pytest.mark.parametrize("missing", ["level-0", "level-1", "both", "short", "none"])
def test_what_level_files_lack_is_computed(made: tuple[Path, list[bytes]], tmp_path: Path, missing: str) -> None:
    folder, entries = made
    shutil.copytree(folder, tmp_path / "log")
    for name in ("level-0", "level-1"):
        if missing in (name, "both"):
            (tmp_path / "log" / name).unlink()
    if missing == "short":
        os.truncate(tmp_path / "log" / "level-0", 301 * 32 + 5)
        os.truncate(tmp_path / "log" / "level-1", 32)
    with LogReader(tmp_path / "log") as reader:
        assert reader.root(COUNT) == model.root(entries)
        assert reader.inclusion_proof(2, 600) == model.path(2, entries[:600])
    with reopened(tmp_path / "log") as writer:
        assert writer.root == model.root(entries)
    for name in ("level-0", "level-1"):
        assert (tmp_path / "log" / name).read_bytes() == (folder / name).read_bytes()


def test_wrong_level_files_are_made_anew(made: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    folder, entries = made
    shutil.copytree(folder, tmp_path / "log")
    (tmp_path / "log" / "level-0").write_bytes(bytes(COUNT * 32))
    (tmp_path / "log" / "level-1").write_bytes(bytes(64))
    with reopened(tmp_path / "log") as writer:
        assert writer.root == model.root(entries)
    assert (tmp_path / "log" / "level-0").read_bytes() == merkle.leaf_hashes(entries)


def test_what_is_outside_the_log_is_refused(made: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    with LogReader(made[0]) as reader:
        for call in (
            lambda: reader.entry(COUNT),
            lambda: reader.entry(-1),
            lambda: list(reader.entries(0, COUNT + 1)),
            lambda: reader.root(COUNT + 1),
            lambda: reader.tile(1, 0, 3),
            lambda: reader.inclusion_proof(COUNT, COUNT),
        ):
            with pytest.raises(AuditRangeError):
                call()
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AuditMissingError):
            LogReader(folder)


def test_a_log_grows_over_many_openings_as_in_one(tmp_path: Path) -> None:
    entries, chance, at = some_entries(600), random.Random(3), 0
    while at < len(entries):
        with reopened(tmp_path / "log") as writer:
            assert writer.size == at and writer.root == model.root(entries[:at])
            for _ in range(chance.randrange(3)):
                step = chance.choice([0, 1, 7, 90])
                assert writer.append(entries[at : at + step]) == at
                at = writer.size
            if chance.random() < 0.5:
                writer.sign_checkpoint()
    with LogReader(tmp_path / "log") as reader:
        assert list(reader.entries(0, at)) == entries[:at]
        assert reader.root(at) == model.root(entries[:at])


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with reopened(tmp_path / "log"):
        assert log.has_writer(tmp_path / "log")
        with pytest.raises(AuditLockedError):
            reopened(tmp_path / "log")
    assert not log.has_writer(tmp_path / "log")
    reopened(tmp_path / "log").close()


def test_an_entry_that_does_not_fit_appends_nothing(tmp_path: Path) -> None:
    with reopened(tmp_path / "log") as writer:
        with pytest.raises(AuditEntryError):
            writer.append([b"good", b""])
        assert writer.size == 0
        writer.append([b"good"])
        assert writer.size == 1


# --- recovery -------------------------------------------------------------------------------------------------------


def last_segment(folder: Path) -> Path:
    return max(folder.glob("segment-*"))


def test_a_segment_cut_or_torn_at_any_byte_of_its_last_frames_recovers(tmp_path: Path) -> None:
    """Truncated there, and filled with zeros, with remains of something else, or with an old frame from there on."""
    folder = tmp_path / "log"
    with reopened(folder) as writer:
        entries = some_entries(5)
        writer.append(entries[:3])
        writer.sign_checkpoint()
        writer.append(entries[3:])
    segment = last_segment(folder)
    whole = segment.read_bytes()
    made = frames.encode_each(entries)
    signed_end = 4096 + sum(map(len, made[:3]))
    end = signed_end + sum(map(len, made[3:]))
    for at in range(signed_end, end):
        for rest in (b"", bytes(500), b"\x5a" * 500, whole[at + 1 : at + 501]):
            segment.write_bytes(whole[:at] + rest)
            with reopened(folder) as writer:
                kept = writer.size
                assert kept >= 3 and writer.root == model.root(entries[:kept])
                writer.append(entries[kept:])
            with LogReader(folder) as reader:
                assert list(reader.entries(0, reader.size)) == entries
                assert reader.root(5) == model.root(entries)
            assert not any(segment.read_bytes()[end:])


def test_what_remains_of_an_old_frame_never_becomes_an_entry(tmp_path: Path) -> None:
    """A torn frame before a whole one: when another of its length takes its place, the whole one must not follow."""
    folder = tmp_path / "log"
    with reopened(folder) as writer:
        writer.append([b"a" * 50, b"b" * 50, b"c" * 50])
    segment = last_segment(folder)
    data = bytearray(segment.read_bytes())
    data[4096 + 58 + 20] ^= 1
    segment.write_bytes(data)
    with reopened(folder) as writer:
        assert writer.size == 1
        writer.append([b"B" * 50])
    with LogReader(folder) as reader:
        assert list(reader.entries(0, reader.size)) == [b"a" * 50, b"B" * 50]


def test_a_new_segment_without_entries_is_gone_on_with(tmp_path: Path) -> None:
    """The process died between making a segment and writing into it."""
    folder = tmp_path / "log"
    entries = make_log(folder, 300)
    with LogReader(folder) as reader:
        header = reader.segments[-1].header
    (folder / frames.name_of(300)).write_bytes(frames.encode_header(frames.Header(300, header.log_id, 0)))
    (folder / "segment-000000000000012c.tmp-0011aabb").write_bytes(b"half")
    with reopened(folder) as writer:
        assert writer.size == 300
        writer.append([b"more"])
    assert not list(folder.glob("*.tmp-*"))
    with LogReader(folder) as reader:
        assert list(reader.entries(298, 301)) == [*entries[298:], b"more"]


def test_a_log_that_is_behind_its_checkpoint_or_differs_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    entries = make_log(folder, 300)
    shutil.copytree(folder, tmp_path / "good")

    def again() -> None:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "good", folder)

    def cut() -> None:
        os.truncate(last_segment(folder), last_segment(folder).stat().st_size // 2)
        os.truncate(last_segment(folder), 4096 + 100)

    def lost() -> None:
        last_segment(folder).unlink()

    def first_lost() -> None:
        min(folder.glob("segment-*")).unlink()

    def other() -> None:
        """The same number of other entries, well formed, with level files of theirs."""
        for path in folder.glob("segment-*"):
            path.unlink()
        keep = (folder / "checkpoint").read_bytes()
        (folder / "checkpoint").unlink()
        with reopened(folder) as writer:
            writer.append([entries[0], entries[2], entries[1], *entries[3:]])
        (folder / "checkpoint").write_bytes(keep)

    def other_key() -> None:
        (folder / "checkpoint").write_bytes(
            notes.sign_checkpoint(notes.Checkpoint(signer().verifier.name, 1, b"x" * 32), signer(seed=9)).encode()
        )

    def garbage() -> None:
        (folder / "checkpoint").write_bytes(b"garbage")

    def ahead() -> None:
        witnessed = notes.sign_checkpoint(notes.Checkpoint(signer().verifier.name, 301, b"x" * 32), signer())
        (folder / "checkpoint.cosigned").write_bytes(witnessed.encode())

    def header() -> None:
        with last_segment(folder).open("r+b") as file:
            file.write(b"x")

    for damage in (cut, lost, first_lost, other, other_key, garbage, ahead, header):
        damage()
        with pytest.raises(AuditDamagedError):
            reopened(folder)
        assert not log.has_writer(folder)
        again()
    with pytest.raises(AuditDamagedError):
        LogWriter(folder, signer(), slot=1)
    reopened(folder).close()


def test_a_failed_write_poisons_the_writer_until_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = reopened(tmp_path / "log")
    writer.append([b"first"])

    def full(*_: object) -> int:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreFullError):
            writer.append([b"second"])
    with pytest.raises(StorePoisonedError):
        writer.append([b"third"])
    writer.close()
    with reopened(tmp_path / "log") as writer:
        assert writer.size == 1


def test_append_returns_after_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_write, real_sync = os.pwrite, os.fdatasync

    def write(descriptor: int, data: bytes, offset: int) -> int:
        calls.append("write " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name[:5])
        return real_write(descriptor, data, offset)

    def sync(descriptor: int) -> None:
        calls.append("sync")
        real_sync(descriptor)

    with reopened(tmp_path / "log") as writer:
        writer.append([b"x"])
        monkeypatch.setattr(os, "pwrite", write)
        monkeypatch.setattr(os, "fdatasync", sync)
        writer.append([b"y", b"z"])
        monkeypatch.undo()
    assert calls == ["write segme", "sync", "write level"]


# --- beside a writer ------------------------------------------------------------------------------------------------


def test_a_reader_beside_a_writer_sees_a_growing_prefix(tmp_path: Path) -> None:
    folder, entries = tmp_path / "log", some_entries(1500)
    writer = reopened(folder)
    writer.append(entries[:1])
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for at in range(1, len(entries), 13):
                writer.append(entries[at : at + 13])
                writer.sign_checkpoint()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    with LogReader(folder) as reader:
        thread.start()
        seen, size, root = 0, 1, model.root(entries[:1])
        while thread.is_alive() or reader.refresh() < len(entries):
            reader.refresh()
            data = reader.checkpoint()
            if data is not None:
                found = notes.check(data, Policy(signer().verifier)).checkpoint
                reader.refresh()
                assert reader.root(found.size) == found.root
                proof = reader.consistency_proof(size, found.size)
                merkle.verify_consistency(size, root, found.size, found.root, proof)
                size, root = found.size, found.root
            assert list(reader.entries(seen, reader.size)) == entries[seen : reader.size]
            seen = reader.size
        thread.join()
        assert failures == [] and reader.size == len(entries)
        assert list(reader.entries(0, reader.size)) == entries
    writer.close()
