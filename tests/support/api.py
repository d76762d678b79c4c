"""Owns the servers that API tests talk to: a data folder made by the real Registry, both ports on real sockets."""

from __future__ import annotations

import asyncio
import csv
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from api.app import SWITCH, Runner, check_app, registry_app
from api.commit import Commits
from api.gate import Keeper, open_keeper
from api.recorder import open_recorder
from engine import config, keys, store
from engine.clock import Clock
from engine.index import IndexReader
from engine.ingest.registry import FeedReceipt, Registry
from engine.records import Insurer
from engine.recovery import index_directory
from engine.register import RegisterWriter
from engine.store import StoreReader
from engine.verification import Verifier

TODAY = "2026-11-23"
NOW_MS = 1_795_388_400_000
"""2026-11-23T08:00:00+09:00."""
INSURER = "01130012"
OTHER_INSURER = "06139992"
ELDERLY_INSURER = "39131156"
WIDE_INSURER = "63130017"
"""Its insured numbers have 12 digits."""
INSTITUTION = "1311111114"
MY_NUMBER = "983205673214"
ISSUER = "CN=JPKI,C=JP"

HEADER = (
    "op,insurer_number,symbol,number,branch,birth_date,link_code,name,name_kana,sex,postcode,address,relation,"
    "gained_on,lost_on,loss_reason,state,card_valid_to,copay_ratio,certificate_issuer,certificate_serial,"
    "certificate_expires_on,limit_category,limit_band,limit_issued_on,limit_valid_from,diseases"
)


def row(**cells: str) -> str:
    """One line of a feed: defaults for a plain new qualification, with some cells given."""
    plain = {
        "op": "new",
        "insurer_number": INSURER,
        "symbol": "1234",
        "branch": "01",
        "birth_date": "2000-01-02",
        "name": "見本 太郎",
        "name_kana": "ミホン タロウ",
        "sex": "1",
        "relation": "1",
        "gained_on": "2023-04-01",
    }
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([(plain | cells).get(name, "") for name in HEADER.split(",")])
    return line.getvalue()


PEOPLE = [
    row(
        number="1000001",
        postcode="100-0001",
        address="東京都千代田区千代田１番１号",
        copay_ratio="030",
        certificate_issuer=ISSUER,
        certificate_serial="0A01",
        certificate_expires_on="2029-01-02",
        limit_category="01",
        limit_band="A03",
        limit_issued_on="2026-04-01",
        limit_valid_from="2026-04-01",
        diseases="1:2020-04-01:2020-04-01::10000",
    ),
    row(number="1000002", lost_on="2025-04-01", loss_reason="03"),
    row(number="1000003", lost_on="2025-04-01", loss_reason="03", link_code="LINK3"),
    row(number="2000003", insurer_number=OTHER_INSURER, symbol="77", gained_on="2025-04-01", link_code="LINK3"),
    row(number="1000004", branch="02", name="双子 一", name_kana="フタゴ イチ"),
    row(number="1000004", branch="03", name="双子 二", name_kana="フタゴ ニ"),
    row(number="1000005", gained_on="2026-11-01", state="pending"),
    row(number="1000006", card_valid_to="2026-03-31"),
    row(number="983205673214", insurer_number=WIDE_INSURER, symbol="9"),
]
"""VALID with everything; INVALID; SUPERSEDED (two rows); AMBIGUOUS (two rows); PENDING; card expired; 12 digits."""


def card(number: str = "1000001", **more: str) -> dict[str, str]:
    """The identifiers of somebody in PEOPLE."""
    plain = {"insurer_number": INSURER, "symbol": "1234", "number": number, "branch": "01", "birth_date": "2000-01-02"}
    return plain | more


def inquiry(number: str = "1000001", **more: Any) -> dict[str, Any]:
    """A check request for somebody in PEOPLE."""
    return {"institution": INSTITUTION, "as_of": TODAY, "card": card(number)} | more


@dataclass
class Reply:
    """A response, with its body decoded if it is JSON."""

    status: int
    headers: dict[str, str]
    body: bytes
    json: Any = field(default=None)


@dataclass
class Port:
    """One port of a running server."""

    number: int
    app: web.Application
    loop: asyncio.AbstractEventLoop

    def send(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.number, timeout=30)
        try:
            data = body.encode() if isinstance(body, str) else body
            connection.request(method, path, data, {} if headers is None else headers)
            response = connection.getresponse()
            received = response.read()
        finally:
            connection.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        kind = found.get("content-type", "")
        decoded = None
        if kind == "application/x-ndjson":
            decoded = [json.loads(line) for line in received.splitlines()]
        elif received and kind in ("application/json", "application/problem+json"):
            decoded = json.loads(received)
        return Reply(response.status, found, received, decoded)

    def post(self, path: str, value: Any, method: str = "POST", **headers: str) -> Reply:
        """Send a value as JSON."""
        named = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        return self.send(method, path, value if isinstance(value, bytes) else json.dumps(value), named)

    def check(self, **members: Any) -> Reply:
        """POST /v1/eligibility/check with a request like `inquiry`."""
        return self.post("/v1/eligibility/check", inquiry(**members))

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.number), timeout=30)

    def set_switch(self, name: str, value: object) -> None:
        """Turn the application's switch."""
        setattr(self.app[SWITCH], name, value)


