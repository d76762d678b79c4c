"""Owns one check worker: a process that holds store and index read-only and answers checks."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from api.app import check_app
from api.exits import Exit
from api.gate import open_keeper
from api.recorder import open_recorder
from api.serving import Service
from engine.clock import Clock
from engine.config import Config
from engine.index import IndexReader
from engine.keys import Keys
from engine.recovery import index_directory
from engine.store import StoreReader
from engine.verification import Verifier

_RETRY_SECONDS: Final = 0.05


def run(
    config: Config,
    keys: Keys,
    tls: ssl.SSLContext | None,
    listener: socket.socket,
    name: str,
    ready: Callable[[], None],
) -> Exit:
    """Be a check worker until SIGTERM. Store and index are opened here, after the fork: neither may cross it."""
    store = StoreReader(config.store_dir, key_id=keys.key_id, map_bytes=config.map_bytes)
    store.reader_check()  # whoever was killed here before left its reader slot behind
    index = _wait_for_index(config, keys, store)
    verifier = Verifier(index, store, keys, Clock(config.clock_fixed_ms))
    recorder = open_recorder(config, keys, verifier)
    keeper = open_keeper(config, keys, index_directory(config, store.store_id) / "callers")
    app = check_app(verifier, config, recorder, keeper)

    def follow() -> None:
        """Notice an index that was deleted by hand and made anew; all other changes are seen by every search."""
        with suppress(FileNotFoundError):
            index.refresh()
        if recorder is not None:
            recorder.tend()
        if keeper is not None:
            keeper.tend()

    return Service(app, listener, name, config.drain_seconds, each_second=follow, tls=tls).serve(ready)


def _wait_for_index(config: Config, keys: Keys, store: StoreReader) -> IndexReader:
    """The live index. While there is none (a reboot empties tmpfs), the registry is about to make it."""
    directory = index_directory(config, store.store_id)
    while True:
        try:
            return IndexReader.attach(directory, store_id=store.store_id, key_id=keys.key_id)
        except FileNotFoundError:
            time.sleep(_RETRY_SECONDS)
