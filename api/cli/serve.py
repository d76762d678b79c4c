"""Owns `shikaku serve`: the supervisor with its registry and check workers, in the foreground."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from api.cli.options import ConfigFile, DataDir, KeyFile, Port, settings
from engine.config import Config


def serve(
    port: Port = None,
    registry_port: Annotated[int | None, typer.Option(help="Port of the registry (default: the next).")] = None,
    workers: Annotated[int | None, typer.Option(help="Check workers (default: one for each core).")] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="How long a stop waits for requests under way (default: 10).")
    ] = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Serve checks and the registry until SIGTERM or Ctrl-C, which drain.

    Unless the settings say `callers = known`, everybody on the loopback is answered, and nobody else is listened to.
    SIGHUP renews the workers one by one. A process that dies is restarted at once; connections wait meanwhile.

    Example: shikaku serve --port 8443 --workers 2
    """
    config = settings(
        config_file,
        data_dir,
        key_file,
        port=port,
        registry_port=registry_port,
        workers=workers,
        drain_seconds=drain_seconds,
    )
    raise typer.Exit(run(config))


def run(config: Config) -> int:
    """Be the supervisor until everything has ended. Returns the exit code."""
    import os

    # Read by numpy's BLAS when it is loaded: its threads would make every later fork unsafe.
    os.putenv("OPENBLAS_NUM_THREADS", "1")
    from api import gate, openapi, registry, tls, worker
    from api.exits import say
    from api.supervisor import Supervisor
    from engine import keys

    secrets = keys.load(config.key_file)
    if config.audit != "off" and not config.audit_key_file.exists():
        keys.create_signing(config.audit_key_file)  # of a store from before there was an audit log
    context = tls.server_context(config)
    gate.prepare(config, secrets)
    for name in ("check", "registry"):
        openapi.document(name)  # remembered, so that no restarted process spends its first 20 ms on it
    supervisor = Supervisor(
        config, registry=partial(registry.run, config, secrets), worker=partial(worker.run, config, secrets, context)
    )
    for purpose, address in supervisor.addresses().items():
        say("supervisor", f"{purpose} on {address}")
    return supervisor.run()
