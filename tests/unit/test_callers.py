"""Asks whether ids, scopes, keys and certificates of callers are taken in their forms only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.callers import (
    SCOPES_OF,
    Role,
    Scope,
    decode_base64url,
    encode_base64url,
    read_id,
    read_jwks,
    read_name,
    read_scopes,
    read_subject,
    read_thumbprint,
    thumbprint_of,
)
from engine.errors import CallerInputError
from tests.support.callers import Authority, ec_key, jwk, number, rsa_key


@pytest.mark.parametrize("text", ["1311111114", "0110113719", " 1311111114 ", "１３１１１１１１１４"])
def test_an_institution_is_its_code(text: str) -> None:
    assert read_id(text, Role.INSTITUTION) in ("1311111114", "0110113719")


@pytest.mark.parametrize("text", ["1311111111", "131111111", "", "kokuho-1", "13111111144", "983205673214"])
def test_no_other_id_is_an_institutions(text: str) -> None:
    with pytest.raises(CallerInputError) as caught:
        read_id(text, Role.INSTITUTION)
    assert caught.value.field == "id" and (not text or text not in caught.value.detail)


@pytest.mark.parametrize("text", ["01130012", "kokuho-1", "A", "a.b_c", "x" * 16])
def test_others_have_short_names(text: str) -> None:
    assert read_id(text, Role.INSURER) == text


@pytest.mark.parametrize("text", ["", "x" * 17, "a b", "-a", "見本", "a\n", "983205673214", "1311111114", "a/b"])
def test_other_ids_are_refused(text: str) -> None:
    with pytest.raises(CallerInputError):
        read_id(text, Role.PORTAL)


@pytest.mark.parametrize("text", ["", " ", "x" * 201, "a\nb", "\x1b[0m"])
def test_names_are_printable(text: str) -> None:
    with pytest.raises(CallerInputError):
        read_name(text)


def test_only_institutions_check() -> None:
    assert Scope.CHECK in SCOPES_OF[Role.INSTITUTION]
    for role in set(Role) - {Role.INSTITUTION}:
        assert not SCOPES_OF[role] & {Scope.CHECK, Scope.BATCH}
        with pytest.raises(CallerInputError):
            read_scopes(["eligibility.check"], role)
    assert read_scopes([], Role.INSURER) == (Scope.INSURERS,)
    assert read_scopes(["eligibility.check"] * 2, Role.INSTITUTION) == (Scope.CHECK,)


def test_thumbprints_and_subjects_have_one_spelling(tmp_path: Path) -> None:
    file, _, certificate = Authority().issue(tmp_path, "clinic")
    thumbprint = thumbprint_of(file.read_bytes())
    spelt = ":".join(f"{byte:02X}" for byte in thumbprint)
    assert read_thumbprint(spelt) == read_thumbprint(thumbprint.hex()) == thumbprint
    assert read_subject("CN=clinic") == certificate.subject.rfc4514_string()


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "g" * 64, "00 " * 32])
def test_other_thumbprints_are_refused(text: str) -> None:
    with pytest.raises(CallerInputError):
        read_thumbprint(text)


@pytest.mark.parametrize("text", ["", "clinic", "CN=", "=x"])
def test_other_subjects_are_refused(text: str) -> None:
    with pytest.raises(CallerInputError):
        read_subject(text)


def test_a_file_without_a_certificate_is_refused() -> None:
    with pytest.raises(CallerInputError):
        thumbprint_of(b"no certificate")


def test_keys_of_both_kinds_are_read() -> None:
    both = {"keys": [jwk(rsa_key(), "r"), jwk(ec_key(), "e")]}
    assert [(key.kid, str(key.algorithm)) for key in read_jwks(json.dumps(both).encode())] == [
        ("r", "RS384"),
        ("e", "ES384"),
    ]
    assert read_jwks(json.dumps(jwk(ec_key())).encode())[0].kid == "a"


def wrong_keys() -> list[Any]:
    good, curve = jwk(rsa_key()), jwk(ec_key())
    return [
        [],
        {"keys": []},
        {"keys": [good] * 9},
        {"keys": "x"},
        {"keys": [7]},
        {**good, "d": "AQAB"},
        {**curve, "d": "AQAB"},
        {"kty": "oct", "k": "AQAB", "kid": "a"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AQAB", "kid": "a"},
        {name: value for name, value in good.items() if name != "kid"},
        {**good, "kid": ""},
        {**good, "kid": "a b"},
        {**good, "kid": "x" * 65},
        {**good, "alg": "RS256"},
        {**good, "alg": "ES384"},
        {**good, "use": "enc"},
        {**good, "key_ops": ["sign"]},
        {**good, "e": number(3)},
        {**good, "e": number(65538)},
        {**good, "n": number(2**1023 + 1)},
        {**good, "n": number(2**4096 + 1)},
        {**good, "n": good["n"] + "="},
        {**good, "n": ""},
        jwk(ec_key("", "P-256")),
        {**curve, "x": curve["y"], "y": curve["y"]},
        {**curve, "x": "+/"},
        {**curve, "kty": "RSA"},
    ]


@pytest.mark.parametrize("found", wrong_keys(), ids=range(len(wrong_keys())))
def test_other_keys_are_refused(found: Any) -> None:
    with pytest.raises(CallerInputError):
        read_jwks(json.dumps(found).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b"null", b'"x"'])
def test_what_is_no_json_object_is_no_key(data: bytes) -> None:
    with pytest.raises(CallerInputError):
        read_jwks(data)


def test_base64url_has_one_spelling() -> None:
    for size in range(40):
        data = bytes(range(size))
        assert decode_base64url(encode_base64url(data)) == data
    for text in ("A", "AB==", "AB", "A+", "A/", "A A", "AAAAA", "é"):
        assert text == "AA" or decode_base64url(text) is None
