"""Owns `shikaku import`: feeds into the store, whole or not at all, with progress and an error report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from api.cli.options import ConfigFile, DataDir, Json, KeyFile, settings
from api.cli.registrar import Feed, Registrar, registrar
from api.exits import CommandError, Exit
from engine import clock
from engine.errors import InputError, RefusedError, ShikakuError

_FORMATS: Final = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
_ERRORS_SHOWN: Final = 20
_UNANSWERED: Final = (
    "the feed was sent whole and may still be applied. Repeating the command is safe, a feed is applied once; "
    "`shikaku status` shows the data version"
)


def import_feeds(
    source: Annotated[Path, typer.Argument(help="A feed file, or a folder whose feeds are taken in order of name.")],
    insurer: Annotated[
        str | None, typer.Option(help="The insurer whose feed it is (default: the operator's, of any insurers).")
    ] = None,
    feed_number: Annotated[int | None, typer.Option(min=0, help="Its sequence number.")] = None,
    as_of: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="The day it was drawn up for.")] = None,
    format: Annotated[str | None, typer.Option(help="csv or ndjson (default: by the file's suffix).")] = None,
    encoding: Annotated[str, typer.Option(help="Of a CSV file: utf-8 or cp932.")] = "utf-8",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the errors of a rejected feed here, as JSON.")
    ] = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Import feeds: each is applied whole, or rejected whole with a report of row, column, code and kind of value.

    Goes through the server if one runs on the data folder. The same file again changes nothing and says so. Ends
    with 1 at the first feed that is rejected; those before it are applied.

    Examples:

    shikaku import var/people/population.csv

    shikaku import feed.csv --insurer 01130012 --feed-number 7 --encoding cp932 --dry-run --report errors.json
    """
    config = settings(config_file, data_dir, key_file)
    feeds = [
        Feed(
            path=path,
            format=format or format_of(path),
            encoding=encoding,
            insurer=insurer,
            feed_number=feed_number,
            as_of=as_of,
            dry_run=dry_run,
        )
        for path in feed_files(source)
    ]
    with registrar(config) as way:
        for feed in feeds:
            import_one(way, feed, report, as_json)


def import_one(way: Registrar, feed: Feed, report: Path | None = None, as_json: bool = False) -> dict[str, Any]:
    """Import one feed with a progress bar and print its receipt, or its errors. Raises CommandError."""
    from api.cli.client import ProblemError
    from api.cli.output import print_json

    begun = clock.monotonic_ns()
    try:
        receipt = _imported(way, feed)
    except (InputError, RefusedError, ProblemError) as error:
        found = rejection_of(error)
        if report is not None:
            _write_report(report, found)
        if as_json:
            print_json(found)
        else:
            print_errors(found)
        code = error.exit_code if isinstance(error, ProblemError) else Exit.NEGATIVE
        raise CommandError(code, found["code"], f"{feed.path} is rejected: {found['detail']}") from None
    if report is not None:
        _write_report(report, {"code": None, "detail": None, "error_count": 0, "errors": []})
    if as_json:
        print_json(receipt)
    else:
        typer.echo(_receipt_line(feed, receipt, (clock.monotonic_ns() - begun) / 1e9))
    return receipt


def _write_report(path: Path, found: dict[str, Any]) -> None:
    """Of an accepted feed too, so that no report of an earlier try is taken for this one's."""
    path.write_text(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n", "utf-8")


def _imported(way: Registrar, feed: Feed) -> dict[str, Any]:
    """The receipt. Raises what the way raises; if no answer came to a file that was sent, says what that means."""
    from api.cli.output import progress

    size = feed.path.stat().st_size
    sent = 0
    with progress(feed.path.name, "bytes", size, then=f"{feed.path.name}: importing...") as advance:

        def advance_and_remember(done: int, total: int | None = None) -> None:
            nonlocal sent
            sent = done
            advance(done, total)

        try:
            return way.import_feed(feed, advance_and_remember)
        except CommandError as error:
            if error.exit_code is not Exit.UNREACHABLE or sent < size:
                raise
            raise CommandError(error.exit_code, error.code, f"{error.detail}; {_UNANSWERED}") from None


def rejection_of(error: ShikakuError | CommandError) -> dict[str, Any]:
    """Why a feed was rejected, the same whether the server or the store said so."""
    problem = getattr(error, "problem", None)
    if problem is not None:
        found = _report(problem.get("errors"))
        # The server lists no more errors than fit in an answer, and says how many there are.
        found["error_count"] = problem.get("error_count", found["error_count"])
        return {"code": problem.get("code"), "detail": problem.get("detail"), **found}
    return {"code": error.code, "detail": error.detail, **_report(msgspec.to_builtins(getattr(error, "report", None)))}


def _report(report: Any) -> dict[str, Any]:
    if isinstance(report, dict):
        return {"error_count": report["error_count"], "errors": report["errors"]}
    return {"error_count": len(report or []), "errors": report or []}


def feed_files(source: Path) -> list[Path]:
    """The feed files that a path names. Raises CommandError if there is none."""
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if path.suffix in _FORMATS and path.name != "insurers.ndjson")
    else:
        found = [source] if source.is_file() else []
    if not found:
        raise CommandError(Exit.USAGE, "file.unreadable", f"there is no feed at {source}")
    for path in found:
        if not path.is_file() or not os.access(path, os.R_OK):
            raise CommandError(Exit.USAGE, "file.unreadable", f"{path} is no file that can be read")
    return found


def format_of(path: Path, otherwise: str = "give --format") -> str:
    """The format that a file's suffix says. Raises CommandError, with what to do otherwise."""
    if path.suffix not in _FORMATS:
        raise CommandError(Exit.USAGE, "feed.format", f"the format of {path} is not clear: {otherwise}")
    return _FORMATS[path.suffix]


def print_errors(found: dict[str, Any], all_by: str = "--report FILE") -> None:
    """The first errors as a table; `all_by` is what lists the others."""
    from api.cli.output import print_table

    errors = found["errors"]
    if errors:
        rows = [(each["row"], each["column"], each["code"], each["kind"]) for each in errors[:_ERRORS_SHOWN]]
        print_table(("data row", "column", "code", "kind of value"), rows)
    if found["error_count"] > _ERRORS_SHOWN:
        typer.echo(f"... and {found['error_count'] - _ERRORS_SHOWN} more errors; {all_by} lists them")


def _receipt_line(feed: Feed, receipt: dict[str, Any], seconds: float) -> str:
    counts = ", ".join(f"{receipt[name]:,} {name}" for name in ("new", "changed", "lost", "cancelled") if receipt[name])
    what = f"{feed.path.name}: {receipt['rows']:,} rows ({counts or 'nothing to do'})"
    if receipt["dry_run"] and receipt["replayed"]:
        return f"{what}: dry run; was imported before and would change nothing"
    if receipt["dry_run"]:
        return f"{what}: dry run, nothing was changed"
    if receipt["replayed"]:
        return f"{what}: was imported before, nothing was changed"
    rate = f"{seconds:,.1f} s, {receipt['rows'] / seconds:,.0f} rows/s"
    return f"{what}: imported in {rate}; data version {receipt['data_version']:,}"
