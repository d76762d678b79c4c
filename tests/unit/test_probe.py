"""ext/probe: what a table holds, what it refuses, and what a search sees of it. Runs in every form."""

from __future__ import annotations

import mmap
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest

from ext import keyhash, probe
from tests.support import tables

DIGEST = bytes(range(16))
ROW = (7, 100, 200, 0xFFFC)
OTHER = (8, 100, 200, 0xFFFC)


@pytest.fixture(params=tables.FORMS, ids=lambda form: {1: "atomic16", 2: "versioned"}[form])
def form(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def digest(lo: int, hi: int) -> bytes:
    return lo.to_bytes(8, "little") + hi.to_bytes(8, "little")


def outputs(count: int, room: int | None = None) -> tuple[Any, Any]:
    return np.zeros(count, np.uint8), np.zeros((count if room is None else room) + probe.MATCHES_MAX, probe.MATCH_DTYPE)


def test_layout_is_the_documented_one() -> None:
    assert (probe.HEADER_BYTES, probe.LINE_BYTES, probe.SLOTS_PER_LINE, probe.ENTRY_BYTES) == (12288, 64, 4, 24)
    assert probe.MATCH_DTYPE.itemsize == 12
    assert probe.segment_bytes(10) == 12288 + 640


def test_header_holds_what_format_was_given(form: int) -> None:
    buffer = mmap.mmap(-1, probe.segment_bytes(9) + 64)
    probe.format(buffer, form=form, lines=9, generation=3, store_id=b"s" * 16, key_id=b"k" * 8)
    found = probe.Table(buffer)
    assert (found.form, found.lines, found.generation) == (form, 9, 3)
    assert (found.store_id, found.key_id) == (b"s" * 16, b"k" * 8)
    assert (found.count, found.visible_seq, found.applied_seq, found.insurers_version) == (0, 0, 0, 0)
    assert not found.retired and found.settled_seq == 0


def test_an_entry_is_found_with_all_its_bits_and_can_be_removed(form: int) -> None:
    table = tables.table(5, form)
    extreme = (2**32 - 1, 65535, 65535, 65532)
    for row in (ROW, extreme):
        assert table.insert(DIGEST, *row)
    assert sorted(table.find(DIGEST)) == [ROW, extreme]
    assert table.find(DIGEST[::-1]) == ()
    assert table.remove(DIGEST, *ROW) and not table.remove(DIGEST, *ROW)
    assert table.find(DIGEST) == (extreme,) and table.count == 1


def test_a_tag_of_zero_is_not_an_empty_slot(form: int) -> None:
    table = tables.table(5, form)
    assert table.insert(digest(0, 0xFFFF), 0, 0, 0, 0)
    assert table.find(digest(0, 0)) == ((0, 0, 0, 0),)
    assert table.scan()["entries"] == 1


def test_an_identical_entry_is_not_added_twice(form: int) -> None:
    table = tables.table(5, form)
    assert table.insert(DIGEST, *ROW) and not table.insert(DIGEST, *ROW)
    for changed in [(8, 100, 200, 0xFFFC), (7, 101, 200, 0xFFFC), (7, 100, 201, 0xFFFC), (7, 100, 200, 0xFFF8)]:
        assert table.insert(DIGEST, *changed)
    assert table.count == len(table.find(DIGEST)) == 5


def test_several_people_behind_one_key_are_all_found_up_to_the_bound(form: int) -> None:
    table = tables.table(40, form)
    rows = [(person, 1, 2, 4) for person in range(probe.MATCHES_MAX)]
    assert all(table.insert(DIGEST, *row) for row in rows)
    assert sorted(table.find(DIGEST)) == rows
    with pytest.raises(probe.CrowdedError, match="64"):
        table.insert(DIGEST, 99, 1, 2, 4)
    assert table.count == 64 and not table.insert(DIGEST, *rows[0])
    assert table.remove(DIGEST, *rows[0]) and table.insert(DIGEST, 99, 1, 2, 4)


def test_find_refuses_more_entries_than_a_writer_would_make(form: int) -> None:
    """As only a damaged or forged segment has them: the reader says so and does not cut the list off."""
    buffer = tables.memory(17, form)
    for position in range(68):
        struct.pack_into("<QQ", buffer, 12288 + 16 * position, 5 << 16 | 2, position)
    table = probe.Table(buffer)
    with pytest.raises(probe.CrowdedError):
        table.find(digest(0, 5 << 16))
    with pytest.raises(probe.CrowdedError):
        table.find_many(np.array([[0, 5 << 16]], np.uint64), *outputs(1))


def test_a_chain_that_overflows_everywhere_ends(form: int) -> None:
    buffer = tables.memory(3, form)
    for position in range(12):
        struct.pack_into("<Q", buffer, 12288 + 16 * position, 2)
    table = probe.Table(buffer, writable=True)
    assert table.find(DIGEST) == ()
    assert table.find_many(tables.hashes(5, 1), *outputs(5)) == (5, 0)
    assert table.insert(DIGEST, *ROW) and table.find(DIGEST) == (ROW,)


def test_a_full_table_says_so_and_loses_nothing(form: int) -> None:
    table = tables.table(1, form)
    for person in range(4):
        assert table.insert(digest(person, person << 20), person, 0, 0, 0)
    before = table.scan()
    with pytest.raises(probe.TableFullError):
        table.insert(DIGEST, *ROW)
    assert table.scan() == before and table.find(digest(3, 3 << 20)) == ((3, 0, 0, 0),)
    assert not table.insert(digest(3, 3 << 20), 3, 0, 0, 0), "what is there needs no room"


def test_every_slot_of_an_odd_table_can_be_used(form: int) -> None:
    """Keys leave a full line in steps of 1, 2, 4 or 8 lines, and those reach every line if their number is odd."""
    table = tables.table(15, form)
    persons, entries = tables.batch(tables.hashes(60, 3))
    assert table.insert_many(persons, entries) == 60
    assert table.contains_many(persons, entries) == 60
    with pytest.raises(probe.TableFullError):
        table.insert(DIGEST, *ROW)
    assert table.remove_many(persons, entries) == 60 and table.count == 0


def test_provisional_entries_are_seen_by_the_writer_only(form: int) -> None:
    buffer = tables.memory(5, form)
    writer, reader = probe.Table(buffer, writable=True, provisional=True), probe.Table(buffer)
    assert writer.insert(DIGEST, *ROW, True) and writer.insert(DIGEST, *OTHER)
    assert writer.provisional_count == 1 and writer.count == 2
    assert reader.find(DIGEST) == (OTHER,) and sorted(writer.find(DIGEST)) == [ROW, OTHER]
    assert not writer.insert(DIGEST, *ROW), "it becomes plain"
    assert sorted(reader.find(DIGEST)) == [ROW, OTHER] and writer.provisional_count == 0
    assert not writer.insert(DIGEST, *ROW, True), "and stays plain"
    assert sorted(reader.find(DIGEST)) == [ROW, OTHER]


def test_sweep_removes_what_is_provisional_and_counts_anew(form: int) -> None:
    buffer = tables.memory(75, form)
    table = probe.Table(buffer, writable=True, provisional=True)
    plain, hidden = tables.batch(tables.hashes(100, 1)), tables.batch(tables.hashes(50, 2))
    table.insert_many(*plain)
    table.insert_many(*hidden, provisional=True)
    struct.pack_into("<QQ", buffer, 192, 12345, 678)  # as after a kill between a slot and its count
    assert table.sweep() == 50
    assert (table.count, table.provisional_count) == (100, 0)
    assert table.contains_many(*plain) == 100 and table.contains_many(*hidden) == 0
    assert table.sweep() == 0


def test_replace_changes_one_entry_in_place(form: int) -> None:
    table = tables.table(5, form)
    table.insert(DIGEST, *ROW)
    table.insert(DIGEST, *OTHER)
    assert table.replace(DIGEST, *ROW, 101, 65535, 4)
    assert sorted(table.find(DIGEST)) == [(7, 101, 65535, 4), OTHER]
    assert not table.replace(DIGEST, *ROW, 1, 2, 4)
    assert table.replace(DIGEST, *OTHER, 100, 200, 0xFFFC), "into itself"
    table.insert(DIGEST, 8, 1, 2, 4)
    assert table.replace(DIGEST, *OTHER, 1, 2, 4), "into one that is there: a set has it once"
    assert sorted(table.find(DIGEST)) == [(7, 101, 65535, 4), (8, 1, 2, 4)] and table.count == 2


def test_find_message_hashes_as_keyhash_does(form: int) -> None:
    table = tables.table(5, form)
    key = b"0123456789abcdef"
    for message in (b"", b"a message", bytes(1000)):
        table.insert(keyhash.siphash128(key, message), len(message), 1, 2, 4)
        assert table.find_message(key, message) == ((len(message), 1, 2, 4),)
    assert table.find_message(key, b"another") == ()


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 170, 171, 172, 5000])
def test_find_many_agrees_with_find(form: int, count: int) -> None:
    table = tables.table(max(1, count // 2) | 1, form)
    keys = tables.hashes(count, 1)
    persons, entries = tables.batch(keys)
    table.insert_many(persons, entries)
    table.insert_many(persons[::3] + 10**6, entries[::3].copy())
    asked = np.concatenate([keys, tables.hashes(count, 2), keys[::-1]])
    counts, matches = outputs(len(asked), 2 * len(asked))
    done, used = table.find_many(asked, counts, matches)
    assert done == len(asked)
    rows = iter(matches[:used][["person", "gained", "lost", "aux"]].tolist())
    for words, n in zip(asked.tolist(), counts.tolist(), strict=True):
        assert sorted(next(rows) for _ in range(n)) == sorted(table.find(digest(*words)))
    assert next(rows, None) is None and not matches["reserved"].any()


def crowd(lines: int, seed: int) -> tuple[mmap.mmap, Any]:
    """A nearly full table of form ATOMIC16 with everything that a walk meets, and keys to ask for.

    Several entries a key, provisional ones, tags of zero, chains that wrap around the end, and full lines.
    """
    random = np.random.default_rng(seed)
    buffer = tables.memory(lines, probe.FORM_ATOMIC16)
    table = probe.Table(buffer, writable=True, provisional=True)
    keys = tables.hashes(3 * lines, seed)
    keys[: lines // 5, 1] &= np.uint64(0xFFFF)
    persons, entries = tables.batch(keys)
    hidden = random.random(len(keys)) < 0.1
    table.insert_many(persons[hidden], entries[hidden], True)
    table.insert_many(persons[~hidden], entries[~hidden])
    again = random.random(len(keys)) < 0.2
    table.insert_many(persons[again] + 10**6, entries[again])
    gone = random.random(len(keys)) < 0.1
    table.remove_many(persons[gone], entries[gone])
    asked = np.concatenate([keys, tables.hashes(lines, seed + 1)])
    return buffer, np.ascontiguousarray(asked[random.permutation(len(asked))])


@pytest.mark.parametrize("walk", probe.WALKS[1:])
@pytest.mark.parametrize("lines", [1, 3, 9, 101, 4001])
def test_every_walk_finds_what_the_plain_one_finds(walk: str, lines: int) -> None:
    for seed in range(3):
        buffer, asked = crowd(lines, seed)
        for provisional in (False, True):
            plain = probe.Table(buffer, provisional=provisional, walk="plain")
            other = probe.Table(buffer, provisional=provisional, walk=walk)
            for room in (len(asked) - 64, len(asked) // 3, 2 * len(asked)):
                expected, got = outputs(len(asked), room), outputs(len(asked), room)
                done, used = plain.find_many(asked, *expected)
                assert other.find_many(asked, *got) == (done, used)
                assert got[0][:done].tolist() == expected[0][:done].tolist()
                assert got[1][:used].tolist() == expected[1][:used].tolist()
            assert done == len(asked) and used > 0


@pytest.mark.parametrize("walk", probe.WALKS)
def test_no_walk_writes_behind_the_room_it_was_given(walk: str) -> None:
    buffer, asked = crowd(601, 5)
    table = probe.Table(buffer, provisional=True, walk=walk)
    counts, matches = outputs(len(asked), 3 * len(asked))
    for room in (64, 511, 512, 575, 576, 577, 1000):
        matches[:] = np.array((7, 7, 7, 7, 7), probe.MATCH_DTYPE)
        table.find_many(asked, counts, matches[:room])
        assert set(matches[room:].tolist()) == {(7, 7, 7, 7, 7)}


def test_an_unknown_walk_is_refused() -> None:
    with pytest.raises(ValueError, match="walk must be one of plain"):
        tables.table(3, probe.FORM_VERSIONED, walk="fast")


def test_find_many_stops_where_room_ends_and_can_be_continued(form: int) -> None:
    table = tables.table(75, form)
    keys = tables.hashes(100, 1)
    for person in range(3):
        persons, entries = tables.batch(keys)
        table.insert_many(persons + 1000 * person, entries)
    counts, matches = outputs(100, 30)
    done, used = table.find_many(keys, counts, matches)
    assert (done, used) == (11, 33), "eleven keys of three entries; then less than 64 rows are free"
    assert counts[:11].tolist() == [3] * 11
    total = used
    while done < 100:
        more, used = table.find_many(keys[done:], counts[done:], matches)
        assert more > 0
        done, total = done + more, total + used
    assert total == 300 and set(counts.tolist()) == {3}
    assert table.find_many(keys, *outputs(100, -1)) == (0, 0)


def test_find_many_rows_is_find_many_of_the_hashes(form: int) -> None:
    table = tables.table(401, form)
    random = np.random.default_rng(5)
    rows = random.integers(0, 256, (1000, 33), dtype=np.uint8)
    lengths = random.integers(0, 34, 1000).astype(np.uint16)
    key = b"fedcba9876543210"
    keys = np.empty((1000, 2), np.uint64)
    keyhash.siphash128_rows(key, rows, lengths, keys)
    table.insert_many(*tables.batch(keys[::2]))
    expected, got = outputs(1000), outputs(1000)
    assert table.find_many_rows(key, rows, lengths, *got) == table.find_many(keys, *expected)
    assert got[0].tolist() == expected[0].tolist() and got[1].tolist() == expected[1].tolist()
    assert expected[0].sum() >= 500
    lengths[999] = 34
    with pytest.raises(ValueError, match="length"):
        table.find_many_rows(key, rows, lengths, *got)


def test_hidden_entries_are_hidden_from_find_many_too(form: int) -> None:
    buffer = tables.memory(301, form)
    writer, reader = probe.Table(buffer, writable=True, provisional=True), probe.Table(buffer)
    keys = tables.hashes(600, 1)
    writer.insert_many(*tables.batch(keys[:300]), provisional=True)
    writer.insert_many(*tables.batch(keys[300:]))
    counts, matches = outputs(600)
    assert reader.find_many(keys, counts, matches) == (600, 300)
    assert not counts[:300].any() and counts[300:].all()
    assert writer.find_many(keys, counts, matches) == (600, 600)


def test_gather_sums_the_first_word_of_each_home_line(form: int) -> None:
    table = tables.table(33, form)
    keys = tables.hashes(80, 1)
    assert table.gather(keys) == 0
    table.insert_many(*tables.batch(keys))
    assert table.gather(keys) == table.gather(keys, 0) == table.gather(keys, 64) > 0


def test_contains_many_names_what_is_missing(form: int) -> None:
    table = tables.table(33, form)
    persons, entries = tables.batch(tables.hashes(60, 1))
    table.insert_many(persons[:40], entries[:40])
    missing = np.zeros(60, np.uint8)
    assert table.contains_many(persons, entries, missing) == 40
    assert missing.tolist() == [0] * 40 + [1] * 20
    changed = entries.copy()
    changed["lost"] ^= 1
    assert table.contains_many(persons, changed) == 0


def test_an_entry_with_the_tables_bits_in_aux_is_refused_before_anything_is_written(form: int) -> None:
    table = tables.table(33, form)
    persons, entries = tables.batch(tables.hashes(10, 1))
    for bit in (1, 2):
        wrong = entries.copy()
        wrong["aux"][9] |= bit
        with pytest.raises(ValueError, match="two low bits"):
            table.insert_many(persons, wrong)
        with pytest.raises(ValueError, match="two low bits"):
            table.insert(DIGEST, 1, 1, 1, bit)
    assert table.count == 0


def test_live_words_are_shared_between_views(form: int) -> None:
    buffer = tables.memory(3, form)
    writer, reader = probe.Table(buffer, writable=True), probe.Table(buffer)
    writer.visible_seq, writer.insurers_version, writer.applied_seq = 2**64 - 1, 5, 2**63 - 1
    assert (reader.visible_seq, reader.insurers_version, reader.applied_seq) == (2**64 - 1, 5, 2**63 - 1)
    assert reader.settled_seq == 2**63 - 1
    writer.unsettle()
    assert reader.settled_seq == -1 and reader.applied_seq == 2**63 - 1
    writer.applied_seq = 9
    assert reader.settled_seq == 9
    writer.retire()
    assert reader.retired


def test_a_retired_table_sends_its_readers_on(form: int) -> None:
    buffer = tables.memory(3, form)
    new = tables.table(3, form)
    new.insert(keyhash.siphash128(bytes(16), b"m"), *ROW)
    new.visible_seq = 77
    asked: list[int] = []

    def follow() -> Any:
        asked.append(1)
        return new

    old = probe.Table(buffer, writable=True, follow=follow)
    assert old.find_message(bytes(16), b"m") == () and old.visible_seq == 0 and not asked
    old.retire()
    assert old.find_message(bytes(16), b"m") == (ROW,) == old.find(keyhash.siphash128(bytes(16), b"m"))
    assert (old.visible_seq, old.insurers_version, old.settled_seq) == (77, 0, 0)
    assert len(asked) == 5


def test_a_read_only_view_does_not_write(form: int) -> None:
    buffer = tables.memory(3, form)
    reader = probe.Table(buffer)
    before = bytes(buffer)
    persons, entries = tables.batch(tables.hashes(1, 1))
    for change in (
        lambda: reader.insert(DIGEST, *ROW), lambda: reader.remove(DIGEST, *ROW),
        lambda: reader.replace(DIGEST, *ROW, 1, 1, 4), lambda: reader.insert_many(persons, entries),
        lambda: reader.remove_many(persons, entries), reader.sweep, reader.repair, reader.retire, reader.unsettle,
        lambda: setattr(reader, "visible_seq", 1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="read-only"):
            change()
    assert bytes(buffer) == before
    with pytest.raises(BufferError):
        probe.Table(bytes(buffer), writable=True)


def test_a_released_table_is_not_used(form: int) -> None:
    buffer = tables.memory(3, form)
    table = probe.Table(buffer, writable=True)
    with pytest.raises(BufferError):
        buffer.close()
    table.release()
    table.release()
    buffer.close()
    for use in (
        lambda: table.find(DIGEST), lambda: table.find_message(bytes(16), b""), lambda: table.insert(DIGEST, *ROW),
        lambda: table.find_many(tables.hashes(1, 1), *outputs(1)), lambda: table.count, table.scan, table.sweep,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="released"):
            use()


def test_two_threads_do_not_write_at_the_same_time(form: int) -> None:
    """The second is refused or waits for its turn; either way nothing is lost."""
    size = 100_000 if probe.__name__ == "ext.probe" else 3_000
    table = tables.table(2 * size + 1, form)
    parts = [tables.batch(tables.hashes(size, seed), 1 + seed * 10**6) for seed in range(4)]
    refused: list[str] = []

    def write(part: tables.Batch) -> None:
        while True:
            try:
                table.insert_many(*part)
                return
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=write, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.count == 4 * size and all(table.contains_many(*part) == size for part in parts)
    assert set(refused) <= {"another thread is writing to this table"}


def sealed(header: bytes) -> bytes:
    """A header with the checksum that fits it."""
    return header[:124] + zlib.crc32(header[:124]).to_bytes(4, "little") + header[128:]


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"X", "magic"),
        (8, b"\2", "layout version"),
        (24, b"\xff", "checksum"),
        (124, b"\0\0\0\0", "checksum"),
    ],
)
def test_a_damaged_header_is_refused(offset: int, value: bytes, message: str) -> None:
    buffer = tables.memory(5, probe.FORM_VERSIONED)
    buffer[offset : offset + len(value)] = value
    with pytest.raises(probe.TableError, match=message):
        probe.Table(buffer)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (12, 0, "unknown form"),
        (12, 3, "unknown form"),
        (16, 0, "size"),
        (16, 6, "size"),
        (16, 2**58, "size"),
        (16, 2**64 - 1, "size"),
        (56, 1, "size"),
        (56, 2**64 - 1, "size"),
    ],
)
def test_a_header_that_lies_about_sizes_is_refused_whatever_its_checksum(offset: int, value: int, message: str) -> None:
    buffer = tables.memory(5, probe.FORM_VERSIONED)
    size = 4 if offset == 12 else 8
    buffer[offset : offset + size] = value.to_bytes(size, "little")
    buffer[:128] = sealed(buffer[:128])
    with pytest.raises(probe.TableError, match=message):
        probe.Table(buffer)


