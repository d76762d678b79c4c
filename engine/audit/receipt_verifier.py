"""Owns the verifier of receipts that stands alone: one file, the standard library and `cryptography`, nothing of ours.

    python receipt_verifier.py RECEIPT --answer ANSWER --key VKEY [--witness VKEY ...] [--require K]

Whoever holds a receipt can check with it, and with no other part of Shikaku, that the answer was logged: copy the file,
or write another from docs/AUDIT.md. It ends with 0 if the receipt proves that, with 1 if not, with 2 if it cannot tell.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FIRST_LINE = "c2sp.org/tlog-proof@v1"
KINDS = (
    "check by card",
    "check by certificate",
    "batch item by card",
    "batch item by certificate",
    "emergency search",
    "status attestation",
    "link",
    "own look",
    "export to oversight",
    "event",
    "verdict only",
)
FLAGS = 15
BYTES_MAX = 256 << 10
SIGNATURES_MAX = 64
PROOF_HASHES_MAX = 63
NUMBER_MAX = (1 << 63) - 1
ENTRY = struct.Struct(">BBBBHIQQ16s16s16s32s")


class ReceiptError(Exception):
    """The receipt does not prove what it should; the text says why."""


class KeyFormatError(Exception):
    """What was given as a key is no verifier key."""


class Key(NamedTuple):
    """A public key, with the name and the id that its signatures carry. `scheme` 1 is a log's, 4 a witness's."""

    name: str
    key_id: bytes
    scheme: int
    public: bytes


@dataclass(frozen=True)
class Proof:
    """What was proved."""

    origin: str
    index: int
    size: int
    kind: str
    at_ms: int
    caller: str
    request_id: str
    witnesses: dict[str, int]
    """Name -> seconds since 1970 at which it signed."""


def verify(
    receipt: bytes, answer: bytes | None, keys: Sequence[str], witnesses: Sequence[str] = (), required: int = 0
) -> Proof:
    """Check a receipt and, if it is given, that the answer's body is the one in it.

    Args: keys: verifier keys of the logs that are trusted. witnesses: of witnesses; `required` of these signed.
    Raises ReceiptError with the reason; KeyFormatError.
    """
    logs, known = [parse_key(text) for text in keys], [parse_key(text) for text in witnesses]
    entry, index, proof, checkpoint = _parts(receipt)
    kind, at_ms, caller, digest, request_id = _entry(entry)
    if answer is not None and hashlib.sha256(answer).digest() != digest:
        raise ReceiptError("the answer is not the one that was logged: its SHA-256 differs from the entry's")
    text, signatures = _note(checkpoint)
    origin, size, root = _checkpoint(text)
    _log_signed(origin, text, signatures, logs)
    signed = _witnesses_signed(text, signatures, known, required)
    if _root(hashlib.sha256(b"\x00" + entry).digest(), index, size, proof) != root:
        raise ReceiptError("the entry is not in the log: its proof does not lead to the checkpoint's root")
    return Proof(origin, index, size, kind, at_ms, caller, request_id, signed)


def parse_key(text: str) -> Key:
    """A verifier key, name+id+key. Raises KeyFormatError."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3 or not _is_name(parts[0]):
        raise KeyFormatError("a verifier key has three parts: name+id+key")
    try:
        material = _base64(parts[2])
    except ReceiptError:
        raise KeyFormatError("the last part of a verifier key is base 64") from None
    if len(material) != 33 or material[0] not in (1, 4):
        raise KeyFormatError("a verifier key is of Ed25519: 01, or 04 for a witness, and 32 bytes")
    key_id = hashlib.sha256(parts[0].encode() + b"\n" + material).digest()[:4]
    if key_id.hex() != parts[1]:
        raise KeyFormatError("the id in the verifier key does not fit: it was copied wrongly")
    return Key(parts[0], key_id, material[0], material[1:])


# --- the receipt's parts --------------------------------------------------------------------------------------------


