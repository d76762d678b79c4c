"""Owns the native JSON of the registry: insurers, delta calls, receipts; OpenAPI is generated from these Structs."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from api.wire import outline, reading, refusal
from api.wire.native import Date, text_meta
from engine import clock, days, identifiers, limits
from engine.config import CheckDigitPolicy
from engine.errors import BodyTooLargeError, CheckDigitError, FeedRowsError, FormatError, InputError, WrongTypeError
from engine.ingest import feed
from engine.ingest.registry import FEED_NUMBER_MAX, DeltaCall, FeedReceipt
from engine.ingest.rows import Report
from engine.records import Insurer
from ext import frame

FeedNumber = Annotated[
    int,
    Meta(ge=0, le=FEED_NUMBER_MAX, description="Grows with every feed of an insurer; makes repeats and gaps visible"),
]
InsurerNumber = Annotated[str, text_meta("保険者番号 in 8 digits", "01130012", pattern="^[0-9]{8}$")]
Instant = Annotated[str, text_meta("RFC 3339, Japan's zone", "2026-11-23T08:00:00+09:00")]


class InsurerRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An insurer to register, or to rename."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.INSURER_NAME_CHARS_MAX)]
    name_kana: Annotated[str, Meta(max_length=limits.INSURER_NAME_CHARS_MAX)] = ""
    twelve_digit_numbers: Annotated[
        bool, Meta(description="Its insured numbers have 12 digits: exempt from the My Number guard")
    ] = False


class InsurerView(msgspec.Struct):
    """A registered insurer and how fresh its data is."""

    number: InsurerNumber
    name: str
    name_kana: str | None
    twelve_digit_numbers: bool
    fresh_at: Annotated[str, text_meta("When its last feed took effect", "2026-11-23T08:00:00+09:00")] | None
    feed_as_of: Annotated[str, text_meta("The day for which that feed was drawn up", "2026-11-22")] | None
    feed_number: int | None


class InsurerList(msgspec.Struct):
    """All registered insurers."""

    insurers: list[InsurerView]


class DeltaRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Operations of one insurer, applied together or not at all, in their order."""

    operations: Annotated[
        list[Any], Meta(min_length=1, extra_json_schema={"items": {"$ref": "#/components/schemas/Operation"}})
    ]
    feed_number: FeedNumber | None = None
    as_of: Date | None = None


class StateRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Qualifications as they are to be registered, whether or not they are known; together or not at all."""

    qualifications: Annotated[
        list[Any], Meta(min_length=1, extra_json_schema={"items": {"$ref": "#/components/schemas/QualificationState"}})
    ]
    feed_number: FeedNumber | None = None
    as_of: Date | None = None


class Receipt(msgspec.Struct, kw_only=True):
    """What was registered. It is sent when that is durable and seen by every check."""

    feed: Annotated[int, Meta(description="Number of this feed or call; 0 for a dry run")]
    insurer: Annotated[str, text_meta("Whose feed it was", "01130012")] | None
    feed_number: int | None
    digest: Annotated[str, text_meta("SHA-256 of the content, in hexadecimal", "9f86d081884c7d65...")]
    rows: int
    new: int
    changed: int
    lost: int
    cancelled: int
    replayed: Annotated[
        bool, Meta(description="The same content came before: nothing was changed; this is its receipt")
    ]
    dry_run: bool
    data_version: int
    as_of: Date | None
    received_at: Instant
    warnings: Annotated[int, Meta(description="Wrong check digits that were let pass by setting")]


# --- decoding -------------------------------------------------------------------------------------------------------


def insurer(body: bytes, number: str, *, policy: CheckDigitPolicy) -> Insurer:
    """The insurer that a body describes. Raises InputError."""
    request = _decode(_decode_insurer, body)
    if policy == "error" and not identifiers.check_digit_ok(number):
        raise CheckDigitError("the check digit of the insurer number does not fit", field="number")
    for field, text in (("name", request.name), ("name_kana", request.name_kana)):
        identifiers.refuse_my_number(text, field)
        if not text.isprintable() or "\ufffd" in text:
            raise FormatError("a name holds a character that cannot be shown", field=field)
    return Insurer(
        number=number,
        name=request.name,
        name_kana=request.name_kana,
        twelve_digit_numbers=request.twelve_digit_numbers,
    )


def delta(body: bytes, number: str, *, policy: CheckDigitPolicy, exempt: Callable[[str], bool]) -> DeltaCall:
    """A call with operations. The same body again is a repeat: it changes nothing. Raises InputError."""
    request = _decode_call(_decode_delta, body, "operations")
    digest = hashlib.sha256(body).digest()
    return _call(number, request.feed_number, request.as_of, request.operations, digest, policy, exempt)


def state(body: bytes, number: str, *, policy: CheckDigitPolicy, exempt: Callable[[str], bool]) -> DeltaCall:
    """A call that says how qualifications are.

    Without a feed number it is applied whenever it comes: the same state may be put again after another one was.
    Raises InputError.
    """
    request = _decode_call(_decode_state, body, "qualifications")
    unique = b"" if request.feed_number is not None else secrets.token_bytes(16)
    operations = []
    for position, given in enumerate(request.qualifications):
        if isinstance(given, dict) and "op" in given:
            raise WrongTypeError("a state has no op", field=f"qualifications[{position}].op")
        operations.append({"op": "new", **given} if isinstance(given, dict) else given)
    digest = hashlib.sha256(unique + body).digest()
    call = _call(number, request.feed_number, request.as_of, operations, digest, policy, exempt)
    return replace(call, settle=True)


def _decode(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        request = decode(body)
        outline.refuse_repeated(body)
        return request
    except (InputError, ValueError, RecursionError) as error:
        raise refusal.explain(body, error) from None


def _decode_call(decode: Callable[[bytes], Any], body: bytes, field: str) -> Any:
    """A call with its operations decoded one by one: this runs in a thread, and one step of msgspec stops all others.

    Too many operations, or one that is too long, are refused before anything is built.
    """
    _refuse_too_many(body, field)
    request = _decode(decode, body)
    try:
        setattr(request, field, [msgspec.json.decode(one) for one in getattr(request, field)])
    except (ValueError, RecursionError) as error:
        raise refusal.explain(body, error) from None
    return request


def _refuse_too_many(body: bytes, field: str) -> None:
    """Count what is in the list `field`, in the order of the bytes; what is not well formed is left to the decoder."""
    count = 0
    try:
        offset = frame.open_object(body)
        while True:
            name, offset = frame.next_member(body, offset)
            if name is None:
                return
            if name != field:
                offset = frame.skip(body, offset)
                continue
            offset = frame.open_array(body, offset)
            while (item := frame.next_item(body, offset))[0] != item[1]:
                start, end, offset = item
                count += 1
                if count > limits.DELTA_OPERATIONS_MAX:
                    detail = f"a call has at most {limits.DELTA_OPERATIONS_MAX} operations"
                    raise BodyTooLargeError(detail, field=field)
                if end - start > limits.FEED_LINE_BYTES_MAX:
                    detail = f"an operation has at most {limits.FEED_LINE_BYTES_MAX} bytes"
                    raise BodyTooLargeError(detail, field=field)
            offset = item[2]
    except ValueError:
        return


def _call(
    number: str,
    feed_number: int | None,
    as_of: str | None,
    operations: list[Any],
    digest: bytes,
    policy: CheckDigitPolicy,
    exempt: Callable[[str], bool],
) -> DeltaCall:
    rows, errors = feed.decode_operations(operations, insurer=number, policy=policy, exempt_12_digits=exempt)
    if errors:
        report = Report(rows=len(operations))
        report.add_errors(errors)
        raise FeedRowsError(f"{report.error_count} errors in {len(operations)} operations", report=report)
    return DeltaCall(
        insurer=number,
        feed_number=feed_number,
        as_of=None if as_of is None else reading.as_of_day(as_of),
        rows=rows,
        digest=digest,
    )


_decode_insurer: Final = msgspec.json.Decoder(InsurerRequest).decode


class _Delta(DeltaRequest, forbid_unknown_fields=True, kw_only=True):
    operations: Annotated[list[msgspec.Raw], Meta(min_length=1)]


class _State(StateRequest, forbid_unknown_fields=True, kw_only=True):
    qualifications: Annotated[list[msgspec.Raw], Meta(min_length=1)]


_decode_delta: Final = msgspec.json.Decoder(_Delta).decode
_decode_state: Final = msgspec.json.Decoder(_State).decode


# --- encoding -------------------------------------------------------------------------------------------------------


def insurer_view(insurer: Insurer) -> InsurerView:
    """An insurer as the API shows it."""
    return InsurerView(
        insurer.number,
        insurer.name,
        insurer.name_kana or None,
        insurer.twelve_digit_numbers,
        None if insurer.fresh_at_ms is None else clock.format_instant(insurer.fresh_at_ms),
        None if insurer.feed_as_of is None else days.format_iso(insurer.feed_as_of),
        insurer.feed_number,
    )


def insurer_list(insurers: list[Insurer]) -> bytes:
    """The body for all insurers."""
    return msgspec.json.encode(InsurerList([insurer_view(insurer) for insurer in insurers]))


def insurer_body(insurer: Insurer) -> bytes:
    """The body for one insurer."""
    return msgspec.json.encode(insurer_view(insurer))


def receipt(done: FeedReceipt) -> bytes:
    """The body that acknowledges a feed or a call."""
    return msgspec.json.encode(
        Receipt(
            feed=done.feed,
            insurer=done.insurer,
            feed_number=done.feed_number,
            digest=done.digest,
            rows=done.rows,
            new=done.new,
            changed=done.changed,
            lost=done.lost,
            cancelled=done.cancelled,
            replayed=done.replayed,
            dry_run=done.dry_run,
            data_version=done.data_version,
            as_of=None if done.as_of is None else days.format_iso(done.as_of),
            received_at=clock.format_instant(done.received_at_ms),
            warnings=done.warnings,
        )
    )
