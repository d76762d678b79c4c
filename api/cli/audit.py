"""Owns `shikaku audit`: check logs offline, export parts of them, and have their checkpoints witnessed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.options import ConfigFile, DataDir, Json, settings
from api.exits import CommandError, Exit
from engine.audit.log import CHECKPOINT, COSIGNED, LogReader
from engine.audit.notes import Policy, Signer, Verifier
from engine.audit.verify import Report
from engine.config import Config
from engine.errors import AuditMissingError, AuditNoteError, ConfigError

if TYPE_CHECKING:
    from api.witnessing import Asked

app = typer.Typer(no_args_is_help=True, help="Check audit logs, export them, and have their checkpoints witnessed.")

Folder = Annotated[
    Path | None, typer.Argument(help="A log's folder, or an exported bundle (default: all logs of the data folder).")
]
Vkey = Annotated[
    str | None,
    typer.Option("--key", metavar="VKEY", help="The log's verifier key (default: from the operator's audit.key)."),
]
Witnesses = Annotated[
    list[str] | None, typer.Option("--witness", metavar="VKEY", help="Verifier key of a witness; may be repeated.")
]
Required = Annotated[int, typer.Option("--require", min=0, help="How many of the witnesses must have signed.")]
Master = Annotated[
    Path | None,
    typer.Option(
        "--master", metavar="FILE", help="The master key, beside which audit.key lies (default: var/master.key)."
    ),
]
From = Annotated[str | None, typer.Option("--from", help="First entry, or a time as 2026-11-23T08:00:00+09:00.")]
To = Annotated[str | None, typer.Option("--to", help="The entry, or the time, before which it ends.")]


@app.command("verify")
def verify(
    folder: Folder = None,
    key: Vkey = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", metavar="FILE", help="A checkpoint that a witness holds; may be repeated."),
    ] = None,
    witness: Witnesses = None,
    require: Required = 0,
    start: From = None,
    end: To = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    master: Master = None,
    as_json: Json = False,
) -> None:
    """Compute a log anew and compare it with everything that was signed. Ends with 1 if anything does not fit.

    It changes nothing, needs no server and may run beside one. What a log lost together with its own checkpoint, only
    a checkpoint from elsewhere can show: give those of your witnesses. For a bundle, --from and --to (entries) say what
    it must hold.

    Examples:

    shikaku audit verify --data /srv/shikaku/data

    shikaku audit verify bundle/ --key "$VKEY" --checkpoint from-witness.txt --from 0 --to 100000
    """
    from api.cli.output import print_json

    config = settings(config_file, data_dir, master)
    given = [(path.name, _read(path)) for path in checkpoints or ()]
    reports = []
    for each in _folders(config, folder):
        policy = _policy(config, each, key, witness, require)
        reports.append((each, _verified(each, policy, given, _wanted(start, end))))
    if as_json:
        print_json([{"folder": str(each), "ok": report.ok, "report": report} for each, report in reports])
    else:
        for each, report in reports:
            _print_report(each, report)
    raise typer.Exit(Exit.OK if all(report.ok for _, report in reports) else Exit.NEGATIVE)


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="A new folder for the bundle.")],
    folder: Annotated[Path | None, typer.Option("--log", metavar="FOLDER", help="The log's folder.")] = None,
    start: From = None,
    end: To = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Write a part of a log as static files (c2sp.org/tlog-tiles), which anybody can check with the log's key.

    --from and --to are numbers of entries, or times with their zone; the bundle holds whole tiles of 256 entries, so it
    may begin earlier and end later. Without them it holds all that is signed.

    Example: shikaku audit export bundle/ --log var/data/audit/0 --from 2026-11-23T00:00:00+09:00
    """
    from api.cli.output import progress
    from engine.audit import bundle, notes

    (source,) = _one(_folders(settings(config_file, data_dir, None), folder))
    with LogReader(source) as log:
        data = log.checkpoint()
        signed = 0 if data is None else notes.parse_checkpoint(notes.parse(data).text).size
        begin, behind = _range(log, start, end, signed)
        try:
            with progress("exporting", "tiles", None) as advance:
                checkpoint = bundle.export(log, begin, behind, out, advance)
        except FileExistsError:
            raise CommandError(Exit.USAGE, "file.exists", f"{out} is there already: name a new folder") from None
    typer.echo(f"{out}: entries {begin} to {behind - 1} of {checkpoint.size} in {checkpoint.origin}")


@app.command("keys")
def keys(config_file: ConfigFile = None, data_dir: DataDir = None, master: Master = None) -> None:
    """Print the verifier key of each log, to be given to whoever checks receipts or is a witness.

    Example: shikaku audit keys
    """
    config = settings(config_file, data_dir, master)
    for folder in _folders(config, None):
        typer.echo(_own_key(config, folder).vkey)


@app.command("submit")
def submit(
    folder: Folder = None,
    witness: Annotated[
        list[str] | None, typer.Option("--witness", metavar="URL=VKEY", help="A witness; may be repeated.")
    ] = None,
    require: Annotated[int, typer.Option("--require", min=1, help="How many must sign.")] = 1,
    key: Vkey = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    master: Master = None,
) -> None:
    """Have the newest checkpoint of each log cosigned, and keep it beside the log. Ends with 1 if too few signed.

    Example: shikaku audit submit --witness https://a.example=$W1 --witness https://b.example=$W2 --require 2
    """
    from api import witnessing

    config = settings(config_file, data_dir, master)
    asked = [witnessing.parse_witness(text) for text in witness or ()]
    if len({each.key.public for each in asked}) < require:
        raise CommandError(Exit.USAGE, "config.invalid", "there are fewer witnesses than must sign: give --witness")
    results = [_submitted(each, _key(config, each, key), asked, require) for each in _folders(config, folder)]
    raise typer.Exit(Exit.OK if all(results) else Exit.NEGATIVE)


