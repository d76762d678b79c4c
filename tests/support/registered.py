"""Owns a store with registrations for tests: a Registry in a folder, and inquiries in the native form against it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

from api.wire.reading import Reader
from api.wire.writing import Writer
from engine import keys
from engine.clock import Clock
from engine.config import Config
from engine.index import IndexReader
from engine.ingest.registry import Registry
from engine.records import Insurer
from engine.recovery import index_directory
from engine.store import StoreReader, create
from engine.verification import Verifier

NOON_MS = 3 * 3600 * 1000
"""Noon in Japan, in milliseconds after midnight UTC."""


class Registered:
    """A registry over a fresh store; inquiries go through decoding, the verifier and encoding, without HTTP."""

    def __init__(self, folder: Path, today: date, **settings: Any) -> None:
        self.config = Config(
            data_dir=folder / "data",
            key_file=folder / "master.key",
            index_dir=folder / "index",
            map_bytes=1 << 30,
            clock_fixed_ms=fixed_ms(today),
            **settings,
        )
        self.keys = keys.create(self.config.key_file)
        create(self.config.store_dir, key_id=self.keys.key_id, map_bytes=self.config.map_bytes)
        self.registry = Registry.open(self.config, self.keys)
        self._ask: _Asker | None = None

    def insurers(self, path: Path) -> None:
        """Register the insurers of an NDJSON file."""
        for line in path.read_text("utf-8").splitlines():
            self.registry.register_insurer(Insurer(**json.loads(line)))

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request in the native form."""
        self._ask = self._ask or _Asker(self.config, self.keys)
        return self._ask(request)

    def __enter__(self) -> Registered:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._ask is not None:
            self._ask.close()
        self.registry.close()


class _Asker:
    def __init__(self, config: Config, keys: keys.Keys) -> None:
        self.store = StoreReader(config.store_dir, key_id=keys.key_id, map_bytes=config.map_bytes)
        directory = index_directory(config, self.store.store_id)
        self.index = IndexReader.attach(directory, store_id=self.store.store_id, key_id=keys.key_id)
        clock = Clock(config.clock_fixed_ms)
        verifier = Verifier(self.index, self.store, keys, clock)
        self.verifier = verifier
        self.reader = Reader(policy=config.inquiry_check_digits, today=clock.today, insurer=verifier.insurer)
        self.writer = Writer(insurer=verifier.insurer)

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        mark, inquiry = self.reader.inquiry(json.dumps(request).encode())
        answer: dict[str, Any] = json.loads(self.writer.answer(inquiry, self.verifier.check(inquiry), mark))
        return answer

    def close(self) -> None:
        self.index.close()
        self.store.close()


def fixed_ms(today: date) -> int:
    """Noon of a day in Japan, for a frozen clock."""
    return (today.toordinal() - date(1970, 1, 1).toordinal()) * 86_400_000 + NOON_MS
