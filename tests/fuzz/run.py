"""Owns a run of the fuzzers: builds ext with sanitizers and coverage, drives the targets one by one, says what came.

    make fuzz EXECUTIONS=10000000 TARGETS="lane ordinary"
    make fuzz REPRODUCE=var/fuzz/crashes/lane-crash-...

Everything is kept under var/fuzz: the build, inputs that found new paths (a later run begins with them), logs, and what
a target failed on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.target import NAMES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var" / "fuzz"
TREE, CORPUS, CRASHES, LOGS = (FOLDER / name for name in ("tree", "corpus", "crashes", "logs"))
BUILD_SECONDS = 1_200
INPUT_SECONDS = 20
RSS_MB = 4_096
LINES_SHOWN = 25
EVERY = {"lane": 16, "ordinary": 16, "record": 16, "many": 16, "connection": 8, "pages": 8, "outline": 16, "sheet": 8}
"""Every how many inputs the Python form gets one too: it takes many times as long."""
BYTES_MAX = {"lane": 6_000, "ordinary": 1_024, "record": 1_500, "many": 4_096, "connection": 8_192, "pages": 403}
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    # Each object is a block of its own: what is read behind the end of one is seen.
    "PYTHONMALLOC": "malloc",
}


class FuzzError(Exception):
    """The fuzzers cannot be run; one line says why."""


def need_clang() -> None:
    """Install clang by apt as root. Raises FuzzError that says what is missing, where that cannot be."""
    if shutil.which("clang") is None and os.getuid() == 0 and shutil.which("apt-get"):
        print("fuzz: installing clang", flush=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "clang"]):
            subprocess.run(["apt-get", "-qq", *command], env=quiet, capture_output=True, timeout=BUILD_SECONDS)
    if shutil.which("clang") is None:
        raise FuzzError("fuzzing needs clang: install clang (Debian: apt-get install clang)")


def build() -> None:
    """Build ext as it is now, in a tree of its own; compiled anew if anything that is compiled changed."""
    sources = [ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / "README.md"]
    sources += [path for path in sorted((ROOT / "ext").iterdir()) if path.is_file() and path.suffix != ".so"]
    digest, stamp = digest_of(sources), TREE / "built"
    done_before = stamp.exists() and stamp.read_text() == digest
    if not done_before:
        shutil.rmtree(TREE, ignore_errors=True)
        (TREE / "ext").mkdir(parents=True)
    for path in sources:
        shutil.copy(path, TREE / path.relative_to(ROOT))
    if done_before:
        return
    print("fuzz: building the extension", flush=True)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=TREE, env={**os.environ, "SHIKAKU_BUILD": "fuzz"}, capture_output=True, text=True, timeout=BUILD_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise FuzzError(f"the extension cannot be built: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    stamp.write_text(digest)


def digest_of(sources: Sequence[Path]) -> str:
    """Of what is compiled, and how."""
    whole = hashlib.sha256()
    for path in sources:
        if path.suffix in {".pyx", ".pxd", ".h"} or path.name == "setup.py":
            whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


def environment() -> dict[str, str]:
    """Of a process that drives a target: the sanitizers first, the instrumented modules before any others."""
    found = importlib.util.find_spec("atheris")
    if found is None or found.origin is None:
        raise FuzzError("atheris is missing: run `make fuzz`")
    library = Path(found.origin).parents[1] / "asan_with_fuzzer.so"
    settings = {"LD_PRELOAD": str(library), "PYTHONPATH": f"{TREE}:{ROOT}", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **SANITIZERS, **settings, "SHIKAKU_EXT": "compiled", "PYTHONDONTWRITEBYTECODE": "1"}


def command(name: str, every: int, options: Sequence[str]) -> list[str]:
    corpus = folders(name)
    return [sys.executable, "-P", "-m", "tests.fuzz.one", name, str(TREE), str(corpus), str(every), *options]


def folders(name: str) -> Path:
    """Makes the folders of a target; the one of its inputs."""
    corpus = CORPUS / name
    for place in (corpus / "seeds", corpus / "found", CRASHES, LOGS):
        place.mkdir(parents=True, exist_ok=True)
    return corpus


def fuzz(name: str, executions: int, seed: int) -> bool:
    """Drive one target so many times, and print a line. Returns whether nothing was found."""
    options = [f"-runs={executions}", f"-seed={seed}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={RSS_MB}"]
    options += [f"-artifact_prefix={CRASHES / name}-", f"-max_len={BYTES_MAX.get(name, 2_048)}", "-print_final_stats=1"]
    places = [str(folders(name) / part) for part in ("found", "seeds")]
    log, start = LOGS / f"{name}.log", time.monotonic()
    with log.open("wb") as written:
        done = subprocess.run(
            command(name, EVERY[name], [*options, *places]),
            env=environment(),
            cwd=FOLDER,
            stdout=written,
            stderr=written,
        )
    seconds, text = time.monotonic() - start, log.read_text("utf-8", "replace")
    count = re.search(r"stat::number_of_executed_units: *(\d+)", text)
    covered = re.findall(r" cov: (\d+) ft: (\d+) ", text)
    if done.returncode == 0 and count and covered and int(count[1]) >= executions and "8-bit counters" in text:
        print(
            f"  {name:12} {int(count[1]):12,} executions  {int(count[1]) / seconds:8,.0f}/s  "
            f"{covered[-1][0]} edges  clean",
            flush=True,
        )
        return True
    print(f"  {name:12} FAILS (exit code {done.returncode}); all of it is in {log.relative_to(ROOT)}:", flush=True)
    print("\n".join(f"    {line[:200]}" for line in said(text)))
    for path in re.findall(r"Test unit written to (\S+)", text):
        print(f"    again by: make fuzz REPRODUCE={os.path.relpath(path, ROOT)}", flush=True)
    return False


def said(text: str) -> list[str]:
    """What a log says of a failure: from where that is told on, or its end."""
    lines = text.splitlines()
    signs = ("=== Uncaught Python exception", "runtime error:", "ERROR: AddressSanitizer", "ERROR: libFuzzer")
    first = next((at for at, line in enumerate(lines) if any(sign in line for sign in signs)), len(lines) - LINES_SHOWN)
    return lines[max(first, 0) :][:LINES_SHOWN]


def reproduce(path: Path) -> bool:
    """Give a kept input to its target once more, both forms. Returns whether it passes now."""
    name = path.name.partition("-")[0]
    if name not in NAMES or not path.exists():
        raise FuzzError(f"{path.name} is no kept input; they are named TARGET-..., under {CRASHES.relative_to(ROOT)}")
    done = subprocess.run(command(name, 1, [str(path.resolve())]), env=environment(), cwd=FOLDER)
    return done.returncode == 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="coverage-guided fuzzing of ext under sanitizers")
    parser.add_argument("--executions", type=int, default=200_000, help="of each target")
    parser.add_argument("--targets", nargs="*", default=[], help=f"of: {', '.join(NAMES)}")
    parser.add_argument("--seed", type=int, default=20261123, help="of libFuzzer's mutations")
    parser.add_argument("--reproduce", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if unknown := set(chosen.targets) - set(NAMES):
            raise FuzzError(f"{min(unknown)} is no target; known: {', '.join(NAMES)}")
        if chosen.executions < 1:
            raise FuzzError("EXECUTIONS must be at least 1")
        need_clang()
        build()
        if chosen.reproduce:
            fine = reproduce(chosen.reproduce)
        else:
            print(
                f"fuzz: {chosen.executions:,} executions a target, address and undefined-behaviour sanitizers",
                flush=True,
            )
            fine = all([fuzz(name, chosen.executions, chosen.seed) for name in chosen.targets or NAMES])
    except FuzzError as error:
        print(f"fuzz: {error}", file=sys.stderr)
        return 2
    print("fuzz: clean" if fine else "fuzz: FAILS")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
