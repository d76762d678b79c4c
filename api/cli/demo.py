"""Owns `shikaku demo`: from nothing to a running server that answered about every persona as expected."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from api import instance
from api.cli.client import Client, check_context
from api.cli.options import settings
from api.exits import CommandError, Exit, die_with_parent
from engine import clock
from engine.config import Config

SEED: Final = 1
CURLS: Final = 3
START_SECONDS: Final = 60.0
_MADE: Final = "demo.json"
_REUSE_DAYS: Final = 28
"""The personas' expected verdicts hold for a month after they were made."""
_POLL_SECONDS: Final = 0.05


class Made(msgspec.Struct, frozen=True):
    """What a demonstration's data folder holds, written when it is complete."""

    people: int
    seed: int
    today: date
    cast: str
    """Digest of the personas, who may be others in another version."""


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where data, key, feeds and log go.")] = Path("var/demo"),
    people: Annotated[int, typer.Option("--people", min=1, help="Size of the sample population.")] = 100_000,
    port: Annotated[int, typer.Option("--port", help="Port for checks; the registry is on the next.")] = 8443,
    workers: Annotated[int | None, typer.Option(help="Check workers (default: one for each core).")] = None,
    once: Annotated[bool, typer.Option("--once", help="Ask about all personas, then end.")] = False,
) -> None:
    """Make a sample population, import it, serve it, and ask about every persona over HTTP.

    Stays up until Ctrl-C, which drains. The data are kept for the next time.

    Example: shikaku demo --people 100000 --port 8443
    """
    from api.cli.personas import cast_of

    config = settings(None, folder / "data", folder / "master.key", port=port, workers=workers)
    context = check_context(config)
    made = prepare(config, folder, people)
    cast = cast_of(made.today)
    with serving(config, folder) as (server, state):
        checks = Client(state.host, state.check_port, context=context)
        answers = [checks.send("POST", "/v1/eligibility/check", each["request"]) for each in cast]
        wrong = show_cast(cast, answers)
        show_addresses(checks.address, Client(state.host, state.registry_port).address)
        trusting = [] if config.tls_certificate is None else ["--cacert", str(config.tls_certificate)]
        show_curls(["curl", "-s", *trusting, f"{checks.address}/v1/eligibility/check"], cast, answers)
        if wrong:
            detail = f"{wrong} of {len(cast)} personas got another verdict"
            raise CommandError(Exit.NEGATIVE, "demo.verdict", f"{detail}; if you changed the data, delete {folder}")
        typer.echo(f"all {len(cast)} personas got the expected verdict and reason")
        if not once:
            _wait_for_ctrl_c(server)


# --- the data --------------------------------------------------------------------------------------------------


def prepare(config: Config, folder: Path, people: int) -> Made:
    """A data folder with population and personas: the one of last time if it fits, else a new one."""
    if instance.is_running(config.data_dir):
        raise CommandError(Exit.STORE, "store.locked", f"a demonstration runs on {folder} already")
    made = _made(folder)
    why = None if made is None else _unfit(made, config, people)
    if made is not None and why is None:
        typer.echo(f"using the sample population in {folder}: {made.people:,} people of {made.today}")
        return made
    typer.echo(f"making a sample population of {people:,} people in {folder}{f' ({why})' if why else ''}")
    discard(config, folder)
    return _build(config, folder, people)


def discard(config: Config, folder: Path) -> None:
    """Delete a former demonstration, its index in memory included."""
    from engine import keys
    from engine.errors import ShikakuError
    from engine.recovery import index_directory
    from engine.store import StoreReader

    try:
        store = StoreReader(config.store_dir, key_id=keys.load(config.key_file).key_id, map_bytes=config.map_bytes)
    except ShikakuError:
        pass  # there is none, or it was never finished: then it has no index either
    else:
        shutil.rmtree(index_directory(config, store.store_id), ignore_errors=True)
        store.close()
    for name in (config.data_dir, folder / "feeds"):
        shutil.rmtree(name, ignore_errors=True)
    config.key_file.unlink(missing_ok=True)
    (folder / _MADE).unlink(missing_ok=True)


def _build(config: Config, folder: Path, people: int) -> Made:
    from api.cli import init
    from api.cli.import_feeds import import_one
    from api.cli.insurers import register_file
    from api.cli.people import today_in_japan
    from api.cli.personas import cast_of
    from api.cli.registrar import Feed, registrar
    from loadtest import population

    today = today_in_japan()
    made = Made(people, SEED, today, _digest(cast_of(today)))
    feeds = population.generate(made.people, made.seed, made.today, folder / "feeds")
    personas = population.write_personas(folder / "feeds", made.today)
    init.create(config)
    typer.echo(f"{register_file(config, feeds.insurers_file)} insurers registered")
    with registrar(config) as way:
        for path in (feeds.population_file, personas):
            import_one(way, Feed(path=path, format="csv", encoding="utf-8", as_of=made.today.isoformat()))
    (folder / _MADE).write_bytes(msgspec.json.encode(made))
    return made


