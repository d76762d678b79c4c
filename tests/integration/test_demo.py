"""Asks whether the demonstration works from nothing, again, and with a machine that lacks something."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from api.cli.demo import _wait_for_ctrl_c
from api.exits import Exit
from tests.support import chromium
from tests.support.processes import ROOT, alive, ask_once, free_ports, remove_index, shikaku, until

PEOPLE = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("demo")
    yield made
    remove_index(made / "data", made / "master.key")


def demo(folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return shikaku("demo", "--folder", folder, "--port", free_ports(), "--workers", 2, "--once", *more)


def test_once_from_nothing_then_again_then_with_other_people(folder: Path) -> None:
    first = demo(folder, "--people", PEOPLE)
    assert first.returncode == Exit.OK, first.stderr
    assert "making a sample population of 300 people" in first.stdout
    assert re.search(r"all \d\d personas got the expected verdict", first.stdout)
    assert "WRONG" not in first.stdout
    second = demo(folder, "--people", PEOPLE)
    assert second.returncode == Exit.OK and "using the sample population" in second.stdout
    third = demo(folder, "--people", PEOPLE + 1)
    assert third.returncode == Exit.OK and "the former one has 300 people" in third.stdout


def test_it_speaks_tls_if_the_settings_say_so(folder: Path, tmp_path: Path) -> None:
    """Its server did, and it waited for an answer in plain text until its patience was at an end."""
    certificate = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    certificate.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.pem"))
    pair = {"SHIKAKU_TLS_CERTIFICATE": str(tmp_path / "tls.pem"), "SHIKAKU_TLS_KEY": str(tmp_path / "tls.key")}
    command = ("demo", "--folder", folder, "--port", free_ports(), "--people", PEOPLE, "--once")
    done = shikaku(*command, env=os.environ | pair)
    assert done.returncode == Exit.OK, done.stderr
    assert f"curl -s --cacert {tmp_path / 'tls.pem'} https://127.0.0.1:" in done.stdout
    mutual = shikaku(*command, env=os.environ | pair | {"SHIKAKU_TLS_CLIENT_CA": str(tmp_path / "tls.pem")})
    assert mutual.returncode == Exit.UNREACHABLE and "tls_client_ca" in mutual.stderr


def test_the_printed_commands_give_the_printed_answers_until_ctrl_c(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    command = [sys.executable, "-m", "api.cli.main", "demo", "--folder", str(folder), "--people", str(PEOPLE)]
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [*command, "--port", str(free_ports())],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
            # Ignored by whatever a shell without job control runs in the background, these tests perhaps.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        until(lambda: "serving until Ctrl-C" in output.read_text("utf-8") or process.poll() is not None, "the demo")
        said = output.read_text("utf-8").splitlines()
        commands = [at for at, line in enumerate(said) if line.startswith("curl ")]
        assert len(commands) == 3
        for at in commands:
            words = shlex.split(said[at])
            address = next(word for word in words if word.startswith("http://"))
            port, path = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.*)", address).groups()  # type: ignore[union-attr]
            answer = ask_once(int(port), "POST", path, words[words.index("-d") + 1].encode())[2]
            assert answer == json.loads(said[at + 1])
        pids = json.loads((folder / "data" / "server.json").read_bytes())["worker_pids"]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) == Exit.OK
        log = (folder / "server.log").read_text("utf-8")
        assert "draining" in log and "second signal: killing" not in log
        assert not any(alive(pid) for pid in pids)
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_just_when_the_demonstration_says_so_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line came before anybody was waiting for the signal: whoever was quick was told 130."""
    said: list[str] = []

    def echo(line: str) -> None:
        said.append(line)
        if "Ctrl-C" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr("typer.echo", echo)
    with subprocess.Popen([sys.executable, "-c", ""]) as server:
        _wait_for_ctrl_c(server)
    assert said == ["serving until Ctrl-C", "draining"]


