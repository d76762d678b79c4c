"""Owns the measurement of the whole verification without HTTP, beside sqlite3, bare LMDB with MessagePack, and dict.

The references store the same people under the same identifiers, and decide with the same rules; what differs is how a
person is found and read. The dict holds decoded people in the process's own memory: a bound, not a choice.
"""

from __future__ import annotations

import gc
import random
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import msgspec
import numpy as np
import pytest

from engine import days, entries, identifiers, rules
from engine import store as store_module
from engine.clock import Clock
from engine.index import IndexReader, IndexWriter
from engine.keys import Keys, card_message
from engine.records import (
    CardIdentifiers,
    Certificate,
    CertificateIdentifiers,
    Inquiry,
    Person,
    Qualification,
    Relation,
    Sex,
    State,
)
from engine.rules import Decision
from engine.store import StoreReader, StoreWriter
from engine.verification import Verifier

SEED = 20261123
PEOPLE = {"smoke": 2_000, "standard": 100_000, "large": 1_000_000}
CHECKS = 1_000
"""Inquiries in one round, different people in random order; a round takes the next thousand."""
ROUNDS = {"smoke": 3, "standard": 40, "large": 100}
CHUNK = 20_000
AS_OF = days.parse_iso("2026-11-23")
INSURERS = ("01130012", "33120015", "00138040", "00123455")
ISSUER = "CN=JPKI TEST"
INSTITUTION = "1311111114"
KEYS = Keys(bytes(range(32)))
CLOCK = Clock(1_795_400_000_000)

encode_person = msgspec.msgpack.Encoder().encode
decode_person = msgspec.msgpack.Decoder(Person).decode


def make_person(number: int, pick: random.Random) -> Person:
    """Eight in ten hold one qualification in force, one in ten one that was lost, one in ten a newer one too."""
    kind = pick.random()
    gained = AS_OF - pick.randrange(400, 9000)
    ended = AS_OF - pick.randrange(1, 399) if kind > 0.8 else None
    held = [make_qualification(number, pick.choice(INSURERS), gained, ended)]
    if kind > 0.9 and ended is not None:
        held.append(make_qualification(number + 5_000_000, pick.choice(INSURERS), ended, None))
    return Person(
        name="資格 花子",
        name_kana="シカク ハナコ",
        sex=Sex.FEMALE,
        birth_date=AS_OF - pick.randrange(1, 33_000),
        qualifications=tuple(held),
        certificates=(Certificate(ISSUER, f"{number:016X}", AS_OF + pick.randrange(100, 1800)),),
        link_code=f"{number:012d}",
        postcode="1000001",
        address="東京都千代田区千代田1-1",
    )


def make_qualification(number: int, insurer: str, gained: int, lost: int | None) -> Qualification:
    symbol, digits = str(1000 + number % 9000), f"{1_000_000 + number}"
    return Qualification(
        insurer, symbol, digits, symbol, digits, "01", gained, lost, "03" if lost is not None else "",
        State.CONFIRMED, Relation.SELF, "資格 花子", "01", gained, gained, None, "030",
    )  # fmt: skip


class Fields(NamedTuple):
    """An inquiry as its caller has it: text."""

    insurer_number: str
    symbol: str
    number: str
    branch: str
    birth_date: str


