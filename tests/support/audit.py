"""Owns what tests of the audit log share: keys that never change, entries from a seed, logs of small segments."""

from __future__ import annotations

import random
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.audit import entry, frames, merkle
from engine.audit.entry import Entry, Flags, Kind
from engine.audit.frames import Header
from engine.audit.log import LogWriter
from engine.audit.merkle import Frontier
from engine.audit.notes import Scheme, Signer

ORIGIN = "log.example/shikaku/0"
BEGUN_MS = 1_795_388_400_000
SEGMENT_BYTES = 4096 + 20_000
"""Room for about a hundred entries, so that small logs have several segments."""


def signer(seed: int = 1, name: str = ORIGIN) -> Signer:
    """A log's key, the same for the same seed."""
    return Signer(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def witness(number: int = 1) -> Signer:
    """A witness's key."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([100 + number]) * 32)
    return Signer(f"witness.example/w{number}", key, Scheme.COSIGNATURE)


def some_entry(seed: int, at_ms: int | None = None) -> Entry:
    """An entry, the same for the same seed."""
    chance = random.Random(seed)
    return Entry(
        kind=chance.choice(list(Kind)),
        at_ms=BEGUN_MS + 1000 * seed if at_ms is None else at_ms,
        data_version=chance.randrange(1 << 40),
        caller=f"131{chance.randrange(10**7):07d}",
        answer_digest=chance.randbytes(32),
        purpose=chance.randrange(4),
        verdict=chance.choice([1, 2, 3, 4, 5, 6, entry.NO_VERDICT]),
        flags=Flags(chance.randrange(16)),
        as_of=chance.choice([0, 20261123, 20240229]),
        inquiry_hash=chance.randbytes(16),
        person_code=chance.choice([entry.NO_HASH, chance.randbytes(16)]),
        request_id="r" * chance.randrange(65),
        operator=chance.choice(["", "受付", "o" * 32]),
    )


def some_entries(count: int, start: int = 0) -> list[bytes]:
    """Bytes of entries, the same for the same numbers."""
    return [entry.encode(some_entry(number)) for number in range(start, start + count)]


def make_log(folder: Path, count: int, *, private: bytes = b"sealed", signed: bool = True) -> list[bytes]:
    """A closed log of `count` entries in small segments. Returns the entries."""
    entries = some_entries(count)
    with LogWriter(folder, signer(), segment_bytes=SEGMENT_BYTES, log_id=b"i" * 16) as log:
        log.append(entries, [private] * count if private else ())
        if signed:
            log.sign_checkpoint()
    return entries


def forge(folder: Path, entries: list[bytes], per_segment: int, *, private: bytes = b"sealed") -> None:
    """Segments and level files of any entries, as somebody would write them who knows the format; nothing is signed."""
    folder.mkdir(exist_ok=True)
    for path in (*folder.glob("segment-*"), *folder.glob("level-*")):
        path.unlink()
    for first in range(0, len(entries), per_segment):
        row = entries[first : first + per_segment]
        data = frames.encode_header(Header(first, b"i" * 16, 0)) + b"".join(
            frames.encode_each(row, [private] * len(row))
        )
        (folder / frames.name_of(first)).write_bytes(data + bytes(300))
    frontier = Frontier()
    for level, hashes in frontier.extend(merkle.leaf_hashes(entries)).items():
        (folder / f"level-{level}").write_bytes(hashes)
