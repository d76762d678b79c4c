"""Owns the bytes of one entry of the audit log (docs/AUDIT.md): a record to bytes and back, strictly.

An entry has one spelling only: what decodes encodes to the same bytes. Errors name the member, never its value.
"""

from __future__ import annotations

import datetime
import enum
import struct
from typing import Final

import msgspec

from engine.errors import AuditEntryError

VERSION: Final = 1
NO_VERDICT: Final = 255
CALLER_BYTES: Final = 16
REQUEST_ID_BYTES_MAX: Final = 64
OPERATOR_BYTES_MAX: Final = 32
ANSWER_OFFSET: Final = 74
"""Where the SHA-256 of the answer's body lies."""
TIME_OFFSET: Final = 10
FIXED_BYTES: Final = 106
ENTRY_BYTES_MIN: Final = FIXED_BYTES + 1
ENTRY_BYTES_MAX: Final = FIXED_BYTES + 1 + REQUEST_ID_BYTES_MAX + 1 + OPERATOR_BYTES_MAX
NO_HASH: Final = bytes(16)

_HEAD: Final = struct.Struct(">BBBBHIQQ16s16s16s32s")
assert _HEAD.size == FIXED_BYTES


class Kind(enum.IntEnum):
    """What happened."""

    CHECK_CARD = 1
    CHECK_CERTIFICATE = 2
    BATCH_CARD = 3
    BATCH_CERTIFICATE = 4
    EMERGENCY_SEARCH = 5
    STATUS_ATTESTATION = 6
    LINK = 7
    OWN_LOOK = 8
    OVERSIGHT_EXPORT = 9
    EVENT = 10
    VERDICT_ONLY = 11


class Flags(enum.IntFlag):
    """Circumstances of it; other bits are refused."""

    NONE = 0
    EMERGENCY = 1
    CONSENT_USED = 2
    CARD_PRESENTED = 4
    VERDICT_ONLY = 8


ALL_FLAGS: Final = int(Flags.EMERGENCY | Flags.CONSENT_USED | Flags.CARD_PRESENTED | Flags.VERDICT_ONLY)
_KINDS: Final = frozenset(map(int, Kind))


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry. Only `request_id` and `operator` vary in length."""

    kind: Kind
    at_ms: int
    """When, in milliseconds since 1970-01-01T00:00Z."""
    data_version: int
    """The version of the data that the answer was decided at; 0: none."""
    caller: str
    """Institution code or another caller's id, ASCII, at most 16 characters; empty: none."""
    answer_digest: bytes
    """SHA-256 of the answer's body."""
    purpose: int = 0
    """Code of the inquiry's purpose; 0: none."""
    verdict: int = NO_VERDICT
    flags: Flags = Flags.NONE
    as_of: int = 0
    """The as-of date as a decimal number, 20261123; 0: none."""
    inquiry_hash: bytes = NO_HASH
    """Keyed hash of what was asked; zeros: none."""
    person_code: bytes = NO_HASH
    """The caller's own code for the person (機関別符号); zeros: none."""
    request_id: str = ""
    operator: str = ""
    """Who asked at the caller's; empty: not given."""


def encode(entry: Entry) -> bytes:
    """The bytes of an entry. Raises AuditEntryError if a member does not fit."""
    caller, request_id = _ascii(entry.caller, "caller"), _ascii(entry.request_id, "request_id")
    operator = entry.operator.encode("utf-8", "replace")
    try:
        data = _HEAD.pack(
            VERSION,
            entry.kind,
            entry.purpose,
            entry.verdict,
            entry.flags,
            entry.as_of,
            entry.at_ms,
            entry.data_version,
            caller,
            entry.inquiry_hash,
            entry.person_code,
            entry.answer_digest,
        )
    except struct.error:
        raise AuditEntryError("a number of the entry is out of its range") from None
    hashes = (("inquiry_hash", entry.inquiry_hash, 16), ("person_code", entry.person_code, 16))
    for name, value, length in (*hashes, ("answer_digest", entry.answer_digest, 32)):
        if len(value) != length:
            raise AuditEntryError(f"must have {length} bytes", field=name)
    if len(caller) > CALLER_BYTES:
        raise AuditEntryError(f"has at most {CALLER_BYTES} bytes", field="caller")
    if len(request_id) > REQUEST_ID_BYTES_MAX:
        raise AuditEntryError(f"has at most {REQUEST_ID_BYTES_MAX} bytes", field="request_id")
    if len(operator) > OPERATOR_BYTES_MAX:
        raise AuditEntryError(f"has at most {OPERATOR_BYTES_MAX} bytes", field="operator")
    data += bytes((len(request_id),)) + request_id
    if operator:
        data += bytes((len(operator),)) + operator
    _check(entry.kind, entry.flags, entry.as_of)
    if operator != entry.operator.encode("utf-8", "surrogatepass"):
        raise AuditEntryError("is not UTF-8", field="operator")
    return data


