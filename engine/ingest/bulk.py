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
from engine.entries import CARD, CERTIFICATE, ENTRY_BYTES, ENTRY_DTYPE, LINK, card_aux, certificate_aux
from engine.ingest.rows import Op, Row
from engine.ingest.spool import ROW_DTYPE, Staged
from engine.keys import Keys, card_message, certificate_message
from engine.records import State
from ext import keyhash

OPS: Final = tuple(Op)
_NEW: Final = OPS.index(Op.NEW)
_NEVER_LOST: Final = 2**31 - 1


class Counts(Protocol):
    """What is asked of the index here: how many entries there are under each of many hashes."""

    def find_many(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.integer], object]:
        """Counts, and the matches themselves."""


# --- first pass -----------------------------------------------------------------------------------------------


def stage_rows(keys: Keys, rows: list[Row]) -> Staged:
    """Arrays and encoded people of one chunk of rows. Everything that costs is done once for the whole chunk."""
    staged = np.zeros(len(rows), ROW_DTYPE)
    people = [store.encode_person(row.person) for row in rows]
    staged["row"] = [row.row for row in rows]
    staged["op"] = [_NEW if row.op is Op.NEW else OPS.index(row.op) for row in rows]
    staged["person_bytes"] = [len(person) for person in people]
    _stage_cards(keys, rows, staged)
    _stage_others(keys, rows, staged)
    confirmed = (staged["card_aux"] & _PENDING_OR_CANCELLED) == 0
    staged["plain"] &= (staged["op"] == _NEW) & (confirmed | ~staged["has_certificate"])
    return Staged(staged, people)


_PENDING_OR_CANCELLED: Final = 0b11000


def _stage_cards(keys: Keys, rows: list[Row], staged: np.ndarray) -> None:
    messages, gained, lost, aux = [], [], [], []
    known_aux: dict[str, int] = {}
    for row in rows:
        person = row.person
        q = person.qualifications[0]
        messages.append(card_message(q.insurer_number, person.birth_date, q.symbol_key, q.number_key))
        gained.append(q.gained_on)
        lost.append(_NEVER_LOST if q.lost_on is None else q.lost_on)
        if q.state is State.CONFIRMED:
            kind = q.branch + "." + q.loss_reason
            bits = known_aux.get(kind)
            if bits is None:
                bits = known_aux[kind] = card_aux(q, multi=False)
            aux.append(bits)
        else:
            aux.append(card_aux(q, multi=False))
    staged["card"] = keyhash.siphash128_many(keys.index_key, messages)
    first, end = np.array(gained, np.int64), np.array(lost, np.int64)
    staged["plain"] = first <= end
    staged["gained"] = np.clip(first, 0, days.DAY_MAX)
    staged["lost"] = np.where(end == _NEVER_LOST, days.NO_DAY, np.clip(end, 0, days.DAY_MAX))
    staged["card_aux"] = aux


def _stage_others(keys: Keys, rows: list[Row], staged: np.ndarray) -> None:
    certificates, links = [], []
    for at, row in enumerate(rows):
        person = row.person
        if person.certificates:
            certificates.append((at, person.certificates[0]))
        if person.link_code:
            links.append((at, b"\x04" + person.link_code.encode()))
    if certificates:
        certified = np.array([at for at, _ in certificates])
        messages = [certificate_message(certificate.issuer, certificate.serial) for _, certificate in certificates]
        staged["has_certificate"][certified] = True
        staged["certificate"][certified] = keyhash.siphash128_many(keys.index_key, messages)
        staged["certificate_aux"][certified] = [certificate_aux(certificate) for _, certificate in certificates]
    if links:
        linked = np.array([at for at, _ in links])
        staged["has_link"][linked] = True
        staged["link"][linked] = keyhash.siphash128_many(keys.index_key, [message for _, message in links])


def keys_needed(staged: np.ndarray, index: Counts) -> int:
    """How many entries the index will need room for: roughly, so that it grows once and not by and by.

    New keys, and for rows about people known already new entries beside the old ones.
    """
    hashes, owners = _hashes(staged)
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
    hashes, owners = _hashes(staged)
    apart = staged["plain"].copy()
    apart[owners[np.asarray(index.find_many(hashes)[0]) > 0]] = False
    # Half of the hash is enough to find repeats: two equal halves by chance only send a row the slower way.
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


def _hashes(staged: np.ndarray) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
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
    flat = raw[there]
    of_row = np.repeat(np.arange(count), there.sum(axis=1))
    # entries_of sorts by bytes, which is the order of the byte-swapped halves
    order = np.lexsort((flat[:, 1].byteswap(), flat[:, 0].byteswap(), of_row))
    return of_row, np.frombuffer(flat[order].astype("<u8").tobytes(), ENTRY_DTYPE)


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
    keys = store.version_keys(first_person, first_seq, len(rows))
    crc32, records, start = zlib.crc32, [], 0
    for key, count, end, person in zip(keys, counts.tolist(), ends, people, strict=True):
        body = heads[count] + packed[start:end] + person
        records.append((key, body + crc32(body, crc32(key)).to_bytes(4, "little")))
        start = end
    return records
