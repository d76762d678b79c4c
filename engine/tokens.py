"""Owns access tokens and API keys: bytes that every worker can judge without asking anybody.

A token is a payload and its MAC (keyed BLAKE2b, a key of its own derived from the master key), in base64url. Nothing
in it is secret; whoever can make one has the master key. Whether its caller is still let in is for the register to say.
Layout: docs/FORMATS.md.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from typing import Final

import msgspec

from engine.callers import Scope, decode_base64url, encode_base64url

LIFETIME_SECONDS: Final = 300
VERSION: Final = 1
MAC_BYTES: Final = 32
NOT_BOUND: Final = bytes(32)
"""In place of the thumbprint, of a token that is not bound to a certificate."""
API_KEY_PREFIX: Final = "sandbox-"
_HEAD: Final = struct.Struct(">BBQI32s8s")
_SCOPES: Final = tuple(Scope)
TOKEN_CHARS_MAX: Final = 200


class Token(msgspec.Struct, frozen=True):
    """What an access token says."""

    id: str
    scopes: frozenset[Scope]
    issued_ms: int
    lifetime_seconds: int
    thumbprint: bytes
    """SHA-256 of the certificate that it is bound to; b"" if it is bound to none."""

    @property
    def expires_ms(self) -> int:
        """The instant from which on it is not good any more."""
        return self.issued_ms + 1000 * self.lifetime_seconds


def make(key: bytes, token: Token) -> str:
    """The token as it is given out; no two are alike."""
    bits = sum(1 << place for place, scope in enumerate(_SCOPES) if scope in token.scopes)
    payload = _HEAD.pack(
        VERSION,
        bits,
        token.issued_ms,
        token.lifetime_seconds,
        token.thumbprint or NOT_BOUND,
        secrets.token_bytes(8),
    ) + token.id.encode("ascii")
    return encode_base64url(payload + _mac(key, payload))


def read(key: bytes, text: str) -> Token | None:
    """What a token says; None if it is not one of ours, to the last bit."""
    if len(text) > TOKEN_CHARS_MAX:
        return None
    data = decode_base64url(text)
    if data is None or len(data) <= _HEAD.size + MAC_BYTES:
        return None
    payload, mac = data[:-MAC_BYTES], data[-MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, payload)):
        return None
    version, bits, issued_ms, lifetime, thumbprint, _ = _HEAD.unpack_from(payload)
    if version != VERSION or bits >> len(_SCOPES):
        return None
    scopes = frozenset(scope for place, scope in enumerate(_SCOPES) if bits >> place & 1)
    bound = b"" if thumbprint == NOT_BOUND else thumbprint
    return Token(payload[_HEAD.size :].decode("ascii"), scopes, issued_ms, lifetime, bound)


def _mac(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(payload, key=key, digest_size=MAC_BYTES, person=b"shikaku.token").digest()


def new_api_key() -> str:
    """A new API key; it is shown once and stored as `api_key_hash` only."""
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


def api_key_hash(key: bytes, text: str) -> bytes:
    """What the register knows of an API key."""
    return hashlib.blake2b(text.encode(), key=key, digest_size=32, person=b"shikaku.apikey").digest()
