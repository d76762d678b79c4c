"""Owns the secrets: loads the master key, derives one key per purpose, and makes the keyed hashes of identifiers.

Nothing else holds a key. The master key lives in a file outside the data folder: 32 bytes as 64 hex digits, mode
0600. Every purpose has its own key, derived with keyed BLAKE2b and a purpose label, so that one purpose's key says
nothing about another's. Signing keys (the audit log's, a witness's) are derived from nothing
and have files of their own.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine import durable
from engine.errors import AuditKeyError, KeyMissingError
from ext import canon, keyhash

MASTER_BYTES = 32

card_message = canon.card_message
"""What is hashed for a card: `01` insurer, birth day number, symbol, number, with separators."""


class Keys:
    """All keys of one store, derived from one master secret of 32 bytes."""

    __slots__ = (
        "access_token_key",
        "api_key_key",
        "audit_inquiry_key",
        "audit_person_key",
        "index_key",
        "institution_code_key",
        "key_id",
    )

    def __init__(self, master: bytes) -> None:
        if len(master) != MASTER_BYTES:
            raise KeyMissingError(f"the master key must have {MASTER_BYTES} bytes")
        self.index_key = derive(master, b"index")[: keyhash.KEY_BYTES]
        self.audit_inquiry_key = derive(master, b"audit inquiry")[: keyhash.KEY_BYTES]
        self.audit_person_key = derive(master, b"audit person")[: keyhash.KEY_BYTES]
        self.institution_code_key = derive(master, b"institution code")[: keyhash.KEY_BYTES]
        self.access_token_key = derive(master, b"access token")
        self.api_key_key = derive(master, b"api key")
        self.key_id = hashlib.blake2b(self.index_key, digest_size=8, person=b"shikaku.keyid").digest()

    def card_hash(self, insurer_number: str, birth_date: int, symbol_key: str, number_key: str) -> bytes:
        """128-bit key of an insurance card with its holder's birth date (the branch is not part of it)."""
        return keyhash.siphash128(self.index_key, card_message(insurer_number, birth_date, symbol_key, number_key))

    def certificate_hash(self, issuer: str, serial: str) -> bytes:
        """128-bit key of a card certificate."""
        return keyhash.siphash128(self.index_key, certificate_message(issuer, serial))

    def person_hash(self, number: int) -> bytes:
        """128-bit key under which the index lists all qualifications of one person."""
        return keyhash.siphash128(self.index_key, b"\x03%d" % number)

    def link_hash(self, link_code: str) -> bytes:
        """128-bit key of a link code (連携符号)."""
        return keyhash.siphash128(self.index_key, b"\x04" + link_code.encode())


def certificate_message(issuer: str, serial: str) -> bytes:
    """What is hashed for a certificate: `02` issuer, separator, serial."""
    return f"\x02{issuer}\x1f{serial}".encode()


def derive(master: bytes, purpose: bytes) -> bytes:
    """The 32-byte key for one purpose."""
    return hashlib.blake2b(purpose, key=master, digest_size=32, person=b"shikaku.derive").digest()


def create(path: Path) -> Keys:
    """Make a new master key file, mode 0600. Raises FileExistsError rather than replace one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    master = secrets.token_bytes(MASTER_BYTES)
    durable.create_exclusive(path, f"{master.hex()}\n".encode(), mode=0o600)
    return Keys(master)


def load(path: Path) -> Keys:
    """Read a master key file. Raises KeyMissingError if it is absent or not 64 hex digits."""
    try:
        master = bytes.fromhex(path.read_text("ascii").strip())
    except (OSError, ValueError):
        raise KeyMissingError(f"no readable master key at {path}: run `shikaku init`, or point --key at it") from None
    return Keys(master)


def create_signing(path: Path) -> Ed25519PrivateKey:
    """Make a new Ed25519 key file (PKCS#8 PEM, mode 0600). Raises FileExistsError rather than replace one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    durable.create_exclusive(path, text, mode=0o600)
    return key


def load_signing(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 key file. Raises AuditKeyError if it is absent or no such key."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise AuditKeyError(f"no readable signing key at {path}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise AuditKeyError(f"the signing key at {path} is not of Ed25519")
    return key
