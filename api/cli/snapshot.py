"""Owns `shikaku snapshot`: a consistent copy of the store, also while a server writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import ConfigFile, DataDir, KeyFile, settings
from api.exits import CommandError, Exit


def snapshot(
    folder: Annotated[Path, typer.Argument(help="A new folder; it becomes a data folder of its own.")],
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Copy the store, consistent and compact, into a new data folder; a running server goes on meanwhile.

    To restore, serve the copy: shikaku serve --data FOLDER. The index is rebuilt from it. Keep the key elsewhere.

    Example: shikaku snapshot /backup/shikaku-2026-11-23
    """
    from api import instance
    from engine import keys
    from engine.ingest.registry import Registry
    from engine.store import StoreReader

    config = settings(config_file, data_dir, key_file)
    target = folder / config.store_dir.name
    if target.exists():
        raise CommandError(Exit.STORE, "store.exists", f"there is a store already in {target}")
    secrets = keys.load(config.key_file)
    if instance.is_running(config.data_dir):
        store = StoreReader(config.store_dir, key_id=secrets.key_id, map_bytes=config.map_bytes)
        try:
            store.copy(target)
        finally:
            store.close()
    else:
        registry = Registry.open(config, secrets)
        try:
            registry.snapshot(folder)
        finally:
            registry.close()
    typer.echo(f"copied to {folder}")
