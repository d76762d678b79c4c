"""Owns how the costs are counted that are the same on any machine: bytes, instructions, allocations, system calls.

Two runs of different length are counted and subtracted, so that the start of the interpreter falls out. valgrind
counts instructions (callgrind) and allocations (memcheck, with Python's own allocator off); strace counts calls.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import gate
from benchmarks.gate import Budget, GateError

COUNTS = {"instructions": (200, 1_200), "allocations": (100, 400), "calls": (200, 1_200)}
"""The two lengths of a run, in operations."""
MANY = (4_000, 104_000)
"""Of operations that do many at once."""
TIMEOUT = 600
CONNECTIONS = {"calls_check": (1, 1), "calls_check_pipelined": (1, 8)}
"""Budgets of system calls: connections, and requests sent at a time on each."""
KEYS = 1_000_000


def need_tools() -> None:
    """Install valgrind and strace by apt as root. Raises GateError that says what is missing, where that cannot be."""
    missing = [name for name in ("valgrind", "strace") if shutil.which(name) is None]
    if missing and os.getuid() == 0 and shutil.which("apt-get"):
        print(f"gate: installing {' '.join(missing)}", flush=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", "-qq", *command], env=quiet, capture_output=True, timeout=TIMEOUT)
        missing = [name for name in missing if shutil.which(name) is None]
    if missing:
        names = " and ".join(missing)
        raise GateError(f"the budgets need {names}: install {' '.join(missing)} (Debian: apt-get install ...)")


def measure(budget: Budget) -> float:
    """What one operation costs now."""
    if budget.measure == "bytes":
        return _bytes_per_key()
    if budget.measure == "calls":
        return _calls(*CONNECTIONS[budget.name])
    operation = budget.name.removeprefix(f"{budget.measure}_")
    few, more = MANY if operation == "find_many" else COUNTS[budget.measure]
    count = _instructions if budget.measure == "instructions" else _allocations
    # Both at a time where there are cores for it: what is counted does not depend on what else runs.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        first, second = pool.map(count, (operation, operation), (few, more))
    return (second - first) / (more - few)


def _bytes_per_key() -> float:
    from benchmarks.filled import Filled
    from ext import probe

    table = Filled(KEYS)
    try:
        table.fill()
        return probe.segment_bytes(table.lines) / KEYS
    finally:
        table.close()


# --- valgrind -------------------------------------------------------------------------------------------------------


def _instructions(operation: str, count: int) -> int:
    said = _under(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"], operation, count, {})
    return collected(said)


def _allocations(operation: str, count: int) -> int:
    tool = ["valgrind", "--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"]
    return allocated(_under(tool, operation, count, {"PYTHONMALLOC": "malloc"}))


def collected(said: str) -> int:
    """The instructions in callgrind's words. Raises GateError if there are none."""
    return _found(r"Collected : (\d+)", said)


def allocated(said: str) -> int:
    """The allocations in memcheck's words. Raises GateError if there are none."""
    return _found(r"total heap usage: ([\d,]+) allocs", said)


def _found(pattern: str, said: str) -> int:
    match = re.search(pattern, said)
    if match is None:
        lines = said.strip().splitlines() or ["it said nothing"]
        raise GateError(f"valgrind counted nothing: {lines[-1]}")
    return int(match[1].replace(",", ""))


def _under(tool: list[str], operation: str, count: int, settings: dict[str, str]) -> str:
    done = subprocess.run(
        [*tool, sys.executable, "-P", str(gate.PROBES), operation, "run", str(count)],
        cwd=gate.ROOT, env={**gate.environment(gate.ROOT), **settings}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if not line.startswith("==")] or ["it said nothing"]
        raise GateError(f"{operation} failed under {tool[1]}: {last[-1]}")
    return done.stderr


# --- strace ---------------------------------------------------------------------------------------------------------


def _calls(connections: int, depth: int) -> float:
    few, more = COUNTS["calls"]
    return (_calls_of(connections, depth, more) - _calls_of(connections, depth, few)) / (more - few)


def _calls_of(connections: int, depth: int, requests: int) -> int:
    """All system calls of a server with the express lane that answers so many requests."""
    from benchmarks.http_load import driver
    from benchmarks.peers import work

    with tempfile.TemporaryDirectory(prefix="shikaku-calls-") as folder:
        summary = Path(folder) / "calls"
        command = [sys.executable, "-m", "benchmarks.peers.servers", "lane", folder]
        server = subprocess.Popen(
            ["strace", "-f", "-c", "-o", str(summary), *command],
            cwd=gate.ROOT, env=gate.environment(gate.ROOT), stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            facts = json.loads(server.stdout.readline() or "{}")
            if not facts:
                raise GateError("the server did not start under strace")
            bodies = work.bodies()[:8]
            _ask(facts["port"], [driver.request(work.CHECK, body, facts["port"]) for body in bodies], depth, requests)
            os.kill(facts["pid"], signal.SIGKILL)  # strace then writes its summary, and ends
            server.wait(60)
        finally:
            with server:
                server.kill()
        return total_calls(summary.read_text())


def _ask(port: int, requests: list[bytes], depth: int, count: int) -> None:
    """Send so many requests, a few at a time, each few when the answers to those before have come."""
    with socket.create_connection(("127.0.0.1", port), 60) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = 0
        for start in range(0, count, depth):
            peer.sendall(b"".join(requests[(start + n) % len(requests)] for n in range(depth)))
            received = peer.recv(1 << 16)
            size = size or len(received) // depth
            while len(received) < size * depth:
                more = peer.recv(1 << 16)
                if not more:
                    raise GateError("the server closed a connection")
                received += more
            if len(received) != size * depth or received.count(b'"verdict":"VALID"') != depth:
                raise GateError("the server answered wrongly under strace")


def total_calls(summary: str) -> int:
    """All calls in strace's summary. Raises GateError if it has no total."""
    match = re.search(r"^100\.00 +\S+ +(?:\S+ +)?(\d+) +(?:\d+ +)?total$", summary, re.MULTILINE)
    if match is None:
        raise GateError("strace counted nothing: may processes be traced here?")
    return int(match[1])
