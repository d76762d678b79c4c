"""Owns what tests of store and registry need: settings in a folder, rows and calls in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine import days, fsck, keys, store
from engine.config import Config
from engine.entries import entries_of
from engine.ingest.registry import DeltaCall, FeedReceipt, Registry
from engine.ingest.rows import NO_TARGET, Op, Row
from engine.ingest.workspace import as_arrays
from engine.keys import Keys
from engine.records import Certificate, Insurer, Person, Qualification, Sex, State

__all__ = ["as_arrays", "days", "entries_of", "fsck", "store"]

INSURERS = ("01130012", "33120015", "39131156")
BORN = 29_000
KEYS = Keys(bytes(range(32)))


def settings(folder: Path, **changes: object) -> Config:
    """Settings for a store in `folder`; its index lies there too, so that nothing stays behind in memory."""
    given = {"data_dir": folder / "data", "index_dir": folder / "index", "map_bytes": 1 << 28, "index_keys": 1024}
    return Config(key_file=folder / "master.key", **(given | changes))  # type: ignore[arg-type]


def init(config: Config, insurers: tuple[str, ...] = INSURERS) -> None:
    """An empty store with insurers."""
    store.create(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    with opened(config) as registry:
        for number in insurers:
            registry.register_insurer(Insurer(number, f"insurer {number}"))


@contextmanager
def opened(config: Config, master: keys.Keys = KEYS) -> Iterator[Registry]:
    """The registry of a store, closed afterwards."""
    registry = Registry.open(config, master)
    try:
        yield registry
    finally:
        registry.close()


def row(
    number: int | str,
    op: Op = Op.NEW,
    at: int = 1,
    *,
    insurer: str = INSURERS[0],
    branch: str = "01",
    kana: str = "ヤマダ",
    sex: Sex = Sex.MALE,
    born: int = BORN,
    link: str = "",
    serial: str = "",
    gained: int | None = 36_000,
    lost: int | None = None,
    reason: str = "",
    state: State = State.CONFIRMED,
    symbol: str = "12",
    address: str = "",
) -> Row:
    """One operation on the card `number`; gained None: the latest spell is meant."""
    qualification = Qualification(
        insurer_number=insurer,
        symbol=symbol,
        number=str(number),
        symbol_key=symbol,
        number_key=str(number),
        branch=branch,
        gained_on=NO_TARGET if gained is None else gained,
        lost_on=lost,
        loss_reason=reason,
        state=state,
    )
    certificates = (Certificate("JPKI", serial, 40_000),) if serial else ()
    person = Person("山田", kana, sex, born, (qualification,), certificates, link, address=address)
    return Row(at, op, person)


def lose(number: int | str, lost: int = 36_500, *, gained: int | None = None, **others: object) -> Row:
    """A lose operation."""
    return row(number, Op.LOSE, gained=gained, lost=lost, reason="03", **others)  # type: ignore[arg-type]


def call(*rows: Row, insurer: str = INSURERS[0], feed_number: int | None = None, salt: str = "") -> DeltaCall:
    """A call with these rows, numbered from 1; its digest is that of its content (and of `salt`)."""
    numbered = [Row(at, each.op, each.person) for at, each in enumerate(rows, 1)]
    digest = hashlib.sha256(msgspec.msgpack.encode(numbered) + salt.encode()).digest()
    return DeltaCall(insurer, feed_number, 39_000, numbered, digest)


def applied(registry: Registry, *calls: DeltaCall) -> list[FeedReceipt]:
    """The receipts of calls that must all succeed."""
    results = registry.apply_calls(list(calls))
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results  # type: ignore[return-value]


def assert_sound(config: Config, master: keys.Keys = KEYS) -> fsck.FsckReport:
    """Check store and index; what is wrong is in the failure's text."""
    report = fsck.run(config, master)
    assert report.problems == []
    return report


CSV_COLUMNS = (
    "op,insurer_number,symbol,number,branch,birth_date,link_code,name,name_kana,sex,gained_on,lost_on,loss_reason,"
    "relation,certificate_issuer,certificate_serial,certificate_expires_on"
)


def csv_line(
    number: int | str,
    op: str = "new",
    *,
    insurer: str = INSURERS[0],
    branch: str = "01",
    birth: str = "1990-01-02",
    link: str = "",
    kana: str = "ヤマダ タロウ",
    sex: str = "1",
    gained: str = "2020-04-01",
    lost: str = "",
    reason: str = "",
    serial: str = "",
) -> str:
    """One line of a feed with CSV_COLUMNS."""
    issuer, expires = ("JPKI", "2030-01-02") if serial else ("", "")
    return (
        f"{op},{insurer},12,{number},{branch},{birth},{link},山田 太郎,{kana},{sex},{gained},{lost},{reason},1,"
        f"{issuer},{serial},{expires}"
    )


def write_csv(path: Path, lines: list[str]) -> Path:
    """A feed file."""
    path.write_text("\n".join([CSV_COLUMNS, *lines]) + "\n", "utf-8")
    return path
