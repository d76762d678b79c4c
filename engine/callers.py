"""Owns what a caller is: who may ask, by which keys and certificates, and which scopes a role can have.

Pure: text and bytes in, values out. The register (engine/register) keeps them, engine/assertions and engine/tokens
judge what callers show. Errors name the member and never its value.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from engine.errors import CallerInputError, InputError
from engine.identifiers import is_my_number, parse_institution

ID_CHARS_MAX: Final = 16
NAME_CHARS_MAX: Final = 200
KEYS_MAX: Final = 8
"""Of one caller: its keys, and as many certificates, subjects and API keys."""
RSA_BITS: Final = (2048, 4096)
KID_CHARS_MAX: Final = 64
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}", re.ASCII)
_KID: Final = re.compile(r"[!-~]{1,64}", re.ASCII)
_THUMBPRINT: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class Role(enum.StrEnum):
    """What kind of body a caller is."""

    INSTITUTION = "institution"
    INSURER = "insurer"
    PORTAL = "portal"
    OVERSIGHT = "oversight"
    OPERATOR = "operator"
    THIRD_PARTY = "third-party"


class Scope(enum.StrEnum):
    """What a caller may do on the check port."""

    CHECK = "eligibility.check"
    BATCH = "eligibility.batch"
    INSURERS = "insurers.read"


SCOPES_OF: Final[dict[Role, frozenset[Scope]]] = {
    Role.INSTITUTION: frozenset(Scope),
    Role.INSURER: frozenset({Scope.INSURERS}),
    Role.PORTAL: frozenset({Scope.INSURERS}),
    Role.OVERSIGHT: frozenset({Scope.INSURERS}),
    Role.OPERATOR: frozenset({Scope.INSURERS}),
    Role.THIRD_PARTY: frozenset({Scope.INSURERS}),
}
"""What a caller can be given at most. Who checks is a medical institution: nobody else sees a patient."""


class Status(enum.StrEnum):
    """Whether a caller is let in."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Algorithm(enum.StrEnum):
    """How an assertion may be signed."""

    RS384 = "RS384"
    ES384 = "ES384"


class PublicKey(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One key that a caller signs its assertions with; `der` is its SubjectPublicKeyInfo."""

    kid: str
    algorithm: Algorithm
    der: bytes


class Caller(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry of the register. `number` is its place among the machine's buckets, and never changes."""

    id: str
    number: int
    name: str
    role: Role
    scopes: tuple[Scope, ...]
    status: Status = Status.ACTIVE
    keys: tuple[PublicKey, ...] = ()
    thumbprints: tuple[bytes, ...] = ()
    """SHA-256 of its client certificates."""
    subjects: tuple[str, ...] = ()
    """Subjects (RFC 4514) of certificates that are its own, whatever their thumbprint."""
    api_keys: tuple[bytes, ...] = ()
    """Keyed hashes; good in a sandbox only."""
    tokens_from_ms: int = 0
    """Tokens that were given out before this instant are not good any more."""
    changed_ms: int = 0

    @property
    def is_active(self) -> bool:
        """Whether it is let in."""
        return self.status is Status.ACTIVE


def read_id(text: str, role: Role) -> str:
    """The id of a caller: an institution code with its check digit, or another name. Raises CallerInputError."""
    if role is Role.INSTITUTION:
        try:
            code, _ = parse_institution(text, policy="error", field="id")
        except InputError as error:
            raise CallerInputError(error.detail, field="id") from None
        return code
    if _ID.fullmatch(text) is None or is_my_number(text):
        raise CallerInputError(f"must be 1 to {ID_CHARS_MAX} letters, digits, dots or hyphens", field="id")
    if len(text) == 10 and text.isdigit():
        raise CallerInputError("ten digits are an institution's", field="id")
    return text


def read_name(text: str) -> str:
    """The name of a caller. Raises CallerInputError."""
    if not 0 < len(text) <= NAME_CHARS_MAX or not text.isprintable() or not text.strip():
        raise CallerInputError(f"must be 1 to {NAME_CHARS_MAX} printable characters", field="name")
    return text


def read_scopes(words: list[str], role: Role) -> tuple[Scope, ...]:
    """The scopes of a caller: those given, or all that its role can have. Raises CallerInputError."""
    if not words:
        return tuple(sorted(SCOPES_OF[role]))
    if not set(words) <= {str(scope) for scope in SCOPES_OF[role]}:
        known = ", ".join(sorted(SCOPES_OF[role]))
        raise CallerInputError(f"this role can have: {known}", field="scope")
    return tuple(sorted({Scope(word) for word in words}))


# --- certificates ---------------------------------------------------------------------------------------------------


def read_thumbprint(text: str) -> bytes:
    """A SHA-256 thumbprint of 64 hexadecimal digits, with or without colons. Raises CallerInputError."""
    plain = text.replace(":", "").lower()
    if _THUMBPRINT.fullmatch(plain) is None:
        raise CallerInputError("must be 64 hexadecimal digits (SHA-256)", field="thumbprint")
    return bytes.fromhex(plain)


def thumbprint_of(pem: bytes) -> bytes:
    """The SHA-256 thumbprint of a certificate (PEM). Raises CallerInputError."""
    try:
        return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())
    except ValueError:
        raise CallerInputError("there is no certificate (PEM) in the file", field="certificate") from None


