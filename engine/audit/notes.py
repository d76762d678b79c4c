"""Owns signed notes: verifier keys, checkpoints, log signatures and cosignatures, and who must have signed.

C2SP signed-note, tlog-checkpoint and tlog-cosignature with Ed25519 (signature types 01 and 04), as drawn in
docs/AUDIT.md. What is read is hostile until a signature fits: parsing is strict, and signatures of unknown keys are
passed over.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from engine.audit import merkle
from engine.errors import AuditNoteError, AuditSignatureError

NOTE_BYTES_MAX: Final = 256 << 10
SIGNATURES_MAX: Final = 64
SIZE_MAX: Final = (1 << 63) - 1
_DASH: Final = "\N{EM DASH} "
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_TIMED_BYTES: Final = 8 + _SIGNATURE_BYTES


class Scheme(enum.IntEnum):
    """What a key's signature says, by the type byte of signed-note."""

    NOTE = 1
    """Ed25519 of the text: the log's own."""
    COSIGNATURE = 4
    """A time and Ed25519 of `cosignature/v1`, the time and the text: a witness's."""


class Signature(msgspec.Struct, frozen=True):
    """One signature line. `data` is what follows the key id."""

    name: str
    key_id: bytes
    data: bytes

    def line(self) -> str:
        """The line, with its line feed."""
        return f"{_DASH}{self.name} {encode64(self.key_id + self.data)}\n"


class Note(msgspec.Struct, frozen=True):
    """A text, which ends with a line feed, and its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The note as it is kept and sent."""
        return (self.text + "\n" + "".join(each.line() for each in self.signatures)).encode()


class Verifier(msgspec.Struct, frozen=True):
    """A public key with the name that it signs under."""

    name: str
    scheme: Scheme
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256 over name, line feed, type and key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes((self.scheme,)) + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key as people write it down: name+id+key."""
        return f"{self.name}+{self.key_id.hex()}+{encode64(bytes((self.scheme,)) + self.public)}"

    def check(self, text: str, signature: Signature) -> int:
        """Check one signature of this key. Returns the seconds it states, 0 for a log's. Raises AuditSignatureError."""
        stated, data, message = 0, signature.data, text.encode()
        if self.scheme is Scheme.COSIGNATURE:
            stated = int.from_bytes(data[:8], "big")
            if len(data) != _TIMED_BYTES or stated > SIZE_MAX:
                raise AuditSignatureError(f"the cosignature of {self.name} has not the form of one")
            data, message = data[8:], _cosigned(text, stated)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(data, message)
        except (InvalidSignature, ValueError):
            raise AuditSignatureError(f"the signature of {self.name} does not fit the note") from None
        return stated


class Signer:
    """A private key with the name that it signs under."""

    __slots__ = ("_key", "verifier")

    def __init__(self, name: str, key: Ed25519PrivateKey, scheme: Scheme = Scheme.NOTE) -> None:
        check_name(name)
        self._key = key
        self.verifier = Verifier(name, scheme, key.public_key().public_bytes_raw())

    def sign(self, text: str, seconds: int = 0) -> Signature:
        """Sign a text; a witness states the time, in seconds since 1970."""
        if self.verifier.scheme is Scheme.COSIGNATURE:
            data = seconds.to_bytes(8, "big") + self._key.sign(_cosigned(text, seconds))
        else:
            data = self._key.sign(text.encode())
        return Signature(self.verifier.name, self.verifier.key_id, data)


class Checkpoint(msgspec.Struct, frozen=True):
    """A log's size and root, under its origin. `extensions` are further lines, which nobody here writes."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note's text."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, encode64(self.root), *self.extensions))


class Policy(msgspec.Struct, frozen=True):
    """Who must have signed a checkpoint: the log, and at least `required` of the witnesses."""

    log: Verifier
    witnesses: tuple[Verifier, ...] = ()
    required: int = 0


class Checked(msgspec.Struct, frozen=True):
    """A checkpoint whose signatures fit, and which witnesses signed it: name -> seconds since 1970."""

    checkpoint: Checkpoint
    note: Note
    witnessed: dict[str, int]


def encode64(data: bytes) -> str:
    """Standard base 64 with padding."""
    return base64.b64encode(data).decode("ascii")


def decode64(text: str) -> bytes:
    """Standard base 64 with padding, in its one spelling. Raises AuditNoteError."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise AuditNoteError("this is no base 64") from None
    if encode64(data) != text:
        raise AuditNoteError("this is no base 64 in its usual spelling")
    return data


def decimal(text: str) -> int:
    """A size or an index: ASCII digits without leading zeros, below 2^63. Raises AuditNoteError."""
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0") or len(text) > 19:
        raise AuditNoteError("this is no decimal number without leading zeros")
    if int(text) > SIZE_MAX:
        raise AuditNoteError("this number is too large")
    return int(text)


