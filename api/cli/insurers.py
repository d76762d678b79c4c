"""Owns `shikaku insurers`: who may register qualifications, and how fresh their data are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from api.cli.options import ConfigFile, DataDir, Json, KeyFile, settings
from api.exits import CommandError, Exit
from engine.config import Config
from engine.errors import InputError
from engine.records import Insurer

app = typer.Typer(no_args_is_help=True, help="Register insurers and see how fresh their data are.")


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of an insurers file."""

    number: str
    name: str
    name_kana: str = ""
    twelve_digit_numbers: bool = False


@app.command("list")
def list_insurers(
    config_file: ConfigFile = None, data_dir: DataDir = None, key_file: KeyFile = None, as_json: Json = False
) -> None:
    """List insurers with their last feed.

    Example: shikaku insurers list --json
    """
    from api.cli.output import print_json, print_table
    from api.cli.status import freshness

    found = freshness(settings(config_file, data_dir, key_file))
    if as_json:
        print_json(found)
    else:
        print_table(
            ("number", "name", "fresh at", "as of", "feed"),
            ((each["number"], each["name"], each["fresh_at"], each["as_of"], each["feed_number"]) for each in found),
        )


@app.command("add")
def add(
    number: Annotated[str, typer.Argument(help="保険者番号, 8 digits (6 for municipal insurance).")],
    name: Annotated[str, typer.Argument(help="Its name.")],
    name_kana: Annotated[str, typer.Option(help="Its name in kana.")] = "",
    twelve_digit_numbers: Annotated[
        bool, typer.Option("--twelve-digit-numbers", help="Its insured numbers have 12 digits.")
    ] = False,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Register one insurer, or change its name.

    Example: shikaku insurers add 01130012 "全国健康保険協会 東京支部"
    """
    from api.cli.registrar import registrar

    config = settings(config_file, data_dir, key_file)
    insurer = insurer_of(config, _Line(number, name, name_kana, twelve_digit_numbers))
    with registrar(config) as way:
        way.register(insurer)
    typer.echo("1 insurer registered")


@app.command("import")
def import_insurers(
    file: Annotated[Path, typer.Argument(help="One JSON object a line: number, name, name_kana.")],
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
) -> None:
    """Register insurers from a file.

    Example: shikaku insurers import var/people/insurers.ndjson
    """
    typer.echo(f"{register_file(settings(config_file, data_dir, key_file), file)} insurers registered")


def register_file(config: Config, file: Path) -> int:
    """Register all insurers of a file, after all of it was read without an error. Returns how many."""
    from api.cli.output import progress
    from api.cli.registrar import registrar

    found = read_file(config, file)
    with registrar(config) as way, progress("insurers", "insurers", len(found)) as advance:
        for done, insurer in enumerate(found, 1):
            way.register(insurer)
            advance(done)
    return len(found)


def read_file(config: Config, file: Path) -> list[Insurer]:
    """The insurers of a file. Raises CommandError that names the line."""
    from api.wire.outline import refuse_repeated

    decode = msgspec.json.Decoder(_Line).decode
    found, at = [], 0
    try:
        for line in file.read_bytes().splitlines():
            at += 1
            if line.strip():
                given = decode(line)
                refuse_repeated(line)
                found.append(insurer_of(config, given))
    except OSError as error:
        raise CommandError(Exit.USAGE, "file.unreadable", f"{file} cannot be read ({error.strerror})") from None
    except msgspec.MsgspecError as error:
        raise CommandError(Exit.USAGE, "input.malformed", f"{file}, line {at}: {error}") from None
    except InputError as error:
        raise CommandError(Exit.USAGE, error.code, f"{file}, line {at}: {error.detail}") from None
    return found


def insurer_of(config: Config, line: _Line) -> Insurer:
    """The record for a line, judged as the API judges it. Raises InputError."""
    from api.wire import registration
    from engine.identifiers import canonical_insurer

    fields = {name: value for name, value in msgspec.structs.asdict(line).items() if name != "number"}
    number = canonical_insurer(line.number)
    return registration.insurer(msgspec.json.encode(fields), number, policy=config.registration_check_digits)
