"""ext/probe and its Python twin have the same outcome and leave the same bytes, on hostile input too."""

from __future__ import annotations

import mmap
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext import probe_py
from tests.support import tables
from tests.support.outcomes import compiled, outcome

probe = compiled("probe")

FORMS = st.sampled_from([probe.FORM_VERSIONED] + [probe.FORM_ATOMIC16] * probe.atomic16_supported())
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, -1, 1.5, "text", b"", bytes(15), bytes(17), bytearray(16), [], True, 2**64, 2**200, np.uint8(3), object]
)
# Few tags, home lines and values, so that chains, collisions and identical entries are common.
WORDS = st.sampled_from([0, 1, 2, 3, 2**62, 2**63 + 1, 2**64 - 1, 2**64 - 4])
TAGS = st.sampled_from([0, 1, 0xFFFF, 0x10000, 0x20000, 2**64 - 1])
DIGESTS = st.builds(lambda lo, hi: lo.to_bytes(8, "little") + hi.to_bytes(8, "little"), WORDS, TAGS)
PERSONS = st.sampled_from([0, 1, 2**32 - 1])
DAYS = st.sampled_from([0, 1, 65535])
AUX = st.sampled_from([0, 4, 65532])
ROWS = st.tuples(PERSONS, DAYS, DAYS, AUX)

NAMES = [
    "FORM_ATOMIC16", "FORM_VERSIONED", "HEADER_BYTES", "LINE_BYTES", "SLOTS_PER_LINE", "ENTRY_BYTES", "MATCHES_MAX",
    "MATCH_DTYPE",
]  # fmt: skip


def told(kind: type) -> str:
    """Each module has error classes of its own, by the same names."""
    return kind.__name__


def comparable(result: tuple[Any, ...]) -> tuple[Any, ...]:
    return (result[0], told(result[1]), result[2]) if result[0] == "error" else result


def same(compiled_call: Any, python_call: Any, *arguments: Any, **named: Any) -> Any:
    expected = comparable(outcome(python_call, *arguments, **named))
    assert comparable(outcome(compiled_call, *arguments, **named)) == expected
    return expected


class Pair:
    """One table in each form of the module, given the same calls."""

    def __init__(self, lines: int, form: int, **options: Any) -> None:
        self.buffers = [tables.memory(lines, form, module) for module in (probe, probe_py)]
        options = {"writable": True, **options}
        self.tables = [
            module.Table(buffer, **options) for module, buffer in zip((probe, probe_py), self.buffers, strict=True)
        ]

    def call(self, name: str, *arguments: Any) -> Any:
        return same(getattr(self.tables[0], name), getattr(self.tables[1], name), *arguments)

    def get(self, name: str) -> Any:
        return same(lambda: getattr(self.tables[0], name), lambda: getattr(self.tables[1], name))

    def set(self, name: str, value: Any) -> Any:
        return same(lambda: setattr(self.tables[0], name, value), lambda: setattr(self.tables[1], name, value))

    def many(self, name: str, *arguments: Any, counts: Any, matches: Any) -> None:
        """Lookups of many keys: what they return and what they leave in the arrays they were given."""
        results = []
        for view in self.tables:
            outputs = [value.copy() if isinstance(value, np.ndarray) else value for value in (counts, matches)]
            result = comparable(outcome(getattr(view, name), *arguments, *outputs))
            if result[0] == "value":
                done, used = result[2]
                results.append((result, outputs[0][:done].tolist(), outputs[1][:used].tolist()))
            else:
                results.append(result)
        assert results[0] == results[1]

    def check_bytes(self) -> None:
        assert bytes(self.buffers[0]) == bytes(self.buffers[1])


@pytest.mark.parametrize("name", NAMES)
def test_constants_are_the_same(name: str) -> None:
    assert getattr(probe, name) == getattr(probe_py, name)


def test_both_have_the_same_members() -> None:
    def public(owner: Any) -> set[str]:
        return {name for name in vars(owner) if not name.startswith("_")}

    imported = {"annotations", "np", "zlib", "threading", "Any", "Callable", "Iterator", "NDArray", "NoReturn"}
    imported |= {"Literal", "contextmanager", "nullcontext", "siphash128", "keyhash", "layout", "checked_array"}
    imported |= {"writeable_array"}
    assert public(probe) - imported == public(probe_py) - imported
    assert public(probe.Table) == public(probe_py.Table) | {"form", "lines", "writable"}


STEPS = st.one_of(
    st.tuples(st.just("insert"), DIGESTS, ROWS, st.booleans()),
    st.tuples(st.just("remove"), DIGESTS, ROWS),
    st.tuples(st.just("replace"), DIGESTS, ROWS, DAYS, DAYS, AUX),
    st.tuples(st.just("find"), DIGESTS),
    st.tuples(st.sampled_from(["sweep", "repair", "scan"])),
)


