"""Owns the readable specification of ext/lane: the frame of a canonical check request."""

from __future__ import annotations

import re
from typing import Final

REQUEST_LINE: Final = b"POST /v1/eligibility/check HTTP/1.1\r\n"
HEAD_BYTES_MAX: Final = 4096
HEADERS_MAX: Final = 48
REASONS: Final = (
    "",
    "request_line",
    "head_size",
    "header_form",
    "header_repeated",
    "header_missing",
    "header_special",
    "content_type",
    "content_length",
    "body_size",
    "refused",
    "draining",
    "body_late",
)
_LINE, _SIZE, _FORM, _REPEATED, _MISSING, _SPECIAL, _TYPE, _LENGTH, _BODY = range(1, 10)
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*?)[ \t]*")
_KNOWN: Final = (
    b"host",
    b"content-length",
    b"content-type",
    b"accept",
    b"x-request-id",
    b"connection",
    b"user-agent",
    b"authorization",
)
_ANYWHERE: Final = {
    b"transfer-encoding",
    b"content-encoding",
    b"expect",
    b"upgrade",
    b"te",
    b"trailer",
    b"proxy-connection",
    b"http2-settings",
    b"sec-websocket-key",
    b"sec-websocket-key1",
    b"content-location",
    b"content-range",
    b"etag",
    b"max-forwards",
    b"server",
}
"""Whatever its value, a request with one of these is not an ordinary one."""
_ACCEPTED: Final = (b"*/*", b"application/json")


def frame(data: bytes, start: int, body_bytes_max: int) -> tuple[int, int, int, int, int, int, int, int] | int:
    _check(data, "data")
    for value, name in ((start, "start"), (body_bytes_max, "body_bytes_max")):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 0 <= start <= len(data):
        raise ValueError("start is not within data")
    if not 0 <= body_bytes_max <= 2**30:
        raise ValueError("body_bytes_max is out of range")
    line = data[start : start + len(REQUEST_LINE)]
    if line != REQUEST_LINE[: len(line)]:
        return _LINE
    if len(line) < len(REQUEST_LINE):
        return 0
    spans: dict[bytes, tuple[int, int]] = {}
    at, count = start + len(REQUEST_LINE), 0
    while True:
        end = data.find(b"\n", at, start + HEAD_BYTES_MAX)
        if end < 0:
            return _SIZE if len(data) - start >= HEAD_BYTES_MAX else 0
        if end == at or data[end - 1] != 0x0D:
            return _FORM
        if end == at + 1:
            break
        count += 1
        if count > HEADERS_MAX:
            return _SIZE
        match = _HEADER.fullmatch(data, at, end - 1)
        if match is None:
            return _FORM
        found = match[1].lower()
        if found in _ANYWHERE:
            return _SPECIAL
        if found in _KNOWN:
            if found in spans:
                return _REPEATED
            spans[found] = match.span(2)
            if reason := _reason(found, match[2]):
                return reason
        at = end + 1
    if not {b"host", b"content-length", b"content-type"} <= spans.keys():
        return _MISSING
    length = int(data[slice(*spans[b"content-length"])])
    if length > body_bytes_max:
        return _BODY
    body = end + 1
    if len(data) < body + length:
        return start - body - length
    marked, token = (spans.get(name, (0, 0)) for name in (b"x-request-id", b"authorization"))
    return *spans[b"host"], *marked, body, body + length, *token


def _reason(name: bytes, value: bytes) -> int:
    """What is against the value of a header that counts; 0 if nothing is."""
    if name == b"content-type":
        return 0 if value == b"application/json" else _TYPE
    if name == b"content-length":
        return 0 if re.fullmatch(b"[1-9][0-9]{0,8}", value) else _LENGTH
    if name == b"accept":
        return 0 if value in _ACCEPTED else _SPECIAL
    if name == b"connection":
        return 0 if value.lower() == b"keep-alive" else _SPECIAL
    return 0 if value or name == b"user-agent" else _SPECIAL


def response(head: bytes, mark: bytes, body: bytes) -> bytes:
    for value, name in ((head, "head"), (mark, "mark"), (body, "body")):
        _check(value, name)
    return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (head, mark, len(body), body)


def _check(value: object, name: str) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
