"""Owns `shikaku check`: one inquiry from the command line, answered by the server or straight from the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.options import ConfigFile, DataDir, Json, KeyFile, Port, settings
from api.exits import CommandError, Exit
from engine.config import Config

if TYPE_CHECKING:
    from engine.index import IndexReader
    from engine.keys import Keys
    from engine.store import StoreReader

INSTITUTION = "1311111114"


def check(
    request_file: Annotated[
        Path | None,
        typer.Option("--request", metavar="FILE", help="The inquiry as JSON, as for the API; - is standard input."),
    ] = None,
    insurer: Annotated[str | None, typer.Option(help="Insurer number.", rich_help_panel="By card")] = None,
    symbol: Annotated[str | None, typer.Option(help="Symbol.", rich_help_panel="By card")] = None,
    number: Annotated[str | None, typer.Option(help="Number.", rich_help_panel="By card")] = None,
    branch: Annotated[str | None, typer.Option(help="Branch number.", rich_help_panel="By card")] = None,
    birth_date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Birth date.", rich_help_panel="By card")
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="Issuer.", rich_help_panel="By certificate")] = None,
    serial: Annotated[str | None, typer.Option(help="Serial number.", rich_help_panel="By certificate")] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="The day asked about (default: today).")
    ] = None,
    institution: Annotated[str, typer.Option(help="Code of the institution that asks.")] = INSTITUTION,
    purpose: Annotated[str | None, typer.Option(help="Why it is asked (default: treatment).")] = None,
    local: Annotated[bool, typer.Option("--local", help="Read store and index directly, without a server.")] = False,
    port: Port = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Ask whether a person is insured on a day, by card or by certificate. Any verdict ends with 0.

    Arguments of a command can be seen by other users of the machine: with real people, use --request.

    Examples:

    shikaku check --insurer 01130012 --symbol 1234 --number 1987654 --branch 01 --birth-date 2000-01-02

    shikaku personas --json | jq '.[0].request' | shikaku check --request - --json
    """
    config = settings(config_file, data_dir, key_file, port=port)
    if request_file is not None:
        body = sys.stdin.buffer.read() if str(request_file) == "-" else _read(request_file)
    else:
        card = {
            "insurer_number": insurer,
            "symbol": symbol,
            "number": number,
            "branch": branch,
            "birth_date": birth_date,
        }
        if not _given(card) and issuer is None and serial is None:
            raise CommandError(Exit.USAGE, "input.missing", "give --insurer, --number and --birth-date, or --request")
        body = request_body(card, {"issuer": issuer, "serial": serial}, institution, as_of, purpose)
    answer = answer_locally(config, body) if local else answer_from_server(config, body)
    _print(answer, as_json)


def request_body(
    card: dict[str, str | None],
    certificate: dict[str, str | None],
    institution: str,
    as_of: str | None,
    purpose: str | None,
) -> bytes:
    """The API's JSON for what was given; what was not given is left out, for the API to judge."""
    import msgspec

    given: dict[str, Any] = {"institution": institution, "as_of": as_of, "purpose": purpose}
    given["card"] = _given(card) or None
    given["certificate"] = _given(certificate) or None
    return msgspec.json.encode(_given(given))


def answer_from_server(config: Config, body: bytes) -> Any:
    """Ask the running server."""
    from api.cli.client import check_client

    return check_client(config).post_json("/v1/eligibility/check", body)


def answer_locally(config: Config, body: bytes) -> Any:
    """Ask store and index in this process. What is answered is recorded all the same."""
    import msgspec

    from api.recorder import open_recorder
    from api.wire import reading, writing
    from engine import keys
    from engine.clock import Clock
    from engine.verification import Verifier

    secrets, clock = keys.load(config.key_file), Clock(config.clock_fixed_ms)
    store, index = _open(config, secrets)
    try:
        verifier = Verifier(index, store, secrets, clock)
        reader = reading.Reader(policy=config.inquiry_check_digits, today=clock.today, insurer=verifier.insurer)
        mark, inquiry = reader.inquiry(body)
        answer = verifier.check(inquiry)
        told = writing.Writer(insurer=verifier.insurer).answer(inquiry, answer, mark)
        recorder = open_recorder(config, secrets, verifier)
        if recorder is not None:
            recorder.record(inquiry, answer, told, b"")
            recorder.finish()
        return msgspec.json.decode(told)
    finally:
        index.close()
        store.close()


def _open(config: Config, secrets: Keys) -> tuple[StoreReader, IndexReader]:
    """Store and index; the index is made first if there is none (no server has run since the machine started)."""
    from engine.index import IndexReader
    from engine.ingest.registry import Registry
    from engine.recovery import index_directory
    from engine.store import StoreReader

    while True:
        store = StoreReader(config.store_dir, key_id=secrets.key_id, map_bytes=config.map_bytes)
        directory = index_directory(config, store.store_id)
        try:
            return store, IndexReader.attach(directory, store_id=store.store_id, key_id=secrets.key_id)
        except FileNotFoundError:
            store.close()
            Registry.open(config, secrets).close()


def _print(answer: dict[str, Any], as_json: bool) -> None:
    from api.cli.output import print_json, print_pairs

    if as_json:
        print_json(answer)
        return
    advice = answer["advice"]
    shown = {name: answer[name] for name in ("verdict", "reason", "as_of") if answer[name] is not None}
    shown |= {"notes": ", ".join(answer["notes"])} if answer["notes"] else {}
    if answer["warnings"]:
        shown["warnings"] = ", ".join(f"{each['field']}: {each['code']}" for each in answer["warnings"])
    shown |= {
        name: _flat(value) for name, value in (answer["qualification"] or {}).items() if value not in (None, "", [])
    }
    shown |= {"advice": f"{advice['ja']} / {advice['en']}", "data version": answer["data_version"]}
    print_pairs(shown)


def _flat(value: object) -> object:
    if isinstance(value, list):
        return "; ".join(str(_flat(each)) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items() if each not in (None, "", []))
    return value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(Exit.USAGE, "file.unreadable", f"{path} cannot be read ({error.strerror})") from None


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
