"""Owns the registry process: the only writer of store and index, behind the registry port."""

from __future__ import annotations

import socket
from collections.abc import Callable

from api.app import registry_app
from api.commit import Commits
from api.exits import Exit
from api.serving import serve
from engine.config import Config
from engine.ingest.registry import Registry
from engine.keys import Keys


def run(config: Config, keys: Keys, listener: socket.socket, name: str, ready: Callable[[], None]) -> Exit:
    """Be the registry until SIGTERM: recover, serve, drain, and leave a snapshot of the index behind."""
    registry = Registry.open(config, keys)
    try:
        return serve(registry_app(Commits(registry), registry, config), listener, name, config.drain_seconds, ready)
    finally:
        registry.close()
