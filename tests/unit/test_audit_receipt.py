"""Tests of receipts: small, proved by two verifiers that share no code, and refused by both for the same bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit import entry, notes, receipt, receipt_verifier
from engine.audit.log import LogReader, LogWriter
from engine.audit.notes import Policy
from engine.audit.receipt import Receipt
from engine.audit.receipt_verifier import KeyFormatError, ReceiptError
from engine.errors import AuditDamagedError, AuditProofError, AuditRangeError, ShikakuError
from tests.support.audit import SEGMENT_BYTES, signer, some_entries, some_entry, witness

ANSWER = b'{"verdict":"VALID"}'
PLACE = 321
SIZE = 700
VKEY = signer().verifier.vkey
WITNESSES = [witness(number).verifier.vkey for number in (1, 2, 3)]
POLICY = Policy(signer().verifier, tuple(witness(number).verifier for number in (1, 2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("receipts") / "log"
    digest = hashlib.sha256(ANSWER).digest()
    entries = some_entries(SIZE)
    entries[PLACE] = entry.encode(msgspec.structs.replace(some_entry(PLACE), answer_digest=digest))
    with LogWriter(path, signer(), segment_bytes=SEGMENT_BYTES) as log:
        log.append(entries)
        note = log.sign_checkpoint()
        more = [witness(number).sign(note.text, 1_795_388_400) for number in (1, 3)]
        (path / "checkpoint.cosigned").write_bytes(notes.cosigned(note, more).encode())
        log.append(some_entries(10, SIZE))
        log.sign_checkpoint()
        log.append(some_entries(1, SIZE + 10))
    return path


@pytest.fixture(scope="module")
def text(folder: Path) -> bytes:
    with LogReader(folder) as log:
        return receipt.make(log, PLACE)


def both(data: bytes, answer: bytes | None = ANSWER, required: int = 0) -> str | None:
    """Why a receipt is refused, by the verifier that stands alone; None if not. The other must come to the same."""
    policy = msgspec.structs.replace(POLICY, required=required)
    try:
        receipt.verify(data, policy, answer)
        ours = True
    except ShikakuError:
        ours = False
    try:
        receipt_verifier.verify(data, answer, [VKEY], WITNESSES, required)
        reason = None
    except ReceiptError as error:
        reason = str(error)
    assert ours == (reason is None), reason
    return reason


def test_a_receipt_proves_what_was_logged(text: bytes) -> None:
    assert text.startswith(b"c2sp.org/tlog-proof@v1\nextra ") and len(text) <= 2048
    proved = receipt.verify(text, POLICY, ANSWER)
    assert proved.index == PLACE and proved.checkpoint.size == SIZE
    assert proved.entry.answer_digest == hashlib.sha256(ANSWER).digest()
    alone = receipt_verifier.verify(text, ANSWER, [VKEY], WITNESSES, 2)
    assert (
        alone.witnesses
        == proved.witnessed
        == {"witness.example/w1": 1_795_388_400, "witness.example/w3": 1_795_388_400}
    )
    assert (alone.index, alone.size, alone.at_ms) == (PLACE, SIZE, proved.entry.at_ms)
    assert (alone.caller, alone.request_id) == (proved.entry.caller, proved.entry.request_id)
    assert receipt.parse(text).encode() == text


def test_a_receipt_of_a_log_of_134_million_entries_has_less_than_2_kb() -> None:
    longest = entry.encode(msgspec.structs.replace(some_entry(1), request_id="r" * 64, operator="o" * 32))
    note = notes.sign_checkpoint(notes.Checkpoint(signer().verifier.name, 1 << 27, b"r" * 32), signer())
    more = notes.cosigned(note, [witness().sign(note.text, 1_795_388_400)])
    assert len(Receipt(longest, (1 << 27) - 1, (b"h" * 32,) * 27, more).encode()) <= 2048


def test_the_newest_checkpoint_serves_where_witnesses_have_not_signed(folder: Path) -> None:
    with LogReader(folder) as log:
        newer = receipt.verify(receipt.make(log, SIZE + 3), POLICY)
        assert newer.checkpoint.size == SIZE + 10 and newer.witnessed == {}
        for index in (SIZE + 10, SIZE + 11, -1):
            with pytest.raises(AuditRangeError):
                receipt.make(log, index)


def test_reasons_are_clear(text: bytes, folder: Path) -> None:
    lines = text.split(b"\n")
    assert "another" not in (both(text) or "") and both(text) is None
    assert "SHA-256 differs" in (both(text, b"another answer") or "")
    assert "3 must have" in (both(text, required=3) or "")
    assert "index" in (both(text.replace(b"index 321", b"index 700")) or "")
    assert "root" in (both(text.replace(b"index 321", b"index 320")) or "")
    assert "too short" in (both(b"\n".join(lines[:3] + lines[4:])) or "")
    assert "too long" in (both(b"\n".join(lines[:3] + lines[3:4] + lines[3:])) or "")
    assert "no receipt" in (both(b"") or "")
    assert "no receipt" in (both(ANSWER) or "")
    assert "key was not given" in (both(text.replace(b"\nlog.example/shikaku/0\n", b"\nlog.example/other\n")) or "")
    assert "does not fit" in (both(text.replace(b"\n700\n", b"\n701\n")) or "")
    unsigned = b"".join(line + b"\n" for line in lines[:-1] if b"\xe2\x80\x94 log.example" not in line)
    assert "not signed by the log" in (both(unsigned) or "")


@settings(max_examples=400)
@given(st.data())
def test_a_changed_receipt_is_refused_by_both(text: bytes, draw: st.DataObject) -> None:
    data = bytearray(text)
    at = draw.draw(st.integers(0, len(data) - 1))
    how = draw.draw(st.sampled_from(["bit", "byte", "cut", "insert", "twice"]))
    if how == "bit":
        data[at] ^= 1 << draw.draw(st.integers(0, 7))
    elif how == "byte":
        data[at : at + 1] = draw.draw(st.binary(min_size=1, max_size=2).filter(lambda each: each != data[at : at + 1]))
    elif how == "cut":
        del data[at:]
    elif how == "insert":
        data[at:at] = draw.draw(st.binary(min_size=1, max_size=40))
    else:
        data[at:at] = data[at : at + 45]
    reason = both(bytes(data))
    # A further signature line of nobody known is no change; nor is a line of a witness that nobody asked for.
    if reason is None:
        assert receipt.verify(bytes(data), POLICY, ANSWER).entry == receipt.verify(text, POLICY, ANSWER).entry


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_by_both(data: bytes) -> None:
    assert both(data) is not None
    assert both(b"c2sp.org/tlog-proof@v1\n" + data) is not None


@settings(max_examples=300)
@given(st.integers(0, 50), st.data())
def test_both_agree_on_what_is_an_entry(seed: int, draw: st.DataObject) -> None:
    """A log of one entry, whatever it is: its root is its leaf hash."""
    data = bytearray(entry.encode(some_entry(seed)))
    for _ in range(draw.draw(st.integers(0, 2))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    root = hashlib.sha256(b"\0" + data).digest()
    note = notes.sign_checkpoint(notes.Checkpoint(signer().verifier.name, 1, root), signer())
    both(Receipt(bytes(data), 0, (), note).encode(), None)


def test_a_log_whose_files_were_changed_gives_no_receipt(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log", signer(), segment_bytes=SEGMENT_BYTES) as log:
        log.append(some_entries(300))
        log.sign_checkpoint()
    with (tmp_path / "log" / "level-0").open("r+b") as file:
        file.seek(32 * 7)
        file.write(bytes(32))
    with LogReader(tmp_path / "log") as reader, pytest.raises(AuditProofError):
        receipt.make(reader, 6)
    with (tmp_path / "log" / "segment-0000000000000000").open("r+b") as file:
        file.seek(4096 + 60)
        file.write(b"\xff\xff")
    with pytest.raises((AuditDamagedError, AuditProofError)), LogReader(tmp_path / "log") as reader:
        receipt.make(reader, 0)


@pytest.mark.parametrize("key", ["", "a+b", "a b+00000000+AAAA", VKEY[:-2], VKEY.replace("+", "+0", 1), "n+00000000+é"])
def test_what_is_no_key_is_told_apart_from_what_is_no_proof(text: bytes, key: str) -> None:
    with pytest.raises(KeyFormatError):
        receipt_verifier.verify(text, ANSWER, [key])


def test_the_file_runs_alone(text: bytes, tmp_path: Path) -> None:
    """Copied elsewhere, in an interpreter that does not look where our packages are."""
    alone = tmp_path / "verifier.py"
    alone.write_bytes(Path(receipt_verifier.__file__).read_bytes())
    (tmp_path / "receipt").write_bytes(text)
    (tmp_path / "answer").write_bytes(ANSWER)

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(alone), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    given_keys = ("--key", VKEY, "--witness", WITNESSES[0], "--require", "1")
    code, said = run("receipt", "--answer", "answer", *given_keys)
    assert code == 0 and said.startswith("proved: entry 321 of 700 in log.example/shikaku/0")
    code, said = run("receipt", "--answer", "receipt", *given_keys)
    assert code == 1 and said.startswith("not proved: the answer is not the one")
    assert run("nowhere", "--answer", "answer", *given_keys)[0] == 2
    assert run("receipt", "--answer", "answer", "--key", "x")[0] == 2
    assert run("receipt")[0] == 2
    source = alone.read_text("utf-8")
    assert not any(f"import {package}" in source or f"from {package}" in source for package in ("engine", "api", "ext"))