def _parts(receipt: bytes) -> tuple[bytes, int, list[bytes], bytes]:
    """Entry, index, proof and checkpoint."""
    if len(receipt) > BYTES_MAX:
        raise ReceiptError("the receipt is too long to be one")
    head, blank, checkpoint = receipt.partition(b"\n\n")
    lines = head.decode("ascii", "replace").split("\n")
    if lines[0] != FIRST_LINE:
        raise ReceiptError(f"this is no receipt: it does not begin with {FIRST_LINE}")
    if not blank or len(lines) < 3 or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise ReceiptError("the receipt lacks its line `extra`, its line `index` or its empty line")
    proof = [_base64(line) for line in lines[3:]]
    if len(proof) > PROOF_HASHES_MAX or any(len(each) != 32 for each in proof):
        raise ReceiptError("the inclusion proof is not up to 63 hashes of 32 bytes")
    return _base64(lines[1][6:]), _number(lines[2][6:]), proof, checkpoint


def _entry(data: bytes) -> tuple[str, int, str, bytes, str]:
    """Kind, time, caller, digest of the answer and request id."""
    if len(data) <= ENTRY.size or data[0] != 1:
        raise ReceiptError("the entry is cut off, or of a version that is not known here")
    _, kind, _, _, flags, as_of, at_ms, _, caller, _, _, digest = ENTRY.unpack_from(data)
    end = ENTRY.size + 1 + data[ENTRY.size]
    rest = data[end:]
    if not 1 <= kind <= len(KINDS) or flags & ~FLAGS or not _is_day(as_of):
        raise ReceiptError("the entry has a kind, a flag or a date that does not exist")
    if end > ENTRY.size + 65 or end > len(data) or (rest and not (1 <= rest[0] <= 32 and len(rest) == 1 + rest[0])):
        raise ReceiptError("the entry's last members do not end where it ends")
    named, request_id = caller.rstrip(b"\0"), data[ENTRY.size + 1 : end]
    if not re.fullmatch(rb"[ -~]*", named + request_id, re.DOTALL):
        raise ReceiptError("the entry's caller or request id is not printable ASCII")
    try:
        rest[1:].decode()
    except UnicodeDecodeError:
        raise ReceiptError("the entry's operator is not UTF-8") from None
    return KINDS[kind - 1], at_ms, named.decode(), digest, request_id.decode()


def _note(data: bytes) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """A signed note: its text, and name, key id and signature of each line below."""
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise ReceiptError("the checkpoint is not UTF-8") from None
    text, blank, lines = whole.rpartition("\n\n")
    rows = lines.split("\n")
    if not blank or rows.pop() or not 1 <= len(rows) <= SIGNATURES_MAX:
        raise ReceiptError("the checkpoint has no signatures, or is cut off")
    if any(each < " " and each != "\n" for each in whole):
        raise ReceiptError("the checkpoint holds a control character")
    signatures = []
    for row in rows:
        name, _, encoded = row[2:].partition(" ")
        data = _base64(encoded)
        if row[:2] != "\N{EM DASH} " or not _is_name(name) or len(data) < 5:
            raise ReceiptError("a signature line of the checkpoint has not its form")
        signatures.append((name, data[:4], data[4:]))
    return text + "\n", signatures


def _checkpoint(text: str) -> tuple[str, int, bytes]:
    """Origin, size and root."""
    lines = text.split("\n")
    if len(lines) < 4 or not all(lines[:-1]):
        raise ReceiptError("the checkpoint has not three lines, or an empty one")
    root = _base64(lines[2])
    if len(root) != 32:
        raise ReceiptError("the checkpoint's root has not 32 bytes")
    return lines[0], _number(lines[1]), root


# --- what is proved -------------------------------------------------------------------------------------------------


def _log_signed(origin: str, text: str, signatures: list[tuple[str, bytes, bytes]], logs: list[Key]) -> None:
    keys = [key for key in logs if key.name == origin]
    if not keys:
        raise ReceiptError("the checkpoint is of a log whose key was not given")
    if not _signers(text, signatures, keys):
        raise ReceiptError("the checkpoint is not signed by the log's key")


