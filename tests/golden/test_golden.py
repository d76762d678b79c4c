"""Did bytes change: every on-disk and wire format of version 1 is read with today's code, and made again.

Reading must work forever. Where making gives other bytes, a format has changed: then it needs a new version and new
files beside these, or, for the API's documents, `python -m tests.golden.generate --api` and a look at the difference.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import numpy as np
import pytest

from api.problems import Problem
from api.wire import registration
from api.wire.native import CheckAnswer
from engine import entries, fsck, store
from engine.config import Config
from engine.errors import RecordCorruptError
from engine.index import IndexReader
from engine.ingest import feed
from engine.ingest.registry import FeedReceipt, Registry
from engine.ingest.rows import Row
from engine.records import Verdict
from engine.store import StoreReader
from ext import probe
from tests.golden import cast, generate
from tests.golden.cast import HERE
from tests.golden.generate import KEYS, MAP_BYTES

HISTORIES = b"histories".hex()
"""A row of `meta` that is random, and younger than version 1 of the schema."""
DATABASES = ("meta", "versions", "changes", "insurers", "feeds", "feed_digests", "feed_numbers")
MINIMAL_NUMBER = 6
"""The person of the second row in data_v1."""


def golden(name: str) -> Any:
    return json.loads((HERE / name).read_bytes())


def lines(name: str) -> list[bytes]:
    return (HERE / name).read_bytes().splitlines()


@pytest.mark.parametrize("name", generate.SINGLE)
def test_the_same_bytes_are_made_again(name: str) -> None:
    assert generate.SINGLE[name]() == (HERE / name).read_bytes()


def test_the_generator_leaves_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "HERE", tmp_path)
    monkeypatch.setattr(generate, "SINGLE", {"old_v1.json": lambda: b"new", "new_v1.json": lambda: b"new"})
    (tmp_path / "old_v1.json").write_bytes(b"old")
    (tmp_path / "answers_v1.ndjson").write_bytes(b"old")
    generate.main([])
    assert (tmp_path / "old_v1.json").read_bytes() == b"old"
    assert (tmp_path / "new_v1.json").read_bytes() == b"new"
    assert (tmp_path / "answers_v1.ndjson").read_bytes() == b"old"


# --- records, entries, segments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", cast.PEOPLE)
def test_records_are_read(number: int) -> None:
    packed = golden("records_v1.json")[str(number)]
    version = store.unpack_record(bytes.fromhex(packed["key"]), bytes.fromhex(packed["value"]))
    assert version.person == cast.PEOPLE[number]
    assert (version.number, version.recorded_at_ms) == (number, cast.NOW_MS)
    assert version.seq == 1000 + list(cast.PEOPLE).index(number)
    assert version.entries.hex() == "".join(golden("entries_v1.json")[str(number)])


@pytest.mark.parametrize("number", cast.PEOPLE)
def test_a_record_with_any_byte_changed_is_refused(number: int) -> None:
    packed = golden("records_v1.json")[str(number)]
    key, value = bytes.fromhex(packed["key"]), bytes.fromhex(packed["value"])
    whole = key + value
    for position in range(len(whole)):
        damaged = whole[:position] + bytes([whole[position] ^ 0x20]) + whole[position + 1 :]
        with pytest.raises(RecordCorruptError):
            store.unpack_record(damaged[: len(key)], damaged[len(key) :])


@pytest.fixture(params=["atomic16", "versioned"])
def segment(request: pytest.FixtureRequest) -> Iterator[probe.Table]:
    """The golden segment, attached as a reader."""
    saved = golden(f"segment_{request.param}_v1.json")
    buffer = generate.aligned(saved["bytes"])
    for offset, line in saved["lines"].items():
        buffer[int(offset) : int(offset) + 64] = np.frombuffer(bytes.fromhex(line), np.uint8)
    table = probe.Table(buffer)
    yield table
    table.release()


def test_segments_are_read(segment: probe.Table) -> None:
    expected: dict[bytes, set[tuple[int, ...]]] = {}
    for number, packed in golden("entries_v1.json").items():
        for entry in map(bytes.fromhex, packed):
            gained, lost, aux, _ = np.frombuffer(entry[16:], "<u2").tolist()
            expected.setdefault(entry[:16], set()).add((int(number), gained, lost, aux))
    assert {digest: set(segment.find(digest)) for digest in expected} == expected
    assert segment.find(bytes(16)) == ()
    assert (segment.lines, segment.generation, segment.count) == (generate.SEGMENT_LINES, 7, 10)
    assert (segment.store_id, segment.key_id) == (cast.STORE_ID, KEYS.key_id)
    assert (segment.visible_seq, segment.settled_seq, segment.insurers_version) == (1002, 1002, 3)


# --- a whole data folder --------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The golden data folder, copied to where it may be written."""
    shutil.copytree(generate.DATA, tmp_path / "data")
    return generate.config_of(tmp_path / "data", tmp_path)


