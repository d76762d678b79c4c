"""Asks whether only assertions that a caller signed for us, now, are taken, and each once on the whole machine."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import assertions, replays, tokens
from engine.assertions import Claims, Refused, judge
from engine.callers import Caller, Role, Scope, Status
from engine.replays import Replays
from tests.support.callers import NOW, claims, ec_key, public_keys, rsa_key, signature, signed, text

ID = "1311111114"
URL = "https://127.0.0.1:8443/token"
CALLERS = {
    ID: Caller(
        ID, 0, "見本", Role.INSTITUTION, tuple(Scope), keys=(*public_keys(ec_key()), *public_keys(rsa_key(), "r"))
    ),
    "gone": Caller("gone", 1, "x", Role.PORTAL, (), status=Status.SUSPENDED, keys=tuple(public_keys(ec_key()))),
}


def judged(assertion: str, now: float = NOW) -> Claims:
    return judge(assertion, find=CALLERS.get, audience=lambda name: name == URL, now=now)


def test_good_ones_are_taken() -> None:
    assert judged(signed(ec_key(), claims(ID, URL, jti="x"))) == Claims(ID, "x", NOW + 300, NOW)
    assert judged(signed(rsa_key(), claims(ID, URL), kid="r")).id == ID
    assert judged(signed(ec_key(), claims(ID, URL, aud=[URL], iat=None, exp=NOW + 1.5), typ=None)).issued is None
    assert judged(signed(ec_key(), claims(ID, URL), jku="https://example.org/keys", x5u="x")).id == ID


def by(**more: Any) -> Callable[[], str]:
    return lambda: signed(ec_key(), claims(ID, URL, **more))


def forged(**header: Any) -> Callable[[], str]:
    return lambda: signed(ec_key(), claims(ID, URL), **header)


def unsigned() -> str:
    head, body, _ = signed(ec_key(), claims(ID, URL), alg="none").split(".")
    return f"{head}.{body}."


def hmac_with_public_key() -> str:
    import hashlib
    import hmac

    message = f"{text(json.dumps({'alg': 'HS384', 'kid': 'a'}).encode())}.{text(json.dumps(claims(ID, URL)).encode())}"
    key = CALLERS[ID].keys[0].der
    return f"{message}.{text(hmac.digest(key, message.encode(), hashlib.sha384))}"


def zero_signature() -> str:
    return signed(ec_key(), claims(ID, URL)).rpartition(".")[0] + "." + text(bytes(96))


def der_signature() -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    message = signed(ec_key(), claims(ID, URL)).rpartition(".")[0]
    return f"{message}.{text(ec_key().sign(message.encode(), ec.ECDSA(hashes.SHA384())))}"


def other_body() -> str:
    head, _, sign = signed(ec_key(), claims(ID, URL)).split(".")
    return f"{head}.{text(json.dumps(claims(ID, URL)).encode())}.{sign}"


def with_wrong_hash() -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    message = signed(rsa_key(), claims(ID, URL), kid="r").rpartition(".")[0]
    return f"{message}.{text(rsa_key().sign(message.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


BAD: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "two parts": lambda: "a.b",
    "four parts": lambda: signed(ec_key(), claims(ID, URL)) + ".x",
    "no base64url": lambda: "a+.b.c",
    "padding": lambda: signed(ec_key(), claims(ID, URL)) + "=",
    "too long": lambda: "x" * 8193,
    "no json": lambda: signed(ec_key(), b"{"),
    "an array": lambda: signed(ec_key(), b"[]"),
    "no utf-8": lambda: signed(ec_key(), b'{"iss":"\xff"}'),
    "unsigned": unsigned,
    "hmac with the public key": hmac_with_public_key,
    "zero signature": zero_signature,
    "der signature": der_signature,
    "other body": other_body,
    "wrong hash": with_wrong_hash,
    "other key": lambda: signed(ec_key("other"), claims(ID, URL)),
    "unknown kid": forged(kid="b"),
    "no kid": forged(kid=None),
    "kid of the other algorithm": forged(kid="r"),
    "other algorithm": forged(alg="ES256"),
    "rs384 said of ec": forged(alg="RS384"),
    "critical": forged(crit=["exp"]),
    "b64": forged(b64=False),
    "other type": forged(typ="at+jwt"),
    "unknown caller": lambda: signed(ec_key(), claims("0110113719", URL)),
    "suspended": lambda: signed(ec_key(), claims("gone", URL)),
    "sub is another": by(sub="0110113719"),
    "no iss": by(iss=None),
    "no sub": by(sub=None),
    "other audience": by(aud="https://example.org/token"),
    "two audiences": by(aud=[URL, "https://example.org/token"]),
    "no audience": by(aud=None),
    "empty audience": by(aud=[]),
    "over": by(exp=NOW),
    "long over": by(exp=NOW - 1000),
    "too far ahead": by(exp=NOW + 311),
    "no exp": by(exp=None),
    "exp as text": by(exp=str(NOW + 100)),
    "exp huge": by(exp=1e300),
    "issued later": by(iat=NOW + 11),
    "issued long ago": by(iat=NOW - 311),
    "not yet": by(nbf=NOW + 11),
    "no jti": by(jti=None),
    "empty jti": by(jti=""),
    "long jti": by(jti="x" * 129),
    "jti a number": by(jti=7),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_ones_are_refused(kind: str) -> None:
    with pytest.raises(Refused):
        judged(BAD[kind]())


def test_a_changed_bit_anywhere_is_refused() -> None:
    good = signed(ec_key(), claims(ID, URL))
    for at in range(0, len(good), 7):
        changed = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        with pytest.raises(Refused):
            judged(changed)


def test_an_r_and_s_out_of_range_is_no_signature() -> None:
    key, message = CALLERS[ID].keys[0], b"m"
    good = signature(ec_key(), message)
    assert assertions.is_signed(key, message, good)
    for bad in (good[:-1], good + b"\0", bytes(48) + good[48:], good[:48] + b"\xff" * 48, b""):
        assert not assertions.is_signed(key, message, bad)


# --- once -----------------------------------------------------------------------------------------------------------


def test_each_is_accepted_once(tmp_path: Path) -> None:
    memory = Replays(tmp_path / "seen", now=NOW - 1000)
    first = Claims(ID, "x", NOW + 300, NOW)
    assert memory.accept(first, NOW) and not memory.accept(first, NOW)
    assert memory.accept(msgspec.structs.replace(first, id="other"), NOW)
    assert memory.accept(msgspec.structs.replace(first, jti="y"), NOW)
    memory.close()
    memory = Replays(tmp_path / "seen", now=NOW)
    assert memory.born == NOW - 1000 and not memory.accept(first, NOW)
    memory.close()


def test_what_ended_is_forgotten(tmp_path: Path) -> None:
    memory = Replays(tmp_path / "seen", now=NOW - 1000)
    for n in range(700):
        assert memory.accept(Claims(ID, f"{n}", NOW + 1, NOW), NOW)
    assert memory.count == 700
    for n in range(3):
        assert memory.accept(Claims(ID, f"later {n}", NOW + 900, NOW + 600), NOW + 600)
    assert memory.count == 3
    memory.close()


def test_after_a_reboot_what_may_have_come_before_is_refused(tmp_path: Path) -> None:
    memory = Replays(tmp_path / "seen", now=NOW)
    assert not memory.accept(Claims(ID, "a", NOW + 300, NOW - 1), NOW + 1)
    assert not memory.accept(Claims(ID, "b", NOW + 300, None), NOW + 1)
    assert memory.accept(Claims(ID, "c", NOW + 300, NOW), NOW + 1)
    assert memory.accept(Claims(ID, "d", NOW + 311, None), NOW + 1)
    memory.close()


def _accept_many(path: Path, count: int, accepted: Any) -> None:
    memory = Replays(path, now=NOW - 1000)
    taken = sum(memory.accept(Claims(ID, f"{n}", NOW + 300, NOW), NOW) for n in range(count))
    with accepted.get_lock():
        accepted.value += taken
    memory.close()


def test_two_processes_accept_each_once_between_them(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    accepted = context.Value("i", 0)
    children = [context.Process(target=_accept_many, args=(tmp_path / "seen", 300, accepted)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert accepted.value == 300


def test_a_full_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MAP_BYTES", 1 << 16)
    memory = Replays(tmp_path / "seen", now=NOW - 1000)
    with pytest.raises(replays.StoreFullError):
        for n in range(5000):
            memory.accept(Claims(ID, f"{n}", NOW + 300, NOW), NOW)
    memory.close()


# --- tokens ---------------------------------------------------------------------------------------------------------

KEY = bytes(range(32))
TOKEN = tokens.Token(ID, frozenset({Scope.CHECK, Scope.INSURERS}), NOW * 1000, 300, b"t" * 32)


def test_a_token_says_what_it_was_made_to_say() -> None:
    for token in (TOKEN, msgspec.structs.replace(TOKEN, thumbprint=b"", scopes=frozenset(), id="a")):
        made = tokens.make(KEY, token)
        assert tokens.read(KEY, made) == token and len(made) <= tokens.TOKEN_CHARS_MAX
    assert tokens.make(KEY, TOKEN) != tokens.make(KEY, TOKEN)
    assert TOKEN.expires_ms == (NOW + 300) * 1000


def test_another_token_is_none() -> None:
    made = tokens.make(KEY, TOKEN)
    assert tokens.read(bytes(32), made) is None
    for at in range(len(made)):
        changed = made[:at] + ("A" if made[at] != "A" else "B") + made[at + 1 :]
        assert tokens.read(KEY, changed) is None
    for other in ("", "x", made[:-1], made + "A", made + "=", "A" * 201, made[:60], "é"):
        assert tokens.read(KEY, other) is None


def test_api_keys_are_stored_as_keyed_hashes() -> None:
    one = tokens.new_api_key()
    assert one.startswith(tokens.API_KEY_PREFIX) and one != tokens.new_api_key()
    assert tokens.api_key_hash(KEY, one) != tokens.api_key_hash(bytes(32), one)