def _witnesses_signed(
    text: str, signatures: list[tuple[str, bytes, bytes]], known: list[Key], required: int
) -> dict[str, int]:
    signed = _signers(text, signatures, known)
    count = len({key.public for key in signed})
    if count < required:
        raise ReceiptError(f"{count} of the known witnesses signed the checkpoint, {required} must have")
    return {key.name: seconds for key, seconds in signed.items()}


def _signers(text: str, signatures: list[tuple[str, bytes, bytes]], keys: list[Key]) -> dict[Key, int]:
    """Which keys signed, and the seconds that each states. A signature of one of them that does not fit is an error."""
    found = {}
    for name, key_id, data in signatures:
        for key in keys:
            if (key.name, key.key_id) == (name, key_id):
                found[key] = _check_signature(text, data, key)
    return found


def _check_signature(text: str, data: bytes, key: Key) -> int:
    seconds, message = 0, text.encode()
    if key.scheme == 4:
        seconds = int.from_bytes(data[:8], "big")
        message = b"cosignature/v1\ntime %d\n%b" % (seconds, message)
        data = data[8:]
    try:
        if seconds > NUMBER_MAX:
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(key.public).verify(data, message)
    except (InvalidSignature, ValueError):
        raise ReceiptError(f"the signature of {key.name} does not fit the checkpoint") from None
    return seconds


def _root(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that the proof leads the leaf to (RFC 9162, 2.1.3.2)."""
    if index >= size:
        raise ReceiptError("the index is not below the checkpoint's size")
    place, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ReceiptError("the inclusion proof is too long")
        if place & 1 or place == last:
            root = hashlib.sha256(b"\x01" + sibling + root).digest()
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            root = hashlib.sha256(b"\x01" + root + sibling).digest()
        place, last = place >> 1, last >> 1
    if last:
        raise ReceiptError("the inclusion proof is too short")
    return root


# --- small forms ----------------------------------------------------------------------------------------------------


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        data, text = b"", "-"
    if base64.b64encode(data).decode() != text:
        raise ReceiptError("a line that should be base 64 is not")
    return data


def _number(text: str) -> int:
    if not re.fullmatch("0|[1-9][0-9]{0,18}", text) or int(text) > NUMBER_MAX:
        raise ReceiptError("an index or size is no decimal number without leading zeros")
    return int(text)


def _is_name(text: str) -> bool:
    return bool(text) and "+" not in text and not any(each.isspace() or each < " " for each in text)


def _is_day(number: int) -> bool:
    """Whether yyyymmdd is a day of the calendar; 0 stands for none."""
    year, month, day = number // 10_000, number // 100 % 100, number % 100
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    return number == 0 or (1 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= days[month - 1])


# --- by hand --------------------------------------------------------------------------------------------------------


def describe(proof: Proof) -> str:
    """One line for people."""
    seen = f", signed by {len(proof.witnesses)} witnesses" if proof.witnesses else ""
    return (
        f"entry {proof.index} of {proof.size} in {proof.origin}: {proof.kind}, request {proof.request_id or '-'}{seen}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the files that the command line names; one line says what came of it."""
    parser = argparse.ArgumentParser(description="Check that an answer was logged.")
    parser.add_argument("receipt", type=Path, help="the receipt")
    parser.add_argument("--answer", type=Path, required=True, help="the answer's body, byte for byte")
    parser.add_argument("--key", action="append", required=True, help="verifier key of the log")
    parser.add_argument("--witness", action="append", default=[], help="verifier key of a witness")
    parser.add_argument("--require", type=int, default=0, help="how many of the witnesses must have signed")
    given = parser.parse_args(arguments)
    try:
        proof = verify(given.receipt.read_bytes(), given.answer.read_bytes(), given.key, given.witness, given.require)
    except (OSError, KeyFormatError) as error:
        what = f"{error.filename} cannot be read" if isinstance(error, OSError) else error
        sys.stderr.write(f"cannot tell: {what}\n")
        return 2
    except ReceiptError as error:
        sys.stderr.write(f"not proved: {error}\n")
        return 1
    sys.stdout.write(f"proved: {describe(proof)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
