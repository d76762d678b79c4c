"""Owns the options that subcommands share, and how they become settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from engine import config
from engine.config import Config

_PANEL = "Settings"

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings as TOML.", rich_help_panel=_PANEL)
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="The data folder (default: var/data).", rich_help_panel=_PANEL),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="The master key (default: var/master.key).", rich_help_panel=_PANEL),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", help="Port for checks; the registry is on the next (default: 8443).", rich_help_panel=_PANEL
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def settings(config_file: Path | None, data_dir: Path | None, key_file: Path | None, **more: Any) -> Config:
    """The settings that a subcommand's options ask for. Raises ConfigError."""
    return config.load(config_file, data_dir=data_dir, key_file=key_file, **more)