@dataclass
class Served:
    """A running engine: its ports, and what is behind them."""

    check: Port
    general: Port
    """Checks without the express lane."""
    registry: Port
    behind: Registry
    receipt: FeedReceipt
    commits: Commits
    settings: config.Config
    keepers: list[Keeper | None]
    register: RegisterWriter | None


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()


async def _start(app: web.Application) -> tuple[Runner, int]:
    runner = Runner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, int(runner.addresses[0][1])


@dataclass
class Engine:
    """Store, index and applications in this process, not yet served."""

    check_app: web.Application
    general_app: web.Application
    """The check application without the express lane."""
    registry_app: web.Application
    registry: Registry
    receipt: FeedReceipt
    commits: Commits
    settings: config.Config
    keepers: list[Keeper | None]
    """Who may ask, with the lane and without it, if callers are to be known."""
    register: RegisterWriter | None


@contextmanager
def engine(folder: Path, rows: list[str] | None = None, **settings: Any) -> Iterator[Engine]:
    """The applications of an engine with PEOPLE (or other rows) registered; nothing is recorded unless `audit` says so.

    What is answered with the lane is recorded in log 0, and without it in log 1.
    """
    settings = {"audit": "off"} | settings
    chosen = config.load(
        None,
        environ={},
        data_dir=folder / "data",
        key_file=folder / "master.key",
        index_dir=folder / "index",
        index_keys=1 << 12,
        map_bytes=1 << 28,
        clock_fixed_ms=NOW_MS,
        **settings,
    )
    secrets = keys.create(chosen.key_file)
    keys.create_signing(chosen.audit_key_file)
    store.create(chosen.store_dir, key_id=secrets.key_id, map_bytes=chosen.map_bytes)
    registry = Registry.open(chosen, secrets)
    receipt = _register(registry, folder, PEOPLE if rows is None else rows)
    records = StoreReader(chosen.store_dir, key_id=secrets.key_id, map_bytes=chosen.map_bytes)
    directory = index_directory(chosen, records.store_id)
    index = IndexReader.attach(directory, store_id=records.store_id, key_id=secrets.key_id)
    verifier = Verifier(index, records, secrets, Clock(chosen.clock_fixed_ms))
    commits = Commits(registry)
    keepers: list[Keeper | None] = []
    callers: RegisterWriter | None = None
    try:
        without_lane = msgspec.structs.replace(chosen, express_lane=False)
        ways = (chosen, without_lane)
        if chosen.callers == "known":
            callers = RegisterWriter(chosen.callers_dir, key_id=secrets.key_id)
        keepers += [open_keeper(one, secrets, directory / "callers") for one in ways]
        checks = [
            check_app(verifier, one, open_recorder(one, secrets, verifier), keeper)
            for one, keeper in zip(ways, keepers, strict=True)
        ]
        yield Engine(
            *checks, registry_app(commits, registry, chosen), registry, receipt, commits, chosen, keepers, callers
        )
    finally:
        for one in (*keepers, callers):
            if one is not None:
                one.close()
        commits.close()
        index.close()
        records.close()
        registry.close()


@contextmanager
def served(folder: Path, rows: list[str] | None = None, **settings: Any) -> Iterator[Served]:
    """Both ports of an engine with PEOPLE (or other rows) registered, on sockets of their own."""
    with engine(folder, rows, **settings) as built:
        loop = _Loop()
        apps = (built.check_app, built.general_app, built.registry_app)
        started = [loop.run(_start(app)) for app in apps]
        try:
            check, general, registry = (
                Port(number, app, loop.loop) for (_, number), app in zip(started, apps, strict=True)
            )
            yield Served(
                check,
                general,
                registry,
                built.registry,
                built.receipt,
                built.commits,
                built.settings,
                built.keepers,
                built.register,
            )
        finally:
            for runner, _ in started:
                loop.run(runner.cleanup())
            loop.stop()


def _register(registry: Registry, folder: Path, rows: list[str]) -> FeedReceipt:
    for number, name in (
        (INSURER, "全国健康保険協会 東京支部"),
        (OTHER_INSURER, "見本健康保険組合"),
        (ELDERLY_INSURER, "見本後期高齢者医療広域連合"),
    ):
        registry.register_insurer(Insurer(number, name))
    registry.register_insurer(Insurer(WIDE_INSURER, "十二桁組合", twelve_digit_numbers=True))
    feed = folder / "people.csv"
    feed.write_text("\r\n".join([HEADER, *rows]) + "\r\n", "utf-8")
    return registry.import_feed(feed)
