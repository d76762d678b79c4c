"""Owns the frame of a canonical check request: where one begins and ends among the bytes of a connection."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp

cdef extern from *:
    """
    #define SHIKAKU_REQUEST_LINE "POST /v1/eligibility/check HTTP/1.1\\r\\n"
    """
    const char *LINE_TEXT "SHIKAKU_REQUEST_LINE"
    const Py_ssize_t LINE_BYTES "((Py_ssize_t)sizeof(SHIKAKU_REQUEST_LINE) - 1)"

cdef enum:
    MOST_HEAD_BYTES = 4096
    MOST_HEADERS = 48

REQUEST_LINE = PyBytes_FromStringAndSize(LINE_TEXT, LINE_BYTES)
HEAD_BYTES_MAX = MOST_HEAD_BYTES
HEADERS_MAX = MOST_HEADERS
REASONS = (
    "", "request_line", "head_size", "header_form", "header_repeated", "header_missing", "header_special",
    "content_type", "content_length", "body_size", "refused", "draining", "body_late",
)

cdef enum:
    IN_NAME = 1
    IN_VALUE = 2

cdef uint8_t[256] KIND


def frame(data, start, body_bytes_max):
    cdef Head head
    cdef const uint8_t *text
    cdef Py_ssize_t size, first, most
    cdef int reason
    _bytes(data, "data")
    size = PyBytes_GET_SIZE(data)
    first, most = _integer(start, "start"), _integer(body_bytes_max, "body_bytes_max")
    if not 0 <= first <= size:
        raise ValueError("start is not within data")
    if not 0 <= most <= MOST_BODY_BYTES:
        raise ValueError("body_bytes_max is out of range")
    text = <const uint8_t *>PyBytes_AS_STRING(data)
    reason = read_head(text, first, size, &head)
    if reason < 0:
        return 0
    if reason == NONE and head.length > most:
        reason = BODY_SIZE
    if reason:
        return reason
    if size - head.end < head.length:
        return first - head.end - head.length
    return (
        head.spans[<int>HOST].start, head.spans[<int>HOST].end, head.spans[<int>MARK].start, head.spans[<int>MARK].end,
        head.end, head.end + head.length, head.spans[<int>TOKEN].start, head.spans[<int>TOKEN].end,
    )


def response(head, mark, body):
    cdef char[LENGTH_BYTES] digits
    cdef Py_ssize_t head_bytes, mark_bytes, body_bytes, count
    cdef char *target
    _bytes(head, "head")
    _bytes(mark, "mark")
    _bytes(body, "body")
    head_bytes, mark_bytes, body_bytes = PyBytes_GET_SIZE(head), PyBytes_GET_SIZE(mark), PyBytes_GET_SIZE(body)
    count = write_digits(body_bytes, digits)
    result = PyBytes_FromStringAndSize(NULL, head_bytes + mark_bytes + 18 + count + 4 + body_bytes)
    target = PyBytes_AS_STRING(result)
    target = append(target, PyBytes_AS_STRING(head), head_bytes)
    target = append(target, PyBytes_AS_STRING(mark), mark_bytes)
    target = append(target, b"\r\nContent-Length: ", 18)
    target = append(target, &digits[LENGTH_BYTES - count], count)
    target = append(target, b"\r\n\r\n", 4)
    append(target, PyBytes_AS_STRING(body), body_bytes)
    return result


cdef Py_ssize_t write_digits(Py_ssize_t number, char *digits) noexcept nogil:
    """Decimal digits at the end of LENGTH_BYTES; returns how many."""
    cdef Py_ssize_t count = 0
    while True:
        count += 1
        digits[LENGTH_BYTES - count] = <char>(c"0" + number % 10)
        number //= 10
        if number == 0:
            return count


cdef inline int _bytes(value, str name) except -1:
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
    return 0


cdef inline Py_ssize_t _integer(value, str name) except? -1:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    try:
        return value
    except OverflowError:
        return -2


cdef int read_head(const uint8_t *text, Py_ssize_t start, Py_ssize_t size, Head *head) noexcept nogil:
    """A reason, or -1 if the head is not there as a whole."""
    cdef Py_ssize_t at, end, there = min(size - start, LINE_BYTES)
    cdef Py_ssize_t limit = min(size, start + MOST_HEAD_BYTES)
    cdef const uint8_t *found
    cdef int count = 0, reason
    if memcmp(text + start, LINE_TEXT, there) != 0:
        return OTHER_LINE
    if there < LINE_BYTES:
        return -1
    head.seen, head.length = 0, 0
    head.spans[<int>MARK].start = head.spans[<int>MARK].end = 0
    head.spans[<int>TOKEN].start = head.spans[<int>TOKEN].end = 0
    at = start + LINE_BYTES
    while True:
        found = <const uint8_t *>memchr(text + at, c"\n", limit - at)
        if found == NULL:
            return HEAD_SIZE if size - start >= MOST_HEAD_BYTES else -1
        end = found - text
        if end == at or text[end - 1] != c"\r":
            return HEADER_FORM
        if end == at + 1:
            break
        count += 1
        if count > MOST_HEADERS:
            return HEAD_SIZE
        reason = _read_header(text, at, end - 1, head)
        if reason:
            return reason
        at = end + 1
    if (head.seen & 7) != 7:
        return HEADER_MISSING
    head.end = end + 1
    return NONE


cdef int _read_header(const uint8_t *text, Py_ssize_t start, Py_ssize_t end, Head *head) noexcept nogil:
    cdef Py_ssize_t at = start, name_end, position
    cdef int known
    while at < end and KIND[text[at]] & IN_NAME:
        at += 1
    if at == start or at == end or text[at] != c":":
        return HEADER_FORM
    name_end = at
    at += 1
    while at < end and (text[at] == c" " or text[at] == c"\t"):
        at += 1
    for position in range(at, end):
        if not KIND[text[position]] & IN_VALUE:
            return HEADER_FORM
    while end > at and (text[end - 1] == c" " or text[end - 1] == c"\t"):
        end -= 1
    known = _known(text + start, name_end - start)
    if known == UNKNOWN:
        return NONE
    if known == ANYWHERE:
        return HEADER_SPECIAL
    if head.seen & (1 << known):
        return HEADER_REPEATED
    head.seen |= 1 << known
    head.spans[known].start, head.spans[known].end = at, end
    return _against(known, text + at, end - at, head)


cdef int _against(int known, const uint8_t *value, Py_ssize_t size, Head *head) noexcept nogil:
    """What is against the value of a header that counts; NONE if nothing is."""
    cdef Py_ssize_t position
    if known == TYPE:
        return NONE if _is(value, size, b"application/json", 16) else OTHER_TYPE
    if known == LENGTH:
        if not 0 < size <= 9 or value[0] == c"0":
            return BAD_LENGTH
        for position in range(size):
            if not c"0" <= value[position] <= c"9":
                return BAD_LENGTH
            head.length = 10 * head.length + value[position] - c"0"
        return NONE
    if known == ACCEPT:
        return NONE if _is(value, size, b"*/*", 3) or _is(value, size, b"application/json", 16) else HEADER_SPECIAL
    if known == CONNECTION:
        return NONE if _is_folded(value, size, b"keep-alive", 10) else HEADER_SPECIAL
    return NONE if size or known == AGENT else HEADER_SPECIAL


cdef inline bint _is(const uint8_t *value, Py_ssize_t size, const char *wanted, Py_ssize_t length) noexcept nogil:
    return size == length and memcmp(value, wanted, length) == 0


cdef inline bint _is_folded(
    const uint8_t *value, Py_ssize_t size, const char *wanted, Py_ssize_t length
) noexcept nogil:
    """Whether it is `wanted`, which is written in small letters, in any case."""
    cdef Py_ssize_t position
    cdef uint8_t byte
    if size != length:
        return False
    for position in range(length):
        byte = value[position]
        if c"A" <= byte <= c"Z":
            byte += 32
        if byte != <uint8_t>wanted[position]:
            return False
    return True


cdef int _known(const uint8_t *name, Py_ssize_t size) noexcept nogil:
    if size == 2:
        return ANYWHERE if _is_folded(name, size, b"te", 2) else UNKNOWN
    if size == 4:
        if _is_folded(name, size, b"host", 4):
            return HOST
        return ANYWHERE if _is_folded(name, size, b"etag", 4) else UNKNOWN
    if size == 6:
        if _is_folded(name, size, b"accept", 6):
            return ACCEPT
        return ANYWHERE if _is_folded(name, size, b"expect", 6) or _is_folded(name, size, b"server", 6) else UNKNOWN
    if size == 7:
        return ANYWHERE if _is_folded(name, size, b"upgrade", 7) or _is_folded(name, size, b"trailer", 7) else UNKNOWN
    if size == 10:
        if _is_folded(name, size, b"connection", 10):
            return CONNECTION
        return AGENT if _is_folded(name, size, b"user-agent", 10) else UNKNOWN
    if size == 12:
        if _is_folded(name, size, b"content-type", 12):
            return TYPE
        if _is_folded(name, size, b"max-forwards", 12):
            return ANYWHERE
        return MARK if _is_folded(name, size, b"x-request-id", 12) else UNKNOWN
    if size == 13:
        if _is_folded(name, size, b"authorization", 13):
            return TOKEN
        return ANYWHERE if _is_folded(name, size, b"content-range", 13) else UNKNOWN
    if size == 14:
        if _is_folded(name, size, b"content-length", 14):
            return LENGTH
        return ANYWHERE if _is_folded(name, size, b"http2-settings", 14) else UNKNOWN
    if size == 16:
        if _is_folded(name, size, b"content-encoding", 16) or _is_folded(name, size, b"proxy-connection", 16):
            return ANYWHERE
        return ANYWHERE if _is_folded(name, size, b"content-location", 16) else UNKNOWN
    if size == 17:
        if _is_folded(name, size, b"transfer-encoding", 17) or _is_folded(name, size, b"sec-websocket-key", 17):
            return ANYWHERE
        return UNKNOWN
    return ANYWHERE if _is_folded(name, size, b"sec-websocket-key1", 18) else UNKNOWN


cdef void _fill_table() noexcept:
    cdef int byte
    for byte in range(256):
        KIND[byte] = IN_VALUE if 0x20 <= byte <= 0x7e or byte == c"\t" else 0
    for byte in range(c"0", c"9" + 1):
        KIND[byte] |= IN_NAME
    for byte in range(c"a", c"z" + 1):
        KIND[byte] |= IN_NAME
        KIND[byte - 32] |= IN_NAME
    for byte in b"!#$%&'*+-.^_`|~":
        KIND[byte] |= IN_NAME


_fill_table()
