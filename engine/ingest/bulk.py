"""Owns the many-at-once path of an import: arrays out of rows, and new people's records and entries out of arrays.

Most rows of a large file register somebody of whom nothing is known. Their order among each other does not matter, so
that hashing, look-up, entries and records are made for a whole chunk. `independent` says which rows these are; all
others are applied one by one (engine/ingest/apply). What is written is the same either way.
"""

from __future__ import annotations

import zlib
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from engine import days, store
from engine.entries import (
    AUX_CANCELLED,
    AUX_PENDING,
    CARD,
    CERTIFICATE,
    ENTRY_BYTES,
    ENTRY_DTYPE,
    EXPIRY_BASE,
    EXPIRY_MAX,
    EXPIRY_RECORD,
    EXPIRY_REVOKED,
    LINK,
    card_aux,
)
from engine.ingest.rows import Op, Row
from engine.ingest.spool import ROW_DTYPE, Staged
from engine.keys import Keys, card_message, certificate_message
from engine.records import State
from ext import keyhash

OPS: Final = tuple(Op)
_NEW: Final = OPS.index(Op.NEW)
NEVER_LOST: Final = 2**31 - 1
"""The lost day of a spell that has none, where days are compared."""


class Counts(Protocol):
    """What is asked of the index here: how many entries there are under each of many hashes."""

    def find_many(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.integer], object]:
        """Counts, and the matches themselves."""


# --- first pass -----------------------------------------------------------------------------------------------


def stage_rows(keys: Keys, rows: list[Row]) -> Staged:
    """Arrays and encoded people of one chunk of rows. Everything that costs is done once for the whole chunk."""
    columns = _Columns()
    columns.take(rows)
    person_bytes = np.array(list(map(len, columns.people)), np.int64)
    certified, linked = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    certified[columns.certified], linked[columns.linked] = True, True
    staged = staged_rows(
        row=np.array(columns.row, np.int64),
        op=np.array(columns.op, np.int64),
        person_at=np.cumsum(person_bytes) - person_bytes,
        person_bytes=person_bytes,
        card=keyhash.siphash128_many(keys.index_key, columns.card),
        card_aux=np.array(columns.card_aux, np.int64),
        gained=np.array(columns.gained, np.int64),
        lost=np.array(columns.lost, np.int64),
        certified=certified,
        certificate=keyhash.siphash128_many(keys.index_key, columns.certificate),
        expires=np.array(columns.expires, np.int64),
        revoked=np.array(columns.revoked, np.bool_),
        linked=linked,
        link=keyhash.siphash128_many(keys.index_key, columns.link),
    )
    return Staged(staged, b"".join(columns.people))


def staged_rows(
    *,
    row: NDArray[np.int64],
    op: NDArray[np.int64],
    person_at: NDArray[np.int64],
    person_bytes: NDArray[np.int64],
    card: NDArray[np.uint64],
    card_aux: NDArray[np.int64],
    gained: NDArray[np.int64],
    lost: NDArray[np.int64],
    certified: NDArray[np.bool_],
    certificate: NDArray[np.uint64],
    expires: NDArray[np.int64],
    revoked: NDArray[np.bool_],
    linked: NDArray[np.bool_],
    link: NDArray[np.uint64],
) -> np.ndarray:
    """ROW_DTYPE out of columns. Those of certificates and link codes are as long as there are such.

    Args: lost: NEVER_LOST where there is no such day; op: positions in OPS.
    """
    staged = np.zeros(len(row), ROW_DTYPE)
    staged["row"], staged["op"] = row, op
    staged["person_at"], staged["person_bytes"] = person_at, person_bytes
    staged["card"], staged["card_aux"] = card, card_aux
    staged["gained"] = np.clip(gained, 0, days.DAY_MAX)
    staged["lost"] = np.where(lost == NEVER_LOST, days.NO_DAY, np.clip(lost, 0, days.DAY_MAX))
    staged["has_certificate"], staged["has_link"] = certified, linked
    staged["certificate"][certified] = certificate
    staged["certificate_aux"][certified] = certificates_aux(expires, revoked)
    staged["link"][linked] = link
    confirmed = (card_aux & (AUX_PENDING | AUX_CANCELLED)) == 0
    staged["plain"] = (op == _NEW) & (gained <= lost) & (confirmed | ~certified)
    return staged