def read_subject(text: str) -> str:
    """A subject in the one spelling that is compared (RFC 4514). Raises CallerInputError."""
    try:
        found = x509.Name.from_rfc4514_string(text)
    except ValueError:
        raise CallerInputError("must be a subject as RFC 4514 writes it: CN=...,O=...,C=JP", field="subject") from None
    if not list(found):
        raise CallerInputError("must not be empty", field="subject")
    return found.rfc4514_string()


# --- keys -----------------------------------------------------------------------------------------------------------


class _Jwk(msgspec.Struct):
    """The members of a JSON Web Key that count; others are passed over (RFC 7517 4)."""

    kty: str
    kid: Annotated[str, msgspec.Meta(min_length=1, max_length=KID_CHARS_MAX)]
    alg: str = ""
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""


def read_jwks(data: bytes) -> list[PublicKey]:
    """The public keys of a JWK, or of a JWK Set. Raises CallerInputError."""
    try:
        found = msgspec.json.decode(data, type=dict[str, object])
        keys = found.get("keys", [found])
        if not isinstance(keys, list) or not 0 < len(keys) <= KEYS_MAX:
            raise CallerInputError(f"must be 1 to {KEYS_MAX} keys", field="keys")
        return [_read_jwk(one) for one in keys]
    except msgspec.MsgspecError:
        raise CallerInputError("is no JSON Web Key, or lacks a member", field="key") from None


def _read_jwk(found: object) -> PublicKey:
    if isinstance(found, dict) and _PRIVATE & found.keys():
        raise CallerInputError("is a private or secret key: make a new pair, and give its public key only", field="key")
    jwk = msgspec.convert(found, _Jwk)
    if _KID.fullmatch(jwk.kid) is None:
        raise CallerInputError("must be printable and without blanks", field="key.kid")
    if jwk.use != "sig" or "verify" not in jwk.key_ops:
        raise CallerInputError("must be for signatures", field="key.use")
    algorithm = {"RSA": Algorithm.RS384, "EC": Algorithm.ES384}.get(jwk.kty)
    if algorithm is None or jwk.alg not in ("", algorithm):
        raise CallerInputError("must be RSA for RS384, or EC for ES384", field="key.alg")
    public = _rsa_of(jwk) if algorithm is Algorithm.RS384 else _ec_of(jwk)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(jwk.kid, algorithm, der)


def _rsa_of(jwk: _Jwk) -> rsa.RSAPublicKey:
    modulus, exponent = _number(jwk.n, "key.n"), _number(jwk.e, "key.e")
    least, most = RSA_BITS
    if not least <= modulus.bit_length() <= most:
        raise CallerInputError(f"must have {least} to {most} bits", field="key.n")
    if not 65537 <= exponent < 2**32 or exponent % 2 == 0:
        raise CallerInputError("must be odd and 65537 or more", field="key.e")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CallerInputError("is no RSA key", field="key") from None


def _ec_of(jwk: _Jwk) -> ec.EllipticCurvePublicKey:
    if jwk.crv != "P-384":
        raise CallerInputError("must be P-384", field="key.crv")
    try:
        return ec.EllipticCurvePublicNumbers(
            _number(jwk.x, "key.x"), _number(jwk.y, "key.y"), ec.SECP384R1()
        ).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CallerInputError("is no point of P-384", field="key") from None


def _number(text: str, field: str) -> int:
    data = decode_base64url(text)
    if not data:
        raise CallerInputError("must be base64url", field=field)
    return int.from_bytes(data, "big")


def decode_base64url(text: str) -> bytes | None:
    """The bytes of base64url without padding (RFC 7515 2), in its one spelling; None for anything else."""
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        return None
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return None
    return data if encode_base64url(data) == text else None


def encode_base64url(data: bytes) -> str:
    """Bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
