"""Starts real servers in processes of their own, asks them over plain sockets, and leaves nothing behind."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from engine.config import Config
from loadtest import population
from loadtest.population.insurers import insurers

ROOT = Path(__file__).resolve().parents[2]


def shikaku(*arguments: object, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command and return what it said and how it ended."""
    return subprocess.run(
        [sys.executable, "-m", "api.cli.main", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


def free_ports() -> int:
    """A port that is free now, as is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


class Running:
    """A server that was started from here: its supervisor, its ports, its data folder, its log."""

    def __init__(self, process: subprocess.Popen[bytes], data_dir: Path, port: int, log: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.port = port
        self.registry_port = port + 1
        self.log = log

    def state(self) -> dict[str, Any]:
        """What `server.json` says; {} while this instance has written none."""
        try:
            state: dict[str, Any] = json.loads((self.data_dir / "server.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return state if state["supervisor_pid"] == self.process.pid else {}

    def worker_pids(self) -> list[int]:
        return list(self.state().get("worker_pids", []))

    def registry_pid(self) -> int:
        return int(self.state()["registry_pid"])

    def children(self) -> list[int]:
        """Process ids of everything below the supervisor."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def said(self) -> str:
        return self.log.read_text("utf-8")

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """Signal the supervisor and wait for its end. Returns its exit code."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(timeout)


@contextmanager
def running(command: list[str], data_dir: Path, port: int, workers: int) -> Iterator[Running]:
    """Run a server command until the end of the block; fails with its log if it does not get ready."""
    log = data_dir.parent / f"server-{port}.log"
    with open(log, "ab") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    server = Running(process, data_dir, port, log)
    try:
        until(lambda: len(server.worker_pids()) == workers or process.poll() is not None, "workers", server)
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{server.said()}"
        yield server
    finally:
        if process.poll() is None:
            children = server.children()
            process.kill()
            process.wait()
            until(lambda: not any(alive(pid) for pid in children), "children to end", server)


def until(condition: Callable[[], object], what: str, server: Running | None = None, seconds: float = 30) -> float:
    """Wait for a condition. Returns how long it took; fails with the server's log when it takes too long."""
    start = time.perf_counter()
    while not condition():
        if time.perf_counter() - start > seconds:
            said = server.said() if server else ""
            raise AssertionError(f"waited {seconds:.0f} s for {what}\n{said}")
        time.sleep(0.002)
    return time.perf_counter() - start


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def signal_quietly(pid: int, number: int) -> None:
    """Signal a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class Caller:
    """One HTTP/1.1 connection over a plain socket; connects anew after the peer has closed."""

    def __init__(self, port: int, *, timeout: float = 30) -> None:
        self.port = port
        self.timeout = timeout
        self._socket: socket.socket | None = None

    def ask(self, method: str, path: str, value: object = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and decoded JSON body. Raises ConnectionError when the connection breaks."""
        body = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        given = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        lines += [f"{name}: {text}" for name, text in given.items()]
        try:
            peer = self._connected()
            peer.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            return self._answer(peer)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        return self._socket

    def _answer(self, peer: socket.socket) -> tuple[int, dict[str, str], Any]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._received(peer)
        head, _, body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += self._received(peer)
        if headers.get("connection", "").lower() == "close":
            self.close()
        is_json = "json" in headers.get("content-type", "")
        return int(status.split()[1]), headers, json.loads(body) if is_json else body.decode()

    @staticmethod
    def _received(peer: socket.socket) -> bytes:
        data = peer.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the peer closed the connection before its answer was complete")
        return data


def ask_once(port: int, method: str, path: str, value: object = None) -> tuple[int, dict[str, str], Any]:
    """One request on a connection of its own."""
    caller = Caller(port)
    try:
        return caller.ask(method, path, value)
    finally:
        caller.close()


def make_store(folder: Path, **settings: Any) -> Config:
    """A store in `folder` with the personas and their insurers, made without a server."""
    from api.cli import init
    from api.cli.import_feeds import format_of
    from api.cli.insurers import register_file
    from api.cli.people import today_in_japan
    from api.cli.registrar import Feed, registrar

    config = Config(data_dir=folder / "data", key_file=folder / "master.key", **settings)
    init.create(config)
    personas = population.write_personas(folder, today_in_japan())
    with open(personas, encoding="utf-8", newline="") as file:
        numbers = {row["insurer_number"].zfill(8) for row in csv.DictReader(file)}
    population.write_insurers(folder / "insurers.ndjson", [each for each in insurers() if each.number in numbers])
    register_file(config, folder / "insurers.ndjson")
    with registrar(config) as way:
        way.import_feed(Feed(path=personas, format=format_of(personas), encoding="utf-8"), lambda done, total: None)
    return config


@contextmanager
def serving(config: Config, *options: str, workers: int = 2, port: int | None = None) -> Iterator[Running]:
    """A real server on a store, ready."""
    port = port or free_ports()
    command = [sys.executable, "-m", "api.cli.main", "serve", "--port", str(port), "--workers", str(workers)]
    command += ["--data", str(config.data_dir), "--key", str(config.key_file), *options]
    with running(command, config.data_dir, port, workers) as server:
        yield server


def remove_index(data_dir: Path, key_file: Path) -> None:
    """Delete the live index of a store from tmpfs."""
    from engine import keys
    from engine.index import default_directory
    from engine.store import StoreReader

    store = StoreReader(data_dir / "store", key_id=keys.load(key_file).key_id, map_bytes=1 << 38)
    shutil.rmtree(default_directory(store.store_id, data_dir), ignore_errors=True)
    store.close()