def rows_of(directory: Path) -> dict[str, list[tuple[str, str]]]:
    """Every row of every database in hexadecimal, read with nothing of ours."""
    with lmdb.open(str(directory), readonly=True, lock=False, max_dbs=len(DATABASES), lib_version=0) as environment:
        found = {}
        for name in DATABASES:
            with environment.begin(db=environment.open_db(name.encode(), create=False)) as txn:
                found[name] = [(key.hex(), value.hex()) for key, value in txn.cursor()]
        return found


def test_the_same_rows_are_stored_again(tmp_path: Path) -> None:
    """Which number a person gets is no format; so of `versions` and `changes` it is what they say that is compared."""
    receipts = generate.write_data(tmp_path / "data")
    now, then = rows_of(tmp_path / "data" / "store"), rows_of(generate.DATA / "store")
    for name in ("meta", "feeds", "feed_digests", "feed_numbers"):
        assert [row for row in now[name] if row[0] != HISTORIES] == then[name], name
    assert insurers_of(now, without={"last_feed"}) == insurers_of(then)
    assert people_of(now) == people_of(then)
    assert [key for key, _ in now["changes"]] == [key for key, _ in then["changes"]]
    assert receipts == (HERE / "receipts_v1.ndjson").read_bytes()


def insurers_of(rows: dict[str, list[tuple[str, str]]], without: Set[str] = frozenset()) -> list[dict[str, object]]:
    """Insurers as maps. `without`: members that were added after the golden data were made."""
    maps = [msgspec.msgpack.decode(bytes.fromhex(value)) for _, value in rows["insurers"]]
    return [{name: value for name, value in each.items() if name not in without} for each in maps]


def people_of(rows: dict[str, list[tuple[str, str]]]) -> list[bytes]:
    """The MessagePack of every version: a record without head, entries and checksum."""
    values = [bytes.fromhex(value) for _, value in rows["versions"]]
    return sorted(value[12 + entries.ENTRY_BYTES * value[1] : -4] for value in values)


def test_the_store_is_read(config: Config) -> None:
    reader = StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    try:
        assert (reader.store_id, reader.created_ms, reader.committed_seq) == (cast.STORE_ID, cast.NOW_MS, 15)
        assert reader.history(1) == [(1, cast.NOW_MS, cast.FULL)]
        moved = msgspec.structs.replace(cast.MINIMAL, address="大阪府大阪市中央区大手前２丁目")
        assert [person for _, _, person in reader.history(MINIMAL_NUMBER)] == [cast.MINIMAL, moved]
        known = reader.insurer("01130012")
        assert known is not None
        assert (known.name, known.fresh_at_ms, known.feed_number) == (cast.INSURERS[0].name, cast.NOW_MS, 12)
        assert [(each.feed, each.scope, each.rows) for each in reader.feeds()] == [
            (2, "01130012", 2),
            (1, "operator", 13),
        ]
        assert reader.last_feed_number("01130012") == 12
    finally:
        reader.close()


