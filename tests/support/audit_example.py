"""Owns the worked example of docs/AUDIT.md: two entries, their frames, the tree, the notes, the receipt."""

from __future__ import annotations

import hashlib

import msgspec

from engine.audit import entry, frames, merkle, notes
from engine.audit.entry import Entry, Flags, Kind
from engine.audit.frames import Header
from engine.audit.notes import Checkpoint
from engine.audit.receipt import Receipt
from tests.support.audit import BEGUN_MS, ORIGIN, signer, witness

ANSWER = b'{"verdict":"VALID"}'
FIRST = Entry(
    kind=Kind.CHECK_CARD,
    at_ms=BEGUN_MS,
    data_version=1000,
    caller="1311111114",
    answer_digest=hashlib.sha256(ANSWER).digest(),
    purpose=1,
    verdict=1,
    flags=Flags.CONSENT_USED | Flags.CARD_PRESENTED,
    as_of=20261123,
    inquiry_hash=bytes(range(16)),
    request_id="req-1",
    operator="受付",
)
SECOND = msgspec.structs.replace(FIRST, at_ms=BEGUN_MS + 1000, request_id="req-2", operator="")
ENTRIES = [entry.encode(FIRST), entry.encode(SECOND)]
LEAVES = [merkle.leaf_hash(each) for each in ENTRIES]
ROOT = merkle.node_hash(*LEAVES)
NOTE = notes.sign_checkpoint(Checkpoint(ORIGIN, 2, ROOT), signer())
COSIGNED = notes.cosigned(NOTE, [witness().sign(NOTE.text, BEGUN_MS // 1000)])

TEXTS = {
    "log vkey": signer().verifier.vkey,
    "witness vkey": witness().verifier.vkey,
    "entry 0": ENTRIES[0].hex(),
    "entry 1": ENTRIES[1].hex(),
    "frame 0": frames.encode(ENTRIES[0], b"own").hex(),
    "header": frames.encode_header(Header(0, b"i" * 16, 0))[:64].hex(),
    "leaf 0": LEAVES[0].hex(),
    "leaf 1": LEAVES[1].hex(),
    "root": ROOT.hex(),
    "checkpoint": COSIGNED.encode().decode(),
    "receipt": Receipt(ENTRIES[0], 0, (LEAVES[1],), COSIGNED).encode().decode(),
    "submission": f"old 0\n\n{NOTE.encode().decode()}",
}
"""What the page must say: hexadecimal digits without their line breaks, texts as they are."""
