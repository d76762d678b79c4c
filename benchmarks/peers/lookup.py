"""Owns the comparison of look-ups: from a key of 16 bytes to a person number, one at a time and many at once.

All contenders hold the same keys and are asked for fresh random ones in each round, in turns; the sum over the people
found is compared every time. What runs in this process has one core, servers have the other.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.filled import KEY, MESSAGE_BYTES, Filled, Outputs, messages_of
from benchmarks.http_load import driver
from benchmarks.peers import services
from benchmarks.peers.flat import Flat, FlatMissing
from benchmarks.peers.report import Bound, Group, Row
from benchmarks.peers.services import Missing, Service

MANY = 100_000
"""Keys in one call, where many are asked for at once."""
PART = 1_000
"""Keys in one statement or pipeline."""

Digests = list[bytes]
Find = Callable[["Asked"], int]


class WrongAnswer(Exception):
    """Somebody found other people than there are."""


class Asked:
    """Fresh random keys in every form that somebody takes, and the sum over their people."""

    def __init__(self, table: Filled, count: int) -> None:
        numbers, self.hashes = table.fresh(count)
        self.rows = messages_of(numbers)
        self.lengths = np.full(count, MESSAGE_BYTES, np.uint16)
        self.digests: Digests = [bytes(row) for row in self.hashes.view("V16").reshape(-1)]
        self.messages = [row.tobytes() for row in self.rows]
        self.sum = int((numbers + 1).sum())


class Contender(NamedTuple):
    """A way to look up, and how many keys one turn asks for."""

    name: str
    label: str
    count: int
    find: Find
    ours: bool = False


BOUNDS = [
    Bound("absl flat_hash_map / ours ready-hashed (the bound is for 100 M keys)", "flat", "hashed", at_least=2),
    Bound("the same, fetching ahead / ours ready-hashed", "flat_ahead", "hashed", at_least=2),
]
SAID = [
    "Wall time a key from Python, table and keys in memory; fresh random keys each round, sums over the people found "
    "compared.",
    "`from identifiers` includes the keyed hash of 40 bytes; all others are given ready hashes of 16 bytes.",
    "Redis and PostgreSQL are servers on a unix socket with their usual Python clients; what they cost is mostly the "
    "way there and back.",
]
SAID_MANY = [
    "The gather reads one word of one random line of the same table for each key, and looks nothing up: what the "
    "memory itself allows.",
    "absl's map is given the hash as it is and huge pages; `fetching ahead` asks for 16 keys' memory beforehand, as "
    "ours does.",
]


def measure(rounds: int, keys: int, cache: Path, say: Callable[[str], None]) -> list[Group]:
    """Fill everybody, go round them, and return what each took: one at a time, and many at once."""
    os.sched_setaffinity(0, driver.cores()[1])
    missing: list[Row] = []
    with services.folder() as folder, ExitStack() as stack:
        table = Filled(keys)
        stack.callback(table.close)
        table.fill()
        one, many = _here(table, folder, stack, missing)
        for name, add in (("Redis", _redis), ("PostgreSQL", _postgresql)):
            say(f"lookup: filling {name}")
            try:
                first, second = add(table, folder, stack)
                one.append(first)
                many.append(second)
            except Missing as error:
                missing += [
                    Row(f"{name}_one", f"{name}, one at a time", missing=str(error)),
                    Row(f"{name}_many", f"{name}, many", missing=str(error)),
                ]
        rows_one, rows_many = _rounds(table, one, rounds, say), _rounds(table, many, rounds, say)
    rows_one += [row for row in missing if row.name.endswith("_one")]
    rows_many += [row for row in missing if not row.name.endswith("_one")]
    titles = f"One look-up among {keys:,} keys", f"Many look-ups at once among {keys:,} keys"
    return [
        Group("lookup", titles[0], "us a key", "message", [], rows_one, [], SAID),
        Group("lookup-many", titles[1], "us a key", "hashed", [], rows_many, BOUNDS, SAID_MANY),
    ]


def _rounds(table: Filled, contenders: list[Contender], rounds: int, say: Callable[[str], None]) -> list[Row]:
    rows = [Row(one.name, one.label, one.ours) for one in contenders]
    for number in range(rounds + 1):
        say(f"lookup: round {number} of {rounds}")
        for row, contender in zip(rows, contenders, strict=True):
            asked = Asked(table, contender.count)
            start = time.perf_counter_ns()
            found = contender.find(asked)
            taken = time.perf_counter_ns() - start
            if found != asked.sum:
                raise WrongAnswer(contender.label)
            if number:  # the first round warms up
                row.costs.append(taken / contender.count / 1000)
    return rows


# --- in this process ------------------------------------------------------------------------------------------------


def _here(table: Filled, folder: Path, stack: ExitStack, missing: list[Row]) -> tuple[list[Contender], list[Contender]]:
    """Everybody who needs no server."""
    packed = table.hashes.tobytes()
    known = {packed[16 * n : 16 * n + 16]: n + 1 for n in range(table.keys)}
    find, find_message = table.table.find, table.table.find_message

    def by_message(asked: Asked) -> int:
        return sum([find_message(KEY, message)[0][0] for message in asked.messages])

    def by_digest(asked: Asked) -> int:
        return sum([find(digest)[0][0] for digest in asked.digests])

    def by_dict(asked: Asked) -> int:
        return sum([known[digest] for digest in asked.digests])

    one = [
        Contender("message", "ours, from identifiers", 20_000, by_message, True),
        Contender("digest", "ours, ready-hashed", 20_000, by_digest, True),
        Contender("dict", "Python dict", 20_000, by_dict),
    ]
    many = [*_ours_many(table), Contender("dict", "Python dict", MANY, by_dict)]
    for add in (_searchsorted, _flat):
        try:
            many += add(table, stack)
        except FlatMissing as error:
            missing.append(Row("flat", "absl flat_hash_map", missing=str(error)))
    for fill in (_lmdb, _sqlite):
        first, second = fill(table, folder, stack)
        one.append(first)
        many.append(second)
    return one, many


def _ours_many(table: Filled) -> list[Contender]:
    outputs = Outputs(MANY)

    def hashed(asked: Asked) -> int:
        return outputs.checksum(table.table.find_many(asked.hashes, outputs.counts, outputs.matches)[1])

    def from_rows(asked: Asked) -> int:
        found = table.table.find_many_rows(KEY, asked.rows, asked.lengths, outputs.counts, outputs.matches)
        return outputs.checksum(found[1])

    def gather(asked: Asked) -> int:
        table.table.gather(asked.hashes)
        return asked.sum

    return [
        Contender("hashed", "ours, ready-hashed", MANY, hashed, True),
        Contender("rows", "ours, from identifiers", MANY, from_rows, True),
        Contender("gather", "random cache-line gather (the memory's bound)", MANY, gather),
    ]


def _searchsorted(table: Filled, stack: ExitStack) -> list[Contender]:
    order = np.argsort(table.hashes[:, 1])
    high, low = np.ascontiguousarray(table.hashes[order, 1]), np.ascontiguousarray(table.hashes[order, 0])
    persons = (order + 1).astype(np.uint32)

    def find(asked: Asked) -> int:
        at = np.searchsorted(high, asked.hashes[:, 1])
        return int(persons[at[(low[at] == asked.hashes[:, 0]) & (high[at] == asked.hashes[:, 1])]].sum(dtype=np.int64))

    return [Contender("searchsorted", "numpy searchsorted", MANY, find)]


def _flat(table: Filled, stack: ExitStack) -> list[Contender]:
    flat = Flat(table.keys)
    stack.callback(flat.close)
    flat.insert(table.hashes, np.arange(1, table.keys + 1, dtype=np.uint32))
    persons = np.ones(MANY, np.uint32)

    def find(asked: Asked, ahead: bool) -> int:
        flat.find(asked.hashes, persons, ahead=ahead)
        return int(persons.sum(dtype=np.int64))

    return [
        Contender("flat", "absl flat_hash_map (C++)", MANY, lambda asked: find(asked, False)),
        Contender("flat_ahead", "absl flat_hash_map, fetching ahead", MANY, lambda asked: find(asked, True)),
    ]


def _lmdb(table: Filled, folder: Path, stack: ExitStack) -> tuple[Contender, Contender]:
    import lmdb

    environment = lmdb.open(str(folder / "lmdb"), map_size=1 << 36, sync=False, readahead=False)
    stack.callback(environment.close)
    packed = table.hashes.tobytes()
    rows = sorted((packed[16 * n : 16 * n + 16], (n + 1).to_bytes(4, "big")) for n in range(table.keys))
    with environment.begin(write=True) as txn:
        txn.cursor().putmulti(rows, append=True)
    number = int.from_bytes

    def one(asked: Asked) -> int:
        total = 0
        for digest in asked.digests:
            with environment.begin() as txn:
                total += number(txn.get(digest), "big")
        return total

    def many(asked: Asked) -> int:
        with environment.begin() as txn:
            get = txn.get
            return sum([number(get(digest), "big") for digest in asked.digests])

    return (
        Contender("lmdb", "bare LMDB, a transaction each", 20_000, one),
        Contender("lmdb", "bare LMDB, one transaction", MANY // 2, many),
    )


def _sqlite(table: Filled, folder: Path, stack: ExitStack) -> tuple[Contender, Contender]:
    database = sqlite3.connect(folder / "people.sqlite")
    stack.callback(database.close)
    database.execute("pragma journal_mode = off")
    database.execute("pragma mmap_size = 17179869184")
    database.execute("create table people (key blob primary key, person integer) without rowid")
    packed = table.hashes.tobytes()
    rows = sorted((packed[16 * n : 16 * n + 16], n + 1) for n in range(table.keys))
    with database:
        database.executemany("insert into people values (?, ?)", rows)
    execute = database.execute
    marks = ",".join("?" * PART)

    def one(asked: Asked) -> int:
        query = "select person from people where key = ?"
        return sum([execute(query, (digest,)).fetchone()[0] for digest in asked.digests])

    def many(asked: Asked) -> int:
        # A key that was drawn twice counts twice: `in` alone would say it once.
        query = f"select key, person from people where key in ({marks})"
        total = 0
        for part in _parts(asked.digests):
            found = dict(execute(query, part))
            total += sum([found[digest] for digest in part])
        return total

    return (
        Contender("sqlite3", "sqlite3", 5_000, one),
        Contender("sqlite3", "sqlite3, 1,000 a statement", 20 * PART, many),
    )


def _parts(digests: Digests) -> list[Digests]:
    return [digests[start : start + PART] for start in range(0, len(digests), PART)]


# --- servers --------------------------------------------------------------------------------------------------------


def _redis(table: Filled, folder: Path, stack: ExitStack) -> tuple[Contender, Contender]:
    import redis

    service = stack.enter_context(services.redis(folder))
    _fill_redis(service, table)
    client = redis.Redis(unix_socket_path=str(service.path))
    stack.callback(client.close)

    def one(asked: Asked) -> int:
        return sum([int(client.get(digest)) for digest in asked.digests])

    def many(asked: Asked) -> int:
        total = 0
        for part in _parts(asked.digests):
            pipe = client.pipeline(transaction=False)
            for digest in part:
                pipe.get(digest)
            total += sum(map(int, pipe.execute()))
        return total

    return (
        Contender("redis", "Redis, unix socket, redis-py", 2_000, one),
        Contender("redis", "Redis, pipelined by 1,000", 20 * PART, many),
    )


def _fill_redis(service: Service, table: Filled) -> None:
    packed = table.hashes.tobytes()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(service.path))
        for start in range(0, table.keys, 10_000):
            numbers = range(start, min(start + 10_000, table.keys))
            rows = ((packed[16 * n : 16 * n + 16], b"%d" % (n + 1)) for n in numbers)
            command = b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n$%d\r\n%b\r\n"
            peer.sendall(b"".join(command % (key, len(person), person) for key, person in rows))
            left = len(b"+OK\r\n") * len(numbers)
            while left:
                left -= len(peer.recv(1 << 16))


def _postgresql(table: Filled, folder: Path, stack: ExitStack) -> tuple[Contender, Contender]:
    import asyncpg
    import uvloop

    service = stack.enter_context(services.postgresql(folder))
    runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
    connection = runner.run(asyncpg.connect(host=str(service.path), user="postgres", database="postgres"))
    stack.callback(lambda: runner.run(connection.close()))
    runner.run(_fill_postgresql(connection, table))
    by_key = runner.run(connection.prepare("select person from people where key = $1"))
    by_keys = runner.run(connection.prepare("select person from unnest($1::bytea[]) asked join people on key = asked"))

    async def one(digests: Digests) -> int:
        return sum([await by_key.fetchval(digest) for digest in digests])

    async def many(digests: Digests) -> int:
        total = 0
        for part in _parts(digests):
            total += sum([row[0] for row in await by_keys.fetch(part)])
        return total

    def run(work: Callable[[Digests], Coroutine[Any, Any, int]]) -> Find:
        return lambda asked: runner.run(work(asked.digests))

    return (
        Contender("postgresql", "PostgreSQL, unix socket, asyncpg", 2_000, run(one)),
        Contender("postgresql", "PostgreSQL, 1,000 a statement", 20 * PART, run(many)),
    )


async def _fill_postgresql(connection: Any, table: Filled) -> None:
    packed = table.hashes.tobytes()
    await connection.execute("create table people (key bytea not null, person integer not null)")
    rows = ((packed[16 * n : 16 * n + 16], n + 1) for n in range(table.keys))
    await connection.copy_records_to_table("people", records=rows)
    await connection.execute("create unique index on people (key) include (person)")
    await connection.execute("vacuum analyze people")
