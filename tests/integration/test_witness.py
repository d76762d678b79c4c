"""A witness as a process of its own, asked over real sockets; and the audit commands from end to end."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.exits import Exit
from engine import keys
from engine.audit import notes
from engine.audit.log import LogWriter
from engine.audit.notes import Policy, Signer
from tests.support import audit as support
from tests.support.audit import SEGMENT_BYTES, some_entries
from tests.support.processes import ROOT, shikaku


class World:
    """A data folder with one log, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "data" / "audit" / "0"
        self.signer = Signer("shikaku.invalid/0", keys.create_signing(folder / "audit.key"))
        self.where = ("--data", str(folder / "data"), "--master", str(folder / "master.key"))

    def grow(self, entries: list[bytes], folder: Path | None = None) -> None:
        with LogWriter(folder or self.log, self.signer, segment_bytes=SEGMENT_BYTES) as log:
            log.append(entries)
            log.sign_checkpoint()

    def run(self, *arguments: object, expect: Exit = Exit.OK) -> str:
        done = shikaku(*arguments)
        assert "Traceback" not in done.stderr
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def new_witness(self, number: int) -> tuple[Path, str]:
        settings = self.folder / f"w{number}" / "witness.toml"
        name = f"witness.example/w{number}"
        return settings, self.run("witness", settings, "--new", name, "--log", self.signer.verifier.vkey).strip()


@contextmanager
def serving(settings: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The witness's process and its port."""
    command = [sys.executable, "-m", "api.cli.main", "witness", str(settings), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, line
        yield process, int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGKILL)
        assert process.stderr is not None
        process.stderr.close()


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read()
    finally:
        connection.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.grow(some_entries(300))
    return made


def test_a_log_is_witnessed_over_sockets(world: World) -> None:
    (one, first), (two, second) = world.new_witness(1), world.new_witness(2)
    with serving(one) as (process, port), serving(two) as (_, other_port):
        witnesses = (
            *("--witness", f"http://127.0.0.1:{port}={first}"),
            *("--witness", f"http://127.0.0.1:{other_port}={second}"),
        )
        assert "300 entries cosigned by 2 of 2" in world.run(
            "audit", "submit", *witnesses, "--require", 2, *world.where
        )
        (world.log / "checkpoint.cosigned").unlink()
        world.grow(some_entries(50, 300))
        assert "350 entries cosigned by 2 of 2" in world.run(
            "audit", "submit", *witnesses, "--require", 2, *world.where
        )
        policy = Policy(world.signer.verifier, (notes.parse_vkey(first), notes.parse_vkey(second)), 2)
        assert notes.check((world.log / "checkpoint.cosigned").read_bytes(), policy).checkpoint.size == 350
        keyed = ("--witness", first, "--witness", second, "--require", 2)
        assert "as signed; 350 entries" in world.run("audit", "verify", *keyed, *world.where)

        digest = hashlib.sha256(world.signer.verifier.name.encode()).hexdigest()
        status, kind, kept = ask(port, "GET", f"/{digest}/checkpoint")
        assert (status, kind) == (200, "text/plain; charset=utf-8")
        assert notes.check(kept, Policy(policy.log, policy.witnesses, 1))

        # Killed at any instant, it knows what it signed.
        process.kill()
        process.wait(30)
    with serving(one) as (_, port):
        checkpoint = (world.log / "checkpoint").read_bytes()
        status, kind, said = ask(port, "POST", "/add-checkpoint", b"old 0\n\n" + checkpoint)
        assert (status, kind, said) == (409, "text/x.tlog.size", b"350\n")
        assert ask(port, "POST", "/add-checkpoint", b"old 350\n\n" + checkpoint)[0] == 200
        assert ask(port, "POST", "/add-checkpoint", b"rubbish")[0] == 400
        assert ask(port, "POST", "/add-checkpoint", b"x" * 2_000_000)[0] == 400
        assert ask(port, "POST", "/add-checkpoint", b"old 0\n\n" + checkpoint.replace(b"\n350\n", b"\n351\n"))[0] == 403
        assert ask(port, "GET", "/add-checkpoint")[0] == 405
        assert ask(port, "GET", f"/{'0' * 64}/checkpoint")[0] == 404


def test_a_rolled_back_and_a_rewritten_log_are_told_by_the_witness(world: World, tmp_path: Path) -> None:
    settings, key = world.new_witness(1)
    with serving(settings) as (_, port):
        submit = ("audit", "submit", "--witness", f"http://127.0.0.1:{port}={key}")
        vkey = ("--key", world.signer.verifier.vkey)
        world.run(*submit, *world.where)
        world.grow(some_entries(200), tmp_path / "rolled-back")
        said = world.run(*submit, tmp_path / "rolled-back", *vkey, expect=Exit.NEGATIVE)
        assert "it signed 300 entries, and the log's checkpoint has 200" in said
        world.grow(some_entries(400, 5000), tmp_path / "rewritten")
        said = world.run(*submit, tmp_path / "rewritten", *vkey, expect=Exit.NEGATIVE)
        assert "problem" in said and "422" in said
        assert not (tmp_path / "rewritten" / "checkpoint.cosigned").exists()


def test_a_witness_that_is_not_there_is_named(world: World) -> None:
    key = support.witness().verifier.vkey
    said = world.run("audit", "submit", "--witness", f"http://127.0.0.1:1={key}", *world.where, expect=Exit.NEGATIVE)
    assert "witness.example/w1: it cannot be reached" in said and "not kept, 1 must sign" in said


def test_a_folder_is_exported_witnessed_and_checked_without_any_server(world: World, tmp_path: Path) -> None:
    settings, key = world.new_witness(1)
    out = tmp_path / "bundle"
    assert "entries 280 to 299 of 300" in world.run("audit", "export", out, "--from", 280, *world.where[:2])
    assert "— witness.example/w1 " in world.run("witness", settings, "--once", out)
    checked = world.run(
        *("audit", "verify", out, "--key", world.signer.verifier.vkey, "--witness", key, "--require", 1),
        *("--from", 280, "--to", 300),
    )
    assert "as signed; entries 256 to 300" in checked
    os.unlink(out / "tile" / "1" / "000.p" / "1")
    said = world.run("audit", "verify", out, "--key", world.signer.verifier.vkey, expect=Exit.NEGATIVE)
    assert "tile/1/000.p/1: missing" in said