@given(FORMS, st.integers(1, 6), st.booleans(), st.lists(STEPS, max_size=60))
def test_any_steps_leave_the_same_bytes(form: int, lines: int, provisional: bool, steps: list[Any]) -> None:
    pair = Pair(lines, form, provisional=provisional)
    for name, *arguments in steps:
        flat = [part for argument in arguments for part in (argument if isinstance(argument, tuple) else [argument])]
        pair.call(name, *flat)
        pair.check_bytes()
    for name in ("count", "provisional_count"):
        pair.get(name)


@given(FORMS, st.integers(1, 8), st.lists(st.tuples(DIGESTS, ROWS), max_size=40), st.data())
def test_any_arrays_leave_the_same_bytes(form: int, lines: int, rows: list[Any], data: st.DataObject) -> None:
    pair = Pair(lines, form, provisional=data.draw(st.booleans()))
    persons, entries = tables.packed(rows)
    pair.call("insert_many", persons, entries, data.draw(st.booleans()))
    pair.check_bytes()
    pair.call("contains_many", persons[::-1].copy(), entries)
    chosen = np.array(data.draw(st.lists(st.integers(0, max(0, len(rows) - 1)), max_size=5)), np.int64)
    if len(rows):
        pair.call("remove_many", persons[chosen], entries[chosen])
    pair.check_bytes()
    keys = np.array(
        [[int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")] for digest, _ in rows], np.uint64
    ).reshape(-1, 2)
    room = data.draw(st.sampled_from([0, 63, 64, 65, 70, 200]))
    pair.many("find_many", keys, counts=np.zeros(len(keys), np.uint8), matches=np.zeros(room, probe.MATCH_DTYPE))
    pair.call("gather", keys, data.draw(st.integers(0, 20)))


@settings(max_examples=20)
@given(FORMS, st.integers(0, 2**32))
def test_random_keys_leave_the_same_bytes(form: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 700))
    pair = Pair(int(random.integers(count // 4 + 1, count + 2)), form, provisional=True)
    persons, entries = tables.batch(tables.hashes(count, seed), seed=seed)
    pair.call("insert_many", persons, entries, bool(seed & 1))
    pair.call("remove_many", persons[: count // 3], entries[: count // 3])
    pair.call("insert_many", persons + 1, entries)
    pair.check_bytes()
    asked = np.concatenate([tables.hashes(count, seed), tables.hashes(300, seed + 1)])
    pair.many(
        "find_many", asked, counts=np.zeros(len(asked), np.uint8),
        matches=np.zeros(int(random.integers(64, 3000)), probe.MATCH_DTYPE),
    )  # fmt: skip
    pair.call("sweep")
    pair.check_bytes()


@given(FORMS, st.binary(max_size=20), st.lists(st.binary(max_size=30), max_size=30))
def test_messages(form: int, key: bytes, messages: list[bytes]) -> None:
    pair = Pair(21, form)
    rows = np.zeros((len(messages), 30), np.uint8)
    for row, message in zip(rows, messages, strict=True):
        row[: len(message)] = np.frombuffer(message, np.uint8)
        pair.call("insert", probe_py.siphash128(bytes(16), message), 1, 2, 3, 4)
        pair.call("find_message", bytes(16), message)
        pair.call("find_message", key, message)
    lengths = np.array([len(message) for message in messages], np.uint16)
    for chosen in (bytes(16), key):
        pair.many(
            "find_many_rows", chosen, rows, lengths,
            counts=np.zeros(len(rows), np.uint8), matches=np.zeros(len(rows) + 64, probe.MATCH_DTYPE),
        )  # fmt: skip
    if len(lengths):
        lengths[-1] = 31
        pair.many(
            "find_many_rows", bytes(16), rows, lengths,
            counts=np.zeros(len(rows), np.uint8), matches=np.zeros(len(rows) + 64, probe.MATCH_DTYPE),
        )  # fmt: skip


@given(FORMS, st.data())
def test_odd_arguments_of_one_key_calls(form: int, data: st.DataObject) -> None:
    pair = Pair(3, form)
    argument = DIGESTS | ODD | st.integers(-1, 2**33)
    for name, count in [("find", 1), ("find_message", 2), ("insert", 6), ("remove", 5), ("replace", 8)]:
        good = [bytes(16), 1, 2, 3, 4, 2, 3, 4][:count]
        if name == "insert":
            good[5] = False
        if name == "find_message":
            good = [bytes(16), b"message"]
        position = data.draw(st.integers(0, count - 1))
        if (name, position) != ("insert", 5):
            good[position] = data.draw(argument)
        pair.call(name, *good)
        pair.check_bytes()
    for name in ("visible_seq", "insurers_version", "applied_seq"):
        pair.set(name, data.draw(argument))
        pair.get(name)


def arrays(dtype: str, *shape: int) -> st.SearchStrategy[Any]:
    """Arrays that fit, and each way in which one may not."""
    good = np.zeros(shape, dtype)
    frozen = good.copy()
    frozen.flags.writeable = False
    wider = np.zeros((*shape[:-1], shape[-1] * 2), dtype)[..., ::2]
    swapped = good.astype(good.dtype.newbyteorder())
    others = [good, frozen, wider, swapped, good.astype("i4"), np.zeros((*shape, 2), dtype), good[:0], good[1:].copy()]
    return st.sampled_from(others) | ODD


@settings(max_examples=200)
@given(FORMS, st.data())
def test_odd_arrays(form: int, data: st.DataObject) -> None:
    pair = Pair(3, form)
    hashes, counts = data.draw(arrays("u8", 5, 2)), data.draw(arrays("u1", 5))
    matches = data.draw(
        st.sampled_from(
            [
                np.zeros(70, probe.MATCH_DTYPE),
                np.zeros(140, probe.MATCH_DTYPE)[::2],
                np.zeros((70, 1), probe.MATCH_DTYPE),
                np.zeros(70, "u4"),
                None,
            ]
        )  # fmt: skip
    )
    pair.many("find_many", hashes, counts=counts, matches=matches)
    key, rows, lengths = data.draw(st.just(bytes(16)) | ODD), data.draw(arrays("u1", 5, 9)), data.draw(arrays("u2", 5))
    pair.many("find_many_rows", key, rows, lengths, counts=counts, matches=matches)
    pair.call("gather", hashes, data.draw(st.integers(-1, 1025)))
    persons = data.draw(arrays("u4", 5))
    entries = data.draw(st.sampled_from([bytes(120), bytes(119), bytes(0), b"\xff" * 120, bytearray(96)]))
    for name in ("insert_many", "remove_many", "contains_many"):
        pair.call(name, persons, entries)
        pair.check_bytes()


@given(st.integers(-1, 2**41) | ODD)
def test_segment_bytes(lines: Any) -> None:
    same(probe.segment_bytes, probe_py.segment_bytes, lines)


@given(st.data())
def test_format(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([0, 100, 12288, 12351, 12352, 12400, 20000]))
    named = {
        "form": data.draw(st.integers(0, 3) | ODD),
        "lines": data.draw(st.integers(0, 20) | ODD),
        "generation": data.draw(st.integers(0, 2**64) | ODD),
        "store_id": data.draw(st.just(bytes(range(16))) | ODD),
        "key_id": data.draw(st.just(b"12345678") | ODD),
    }
    buffers = bytearray(size), bytearray(size)
    results = [
        comparable(outcome(module.format, buffer, **named))
        for module, buffer in zip((probe, probe_py), buffers, strict=True)
    ]
    assert results[0] == results[1] and buffers[0] == buffers[1]


@settings(max_examples=300)
@given(st.data())
def test_hostile_segments(data: st.DataObject) -> None:
    """Any bytes behind a header that is right or nearly so: both refuse alike, or find alike."""
    lines = data.draw(st.integers(1, 4))
    buffer = mmap.mmap(-1, probe.segment_bytes(lines) + data.draw(st.sampled_from([0, 8, 64])))
    probe.format(buffer, form=data.draw(FORMS), lines=lines)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    words = random.integers(0, 2**64, (len(buffer) - 12288) // 8, dtype=np.uint64)
    words &= random.choice(np.array([0xFFFF, 0x3FFFF, 2**64 - 1], np.uint64), len(words))
    buffer[12288 : 12288 + words.nbytes] = words.tobytes()
    for _ in range(data.draw(st.integers(0, 2))):
        offset = data.draw(st.sampled_from([0, 7, 8, 12, 16, 17, 23, 24, 56, 57, 124]))
        buffer[offset] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        buffer[124:128] = zlib.crc32(buffer[:124]).to_bytes(4, "little")
    results = [comparable(outcome(module.Table, buffer)) for module in (probe, probe_py)]
    assert results[0][0] == results[1][0]
    if results[0][0] == "error":
        assert results[0] == results[1]
        return
    views = results[0][2], results[1][2]
    for digest in data.draw(st.lists(DIGESTS, max_size=10)):
        same(views[0].find, views[1].find, digest)
    same(views[0].scan, views[1].scan)
    keys = tables.hashes(50, 1)
    keys[:, 1] &= 0x3FFFF
    answers = []
    for view in views:
        counts, matches = np.zeros(50, np.uint8), np.zeros(3300, probe.MATCH_DTYPE)
        answers.append((comparable(outcome(view.find_many, keys, counts, matches)), counts, matches))
    assert answers[0][0] == answers[1][0]
    if answers[0][0][0] == "value":
        (_, _, (done, used)), *_ = answers[0]
        assert answers[0][1][:done].tolist() == answers[1][1][:done].tolist()
        assert answers[0][2][:used].tolist() == answers[1][2][:used].tolist()
