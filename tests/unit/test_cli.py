"""Asks whether the command line says what it does, ends with the documented code, and never shows a traceback."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from api.cli import import_feeds, main
from api.cli.check import request_body
from api.cli.demo import as_expected
from api.cli.output import advice_of
from api.exits import MEANINGS, CommandError, Exit, exit_of, line_of
from engine import errors
from engine.errors import ShikakuError
from loadtest import population
from tests.support.processes import remove_index

COMMANDS = [
    "init",
    "serve",
    "import",
    "load",
    "insurers",
    "check",
    "status",
    "fsck",
    "snapshot",
    "people",
    "personas",
    "audit",
    "receipt",
    "witness",
]


class Command:
    """The command line in this process, on a data folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.where = ("--data", str(folder / "data"), "--key", str(folder / "master.key"))
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._monkeypatch.setattr(sys, "argv", ["shikaku", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        code = ended.value.code
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(code or 0), captured.out, captured.err

    def on_store(self, *arguments: object) -> tuple[int, str, str]:
        return self(*arguments, *self.where)


@pytest.fixture
def shikaku(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tmp_path, capsys, monkeypatch)


@pytest.fixture
def store(shikaku: Command, request: pytest.FixtureRequest) -> Command:
    """An empty store; its index is removed from memory at the end."""
    assert shikaku.on_store("init")[0] == Exit.OK
    request.addfinalizer(lambda: remove_index(shikaku.folder / "data", shikaku.folder / "master.key"))
    return shikaku


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    """The personas and their insurers as files."""
    from api.cli.people import today_in_japan

    folder = tmp_path / "feeds"
    folder.mkdir()
    population.write_insurers(folder / "insurers.ndjson")
    population.write_personas(folder, today_in_japan())
    return folder


# --- help and usage -----------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_every_exit_code(shikaku: Command) -> None:
    code, out, _ = shikaku("--help")
    assert code == Exit.OK
    assert all(command in out for command in COMMANDS)
    assert all(f"{number:d} " in out for number in Exit)


@pytest.mark.parametrize(
    "command", [*[[name] for name in COMMANDS], ["insurers", "add"], ["people", "generate"]], ids=" ".join
)
def test_help_of_every_command_teaches_by_example(shikaku: Command, command: list[str]) -> None:
    code, out, _ = shikaku(*command, "--help")
    assert code == Exit.OK
    assert command in (["insurers"], ["people"], ["audit"], ["receipt"]) or "Example" in out


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--nonsense"], ["import"], ["serve", "--workers", "x"]])
def test_wrong_usage_ends_with_2(shikaku: Command, arguments: list[str]) -> None:
    code, _, err = shikaku(*arguments)
    assert code == Exit.USAGE
    assert "rror" in err


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--port", "70000"], ["--config", "absent.toml"]])
def test_a_setting_out_of_range_is_one_line(store: Command, arguments: list[str]) -> None:
    code, _, err = store.on_store("serve", *arguments)
    assert code == Exit.USAGE
    assert err.count("\n") == 1 and "[config.invalid]" in err


def test_every_exit_code_has_a_meaning_and_every_error_one_code() -> None:
    assert set(MEANINGS) == set(Exit)
    leaves = [error for family in ShikakuError.__subclasses__() for error in family.__subclasses__()]
    assert len(leaves) > 20
    for leaf in leaves:
        given = {"retry_after_ms": 1} if issubclass(leaf, errors.PushbackError) else {}
        given |= {"report": None} if issubclass(leaf, errors.FeedRowsError) else {}
        if leaf.__module__ == "engine.errors":
            assert exit_of(leaf("detail", **given)) not in (Exit.OK, Exit.DEFECT)  # type: ignore[arg-type]


def test_the_line_of_a_defect_names_its_place_and_no_value() -> None:
    try:
        raise KeyError("1987654")
    except KeyError as error:
        line = line_of(error)
    assert "KeyError" in line and "test_cli.py" in line and "1987654" not in line


def test_operators_are_told_what_to_do_next() -> None:
    for family in (errors.StoreError, errors.CorruptionError):
        for leaf in family.__subclasses__():
            assert leaf.__module__ != "engine.errors" or advice_of(leaf.code), leaf.code


def test_who_finds_a_damaged_index_is_told_that_it_is_made_anew() -> None:
    """It once said to delete it by hand, while the server makes it anew by itself."""
    assert "shikaku serve" in advice_of("index.corrupt") and "delete" not in advice_of("index.corrupt")


# --- a store from nothing -----------------------------------------------------------------------------------------


def test_init_makes_a_private_key_and_refuses_to_do_it_twice(store: Command) -> None:
    key = store.folder / "master.key"
    assert key.stat().st_mode & 0o777 == 0o600
    code, _, err = store.on_store("init")
    assert code == Exit.STORE and "[store.exists]" in err


def test_init_with_insurers_registers_them(shikaku: Command, feeds: Path) -> None:
    code, out, _ = shikaku.on_store("init", "--insurers", feeds / "insurers.ndjson")
    assert code == Exit.OK and "insurers registered" in out
    code, out, _ = shikaku.on_store("insurers", "list", "--json")
    assert {"01130012"} < {each["number"] for each in json.loads(out)}
    remove_index(shikaku.folder / "data", shikaku.folder / "master.key")


def test_without_a_store_or_with_another_key_there_is_one_line(store: Command, tmp_path: Path) -> None:
    code, _, err = store("fsck", "--data", tmp_path / "absent", "--key", store.folder / "master.key")
    assert code == Exit.STORE and "shikaku init" in err and err.count("\n") == 1
    code, _, err = store("fsck", "--data", store.folder / "data", "--key", tmp_path / "absent.key")
    assert code == Exit.STORE and "[key.missing]" in err
    other = tmp_path / "other.key"
    other.write_text("00" * 32)
    code, _, err = store("fsck", "--data", store.folder / "data", "--key", other)
    assert code == Exit.STORE and "[key.mismatch]" in err


def test_a_line_of_an_insurers_file_names_each_member_once(store: Command) -> None:
    file = store.folder / "insurers.ndjson"
    file.write_text('{"number": "06139992", "name": "a"}\n{"number": "06139992", "name": "a", "name": "b"}\n')
    code, _, err = store.on_store("insurers", "import", file)
    assert (code, err.count("\n")) == (Exit.USAGE, 1) and "line 2" in err and "[input.schema]" in err


def test_insurers_are_added_and_listed(store: Command) -> None:
    assert store.on_store("insurers", "add", "01130012", "協会けんぽ")[0] == Exit.OK
    _, out, _ = store.on_store("insurers", "list")
    assert "01130012" in out and "協会けんぽ" in out


def test_an_insurer_with_a_wrong_check_digit_is_refused_by_line(store: Command, tmp_path: Path) -> None:
    file = tmp_path / "insurers.ndjson"
    file.write_text('{"number": "01130012", "name": "a"}\n{"number": "01130013", "name": "b"}\n', "utf-8")
    code, _, err = store.on_store("insurers", "import", file)
    assert code == Exit.USAGE and "line 2" in err and "01130013" not in err
    assert "01130012" not in store.on_store("insurers", "list")[1], "the file is taken whole or not at all"


# --- feeds and checks ---------------------------------------------------------------------------------------------


def test_personas_are_imported_and_answered_as_expected(store: Command, feeds: Path) -> None:
    assert store.on_store("insurers", "import", feeds / "insurers.ndjson")[0] == Exit.OK
    code, out, _ = store.on_store("import", feeds, "--as-of", "2026-01-01")
    assert code == Exit.OK and "imported" in out
    cast = json.loads(store("personas", "--json")[1])
    for each in cast:
        request = store.folder / "request.json"
        request.write_text(json.dumps(each["request"]), "utf-8")
        code, out, _ = store.on_store("check", "--request", request, "--local", "--json")
        assert code == Exit.OK
        assert as_expected(each, json.loads(out)), each["name"]


def test_a_dry_run_changes_nothing_and_a_second_import_says_replayed(store: Command, feeds: Path) -> None:
    store.on_store("insurers", "import", feeds / "insurers.ndjson")
    file = feeds / "personas.csv"
    receipts = [json.loads(store.on_store("import", file, "--json", *more)[1]) for more in (["--dry-run"], [], [])]
    assert [(each["dry_run"], each["replayed"]) for each in receipts] == [(True, False), (False, False), (False, True)]
    assert receipts[0]["data_version"] == 0 < receipts[1]["data_version"] == receipts[2]["data_version"]


def test_a_rejected_feed_ends_with_1_and_reports_every_error_without_values(store: Command, feeds: Path) -> None:
    store.on_store("insurers", "import", feeds / "insurers.ndjson")
    header, first, *_ = (feeds / "personas.csv").read_text("utf-8").splitlines()
    bad = feeds / "bad.csv"
    bad.write_text("\r\n".join([header, first, first.replace("1987654", "198765\u0007")]) + "\r\n", "utf-8")
    report = store.folder / "report.json"
    code, _, err = store.on_store("import", bad, "--report", report)
    assert code == Exit.NEGATIVE and "is rejected" in err and "nothing was applied" in err
    found = json.loads(report.read_text("utf-8"))
    assert found["code"] == "feed.rows" and found["error_count"] == 1
    assert {"row", "column", "code", "kind"} <= set(found["errors"][0])
    assert "198765" not in report.read_text("utf-8") + err


def test_no_feed_and_an_unclear_format_are_usage_errors(store: Command, tmp_path: Path) -> None:
    assert store.on_store("import", tmp_path / "absent.csv")[0] == Exit.USAGE
    (tmp_path / "feed.txt").write_text("op\n")
    assert store.on_store("import", tmp_path / "feed.txt")[0] == Exit.USAGE


def test_a_folder_is_taken_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.ndjson", "insurers.ndjson", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in import_feeds.feed_files(tmp_path)] == ["a.ndjson", "b.csv"]
    with pytest.raises(CommandError):
        import_feeds.feed_files(tmp_path / "absent")


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
def test_what_is_no_file_in_a_folder_of_feeds_is_told(tmp_path: Path, kind: str) -> None:
    """A load ended as if it were a defect."""
    (tmp_path / "a.csv").touch()
    if kind == "folder":
        (tmp_path / "b.csv").mkdir()
    else:
        (tmp_path / "b.csv").symlink_to(tmp_path / "absent")
    with pytest.raises(CommandError, match="b.csv is no file that can be read") as caught:
        import_feeds.feed_files(tmp_path)
    assert caught.value.exit_code == Exit.USAGE


def test_a_check_with_wrong_input_ends_with_2_and_names_the_field(store: Command) -> None:
    code, _, err = store.on_store("check", "--insurer", "01130012", "--local")
    assert code == Exit.USAGE and "card.number" in err


def test_a_my_number_is_refused_and_not_repeated(store: Command) -> None:
    arguments = ("--insurer", "01130012", "--symbol", "1", "--number", "983205673214", "--birth-date", "2000-01-02")
    code, out, err = store.on_store("check", *arguments, "--local")
    assert code == Exit.USAGE and "[input.my_number]" in err
    assert "983205673214" not in out + err


def test_without_a_server_a_check_ends_with_3(store: Command) -> None:
    code, _, err = store.on_store("check", "--insurer", "01130012", "--port", "1")
    assert code == Exit.UNREACHABLE and "[server.unreachable]" in err


def test_what_was_not_given_is_not_sent() -> None:
    card = {"number": "1", "branch": None}
    body = json.loads(request_body(card, {"issuer": None, "serial": None}, "1311111114", None, None))
    assert body == {"institution": "1311111114", "card": {"number": "1"}}


# --- looking at a store -------------------------------------------------------------------------------------------


def test_status_names_indexes_of_this_store_elsewhere(store: Command) -> None:
    """A data folder that is moved gets another index: the memory of the first is taken until somebody deletes it."""
    assert store.on_store("insurers", "add", "01130012", "協会けんぽ")[0] == Exit.OK
    first = json.loads(store.on_store("status", "--json")[1])["index"]
    assert first["elsewhere"] == []
    moved = store.folder / "moved"
    (store.folder / "data").rename(moved)
    where = ("--data", moved, "--key", store.folder / "master.key")
    found = json.loads(store("status", "--json", *where)[1])["index"]
    assert (found["attached"], found["elsewhere"]) == (False, [first["directory"]])
    assert store("insurers", "add", "06139992", "組合", *where)[0] == Exit.OK
    found = json.loads(store("status", "--json", *where)[1])["index"]
    assert (found["attached"], found["elsewhere"]) == (True, [first["directory"]])
    shutil.rmtree(found["directory"])
    moved.rename(store.folder / "data")


def test_status_tells_store_and_index_without_a_server(store: Command, feeds: Path) -> None:
    store.on_store("insurers", "import", feeds / "insurers.ndjson")
    store.on_store("import", feeds)
    code, out, _ = store.on_store("status", "--json")
    found = json.loads(out)
    assert code == Exit.OK and found["server"] == {"running": False, "bulk_load": False}
    assert found["index"]["data_version"] == found["store"]["committed_seq"] > 0
    assert 0 < found["index"]["load"] < 1
    assert any(each["fresh_at"] for each in found["freshness"])
    assert "index data version" in store.on_store("status")[1]


def test_fsck_finds_nothing_in_a_sound_store_and_something_in_a_damaged_one(store: Command, feeds: Path) -> None:
    store.on_store("insurers", "import", feeds / "insurers.ndjson")
    store.on_store("import", feeds)
    assert store.on_store("fsck")[0] == Exit.OK
    data = store.folder / "data" / "store" / "data.mdb"
    image = bytearray(data.read_bytes())
    name = "診療".encode()
    assert name in image
    data.write_bytes(image.replace(name, b"\0" * len(name)))
    code, out, _ = store.on_store("fsck", "--json")
    assert code == Exit.NEGATIVE and json.loads(out)["problems"]


def test_a_snapshot_is_a_data_folder_of_its_own(store: Command, feeds: Path) -> None:
    store.on_store("insurers", "import", feeds / "insurers.ndjson")
    store.on_store("import", feeds)
    copy = store.folder / "copy"
    assert store.on_store("snapshot", copy)[0] == Exit.OK
    code, out, _ = store("fsck", "--data", copy, "--key", store.folder / "master.key", "--json")
    assert code == Exit.OK and json.loads(out)["counts"]["people"] > 0
    assert store.on_store("snapshot", copy)[0] == Exit.STORE


def test_people_are_generated_alike_for_the_same_seed(shikaku: Command, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        code, out, _ = shikaku(
            "people", "generate", tmp_path / name, "--people", 50, "--seed", 3, "--today", "2026-11-23", "--json"
        )
        assert code == Exit.OK
        files.append(Path(json.loads(out)["population"]).read_bytes())
    assert files[0] == files[1] and files[0].count(b"\r\n") > 50


def test_personas_cover_every_verdict_and_reason(shikaku: Command) -> None:
    from engine.records import Reason, Verdict

    cast = json.loads(shikaku("personas", "--json")[1])
    assert {each["verdict"] for each in cast} == set(Verdict)
    assert {each["reason"] for each in cast} - {None} <= set(Reason)
    assert all({"name", "request", "verdict", "reason", "note"} <= set(each) for each in cast)
    assert "診療" in shikaku("personas")[1]


def test_version_names_program_and_libraries(shikaku: Command) -> None:
    found = json.loads(shikaku("version", "--json")[1])
    assert {"shikaku", "python", "lmdb", "ext"} <= set(found)
