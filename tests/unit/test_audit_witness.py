"""Tests of engine/audit/witness: every status of the standard, durable state, and no way to roll a log back."""

from __future__ import annotations

import hashlib
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit import bundle, merkle, notes, witness
from engine.audit.log import LogReader, LogWriter
from engine.audit.notes import Checkpoint, Note, Policy, Scheme
from engine.audit.witness import Reply, Submission, Witness
from engine.clock import Clock
from engine.errors import AuditDamagedError, AuditLockedError, AuditMissingError, AuditNoteError, ConfigError
from tests.models import merkle as model
from tests.support import audit as support
from tests.support.audit import ORIGIN, make_log, signer, some_entries

NOW_MS = 1_795_388_400_000
ENTRIES = [b"%d" % number for number in range(60)]
OTHER = [*ENTRIES[:7], b"another", *ENTRIES[8:]]


def opened(folder: Path) -> Witness:
    return Witness(support.witness(), [signer().verifier], folder / "state", Clock(NOW_MS))


@pytest.fixture
def at(tmp_path: Path) -> Witness:
    return opened(tmp_path)


def signed(entries: list[bytes], seed: int = 1, origin: str = ORIGIN) -> Note:
    return notes.sign_checkpoint(Checkpoint(origin, len(entries), model.root(entries)), signer(seed, origin))


def body(old: int, size: int, entries: list[bytes] = ENTRIES, proof: list[bytes] | None = None) -> bytes:
    note = signed(entries[:size])
    hashes = (model.proof(old, entries[:size]) if 0 < old <= size else []) if proof is None else proof
    return Submission(old, tuple(hashes), note, notes.parse_checkpoint(note.text)).encode()


def check(reply: Reply, entries: list[bytes]) -> None:
    """An answer with the witness's signature of the checkpoint over these entries."""
    assert reply.status == 200
    key = support.witness().verifier
    (signature,) = witness.cosignatures(reply.body, signed(entries), key)
    assert key.check(signed(entries).text, signature) == NOW_MS // 1000


def test_the_standards_request_is_read() -> None:
    """c2sp.org/tlog-witness has this request as its example."""
    text = """old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa \
Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa \
opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
""".encode()
    found = witness.parse_submission(text)
    assert (found.old, len(found.proof), found.checkpoint.size, len(found.note.signatures)) == (
        20852014,
        4,
        20852163,
        2,
    )
    assert found.encode() == text


def test_a_growing_log_is_cosigned(at: Witness) -> None:
    check(at.add_checkpoint(body(0, 0)), [])
    check(at.add_checkpoint(body(0, 3)), ENTRIES[:3])
    for old, size in ((3, 3), (3, 8), (8, 8), (8, 60)):
        check(at.add_checkpoint(body(old, size)), ENTRIES[:size])
    kept = at.monitored(hashlib.sha256(ORIGIN.encode()).hexdigest())
    policy = Policy(signer().verifier, (support.witness().verifier,), 1)
    assert kept is not None and notes.check(kept, policy).checkpoint.size == 60
    assert at.monitored("0" * 64) is None


def test_an_old_size_that_is_not_the_known_one_is_told_the_known_one(at: Witness) -> None:
    check(at.add_checkpoint(body(0, 8)), ENTRIES[:8])
    for old, size in ((0, 8), (0, 60), (7, 60), (9, 60), (3, 5)):
        assert at.add_checkpoint(body(old, size)) == Reply(409, b"8\n", "text/x.tlog.size")
    assert at.size_of(ORIGIN) == 8


def test_a_roll_back_or_a_fork_is_never_signed(at: Witness) -> None:
    check(at.add_checkpoint(body(0, 30)), ENTRIES[:30])
    assert at.add_checkpoint(body(0, 20)).status == 409
    assert at.add_checkpoint(body(30, 20)).status == 400
    assert at.add_checkpoint(body(20, 20)).status == 409
    assert at.add_checkpoint(body(30, 30, OTHER)).status == 422
    assert at.add_checkpoint(body(30, 60, OTHER)).status == 422
    assert at.size_of(ORIGIN) == 30
    check(at.add_checkpoint(body(30, 60)), ENTRIES)


