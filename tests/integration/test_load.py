"""Does a bulk load register what an import of the same files does, refuse the same rows, and leave readers in peace?"""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from engine.config import Config
from engine.errors import (
    FeedHeaderError,
    FeedRowsError,
    InputError,
    InsurerUnknownError,
    StoreFullError,
    StoreLockedError,
    StorePoisonedError,
)
from engine.index import IndexReader
from engine.ingest.load import Load, Loaded
from engine.recovery import index_directory
from engine.store import StoreReader
from loadtest.population import insurers as sample_insurers
from loadtest.population.nation import Nation
from tests.support import registries
from tests.support.registries import KEYS, csv_line, write_csv

ROWS_A_FILE = 60
FILES = 3
SETS = 8


def load(config: Config, files: list[Path], piece_rows: int = 100_000) -> Loaded:
    """Load files in their order."""
    total = sum(path.stat().st_size for path in files)
    with Load(config, KEYS, total_bytes=total, progress=None) as made:
        return made.run(files, piece_rows=piece_rows, as_of=39_000)


@dataclass
class Outcome:
    """What a file came to: an error with its rows, or how many rows did what."""

    error: str | None
    rows: list[tuple[int, str, str, str]]


def imported(config: Config, files: list[Path]) -> list[Outcome]:
    """Import files one by one, up to the first that is refused."""
    found = []
    with registries.opened(config) as registry:
        for path in files:
            try:
                registry.import_feed(path, as_of=39_000, format="csv" if path.suffix == ".csv" else "ndjson")
            except InputError as error:
                found.append(refusal(error))
                break
            found.append(Outcome(None, []))
    return found


def refusal(error: InputError) -> Outcome:
    report = error.report if isinstance(error, FeedRowsError) else None
    errors = report.errors if report is not None else []  # type: ignore[attr-defined]
    return Outcome(error.code, sorted((each.row, each.column, each.code, each.kind) for each in errors))


def contents(config: Config) -> list[list[bytes]]:
    """Everybody's versions, oldest first, whatever their numbers."""
    store = StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    try:
        encode = msgspec.msgpack.encode
        histories = [[encode(each) for _, _, each in store.history(n)] for n in range(1, store.next_person)]
        return sorted(each for each in histories if each)
    finally:
        store.close()


def feeds(config: Config) -> list[tuple[object, ...]]:
    """What is kept of each feed, but when it came."""
    store = StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    try:
        return [
            (each.feed, each.digest, each.rows, each.new, each.changed, each.lost, each.cancelled, each.last_seq)
            for each in store.feeds()
        ]
    finally:
        store.close()


def make(folder: Path, name: str) -> Config:
    config = registries.settings(folder / name)
    registries.init(config)
    return config


def assert_alike(one: Config, other: Config) -> None:
    assert contents(one) == contents(other)
    assert feeds(one) == feeds(other)
    registries.assert_sound(one)
    registries.assert_sound(other)


# --- random files whose rows are about each other, within and across files ------------------------------------------


def random_line(chance: Random) -> str:
    op = chance.choices(["new", "lose", "cancel", "change"], [12, 3, 1, 2])[0]
    gained = chance.choice(["2018-04-01", "2019-05-01", "2020-06-01", "2021-07-01"])
    lost = chance.choice(["2022-01-01", "2023-02-01"]) if op == "lose" or chance.random() < 0.3 else ""
    return csv_line(
        chance.randrange(1, 40),
        op,
        insurer=chance.choice(registries.INSURERS[:2]),
        branch=chance.choice(["00", "01", "02"]),
        birth=chance.choice(["1990-01-02", "1990-01-02", "2001-03-04"]),
        link=chance.choice(["", "", f"L{chance.randrange(30)}"]),
        kana=chance.choice(["ヤマダ タロウ", "ヤマダ ハナコ"]),
        gained=gained,
        lost=lost,
        reason="03" if lost else "",
        serial=chance.choice(["", "", f"{chance.randrange(1, 30):X}A"]),
    )


