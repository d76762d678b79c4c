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
    from engine import keys
    from engine.store import StoreReader

    config = settings(config_file, data_dir, key_file)
    target = folder / config.store_dir.name
    if target.exists():
        raise CommandError(Exit.STORE, "store.exists", f"there is a store already in {target}")
    store = StoreReader(config.store_dir, key_id=keys.load(config.key_file).key_id, map_bytes=config.map_bytes)
    try:
        store.copy(target)
    finally:
        store.close()
    typer.echo(f"store copied to {target}")
