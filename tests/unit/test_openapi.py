"""Asks whether the API's description is OpenAPI 3.1, holds together, and says what the decoders really take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from api import openapi, problems
from api.cli import serve
from api.wire import native, reading, registration
from api.wire.outline import BatchOutline
from engine import days, keys
from engine.config import Config
from engine.errors import InputError
from engine.ingest import feed
from engine.records import Reason, Verdict

PORTS = ("check", "registry")
DIALECT = jsonschema.Draft202012Validator
"""The dialect that OpenAPI 3.1 schemas are in, if a document names no other."""


@pytest.fixture(scope="module", params=PORTS)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(openapi.document(request.param))
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return DIALECT({**schema, "components": document["components"]})


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from operation.get("requestBody", {}).get("content", {}).items()
    for response in operation["responses"].values():
        yield from response.get("content", {}).items()


@pytest.mark.parametrize("port", PORTS)
def test_a_document_is_made_once(port: str) -> None:
    assert openapi.document(port) is openapi.document(port)


def test_both_documents_are_made_before_the_first_fork(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each restarted worker made its own, 12 to 22 ms of its start."""
    openapi.document.cache_clear()

    class Supervisor:
        def __init__(self, *given: object, **jobs: object) -> None:
            assert openapi.document.cache_info().currsize == len(PORTS)

        def addresses(self) -> dict[str, str]:
            return {}

        def run(self) -> int:
            return 0

    monkeypatch.setattr("api.supervisor.Supervisor", Supervisor)
    config = Config(data_dir=tmp_path, key_file=tmp_path / "master.key")
    keys.create(config.key_file)
    assert serve.run(config) == 0


def test_document_has_what_openapi_asks_for(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(document["info"])
    assert set(document) <= {"openapi", "info", "servers", "tags", "paths", "components"}
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in document["tags"]}
    for path, method, operation in operations(document):
        assert path.startswith("/") and method in ("get", "post", "put")
        assert set(operation["tags"]) <= tags
        assert all(re.fullmatch("[1-5][0-9][0-9]", status) for status in operation["responses"])
        assert all(response["description"] for response in operation["responses"].values())


def test_path_parameters_are_declared(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        declared = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path))
        assert all(one.get("required") for one in operation.get("parameters", ()) if one["in"] == "path")


def test_schemas_are_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        DIALECT.check_schema(schema)
    for _, _, operation in operations(document):
        for _, described in contents(operation):
            DIALECT.check_schema(described["schema"])
        for parameter in operation.get("parameters", ()):
            DIALECT.check_schema(parameter["schema"])


def test_references_lead_somewhere_and_every_schema_is_used(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    used = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', text))
    assert used == set(document["components"]["schemas"])
    assert text.count('"$ref"') == len(re.findall(r'"\$ref": "#/components/schemas/', text))


def test_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    count = 0
    for _, _, operation in operations(document):
        for media_type, described in contents(operation):
            for example in described.get("examples", {}).values():
                validator(document, described["schema"]).validate(example["value"])
                count += media_type.endswith("json")
    assert count >= 5


def test_both_languages_are_there(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        ja, en = operation["summary"].split(" · ")
        assert en.isascii() and not ja.isascii()
        ja, en = operation["description"].split("\n\n")
        assert re.search("[ぁ-ん]", ja) and not re.search("[ぁ-ん]", en)


def test_all_codes_that_a_status_can_carry_are_named(document: dict[str, Any]) -> None:
    codes = problems.known_codes()
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            named = set(re.findall("`([a-z_.]+)`", response["description"]))
            assert named == {code for code, entry in codes.items() if str(entry.status) == status}


def test_example_requests_are_taken_by_the_decoders() -> None:
    document = json.loads(openapi.document("check"))
    reader = reading.Reader(policy="error", today=lambda: days.parse_iso("2026-11-23"), insurer=lambda number: None)
    bodies = document["paths"]["/v1/eligibility/check"]["post"]["requestBody"]["content"]["application/json"]
    for example in bodies["examples"].values():
        reader.inquiry(json.dumps(example["value"]).encode())
    batch = document["paths"]["/v1/eligibility/batch"]["post"]["requestBody"]["content"]
    outline = BatchOutline(json.dumps(batch["application/json"]["examples"]["batch"]["value"]).encode())
    steps = list(outline.walk())
    context = reader.batch(outline.head)
    assert len(steps) == len(outline.items) == 2
    for start, end in outline.items:
        reader.item(outline.body[start:end], context)
    reader.inquiry(json.dumps(batch["application/x-ndjson"]["examples"]["line"]["value"]).encode())


def test_example_registrations_are_taken_by_the_decoders() -> None:
    paths = json.loads(openapi.document("registry"))["paths"]
    writes = paths["/v1/insurers/{number}/qualifications"]
    options: dict[str, Any] = {"policy": "error", "exempt": lambda number: False}
    for method, decode in (("post", registration.delta), ("put", registration.state)):
        bodies = writes[method]["requestBody"]["content"]["application/json"]["examples"]
        for example in bodies.values():
            assert decode(json.dumps(example["value"]).encode(), "06139992", **options).rows  # type: ignore[operator]
    insurer = paths["/v1/insurers/{number}"]["put"]["requestBody"]["content"]["application/json"]["examples"]
    for example in insurer.values():
        registration.insurer(json.dumps(example["value"]).encode(), "06139992", policy="error")


def test_example_feed_is_read_without_error(tmp_path: Any) -> None:
    content = json.loads(openapi.document("registry"))["paths"]["/v1/feeds"]["post"]["requestBody"]["content"]
    path = tmp_path / "feed.csv"
    path.write_bytes(content["text/csv"]["examples"]["csv"]["value"].encode())
    (chunk,) = feed.read(path)
    assert len(chunk.rows) == 1 and not chunk.errors


@pytest.mark.parametrize(
    "value",
    [
        {"institution": "1311111114", "colour": 1},
        {"institution": 1},
        {},
        {"institution": "1311111114", "purpose": "curiosity"},
        {"institution": "1311111114", "card": {"number": "1"}},
        {"institution": "1311111114", "consent": {"limit_certificate": "yes"}},
    ],
)
def test_schema_refuses_what_the_decoder_refuses(value: dict[str, Any]) -> None:
    document = json.loads(openapi.document("check"))
    reader = reading.Reader(policy="warn", today=lambda: 1, insurer=lambda number: None)
    with pytest.raises(InputError):
        reader.inquiry(json.dumps(value).encode())
    with pytest.raises(jsonschema.ValidationError):
        validator(document, {"$ref": "#/components/schemas/CheckRequest"}).validate(value)


def test_codes_and_words_are_listed() -> None:
    schemas = json.loads(openapi.document("check"))["components"]["schemas"]
    assert set(schemas["Verdict"]["enum"]) == set(Verdict)
    assert set(schemas["Reason"]["enum"]) == set(Reason)
    assert set(native.PURPOSES) == set(schemas["CheckRequest"]["properties"]["purpose"]["enum"])
