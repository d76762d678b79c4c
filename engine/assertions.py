"""Owns the judgement of client assertions (RFC 7523, SMART Backend Services): signed by the caller, for us, and now?

A strict reading of JWS on `cryptography`: RS384 and ES384 only, by a key of the register only; whatever a header says
of keys elsewhere is not followed. Why an assertion is refused is told to nobody but tests: the caller learns that it
was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from engine.callers import Algorithm, Caller, PublicKey, decode_base64url

LIFETIME_SECONDS: Final = 300
"""How far ahead an assertion may end."""
LEEWAY_SECONDS: Final = 10
"""How far the clocks of a caller and of this machine may differ."""
ASSERTION_CHARS_MAX: Final = 8192
JTI_CHARS_MAX: Final = 128
_ES384_HALF: Final = 48


class Refused(Exception):
    """The assertion is not good. The word says why, for tests; it quotes nothing and is shown to no caller."""


class Claims(msgspec.Struct, frozen=True):
    """What an assertion says that was found good."""

    id: str
    jti: str
    expires: int
    issued: int | None
    """Seconds since 1970; None if it does not say."""


class _Header(msgspec.Struct):
    alg: str
    kid: str
    typ: str = "JWT"
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    b64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Payload(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: int | float
    jti: str
    iat: int | float | None = None
    nbf: int | float | None = None


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_payload = msgspec.json.Decoder(_Payload).decode


def judge(text: str, *, find: Callable[[str], Caller | None], audience: Callable[[str], bool], now: float) -> Claims:
    """What a client assertion says, if it is good; whether it came before is for engine/replays. Raises Refused.

    Args:
        find: the caller with an id.
        audience: whether a name is ours.
        now: seconds since 1970.
    """
    if len(text) > ASSERTION_CHARS_MAX:
        raise Refused("too long")
    parts = text.split(".")
    if len(parts) != 3:
        raise Refused("form")
    header, payload, signature = (_decoded(part) for part in parts)
    head: _Header = _read(_decode_header, header)
    said: _Payload = _read(_decode_payload, payload)
    if head.crit is not msgspec.UNSET or head.b64 is not msgspec.UNSET:
        raise Refused("critical header")
    if head.typ.upper() not in ("JWT", "APPLICATION/JWT"):
        raise Refused("type")
    if said.iss != said.sub or not 0 < len(said.iss) <= 64:
        raise Refused("issuer")
    caller = find(said.iss)
    if caller is None or not caller.is_active:
        raise Refused("caller")
    key = next((key for key in caller.keys if key.kid == head.kid), None)
    if key is None or head.alg != key.algorithm:
        raise Refused("key")
    if not is_signed(key, f"{parts[0]}.{parts[1]}".encode("ascii"), signature):
        raise Refused("signature")
    _judge_claims(said, audience, now)
    return Claims(said.iss, said.jti, int(said.exp), None if said.iat is None else int(said.iat))


def _judge_claims(said: _Payload, audience: Callable[[str], bool], now: float) -> None:
    names = [said.aud] if isinstance(said.aud, str) else said.aud
    if len(names) != 1 or not audience(names[0]):
        raise Refused("audience")
    if not now < said.exp <= now + LIFETIME_SECONDS + LEEWAY_SECONDS:
        raise Refused("expiry")
    if said.iat is not None and not now - LIFETIME_SECONDS - LEEWAY_SECONDS <= said.iat <= now + LEEWAY_SECONDS:
        raise Refused("issued")
    if said.nbf is not None and said.nbf > now + LEEWAY_SECONDS:
        raise Refused("not before")
    if not 0 < len(said.jti) <= JTI_CHARS_MAX:
        raise Refused("jti")


def is_signed(key: PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether a JWS signature is this key's."""
    public = _public(key.der)
    try:
        if key.algorithm is Algorithm.RS384 and isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, message, padding.PKCS1v15(), hashes.SHA384())
            return True
        if key.algorithm is Algorithm.ES384 and isinstance(public, ec.EllipticCurvePublicKey):
            if len(signature) != 2 * _ES384_HALF:
                return False
            halves = (signature[:_ES384_HALF], signature[_ES384_HALF:])
            pair = encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))
            public.verify(pair, message, ec.ECDSA(hashes.SHA384()))
            return True
    except InvalidSignature:
        return False
    return False


@lru_cache(maxsize=1024)
def _public(der: bytes) -> object:
    return serialization.load_der_public_key(der)


def _decoded(part: str) -> bytes:
    data = decode_base64url(part)
    if not data:
        raise Refused("form")
    return data


def _read(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Refused("form") from None