def test_proofs_must_be_there_and_no_longer_than_needed(at: Witness) -> None:
    assert at.add_checkpoint(body(0, 8, proof=[b"x" * 32])).status == 422
    check(at.add_checkpoint(body(0, 8)), ENTRIES[:8])
    assert at.add_checkpoint(body(8, 60, proof=[])).status == 422
    assert at.add_checkpoint(body(8, 60, proof=[*model.proof(8, ENTRIES), b"x" * 32])).status == 422
    assert at.add_checkpoint(body(8, 8, proof=[b"x" * 32])).status == 422


def test_the_empty_tree_has_one_root(at: Witness) -> None:
    note = notes.sign_checkpoint(Checkpoint(ORIGIN, 0, b"x" * 32), signer())
    assert at.add_checkpoint(b"old 0\n\n" + note.encode()).status == 422


def test_only_signed_checkpoints_of_known_logs_are_considered(at: Witness) -> None:
    other = signed(ENTRIES, origin="another.example/log")
    assert at.add_checkpoint(b"old 0\n\n" + other.encode()).status == 404
    forged = signed(ENTRIES, seed=2)
    assert at.add_checkpoint(b"old 0\n\n" + forged.encode()).status == 403
    wrong = body(0, 60).replace(b"\n60\n", b"\n59\n")
    assert at.add_checkpoint(wrong).status == 403
    assert at.size_of(ORIGIN) == 0
    both = notes.cosigned(signed(ENTRIES), forged.signatures)
    check(at.add_checkpoint(b"old 0\n\n" + both.encode()), ENTRIES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"old 0\n",
        b"old 0\n\n",
        body(0, 8).replace(b"old 0", b"old 00"),
        body(0, 8).replace(b"old 0", b"old -1"),
        body(0, 8).replace(b"old 0", b"Old 0"),
        body(0, 8).replace(b"old 0", b"old  0"),
        body(0, 8).replace(b"old 0\n", b"old 0\n!\n"),
        body(0, 8).replace(b"old 0\n", b"old 0\nAAAA\n"),
        body(0, 8).replace(b"old 0\n", b"old 0\r\n"),
        body(0, 8, proof=[b"x" * 32] * 64),
        body(0, 8)[:-1],
        body(0, 8) + b"\n",
        body(0, 8).replace(b"\n8\n", b"\n08\n"),
        b"\xff" + body(0, 8),
    ],
)
def test_what_is_no_request_is_told_so(at: Witness, data: bytes) -> None:
    assert at.add_checkpoint(data).status == 400
    with pytest.raises(AuditNoteError):
        witness.parse_submission(data)


@settings(max_examples=200)
@given(st.data())
def test_any_change_of_a_request_is_answered_and_signs_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    with opened(tmp_path_factory.mktemp("w")) as at:
        check(at.add_checkpoint(body(0, 8)), ENTRIES[:8])
        data = bytearray(body(8, 60))
        for _ in range(draw.draw(st.integers(1, 2))):
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
        reply = at.add_checkpoint(bytes(data))
        assert reply.status in (200, 400, 403, 404, 409, 422)
        if reply.status == 200:
            check(reply, ENTRIES)


def test_state_is_there_after_a_restart_and_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as at:
        check(at.add_checkpoint(body(0, 8)), ENTRIES[:8])
        with monkeypatch.context() as patch:

            def full(*_: object, **__: object) -> None:
                raise witness.durable.StoreFullError("no space left")

            patch.setattr(witness.durable, "write_atomic", full)
            with pytest.raises(witness.durable.StoreFullError):
                at.add_checkpoint(body(8, 60))
        assert at.size_of(ORIGIN) == 8
    with opened(tmp_path) as at:
        assert at.size_of(ORIGIN) == 8
        assert at.add_checkpoint(body(0, 60)).status == 409


def test_a_damaged_state_and_a_second_process_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as at:
        check(at.add_checkpoint(body(0, 8)), ENTRIES[:8])
        with pytest.raises(AuditLockedError):
            opened(tmp_path)
    (path,) = (tmp_path / "state").iterdir()
    kept = path.read_bytes()
    for data in (b"", kept.replace(b"\n8\n", b"\n7\n"), signed(ENTRIES).encode()):
        path.write_bytes(data)
        with pytest.raises(AuditDamagedError):
            opened(tmp_path)
    path.write_bytes(kept)
    opened(tmp_path).close()


