"""Owns one check worker: a process that holds store and index read-only and answers checks."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final

from api.app import check_app
from api.exits import Exit
from api.serving import Service
from engine.clock import Clock
from engine.config import Config
from engine.index import IndexReader
from engine.keys import Keys
from engine.recovery import index_directory
from engine.store import StoreReader
from engine.verification import Verifier

_RETRY_SECONDS: Final = 0.05


def run(config: Config, keys: Keys, listener: socket.socket, name: str, ready: Callable[[], None]) -> Exit:
    """Be a check worker until SIGTERM. Store and index are opened here, after the fork: neither may cross it."""
    app = check_app(open_verifier(config, keys), config)
    return Service(app, listener, name, config.drain_seconds).serve(ready)


def open_verifier(config: Config, keys: Keys) -> Verifier:
    """Attach to store and index. While there is no index (a reboot empties tmpfs), wait for the registry's."""
    store = StoreReader(config.store_dir, key_id=keys.key_id, map_bytes=config.map_bytes)
    store.reader_check()  # whoever was killed here before left its reader slot behind
    directory = index_directory(config, store.store_id)
    while True:
        try:
            index = IndexReader.attach(directory, store_id=store.store_id, key_id=keys.key_id)
            return Verifier(index, store, keys, Clock(config.clock_fixed_ms))
        except FileNotFoundError:
            time.sleep(_RETRY_SECONDS)
