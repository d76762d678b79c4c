"""Owns receipts: the proof, in one small text, that an answer was logged (c2sp.org/tlog-proof, docs/AUDIT.md).

`extra` holds the entry, which holds the digest of the answer's body; the proof leads from the entry to a checkpoint
that the log signed, and witnesses if the log has any.
"""

from __future__ import annotations

import hashlib

import msgspec

from engine.audit import entry as entries
from engine.audit import merkle, notes
from engine.audit.entry import Entry
from engine.audit.log import CHECKPOINT, COSIGNED, LogReader
from engine.audit.notes import Checkpoint, Note, Policy
from engine.errors import AuditNoteError, AuditProofError, AuditRangeError, AuditReceiptError

FIRST_LINE = "c2sp.org/tlog-proof@v1"
PROOF_HASHES_MAX = 63


class Receipt(msgspec.Struct, frozen=True):
    """What a receipt says; nothing of it is proved yet."""

    entry: bytes
    index: int
    proof: tuple[bytes, ...]
    note: Note

    def encode(self) -> bytes:
        """The receipt as it is kept and sent."""
        head = [FIRST_LINE, f"extra {notes.encode64(self.entry)}", f"index {self.index}"]
        lines = [*head, *map(notes.encode64, self.proof), "", ""]
        return "\n".join(lines).encode() + self.note.encode()


class Proved(msgspec.Struct, frozen=True):
    """What a verified receipt proves, and which witnesses signed it: name -> seconds since 1970."""

    entry: Entry
    index: int
    checkpoint: Checkpoint
    witnessed: dict[str, int]


def make(log: LogReader, index: int) -> bytes:
    """The receipt of an entry, under the cosigned checkpoint if that covers it, else under the log's newest one.

    Raises AuditRangeError if no checkpoint covers it yet; AuditProofError if the proof does not lead to the root,
    because files of the log were changed.
    """
    for name in (COSIGNED, CHECKPOINT):
        data = log.checkpoint(name)
        if data is not None:
            note = notes.parse(data)
            checkpoint = notes.parse_checkpoint(note.text)
            if 0 <= index < checkpoint.size:
                return under(log, index, checkpoint, note)
    raise AuditRangeError("no checkpoint covers this entry yet", field="index")


def under(log: LogReader, index: int, checkpoint: Checkpoint, note: Note) -> bytes:
    """The receipt of an entry under one checkpoint. Raises AuditRangeError, AuditProofError."""
    if log.size < checkpoint.size:
        log.refresh()
    entry = log.entry(index)
    proof = log.inclusion_proof(index, checkpoint.size)
    merkle.verify_inclusion(merkle.leaf_hash(entry), index, checkpoint.size, proof, checkpoint.root)
    return Receipt(entry, index, tuple(proof), note).encode()


def parse(data: bytes) -> Receipt:
    """What a receipt says. Raises AuditReceiptError."""
    if len(data) > notes.NOTE_BYTES_MAX:
        raise AuditReceiptError(f"a receipt has at most {notes.NOTE_BYTES_MAX} bytes")
    head, blank, rest = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise AuditReceiptError("the lines before the checkpoint are ASCII") from None
    if not blank or lines[0] != FIRST_LINE:
        raise AuditReceiptError(f"a receipt begins with the line {FIRST_LINE} and has an empty line")
    if len(lines) < 3 or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise AuditReceiptError("a receipt's second line is `extra` with the entry, its third `index`")
    if len(lines) - 3 > PROOF_HASHES_MAX:
        raise AuditReceiptError(f"an inclusion proof has at most {PROOF_HASHES_MAX} hashes")
    try:
        entry = notes.decode64(lines[1].removeprefix("extra "))
        index = notes.decimal(lines[2].removeprefix("index "))
        proof = tuple(notes.decode64(line) for line in lines[3:])
        return Receipt(entry, index, proof, notes.parse(rest))
    except AuditNoteError as error:
        raise AuditReceiptError(error.detail) from None


def verify(data: bytes, policy: Policy, answer: bytes | None = None) -> Proved:
    """What a receipt proves; with the answer's body also that it is the answer.

    Raises AuditReceiptError, AuditEntryError, AuditNoteError, AuditSignatureError, AuditProofError.
    """
    receipt = parse(data)
    entry = entries.decode(receipt.entry)
    if answer is not None and hashlib.sha256(answer).digest() != entry.answer_digest:
        raise AuditReceiptError("the receipt is of another answer")
    checked = notes.check(receipt.note.encode(), policy)
    found = checked.checkpoint
    if receipt.index >= found.size:
        raise AuditProofError("the index is not below the tree's size")
    leaf = merkle.leaf_hash(receipt.entry)
    merkle.verify_inclusion(leaf, receipt.index, found.size, receipt.proof, found.root)
    return Proved(entry, receipt.index, found, checked.witnessed)