class World:
    """The same people in our store and index, and in what a user would pick instead."""

    def __init__(self, directory: Path, people: dict[int, Person]) -> None:
        self.people = people
        path = directory / "store"
        store_module.create(path, key_id=KEYS.key_id, map_bytes=1 << 36)
        writer = StoreWriter(path, key_id=KEYS.key_id, map_bytes=1 << 36)
        identity = {"store_id": writer.store_id, "key_id": KEYS.key_id}
        self.writer = IndexWriter.create(directory / "index", keys=len(people) * 3, **identity)
        self._fill(writer)
        writer.close()
        self.store = StoreReader(path, key_id=KEYS.key_id, map_bytes=1 << 36)
        self.reader = IndexReader.attach(directory / "index", **identity)
        self.verifier = Verifier(self.reader, self.store, KEYS, CLOCK)
        self.sqlite = fill_sqlite(directory / "people.sqlite", people)
        self.bare = fill_bare_lmdb(directory / "bare", people)
        self.by_card = fill_dict(people)
        self._touch()

    def _touch(self) -> None:
        """Read everything once, so that no contender pays for the first look at a page."""
        for number in self.people:
            self.store.person(number, len(self.people))
        self.sqlite.execute(
            "select sum(length(record)), count(*) from people, cards where person = people.number"
        ).fetchall()
        environment, cards, records = self.bare
        with environment.begin() as txn:
            for database in (cards, records):
                for _ in txn.cursor(database):
                    pass

    def _fill(self, writer: StoreWriter) -> None:
        numbers = list(self.people)
        for start in range(0, len(numbers), CHUNK):
            part = numbers[start : start + CHUNK]
            packed = [entries.entries_of(KEYS, number, self.people[number]) for number in part]
            with writer.transaction() as txn:
                records = []
                for seq, (number, raw) in enumerate(zip(part, packed, strict=True), start=start + 1):
                    key = store_module.version_key(number, seq)
                    person = store_module.encode_person(self.people[number])
                    records.append((key, store_module.pack_record(key, 0, raw, person)))
                txn.put_versions(records, append=True)
                txn.put_changes(start + 1, part)
                txn.advance(committed_seq=start + len(part), next_person=part[-1] + 1, next_feed=1)
            counts = [len(raw) // entries.ENTRY_BYTES for raw in packed]
            added = np.repeat(np.array(part, np.uint32), counts), np.frombuffer(b"".join(packed), entries.ENTRY_DTYPE)
            nothing = added[0][:0], added[1][:0]
            self.writer.publish(start + len(part), added=added, removed=nothing, insurers_changed=False)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()
        self.store.close()
        self.sqlite.close()
        self.bare[0].close()


def fill_sqlite(path: Path, people: dict[int, Person]) -> sqlite3.Connection:
    """Identifiers in an indexed table, people as MessagePack in another; settings as for a read-mostly service."""
    database = sqlite3.connect(path)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma mmap_size = 17179869184")
    database.execute("create table people (number integer primary key, record blob)")
    database.execute(
        "create table cards (insurer text, birth integer, symbol text, number text, person integer,"
        " primary key (insurer, birth, symbol, number, person)) without rowid"
    )
    with database:
        database.executemany("insert into people values (?, ?)", ((n, encode_person(p)) for n, p in people.items()))
        database.executemany("insert into cards values (?, ?, ?, ?, ?)", (card for card in cards_of(people)))
    return database


def fill_bare_lmdb(path: Path, people: dict[int, Person]) -> tuple[lmdb.Environment, Any, Any]:
    """Identifiers to person numbers in one database, people as MessagePack in another."""
    environment = lmdb.open(str(path), map_size=1 << 36, max_dbs=2, readahead=False, sync=False)
    cards, records = environment.open_db(b"cards", dupsort=True), environment.open_db(b"people")
    with environment.begin(write=True) as txn:
        for insurer, birth, symbol, number, person in sorted(cards_of(people)):
            txn.put(card_message(insurer, birth, symbol, number), struct.pack(">I", person), db=cards)
        for number, one in people.items():
            txn.put(struct.pack(">I", number), encode_person(one), db=records, append=True)
    return environment, cards, records


def fill_dict(people: dict[int, Person]) -> dict[bytes, list[int]]:
    by_card: dict[bytes, list[int]] = {}
    for insurer, birth, symbol, number, person in cards_of(people):
        by_card.setdefault(card_message(insurer, birth, symbol, number), []).append(person)
    return by_card


def cards_of(people: dict[int, Person]) -> Iterator[tuple[str, int, str, str, int]]:
    for number, one in people.items():
        for q in one.qualifications:
            yield q.insurer_number, one.birth_date, q.symbol_key, q.number_key, number


@pytest.fixture(scope="module")
def world(size: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    pick = random.Random(SEED)
    people = {number: make_person(number, pick) for number in range(1, PEOPLE[size] + 1)}
    made = World(tmp_path_factory.mktemp("bench"), people)
    # As a server does after its start: what the references keep in memory must not be walked by every collection.
    gc.collect()
    gc.freeze()
    yield made
    gc.unfreeze()
    made.close()


# --- the inquiries ----------------------------------------------------------------------------------------------


def asked_people(world: World, size: str) -> list[list[Person | None]]:
    """Whom each round asks for: random people, one in twenty unknown."""
    pick = random.Random(SEED + 1)
    numbers = list(world.people)
    return [
        [world.people[pick.choice(numbers)] if pick.random() < 0.95 else None for _ in range(CHECKS)]
        for _ in range(ROUNDS[size])
    ]


def fields_of(one: Person | None) -> Fields:
    if one is None:
        return Fields("01130012", "1234", "31337", "01", "2001-01-01")
    q = one.qualifications[0]
    return Fields(q.insurer_number, q.symbol, q.number, q.branch, days.format_iso(one.birth_date))


def canonical(fields: Fields) -> CardIdentifiers:
    insurer, symbol, number, branch, birth = fields
    return CardIdentifiers(insurer, symbol, number, branch, days.parse_iso(birth))


def inquiry_of(card: CardIdentifiers) -> Inquiry:
    return Inquiry(INSTITUTION, AS_OF, "treatment", card)


def by_certificate(one: Person | None) -> Inquiry:
    serial = one.certificates[0].serial if one is not None else "UNKNOWN"
    return Inquiry(INSTITUTION, AS_OF, "treatment", certificate=CertificateIdentifiers(ISSUER, serial))


def measure(
    benchmark: Any, world: World, size: str, prepare: Callable[[Person | None], Any], check: Callable[[Any], Any]
) -> None:
    """Time rounds of CHECKS inquiries, each round with fresh people; keep the checksum of all verdicts."""
    rounds = iter([[prepare(one) for one in people] for people in asked_people(world, size)])
    answers: list[Any] = []
    verdicts: list[str] = []

    def note() -> None:
        verdicts.extend(f"{answer.verdict} {answer.reason}" for answer in answers)
        answers.clear()

    def setup() -> tuple[tuple[list[Any]], dict[str, Any]]:
        note()
        return (next(rounds),), {}

    def run(asked: list[Any]) -> None:
        answers.extend([check(inquiry) for inquiry in asked])

    benchmark.pedantic(run, setup=setup, rounds=ROUNDS[size])
    note()
    benchmark.extra_info["ns_per_check_median"] = round(benchmark.stats.stats.median / CHECKS * 1e9)
    benchmark.extra_info["people"] = len(world.people)
    benchmark.extra_info["checksum"] = checksum(verdicts)
    assert benchmark.extra_info["checksum"] == expected(world, size, prepare is by_certificate)


def checksum(verdicts: list[str]) -> str:
    return f"{zlib.crc32(chr(10).join(verdicts).encode()):08x}"


def expected(world: World, size: str, by_chip: bool) -> str:
    """The same from the people who were asked for, without looking anybody up."""
    decisions = [expect(one, by_chip) for people in asked_people(world, size) for one in people]
    return checksum([f"{decision.verdict} {decision.reason}" for decision in decisions])


def expect(one: Person | None, by_chip: bool) -> Decision:
    if one is None:
        return rules.UNKNOWN_CERTIFICATE if by_chip else rules.UNKNOWN_CARD
    spells = rules.spells_of(1, one.qualifications)
    asked = spells if by_chip else spells[:1]
    return rules.decide_card(asked, None, AS_OF, lambda person: spells)


# --- with data --------------------------------------------------------------------------------------------------

FULL = "verification: card-less check with data, 1,000 checks"


@pytest.mark.benchmark(group=FULL)
def bench_check_full(benchmark: Any, world: World, size: str) -> None:
    measure(benchmark, world, size, lambda one: inquiry_of(canonical(fields_of(one))), world.verifier.check)


@pytest.mark.benchmark(group=FULL)
def bench_check_full_reference_sqlite3(benchmark: Any, world: World, size: str) -> None:
    cursor = world.sqlite.cursor()
    query = (
        "select people.number, record from cards join people on people.number = cards.person"
        " where insurer = ? and birth = ? and symbol = ? and cards.number = ?"
    )

    def check(card: CardIdentifiers) -> Decision:
        rows = cursor.execute(query, (card.insurer_number, card.birth_date, card.symbol_key, card.number_key))
        return decide({number: decode_person(record) for number, record in rows}, card)

    measure(benchmark, world, size, lambda one: canonical(fields_of(one)), check)


@pytest.mark.benchmark(group=FULL)
def bench_check_full_reference_bare_lmdb(benchmark: Any, world: World, size: str) -> None:
    environment, cards, records = world.bare

    def check(card: CardIdentifiers) -> Decision:
        message = card_message(card.insurer_number, card.birth_date, card.symbol_key, card.number_key)
        people = {}
        with environment.begin(buffers=True) as txn:
            cursor = txn.cursor(cards)
            if cursor.set_key(message):
                for person in cursor.iternext_dup():
                    people[int.from_bytes(person, "big")] = decode_person(txn.get(person, db=records))
        return decide(people, card)

    measure(benchmark, world, size, lambda one: canonical(fields_of(one)), check)


@pytest.mark.benchmark(group=FULL)
def bench_check_full_reference_dict(benchmark: Any, world: World, size: str) -> None:
    by_card, people = world.by_card, world.people

    def check(card: CardIdentifiers) -> Decision:
        message = card_message(card.insurer_number, card.birth_date, card.symbol_key, card.number_key)
        return decide({number: people[number] for number in by_card.get(message, ())}, card)

    measure(benchmark, world, size, lambda one: canonical(fields_of(one)), check)


def decide(people: dict[int, Person], card: CardIdentifiers) -> Decision:
    """The rules over people who were read: what our verification does after its own reading."""
    held = {number: rules.spells_of(number, one.qualifications) for number, one in people.items()}
    candidates = [
        spell
        for number, one in people.items()
        for spell, q in zip(held[number], one.qualifications, strict=True)
        if q.number_key == card.number_key and q.insurer_number == card.insurer_number
    ]
    return rules.decide_card(candidates, rules.BRANCH_CODES[card.branch], AS_OF, held.__getitem__)


@pytest.mark.benchmark(group="verification: check by certificate, 1,000 checks")
def bench_check_full_certificate(benchmark: Any, world: World, size: str) -> None:
    measure(benchmark, world, size, by_certificate, world.verifier.check)


@pytest.mark.benchmark(group="verification: check by certificate, 1,000 checks")
def bench_verdict_certificate(benchmark: Any, world: World, size: str) -> None:
    measure(benchmark, world, size, by_certificate, world.verifier.verdict)


# --- the verdict alone ------------------------------------------------------------------------------------------

VERDICT = "verification: verdict alone from memory, 1,000 checks"


@pytest.mark.benchmark(group=VERDICT)
def bench_verdict(benchmark: Any, world: World, size: str) -> None:
    """From a ready inquiry: hash, find, rules."""
    measure(benchmark, world, size, lambda one: inquiry_of(canonical(fields_of(one))), world.verifier.verdict)


@pytest.mark.benchmark(group=VERDICT)
def bench_verdict_from_fields(benchmark: Any, world: World, size: str, figure: Any) -> None:
    """The figure: from identifier fields to verdict; canonical fields make an inquiry, then hash, find, rules."""
    verdict = world.verifier.verdict
    measure(benchmark, world, size, fields_of, lambda fields: verdict(inquiry_of(canonical(fields))))
    figure("identifier fields to verdict, us (median)", benchmark.stats.stats.median / CHECKS * 1e6, at_most=3)


@pytest.mark.benchmark(group=VERDICT)
def bench_verdict_from_text(benchmark: Any, world: World, size: str) -> None:
    """The same with parsing: check digit, canonical forms, and the guard against My Numbers."""
    verdict, parse_card = world.verifier.verdict, identifiers.parse_card

    def check(fields: Fields) -> Decision:
        card, _ = parse_card(*fields, policy="warn", exempt_12_digits=lambda insurer: False)
        return verdict(inquiry_of(card))

    measure(benchmark, world, size, fields_of, check)


@pytest.mark.benchmark(group=VERDICT)
def bench_verdict_reference_dict(benchmark: Any, world: World, size: str) -> None:
    """A dict from message to spells, with the same rules: no hash of ours, no index."""
    spells = {number: rules.spells_of(number, one.qualifications) for number, one in world.people.items()}
    by_card: dict[bytes, list[rules.Spell]] = {}
    for number, one in world.people.items():
        for spell, q in zip(spells[number], one.qualifications, strict=True):
            message = card_message(q.insurer_number, one.birth_date, q.symbol_key, q.number_key)
            by_card.setdefault(message, []).append(spell)

    def check(card: CardIdentifiers) -> Decision:
        message = card_message(card.insurer_number, card.birth_date, card.symbol_key, card.number_key)
        return rules.decide_card(by_card.get(message, ()), rules.BRANCH_CODES[card.branch], AS_OF, spells.__getitem__)

    measure(benchmark, world, size, lambda one: canonical(fields_of(one)), check)
