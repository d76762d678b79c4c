"""Owns the run at the size of a country: generate, load, rebuild, serve and ask, with a table of figures at the end.

    make national PEOPLE=125000000 FOLDER=a-folder-with-room

Feeds are generated a batch at a time and deleted when they are durable, so that the disk need not hold them beside the
store; nothing is loaded while a batch is generated, and the time of the one does not count for the other. Every answer
is compared with the verdict that the population's own rules give; a wrong one fails the run (exit code 1), and so does
a bound that is missed (3), of which there is a line at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

from api.cli.init import create
from api.cli.insurers import register_file
from api.cli.people import today_in_japan
from benchmarks import national_serving as serving
from engine import keys
from engine.config import Config
from engine.errors import ShikakuError
from engine.ingest.load import Load, Loaded
from engine.ingest.registry import Registry
from engine.recovery import index_directory
from engine.store import StoreReader
from loadtest.population.feed import write_insurers
from loadtest.population.nation import TOWN_PEOPLE, Nation

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32
"""Parts that are generated together."""
PEOPLE_MIN = 1_000
BYTES_A_ROW = 425
"""Of the store, by experience: what the disk must have room for."""
SEED = 20261123
SHOWN_SECONDS = 15.0
LOAD_SECONDS_MAX = 1_800
"""For 125 million people; so are all bounds, and fewer people have to meet them, too."""
REBUILD_SECONDS_MAX = 120
BYTES_A_KEY_MAX = 23.0
INDEX_HEAD_BYTES = 12_288 + 64 * 2
"""What an index has beside its lines, and lines that are there to make their number odd."""

_nation: Nation | None = None


def write_part(asked: tuple[int, Path]) -> None:
    """Write one part of the nation that this process was forked with."""
    assert _nation is not None
    _nation.write_part(*asked)


class Figures:
    """What was measured, in order; written to a file after each figure, so that a run that is cut off leaves them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, Any] = {}
        self.missed: list[str] = []
        """A line for each bound that was not met."""

    def add(
        self, name: str, value: float | int | str, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Keep, judge and print one figure."""
        self.found[name] = value
        bound = f"<= {at_most:,}" if at_most is not None else f">= {at_least:,}" if at_least is not None else ""
        line = f"{name}: {shown(value)}" + (f"   (bound: {bound})" if bound else "")
        # Written so that what is no number misses, too.
        met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)  # type: ignore[operator]
        if not met:
            self.missed.append(line)
        say(line + ("" if met else "   MISSED"))
        self._path.write_text(json.dumps(self.found, indent=2, ensure_ascii=False) + "\n", "utf-8")


def shown(value: float | int | str) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def say(text: str) -> None:
    """One line, with the time since the start."""
    print(f"[{time.monotonic() - STARTED:8.1f} s] {text}", flush=True)


STARTED = time.monotonic()


@contextmanager
def timed(figures: Figures, name: str, at_most: float | None = None) -> Iterator[None]:
    began = time.monotonic()
    yield
    figures.add(name, time.monotonic() - began, at_most=at_most)


class Source:
    """The feeds, a batch at a time. Iterating waits until what it gave before is durable, and deletes it."""

    def __init__(self, nation: Nation, folder: Path, pool: Any) -> None:
        self.seconds = 0.0
        self._nation, self._folder, self._pool = nation, folder, pool
        self._waiting: set[Path] = set()

    def durable(self, path: Path) -> None:
        """A feed is in the store."""
        path.unlink()
        self._waiting.discard(path)

    def first_bytes(self) -> int:
        """How large the first part is; it is generated again with its batch."""
        path = self._folder / "first.csv"
        self._nation.write_part(0, path)
        size = path.stat().st_size
        path.unlink()
        return size

    def __iter__(self) -> Iterator[Path]:
        for start in range(0, self._nation.parts, BATCH):
            while self._waiting:
                time.sleep(0.01)
            began = time.monotonic()
            parts = range(start, min(start + BATCH, self._nation.parts))
            asked = [(part, self._folder / f"part-{part:05}.csv") for part in parts]
            self._pool.map(write_part, asked, chunksize=1)
            self.seconds += time.monotonic() - began
            self._waiting = {path for _, path in asked}
            yield from [path for _, path in asked]


class Shown:
    """Says how far the load is: people, rate, time left. Time in which feeds were generated does not count."""

    def __init__(self, nation: Nation, source: Source) -> None:
        self._nation, self._source = nation, source
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int, rows: int) -> None:
        now = time.monotonic()
        if now - self._last < SHOWN_SECONDS:
            return
        self._last = now
        rate = rows / max(now - self._began - self._source.seconds, 1e-3)
        people = rows * self._nation.people // self._nation.rows
        left = (self._nation.rows - rows) / max(rate, 1)
        say(
            f"{people:,} of {self._nation.people:,} people, {rate:,.0f} rows/s, {left:,.0f} s of loading left; "
            f"generating took {self._source.seconds:,.0f} s until now"
        )


def prepared(folder: Path, nation: Nation) -> Config:
    """An empty store with the insurers."""
    config = Config(data_dir=folder / "data", key_file=folder / "master.key")
    create(config)
    write_insurers(folder / "insurers.ndjson")
    register_file(config, folder / "insurers.ndjson")
    return config


def loaded(config: Config, nation: Nation, source: Source, figures: Figures, save: bool) -> Loaded:
    total = source.first_bytes() * nation.parts
    began = time.monotonic()
    progress = Shown(nation, source)
    cpu_before = cpu_seconds()
    with Load(config, keys.load(config.key_file), total_bytes=total, progress=progress, save_index=save) as load:
        made = load.run(source, durable=source.durable)
    seconds = time.monotonic() - began - source.seconds
    figures.add("generating the feeds, s", source.seconds)
    figures.add("load, s", seconds, at_most=LOAD_SECONDS_MAX)
    figures.add("load, rows/s", int(made.rows / seconds))
    cpu = cpu_seconds() - cpu_before
    figures.add("load, processor time of all its processes, s", cpu)
    figures.add("load, rows/s of two cores by processor time", int(2 * made.rows / cpu))
    figures.add("share of the two cores that the load had, %", 100 * cpu / (2 * seconds))
    figures.add("people", nation.people)
    figures.add("rows", made.rows)
    figures.add("qualifications", made.new)
    figures.add("rows applied one by one by the writer", made.one_by_one)
    figures.add("keys", made.keys)
    figures.add("index, bytes", made.index_bytes)
    figures.add("index, bytes a key", made.index_bytes / made.keys, at_most=bytes_a_key_max(made.keys))
    figures.add("store, bytes", (config.store_dir / "data.mdb").stat().st_size)
    figures.add("store, bytes a row", (config.store_dir / "data.mdb").stat().st_size / made.rows)
    figures.add("feeds, bytes", total)
    for name, spent in made.seconds.items():
        figures.add(f"writer: {name}, s", spent)
    figures.add("filling the index while loading, M keys/s", made.keys / made.seconds["filling the index"] / 1e6)
    assert made.rows == nation.rows
    return made


def bytes_a_key_max(keys: int) -> float:
    """The head of an index is nothing to a country, and something to a village."""
    return BYTES_A_KEY_MAX + INDEX_HEAD_BYTES / keys


def cpu_seconds() -> float:
    """Of this process and of its children that have ended: those that generate feeds have not."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def rebuilt(config: Config, figures: Figures, keys_expected: int) -> None:
    """The index is lost as by a reboot, then with what is saved of it; and filling a table alone is timed."""
    secrets = keys.load(config.key_file)
    store = StoreReader(config.store_dir, key_id=secrets.key_id, map_bytes=config.map_bytes)
    directory, seq = index_directory(config, store.store_id), store.committed_seq
    store.close()
    shutil.rmtree(directory)
    if config.snapshot_file.exists():
        with timed(figures, "index from its saved copy, as after a reboot, s"):
            registry = Registry.open(config, secrets)
        leave(registry)
        shutil.rmtree(directory)
        config.snapshot_file.unlink()
    with timed(figures, "rebuild of the index from the store, s", REBUILD_SECONDS_MAX):
        registry = Registry.open(config, secrets)
    try:
        figures.add("index after the rebuild, bytes a key", registry.index.segment_bytes / registry.index.count)
        assert (registry.index.count, registry.index.data_version) == (keys_expected, seq)
        serving.measure_build(registry.store, registry.index, figures)
    finally:
        leave(registry)


def leave(registry: Registry) -> None:
    """Close without saving the index: a disk that holds a country twice is not asked for."""
    registry.index.close()
    registry.store.close()


def run(people: int, folder: Path, ask: int, *, keep: bool, keep_caches: bool) -> int:
    global _nation
    if (folder / "data").exists():
        say(f"{folder / 'data'} is there already: remove it, or give another folder with FOLDER=")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    figures = Figures(folder / "national.json")
    today = date.fromisoformat(today_in_japan().isoformat())
    town = min(TOWN_PEOPLE, people // 4)
    say(f"drawing a town of {town:,} people, of which a country of {people:,} is made")
    with timed(figures, "drawing the town, s"):
        nation = _nation = Nation(people, SEED, today, town)
    needed = nation.rows * BYTES_A_ROW + min(BATCH, nation.parts) * nation.town_rows * 310
    free = shutil.disk_usage(folder).free
    if needed > free:
        say(f"{folder} has {free / 1e9:,.0f} GB free and {needed / 1e9:,.0f} are needed: give another with FOLDER=")
        return 2
    # Ctrl-C is for this process: the others end with it.
    ignoring = (signal.SIGINT, signal.SIG_IGN)
    try:
        with multiprocessing.get_context("fork").Pool(2, signal.signal, ignoring) as pool:
            config = prepared(folder, nation)
            source = Source(nation, folder, pool)
            save = free - needed > nation.rows * 60
            made = loaded(config, nation, source, figures, save)
        rebuilt(config, figures, made.keys)
        wrong = serving.measure(config, nation, ask, figures, keep_caches=keep_caches)
    finally:
        if not keep:
            remove(folder)
    print_table(figures)
    return verdict(wrong, figures)


def verdict(wrong: int, figures: Figures) -> int:
    """The exit code: 1 for a wrong answer, 3 for a bound that was missed."""
    return 1 if wrong else 3 if figures.missed else 0


def remove(folder: Path) -> None:
    """Whatever takes room, however far the run has come."""
    config = Config(data_dir=folder / "data", key_file=folder / "master.key")
    with suppress(ShikakuError):
        store = StoreReader(config.store_dir, key_id=keys.load(config.key_file).key_id, map_bytes=config.map_bytes)
        shutil.rmtree(index_directory(config, store.store_id), ignore_errors=True)
        store.close()
    shutil.rmtree(config.data_dir, ignore_errors=True)
    for left in (folder / "first.csv", *folder.glob("part-*.csv")):
        left.unlink(missing_ok=True)


def number_of_people(text: str) -> int:
    """Fewer would have too few keys for the figures."""
    if int(text) < PEOPLE_MIN:
        raise argparse.ArgumentTypeError(f"at least {PEOPLE_MIN:,}")
    return int(text)


def print_table(figures: Figures) -> None:
    """The figures as Markdown, with commit and machine."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")
    figures.add("commit", commit.strip())
    figures.add("machine", f"{os.cpu_count()} x {model}")
    print("\n| what | figure |\n|---|---|")
    for name, value in figures.found.items():
        print(f"| {name} | {shown(value)} |")
    print()
    for line in figures.missed:
        print(f"missed: {line}")
    print(f"bounds missed: {len(figures.missed)}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=number_of_people, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "national")
    parser.add_argument("--ask", type=int, default=2_000, help="inquiries over HTTP")
    parser.add_argument("--keep", action="store_true", help="leave store and index in place")
    parser.add_argument("--keep-caches", action="store_true", help="do not empty the disk cache, even if allowed to")
    given = parser.parse_args(arguments)
    try:
        return run(given.people, given.folder, given.ask, keep=given.keep, keep_caches=given.keep_caches)
    except KeyboardInterrupt:
        say("interrupted" + ("" if given.keep else ": nothing is left of it"))
        return 130


if __name__ == "__main__":
    sys.exit(main())