def test_short_or_unaligned_buffers_are_refused() -> None:
    buffer = tables.memory(5, probe.FORM_VERSIONED)
    with pytest.raises(probe.TableError, match="smaller"):
        probe.Table(buffer[:12287])
    with pytest.raises(probe.TableError, match="size|aligned"):
        probe.Table(memoryview(buffer)[:-1])
    if probe.__name__ == "ext.probe":
        shifted = mmap.mmap(-1, len(buffer) + 8)
        shifted[8:] = buffer[:]
        with pytest.raises(probe.TableError, match="aligned"):
            probe.Table(memoryview(shifted)[8:])
    with pytest.raises(probe.TableError, match="need"):
        probe.format(mmap.mmap(-1, 12288), form=1, lines=1)


def test_numbers_read_later_cannot_lead_out_of_the_buffer(form: int) -> None:
    """The count of lines is taken over when the view is made; what the segment says afterwards does not matter."""
    buffer = tables.memory(3, form)
    table = probe.Table(buffer, writable=True)
    struct.pack_into("<Q", buffer, 16, 2**60)
    struct.pack_into("<Q", buffer, 216, 2**63)
    assert table.find_many(tables.hashes(1000, 1), *outputs(1000)) == (1000, 0)
    assert table.insert_many(*tables.batch(tables.hashes(10, 1))) == 10
    assert table.repair() == 0 and table.scan()["entries"] == 10


