"""Owns `shikaku receipt`: make the receipt of an entry, and check one offline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import ConfigFile, DataDir, settings
from api.exits import CommandError, Exit
from engine.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Make and check receipts: the proof that an answer was logged.")


@app.command("make")
def make(
    name: Annotated[str, typer.Argument(help="The receipt's name, as the header Shikaku-Receipt says it: SLOT-INDEX.")],
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FOLDER", help="The log's folder (default: of the slot in the name)."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where it goes (default: printed).")] = None,
    config_file: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make the receipt of an answer, under the newest checkpoint that covers it: about a second after the answer.

    Example: shikaku receipt make 0-4711 --out answer.tlog-proof
    """
    from engine.audit import receipt
    from engine.audit.log import LogReader

    found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,18})", name)
    if found is None:
        raise ConfigError("a receipt's name is SLOT-INDEX, as 0-4711", field="NAME")
    folder = settings(config_file, data_dir, None).audit_dir / found[1] if log is None else log
    with LogReader(folder) as reader:
        text = receipt.make(reader, int(found[2]))
    if out is None:
        typer.echo(text.decode(), nl=False)
        return
    try:
        out.write_bytes(text)
    except OSError:
        raise CommandError(Exit.USAGE, "file.unreadable", f"{out} cannot be written") from None


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="The receipt.")],
    answer: Annotated[Path, typer.Option("--answer", metavar="FILE", help="The answer's body, byte for byte.")],
    key: Annotated[list[str], typer.Option("--key", metavar="VKEY", help="Verifier key of the log; may be repeated.")],
    witness: Annotated[
        list[str] | None, typer.Option("--witness", metavar="VKEY", help="Verifier key of a witness; may be repeated.")
    ] = None,
    require: Annotated[int, typer.Option("--require", min=0, help="How many of the witnesses must have signed.")] = 0,
) -> None:
    """Check that an answer was logged as the receipt says. Ends with 1 and the reason if that is not proved.

    It needs no server and no data folder. engine/audit/receipt_verifier.py does the same alone: `python FILE`.

    Example: shikaku receipt verify answer.tlog-proof --answer answer.json --key "$VKEY"
    """
    from engine.audit import receipt_verifier
    from engine.audit.receipt_verifier import KeyFormatError, ReceiptError

    texts = []
    for path in (file, answer):
        try:
            texts.append(path.read_bytes())
        except OSError:
            raise CommandError(Exit.USAGE, "file.unreadable", f"{path} cannot be read") from None
    try:
        found = receipt_verifier.verify(texts[0], texts[1], key, witness or (), require)
    except KeyFormatError as error:
        raise CommandError(Exit.USAGE, "audit.note", str(error)) from None
    except ReceiptError as error:
        raise CommandError(Exit.NEGATIVE, "audit.receipt", f"not proved: {error}") from None
    typer.echo(f"proved: {receipt_verifier.describe(found)}")
