"""Asks whether the audit and receipt commands say what they found in a line, with the documented exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from api.cli import main
from api.exits import Exit
from engine import keys
from engine.audit import entry, notes
from engine.audit.log import LogWriter
from engine.audit.notes import Signer
from tests.support import audit as support
from tests.support.audit import BEGUN_MS, SEGMENT_BYTES, some_entry

ANSWER = b'{"verdict":"VALID"}'


class Audit:
    """The command line in this process, on a data folder with one log of 300 entries."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        import hashlib

        self.folder = folder
        self.log = folder / "data" / "audit" / "0"
        self.signer = Signer("shikaku.invalid/0", keys.create_signing(folder / "audit.key"))
        self.vkey = self.signer.verifier.vkey
        self.where = ("--data", str(folder / "data"), "--master", str(folder / "master.key"))
        self._capsys, self._monkeypatch = capsys, monkeypatch
        entries = [some_entry(number) for number in range(300)]
        entries[7] = type(entries[7])(
            kind=entry.Kind.CHECK_CARD, at_ms=BEGUN_MS + 7000, data_version=1, caller="1311111114",
            answer_digest=hashlib.sha256(ANSWER).digest(), request_id="req-7",
        )  # fmt: skip
        with LogWriter(self.log, self.signer, segment_bytes=SEGMENT_BYTES) as log:
            log.append(list(map(entry.encode, entries)))
            log.sign_checkpoint()
        (folder / "answer").write_bytes(ANSWER)

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._monkeypatch.setattr(sys, "argv", ["shikaku", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        code = ended.value.code
        return int(code or 0), captured.out, captured.err


@pytest.fixture
def shikaku(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Audit:
    return Audit(tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [["audit", name] for name in ("verify", "export", "keys", "submit")]
    + [["receipt", "make"], ["receipt", "verify"], ["witness"]],
)
def test_help_of_every_command_teaches_by_example(shikaku: Audit, command: list[str]) -> None:
    code, out, _ = shikaku(*command, "--help")
    assert code == Exit.OK and "Example" in out


def test_all_logs_of_a_data_folder_are_checked_under_the_operators_own_key(shikaku: Audit) -> None:
    code, out, _ = shikaku("audit", "verify", *shikaku.where)
    assert code == Exit.OK
    assert out == f"{shikaku.log}: shikaku.invalid/0: as signed; 300 entries, 300 signed, 1 checkpoints agree\n"
    assert shikaku("audit", "keys", *shikaku.where)[1] == f"{shikaku.vkey}\n"
    code, out, _ = shikaku("audit", "verify", "--json", *shikaku.where)
    (found,) = json.loads(out)
    assert found["ok"] is True and found["report"]["size"] == 300


def test_what_does_not_fit_is_one_line_and_ends_with_1(shikaku: Audit) -> None:
    segment = shikaku.log / "segment-0000000000000000"
    data = bytearray(segment.read_bytes())
    data[4200] ^= 1
    segment.write_bytes(data)
    code, out, _ = shikaku("audit", "verify", shikaku.log, "--key", shikaku.vkey)
    assert code == Exit.NEGATIVE
    assert out.startswith(f"problem: {shikaku.log}: segment-0000000000000000: entry 0 at byte 4096 is damaged")
    assert "NOT as signed" in out.splitlines()[-1]


def test_a_checkpoint_from_elsewhere_shows_a_roll_back(shikaku: Audit) -> None:
    held = shikaku.folder / "held"
    later = notes.Checkpoint(shikaku.signer.verifier.name, 301, b"r" * 32)
    held.write_bytes(notes.sign_checkpoint(later, shikaku.signer).encode())
    code, out, _ = shikaku("audit", "verify", "--checkpoint", held, *shikaku.where)
    assert code == Exit.NEGATIVE
    assert "problem: " in out and "held: it was signed with 301 entries, the log holds 300: 1 are missing" in out


def test_a_part_is_exported_by_entries_and_by_time(shikaku: Audit, tmp_path: Path) -> None:
    code, out, _ = shikaku("audit", "export", tmp_path / "one", "--log", shikaku.log, "--from", 10, "--to", 20)
    assert code == Exit.OK and out.endswith("entries 10 to 19 of 300 in shikaku.invalid/0\n")
    code, out, _ = shikaku(
        *("audit", "export", tmp_path / "two", "--log", shikaku.log),
        *("--from", "2026-11-23T08:00:10+09:00", "--to", "2026-11-22T23:00:20Z"),
    )
    assert code == Exit.OK and "entries 10 to 19 of 300" in out
    for bundle in ("one", "two"):
        wanted = ("--from", 10, "--to", 20)
        assert shikaku("audit", "verify", tmp_path / bundle, "--key", shikaku.vkey, *wanted)[0] == Exit.OK
    assert shikaku("audit", "export", tmp_path / "all", *shikaku.where[:2])[1].endswith(
        "0 to 299 of 300 in shikaku.invalid/0\n"
    )


def test_a_receipt_is_made_and_checked(shikaku: Audit, tmp_path: Path) -> None:
    path, answer = tmp_path / "answer.tlog-proof", tmp_path / "answer"
    assert shikaku("receipt", "make", "0-7", "--out", path, *shikaku.where[:2])[0] == Exit.OK
    assert shikaku("receipt", "make", "0-7", "--log", shikaku.log)[1] == path.read_text()
    code, out, _ = shikaku("receipt", "verify", path, "--answer", answer, "--key", shikaku.vkey)
    assert code == Exit.OK
    assert out == "proved: entry 7 of 300 in shikaku.invalid/0: check by card, request req-7\n"
    other = tmp_path / "other"
    other.write_bytes(b"{}")
    code, _, err = shikaku("receipt", "verify", path, "--answer", other, "--key", shikaku.vkey)
    assert code == Exit.NEGATIVE and "not proved: the answer is not the one that was logged" in err
    stranger = support.signer().verifier.vkey
    code, _, err = shikaku("receipt", "verify", path, "--answer", answer, "--key", stranger)
    assert code == Exit.NEGATIVE and "key was not given" in err


def test_wrong_input_is_one_line(shikaku: Audit, tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    shikaku("receipt", "make", "0-7", "--log", shikaku.log, "--out", path)
    (tmp_path / "bad.toml").write_text("name = 1")
    (tmp_path / "garbage").write_bytes(b"\xff\x00")
    keyed = ("--key", shikaku.vkey)
    for arguments, expected in (
        (("audit", "verify", tmp_path / "nowhere", *keyed), Exit.STORE),
        (("audit", "verify", tmp_path, *keyed), Exit.STORE),
        (("audit", "verify", tmp_path), Exit.USAGE),
        (("audit", "verify", "--data", tmp_path / "nowhere"), Exit.STORE),
        (("audit", "verify", *shikaku.where[:2], "--master", tmp_path / "else" / "master.key"), Exit.STORE),
        (("audit", "verify", shikaku.log, "--key", "x"), Exit.USAGE),
        (("audit", "verify", shikaku.log, *keyed, "--witness", "x"), Exit.USAGE),
        (("audit", "verify", shikaku.log, *keyed, "--require", 1), Exit.USAGE),
        (("audit", "verify", shikaku.log, *keyed, "--checkpoint", tmp_path / "nowhere"), Exit.USAGE),
        (("audit", "verify", shikaku.log, *keyed, "--checkpoint", tmp_path / "garbage"), Exit.NEGATIVE),
        (("audit", "verify", shikaku.log, *keyed, "--from", "x", "--to", "y"), Exit.USAGE),
        (("audit", "export", tmp_path, "--log", shikaku.log), Exit.USAGE),
        (("audit", "export", tmp_path / "out", "--log", shikaku.log, "--to", 301), Exit.USAGE),
        (("audit", "export", tmp_path / "out", "--log", shikaku.log, "--from", "today"), Exit.USAGE),
        (("audit", "export", tmp_path / "out", "--log", shikaku.log, "--from", "2026-11-23"), Exit.USAGE),
        (("audit", "export", tmp_path / "out", "--log", shikaku.log, "--to", "1999-01-01T00:00Z"), Exit.USAGE),
        (("audit", "submit", *shikaku.where), Exit.USAGE),
        (("audit", "submit", "--witness", "x", *shikaku.where), Exit.USAGE),
        (("audit", "submit", "--witness", f"http://x={shikaku.vkey}", *shikaku.where), Exit.USAGE),
        (("receipt", "make", "0-300", "--log", shikaku.log), Exit.USAGE),
        (("receipt", "make", "7", "--log", shikaku.log), Exit.USAGE),
        (("receipt", "make", "9-7", *shikaku.where[:2]), Exit.STORE),
        (("receipt", "make", "0-7", "--log", tmp_path), Exit.STORE),
        (("receipt", "make", "0-7", "--log", shikaku.log, "--out", tmp_path / "no" / "file"), Exit.USAGE),
        (("receipt", "verify", tmp_path / "nowhere", "--answer", path, *keyed), Exit.USAGE),
        (("receipt", "verify", path, "--answer", path, "--key", "x"), Exit.USAGE),
        (("receipt", "verify", tmp_path / "garbage", "--answer", path, *keyed), Exit.NEGATIVE),
        (("witness", tmp_path / "nowhere.toml"), Exit.USAGE),
        (("witness", tmp_path / "bad.toml"), Exit.USAGE),
        (("witness", tmp_path / "w.toml", "--new", "a b"), Exit.USAGE),
        (("witness", tmp_path / "w.toml", "--new", "a", "--log", "x"), Exit.USAGE),
    ):
        code, out, err = shikaku(*arguments)
        assert code == expected, (arguments, out, err)
        assert (err or out).count("\n") >= 1 and "defect" not in err, arguments
    assert not (tmp_path / "out").exists()


def test_a_witness_looks_at_a_folder_once(shikaku: Audit, tmp_path: Path) -> None:
    path = tmp_path / "w" / "witness.toml"
    code, key, _ = shikaku("witness", path, "--new", "witness.example/w1", "--log", shikaku.vkey)
    assert code == Exit.OK and notes.parse_vkey(key).scheme is notes.Scheme.COSIGNATURE
    assert shikaku("witness", path, "--new", "witness.example/w1")[0] == Exit.STORE
    code, out, _ = shikaku("witness", path, "--once", shikaku.log)
    assert code == Exit.OK and out.startswith("— witness.example/w1 ")
    checked = ("audit", "verify", "--witness", key.strip(), "--require", 1, *shikaku.where)
    assert shikaku(*checked)[0] == Exit.OK
    with LogWriter(shikaku.log.parent / "1", shikaku.signer) as log:
        log.append([entry.encode(some_entry(1))])
        log.sign_checkpoint()
    code, _, err = shikaku("witness", path, "--once", shikaku.log.parent / "1")
    assert code == Exit.NEGATIVE and "not signed (409)" in err
    (path.parent / "witness.key").unlink()
    code, _, err = shikaku("witness", path, "--once", shikaku.log)
    assert code == Exit.STORE and "[audit.key]" in err
