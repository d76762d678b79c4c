"""Tests of the offline check: sound logs pass, and whatever is done to one is found and named."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.audit import bundle, entry, frames, notes, verify
from engine.audit.log import LogReader, LogWriter
from engine.audit.notes import Checkpoint, Policy
from engine.audit.verify import Report
from engine.errors import AuditMissingError, AuditRangeError
from tests.models import merkle as model
from tests.support.audit import (
    BEGUN_MS,
    ORIGIN,
    SEGMENT_BYTES,
    forge,
    make_log,
    signer,
    some_entries,
    some_entry,
    witness,
)

POLICY = Policy(signer().verifier)
COUNT = 300
PER_SEGMENT = 64


def signed(entries: list[bytes], seed: int = 1) -> bytes:
    return notes.sign_checkpoint(Checkpoint(ORIGIN, len(entries), model.root(entries)), signer(seed)).encode()


def cosigned(entries: list[bytes], *witnesses: int) -> bytes:
    note = notes.parse(signed(entries))
    return notes.cosigned(note, [witness(number).sign(note.text, 1000) for number in witnesses]).encode()


@pytest.fixture(scope="module")
def entries() -> list[bytes]:
    return some_entries(COUNT)


@pytest.fixture
def folder(tmp_path: Path, entries: list[bytes]) -> Path:
    path = tmp_path / "log"
    forge(path, entries, PER_SEGMENT)
    (path / "checkpoint").write_bytes(signed(entries))
    return path


def check(folder: Path, *witnessed: bytes, policy: Policy = POLICY) -> Report:
    return verify.verify_log(folder, policy, [(f"witness-{n}", data) for n, data in enumerate(witnessed)])


def the_problem(report: Report) -> str:
    assert not report.ok
    return "\n".join(report.problems)


def test_a_sound_log_passes(tmp_path: Path) -> None:
    entries = make_log(tmp_path / "log", 700)
    earlier = [signed(entries[:size]) for size in (0, 1, 256, 699)]
    seen: list[tuple[int, int | None]] = []
    report = verify.verify_log(
        tmp_path / "log",
        POLICY,
        [(f"w{n}", data) for n, data in enumerate(earlier)],
        lambda done, total: seen.append((done, total)),
    )
    assert (report.problems, report.notes) == ([], [])
    assert (report.size, report.signed, report.checkpoints) == (700, 700, 5)
    assert report.root == model.root(entries).hex() and seen[-1] == (700, 700)


def test_an_empty_log_passes_once_it_is_signed(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log", signer()) as log:
        assert "nothing says" in the_problem(check(tmp_path / "log"))
        log.sign_checkpoint()
    assert check(tmp_path / "log").ok


def test_entries_that_are_not_signed_yet_are_no_problem(folder: Path, entries: list[bytes]) -> None:
    (folder / "checkpoint").write_bytes(signed(entries[:200]))
    report = check(folder)
    assert report.ok and (report.size, report.signed) == (COUNT, 200)


def test_beside_a_writer_what_it_is_about_is_no_problem(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log", signer(), segment_bytes=SEGMENT_BYTES) as log:
        log.append(some_entries(300))
        log.sign_checkpoint()
        log.append(some_entries(3, 300))
        segment = max((tmp_path / "log").glob("segment-*"))
        with segment.open("r+b") as file:
            file.seek(segment.stat().st_size - 50)
            file.write(b"half a frame")
        report = check(tmp_path / "log")
        assert (report.problems, report.notes) == ([], [])
    assert "interrupted write" in "".join(check(tmp_path / "log").notes)


def test_there_must_be_a_log(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AuditMissingError):
            verify.verify_log(path, POLICY)


# --- what is done to a log ------------------------------------------------------------------------------------------


def test_a_changed_entry_is_named_by_its_checksum(folder: Path) -> None:
    path = folder / frames.name_of(64)
    data = bytearray(path.read_bytes())
    data[4096 + 30] ^= 1
    path.write_bytes(data)
    line = the_problem(check(folder))
    assert (
        "segment-0000000000000040: entry 64 at byte 4096" in line and "entries 64 to 299 could not be compared" in line
    )


def test_a_changed_entry_with_the_right_checksum_is_named_by_its_hash(folder: Path, entries: list[bytes]) -> None:
    levels = {path: path.read_bytes() for path in folder.glob("level-*")}
    forge(folder, [*entries[:77], entry.encode(some_entry(5000)), *entries[78:]], PER_SEGMENT)
    for path, data in levels.items():
        path.write_bytes(data)
    report = check(folder)
    assert len(report.problems) == 1
    assert "checkpoint: the root over 300 entries is not the signed one; changed: entry 77 first" in report.problems[0]


def test_a_forged_log_differs_between_two_witnessed_sizes(folder: Path, entries: list[bytes]) -> None:
    """Segments and level files agree with each other; only what was signed can tell."""
    forge(folder, [*entries[:77], entry.encode(some_entry(5000)), *entries[78:]], PER_SEGMENT)
    line = the_problem(check(folder, signed(entries[:70]), signed(entries[:100])))
    assert "witness-1: the root over 100 entries is not the signed one; changed: entries 70 to 99" in line
    assert "witness-0" not in line and "checkpoint: the root over 300" in line


@pytest.mark.parametrize("how", ["delete", "insert", "swap", "twice"])
def test_entries_moved_by_somebody_who_knows_the_format_are_found(folder: Path, entries: list[bytes], how: str) -> None:
    forged = {
        "delete": [*entries[:9], *entries[10:], entries[9]],
        "insert": [*entries[:9], entry.encode(some_entry(5000)), *entries[9:]],
        "swap": [*entries[:9], entries[10], entries[9], *entries[11:]],
        "twice": [*entries[:9], entries[9], *entries[9:-1]],
    }[how]
    forge(folder, forged, PER_SEGMENT)
    assert "root over 300 entries is not the signed one" in the_problem(check(folder))


def test_a_log_cut_off_at_its_end_is_found(folder: Path, entries: list[bytes]) -> None:
    forge(folder, entries[:-1], PER_SEGMENT)
    assert "the log holds 299: 1 are missing at the end" in the_problem(check(folder))


def test_a_roll_back_to_an_older_state_is_found_by_what_a_witness_holds(folder: Path, entries: list[bytes]) -> None:
    forge(folder, entries[:200], PER_SEGMENT)
    (folder / "checkpoint").write_bytes(signed(entries[:200]))
    assert check(folder).ok
    assert "signed with 300 entries, the log holds 200" in the_problem(check(folder, cosigned(entries, 1)))


def test_another_history_under_the_logs_own_key_is_found_by_what_a_witness_holds(
    folder: Path, entries: list[bytes]
) -> None:
    other = [*entries[:150], *some_entries(150, 9000)]
    forge(folder, other, PER_SEGMENT)
    (folder / "checkpoint").write_bytes(signed(other))
    assert check(folder).ok
    assert "changed: entries 0 to 299" in the_problem(check(folder, cosigned(entries, 1))).replace("\n", " ")
    assert "entries 150 to 199" in the_problem(
        check(folder, cosigned(entries[:150], 1), cosigned(entries[:200], 1), cosigned(entries, 1))
    )


def test_missing_and_foreign_segments_are_named(folder: Path, entries: list[bytes]) -> None:
    middle, first = folder / frames.name_of(128), folder / frames.name_of(0)
    keep = middle.read_bytes()
    middle.unlink()
    assert "segment-0000000000000040: entries 128 to 191 are missing at its end" in the_problem(check(folder))
    middle.write_bytes(frames.encode_header(frames.Header(128, b"o" * 16, 0)) + keep[4096:])
    assert "segment-0000000000000080: this segment is of another log" in the_problem(check(folder))
    middle.write_bytes(keep[:5000])
    assert "segment-0000000000000080: entry 13" in the_problem(check(folder))
    middle.write_bytes(keep)
    first.rename(folder / "elsewhere")
    assert "the first segment is missing" in the_problem(check(folder))
    for path in folder.glob("segment-*"):
        path.unlink()
    assert "the first segment is missing" in the_problem(check(folder))


def test_what_is_no_entry_is_named_though_it_was_signed(tmp_path: Path) -> None:
    """A log that signs garbage: its root is right, its entries are none."""
    good = some_entries(40)
    flawed = msgspec.structs.replace(some_entry(1), operator="", request_id="abc")
    for bad in (b"garbage", entry.encode(flawed)[:-1] + b"\x07", b"\x02" + good[3][1:]):
        rows = [*good[:20], bad, *good[20:]]
        forge(tmp_path / "log", rows, PER_SEGMENT)
        (tmp_path / "log" / "checkpoint").write_bytes(signed(rows))
        assert "entry 20 is no entry" in the_problem(check(tmp_path / "log"))


@pytest.mark.parametrize("seed", range(60))
def test_well_formed_entries_are_told_together_as_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    rows = some_entries(20)
    assert verify.first_malformed(rows) is None and verify._well_formed(rows)
    place = chance.randrange(20)
    data = bytearray(rows[place])
    data[chance.choice([0, 1, 4, 5, 6, 7, 8, 9, 26, 35, 41, 106, -1, -2, -33, 107 + data[106] - len(data)])] = (
        chance.randrange(256)
    )
    rows[place] = bytes(data)
    try:
        entry.decode(rows[place])
        assert verify.first_malformed(rows) is None
    except verify.AuditEntryError:
        found = verify.first_malformed(rows)
        assert found is not None and found[0] == place


def test_wrong_signatures_and_too_few_witnesses_are_found(folder: Path, entries: list[bytes]) -> None:
    wanted = Policy(POLICY.log, (witness(1).verifier, witness(2).verifier), 2)
    assert "2 witnesses must have signed" in the_problem(check(folder, policy=wanted))
    (folder / "checkpoint.cosigned").write_bytes(cosigned(entries, 1))
    assert "1 known witnesses signed" in the_problem(check(folder, policy=wanted))
    (folder / "checkpoint.cosigned").write_bytes(cosigned(entries, 1, 2))
    assert check(folder, policy=wanted).ok
    (folder / "checkpoint").write_bytes(signed(entries, seed=2))
    assert "checkpoint: the checkpoint is not signed by the log's key" in the_problem(check(folder))
    (folder / "checkpoint").write_bytes(b"\xff")
    assert "checkpoint: a note is UTF-8" in the_problem(check(folder))
    assert "witness-0: " in the_problem(check(folder, b""))


def test_wrong_level_files_are_named_and_short_ones_noted(folder: Path) -> None:
    path = folder / "level-0"
    data = bytearray(path.read_bytes())
    data[32 * 70 + 3] ^= 1
    path.write_bytes(data)
    assert "level-0: the hash of entry 70, in segment-0000000000000040" in the_problem(check(folder))
    path.write_bytes(data[: 32 * 60])
    report = check(folder)
    assert report.ok and "level-0: it has 1920 bytes and should have 9600" in report.notes[0]


# --- thousands of changes -------------------------------------------------------------------------------------------

Change = Callable[[Path, list[bytes], random.Random], None]


def flip(folder: Path, _: list[bytes], chance: random.Random) -> None:
    path = chance.choice(sorted(each for each in folder.iterdir() if each.name != "checkpoint"))
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_checkpoint(folder: Path, _: list[bytes], chance: random.Random) -> None:
    path = folder / "checkpoint"
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(folder: Path, _: list[bytes], chance: random.Random) -> None:
    """Off the entries at least: what follows the last is zeros that nobody misses."""
    path = chance.choice(sorted(folder.glob("segment-*")))
    os.truncate(path, chance.randrange(path.stat().st_size - 300))


def remove(folder: Path, _: list[bytes], chance: random.Random) -> None:
    chance.choice(sorted([*folder.glob("segment-*"), folder / "checkpoint"])).unlink()


def cut_out(folder: Path, _: list[bytes], chance: random.Random) -> None:
    path = chance.choice(sorted(folder.glob("segment-*")))
    data = path.read_bytes()
    at = chance.randrange(len(data) - 301)
    path.write_bytes(data[:at] + data[at + chance.randrange(1, 300) :])


def put_in(folder: Path, _: list[bytes], chance: random.Random) -> None:
    path = chance.choice(sorted(folder.glob("segment-*")))
    data = path.read_bytes()
    at = chance.randrange(len(data) - 300)
    path.write_bytes(data[:at] + chance.randbytes(chance.randrange(1, 200)) + data[at:])


def exchange_segments(folder: Path, _: list[bytes], chance: random.Random) -> None:
    one, other = chance.sample(sorted(folder.glob("segment-*")), 2)
    first, second = one.read_bytes(), other.read_bytes()
    keep = 4096 if chance.random() < 0.5 else 0
    one.write_bytes(first[:keep] + second[keep:])
    other.write_bytes(second[:keep] + first[keep:])


def forge_entries(folder: Path, entries: list[bytes], chance: random.Random) -> None:
    """Checksums and, half of the time, level files are made right."""
    rows, at = list(entries), chance.randrange(len(entries))
    how = chance.choice(["change", "delete", "insert", "swap"])
    if how == "change":
        data = bytearray(rows[at])
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        rows[at] = bytes(data)
    elif how == "delete":
        del rows[at]
    elif how == "insert":
        rows.insert(at, chance.choice(entries))
    else:
        other = chance.choice([place for place in range(len(rows)) if rows[place] != rows[at]])
        rows[at], rows[other] = rows[other], rows[at]
    levels = {path: path.read_bytes() for path in folder.glob("level-*")}
    forge(folder, rows, 16)
    if chance.random() < 0.5:
        for path, data in levels.items():
            path.write_bytes(data)


CHANGES: list[Change] = [flip, flip, flip_checkpoint, cut, remove, cut_out, put_in, exchange_segments, forge_entries]


def tampered_and_found(folder: Path, count: int, seed: int) -> None:
    """Change a log of 60 entries in `count` random ways, one at a time; each must be found."""
    chance, entries = random.Random(seed), some_entries(60)
    forge(folder, entries, 16)
    (folder / "checkpoint").write_bytes(signed(entries))
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert check(folder).ok and check(folder).notes == []
    for number in range(count):
        change = chance.choice(CHANGES)
        change(folder, entries, chance)
        if {path.name: path.read_bytes() for path in folder.iterdir()} != kept:
            report = check(folder)
            # A flipped bit behind the last entry, or a level file of another length, is what a crash leaves: a note.
            assert not report.ok or (change in (flip, put_in, cut_out) and report.notes), (number, change.__name__)
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()
        for name, data in kept.items():
            (folder / name).write_bytes(data)


def test_a_thousand_random_changes_are_all_found(tmp_path: Path) -> None:
    tampered_and_found(tmp_path / "log", 1_000, seed=20261123)


@pytest.mark.long
def test_ten_thousand_random_changes_are_all_found(tmp_path: Path) -> None:
    tampered_and_found(tmp_path / "log", 10_000, seed=7)


# --- bundles --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    folder = tmp_path_factory.mktemp("large") / "log"
    with LogWriter(folder, signer()) as log:
        rows = some_entries(500) * 140
        log.append(rows)
        log.sign_checkpoint()
    return folder, rows


@pytest.fixture
def exported(large: tuple[Path, list[bytes]], tmp_path: Path) -> Path:
    with LogReader(large[0]) as log:
        bundle.export(log, 20_000, 21_000, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_tiles_of_70000_entries_are_those_of_the_standard(large: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    """c2sp.org/tlog-tiles has this tree as its example."""
    with LogReader(large[0]) as log:
        bundle.export(log, 0, 70_000, tmp_path / "bundle")
    names = {path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*")}
    files = {name for name in names if (tmp_path / "bundle" / name).is_file()}
    assert sum(name.startswith("tile/0/") for name in files) == 274
    assert {"tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "checkpoint"} <= files
    assert sum(name.startswith("tile/entries/") for name in files) == 274
    report = bundle.verify_bundle(tmp_path / "bundle", POLICY, [("w", signed(large[1][:300]))])
    assert report.ok and (report.first, report.size, report.checkpoints) == (0, 70_000, 2)


def test_paths_are_those_of_the_standard() -> None:
    assert bundle.tile_path("0", 1234067) == "tile/0/x001/x234/067"
    assert bundle.tile_path("entries", 1, 8) == "tile/entries/001.p/8"
    assert bundle.tile_of("tile/0/x001/x234/067") == ("0", 1234067, 256)
    assert bundle.tile_of("tile/entries/001.p/8") == ("entries", 1, 8)
    for wrong in ("tile/0/1", "tile/00/001", "tile/64/001", "tile/0/x000/001", "tile/0/001.p/256", "tile/0/001.p/08",
                  "tile/0/001.p/0", "tile/entries/001/002", "tile/other/001", "tile/0/001x"):  # fmt: skip
        assert bundle.tile_of(wrong) is None, wrong


def test_a_part_is_bound_to_the_whole_and_says_which_it_is(exported: Path, large: tuple[Path, list[bytes]]) -> None:
    report = bundle.verify_bundle(exported, POLICY, [("w", signed(large[1][:20_000]))], wanted=(20_000, 21_000))
    assert report.problems == []
    assert (report.first, report.size, report.signed, report.checkpoints) == (19_968, 21_248, 70_000, 2)
    assert len(list(exported.rglob("*"))) < 40
    line = the_problem(bundle.verify_bundle(exported, POLICY, wanted=(10_000, 21_000)))
    assert "holds entries 19968 to 21247, and not all from 10000 to 20999" in line
    assert "cannot be compared" in the_problem(bundle.verify_bundle(exported, POLICY, [("w", signed(large[1][:300]))]))


def test_whatever_bit_of_a_bundle_is_changed_is_found(exported: Path) -> None:
    chance = random.Random(4)
    paths = sorted(path for path in exported.rglob("*") if path.is_file())
    for _ in range(300):
        path = chance.choice(paths)
        kept = path.read_bytes()
        data = bytearray(kept)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        assert not bundle.verify_bundle(exported, POLICY).ok, path.name
        path.write_bytes(kept)
    assert bundle.verify_bundle(exported, POLICY).ok


def test_files_of_a_bundle_missing_cut_or_added_are_named(exported: Path) -> None:
    for path in sorted(path for path in (exported / "tile").rglob("*") if path.is_file()):
        name, kept = path.relative_to(exported).as_posix(), path.read_bytes()
        path.write_bytes(kept[:-1])
        assert name.split(".p")[0] in the_problem(bundle.verify_bundle(exported, POLICY))
        path.unlink()
        report = bundle.verify_bundle(exported, POLICY, wanted=(20_000, 21_000))
        assert not report.ok or name.startswith("tile/0/077"), name
        path.write_bytes(kept)
    (exported / "tile" / "other").write_bytes(b"")
    assert "tile/other: this is no file" in the_problem(bundle.verify_bundle(exported, POLICY))


def test_times_become_a_range(tmp_path: Path) -> None:
    order = [0, 1, 3, 2, 4, 5, 7, 6, 8, 9]
    rows = [entry.encode(some_entry(n, at_ms=BEGUN_MS + 1000 * n)) for n in order]
    with LogWriter(tmp_path / "log", signer()) as writer:
        writer.append(rows)
    with LogReader(tmp_path / "log") as log:
        assert bundle.range_of_times(log, BEGUN_MS + 2000, BEGUN_MS + 3000) == (3, 4)
        assert bundle.range_of_times(log, BEGUN_MS + 2000, BEGUN_MS + 7000) == (2, 8)
        assert bundle.range_of_times(log, 0, 1 << 60) == (0, 10)
        start, end = bundle.range_of_times(log, BEGUN_MS + 10**9, BEGUN_MS + 10**10)
        assert start == end


def test_only_what_is_signed_and_sound_is_exported(tmp_path: Path) -> None:
    make_log(tmp_path / "log", 300)
    with LogReader(tmp_path / "log") as log:
        for start, end in ((0, 301), (5, 5), (-1, 5), (6, 5)):
            with pytest.raises(AuditRangeError):
                bundle.export(log, start, end, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        bundle.export(log, 299, 300, tmp_path / "out")
        with pytest.raises(FileExistsError):
            bundle.export(log, 299, 300, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with (tmp_path / "log" / "level-1").open("r+b") as file:
        file.write(bytes(32))
    with LogReader(tmp_path / "log") as log, pytest.raises(bundle.AuditDamagedError):
        bundle.export(log, 299, 300, tmp_path / "out")
