"""Tests of engine/audit/notes: the standards' own examples, every malformed note refused, and who must have signed."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audit import merkle, notes
from engine.audit.notes import Checkpoint, Policy, Scheme, Signature, Verifier
from engine.errors import AuditNoteError, AuditSignatureError
from tests.support.audit import ORIGIN, signer, witness

# c2sp.org/signed-note has this key and this note as its example.
EXAMPLE_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
""".encode()

# c2sp.org/signed-note: a text with an empty line in it.
POEM = """\
Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5dd\
nGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
""".encode()

# c2sp.org/tlog-cosignature: a checkpoint with a cosignature that states 1679315147.
COSIGNED = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJ\
urmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB\
9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
""".encode()

ROOT = b"r" * 32
CHECKPOINT = Checkpoint(ORIGIN, 7, ROOT)


def test_the_standards_example_verifies_and_no_other_text() -> None:
    key = notes.parse_vkey(EXAMPLE_VKEY)
    assert (key.name, key.scheme, key.vkey) == ("example.com/foo", Scheme.NOTE, EXAMPLE_VKEY)
    note = notes.parse(EXAMPLE_NOTE)
    assert note.text == "This is an example message.\n" and note.encode() == EXAMPLE_NOTE
    assert notes.verify(note, [key]) == {key: 0}
    with pytest.raises(AuditSignatureError):
        notes.verify(notes.parse(EXAMPLE_NOTE.replace(b"an", b"no", 1)), [key])


def test_the_text_ends_at_the_last_empty_line() -> None:
    note = notes.parse(POEM)
    assert note.text.endswith("sole:\n\ned è subito sera.\n") and note.encode() == POEM
    assert note.signatures[0].key_id == bytes.fromhex("367ba04b")


def test_the_standards_cosigned_checkpoint_is_read() -> None:
    note = notes.parse(COSIGNED)
    checkpoint = notes.parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex()[:8] == "0ac5186a" and checkpoint.text() == note.text
    assert struct.unpack(">Q", note.signatures[1].data[:8]) == (1679315147,)
    assert note.encode() == COSIGNED


def test_a_cosignature_is_over_header_time_and_text() -> None:
    key = witness()
    signature = key.sign(CHECKPOINT.text(), 1679315147)
    assert key.verifier.check(CHECKPOINT.text(), signature) == 1679315147
    plain = Verifier(key.verifier.name, Scheme.NOTE, key.verifier.public)
    message = f"cosignature/v1\ntime 1679315147\n{CHECKPOINT.text()}"
    plain.check(message, Signature(plain.name, plain.key_id, signature.data[8:]))
    assert key.verifier.key_id != plain.key_id
    later = Signature(signature.name, signature.key_id, struct.pack(">Q", 1679315148) + signature.data[8:])
    for wrong in (later, Signature(signature.name, signature.key_id, b"\xff" + signature.data[1:])):
        with pytest.raises(AuditSignatureError):
            key.verifier.check(CHECKPOINT.text(), wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+530d903a",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "a b+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        EXAMPLE_VKEY.replace("530d903a", "530d903b"),
        EXAMPLE_VKEY.replace("530d903a", "530D903A"),
        EXAMPLE_VKEY.replace("foo", "bar"),
        EXAMPLE_VKEY[:-1] + "l",
        EXAMPLE_VKEY[:-4],
        "example.com/foo+530d903a+" + base64.b64encode(b"\x02" + bytes(32)).decode(),
        "example.com/foo+530d903a+é",
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(AuditNoteError):
        notes.parse_vkey(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        EXAMPLE_NOTE[:-1],
        EXAMPLE_NOTE + b"\n",
        EXAMPLE_NOTE + b"x\n",
        EXAMPLE_NOTE.replace(b"\n\n", b"\n"),
        EXAMPLE_NOTE.replace(b"\n", b"\r\n"),
        EXAMPLE_NOTE.replace(b"This", b"\tThis"),
        EXAMPLE_NOTE.replace(b"This", b"\xffThis"),
        EXAMPLE_NOTE.replace("—".encode(), b"-"),
        EXAMPLE_NOTE.replace(b"example.com/foo ", b""),
        EXAMPLE_NOTE.replace(b"example.com/foo", b"example+com"),
        EXAMPLE_NOTE.replace(b"example.com/foo", "example\N{NO-BREAK SPACE}com".encode()),
        EXAMPLE_NOTE.replace(b"aQM=", b"aQM"),
        EXAMPLE_NOTE.replace(b"aQM=", b"aQN="),
        "text\n\n— name AAAAAA==\n".encode(),
        "text\n\n— name \n".encode(),
        EXAMPLE_NOTE + EXAMPLE_NOTE.splitlines(keepends=True)[-1] * notes.SIGNATURES_MAX,
        b"x" * notes.NOTE_BYTES_MAX + EXAMPLE_NOTE,
    ],
)
def test_what_is_no_note_is_refused(data: bytes) -> None:
    with pytest.raises(AuditNoteError):
        notes.parse(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "origin\n7\n",
        f"\n7\n{notes.encode64(ROOT)}\n",
        f"origin\n07\n{notes.encode64(ROOT)}\n",
        f"origin\n-7\n{notes.encode64(ROOT)}\n",
        f"origin\n７\n{notes.encode64(ROOT)}\n",
        f"origin\n{1 << 63}\n{notes.encode64(ROOT)}\n",
        f"origin\n{'9' * 5000}\n{notes.encode64(ROOT)}\n",
        f"origin\n7\n{notes.encode64(ROOT[1:])}\n",
        f"origin\n7\n{notes.encode64(ROOT)}",
        f"origin\n7\n{notes.encode64(ROOT)}\n\n",
        f"origin\n7\n{notes.encode64(ROOT)}\nextension\n\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(AuditNoteError):
        notes.parse_checkpoint(text)


def test_an_empty_tree_and_extension_lines_are_checkpoints() -> None:
    for checkpoint in (Checkpoint("o", 0, merkle.EMPTY_ROOT), Checkpoint("o", 1, ROOT, ("a", "b c"))):
        assert notes.parse_checkpoint(checkpoint.text()) == checkpoint


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    for text in (data, b"origin\n7\n" + data, EXAMPLE_NOTE + data, data + EXAMPLE_NOTE):
        try:
            note = notes.parse(text)
            notes.parse_checkpoint(note.text)
        except AuditNoteError:
            continue
        assert note.encode() == text


# --- who must have signed -------------------------------------------------------------------------------------------


def policy(*witnesses: int, required: int = 0) -> Policy:
    return Policy(signer().verifier, tuple(witness(number).verifier for number in witnesses), required)


def signed(*witnesses: int) -> bytes:
    note = notes.sign_checkpoint(CHECKPOINT, signer())
    more = [witness(number).sign(note.text, 1000 + number) for number in witnesses]
    return notes.cosigned(note, more).encode()


def test_a_log_signs_its_own_origin_only() -> None:
    assert notes.check(signed(), policy()).checkpoint == CHECKPOINT
    with pytest.raises(AuditNoteError):
        notes.sign_checkpoint(Checkpoint("other", 7, ROOT), signer())
    with pytest.raises(AuditSignatureError, match="another log"):
        notes.check(signed(), Policy(signer(name="other").verifier))
    with pytest.raises(AuditSignatureError, match="not signed by the log"):
        notes.check(signed(), Policy(signer(seed=2).verifier))


def test_k_of_n_witnesses_must_have_signed() -> None:
    found = notes.check(signed(1, 3), policy(1, 2, 3, required=2))
    assert found.witnessed == {"witness.example/w1": 1001, "witness.example/w3": 1003}
    for wanted in (policy(1, 2, 3, required=3), policy(1, 2, required=2), policy(2, required=1)):
        with pytest.raises(AuditSignatureError, match="required"):
            notes.check(signed(1, 3), wanted)


def test_a_key_counts_once_under_however_many_names() -> None:
    key = witness(1)
    alias = notes.Signer("alias", key._key, Scheme.COSIGNATURE)
    note = notes.sign_checkpoint(CHECKPOINT, signer())
    data = notes.cosigned(note, [key.sign(note.text, 1), alias.sign(note.text, 1)]).encode()
    with pytest.raises(AuditSignatureError, match="1 known witnesses"):
        notes.check(data, Policy(signer().verifier, (key.verifier, alias.verifier), 2))


def test_a_wrong_signature_of_a_known_key_spoils_the_note_and_of_an_unknown_one_does_not() -> None:
    data = signed(1)
    bad = witness(2).sign("another text\n", 5).line().encode()
    assert notes.check(data + bad, policy(1, required=1)).witnessed
    with pytest.raises(AuditSignatureError, match=r"witness\.example/w2"):
        notes.check(data + bad, policy(1, 2, required=1))


def test_a_newer_cosignature_replaces_an_older_one_of_the_same_key() -> None:
    note = notes.parse(signed(1, 2))
    newer = notes.cosigned(note, [witness(1).sign(note.text, 9999)])
    assert len(newer.signatures) == 3
    assert notes.check(newer.encode(), policy(1, 2)).witnessed["witness.example/w1"] == 9999
