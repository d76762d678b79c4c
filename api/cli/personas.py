"""Owns `shikaku personas`: the cast of the demonstration, with what to ask and what is to come back."""

from __future__ import annotations

from datetime import date
from typing import Any

from api.cli.options import Json


def personas(as_json: Json = False) -> None:
    """List the named people of the demonstration, at least one for every verdict and every reason.

    Their registrations are in personas.csv of `shikaku people generate`; `make demo` imports them.

    Example: shikaku personas --json | jq '.[0].request'
    """
    from api.cli.output import print_json, print_table
    from api.cli.people import today_in_japan

    cast = cast_of(today_in_japan())
    if as_json:
        print_json(cast)
        return
    print_table(
        ("persona", "verdict", "reason", "note"),
        ((each["name"], each["verdict"], each["reason"], each["note"]) for each in cast),
    )


def cast_of(today: date) -> list[dict[str, Any]]:
    """The cast as it is registered on a day."""
    from loadtest import population

    return population.personas(today)