def merged(pieces: list[Staged]) -> Staged:
    """Several pieces of one chunk as one, by row number."""
    offset, parts = 0, [np.zeros(0, ROW_DTYPE)]
    for rows, blob in pieces:
        rows["person_at"] += offset
        offset += len(blob)
        parts.append(rows)
    together, blob = np.concatenate(parts), b"".join([piece.blob for piece in pieces])
    numbers = together["row"]
    if (numbers[1:] > numbers[:-1]).all():
        return Staged(together, blob)
    return Staged(together[np.argsort(numbers)], blob)


class _Columns:
    """What is taken out of rows, a list a column. One walk: a chunk of rows does not fit the processor's cache."""

    def __init__(self) -> None:
        self.people: list[bytes] = []
        self.row: list[int] = []
        self.op: list[int] = []
        self.card: list[bytes] = []
        self.card_aux: list[int] = []
        self.gained: list[int] = []
        self.lost: list[int] = []
        self.certified: list[int] = []
        self.certificate: list[bytes] = []
        self.expires: list[int] = []
        self.revoked: list[bool] = []
        self.linked: list[int] = []
        self.link: list[bytes] = []

    def take(self, rows: list[Row]) -> None:
        encode, known_aux = store.encode_person, dict[str, int]()
        for at, row in enumerate(rows):
            person = row.person
            self.people.append(encode(person))
            self.row.append(row.row)
            self.op.append(_NEW if row.op is Op.NEW else OPS.index(row.op))
            (q,) = person.qualifications
            self.card.append(card_message(q.insurer_number, person.birth_date, q.symbol_key, q.number_key))
            self.gained.append(q.gained_on)
            self.lost.append(NEVER_LOST if q.lost_on is None else q.lost_on)
            kind = f"{q.branch}.{q.loss_reason}"
            aux = known_aux.get(kind) if q.state is State.CONFIRMED else card_aux(q, multi=False)
            if aux is None:
                aux = known_aux[kind] = card_aux(q, multi=False)
            self.card_aux.append(aux)
            for certificate in person.certificates:
                self.certified.append(at)
                self.certificate.append(certificate_message(certificate.issuer, certificate.serial))
                self.expires.append(certificate.expires_on)
                self.revoked.append(certificate.revoked)
            if person.link_code:
                self.linked.append(at)
                self.link.append(f"\x04{person.link_code}".encode())


