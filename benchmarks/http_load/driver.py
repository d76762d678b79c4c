"""Owns how a server is put under load and what is read off it: the CPU time that its processes took for each request.

The load itself is load.c, built when it is first wanted. A Driver holds its connections open, so that several servers
can be asked in turns without connecting anew.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

SOURCE = Path(__file__).with_name("load.c")
OPEN_SOURCE = Path(__file__).with_name("open.c")
HANDSHAKES_SOURCE = Path(__file__).with_name("handshakes.c")


class LoadError(Exception):
    """A server gave a wrong answer or none, or the load could not be made."""


class Sample(NamedTuple):
    """A request and the body that must come back."""

    request: bytes
    body: bytes


class Turn(NamedTuple):
    """What one turn took."""

    requests: int
    seconds: float
    cpu_us: float
    """CPU time of the server for each request."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def busy(self) -> float:
        """The share of a core that the server used."""
        return self.cpu_us * self.requests / self.seconds / 1e6


def cores() -> tuple[set[int], set[int]]:
    """Where servers run, and where the load does; the same if there is only one."""
    all_cores = sorted(os.sched_getaffinity(0))
    return {all_cores[0]}, {all_cores[-1]}


def build(folder: Path, *, tls: bool = False, source: Path = SOURCE) -> Path:
    """Compile the load into a folder, if it is not there. Raises LoadError if that cannot be done."""
    program = folder / (f"{source.stem}-tls" if tls else source.stem)
    written = max(file.stat().st_mtime for file in source.parent.glob("*.[ch]"))
    if program.exists() and program.stat().st_mtime > written:
        return program
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise LoadError("needs a C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-DWITH_TLS", "-lssl", "-lcrypto"] if tls else []
    command = [compiler, "-O2", "-o", str(program), str(source), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise LoadError("needs OpenSSL's headers (Debian: libssl-dev)" if tls else done.stderr.strip().splitlines()[0])
    return program


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """The file that the load reads."""
    parts = [struct.pack("<I", len(samples))]
    for sample in samples:
        parts += [struct.pack("<II", len(sample.request), len(sample.body)), sample.request, sample.body]
    path.write_bytes(b"".join(parts))


def request(path: str, body: bytes, port: int) -> bytes:
    """A POST as a clinic's system would send it; a GET if there is no body."""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Driver:
    """Connections to one server, over which turns of requests are sent; all answers are compared.

    Args: depth: how many requests a connection sends before it reads.
    """

    def __init__(
        self, program: Path, samples: Path, port: int, pids: Iterable[int], *, connections: int = 16, depth: int = 1,
        tls: bool = False,
    ) -> None:  # fmt: skip
        self._pids = list(pids)
        command = [str(program), str(port), str(connections), str(depth), str(samples), *(["tls"] if tls else [])]
        self._load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.sched_setaffinity(self._load.pid, cores()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def turn(self, requests: int) -> Turn:
        """Send so many requests and wait for their answers. Raises LoadError if one was wrong."""
        assert self._load.stdin is not None and self._load.stdout is not None and self._load.stderr is not None
        before = cpu_ns(self._pids)
        try:
            self._load.stdin.write(f"{requests}\n".encode())
            self._load.stdin.flush()
        except BrokenPipeError:
            raise LoadError(self._load.stderr.read().decode().strip()) from None
        line = self._load.stdout.readline()
        if not line:
            raise LoadError(self._load.stderr.read().decode().strip())
        used = cpu_ns(self._pids) - before
        count, elapsed_ns = map(int, line.split())
        return Turn(count, elapsed_ns / 1e9, used / count / 1000)

    def close(self) -> None:
        """Close the connections."""
        self._load.kill()
        self._load.communicate()


class Latencies(NamedTuple):
    """Of requests that were sent at instants fixed in advance, from those instants, in milliseconds."""

    requests: int
    late: int
    """How many were sent more than a millisecond late; if they are many, it is the load that was slow."""
    p50: float
    p99: float
    p999: float
    most: float


class Certificate(NamedTuple):
    """What a client shows of itself: files in PEM."""

    chain: Path
    key: Path


def open_loop(
    program: Path, samples: Path, port: int, *, rate: int, seconds: float, connections: int = 64, tls: bool = False,
    certificate: Certificate | None = None, begun: Callable[[], object] = lambda: None,
) -> Latencies:  # fmt: skip
    """Send requests at a rate, whatever becomes of them. Raises LoadError if an answer was wrong.

    Args:
        program: `build(source=OPEN_SOURCE)`, with `tls=True` for TLS.
        begun: called when all connections are there and the first request is sent.
    """
    command = [str(program), str(port), str(connections), str(rate), str(seconds), str(samples)]
    command += ["tls"] if tls else []
    count, late, *latencies = _numbers([*command, *_shown(certificate)], 10 * seconds + 60, begun)
    return Latencies(int(count), int(late), *(one / 1000 for one in latencies))


class Handshakes(NamedTuple):
    """New connections, each with one request; times from the call of connect to the whole answer, in milliseconds."""

    count: int
    seconds: float
    resumed: int
    p50: float
    p99: float
    most: float

    @property
    def rate(self) -> float:
        """Connections a second."""
        return self.count / self.seconds


def handshakes(
    program: Path, samples: Path, port: int, *, count: int, at_once: int, resumed: bool = False,
    certificate: Certificate | None = None,
) -> Handshakes:  # fmt: skip
    """Connect so often, with or without the server's newest ticket. Raises LoadError if anything went wrong.

    Args:
        program: `build(source=HANDSHAKES_SOURCE, tls=True)`.
        at_once: how many are under way at the same time.
    """
    command = [str(program), str(port), str(count), str(at_once), str(samples), "resumed" if resumed else "full"]
    made, ns, with_ticket, *latencies = _numbers([*command, *_shown(certificate)], 60 + count / 10)
    return Handshakes(int(made), ns / 1e9, int(with_ticket), *(one / 1000 for one in latencies))


def _shown(certificate: Certificate | None) -> list[str]:
    return [] if certificate is None else [str(certificate.chain), str(certificate.key)]


def _numbers(command: list[str], seconds: float, begun: Callable[[], object] | None = None) -> list[float]:
    """What a load prints, on the load's core; `begun` is called at its first line if it prints two."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores()[1]),
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            if begun is not None and process.stdout.readline():
                begun()
            said, complaint = process.communicate(timeout=seconds)
        finally:
            process.kill()
    if process.returncode:
        raise LoadError(complaint.strip())
    return [float(one) for one in said.split()]


def cpu_ns(pids: Iterable[int]) -> int:
    """User and system time of these processes and everything below them, in nanoseconds.

    Read from schedstat, which counts what /proc/PID/stat has as utime and stime, but not in ticks of 10 ms.
    """
    total = 0
    for pid in family(pids):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def family(pids: Iterable[int]) -> list[int]:
    """These processes and all their descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # After the name, which may hold anything: state, parent.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], list(pids)
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found
