"""Asks whether the register of callers keeps what it was told, tells it to every process, and stands many callers."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import register as registers
from engine.callers import Role, Scope, Status
from engine.errors import (
    CallerExistsError,
    CallerInputError,
    CallerMissingError,
    KeyMismatchError,
    StoreMissingError,
    StoreVersionError,
)
from engine.register import Register, RegisterWriter
from tests.support.callers import ec_key, public_keys

ID = b"key-id-8"
CHECK = (Scope.CHECK,)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RegisterWriter]:
    register = RegisterWriter(tmp_path / "callers", key_id=ID)
    yield register
    register.close()


def add(writer: RegisterWriter, id_: str = "1311111114") -> None:
    writer.add(id_, name="見本", role=Role.INSTITUTION, scopes=CHECK, now_ms=7)


def test_what_was_added_is_found(writer: RegisterWriter) -> None:
    before = writer.version
    add(writer)
    add(writer, "0110113719")
    found = writer.get("0110113719")
    assert found is not None and (found.number, found.scopes, found.changed_ms) == (1, CHECK, 7)
    assert [one.id for one in writer.callers()] == ["0110113719", "1311111114"]
    assert writer.version > before
    assert writer.get("x") is writer.get("") is writer.get("見" * 100) is None


def test_nothing_is_added_twice_and_several_together_or_not_at_all(writer: RegisterWriter) -> None:
    add(writer)
    with pytest.raises(CallerExistsError):
        writer.add_many([("a", "a", Role.PORTAL, ()), ("1311111114", "b", Role.INSTITUTION, CHECK)], now_ms=1)
    assert writer.get("a") is None


def test_a_certificate_has_one_caller(writer: RegisterWriter) -> None:
    add(writer)
    add(writer, "0110113719")
    for field, value in (("thumbprints", b"t" * 32), ("subjects", "CN=" + "x" * 1000), ("api_keys", b"k" * 32)):
        writer.add_to("1311111114", field, value, now_ms=1)
        for id_ in ("1311111114", "0110113719"):
            with pytest.raises(CallerExistsError):
                writer.add_to(id_, field, value, now_ms=1)
    assert writer.by_thumbprint(b"t" * 32) == writer.by_subject("CN=" + "x" * 1000) == writer.by_api_key(b"k" * 32)
    assert writer.remove_from("1311111114", "thumbprints", b"t" * 32, now_ms=9).tokens_from_ms == 10
    assert writer.by_thumbprint(b"t" * 32) is None
    with pytest.raises(CallerMissingError):
        writer.remove_from("1311111114", "thumbprints", b"t" * 32, now_ms=1)
    writer.add_to("0110113719", "thumbprints", b"t" * 32, now_ms=1)


def test_keys_are_rotated(writer: RegisterWriter) -> None:
    add(writer)
    writer.add_keys("1311111114", public_keys(ec_key(), "old"), now_ms=1)
    writer.add_keys("1311111114", public_keys(ec_key("b"), "new"), now_ms=1)
    with pytest.raises(CallerExistsError):
        writer.add_keys("1311111114", public_keys(ec_key("c"), "new"), now_ms=1)
    assert [key.kid for key in writer.remove_key("1311111114", "old", now_ms=5).keys] == ["new"]
    with pytest.raises(CallerMissingError):
        writer.remove_key("1311111114", "old", now_ms=5)


def test_there_are_bounds(writer: RegisterWriter) -> None:
    add(writer)
    for n in range(8):
        writer.add_to("1311111114", "thumbprints", bytes([n]) * 32, now_ms=1)
        writer.add_keys("1311111114", public_keys(ec_key(), f"k{n}"), now_ms=1)
    with pytest.raises(CallerInputError):
        writer.add_to("1311111114", "thumbprints", b"9" * 32, now_ms=1)
    with pytest.raises(CallerInputError):
        writer.add_keys("1311111114", public_keys(ec_key(), "k9"), now_ms=1)
    assert writer.by_thumbprint(b"9" * 32) is None


def test_suspended_callers_stay_and_their_tokens_do_not(writer: RegisterWriter) -> None:
    add(writer)
    assert writer.suspend("1311111114", now_ms=50).status is Status.SUSPENDED
    found = writer.resume("1311111114", now_ms=60)
    assert found.is_active and found.tokens_from_ms == 51
    with pytest.raises(CallerMissingError):
        writer.suspend("x", now_ms=1)


def _add_elsewhere(path: Path) -> None:
    other = RegisterWriter(path, key_id=ID)
    add(other, "0110113719")
    other.close()


def test_another_process_changes_it_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "callers"
    RegisterWriter(path, key_id=ID).close()
    reader = Register(path, key_id=ID)
    before = reader.version
    child = multiprocessing.get_context("spawn").Process(target=_add_elsewhere, args=(path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert reader.version > before and reader.get("0110113719") is not None
    reader.close()


def test_what_is_no_register_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError):
        Register(tmp_path / "none", key_id=ID)
    RegisterWriter(tmp_path / "one", key_id=ID).close()
    with pytest.raises(KeyMismatchError):
        Register(tmp_path / "one", key_id=b"another!")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "data.mdb").write_bytes(b"x" * 8192)
    with pytest.raises(StoreVersionError):
        Register(tmp_path / "two", key_id=ID)


def test_numbers_run_out_before_the_buckets(writer: RegisterWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registers, "CALLERS_MAX", 1)
    add(writer)
    with pytest.raises(registers.StoreFullError):
        add(writer, "0110113719")


def test_a_country_of_institutions_costs_a_reader_nothing(tmp_path: Path) -> None:
    """213,000 of them: opening, the question whether anything changed, and looking one up."""
    writer = RegisterWriter(tmp_path / "callers", key_id=ID)
    writer.add_many([(f"c{n}", "見本病院", Role.INSURER, CHECK) for n in range(213_000)], now_ms=1)
    writer.close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    reader = Register(tmp_path / "callers", key_id=ID)
    for n in range(0, 213_000, 213):
        assert reader.get(f"c{n}") is not None and reader.version
    took = time.perf_counter() - begun
    reader.close()
    assert took < 2.0, "1,000 look-ups"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
