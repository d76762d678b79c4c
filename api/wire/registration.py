"""Owns the native JSON of the registry: insurers, delta calls, receipts; OpenAPI is generated from these Structs."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from api.wire import reading, refusal
from api.wire.native import Date, text_meta
from api.wire.outline import Outline, refuse_repeated
from engine import clock, days, identifiers, limits
from engine.config import CheckDigitPolicy
from engine.errors import (
    BodyTooLargeError,
    CheckDigitError,
    FeedRowsError,
    FormatError,
    InputError,
    MyNumberError,
    WrongTypeError,
)
from engine.ingest import columns, feed
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


class _CallHead(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A call without its list, whose items are decoded one by one."""

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
        if identifiers.is_my_number(text) or identifiers.holds_my_number(text):
            raise MyNumberError("a My Number (個人番号) must not be part of a name; it was not kept", field=field)
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
    head, given = _decode_call(body, "operations")
    return _call(number, head, given, hashlib.sha256(body).digest(), policy, exempt)


def state(body: bytes, number: str, *, policy: CheckDigitPolicy, exempt: Callable[[str], bool]) -> DeltaCall:
    """A call that says how qualifications are.

    Without a feed number it is applied whenever it comes: the same state may be put again after another one was.
    Raises InputError.
    """
    head, given = _decode_call(body, "qualifications")
    digest = hashlib.sha256(b"" if head.feed_number is not None else secrets.token_bytes(16))
    digest.update(body)
    for position, one in enumerate(given):
        if isinstance(one, dict):
            if "op" in one:
                raise WrongTypeError("a state has no op", field=f"qualifications[{position}].op")
            given[position] = {"op": "new", **one}
    call = _call(number, head, given, digest.digest(), policy, exempt)
    return replace(call, settle=True)


def _decode(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        request = decode(body)
        refuse_repeated(body)
        return request
    except (InputError, ValueError, RecursionError) as error:
        raise refusal.explain(body, error) from None


def _decode_call(body: bytes, name: str) -> tuple[_CallHead, list[Any]]:
    """A call's head and its list `name`, decoded one by one: no other thread runs during a step of msgspec."""
    outline = Outline(body, name, limits.DELTA_OPERATIONS_MAX, "a call")
    try:
        for _ in outline.walk():
            pass
        head: _CallHead = _decode_head(outline.head)
        if not outline.items:
            raise WrongTypeError("this list must not be empty", field=name)
        given = [_operation(body[start:end], f"{name}[{n}]") for n, (start, end) in enumerate(outline.items)]
    except BodyTooLargeError:
        raise
    except (InputError, ValueError, RecursionError) as error:
        raise refusal.explain(body, error) from None
    return head, given


def _operation(body: bytes, path: str) -> object:
    """One operation of a call without what no operation has: a list of lists is let go before the next is built."""
    if len(body) > limits.FEED_LINE_BYTES_MAX:
        raise BodyTooLargeError(
            f"an operation has at most {limits.FEED_LINE_BYTES_MAX} bytes", field=path.partition("[")[0]
        )
    value = msgspec.json.decode(body)
    if type(value) is not dict:
        return _outermost(value)
    if not frame.distinct(body):
        _refuse_twice(body, path)
    unknown = [name for name in value if name not in columns.BY_NAME]
    for name in unknown[_UNKNOWN_MAX:]:
        del value[name]
    for name, one in value.items():
        value[name] = _diseases(one) if name == "diseases" and type(one) is list else _outermost(one)
    return value


def _diseases(given: list[Any]) -> list[Any]:
    """The list without the inside of what cannot be a disease."""
    return [
        {name: _outermost(value) for name, value in one.items()}
        if type(one) is dict and len(one) <= _DISEASE_MEMBERS_MAX
        else 0
        for one in given[: limits.DISEASES_PER_QUALIFICATION_MAX + 1]
    ]


def _outermost(value: object) -> object:
    return type(value)() if isinstance(value, list | dict) else value


def _refuse_twice(body: bytes, path: str) -> None:
    """Look at an operation and its diseases by themselves: `distinct` does not see through escapes, nor many names."""
    for name, start, end in _members(body, path):
        if name == "diseases" and body[start : start + 1] == b"[":
            _refuse_twice_in_list(body[start:end], f"{path}.{name}")


def _refuse_twice_in_list(body: bytes, path: str) -> None:
    offset = frame.open_array(body)
    for position in range(limits.DISEASES_PER_QUALIFICATION_MAX + 1):
        start, end, offset = frame.next_item(body, offset)
        if start == end:
            return
        if body[start : start + 1] == b"{":
            _members(body[start:end], f"{path}[{position}]")


def _members(body: bytes, path: str) -> list[tuple[str, int, int]]:
    try:
        return frame.members(body)
    except ValueError:
        raise WrongTypeError("a member is given twice", field=path) from None


def _call(
    number: str,
    head: _CallHead,
    operations: list[Any],
    digest: bytes,
    policy: CheckDigitPolicy,
    exempt: Callable[[str], bool],
) -> DeltaCall:
    rows, errors = feed.decode_operations(operations, insurer=number, policy=policy, exempt_12_digits=exempt)
    if errors:
        report = Report(rows=len(operations))
        report.add_errors(errors)
        raise FeedRowsError(f"wrong operations or members: {report.error_count}; nothing was applied", report=report)
    return DeltaCall(
        insurer=number,
        feed_number=head.feed_number,
        as_of=None if head.as_of is None else reading.as_of_day(head.as_of),
        rows=rows,
        digest=digest,
    )


_decode_insurer: Final = msgspec.json.Decoder(InsurerRequest).decode


_decode_head: Final = msgspec.json.Decoder(_CallHead).decode
_UNKNOWN_MAX: Final = 8
"""Unknown members of one operation that are told; a row's errors are cut off before that."""
_DISEASE_MEMBERS_MAX: Final = 8
"""A disease has fewer members; what has more is refused as a whole."""


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
