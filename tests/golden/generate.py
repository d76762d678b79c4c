"""Owns the making of golden files: `python -m tests.golden.generate` writes those that are not there.

An existing file is left as it is: on-disk formats of version 1 are read forever, and files of a newer version get a new
name. Documents of the API may change with it, on purpose: `--api` writes them anew, and the difference is reviewed.
Single files are deterministic, so that a test makes the same bytes again and compares. In a data folder the rows are;
where LMDB puts them on a page, and which slot of a line an entry takes, depend on the order in which sets are walked.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np

from api import openapi, problems
from api.wire import registration
from api.wire.reading import Reader
from api.wire.writing import Writer
from engine import entries, errors, keys, store
from engine.clock import Clock
from engine.config import Config
from engine.index import IndexReader
from engine.ingest.registry import DeltaCall, Registry
from engine.ingest.rows import Report, RowError
from engine.recovery import index_directory
from engine.store import StoreReader
from engine.verification import Verifier
from ext import probe
from tests.golden import cast
from tests.golden.cast import HERE

MAP_BYTES = 1 << 24
SEGMENT_LINES = 8
KEYS = keys.load(cast.MASTER_FILE)
API_FILES = ("openapi_check.json", "openapi_registry.json", "problem_codes.json")
DATA = HERE / "data_v1"

Json = dict[str, Any]


# --- single formats -------------------------------------------------------------------------------------------------


def key_material() -> Json:
    """What one master key becomes: a change here makes every store unreadable."""
    return {
        "index_key": KEYS.index_key.hex(),
        "key_id": KEYS.key_id.hex(),
        "card": KEYS.card_hash("01130012", cast.FULL.birth_date, "1234", "1000001").hex(),
        "card_kanji": KEYS.card_hash("33120015", cast.SEVERAL.birth_date, "甲ア", "77").hex(),
        "certificate": KEYS.certificate_hash("cn=jpki,c=jp", "F3A").hex(),
        "person": KEYS.person_hash(0xFFFFFFFF).hex(),
        "link": KEYS.link_hash("LINK-0001").hex(),
    }


def packed_entries() -> Json:
    """Index entries of the cast, 24 bytes each."""
    found = {}
    for number, person in cast.PEOPLE.items():
        packed = entries.entries_of(KEYS, number, person)
        found[str(number)] = [
            packed[at : at + entries.ENTRY_BYTES].hex() for at in range(0, len(packed), entries.ENTRY_BYTES)
        ]
    return found


def records() -> Json:
    """Key and value of one record for each of the cast, as change 1000 + position."""
    found = {}
    for seq, (number, person) in enumerate(cast.PEOPLE.items(), 1000):
        key = store.version_key(number, seq)
        packed = entries.entries_of(KEYS, number, person)
        value = store.pack_record(key, cast.NOW_MS, packed, store.encode_person(person))
        found[str(number)] = {"key": key.hex(), "value": value.hex()}
    return found


def segment(form: int) -> Json:
    """A mapped index with the cast's entries: its lines of 64 bytes that are not zero, by offset."""
    size = probe.segment_bytes(SEGMENT_LINES)
    buffer = aligned(size)
    probe.format(buffer, form=form, lines=SEGMENT_LINES, generation=7, store_id=cast.STORE_ID, key_id=KEYS.key_id)
    table = probe.Table(buffer, writable=True, provisional=True)
    for number, person in cast.PEOPLE.items():
        batch = np.frombuffer(entries.entries_of(KEYS, number, person), entries.ENTRY_DTYPE)
        table.insert_many(np.full(len(batch), number, np.uint32), batch)
    table.visible_seq, table.insurers_version = 1002, 3
    table.applied_seq = 1002
    table.release()
    lines = {at: bytes(buffer[at : at + 64]) for at in range(0, size, 64)}
    return {"bytes": size, "lines": {str(at): line.hex() for at, line in lines.items() if any(line)}}


def aligned(size: int) -> np.ndarray:
    """Zero bytes that begin on a cache line, as a mapping does."""
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


# --- a whole data folder --------------------------------------------------------------------------------------------


def config_of(data: Path, scratch: Path) -> Config:
    """Settings for a data folder; the live index lies in `scratch`."""
    return Config(
        data_dir=data,
        key_file=cast.MASTER_FILE,
        index_dir=scratch / "index",
        map_bytes=MAP_BYTES,
        index_keys=64,
        clock_fixed_ms=cast.NOW_MS,
    )


