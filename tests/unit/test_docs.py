"""The documents agree with the code where a reader would act on them: codes, settings, exit codes, links, examples."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import msgspec
import pytest

from api import problems
from api.exits import MEANINGS
from api.wire.native import BatchRequest, CheckRequest
from engine.config import Config
from engine.records import Reason, Verdict
from loadtest.population import COLUMNS, personas

TODAY = date(2026, 11, 23)
ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OPERATING = (ROOT / "docs" / "OPERATING.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
README_JA = (ROOT / "README.ja.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", text):
        if target and "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_error_code_says_what_the_operator_does() -> None:
    table = OPERATING.split("## Errors")[1]
    assert {code for code in problems.known_codes() if f"`{code}`" not in table} == set()


def test_every_setting_is_listed_with_no_other() -> None:
    table = OPERATING.split("## Settings")[1].split("## Errors")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(Config.__struct_fields__)


def test_exit_codes_are_those_of_the_program() -> None:
    table = OPERATING.split("## Exit codes")[1].split("## Settings")[0]
    listed = re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    assert {int(code): meaning for code, meaning in listed} == {int(code): text for code, text in MEANINGS.items()}


@pytest.mark.parametrize("text", [README, README_JA], ids=["en", "ja"])
def test_readme_names_every_verdict_and_reason(text: str) -> None:
    reasons = {each["reason"] for each in personas(TODAY)} - {
        None,
        "several_people",
        "announced",
        "newer_qualification",
    }
    assert [name for name in [*Verdict, *reasons] if f"`{name}`" not in text] == []
    assert reasons <= set(Reason)


@pytest.mark.parametrize("text", [README, README_JA], ids=["en", "ja"])
def test_readme_inquiries_are_well_formed(text: str) -> None:
    checked = 0
    for body in re.findall(r"eligibility/(?:check|batch) .*?'(\{.*?)'", text, re.DOTALL):
        for one in _objects(body):
            request = msgspec.json.decode(one, type=BatchRequest if b'"items"' in one else CheckRequest)
            assert request.institution == "1311111114"
            checked += 1
    assert checked == 4


@pytest.mark.parametrize("text", [README, README_JA], ids=["en", "ja"])
def test_readme_registrations_use_documented_columns(text: str) -> None:
    (body,) = re.findall(r"qualifications .*?'(\{.*?)'", text, re.DOTALL)
    for operation in json.loads(body)["operations"]:
        assert set(operation) <= set(COLUMNS)


def test_decisions_are_indexed() -> None:
    index = (ROOT / "docs" / "design" / "README.md").read_text("utf-8")
    pages = {page.name for page in (ROOT / "docs" / "design").glob("0*.md")}
    assert pages == set(re.findall(r"\((0\d+-[\w-]+\.md)\)", index))


def _objects(text: str) -> list[bytes]:
    """A body as one JSON object, or as one a line."""
    try:
        return [json.dumps(json.loads(text)).encode()]
    except ValueError:
        return [line.encode() for line in text.splitlines()]