def test_a_stripe_left_locked_stops_readers_and_is_repaired() -> None:
    """A writer of form VERSIONED that was killed after its first store: the next one ends what it began."""
    buffer = tables.memory(3, probe.FORM_VERSIONED)
    table = probe.Table(buffer, writable=True)
    key = digest(0, 5 << 16)
    table.insert(key, *ROW)
    slot = next(s for s in range(12) if struct.unpack_from("<Q", buffer, 12288 + 16 * s)[0] >> 16)
    w0 = struct.unpack_from("<Q", buffer, 12288 + 16 * slot)[0]
    struct.pack_into("<QQQ", buffer, 216, slot, w0 & ~0xFFFC | 4, 9 << 32 | 2 << 16 | 1)
    struct.pack_into("<Q", buffer, 12288 + 16 * slot + 8, 9 << 32 | 2 << 16 | 1)
    stripe = 4096 + 8 * (slot // 4)
    struct.pack_into("<Q", buffer, stripe, struct.unpack_from("<Q", buffer, stripe)[0] + 1)
    assert table.scan()["torn_stripes"] == 1
    with pytest.raises(probe.BusyError):
        table.find(key)
    assert table.repair() == 1 and table.repair() == 0
    assert table.find(key) == ((9, 1, 2, 4),)


def test_an_odd_stripe_with_a_foreign_redo_is_only_unlocked() -> None:
    buffer = tables.memory(3, probe.FORM_VERSIONED)
    table = probe.Table(buffer, writable=True)
    table.insert(DIGEST, *ROW)
    slots = buffer[12288:]
    struct.pack_into("<QQQ", buffer, 216, 2**50, 1 << 16, 1)
    for stripe in (0, 1, 2, 1023):
        struct.pack_into("<Q", buffer, 4096 + 8 * stripe, 7)
    assert table.repair() == 4 and buffer[12288:] == slots
