"""Owns the error classes of the engine: who must act, a stable code, and never a person's data.

Five families say who acts: `InputError` (the caller), `RefusedError` (policy), `PushbackError` (the caller,
later), `StoreError` (the operator), `CorruptionError` (the operator, now: the process stops serving).
Leaves carry a stable `code`; `api/problems` maps every leaf to a status and to advice, and a test walks the
subclasses. Messages name the field and the bound, never the value.
"""

from __future__ import annotations

from typing import ClassVar


class ShikakuError(Exception):
    """Base of all errors that cross a module boundary.

    Attributes: `code` is stable and documented; `field` names the offending member as a path such as
    `card.birth_date` (or None); `detail` is one English sentence without personal data.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class InputError(ShikakuError):
    """The caller must change the request."""


class RefusedError(ShikakuError):
    """Policy forbids it."""


class PushbackError(ShikakuError):
    """The caller may try again later."""

    def __init__(self, detail: str, *, retry_after_ms: int, field: str | None = None) -> None:
        super().__init__(detail, field=field)
        self.retry_after_ms = retry_after_ms


class StoreError(ShikakuError):
    """The operator must act; nothing was half applied."""


class CorruptionError(ShikakuError):
    """Stored bytes are not what was written; the process must stop serving."""


# --- the caller -------------------------------------------------------------------------------------------


class MalformedError(InputError):
    """The body is not readable in its format."""

    code = "input.malformed"


class WrongTypeError(InputError):
    """A member has the wrong type, is missing, or is unknown."""

    code = "input.schema"


class FormatError(InputError):
    """An identifier or code has not the form that its field asks for."""

    code = "input.format"


class TooLongError(InputError):
    """A value is longer than its field allows."""

    code = "input.too_long"


class CheckDigitError(InputError):
    """A check digit does not fit (an error on registration, a warning on inquiries, both by setting)."""

    code = "input.check_digit"


class DateError(InputError):
    """A date does not exist in the calendar or lies outside the supported range."""

    code = "input.date"


class MyNumberError(InputError):
    """A value that looks like a My Number (個人番号) was given; it is neither kept nor logged."""

    code = "input.my_number"


class InquiryShapeError(InputError):
    """An inquiry names neither or both of `card` and `certificate`."""

    code = "input.inquiry"


class BodyTooLargeError(InputError):
    """A request body, a line or a batch is over its limit."""

    code = "input.too_large"


class FeedHeaderError(InputError):
    """A feed file has no header row, or lacks or repeats a column, or has an unknown one."""

    code = "feed.header"


class FeedEncodingError(InputError):
    """A feed file is not in the declared encoding."""

    code = "feed.encoding"


class FeedTruncatedError(InputError):
    """A feed file ends inside a row or a quoted field."""

    code = "feed.truncated"


class FeedRowsError(InputError):
    """Rows of a feed are wrong; nothing of it was applied. `report` lists them."""

    code = "feed.rows"

    def __init__(self, detail: str, *, report: object, field: str | None = None) -> None:
        super().__init__(detail, field=field)
        self.report = report


class FeedNumberError(InputError):
    """A feed sequence number was used before by other content, or goes backwards."""

    code = "feed.number"


class InsurerUnknownError(InputError):
    """The insurer is not registered here."""

    code = "insurer.unknown"


class CallerInputError(InputError):
    """What the register of callers is to be told has not its form; `field` names what."""

    code = "caller.input"


class CallerExistsError(InputError):
    """A caller, key or certificate like this is in the register already."""

    code = "caller.exists"


class CallerMissingError(InputError):
    """No such caller, key or certificate is in the register."""

    code = "caller.missing"


class AuditEntryError(InputError):
    """Bytes are no entry of the audit log, or a member does not fit into one; `field` names the member."""

    code = "audit.entry"


class AuditNoteError(InputError):
    """A signed note, a checkpoint or a verifier key has not its form."""

    code = "audit.note"


class AuditReceiptError(InputError):
    """A receipt has not its form, or does not prove what it should."""

    code = "audit.receipt"


class ReceiptUnknownError(InputError):
    """No answer has a receipt of this name."""

    code = "audit.receipt_unknown"


class AuditProofError(InputError):
    """A Merkle proof does not lead to the root that it should lead to."""

    code = "audit.proof"


class AuditRangeError(InputError):
    """An index or a size lies outside the audit log."""

    code = "audit.range"


# --- policy -----------------------------------------------------------------------------------------------


class InsurerMismatchError(RefusedError):
    """An insurer writes for another insurer."""

    code = "insurer.mismatch"


class AuditSignatureError(RefusedError):
    """A note lacks a valid signature of a key that must have signed it."""

    code = "audit.signature"


class CallerUnknownError(RefusedError):
    """The request does not prove who asks: no token or certificate, or none that is good any more."""

    code = "caller.unknown"


class CallerScopeError(RefusedError):
    """The caller is known, and may not do this."""

    code = "caller.scope"


class CallerMismatchError(RefusedError):
    """An institution asks in the name of another."""

    code = "caller.mismatch"


# --- the caller, later --------------------------------------------------------------------------------------


class WriterBusyError(PushbackError):
    """The writer's queue is full, or another import is under way."""

    code = "registry.busy"


class CallerRateError(PushbackError):
    """The caller asks more often than it may."""

    code = "caller.rate"


class CallerGuessingError(PushbackError):
    """Too many of the caller's inquiries were about nobody: it may be trying out identifiers."""

    code = "caller.guessing"


class AuditUnavailableError(PushbackError):
    """What is answered cannot be recorded just now: nothing is answered."""

    code = "audit.unavailable"


class StartingError(PushbackError):
    """The process has no store or index yet."""

    code = "server.starting"


# --- the operator -------------------------------------------------------------------------------------------


class StoreFullError(StoreError):
    """The disk or the store's map is full; what was under way is not applied."""

    code = "store.full"


class StoreVersionError(StoreError):
    """The store was written by another version."""

    code = "store.version"


class StoreMissingError(StoreError):
    """There is no store in the data folder: run `shikaku init`."""

    code = "store.missing"


class StoreLockedError(StoreError):
    """Another process is the writer of this store."""

    code = "store.locked"


class StorePoisonedError(StoreError):
    """An earlier write or sync failed; the writer must be reopened and recovered."""

    code = "store.poisoned"


class KeyMissingError(StoreError):
    """The master key file is missing or unreadable."""

    code = "key.missing"


class KeyMismatchError(StoreError):
    """The master key is not the one that this store was made with."""

    code = "key.mismatch"


class IndexSpaceError(StoreError):
    """There is not enough memory or tmpfs for the index."""

    code = "index.space"


class ConfigError(StoreError):
    """A setting is unknown or out of its range."""

    code = "config.invalid"


class AuditMissingError(StoreError):
    """There is no audit log in the folder."""

    code = "audit.missing"


class AuditLockedError(StoreError):
    """Another process writes this audit log, or is this witness."""

    code = "audit.locked"


class AuditKeyError(StoreError):
    """A signing key is missing or unreadable, or not the one that the log was signed with."""

    code = "audit.key"


# --- the operator, now --------------------------------------------------------------------------------------


class IndexCorruptError(CorruptionError):
    """An index file fails its checksum or its layout."""

    code = "index.corrupt"


class RecordCorruptError(CorruptionError):
    """A stored record cannot be read back."""

    code = "store.corrupt"


class AuditDamagedError(CorruptionError):
    """An audit log holds less than, or something else than, what was signed."""

    code = "audit.damaged"
