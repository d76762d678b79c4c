"""Published sample inquiries are answered VALID with the data of the samples, once a matching feed was imported."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from engine.records import Insurer
from tests.support.processes import Caller, free_ports, running, shikaku
from tests.support.registered import Registered

GOLDEN = Path(__file__).parents[1] / "golden" / "oqs_samples"
SAMPLES = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(GOLDEN.glob("*.json"))}


@pytest.fixture(scope="module", params=["utf-8", "cp932"])
def registered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    """All samples in one feed; their insurer numbers have wrong check digits, which the policy lets pass."""
    folder = tmp_path_factory.mktemp("samples")
    with Registered(folder, date(2026, 11, 23), registration_check_digits="warn") as made:
        for insurer in {each["insurer"]["number"]: each["insurer"] for each in SAMPLES.values()}.values():
            made.registry.register_insurer(Insurer(**insurer))
        path = folder / "feed.csv"
        _write(path, [each["row"] for each in SAMPLES.values()], request.param)
        receipt = made.registry.import_feed(
            path, format="csv", encoding=request.param, insurer=None, feed_number=None, as_of=None
        )
        assert receipt.new == len(SAMPLES)
        yield made


def _write(path: Path, rows: list[dict[str, str]], encoding: str) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def test_there_are_samples_and_each_says_where_it_is_from() -> None:
    assert len(SAMPLES) >= 4
    assert all("published" in each["origin"] or "public" in each["origin"] for each in SAMPLES.values())


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_is_valid_with_its_data(registered: Registered, name: str) -> None:
    sample: dict[str, Any] = SAMPLES[name]
    answer = registered.ask(sample["request"])
    assert (answer["verdict"], answer["reason"]) == ("VALID", None)
    assert answer["as_of"] == sample["request"]["as_of"]
    shown = {member: answer["qualification"][member] for member in sample["qualification"]}
    assert shown == sample["qualification"]


@pytest.mark.parametrize("name", SAMPLES)
def test_wrong_check_digits_of_samples_are_warnings(registered: Registered, name: str) -> None:
    answer = registered.ask(SAMPLES[name]["request"])
    assert [each["field"] for each in answer["warnings"]] == SAMPLES[name]["warnings"]


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("card_reader_result", {"insurer_number": "00123456", "symbol": "１２－３４", "number": "０４２６０"}),
        ("card_reader_result", {"insurer_number": "123456", "symbol": "12−34 ", "number": "4260"}),
        ("minimal_card_reader_result", {"insurer_number": "  123456", "symbol": "ｔｅｓｔ", "number": "1"}),
        ("fhir_member_id", {"symbol": "あいう", "number": "１８７", "branch": "05"}),
        ("search_response", {"symbol": " 1234 ", "number": "1987654", "branch": "01"}),
    ],
)
def test_other_spellings_find_the_same_person(registered: Registered, name: str, spelling: dict[str, str]) -> None:
    request = SAMPLES[name]["request"]
    answer = registered.ask(request | {"card": request["card"] | spelling})
    assert answer["verdict"] == "VALID"
    assert answer["qualification"]["name"] == SAMPLES[name]["qualification"]["name"]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_with_another_birth_date_is_unknown(registered: Registered, name: str) -> None:
    request = SAMPLES[name]["request"]
    answer = registered.ask(request | {"card": request["card"] | {"birth_date": "1999-12-31"}})
    assert (answer["verdict"], answer["reason"], answer["qualification"]) == ("NOT_FOUND", "unknown_card", None)


def test_samples_are_answered_by_a_real_server(tmp_path: Path) -> None:
    """The same from the outside: the command line registers and imports, a real socket is asked."""
    feed, insurers, settings = tmp_path / "feed.csv", tmp_path / "insurers.ndjson", tmp_path / "shikaku.toml"
    _write(feed, [each["row"] for each in SAMPLES.values()], "utf-8")
    insurers.write_text("".join(json.dumps(each["insurer"]) + "\n" for each in SAMPLES.values()), "utf-8")
    data, port = tmp_path / "data", free_ports()
    settings.write_text(
        f'data_dir = "{data}"\nkey_file = "{tmp_path}/master.key"\nindex_dir = "{tmp_path}/index"\n'
        f'port = {port}\nworkers = 1\nregistration_check_digits = "warn"\n'
    )
    for command in (["init"], ["insurers", "import", insurers], ["import", feed]):
        done = shikaku(*command, "--config", settings)
        assert done.returncode == 0, done.stderr
    serve = [sys.executable, "-m", "api.cli.main", "serve", "--config", str(settings)]
    with running(serve, data, port, workers=1) as server:
        caller = Caller(server.port)
        for name, sample in SAMPLES.items():
            status, headers, answer = caller.ask("POST", "/v1/eligibility/check", sample["request"])
            assert (status, headers["content-type"]) == (200, "application/json"), name
            assert (answer["verdict"], answer["reason"]) == ("VALID", None), name
            assert answer["qualification"] | sample["qualification"] == answer["qualification"], name
        caller.close()
        assert server.stop() == 0