def certificates_aux(expires: NDArray[np.int64], revoked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`entries.certificate_aux` of many certificates."""
    expiry = expires - EXPIRY_BASE + 2
    expiry = np.where((expiry > EXPIRY_REVOKED) & (expiry <= EXPIRY_MAX), expiry, EXPIRY_RECORD)
    return np.where(revoked, EXPIRY_REVOKED, expiry) << 2


def keys_needed(staged: np.ndarray, index: Counts) -> int:
    """How many entries the index will need room for: roughly, so that it grows once and not by and by.

    New keys, and for rows about people known already new entries beside the old ones.
    """
    hashes, owners = hashes_of(staged)
    known = np.asarray(index.find_many(hashes)[0]) > 0
    again = ~staged["plain"]
    again[owners[known]] = True
    return int(np.count_nonzero(~known)) + 3 * int(np.count_nonzero(again))


# --- second pass ----------------------------------------------------------------------------------------------


def independent(staged: np.ndarray, index: Counts) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows register somebody new, whatever the other rows of the chunk do.

    They touch nobody known, and no earlier row of the chunk has one of their identifiers.
    Returns: which rows; and which of these have an identifier that a later row has too.
    """
    hashes, owners = hashes_of(staged)
    apart = staged["plain"].copy()
    apart[owners[np.asarray(index.find_many(hashes)[0]) > 0]] = False
    # Half of the hash is enough to find repeats: two equal halves by chance only send a row the slower way.
    halves = np.sort(hashes[:, 0])
    if not (halves[1:] == halves[:-1]).any():
        return apart, np.zeros_like(apart)
    order = np.lexsort((owners, hashes[:, 0]))
    ordered = hashes[order, 0]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    apart[owners[order[again + 1]]] = False
    shared = np.zeros_like(apart)
    shared[owners[order[again]]] = True
    return apart, shared & apart


def digests_of(rows: np.ndarray) -> list[list[bytes]]:
    """The identifiers' hashes of each row, 16 bytes each."""
    digests = []
    for row in rows:
        found = [row["card"].tobytes()]
        if row["has_certificate"]:
            found.append(row["certificate"].tobytes())
        if row["has_link"]:
            found.append(row["link"].tobytes())
        digests.append(found)
    return digests


def hashes_of(staged: np.ndarray) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """All hashes of a chunk, and the position of the row that each is of."""
    certified, linked = np.flatnonzero(staged["has_certificate"]), np.flatnonzero(staged["has_link"])
    hashes = np.concatenate([staged["card"], staged["certificate"][certified], staged["link"][linked]])
    return np.ascontiguousarray(hashes), np.concatenate([np.arange(len(staged)), certified, linked])


def entries_of_rows(rows: np.ndarray) -> tuple[NDArray[np.intp], np.ndarray]:
    """Index entries of independent rows as engine.entries.entries_of would give them: the row of each, ENTRY_DTYPE."""
    count = len(rows)
    span = rows["gained"].astype(np.uint64) | rows["lost"].astype(np.uint64) << np.uint64(16)
    raw = np.zeros((count, 3, 3), np.uint64)
    raw[:, 0, :2] = rows["card"]
    raw[:, 0, 2] = span | rows["card_aux"].astype(np.uint64) << np.uint64(32) | np.uint64(CARD << 48)
    raw[:, 1, :2] = rows["certificate"]
    raw[:, 1, 2] = span | rows["certificate_aux"].astype(np.uint64) << np.uint64(32) | np.uint64(CERTIFICATE << 48)
    raw[:, 2, :2] = rows["link"]
    raw[:, 2, 2] = LINK << 48
    there = np.ones((count, 3), np.bool_)
    there[:, 1], there[:, 2] = rows["has_certificate"], rows["has_link"]
    counts = there.sum(axis=1)
    # entries_of sorts by bytes, which is the order of the byte-swapped halves of hashes; what is not there goes last.
    order = np.lexsort((raw[:, :, 1].byteswap(), raw[:, :, 0].byteswap(), ~there), axis=1)
    flat = np.take_along_axis(raw, order[:, :, np.newaxis], axis=1)[np.arange(3) < counts[:, np.newaxis]]
    of_row = np.repeat(np.arange(count), counts)
    return of_row, np.frombuffer(flat.astype("<u8").tobytes(), ENTRY_DTYPE)


def records_of_rows(
    rows: np.ndarray,
    people: list[bytes],
    entries: np.ndarray,
    *,
    first_person: int,
    first_seq: int,
    recorded_at_ms: int,
) -> list[tuple[bytes, bytes]]:
    """Keys and records of independent rows, ascending; the person and sequence numbers count up from the first."""
    packed = entries.tobytes()
    counts = 1 + rows["has_certificate"].astype(np.int64) + rows["has_link"]
    ends = (np.cumsum(counts) * ENTRY_BYTES).tolist()
    heads = {count: store.record_head(count, recorded_at_ms) for count in (1, 2, 3)}
    first = np.arange(len(rows), dtype=np.uint64)
    keys = store.version_keys(first + np.uint64(first_person), first + np.uint64(first_seq))
    crc32, records, start = zlib.crc32, [], 0
    for key, count, end, person in zip(keys, counts.tolist(), ends, people, strict=True):
        body = heads[count] + packed[start:end] + person
        records.append((key, body + crc32(body, crc32(key)).to_bytes(4, "little")))
        start = end
    return records
