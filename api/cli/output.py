"""Owns what subcommands print: JSON for machines, tables for people, progress, and what to do after an error."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

_NEXT: Final = {
    "audit.damaged": "keep the folder as it is and run `shikaku audit verify`",
    "audit.key": "restore it from its backup",
    "audit.locked": "stop the process that has it open first",
    "audit.missing": "point --data at the data folder, or name the log's folder",
    "caller.exists": "`shikaku institutions show` tells what there is; nothing was changed",
    "caller.input": "nothing was changed; docs/SECURITY.md has the forms",
    "caller.missing": "`shikaku institutions list` tells who there is; nothing was changed",
    "config.invalid": "docs/OPERATING.md lists the settings and what they may be",
    "index.corrupt": "start `shikaku serve`, or let it go on: it makes the index anew. Twice: test the memory",
    "index.space": "enlarge /dev/shm, or set index_dir",
    "key.mismatch": "point --key at the key that was made with this store",
    "key.missing": "run `shikaku init`, or point --key at the key file",
    "registry.busy": "another import is under way: try again when it is done",
    "server.port": "choose another with --port, or stop what uses it",
    "server.starting": "try again in a moment",
    "server.unreachable": "start it with `shikaku serve`, or give its --port",
    "store.corrupt": "run `shikaku fsck`, then restore a snapshot",
    "store.exists": "choose another folder; nothing was changed in this one",
    "store.full": "make room on the disk, or raise map_bytes; nothing was half applied",
    "store.locked": "use the running server, or stop it first",
    "store.missing": "run `shikaku init`, or point --data at the data folder",
    "store.poisoned": "start again: the store is recovered",
    "store.version": "use the version of Shikaku that wrote this store",
}
_WIDE: Final = 10_000


def advice_of(code: str) -> str:
    """What the operator does next after an error with this code; "" if its line says all."""
    return _NEXT.get(code, "")


def print_json(value: object) -> None:
    """Print a value as one indented JSON document."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values in two columns."""
    print_table(("", ""), pairs.items(), header=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool = True) -> None:
    """Print a table; a terminal wraps its lines, a pipe gets one line for each row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, show_header=header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    console = Console(file=io.StringIO(), width=_WIDE, highlight=False)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


class Advance(Protocol):
    """Reports progress: how much is done, and of how much if known."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


@contextmanager
def progress(what: str, unit: str, total: int | None, then: str = "") -> Iterator[Advance]:
    """A progress bar with rate and remaining time on standard error; silent where that is no terminal.

    Args: then: what is under way, for nobody knows how long, once all is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(done: int, total: int | None = None) -> None:
            speed = bar.tasks[task].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=rate)
            if then and done == total:
                bar.reset(task, description=then, total=None)

        yield advance
