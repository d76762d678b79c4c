"""Owns the frame of a canonical check request: where one begins and ends among the bytes of a connection.

The express lane (api/lane) takes only what every reading of HTTP/1.1 agrees on; docs/LANE.md says what that is. All
else is for the general server, which alone decides what is wrong with it.

    at = 0
    while at < len(data):
        found = frame(data, at, body_bytes_max)
        if isinstance(found, int):
            ...  # more bytes are needed, or REASONS[found] says why the lane cannot take it
        host, host_end, mark, mark_end, body, end, token, token_end = found
        transport.write(response(head, mark_of_ours, answer_to(data[body:end])))
        at = end
"""

from typing import Final

REQUEST_LINE: Final = b"POST /v1/eligibility/check HTTP/1.1\r\n"
HEAD_BYTES_MAX: Final = 4096
HEADERS_MAX: Final = 48
REASONS: Final[tuple[str, ...]]
"""Why a request is left to the general server, by the numbers that `frame` returns; the first one stands for none.
The last three are ext/connection's: the request cannot be answered with 200, the process stops, the body is late."""

def frame(data: bytes, start: int, body_bytes_max: int) -> tuple[int, int, int, int, int, int, int, int] | int:
    """The request that begins at `start`.

    Returns: offsets of the value of Host, of the value of X-Request-ID (both 0 if it has none), of the body, and of the
        value of Authorization (both 0 if it has none); or a number: more than 0, a reason; 0, the head is not there as
        a whole; less than 0, the head is, and that many bytes in all from `start` are needed.
    Raises: TypeError, ValueError if start is not within data.
    """

def response(head: bytes, mark: bytes, body: bytes) -> bytes:
    """`head`, then `mark`, then Content-Length and the end of the head, then `body`."""
