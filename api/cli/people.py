"""Owns `shikaku people`: sample populations to import and to ask about."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import Json
from engine import days
from engine.clock import Clock

app = typer.Typer(no_args_is_help=True, help="Make sample populations.")


@app.callback()
def people() -> None:
    """Make sample populations of synthetic people, for demonstrations and load."""


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(help="Where the files go: insurers.ndjson, population.csv, personas.csv.")],
    count: Annotated[int, typer.Option("--people", min=1, help="How many people.")] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed and day give the same bytes.")] = 1,
    today: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="The day of the population.")] = None,
    as_json: Json = False,
) -> None:
    """Write a synthetic population as feeds: families, twins, moves, losses, certificates; nobody is real.

    Example: shikaku people generate var/people --people 1000000 --seed 7
    """
    from api.cli.output import print_json, print_pairs
    from loadtest import population

    day = today_in_japan() if today is None else date.fromordinal(days.parse_iso(today) + days.EPOCH_ORDINAL)
    made = population.generate(count, seed, day, folder)
    found = {
        "insurers": str(made.insurers_file),
        "population": str(made.population_file),
        "personas": str(population.write_personas(folder, day)),
        "people": made.people,
        "rows": made.rows,
    }
    if as_json:
        print_json(found)
    else:
        print_pairs(found)


def today_in_japan() -> date:
    """Today's date in Japan."""
    return date.fromordinal(Clock().today() + days.EPOCH_ORDINAL)
