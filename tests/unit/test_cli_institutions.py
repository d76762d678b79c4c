"""Asks whether `shikaku institutions` changes the register as it says, and says what is wrong with what it is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.exits import Exit
from tests.support.callers import Authority, ec_key, jwk
from tests.unit.test_cli import Command

ID = "1311111114"


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    made = Command(tmp_path, capsys, monkeypatch)
    made.on_store("init")
    return made


def shown(command: Command, id_: str = ID) -> dict[str, object]:
    code, out, _ = command.on_store("institutions", "show", id_, "--json")
    assert code == 0
    return dict(json.loads(out))


def test_a_caller_from_the_first_day_to_the_last(command: Command) -> None:
    assert command.on_store("institutions", "add", ID, "見本医院")[0] == 0
    assert shown(command)["scopes"] == ["eligibility.batch", "eligibility.check", "insurers.read"]
    file = command.folder / "key.json"
    file.write_text(json.dumps(jwk(ec_key(), "2026")))
    pem, _, _ = Authority().issue(command.folder, "clinic")
    for arguments in (
        ("key", "add", ID, file),
        ("cert", "add", ID, pem),
        ("cert", "add", ID, "--subject", "CN=clinic"),
        ("suspend", ID),
    ):
        assert command.on_store("institutions", *arguments)[0] == 0
    found = shown(command)
    assert (found["status"], found["keys"], found["subjects"]) == ("suspended", ["2026 ES384"], ["CN=clinic"])
    for arguments in (
        ("resume", ID),
        ("key", "remove", ID, "2026"),
        ("cert", "remove", ID, pem),
        ("cert", "remove", ID, "--subject", "CN=clinic"),
    ):
        assert command.on_store("institutions", *arguments)[0] == 0
    found = shown(command)
    assert (found["status"], found["keys"], found["thumbprints"], found["subjects"]) == ("active", [], [], [])
    assert "見本医院" in command.on_store("institutions", "show", ID)[1]


def test_many_are_registered_together_or_not_at_all(command: Command) -> None:
    file = command.folder / "callers.ndjson"
    file.write_text('{"id":"1311111114","name":"a"}\n\n{"id":"01130012","name":"b","role":"insurer"}\n')
    assert command.on_store("institutions", "import", file)[:2] == (0, "2 callers registered\n")
    code, out, _ = command.on_store("institutions", "list", "--role", "insurer", "--json")
    assert code == 0 and [one["id"] for one in json.loads(out)] == ["01130012"]
    assert "01130012" in command.on_store("institutions", "list")[1]
    file.write_text('{"id":"portal","name":"a","role":"portal"}\n{"id":"01130012","name":"b","role":"insurer"}\n')
    assert "[caller.exists]" in command.on_store("institutions", "import", file)[2]
    assert "[caller.missing]" in command.on_store("institutions", "show", "portal")[2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1"),
        ('{"id":"1311111114"}', "[input.schema]"),
        ('{"id":"1311111114","name":"a","key":"x"}', "[input.schema]"),
        ('{"id":"1311111111","name":"a"}', "[caller.input]"),
        ('{"id":"x","name":"a","role":"king"}', "role"),
        ('{"id":"x","name":"a","role":"portal","scopes":["eligibility.check"]}', "scope"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(command: Command, line: str, said: str) -> None:
    file = command.folder / "callers.ndjson"
    file.write_text(line)
    code, _, err = command.on_store("institutions", "import", file)
    assert code == Exit.USAGE and said in err and "line 1" in err and "1311111111" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "1311111111", "x"), "[caller.input]"),
        (("add", "983205673214", "x"), "[caller.input]"),
        (("add", ID, ""), "name"),
        (("add", "x", "x", "--role", "king"), "role"),
        (("add", "x", "x", "--role", "portal", "--scope", "eligibility.check"), "scope"),
        (("show", ID), "institutions add"),
        (("suspend", ID), "[caller.missing]"),
        (("key", "add", ID, "nowhere.json"), "[file.unreadable]"),
        (("key", "remove", ID, "x"), "[caller.missing]"),
        (("cert", "add", ID), "[input.schema]"),
        (("cert", "add", ID, "--thumbprint", "00"), "[caller.input]"),
        (("cert", "add", ID, "--thumbprint", "0" * 64, "--subject", "CN=x"), "[input.schema]"),
        (("cert", "add", ID, "--thumbprint", "0" * 64), "[caller.missing]"),
        (("api-key", ID), "sandbox"),
    ],
)
def test_wrong_input_is_one_line_that_quotes_nothing(command: Command, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = command.on_store("institutions", *arguments)
    assert code in (Exit.USAGE, Exit.STORE) and said in err and err.count("\n") == 1
    assert "1311111111" not in err and "983205673214" not in err


def test_a_private_key_is_refused_loudly(command: Command) -> None:
    command.on_store("institutions", "add", ID, "x")
    file = command.folder / "key.json"
    file.write_text(json.dumps({**jwk(ec_key()), "d": "c2VjcmV0"}))
    code, _, err = command.on_store("institutions", "key", "add", ID, file)
    assert code == Exit.USAGE and "private" in err and "c2VjcmV0" not in err


def test_api_keys_are_shown_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIKAKU_SANDBOX", "true")
    command.on_store("institutions", "add", ID, "x")
    code, out, _ = command.on_store("institutions", "api-key", ID)
    assert code == 0 and out.startswith("sandbox-")
    assert shown(command)["api_keys"] == 1 and out.strip() not in json.dumps(shown(command))
