"""Owns the servers that are not ours: how each is started in a temporary folder, found ready, and surely ended.

A server ends with the block that started it; with the process that started it, however that ends (the kernel sees to
it); and it listens on the loopback or on a socket in the folder only.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.http_load import driver

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Missing(Exception):
    """A contender cannot be measured here; the message says why."""


class Service(NamedTuple):
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int = 0
    path: Path = Path()


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def program(name: str, package: str) -> str:
    """Where a program is. Raises Missing."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"{name} is not installed (Debian: {package})")
    return found


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder that other users may enter: a database server does not run as root."""
    made = Path(tempfile.mkdtemp(prefix="shikaku-peers-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def running(command: list[str], log: Path, *, stop: int = signal.SIGTERM, **options: Any) -> Iterator[Any]:
    """Run a server on the servers' core; end it and everything that it started."""
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command, stderr=file, preexec_fn=_before_exec, start_new_session=True, **{"stdout": file, **options}
        )
    try:
        yield process
    finally:
        below = driver.family([process.pid])
        process.send_signal(stop)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for pid in [process.pid, *below]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _before_exec() -> None:
    end_with_parent()
    os.sched_setaffinity(0, driver.cores()[0])


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a server is ready. Raises Missing, with the last line of its log, if it ends or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise Missing(f"did not start: {said[-1][:100]}")
        time.sleep(0.02)


def answers_on(port: int) -> bool:
    """Whether something listens."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# --- the servers ----------------------------------------------------------------------------------------------------


@contextmanager
def python_server(name: str, directory: Path) -> Iterator[Service]:
    """One of benchmarks/peers/servers.py."""
    log = directory / f"{name}.log"
    command = [sys.executable, "-m", "benchmarks.peers.servers", name, str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    with running(command, log, cwd=ROOT, stdout=subprocess.PIPE, env=environment) as process:
        line = process.stdout.readline()
        if not line:
            process.wait()
        wait_for(lambda: bool(line), process, log)
        port = json.loads(line)["port"]
        wait_for(lambda: answers_on(port), process, log)
        yield Service(process, port)


@contextmanager
def nginx(directory: Path, constant_bytes: int, *, tls: bool = False) -> Iterator[Service]:
    """One process that returns a constant of so many bytes, for ever on the same connections."""
    own = directory / f"nginx{'-tls' if tls else ''}"
    own.mkdir()
    port, log = free_port(), own / "error.log"
    secured = (
        f"ssl_protocols TLSv1.3; ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.key;"
    )
    (own / "nginx.conf").write_text(f"""
daemon off; master_process off; worker_processes 1; pid {own}/pid; error_log {log};
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; default_type application/json;
  client_body_temp_path {own}/body; proxy_temp_path {own}/proxy; fastcgi_temp_path {own}/fastcgi;
  uwsgi_temp_path {own}/uwsgi; scgi_temp_path {own}/scgi;
  server {{
    listen 127.0.0.1:{port}{" ssl" if tls else ""};
    {secured if tls else ""}
    location / {{ return 200 "{"x" * constant_bytes}"; }}
  }}
}}
""")
    command = [program("nginx", "nginx-light"), "-p", str(own), "-c", str(own / "nginx.conf")]
    with running(command, log) as process:
        wait_for(lambda: answers_on(port), process, log)
        yield Service(process, port)


@contextmanager
def redis(directory: Path) -> Iterator[Service]:
    """Redis in memory only, on a unix socket and on the loopback."""
    path, log, port = directory / "redis.sock", directory / "redis.log", free_port()
    command = [program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with running(command, log) as process:
        wait_for(lambda: path.exists() and answers_on(port), process, log)
        yield Service(process, port, path)


@contextmanager
def postgresql(directory: Path) -> Iterator[Service]:
    """PostgreSQL on a unix socket in the folder; the user is `postgres`. As root it runs as that user."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    binaries = found[-1] if found else Path(program("initdb", "postgresql")).parent
    options: dict[str, Any] = {}
    own = directory / "postgresql"
    own.mkdir()
    if os.getuid() == 0:
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            raise Missing("there is no user postgres to run it as") from None
        os.chown(own, account.pw_uid, account.pw_gid)
        options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    log = directory / "postgresql.log"
    made = subprocess.run(
        [binaries / "initdb", "-D", own / "data", "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8"],
        capture_output=True, text=True, timeout=120, cwd=own, **options,
    )  # fmt: skip
    if made.returncode:
        raise Missing(f"initdb failed: {(made.stderr.strip().splitlines() or ['?'])[-1][:100]}")
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={own}", "-c", "shared_buffers=512MB"]
    settings += ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "max_wal_size=8GB", "-c", "jit=off"]
    command = [str(binaries / "postgres"), "-D", str(own / "data"), *settings]
    with running(command, log, stop=signal.SIGINT, cwd=own, **options) as process:
        # The last line of this file says `ready` when connections are accepted.
        pid_file = own / "data" / "postmaster.pid"
        wait_for(lambda: pid_file.exists() and pid_file.read_text().strip().endswith("ready"), process, log)
        yield Service(process, path=own)
