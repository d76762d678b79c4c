"""Runs the profile of a check worker under load: a flame graph, and where the time of one check goes.

    python -m benchmarks.profile --py-spy PROGRAM [--seconds N] [--docs yes|no]

A real server with one worker answers ordinary checks in the express lane, all compared. py-spy draws the flame graph
(Python and C, without the kernel) into var/profile/worker.svg; perf, if there is one, counts where the processor was,
the kernel included, for the table. While either looks, the worker is slower: the shares are theirs, the microseconds
are those of a turn without them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.http_load import driver
from benchmarks.http_load.driver import Driver, Sample, Turn
from benchmarks.peers import work
from benchmarks.peers.report import conditions, markdown
from tests.support import api, processes

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "var" / "profile"
PAGE = ROOT / "docs" / "PERFORMANCE.md"
MARKS = "<!-- profile -->\n", "<!-- end of profile -->\n"
TURN = 20_000
RATE = 997
"""Samples a second; no divisor of anything that a server does regularly."""
PARTS = {
    "kernel: sockets, epoll, scheduling": r"^\[(?:kernel|guest\.kernel)",
    "uvloop": r"^loop\.",
    "LMDB": r"^(?:cpython|_?lmdb|liblmdb)[\w.-]*\.so|lmdb",
    "ours, compiled": rf"^(?:{'|'.join(source.stem for source in (ROOT / 'ext').glob('*.pyx'))})\.",
    "Python interpreter and its objects": r"^(?:python|libpython)|^_(?:asyncio|struct|contextvars)",
    "aiohttp, msgspec, numpy": r"^(?:_http|_msgspec|_core|_helpers|_multiarray|multidict)|aiohttp|msgspec|numpy",
    "C library": r"^(?:libc|ld-linux|libpthread|libm)[.-]|^\[vdso\]",
}
"""What a piece of machine code belongs to, by the name of its file."""
OTHERS = "others"


def part_of(name: str) -> str:
    """To which part of the table a file of machine code belongs."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), OTHERS)


def shares(lines: list[str]) -> dict[str, float]:
    """The share of each part, from perf's lines `percent file`; all together are 1. Raises ValueError if empty."""
    found: Counter[str] = Counter()
    for line in lines:
        match = re.match(r"\s*([\d.]+)%\s+(\S+)", line)
        if match:
            found[part_of(match[2])] += float(match[1])  # type: ignore[assignment]
    total = sum(found.values())
    if not total:
        raise ValueError("perf saw nothing")
    return {part: value / total for part, value in found.most_common()}


@contextmanager
def worker() -> Iterator[tuple[Driver, int]]:
    """A load on a real server with one worker, and the worker's process id."""
    with tempfile.TemporaryDirectory(prefix="shikaku-profile-") as name:
        folder = Path(name)
        with api.engine(folder, work.rows()) as built:
            settings = built.settings
        try:
            with processes.serving(settings, workers=1) as server:
                (pid,) = server.worker_pids()
                os.sched_setaffinity(pid, driver.cores()[0])
                driver.write_samples(folder / "samples", _samples(server.port))
                with Driver(driver.build(FOLDER), folder / "samples", server.port, [pid]) as load:
                    load.turn(TURN)
                    yield load, pid
        finally:
            processes.remove_index(settings.data_dir, settings.key_file)


def _samples(port: int) -> list[Sample]:
    caller = processes.Caller(port)
    samples = []
    for body, number in zip(work.bodies(), work.numbers(), strict=True):
        found = caller.ask("POST", work.CHECK, body)[2]
        if found["verdict"] != "VALID" or found["qualification"]["number"] != number:
            raise SystemExit("profile: the server answers wrongly")
        samples.append(Sample(driver.request(work.CHECK, body, port), b""))
    caller.close()
    return [_with_body(sample, port) for sample in samples]


def _with_body(sample: Sample, port: int) -> Sample:
    """The sample with the bytes that the server answers."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(sample.request)
        received = peer.recv(1 << 16)
    return Sample(sample.request, received.partition(b"\r\n\r\n")[2])


def under_load(load: Driver, command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program while turns of requests go on."""
    done = threading.Event()
    errors: list[Exception] = []

    def turns() -> None:
        while not done.is_set():
            try:
                load.turn(TURN)
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=turns)
    thread.start()
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    finally:
        done.set()
        thread.join()
        if errors:
            raise errors[0]


def draw(load: Driver, pid: int, program: str, seconds: int) -> None:
    """The flame graph, and the same stacks as text."""
    for form, name in (("flamegraph", "worker.svg"), ("raw", "worker.stacks")):
        command = [program, "record", "--native", "--pid", str(pid), "--duration", str(seconds), "--rate", str(RATE)]
        done = under_load(load, [*command, "--format", form, "--output", str(FOLDER / name)], seconds)
        if done.returncode:
            raise SystemExit(f"profile: py-spy failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    print(f"profile: {FOLDER.relative_to(ROOT)}/worker.svg")


def table(load: Driver, pid: int, seconds: int) -> list[list[str]]:
    """Where the time of one check goes; empty if perf is not there or may not look."""
    perf = shutil.which("perf")
    if perf is None:
        print("profile: no table, because perf is not installed (Debian: linux-perf)")
        return []
    data = FOLDER / "perf.data"
    command = [perf, "record", "-q", "-e", "cpu-clock", "-F", str(RATE), "-p", str(pid), "-o", str(data)]
    done = under_load(load, [*command, "--", "sleep", str(seconds)], seconds)
    if done.returncode:
        print(f"profile: no table, because perf may not look: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return []
    said = subprocess.run(
        [perf, "report", "-i", str(data), "--stdio", "--sort", "dso", "--percent-limit", "0"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    data.unlink()
    turns = sorted((load.turn(TURN) for _ in range(9)), key=lambda turn: turn.cpu_us)
    return rows(shares(said.stdout.splitlines()), turns[len(turns) // 2])


def rows(found: dict[str, float], turn: Turn) -> list[list[str]]:
    """The table's lines: what, share, microseconds."""
    lines = [["one check, by where the processor was", "share", "us"]]
    lines += [[part, f"{share:.0%}", f"{share * turn.cpu_us:.1f}"] for part, share in found.items()]
    return [*lines, ["all", "100%", f"{turn.cpu_us:.1f}"]]


def place(text: str, made: str) -> str:
    """A page with this between its marks. Raises ValueError if they are not there."""
    before, found, rest = text.partition(MARKS[0])
    _, closed, after = rest.partition(MARKS[1])
    if not found or not closed:
        raise ValueError("the page has no marks for the profile")
    return f"{before}{MARKS[0]}\n{made}\n{MARKS[1]}{after}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="profile", description="a flame graph of a worker under load")
    parser.add_argument("--py-spy", required=True)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--docs", choices=("yes", "no"), default="yes")
    chosen = parser.parse_args(arguments)
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, driver.cores()[1])
    with worker() as (load, pid):
        draw(load, pid, chosen.py_spy, chosen.seconds)
        lines = table(load, pid, chosen.seconds)
    if lines:
        made = f"{conditions('make profile', 9)}.\n\n{markdown(lines, set())}\n"
        (FOLDER / "table.md").write_text(made, "utf-8")
        print("\n" + markdown(lines, set()))
        if chosen.docs == "yes":
            PAGE.write_text(place(PAGE.read_text("utf-8"), made), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