def test_of_requests_at_the_same_time_one_moves_the_log_and_none_moves_it_back(at: Witness) -> None:
    check(at.add_checkpoint(body(0, 2)), ENTRIES[:2])
    sizes = list(range(3, 60))
    random.Random(1).shuffle(sizes)
    replies: list[tuple[int, Reply]] = []
    threads = [
        threading.Thread(target=lambda size=size: replies.append((size, at.add_checkpoint(body(2, size)))))
        for size in sizes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [size for size, reply in replies if reply.status == 200]
    assert at.size_of(ORIGIN) == winner
    assert {reply.body for size, reply in replies if size != winner} == {b"%d\n" % winner}


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_is_looked_at_once(at: Witness, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_log(folder, 300)
    assert at.once(folder).status == 200
    policy = Policy(signer().verifier, (support.witness().verifier,), 1)
    assert notes.check((folder / "checkpoint.cosigned").read_bytes(), policy).checkpoint.size == 300
    with LogWriter(folder, signer(), segment_bytes=support.SEGMENT_BYTES) as log:
        log.append(some_entries(100, 300))
        log.sign_checkpoint()
    assert at.once(folder).status == 200 and at.size_of(ORIGIN) == 400
    with LogReader(folder) as reader:
        bundle.export(reader, 290, 400, tmp_path / "bundle")
    assert at.once(tmp_path / "bundle").status == 200
    with pytest.raises(AuditMissingError):
        at.once(tmp_path)


def test_a_bundle_carries_the_proof_from_where_it_begins(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_log(folder, 700)
    with opened(tmp_path) as at, LogReader(folder) as reader:
        early = notes.sign_checkpoint(Checkpoint(ORIGIN, 300, reader.root(300)), signer())
        assert at.add_checkpoint(b"old 0\n\n" + early.encode()).status == 200
        bundle.export(reader, 300, 700, tmp_path / "bundle")
        assert at.once(tmp_path / "bundle").status == 200 and at.size_of(ORIGIN) == 700


def test_a_folder_that_was_rolled_back_or_rewritten_is_not_signed(at: Witness, tmp_path: Path) -> None:
    make_log(tmp_path / "log", 300)
    assert at.once(tmp_path / "log").status == 200
    make_log(tmp_path / "shorter", 200)
    assert at.once(tmp_path / "shorter").status == 409
    with LogWriter(tmp_path / "other", signer()) as log:
        log.append(some_entries(400, 1000))
        log.sign_checkpoint()
    assert at.once(tmp_path / "other").status == 422
    assert not (tmp_path / "other" / "checkpoint.cosigned").exists()
    assert at.size_of(ORIGIN) == 300


def test_cosignatures_of_one_checkpoint_are_gathered_and_older_ones_never_come_back(tmp_path: Path) -> None:
    make_log(tmp_path / "log", 5)
    (tmp_path / "log" / "checkpoint.cosigned").unlink(missing_ok=True)
    note = notes.parse((tmp_path / "log" / "checkpoint").read_bytes())
    for number in (1, 2):
        witness.keep_cosigned(tmp_path / "log", note, [support.witness(number).sign(note.text, 5)])
    kept = notes.parse((tmp_path / "log" / "checkpoint.cosigned").read_bytes())
    assert [each.name for each in kept.signatures] == [ORIGIN, "witness.example/w1", "witness.example/w2"]
    older = notes.sign_checkpoint(Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT), signer())
    witness.keep_cosigned(tmp_path / "log", older, [support.witness().sign(older.text, 5)])
    assert notes.parse((tmp_path / "log" / "checkpoint.cosigned").read_bytes()) == kept


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_new_witness_has_a_private_key_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "w" / "witness.toml"
    key = witness.create(path, 'we"ird.example/w1', [signer().verifier.vkey])
    assert (path.parent / "witness.key").stat().st_mode & 0o777 == 0o600
    found = witness.load_settings(path)
    assert found.name == 'we"ird.example/w1' and key.scheme is Scheme.COSIGNATURE
    with Witness.open(found, Clock(NOW_MS)) as at:
        assert at.signer.verifier == key and at.add_checkpoint(body(0, 8)).status == 200
    with pytest.raises(FileExistsError):
        witness.create(path, "other", [])


@pytest.mark.parametrize(
    "text",
    ["", "name = 1", 'name = "a b"', 'name = "a"\nlogs = ["x"]', 'name = "a"\nport = 70000', 'name = "a"\nx = 1', "="],
)
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "witness.toml").write_text(text)
    with pytest.raises(ConfigError):
        witness.load_settings(tmp_path / "witness.toml")
    with pytest.raises(ConfigError):
        witness.load_settings(tmp_path / "nowhere.toml")