def _digest(cast: list[dict[str, Any]]) -> str:
    return hashlib.blake2b(msgspec.json.encode(cast), digest_size=16).hexdigest()


def _made(folder: Path) -> Made | None:
    try:
        return msgspec.json.decode((folder / _MADE).read_bytes(), type=Made)
    except (OSError, msgspec.MsgspecError):
        return None


def _unfit(made: Made, config: Config, people: int) -> str | None:
    """Why a former demonstration cannot be used again; None if it can."""
    from api.cli.people import today_in_japan
    from api.cli.personas import cast_of

    if not config.key_file.exists() or not config.store_dir.exists():
        return "the former one is not complete"
    if _digest(cast_of(made.today)) != made.cast:
        return "the former one has other personas"
    if (made.people, made.seed) != (people, SEED):
        return f"the former one has {made.people:,} people"
    if not 0 <= (today_in_japan() - made.today).days < _REUSE_DAYS:
        return f"the former one is of {made.today}"
    return None


# --- the server ------------------------------------------------------------------------------------------------


@contextmanager
def serving(config: Config, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], instance.ServerState]]:
    """A ready server in a process of its own; drained at the end, and when this process dies.

    A terminal sends Ctrl-C to a whole group of processes: in this one's group the server would be told to stop twice,
    and the second time kills.
    """
    log = folder / "server.log"
    options = ["--port", str(config.port), "--data", str(config.data_dir), "--key", str(config.key_file)]
    options += ["--workers", str(config.workers)] if config.workers else []
    own_pid = os.getpid()
    with open(log, "wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "api.cli.main", "serve", *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            process_group=0,
            preexec_fn=lambda: die_with_parent(own_pid, signal.SIGTERM),
        )
    try:
        yield server, _ready(server, config, log)
    finally:
        server.terminate()
        server.wait()


def _wait_for_ctrl_c(server: subprocess.Popen[bytes]) -> None:
    try:
        typer.echo("serving until Ctrl-C")
        code = server.wait()
    except KeyboardInterrupt:
        typer.echo("draining")
    else:
        raise CommandError(Exit.DEFECT, "demo.server", f"the server ended by itself with {code}")


def _ready(server: subprocess.Popen[bytes], config: Config, log: Path) -> instance.ServerState:
    """Wait until both ports answer /readyz."""
    until = clock.monotonic_ns() + int(START_SECONDS * 1e9)
    while clock.monotonic_ns() < until:
        if server.poll() is not None:
            lines = log.read_text("utf-8", "replace").strip().splitlines()
            code = Exit(server.returncode) if server.returncode in set(Exit) else Exit.DEFECT
            raise CommandError(code, "demo.server", f"the server did not start: {(lines or [''])[-1]} (see {log})")
        state = instance.read_state(config.data_dir)
        if state is not None and state.supervisor_pid == server.pid and _answers(config, state):
            return state
        try:
            server.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    raise CommandError(Exit.UNREACHABLE, "server.unreachable", f"the server was not ready in time (see {log})")


def _answers(config: Config, state: instance.ServerState) -> bool:
    try:
        for port, context in ((state.check_port, check_context(config)), (state.registry_port, None)):
            Client(state.host, port, timeout=5.0, context=context).get("/readyz")
    except CommandError:
        return False
    return True


# --- what is shown ---------------------------------------------------------------------------------------------


def show_cast(cast: list[dict[str, Any]], answers: list[dict[str, Any]]) -> int:
    """The personas with what they got. Returns how many got something else than expected."""
    from api.cli.output import print_table

    rows, wrong = [], 0
    for each, answer in zip(cast, answers, strict=True):
        fits = as_expected(each, answer)
        wrong += not fits
        expected = "" if fits else f"expected {each['verdict']} {each['reason'] or ''}"
        rows.append(
            ("ok" if fits else "WRONG", each["name"], answer["verdict"], answer["reason"], each["note"], expected)
        )
    print_table(("", "persona", "verdict", "reason", "note", ""), rows)
    return wrong


def as_expected(persona: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether an answer is what the persona is to get."""
    return (answer["verdict"], answer["reason"]) == (persona["verdict"], persona["reason"]) and set(
        persona.get("notes", ())
    ) <= set(answer["notes"])


def show_addresses(check: str, registry: str) -> None:
    """Where everything is."""
    from api.cli.output import print_pairs

    typer.echo("")
    print_pairs({"checks": check, "registry": registry, "documentation": f"{check}/docs"})


def show_curls(command: list[str], cast: list[dict[str, Any]], answers: list[dict[str, Any]]) -> None:
    """A command to paste for the first persona of each of three verdicts, with the answer just got."""
    shown: set[str] = set()
    for each, answer in zip(cast, answers, strict=True):
        if answer["verdict"] in shown or len(shown) == CURLS:
            continue
        shown.add(answer["verdict"])
        body = shlex.quote(msgspec.json.encode(each["request"]).decode())
        typer.echo(f"\n# {each['name']}: {each['note']}")
        typer.echo(f"{shlex.join(command)} -H 'Content-Type: application/json' -d {body}")
        typer.echo(msgspec.json.encode(answer).decode())
    typer.echo("")