def check_name(name: str) -> None:
    """Names hold no blanks, no plus and no control characters. Raises AuditNoteError."""
    if not name or "+" in name or any(each.isspace() or each < " " for each in name):
        raise AuditNoteError("the name of a key is empty, or holds a blank, a plus or a control character")


def parse_vkey(text: str) -> Verifier:
    """A verifier key. Raises AuditNoteError if it has not the form, or its id does not fit the key."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise AuditNoteError("a verifier key has three parts: name+id+key")
    name, key_id, encoded = parts
    check_name(name)
    material = decode64(encoded)
    if len(material) != 1 + _KEY_BYTES or material[0] not in (Scheme.NOTE, Scheme.COSIGNATURE):
        raise AuditNoteError("the verifier key is of no known type: Ed25519 as 01, or as a cosigner's 04")
    found = Verifier(name, Scheme(material[0]), material[1:])
    if found.key_id.hex() != key_id:
        raise AuditNoteError("the id of the verifier key does not fit its name and key")
    return found


def parse(data: bytes) -> Note:
    """A signed note. Raises AuditNoteError."""
    if len(data) > NOTE_BYTES_MAX:
        raise AuditNoteError(f"a note has at most {NOTE_BYTES_MAX} bytes")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError:
        raise AuditNoteError("a note is UTF-8") from None
    if any(each < " " and each != "\n" for each in whole):
        raise AuditNoteError("a note holds no control character but line feeds")
    text, blank, lines = whole.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise AuditNoteError("a note has a text, an empty line and signature lines, each with its line feed")
    return Note(text + "\n", tuple(parse_signatures(lines)))


def parse_signatures(lines: str) -> list[Signature]:
    """Signature lines, each with its line feed. Raises AuditNoteError."""
    rows = lines.split("\n")[:-1]
    if not rows or not lines.endswith("\n") or len(rows) > SIGNATURES_MAX:
        raise AuditNoteError(f"a note has 1 to {SIGNATURES_MAX} signature lines, each with its line feed")
    return [_signature(row) for row in rows]


def _signature(row: str) -> Signature:
    name, _, encoded = row.removeprefix(_DASH).partition(" ")
    if not row.startswith(_DASH):
        raise AuditNoteError("a signature line begins with an em dash and a blank")
    check_name(name)
    data = decode64(encoded)
    if len(data) < 5:
        raise AuditNoteError("a signature is longer than its key's id")
    return Signature(name, data[:4], data[4:])


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint that a note's text is. Raises AuditNoteError."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise AuditNoteError("a checkpoint has at least three lines, none of them empty")
    root = decode64(lines[2])
    if len(root) != merkle.HASH_BYTES:
        raise AuditNoteError("the root of a checkpoint has 32 bytes")
    return Checkpoint(lines[0], decimal(lines[1]), root, tuple(lines[3:-1]))


def verify(note: Note, keys: Iterable[Verifier]) -> dict[Verifier, int]:
    """Which of these keys signed a note, and the seconds that each states (0 for a log's).

    Raises AuditSignatureError if a signature of one of the keys does not fit: such a note is worth nothing.
    """
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[Verifier, int] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            found[key] = key.check(note.text, signature)
    return found


def check(data: bytes, policy: Policy) -> Checked:
    """A checkpoint of the policy's log, with every signature that the policy wants.

    Raises AuditNoteError; AuditSignatureError if the origin is another log's, a known signature does not fit, the
    log's is missing, or too few witnesses signed.
    """
    note = parse(data)
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != policy.log.name:
        raise AuditSignatureError("the checkpoint is of another log than the key's")
    signed = verify(note, (policy.log, *policy.witnesses))
    if policy.log not in signed:
        raise AuditSignatureError("the checkpoint is not signed by the log's key")
    witnessed = {key.name: signed[key] for key in policy.witnesses if key in signed}
    publics = {key.public for key in policy.witnesses if key in signed}
    if len(publics) < policy.required:
        raise AuditSignatureError(
            f"{len(publics)} known witnesses signed the checkpoint, {policy.required} are required"
        )
    return Checked(checkpoint, note, witnessed)


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> Note:
    """A checkpoint signed by its log. Raises AuditNoteError if it is not of the signer's log."""
    if checkpoint.origin != signer.verifier.name:
        raise AuditNoteError("a log signs checkpoints of its own origin only")
    text = checkpoint.text()
    return Note(text, (signer.sign(text),))


def cosigned(note: Note, more: Sequence[Signature]) -> Note:
    """A note with further signatures; one of the same key replaces an older one."""
    new = {(each.name, each.key_id) for each in more}
    kept = [each for each in note.signatures if (each.name, each.key_id) not in new]
    return Note(note.text, (*kept, *more))


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