def write_data(folder: Path) -> bytes:
    """Register everything through the real registry, and write a snapshot of it. Returns the receipts as sent."""
    with tempfile.TemporaryDirectory() as name:
        config = config_of(Path(name) / "data", Path(name))
        with mock.patch("secrets.token_bytes", return_value=cast.STORE_ID):
            store.create(config.store_dir, key_id=KEYS.key_id, map_bytes=MAP_BYTES, now_ms=cast.NOW_MS)
        registry = Registry.open(config, KEYS)
        try:
            for insurer in cast.INSURERS:
                registry.register_insurer(insurer)
            imported = registry.import_feed(HERE / "feed_v1.csv")
            (called,) = registry.apply_calls([operations()])
            assert not isinstance(called, errors.ShikakuError), called
            registry.snapshot(folder)
            (folder / "store" / "lock.mdb").unlink()
        finally:
            registry.close()
    return b"".join(registration.receipt(done) + b"\n" for done in (imported, called))


def operations() -> DeltaCall:
    """The call of operations_v1.json."""
    body = (HERE / "operations_v1.json").read_bytes()
    return registration.delta(body, "01130012", policy="error", exempt=lambda number: False)


def answers(config: Config) -> bytes:
    """The cast's inquiries with the bytes that answer them, one a line."""
    records = StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=MAP_BYTES)
    directory = index_directory(config, records.store_id)
    index = IndexReader.attach(directory, store_id=records.store_id, key_id=KEYS.key_id)
    try:
        verifier = Verifier(index, records, KEYS, Clock(cast.NOW_MS))
        reader = Reader(policy="warn", today=Clock(cast.NOW_MS).today, insurer=verifier.insurer)
        writer = Writer(insurer=verifier.insurer)
        lines = []
        for name, (request, _, _) in cast.INQUIRIES.items():
            mark, asked = reader.inquiry(json.dumps(request).encode())
            answer = msgspec.Raw(writer.answer(asked, verifier.check(asked), mark))
            lines.append(msgspec.json.encode({"case": name, "request": request, "answer": answer}))
    finally:
        index.close()
        records.close()
    return b"\n".join(lines) + b"\n"


# --- documents of the API -------------------------------------------------------------------------------------------


def problem_bodies() -> bytes:
    """Problems with each of the optional members, as sent, one a line."""
    report = Report(rows=3, error_count=1, errors=[RowError(2, "number", "input.check_digit", "9 digits")])
    found = [
        errors.MyNumberError("twelve digits that may be a My Number", field="card.number"),
        errors.WriterBusyError("the registry is writing", retry_after_ms=1000),
        errors.FeedRowsError("wrong rows or cells: 1; nothing was applied", report=report),
        problems.NotFoundError("there is nothing at this path"),
        ZeroDivisionError("what is not ours is not shown"),
    ]
    return b"".join(msgspec.json.encode(problems.problem(error)) + b"\n" for error in found)


def problem_codes() -> Json:
    """Stable codes and their status."""
    return {code: entry.status for code, entry in sorted(problems.known_codes().items())}


def api_document(port: str) -> Any:
    """The OpenAPI document of a port without what is said to people: what is left is what clients depend on."""
    document = contract(json.loads(openapi.document(port)))
    document["info"].pop("version")
    return document


def contract(value: Any) -> Any:
    """A JSON value without titles, descriptions and examples."""
    if isinstance(value, list):
        return [contract(each) for each in value]
    if not isinstance(value, dict):
        return value
    texts = {name for name in ("title", "description", "summary") if isinstance(value.get(name), str)}
    return {name: contract(each) for name, each in value.items() if name not in texts | {"example", "examples"}}


# --- writing --------------------------------------------------------------------------------------------------------


def text(value: Any) -> bytes:
    """JSON for people to compare."""
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"


SINGLE: dict[str, Callable[[], bytes]] = {
    "keys_v1.json": lambda: text(key_material()),
    "entries_v1.json": lambda: text(packed_entries()),
    "records_v1.json": lambda: text(records()),
    "segment_atomic16_v1.json": lambda: text(segment(probe.FORM_ATOMIC16)),
    "segment_versioned_v1.json": lambda: text(segment(probe.FORM_VERSIONED)),
    "problems_v1.ndjson": problem_bodies,
    "problem_codes.json": lambda: text(problem_codes()),
    "openapi_check.json": lambda: text(api_document("check")),
    "openapi_registry.json": lambda: text(api_document("registry")),
}
"""Files that stand alone; data_v1, receipts_v1.ndjson and answers_v1.ndjson are made together."""


def main(arguments: list[str]) -> None:
    """Write what is missing; with `--api` the API's documents too, whether or not they are there."""
    for name, make in SINGLE.items():
        path = HERE / name
        if not path.exists() or ("--api" in arguments and name in API_FILES):
            path.write_bytes(make())
    if not DATA.exists():
        (HERE / "receipts_v1.ndjson").write_bytes(write_data(DATA))
    if not (HERE / "answers_v1.ndjson").exists():
        with tempfile.TemporaryDirectory() as name:
            config = config_of(Path(name) / "data", Path(name))
            write_data(config.data_dir)
            Registry.open(config, KEYS).close()
            (HERE / "answers_v1.ndjson").write_bytes(answers(config))


if __name__ == "__main__":
    main(sys.argv[1:])
