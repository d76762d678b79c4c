"""Owns `shikaku init`: a new data folder with an empty store, and its master key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import ConfigFile, DataDir, KeyFile, settings
from engine.config import Config


def init(
    insurers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Insurers to register, as for `shikaku insurers import`.")
    ] = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Make a data folder with an empty store, and a master key if there is none yet.

    Keep the key file outside the data folder and back it up: without it the store cannot be read.

    Example: shikaku init --data /srv/shikaku/data --key /etc/shikaku/master.key --insurers insurers.ndjson
    """
    config = settings(config_file, data_dir, key_file)
    made_key = create(config)
    typer.echo(f"store made in {config.store_dir}")
    typer.echo(f"master key {'made' if made_key else 'used'}: {config.key_file}")
    if insurers is not None:
        from api.cli.insurers import register_file

        typer.echo(f"{register_file(config, insurers)} insurers registered")


def create(config: Config) -> bool:
    """Make the store, and the key if it is missing. Returns whether a key was made."""
    from api.exits import CommandError, Exit
    from engine import keys, store
    from engine.clock import Clock

    if store.exists(config.store_dir) and not config.key_file.exists():
        raise CommandError(Exit.STORE, "store.exists", f"there is a store already in {config.store_dir}")
    made_key = not config.key_file.exists()
    secrets = keys.create(config.key_file) if made_key else keys.load(config.key_file)
    if not config.audit_key_file.exists():
        keys.create_signing(config.audit_key_file)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    now_ms = Clock(config.clock_fixed_ms).now_ms()
    try:
        store.create(config.store_dir, key_id=secrets.key_id, map_bytes=config.map_bytes, now_ms=now_ms)
    except FileExistsError as error:
        raise CommandError(Exit.STORE, "store.exists", str(error)) from None
    return made_key
