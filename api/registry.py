"""Owns the registry process: the only writer of store and index, behind the registry port."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Final

from api.app import registry_app
from api.commit import Commits
from api.exits import Exit
from api.serving import Service
from engine.config import Config
from engine.errors import CorruptionError, ShikakuError, StorePoisonedError
from engine.ingest.registry import Registry
from engine.keys import Keys

SWITCH_SECONDS: Final = 0.0005
"""How long the writer, or a large call that is being decoded, may keep the event loop waiting for its turn."""


def run(config: Config, keys: Keys, listener: socket.socket, name: str, ready: Callable[[], None]) -> Exit:
    """Be the registry until SIGTERM: recover, serve, drain, finish what was taken, and save the index."""
    sys.setswitchinterval(SWITCH_SECONDS)
    registry = Registry.open(config, keys)
    commits = Commits(registry)
    service = Service(registry_app(commits, registry, config), listener, name, config.drain_seconds)

    def judge(error: BaseException) -> None:
        """A refusal concerns its caller; after anything else the writer must be opened anew, by a new process."""
        if isinstance(error, StorePoisonedError | CorruptionError) or not isinstance(error, ShikakuError):
            service.give_up(error)

    commits.on_fatal = judge
    try:
        return service.serve(ready)
    finally:
        commits.close()
        registry.close()
