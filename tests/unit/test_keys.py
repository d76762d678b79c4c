"""Asks whether keys.py keeps purposes apart, never lets two identifiers meet, and guards the key file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from engine import keys
from engine.errors import AuditKeyError, KeyMissingError
from engine.keys import Keys

MASTER = bytes(range(32))
canonical = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x9FFF, exclude_categories=("Cc", "Cs")), max_size=12
)
insurer = st.from_regex(r"[0-9]{8}", fullmatch=True)


def test_the_same_master_gives_the_same_hashes() -> None:
    one, other = Keys(MASTER), Keys(MASTER)
    assert one.key_id == other.key_id
    assert one.card_hash("01130012", 29000, "1234", "567") == other.card_hash("01130012", 29000, "1234", "567")


def test_another_master_gives_other_hashes() -> None:
    one, other = Keys(MASTER), Keys(bytes(32))
    assert one.key_id != other.key_id
    assert one.person_hash(1) != other.person_hash(1)


def test_key_id_says_nothing_of_the_key() -> None:
    one = Keys(MASTER)
    assert len(one.key_id) == 8
    assert one.key_id not in one.index_key and one.index_key not in MASTER


def test_purposes_have_keys_of_their_own() -> None:
    derived = {keys.derive(MASTER, purpose) for purpose in (b"index", b"records", b"audit", b"")}
    assert len(derived) == 4
    assert all(len(key) == 32 for key in derived)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_master_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(KeyMissingError):
        Keys(bytes(length))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("card"), insurer, st.integers(-40_000, 70_000), canonical, canonical),
            st.tuples(st.just("certificate"), canonical, canonical),
        ),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_different_identifiers_never_share_a_message(identifiers: list[tuple[str, ...]]) -> None:
    assert message_of(identifiers[0]) != message_of(identifiers[1])


def message_of(identifier: tuple[str, ...]) -> bytes:
    if identifier[0] == "card":
        _, number, birth_date, symbol_key, number_key = identifier
        return keys.card_message(number, int(birth_date), symbol_key, number_key)
    return keys.certificate_message(identifier[1], identifier[2])


def test_kinds_are_kept_apart() -> None:
    made = Keys(MASTER)
    hashes = {
        made.person_hash(12),
        made.link_hash("12"),
        made.certificate_hash("", "12"),
        made.certificate_hash("12", ""),
    }
    assert len(hashes) == 4


def test_symbol_and_number_do_not_run_together() -> None:
    assert keys.card_message("01130012", 1, "12", "3") != keys.card_message("01130012", 1, "1", "23")
    assert keys.card_message("01130012", 12, "", "3") != keys.card_message("01130012", 1, "2", "3")


def test_create_makes_a_private_file_and_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "master.key"
    made = keys.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.load(path).key_id == made.key_id
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        keys.create(path)
    assert path.read_bytes() == before


def test_two_created_keys_differ(tmp_path: Path) -> None:
    assert keys.create(tmp_path / "a").key_id != keys.create(tmp_path / "b").key_id


@pytest.mark.parametrize("content", [None, b"", b"zz" * 32, b"00" * 31, b"00" * 33, "０".encode() * 64, b"\xff"])
def test_an_unreadable_key_file_is_named_and_not_quoted(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "master.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyMissingError) as caught:
        keys.load(path)
    assert caught.value.__cause__ is None
    assert "zzzz" not in str(caught.value)


def test_a_signing_key_is_private_made_once_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "audit.key"
    made = keys.create_signing(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.load_signing(path).private_bytes_raw() == made.private_bytes_raw()
    with pytest.raises(FileExistsError):
        keys.create_signing(path)


def test_what_is_no_signing_key_is_refused_in_one_line(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for number, data in enumerate((b"", b"garbage", other)):
        (tmp_path / str(number)).write_bytes(data)
        with pytest.raises(AuditKeyError):
            keys.load_signing(tmp_path / str(number))
    with pytest.raises(AuditKeyError):
        keys.load_signing(tmp_path / "nowhere")