# --- what the commands share ----------------------------------------------------------------------------------------


def _folders(config: Config, folder: Path | None) -> list[Path]:
    """The folder that was named, or those of all logs. Raises AuditMissingError."""
    if folder is not None:
        return [folder]
    try:
        found = [path for path in config.audit_dir.iterdir() if path.name.isdigit()]
    except OSError:
        found = []
    if not found:
        raise AuditMissingError(f"there is no audit log in {config.audit_dir}")
    return sorted(found, key=lambda path: int(path.name))


def _one(folders: list[Path]) -> list[Path]:
    if len(folders) != 1:
        raise CommandError(Exit.USAGE, "config.invalid", "there are several logs: name one with --log FOLDER")
    return folders


def _own_key(config: Config, folder: Path) -> Verifier:
    from engine import keys as secrets

    return Signer(f"{config.audit_origin}/{folder.name}", secrets.load_signing(config.audit_key_file)).verifier


def _key(config: Config, folder: Path, key: str | None) -> Verifier:
    from engine.audit import notes

    if key is not None:
        return notes.parse_vkey(key)
    if folder.parent != config.audit_dir:
        raise ConfigError("give the log's verifier key", field="--key")
    return _own_key(config, folder)


def _policy(config: Config, folder: Path, key: str | None, witnesses: list[str] | None, required: int) -> Policy:
    from engine.audit import notes

    known = tuple(notes.parse_vkey(text) for text in witnesses or ())
    if required > len({each.public for each in known}):
        raise ConfigError("there are fewer witnesses than must have signed: give --witness", field="--require")
    return Policy(_key(config, folder, key), known, required)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise CommandError(Exit.USAGE, "file.unreadable", f"{path} cannot be read") from None


def _verified(folder: Path, policy: Policy, given: list[tuple[str, bytes]], wanted: tuple[int, int] | None) -> Report:
    from api.cli.output import progress
    from engine.audit import bundle
    from engine.audit.verify import verify_log

    if bundle.is_bundle(folder):
        with progress(str(folder), "files", None) as advance:
            return bundle.verify_bundle(folder, policy, given, advance, wanted)
    with progress(str(folder), "entries", None) as advance:
        return verify_log(folder, policy, given, advance)


def _wanted(start: str | None, end: str | None) -> tuple[int, int] | None:
    if start is None and end is None:
        return None
    if start is None or end is None or not (start.isdigit() and end.isdigit()):
        raise ConfigError("--from and --to are both given, as numbers of entries", field="--from")
    return int(start), int(end)


def _print_report(folder: Path, report: Report) -> None:
    for line in report.problems:
        typer.echo(f"problem: {folder}: {line}")
    for line in report.notes:
        typer.echo(f"note: {folder}: {line}")
    read = f"entries {report.first:,} to {report.size:,}" if report.first else f"{report.size:,} entries"
    signed = f"{report.signed:,} signed, {report.checkpoints} checkpoints agree"
    typer.echo(f"{folder}: {report.origin}: {'as signed' if report.ok else 'NOT as signed'}; {read}, {signed}")


def _range(log: LogReader, start: str | None, end: str | None, signed: int) -> tuple[int, int]:
    """The entries that --from and --to mean, as (first, behind the last)."""
    from engine.audit import bundle

    numbers = [text is None or text.isdigit() for text in (start, end)]
    if all(numbers):
        return int(start or 0), signed if end is None else int(end)
    begin_ms = 0 if start is None else _time(start, "--from")
    end_ms = 1 << 62 if end is None else _time(end, "--to")
    first, behind = bundle.range_of_times(log, begin_ms, end_ms)
    return first, min(behind, signed)


def _time(text: str, option: str) -> int:
    """Milliseconds of a time with its zone. Raises ConfigError."""
    from datetime import datetime

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ConfigError("this is no number and no time with its zone, as 2026-11-23T08:00:00+09:00", field=option)
    return int(found.timestamp() * 1000)


def _submitted(folder: Path, key: Verifier, asked: list[Asked], required: int) -> bool:
    import asyncio

    from api import witnessing
    from engine.audit import notes
    from engine.audit.witness import keep_cosigned

    with LogReader(folder) as log:
        data = log.checkpoint(CHECKPOINT)
        if data is None:
            raise AuditMissingError(f"there is no checkpoint in {folder} yet")
        note = notes.check(data, Policy(key)).note
        log.refresh()
        outcomes = asyncio.run(witnessing.ask_all(log, note, _known(log), asked))
    for outcome in outcomes:
        if outcome.reason is not None:
            typer.echo(f"{'problem' if outcome.is_conflict else 'note'}: {folder}: {outcome.name}: {outcome.reason}")
    signatures = [each for outcome in outcomes for each in outcome.signatures]
    signed = sum(bool(outcome.signatures) for outcome in outcomes)
    enough = signed >= required and not any(outcome.is_conflict for outcome in outcomes)
    if enough:
        keep_cosigned(folder, note, signatures)
    size = notes.parse_checkpoint(note.text).size
    kept = "kept" if enough else f"not kept, {required} must sign"
    typer.echo(f"{folder}: {size:,} entries cosigned by {signed} of {len(outcomes)} witnesses; {kept}")
    return enough


def _known(log: LogReader) -> dict[str, int]:
    """The size that each witness signed last, as the cosigned checkpoint tells."""
    from engine.audit import notes

    data = log.checkpoint(COSIGNED)
    try:
        note = notes.parse(data or b"")
        size = notes.parse_checkpoint(note.text).size
    except AuditNoteError:
        return {}
    return {each.name: size for each in note.signatures if size <= log.size}
