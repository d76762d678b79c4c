"""Owns where registrations from the command line go: to the running server, else straight to the store.

Both ways have the same three verbs. The store has one writer: while a server runs on the data folder, that is its
registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from api import instance
from api.cli.client import IMPORT_TIMEOUT_SECONDS, Client, pieces, query, registry_client
from engine import days
from engine.config import Config
from engine.records import Insurer

Progress = Callable[[int, int | None], None]


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """A feed file and what is said of it."""

    path: Path
    format: str
    encoding: str
    insurer: str | None = None
    feed_number: int | None = None
    as_of: str | None = None
    dry_run: bool = False


class Registrar(Protocol):
    """Registers insurers and imports feeds."""

    where: str

    def insurers(self) -> list[dict[str, Any]]: ...

    def register(self, insurer: Insurer) -> None: ...

    def import_feed(self, feed: Feed, progress: Progress) -> dict[str, Any]: ...


@contextmanager
def registrar(config: Config) -> Iterator[Registrar]:
    """The way to the writer. Raises StoreLockedError if the store is written by something that is no server."""
    if instance.is_running(config.data_dir):
        yield _Server(registry_client(config, timeout=IMPORT_TIMEOUT_SECONDS))
        return
    from engine import keys
    from engine.ingest.registry import Registry

    registry = Registry.open(config, keys.load(config.key_file))
    try:
        yield _Store(registry)
    finally:
        registry.close()


class _Server:
    def __init__(self, client: Client) -> None:
        self.where = f"the server at {client.address}"
        self._client = client

    def insurers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client.get("/v1/insurers")["insurers"]
        return found

    def register(self, insurer: Insurer) -> None:
        body = {
            "name": insurer.name,
            "name_kana": insurer.name_kana,
            "twelve_digit_numbers": insurer.twelve_digit_numbers,
        }
        self._client.send("PUT", f"/v1/insurers/{insurer.number}", body)

    def import_feed(self, feed: Feed, progress: Progress) -> dict[str, Any]:
        path = query(
            "/v1/feeds" if feed.insurer is None else f"/v1/insurers/{feed.insurer}/feeds",
            encoding=feed.encoding,
            feed_number=feed.feed_number,
            as_of=feed.as_of,
            dry_run="true" if feed.dry_run else None,
        )
        size = feed.path.stat().st_size
        with open(feed.path, "rb") as file:
            media_type = "text/csv" if feed.format == "csv" else "application/x-ndjson"
            receipt: dict[str, Any] = self._client.upload(
                path, _counted(pieces(file), size, progress), size, media_type
            )
            return receipt


class _Store:
    def __init__(self, registry: Any) -> None:
        self.where = "the store"
        self._registry = registry

    def insurers(self) -> list[dict[str, Any]]:
        from api.wire import registration

        return [msgspec.to_builtins(registration.insurer_view(insurer)) for insurer in self._registry.insurers()]

    def register(self, insurer: Insurer) -> None:
        self._registry.register_insurer(insurer)

    def import_feed(self, feed: Feed, progress: Progress) -> dict[str, Any]:
        from api.wire import registration

        receipt = self._registry.import_feed(
            feed.path,
            format=feed.format,
            encoding=feed.encoding,
            insurer=feed.insurer,
            feed_number=feed.feed_number,
            as_of=None if feed.as_of is None else days.parse_iso(feed.as_of),
            dry_run=feed.dry_run,
            progress=lambda done, total, rows: progress(done, total),
        )
        found: dict[str, Any] = msgspec.json.decode(registration.receipt(receipt))
        return found


def _counted(parts: Iterator[bytes], total: int, progress: Progress) -> Iterator[bytes]:
    done = 0
    for part in parts:
        yield part
        done += len(part)
        progress(done, total)
