"""Owns one check worker: a process that holds store and index read-only and answers checks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Final

from api.app import check_app
from api.exits import Exit
from api.serving import serve
from engine.clock import Clock
from engine.config import Config
from engine.errors import StoreError
from engine.index import IndexReader, default_directory
from engine.keys import Keys
from engine.store import StoreReader
from engine.verification import Verifier

_RETRY_SECONDS: Final = 0.05


def run(config: Config, keys: Keys, listener: socket.socket, name: str, ready: Callable[[], None]) -> Exit:
    """Be a check worker until SIGTERM. Opens store and index here, after the fork: neither may cross it."""
    store = StoreReader(config.store_dir, key_id=keys.key_id, map_bytes=config.map_bytes)
    index = attach(config, keys, store)
    verifier = Verifier(index, store, keys, Clock(config.clock_fixed_ms))
    return serve(check_app(verifier, config), listener, name, config.drain_seconds, ready)


def attach(config: Config, keys: Keys, store: StoreReader) -> IndexReader:
    """Map the live index; as long as there is none (a reboot empties tmpfs), wait for the registry to make it."""
    directory = config.index_dir or default_directory(store.store_id)
    while True:
        try:
            return IndexReader.attach(directory, store_id=store.store_id, key_id=keys.key_id)
        except (FileNotFoundError, StoreError):
            threading.Event().wait(_RETRY_SECONDS)
