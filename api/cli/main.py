"""Owns the `shikaku` command: which subcommands there are, and that an error is one line and an exit code.

Subcommands import what they need when they run, so that help is fast.
"""

from __future__ import annotations

import sys

import typer

from api.cli import (
    audit,
    check,
    demo,
    fsck,
    import_feeds,
    init,
    institutions,
    insurers,
    load,
    people,
    personas,
    receipt,
    serve,
    snapshot,
    status,
    version,
    witness,
)
from api.cli.output import advice_of
from api.exits import MEANINGS, CommandError, Exit, exit_of, line_of
from engine.errors import ShikakuError

HELP = """Answers whether a person is insured on a date, and by whom (オンライン資格確認).

A first server:

    shikaku init                                  make var/data and var/master.key
    shikaku people generate var/people            a sample population with its insurers
    shikaku insurers import var/people/insurers.ndjson
    shikaku import var/people/population.csv
    shikaku serve                                 checks on port 8443, registry on 8444

Settings come from options, then SHIKAKU_<NAME> in the environment, then --config FILE (TOML), then defaults.
"""
EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."

app = typer.Typer(
    name="shikaku",
    help=HELP.replace("\n", "\n\n", 1),
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(init.init)
app.command()(serve.serve)
app.command("import")(import_feeds.import_feeds)
app.command()(load.load)
app.add_typer(insurers.app, name="insurers")
app.add_typer(institutions.app, name="institutions")
app.command()(check.check)
app.command()(status.status)
app.command()(fsck.fsck)
app.command()(snapshot.snapshot)
app.add_typer(audit.app, name="audit")
app.add_typer(receipt.app, name="receipt")
app.command()(witness.witness)
app.add_typer(people.app, name="people")
app.command()(personas.personas)
app.command()(demo.demo)
app.command()(version.version)


def main() -> None:
    """Run the command line and end the process: one line and a documented exit code, never a traceback."""
    try:
        app(prog_name="shikaku")
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except (CommandError, ShikakuError) as error:
        _fail(error, advice_of(error.code))
    except Exception as error:
        _fail(error, "this is a defect: please report this line")


def _fail(error: Exception, advice: str) -> None:
    line = line_of(error)
    said = not advice or "`shikaku " in line
    sys.stderr.write(f"shikaku: {line}\n" if said else f"shikaku: {line}: {advice}\n")
    sys.exit(exit_of(error))


if __name__ == "__main__":
    main()