def saved_index_only(config: Config) -> None:
    assert config.snapshot_file.exists()


def records_only(config: Config) -> None:
    config.snapshot_file.unlink()


@pytest.mark.parametrize("prepare", [saved_index_only, records_only])
def test_old_data_gives_the_same_answers(config: Config, prepare: Callable[[Config], None]) -> None:
    """From bytes on disk to bytes on the wire; with the saved index, and with one built from the records."""
    prepare(config)
    Registry.open(config, KEYS).close()
    report = fsck.run(config, KEYS)
    assert report.problems == []
    assert generate.answers(config) == (HERE / "answers_v1.ndjson").read_bytes()


def test_the_saved_index_is_loaded_and_not_built_anew(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery would hide a snapshot that cannot be read any more by building another index."""
    monkeypatch.setattr("engine.recovery._rebuild", None)
    registry = Registry.open(config, KEYS)
    try:
        store_id = registry.store.store_id
        assert config.index_dir is not None
        index = IndexReader.attach(config.index_dir, store_id=store_id, key_id=KEYS.key_id)
        ((person, *_),) = index.find(KEYS.link_hash("LINK-0001"))
        assert (person, index.data_version) == (1, 15)
        index.close()
    finally:
        registry.close()


def test_what_came_before_is_recognised(config: Config) -> None:
    """A feed and a call from the time of version 1 are repeats, with the receipts of then."""
    registry = Registry.open(config, KEYS)
    try:
        imported = registry.import_feed(HERE / "feed_v1.csv")
        (called,) = registry.apply_calls([generate.operations()])
    finally:
        registry.close()
    for then, now in zip(lines("receipts_v1.ndjson"), (imported, called), strict=True):
        assert isinstance(now, FeedReceipt)
        assert json.loads(registration.receipt(now)) == json.loads(then) | {"replayed": True}


# --- what comes in and what goes out --------------------------------------------------------------------------------


def feed_rows(name: str, form: feed.FeedFormat) -> list[Row]:
    found = []
    for chunk in feed.read(HERE / name, format=form):
        assert chunk.errors == []
        found += chunk.rows
    return found


def test_feeds_are_read() -> None:
    rows = feed_rows("feed_v1.csv", "csv")
    assert len(rows) == 13
    assert [row.person for row in rows[:2]] == [cast.FULL, cast.MINIMAL]
    assert feed_rows("feed_v1.ndjson", "ndjson") == rows


@pytest.mark.parametrize("line", lines("answers_v1.ndjson"), ids=lambda line: json.loads(line)["case"])
def test_answers_say_what_the_cast_expects(line: bytes) -> None:
    saved = json.loads(line)
    request, verdict, reason = cast.INQUIRIES[saved["case"]]
    answer = msgspec.convert(saved["answer"], CheckAnswer)
    assert saved["request"] == request
    assert (answer.verdict, answer.reason) == (verdict, reason)


def test_every_verdict_has_an_answer() -> None:
    assert {verdict for _, verdict, _ in cast.INQUIRIES.values()} == set(Verdict)
    assert {json.loads(line)["case"] for line in lines("answers_v1.ndjson")} == set(cast.INQUIRIES)


def test_receipts_and_problems_are_read() -> None:
    for line in lines("receipts_v1.ndjson"):
        assert msgspec.json.decode(line, type=registration.Receipt).received_at == "2026-11-23T08:00:00+09:00"
    found = [msgspec.json.decode(line, type=Problem) for line in lines("problems_v1.ndjson")]
    assert [each.code for each in found] == [
        "input.my_number",
        "registry.busy",
        "feed.rows",
        "http.not_found",
        "internal",
    ]
    assert [each.retry_after_ms for each in found] == [None, 1000, None, None, None]


def test_entries_have_24_bytes() -> None:
    assert all(len(entry) == 2 * entries.ENTRY_BYTES for each in golden("entries_v1.json").values() for entry in each)