def decode(data: bytes) -> Entry:
    """The entry that bytes stand for. Raises AuditEntryError for anything that `encode` would not have made."""
    if len(data) < ENTRY_BYTES_MIN:
        raise AuditEntryError(f"an entry has at least {ENTRY_BYTES_MIN} bytes")
    if data[0] != VERSION:
        raise AuditEntryError(f"the version of an entry is {VERSION}", field="version")
    _, kind, purpose, verdict, flags, as_of, at_ms, data_version, caller, inquiry, person, answer = _HEAD.unpack_from(
        data
    )
    _check(kind, flags, as_of)
    request_id, operator = _tail(data)
    return Entry(
        kind=Kind(kind),
        at_ms=at_ms,
        data_version=data_version,
        caller=_printable(caller.rstrip(b"\0"), "caller"),
        answer_digest=answer,
        purpose=purpose,
        verdict=verdict,
        flags=Flags(flags),
        as_of=as_of,
        inquiry_hash=inquiry,
        person_code=person,
        request_id=request_id,
        operator=operator,
    )


def at_ms_of(data: bytes) -> int:
    """When, of an entry that is known to be one."""
    return int.from_bytes(data[TIME_OFFSET : TIME_OFFSET + 8], "big")


def answer_digest_of(data: bytes) -> bytes:
    """The digest of the answer, of an entry that is known to be one."""
    return data[ANSWER_OFFSET:FIXED_BYTES]


def is_day(as_of: int) -> bool:
    """Whether a decimal number yyyymmdd is a day of the calendar; 0 stands for none."""
    try:
        return as_of == 0 or bool(datetime.date(as_of // 10_000, as_of // 100 % 100, as_of % 100))
    except ValueError:
        return False


def _check(kind: int, flags: int, as_of: int) -> None:
    if kind not in _KINDS:
        raise AuditEntryError("is no known kind of entry", field="kind")
    if flags & ~ALL_FLAGS:
        raise AuditEntryError("has a flag that is not known", field="flags")
    if not is_day(as_of):
        raise AuditEntryError("is no day of the calendar", field="as_of")


def _tail(data: bytes) -> tuple[str, str]:
    """Request id and operator. The operator's length stands there only if there is an operator."""
    end = ENTRY_BYTES_MIN + data[FIXED_BYTES]
    if data[FIXED_BYTES] > REQUEST_ID_BYTES_MAX or end > len(data):
        raise AuditEntryError("is longer than its bound or than the entry", field="request_id")
    request_id = _printable(data[ENTRY_BYTES_MIN:end], "request_id")
    if end == len(data):
        return request_id, ""
    length = data[end]
    if not 0 < length <= OPERATOR_BYTES_MAX or end + 1 + length != len(data):
        raise AuditEntryError("must have 1 to 32 bytes and end the entry", field="operator")
    try:
        return request_id, data[end + 1 :].decode("utf-8")
    except UnicodeDecodeError:
        raise AuditEntryError("is not UTF-8", field="operator") from None


def _ascii(text: str, field: str) -> bytes:
    data = text.encode("ascii", "replace") if text.isascii() else b"\xff"
    _printable(data, field)
    return data


def _printable(data: bytes, field: str) -> str:
    if data and (min(data) < 0x20 or max(data) > 0x7E):
        raise AuditEntryError("must be printable ASCII", field=field)
    return data.decode("ascii")
