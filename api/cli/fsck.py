"""Owns `shikaku fsck`: the structural check of store and index."""

from __future__ import annotations

import typer

from api.cli.options import ConfigFile, DataDir, Json, KeyFile, settings
from api.exits import Exit


def fsck(
    config_file: ConfigFile = None, data_dir: DataDir = None, key_file: KeyFile = None, as_json: Json = False
) -> None:
    """Check every record, feed and index entry against each other. Ends with 1 if there are problems.

    It changes nothing and may run beside a server.

    Example: shikaku fsck --data /srv/shikaku/data --json
    """
    from api.cli.output import print_json, print_pairs
    from engine import fsck as checks
    from engine import keys

    config = settings(config_file, data_dir, key_file)
    report = checks.run(config, keys.load(config.key_file))
    if as_json:
        print_json(report)
    else:
        print_pairs({**report.counts, "problems": report.problem_count})
        for problem in report.problems:
            typer.echo(f"problem: {problem}")
    raise typer.Exit(Exit.OK if report.ok else Exit.NEGATIVE)
