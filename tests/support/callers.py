"""Owns the callers of tests: their keys, the assertions that they sign, and certificates of their own authority."""

from __future__ import annotations

import base64
import datetime
import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from engine.callers import Caller, Role, Scope, read_jwks, read_scopes
from engine.register import RegisterWriter

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
NOW = 1_795_388_400
_JTIS = itertools.count()


@cache
def rsa_key(bits: int = 2048, name: str = "") -> rsa.RSAPrivateKey:
    """One key for each name: making them takes long."""
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(name: str = "", curve: str = "P-384") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key({"P-384": ec.SECP384R1(), "P-256": ec.SECP256R1()}[curve])


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return text(value.to_bytes(-(-value.bit_length() // 8), "big"))


def jwk(key: Private, kid: str = "a", **more: Any) -> dict[str, Any]:
    """The public half as a JSON Web Key."""
    public = key.public_key().public_numbers()
    if isinstance(public, rsa.RSAPublicNumbers):
        found: dict[str, Any] = {"kty": "RSA", "n": number(public.n), "e": number(public.e), "alg": "RS384"}
    else:
        size = (public.curve.key_size + 7) // 8
        found = {
            "kty": "EC",
            "crv": {384: "P-384", 256: "P-256"}[public.curve.key_size],
            "x": text(public.x.to_bytes(size, "big")),
            "y": text(public.y.to_bytes(size, "big")),
        }
    return {"kid": kid, **found, **more}


def public_keys(key: Private, kid: str = "a") -> list[Any]:
    return read_jwks(json.dumps(jwk(key, kid)).encode())


def claims(id_: str, audience: str, now: float = NOW, **more: Any) -> dict[str, Any]:
    """Those of a good assertion, but for what is given; None takes one away."""
    plain = {"iss": id_, "sub": id_, "aud": audience, "exp": now + 300, "iat": now, "jti": f"jti-{next(_JTIS)}"}
    return {name: value for name, value in (plain | more).items() if value is not None}


def signed(key: Private, said: dict[str, Any] | bytes, *, kid: str = "a", **header: Any) -> str:
    """A JWS of these claims, as an honest caller makes it."""
    algorithm = "RS384" if isinstance(key, rsa.RSAPrivateKey) else "ES384"
    head = {"alg": algorithm, "kid": kid, "typ": "JWT"} | header
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    message = f"{text(json.dumps({k: v for k, v in head.items() if v is not None}).encode())}.{text(body)}"
    return f"{message}.{text(signature(key, message.encode()))}"


def signature(key: Private, message: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA384())
    size = (key.curve.key_size + 7) // 8
    return b"".join(
        half.to_bytes(size, "big") for half in decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))
    )


def register(
    writer: RegisterWriter,
    id_: str,
    key: Private | None = None,
    *,
    role: Role = Role.INSTITUTION,
    scopes: tuple[Scope, ...] | None = None,
    now_ms: int = 0,
) -> Caller:
    """Register a caller, with a key if there is one."""
    caller = writer.add(
        id_, name=f"見本 {id_}", role=role, scopes=read_scopes([], role) if scopes is None else scopes, now_ms=now_ms
    )
    return caller if key is None else writer.add_keys(id_, public_keys(key), now_ms=now_ms)


class Authority:
    """Signs certificates, and lists those that it takes back."""

    def __init__(self, name: str = "test authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._signed(self.name, self.key.public_key(), ca=True, days=(-1, 3650))

    def _signed(self, subject: x509.Name, public: Any, *, ca: bool, days: tuple[float, float]) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue(
        self, folder: Path, name: str, days: tuple[float, float] = (-1, 30)
    ) -> tuple[Path, Path, x509.Certificate]:
        """A certificate and its key, in files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key.public_key(), ca=False, days=days)
        files = folder / f"{name}.pem", folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return *files, certificate

    def write(self, file: Path) -> Path:
        file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return file

    def revoked(self, *serials: int, days: float = 7) -> bytes:
        """The list of those taken back, as PEM."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now - datetime.timedelta(days=1 if days > 0 else 30))
            .next_update(now + datetime.timedelta(days=days))
        )
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(one)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
