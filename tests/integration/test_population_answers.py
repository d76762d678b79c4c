"""A whole population is imported and asked about: every verdict and reason agrees with the independent truth."""

from __future__ import annotations

import http.client
import json
import sys
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from loadtest.population import Population, generate, personas, write_personas
from tests.support.processes import Caller, free_ports, running, shikaku
from tests.support.registered import Registered, fixed_ms

TODAY = date(2026, 11, 23)


def _imported(folder: Path, people: int, seed: int) -> Registered:
    written = generate(people, seed, TODAY, folder)
    registered = Registered(folder, TODAY)
    registered.insurers(written.insurers_file)
    receipt = registered.registry.import_feed(
        written.population_file, format="csv", encoding="utf-8", insurer=None, feed_number=None, as_of=None
    )
    assert receipt.rows == written.rows
    return registered


def _differences(registered: Registered, population: Population, count: int, seed: int) -> tuple[list[object], Counter]:
    """What was answered otherwise than deserved, with data and without, and how often each verdict was given."""
    wrong: list[object] = []
    verdicts: Counter = Counter()
    for request, verdict, reason in population.inquiries(count, seed):
        verdicts[verdict, reason] += 1
        for detail in ("full", "verdict"):
            answer = registered.ask(request | {"detail": detail})
            if (answer["verdict"], answer["reason"]) != (verdict, reason):
                wrong.append((request, detail, (answer["verdict"], answer["reason"]), (verdict, reason)))
    return wrong, verdicts


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_about_a_population_are_those_that_it_deserves(tmp_path: Path, seed: int) -> None:
    with _imported(tmp_path, 2500, seed) as registered:
        wrong, verdicts = _differences(registered, Population(2500, seed, TODAY), 4000, seed)
    assert wrong == []
    assert len(verdicts) > 10


def test_the_cast_gets_what_it_claims_amid_a_population(tmp_path: Path) -> None:
    with _imported(tmp_path, 300, 3) as registered:
        registered.registry.import_feed(
            write_personas(tmp_path, TODAY), format="csv", encoding="utf-8", insurer=None, feed_number=None, as_of=None
        )
        for persona in personas(TODAY):
            answer = registered.ask(persona["request"])
            assert (answer["verdict"], answer["reason"]) == (persona["verdict"], persona["reason"]), persona["id"]
            assert answer["notes"] == persona["notes"], persona["id"]
            assert answer["advice"]["ja"] and answer["advice"]["en"]


def test_a_real_server_answers_a_streamed_batch_as_deserved(tmp_path: Path) -> None:
    """Generated, registered and imported from the command line; asked in one NDJSON request, and singly."""
    data, port = tmp_path / "data", free_ports()
    settings = tmp_path / "shikaku.toml"
    settings.write_text(
        f'data_dir = "{data}"\nkey_file = "{tmp_path}/master.key"\nindex_dir = "{tmp_path}/index"\n'
        f"port = {port}\nworkers = 2\nclock_fixed_ms = {fixed_ms(TODAY)}\n"
    )
    people = ["people", "generate", tmp_path / "feeds", "--people", 1500, "--seed", 5, "--today", TODAY]
    _run(*people)
    _run("init", "--insurers", tmp_path / "feeds" / "insurers.ndjson", "--config", settings)
    _run("import", tmp_path / "feeds" / "population.csv", "--config", settings)
    asked = list(Population(1500, 5, TODAY).inquiries(3000, 5))
    serve = [sys.executable, "-m", "api.cli.main", "serve", "--config", str(settings)]
    with running(serve, data, port, workers=2) as server:
        lines = b"".join(json.dumps(request | {"id": str(n)}).encode() + b"\n" for n, (request, *_) in enumerate(asked))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/v1/eligibility/batch", lines, {"Content-Type": "application/x-ndjson"})
        answers = [json.loads(line) for line in connection.getresponse().read().splitlines()]
        caller = Caller(server.port)
        single = [caller.ask("POST", "/v1/eligibility/check", request)[2] for request, *_ in asked[:500]]
        caller.close()
        connection.close()
    assert [each["id"] for each in answers] == [str(n) for n in range(len(asked))]
    for n, (request, *deserved) in enumerate(asked):
        assert [answers[n]["verdict"], answers[n]["reason"]] == deserved, request
    assert [[each["verdict"], each["reason"]] for each in single] == [deserved for _, *deserved in asked[:500]]


def _run(*arguments: object) -> None:
    done = shikaku(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_answers_about_100_000_people_are_those_that_they_deserve(tmp_path: Path) -> None:
    with _imported(tmp_path, 100_000, 4) as registered:
        wrong, _ = _differences(registered, Population(100_000, 4, TODAY), 50_000, 4)
    assert wrong == []