def random_files(folder: Path, chance: Random) -> list[Path]:
    folder.mkdir(parents=True)
    return [write_csv(folder / f"{n}.csv", [random_line(chance) for _ in range(ROWS_A_FILE)]) for n in range(FILES)]


def acceptable(folder: Path, files: list[Path]) -> list[Path]:
    """The same files without the rows that an import would refuse."""
    for turn in range(200):
        config = make(folder, f"try-{turn}")
        *_, last = outcomes = imported(config, files)
        if last.error is None:
            return files
        path = files[len(outcomes) - 1]
        header, *lines = path.read_text("utf-8").splitlines()
        wrong = {number for number, *_ in last.rows}
        write_csv(path, [line for number, line in enumerate(lines, 1) if number not in wrong])
        assert header == registries.CSV_COLUMNS
    raise AssertionError("the files do not become acceptable")


@pytest.mark.parametrize("piece_rows", [100_000, 10])
def test_a_load_registers_what_an_import_does(tmp_path: Path, piece_rows: int) -> None:
    """Cards, certificates and link codes occur again and again, in one file and in several."""
    one_by_one = 0
    for seed in range(SETS // 4 if piece_rows < 100 else SETS):
        folder = tmp_path / str(seed)
        files = acceptable(folder, random_files(folder / "feeds", Random(seed)))
        before, after = make(folder, "imported"), make(folder, "loaded")
        assert all(each.error is None for each in imported(before, files))
        one_by_one += load(after, files, piece_rows).one_by_one
        assert_alike(before, after)
    assert one_by_one > 0, "no row concerned anybody of another piece: nothing was tested"


def test_a_load_refuses_what_an_import_refuses(tmp_path: Path) -> None:
    refused = 0
    for seed in range(SETS):
        folder = tmp_path / str(seed)
        files = random_files(folder / "feeds", Random(1_000 + seed))
        before, after = make(folder, "imported"), make(folder, "loaded")
        *_, last = imported(before, files)
        if last.error is None:
            load(after, files)
        else:
            with pytest.raises(InputError) as raised:
                load(after, files)
            assert refusal(raised.value) == last
            refused += 1
        assert_alike(before, after)
    assert refused > SETS // 2


def test_a_load_beside_people_who_are_registered(tmp_path: Path) -> None:
    """The first file was imported in the ordinary way; the load meets its people again."""
    files = acceptable(tmp_path, random_files(tmp_path / "feeds", Random(77)))
    before, after = make(tmp_path, "imported"), make(tmp_path, "loaded")
    imported(before, files)
    imported(after, files[:1])
    assert load(after, files[1:]).one_by_one > 0
    assert_alike(before, after)


def test_a_birth_date_that_is_corrected_entangles_a_piece(tmp_path: Path) -> None:
    """All registrations of somebody are withdrawn, and the card is registered anew with another birth date."""
    lines = [
        csv_line(1, link="L1"),
        csv_line(1, "cancel", link="L1"),
        csv_line(2, link="L1", birth="1990-01-03"),
        csv_line(1, birth="1990-01-03", branch="02", kana="ヤマダ ハナコ"),
        csv_line(3),
    ]
    files = [write_csv(tmp_path / "feed.csv", lines)]
    before, after = make(tmp_path, "imported"), make(tmp_path, "loaded")
    assert imported(before, files)[0].error is None
    load(after, files)
    assert_alike(before, after)


def test_rows_of_another_form_are_read_the_same(tmp_path: Path) -> None:
    ndjson = tmp_path / "feed.ndjson"
    ndjson.write_text(
        '{"op": "new", "insurer_number": "01130012", "symbol": "12", "number": "7", "branch": "01",'
        ' "birth_date": "1990-01-02", "name": "山田", "name_kana": "ヤマダ", "sex": "1", "relation": "1",'
        ' "gained_on": "2020-04-01"}\n',
        "utf-8",
    )
    files = [write_csv(tmp_path / "a.csv", [csv_line(1), ""]), ndjson]
    before, after = make(tmp_path, "imported"), make(tmp_path, "loaded")
    imported(before, files)
    load(after, files)
    assert_alike(before, after)


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    nation = Nation(3_000, 7, date(2026, 11, 23), town_people=1_000)
    folder = tmp_path_factory.mktemp("country")
    files = [folder / f"{part}.csv" for part in range(nation.parts)]
    for part, path in enumerate(files):
        nation.write_part(part, path)
    yield files


def make_country(folder: Path, name: str) -> Config:
    config = registries.settings(folder / name)
    registries.init(config, tuple(each.number for each in sample_insurers.insurers()))
    return config


def test_the_sample_population_needs_hardly_any_row_one_by_one(tmp_path: Path, country: list[Path]) -> None:
    before, after = make_country(tmp_path, "imported"), make_country(tmp_path, "loaded")
    imported(before, country)
    loaded = load(after, country)
    assert (loaded.files, loaded.one_by_one) == (3, 0)
    assert loaded.index_bytes / loaded.keys < 25
    assert_alike(before, after)


def test_files_cut_by_insurer_meet_the_same_people_again(tmp_path: Path, country: list[Path]) -> None:
    """As insurers send them: whoever changed insurers is in two files, and only link code or certificate tells."""
    files = [tmp_path / f"insurers-{n}.csv" for n in range(5)]
    with ExitStack() as opened:
        out = [csv.writer(opened.enter_context(path.open("w", encoding="utf-8", newline=""))) for path in files]
        for number, part in enumerate(country):
            header, *rows = csv.reader(opened.enter_context(part.open(encoding="utf-8", newline="")))
            if number == 0:
                for each in out:
                    each.writerow(header)
            at = header.index("insurer_number")
            for row in rows:
                out[int(row[at]) // 10 % len(out)].writerow(row)
    before, after = make_country(tmp_path, "imported"), make_country(tmp_path, "loaded")
    assert all(each.error is None for each in imported(before, files))
    assert load(after, files).one_by_one > 100
    assert_alike(before, after)


def test_files_that_are_there_already_are_passed_over(tmp_path: Path, country: list[Path]) -> None:
    config = make_country(tmp_path, "loaded")
    load(config, country[:2])
    again = load(config, [*country, country[2]])
    assert (again.files, again.replayed) == (1, 3)
    assert load(config, country).files == 0
    registries.assert_sound(config)


# --- what ends a load -----------------------------------------------------------------------------------------------


def test_a_refused_file_leaves_those_before_it(tmp_path: Path) -> None:
    good = write_csv(tmp_path / "1.csv", [csv_line(1), csv_line(2)])
    wrong = write_csv(tmp_path / "2.csv", [csv_line(3), csv_line(1, "lose", lost="2019-01-01", reason="03")])
    config = make(tmp_path, "loaded")
    with pytest.raises(FeedRowsError) as raised:
        load(config, [good, wrong])
    assert [(row, code) for row, _, code, _ in refusal(raised.value).rows] == [(2, "feed.lost_before_gained")]
    assert len(contents(config)) == 2
    registries.assert_sound(config)
    load(config, [good, write_csv(wrong, [csv_line(3)])])
    assert len(contents(config)) == 3
    registries.assert_sound(config)


def test_a_file_that_is_no_feed_is_refused(tmp_path: Path) -> None:
    config = make(tmp_path, "loaded")
    path = tmp_path / "feed.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FeedHeaderError):
        load(config, [path])
    registries.assert_sound(config)


def test_a_rejected_file_leaves_nothing_of_those_behind_it(tmp_path: Path, country: list[Path]) -> None:
    """They were prepared meanwhile, and lay in the spool until the next start: records of people."""
    config = make_country(tmp_path, "loaded")
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    with pytest.raises(FeedHeaderError):
        load(config, [wrong, *country])
    assert list(config.spool_dir.iterdir()) == []


def test_an_insurer_that_is_not_registered_is_refused(tmp_path: Path) -> None:
    config = make(tmp_path, "loaded")
    with pytest.raises((InsurerUnknownError, FeedRowsError)):
        load(config, [write_csv(tmp_path / "feed.csv", [csv_line(1, insurer="06139992")])])
    assert contents(config) == []


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    config = make(tmp_path, "loaded")
    with pytest.raises(OSError):
        with Load(config, KEYS, total_bytes=1, progress=None) as made:
            made.run([tmp_path / "gone.csv"])
    registries.assert_sound(config)


def test_a_full_store_leaves_the_files_before(tmp_path: Path, country: list[Path]) -> None:
    config = registries.settings(tmp_path / "loaded", map_bytes=1 << 20)
    registries.init(config, tuple(each.number for each in sample_insurers.insurers()))
    with pytest.raises(StoreFullError):
        load(config, country)
    config = registries.settings(tmp_path / "loaded")
    assert len(feeds(config)) < len(country)
    with registries.opened(config):
        pass
    registries.assert_sound(config)
    load(config, country)
    assert len(feeds(config)) == len(country)
    registries.assert_sound(config)


def test_a_preparing_process_that_dies_ends_the_load(tmp_path: Path, country: list[Path]) -> None:
    """The files before it are in and visible, and the load goes on from them."""
    config = make_country(tmp_path, "loaded")

    def kill_all(path: Path) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    more = [tmp_path / f"{n}.csv" for n in range(6)]
    nation = Nation(9_000, 8, date(2026, 11, 23), town_people=1_500)
    for part, path in enumerate(more):
        nation.write_part(part, path)
    with pytest.raises(StorePoisonedError), Load(config, KEYS, total_bytes=1_000_000, progress=None) as made:
        made.run(more, durable=kill_all)
    assert 1 <= len(feeds(config)) < len(more)
    registries.assert_sound(config)
    load(config, more)
    assert len(feeds(config)) == len(more)
    registries.assert_sound(config)


def test_a_second_writer_is_refused(tmp_path: Path, country: list[Path]) -> None:
    config = make_country(tmp_path, "loaded")
    with registries.opened(config), pytest.raises(StoreLockedError):
        Load(config, KEYS, total_bytes=1, progress=None)
    with Load(config, KEYS, total_bytes=1, progress=None), pytest.raises(StoreLockedError):
        registries.opened(config).__enter__()


# --- readers --------------------------------------------------------------------------------------------------------


def test_readers_see_nothing_before_all(tmp_path: Path, country: list[Path]) -> None:
    """A reader that was there before looks on: the old state until the end, then everything, without being told."""
    config = make_country(tmp_path, "loaded")
    store = StoreReader(config.store_dir, key_id=KEYS.key_id, map_bytes=config.map_bytes)
    directory, store_id = index_directory(config, store.store_id), store.store_id
    store.close()
    reader = IndexReader.attach(directory, store_id=store_id, key_id=KEYS.key_id)
    seen = []
    with Load(config, KEYS, total_bytes=1_000_000, progress=None) as made:
        loaded = made.run(country, durable=lambda path: seen.append((reader.count, reader.data_version)))
    assert seen == [(0, 0)] * 3
    # A search finds out by itself; the numbers are those of where it then is.
    reader.find_many(np.zeros((1, 2), np.uint64))
    assert (reader.count, reader.data_version) == (loaded.keys, loaded.data_version)
    reader.close()


def test_a_registry_goes_on_where_a_load_ended(tmp_path: Path, country: list[Path]) -> None:
    config = make_country(tmp_path, "loaded")
    loaded = load(config, country)
    with registries.opened(config) as registry:
        assert (registry.index.count, registry.index.data_version) == (loaded.keys, loaded.data_version)
        registries.applied(registry, registries.call(registries.row(1, insurer="01130012"), insurer="01130012"))
    registries.assert_sound(config)
