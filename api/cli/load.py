"""Owns `shikaku load`: many large feeds at once into the store, with both cores, while checks go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from api.cli.import_feeds import feed_files, format_of, print_errors, rejection_of
from api.cli.options import ConfigFile, DataDir, Json, KeyFile, settings
from api.exits import CommandError, Exit
from engine import clock
from engine.errors import ConfigError, InputError


def load(
    sources: Annotated[
        list[Path], typer.Argument(help="Feed files, and folders whose feeds are taken in order of name.")
    ],
    as_of: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="The day they were drawn up for.")] = None,
    encoding: Annotated[str, typer.Option(help="Of CSV files: utf-8 or cp932.")] = "utf-8",
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Load the operator's feeds in bulk: what `shikaku import` does with each, several times as fast for many of them.

    A running server goes on answering checks from what it had; its registry is away meanwhile. Everything becomes
    visible at the end, at once. Each file is applied whole or not at all; one that is rejected ends the load with 1,
    and those before it stay. Cut off, repeat the command: files that are in are passed over. Files of some 100 MB
    each are best, for each is read by one core.

    Example: shikaku load var/nation
    """
    from api import instance
    from engine import days, keys
    from engine.ingest.load import Load

    config = settings(config_file, data_dir, key_file)
    files = [path for source in sources for path in feed_files(source)]
    for path in files:
        format_of(path, "name it .csv, .ndjson or .jsonl")
    if encoding not in ("utf-8", "cp932"):
        raise ConfigError("the encoding is utf-8 or cp932", field="encoding")
    day = None if as_of is None else days.parse_iso(as_of)
    secrets = keys.load(config.key_file)
    begun = clock.monotonic_ns()
    total = sum(path.stat().st_size for path in files)
    try:
        with instance.load_lock(config.data_dir), _shown(total) as advance:
            with Load(config, secrets, total_bytes=total, progress=advance) as work:
                try:
                    loaded = work.run(files, encoding="cp932" if encoding == "cp932" else "utf-8", as_of=day)
                except InputError as error:
                    raise _rejected(error, files, work.loaded.files + work.loaded.replayed, as_json) from None
    except KeyboardInterrupt:
        typer.echo("shikaku: interrupted; files that are in stay in: repeat the command to go on", err=True)
        raise
    seconds = (clock.monotonic_ns() - begun) / 1e9
    if as_json:
        from api.cli.output import print_json

        print_json(msgspec.to_builtins(loaded))
        return
    again = f" ({loaded.replayed:,} were in before)" if loaded.replayed else ""
    rate = f"{loaded.rows:,} rows in {seconds:,.1f} s, {loaded.rows / seconds:,.0f} rows/s"
    typer.echo(f"{loaded.files:,} files{again}: {rate}; {loaded.keys:,} keys; data version {loaded.data_version:,}")


def _rejected(error: InputError, files: list[Path], at: int, as_json: bool) -> CommandError:
    found = rejection_of(error)
    where = files[at] if at < len(files) else "a feed"
    if as_json:
        from api.cli.output import print_json

        print_json(found)
    else:
        print_errors(found, f"shikaku import {where} --dry-run --report FILE")
    detail = f"{where} is rejected: {found['detail']}; the files before it are in. Correct it and repeat the command"
    return CommandError(Exit.NEGATIVE, found["code"], detail)


def _shown(total: int) -> Any:
    """A progress bar that is told of bytes."""
    from contextlib import contextmanager

    from api.cli.output import progress

    @contextmanager
    def bar() -> Any:
        with progress("loading", "bytes", total, then="saving the index...") as advance:
            yield lambda done, in_all, rows: advance(min(done, in_all), in_all)

    return bar()