def test_a_used_port_is_one_clear_line(folder: Path) -> None:
    with socket.socket() as holder:
        port = free_ports()
        holder.bind(("127.0.0.1", port))
        holder.listen()
        ended = shikaku("demo", "--folder", folder, "--people", PEOPLE, "--port", port, "--once")
    assert ended.returncode == Exit.PORT
    assert f"port {port} on 127.0.0.1 is in use" in ended.stderr and ended.stderr.count("\n") == 1


# --- what must be there beforehand ----------------------------------------------------------------------------------


def make(tmp_path: Path, task: str, tools: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A task on a machine that has these tools only, and what was put into `tmp_path` before."""
    for name in ("make", "sh", *tools):
        found = shutil.which(name)
        assert found, name
        with suppress(FileExistsError):
            (tmp_path / name).symlink_to(sys.executable if name == "python3" else found)
    unset = ("MAKE", "MFLAGS", "CC", "CHROMIUM")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(unset)}
    return subprocess.run(
        [shutil.which("make") or "make", "--no-print-directory", task, *arguments],
        cwd=ROOT,
        env=environment | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_with_python_and_a_compiler_nothing_is_missing(tmp_path: Path) -> None:
    ended = make(tmp_path, "check-tools", ["python3", "cc"])
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("tools", "arguments", "line"),
    [
        (["python3"], [], "shikaku: needs a C compiler: install gcc, or set CC=..."),
        (["cc"], [], "shikaku: needs Python 3.11 or newer: install python3, or set PYTHON=..."),
        (["python3", "cc"], ["CC=absent-cc"], "shikaku: needs a C compiler: install gcc, or set CC=..."),
    ],
    ids=["no-compiler", "no-python", "wrong-compiler"],
)
def test_a_missing_tool_is_one_clear_line(tmp_path: Path, tools: list[str], arguments: list[str], line: str) -> None:
    ended = make(tmp_path, "check-tools", tools, *arguments)
    assert ended.returncode != 0
    assert ended.stdout.splitlines() == [line]


NO_BROWSER = (
    "shikaku: the tests of the docs page need Chromium: install chromium (Debian: apt-get install chromium),"
    " or set CHROMIUM=..."
)


def command(folder: Path, name: str, text: str) -> None:
    """A small program of this name."""
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("name", chromium.PROGRAMS)
def test_with_a_browser_nothing_is_installed(tmp_path: Path, name: str) -> None:
    command(tmp_path, name, "exit 0")
    command(tmp_path, "apt-get", 'echo "apt-get was run" >&2')
    ended = make(tmp_path, "browser", ["id"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("user", "apt", "arguments"),
    [(1000, "exit 0", []), (0, None, []), (0, "exit 100", []), (0, "exit 0", ["CHROMIUM=absent"])],
    ids=["not-root", "no-apt", "apt-fails", "wrong-browser"],
)
def test_a_missing_browser_is_one_clear_line(tmp_path: Path, user: int, apt: str | None, arguments: list[str]) -> None:
    command(tmp_path, "id", f"echo {user}")
    if apt is not None:
        command(tmp_path, "apt-get", apt)
    ended = make(tmp_path, "browser", [], *arguments)
    assert ended.returncode != 0
    assert ended.stdout.splitlines()[-1] == NO_BROWSER
    assert ended.stdout.count("\n") <= 2


def test_root_gets_a_missing_browser_from_apt(tmp_path: Path) -> None:
    command(tmp_path, "id", "echo 0")
    browser = f"#!{shutil.which('sh')}\\n"
    make_it = f"printf '{browser}' > {tmp_path}/chromium; {shutil.which('chmod')} +x {tmp_path}/chromium"
    put = f'case "$*" in *install*chromium*) {make_it};; esac'
    command(tmp_path, "apt-get", put)
    ended = make(tmp_path, "browser", [])
    assert ended.returncode == 0, ended.stdout
    assert make(tmp_path, "browser", []).stdout == ""
