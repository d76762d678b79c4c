"""Owns `shikaku witness`: look after logs of others, and cosign their checkpoints as long as they only grow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.exits import CommandError, Exit


def witness(
    settings_file: Annotated[Path, typer.Argument(metavar="SETTINGS", help="The witness's settings (TOML).")],
    new: Annotated[
        str | None, typer.Option("--new", metavar="NAME", help="Make settings and a key, for a witness of this name.")
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option("--log", metavar="VKEY", help="With --new: a log to look after; may be repeated."),
    ] = None,
    once: Annotated[
        Path | None,
        typer.Option("--once", metavar="FOLDER", help="Look at a log's folder or bundle once, and sign there."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port (default: the settings', or 8446).")] = None,
) -> None:
    """Be a witness (c2sp.org/tlog-witness): serve add-checkpoint until SIGTERM or Ctrl-C, or look at one folder.

    A witness remembers the newest checkpoint of each log that it looks after and signs what continues it, nothing
    else. Run it on another machine, in other hands, than the log. It listens on the loopback: put TLS before it.

    Examples:

    shikaku witness witness/witness.toml --new witness.example/w1 --log "$VKEY"

    shikaku witness witness/witness.toml

    shikaku witness witness/witness.toml --once bundle/
    """
    from engine.audit import witness as witnesses
    from engine.clock import Clock

    if new is not None:
        _create(settings_file, new, log or [])
        return
    found = witnesses.load_settings(settings_file)
    with witnesses.Witness.open(found, Clock()) as open_witness:
        if once is None:
            from api import witness as service

            service.run(open_witness, found.host, found.port if port is None else port)
            return
        reply = open_witness.once(once)
    said = reply.body.decode()
    if reply.status != 200:
        raise CommandError(Exit.NEGATIVE, "audit.proof", f"not signed ({reply.status}): {said.strip()}")
    typer.echo(said, nl=False)


def _create(path: Path, name: str, logs: list[str]) -> None:
    from engine.audit import witness as witnesses

    try:
        key = witnesses.create(path, name, logs)
    except FileExistsError:
        raise CommandError(Exit.STORE, "store.exists", f"there is a witness already at {path.parent}") from None
    typer.echo(key.vkey)
