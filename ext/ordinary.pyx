"""Owns the ordinary check: an inquiry by card in plain JSON, and the answer if one confirmed qualification has it."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from ext cimport canon
from ext.answered cimport is_card, is_certificate, is_in_force, write_certificate, write_qualification
from ext.held cimport PERSON_COUNT, Q_COUNT, Q_INSURER_NUMBER, Record, read_record
from ext.places cimport part
from ext.scan cimport (
    Span, Text, check_digit_fits, count_digits, has_letter, is_text, skip_blanks, take, take_name, take_null,
    take_string, take_word,
)
from ext.written cimport Writer, put_date, put_literal, put_number, put_quoted, put_span

cdef enum:
    FIRST_BIRTH_DATE = -25566
    INSTITUTION_DIGITS = 10
    INSURER_DIGITS = 8
    MARK_BYTES = 64
    # A My Number has as many; what may hold one goes the careful way.
    SUSPECT_DIGITS = 12
    ELDERLY_DIGITS = 8

ANSWER_BYTES_MAX = MOST_ANSWER_BYTES
AS_OF_MIN = FIRST_AS_OF
AS_OF_MAX = LAST_AS_OF
BIRTH_DATE_MIN = FIRST_BIRTH_DATE
PURPOSES = (
    "treatment", "dispensing", "dental", "home_visit", "online", "emergency", "appointment", "administration",
)
PERSON_MEMBERS = PERSON_COUNT
_VALID_HEAD = b'{"verdict":"VALID","reason":null,"as_of":'
QUALIFICATION_MEMBERS = Q_COUNT

# --- what is asked ----------------------------------------------------------------------------------------------

# Members of an inquiry and of its card, as bits of what was seen.
cdef enum:
    M_INSTITUTION = 1
    M_AS_OF = 2
    M_PURPOSE = 4
    M_CARD = 8
    M_CONSENT = 16
    M_DETAIL = 32
    M_MARK = 64
    M_CERTIFICATE = 128
    M_ALL = 255
    C_INSURER = 1
    C_SYMBOL = 2
    C_NUMBER = 4
    C_BRANCH = 8
    C_BIRTH = 16
    N_LIMIT = 1
    N_DISEASES = 2

cdef class Ask:
    cdef Inquiry asked
    cdef object data            # what its spans point into

    def __init__(self):
        raise TypeError("made by ordinary.read only")

    @property
    def as_of(self):
        return self.asked.as_of

    @property
    def institution(self):
        return _ascii(&self.asked.institution)

    @property
    def by_certificate(self):
        return bool(self.asked.by_certificate)

    @property
    def insurer_number(self):
        return None if self.asked.by_certificate else _ascii(&self.asked.insurer)

    @property
    def verdict_only(self):
        return bool(self.asked.verdict_only)

    @property
    def branch(self):
        return None if self.asked.branch == NO_BRANCH else self.asked.branch

    @property
    def message(self):
        cdef uint8_t[MESSAGE_BYTES] message
        return PyBytes_FromStringAndSize(<const char *>message, write_message(&self.asked, message))

    def answer(self, record, start, stop, data_version, insurer_name, fresh_at, advice):
        cdef Py_buffer buffer
        cdef Py_ssize_t first, last, size = 0
        cdef Record found
        cdef uint64_t version = _version(data_version)
        cdef uint8_t[MOST_ANSWER_BYTES] answer
        cdef Pieces pieces
        _check_pieces(insurer_name, fresh_at, advice)
        pieces.insurer_name, pieces.fresh_at = _span(insurer_name), _span(fresh_at)
        pieces.head, pieces.advice = _span(_VALID_HEAD), _span(advice)
        PyObject_GetBuffer(record, &buffer, PyBUF_SIMPLE)
        try:
            part(start, stop, buffer.len, &first, &last)
            if fits(&self.asked, <const uint8_t *>buffer.buf + first, last - first, &found):
                size = write_answer(&self.asked, &found, version, &pieces, answer)
        finally:
            PyBuffer_Release(&buffer)
        return PyBytes_FromStringAndSize(<const char *>answer, size) if size > 0 else None

    def insurer_of(self, record, start, stop):
        cdef Py_buffer buffer
        cdef Py_ssize_t first, last
        cdef Record found
        cdef Span insurer
        PyObject_GetBuffer(record, &buffer, PyBUF_SIMPLE)
        try:
            part(start, stop, buffer.len, &first, &last)
            if not fits(&self.asked, <const uint8_t *>buffer.buf + first, last - first, &found):
                return None
            insurer = insurer_of(&found)
            return insurer.at[:insurer.length].decode() if insurer.length == INSURER_DIGITS else None
        finally:
            PyBuffer_Release(&buffer)

    def bare(self, head, data_version, fresh_at, advice):
        cdef uint64_t version = _version(data_version)
        cdef uint8_t[MOST_ANSWER_BYTES] answer
        cdef Pieces pieces
        cdef Py_ssize_t size
        _check_pieces(head, fresh_at, advice)
        pieces.head, pieces.fresh_at, pieces.advice = _span(head), _span(fresh_at), _span(advice)
        size = write_bare(&self.asked, version, &pieces, answer)
        return PyBytes_FromStringAndSize(<const char *>answer, size) if size > 0 else None


def read(data, start, stop, today, *, item=False):
    cdef Py_ssize_t first, last
    cdef const uint8_t *text
    cdef Ask ask
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    part(start, stop, PyBytes_GET_SIZE(data), &first, &last)
    if not isinstance(today, int):
        raise TypeError("today must be int")
    if not FIRST_AS_OF <= today <= LAST_AS_OF:
        return None
    ask = Ask.__new__(Ask)
    ask.data = data
    text = <const uint8_t *>PyBytes_AS_STRING(data) + first
    if not (read_item(&ask.asked, text, last - first) if item else read_inquiry(&ask.asked, text, last - first)):
        return None
    ask.asked.today = today
    if ask.asked.as_of == NO_DAY:
        ask.asked.as_of = today
    return ask


cdef int _check_pieces(first, second, third) except -1:
    for piece in (first, second, third):
        if not isinstance(piece, bytes):
            raise TypeError(f"a piece of the answer must be bytes, not {type(piece).__name__}")
    return 0


cdef uint64_t _version(data_version) except? 0:
    if not isinstance(data_version, int):
        raise TypeError("data_version must be int")
    if not 0 <= data_version < 2**63:
        raise ValueError("data_version is out of range")
    return data_version


cdef str _ascii(const Span *text):
    return PyUnicode_DecodeASCII(<const char *>text.at, text.length, NULL)


cdef Span _span(bytes text):
    cdef Span span
    span.at, span.length = <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)
    return span


cdef bint read_inquiry(Inquiry *ask, const uint8_t *start, Py_ssize_t size) noexcept nogil:
    return _read_all(ask, start, size, M_ALL) and ask.institution.length != 0


cdef bint read_item(Inquiry *ask, const uint8_t *start, Py_ssize_t size) noexcept nogil:
    return _read_all(ask, start, size, M_CARD | M_CERTIFICATE | M_CONSENT | M_DETAIL | M_MARK)


cdef bint _read_all(Inquiry *ask, const uint8_t *start, Py_ssize_t size, unsigned int allowed) noexcept nogil:
    cdef Text text
    cdef Span name, value
    cdef unsigned int seen = 0, member
    text.at, text.end = start, start + size
    ask.as_of = NO_DAY
    ask.institution.length = 0
    ask.institution.at = start
    ask.purpose = PURPOSE_DEFAULT
    ask.mark.length = ask.symbol.length = ask.symbol_key_bytes = 0
    ask.branch, ask.verdict_only, ask.limit_consent, ask.diseases_consent = NO_BRANCH, False, False, False
    if not take(&text, c"{"):
        return False
    while True:
        if not take_name(&text, &name):
            return False
        member = _member(&name)
        if not member & allowed or seen & member:
            return False
        seen |= member
        if member == M_CARD:
            if not _read_card(ask, &text):
                return False
        elif member == M_CERTIFICATE:
            if not _read_certificate(ask, &text):
                return False
        elif member == M_CONSENT:
            if not take_null(&text) and not _read_consent(ask, &text):
                return False
        elif (member == M_AS_OF or member == M_MARK) and take_null(&text):
            pass
        elif not take_string(&text, &value) or not _read_member(ask, member, &value):
            return False
        if take(&text, c","):
            continue
        if not take(&text, c"}"):
            return False
        break
    skip_blanks(&text)
    ask.by_certificate = seen & M_CERTIFICATE != 0
    # Exactly one of them.
    return text.at == text.end and ask.by_certificate != (seen & M_CARD != 0)


cdef unsigned int _member(const Span *name) noexcept nogil:
    if is_text(name, b"card", 4):
        return M_CARD
    if is_text(name, b"certificate", 11):
        return M_CERTIFICATE
    if is_text(name, b"institution", 11):
        return M_INSTITUTION
    if is_text(name, b"as_of", 5):
        return M_AS_OF
    if is_text(name, b"purpose", 7):
        return M_PURPOSE
    if is_text(name, b"consent", 7):
        return M_CONSENT
    if is_text(name, b"id", 2):
        return M_MARK
    return M_DETAIL if is_text(name, b"detail", 6) else 0


cdef bint _read_member(Inquiry *ask, unsigned int member, const Span *value) noexcept nogil:
    if member == M_INSTITUTION:
        ask.institution = value[0]
        return _is_checked(value, INSTITUTION_DIGITS)
    if member == M_AS_OF:
        if value.length != canon.ISO_CHARS:
            return False
        ask.as_of = canon.read_iso(value.at)
        return FIRST_AS_OF <= ask.as_of <= LAST_AS_OF
    if member == M_PURPOSE:
        ask.purpose = _purpose(value)
        return ask.purpose != 0
    if member == M_DETAIL:
        ask.verdict_only = is_text(value, b"verdict", 7)
        return ask.verdict_only or is_text(value, b"full", 4)
    ask.mark = value[0]
    # With a letter in it, it is no My Number.
    return 0 < value.length <= MARK_BYTES and (value.length < SUSPECT_DIGITS or has_letter(value))


cdef inline bint _is_checked(const Span *value, Py_ssize_t digits) noexcept nogil:
    return value.length == digits and count_digits(value) == digits and check_digit_fits(value)


cdef int _purpose(const Span *value) noexcept nogil:
    """Its code in the audit log, or 0."""
    if is_text(value, b"treatment", 9):
        return PURPOSE_DEFAULT
    if is_text(value, b"dispensing", 10):
        return 2
    if is_text(value, b"dental", 6):
        return 3
    if is_text(value, b"home_visit", 10):
        return 4
    if is_text(value, b"online", 6):
        return 5
    if is_text(value, b"emergency", 9):
        return 6
    if is_text(value, b"appointment", 11):
        return 7
    return 8 if is_text(value, b"administration", 14) else 0


cdef bint _read_consent(Inquiry *ask, Text *text) noexcept nogil:
    cdef Span name
    cdef unsigned int seen = 0, member
    cdef bint given
    if not take(text, c"{"):
        return False
    if take(text, c"}"):
        return True
    while True:
        if not take_name(text, &name):
            return False
        if is_text(&name, b"limit_certificate", 17):
            member = N_LIMIT
        elif is_text(&name, b"specific_diseases", 17):
            member = N_DISEASES
        else:
            return False
        if seen & member:
            return False
        seen |= member
        if take_word(text, b"true", 4):
            given = True
        elif take_word(text, b"false", 5):
            given = False
        else:
            return False
        if member == N_LIMIT:
            ask.limit_consent = given
        else:
            ask.diseases_consent = given
        if not take(text, c","):
            return take(text, c"}")


cdef bint _read_certificate(Inquiry *ask, Text *text) noexcept nogil:
    cdef Span name, value
    cdef unsigned int seen = 0
    if not take(text, c"{"):
        return False
    while True:
        if not take_name(text, &name) or not take_string(text, &value):
            return False
        if is_text(&name, b"issuer", 6) and not seen & 1:
            seen |= 1
            if not _fold_issuer(ask, &value):
                return False
        elif is_text(&name, b"serial", 6) and not seen & 2:
            seen |= 2
            if not _fold_serial(ask, &value):
                return False
        else:
            return False
        if not take(text, c","):
            return take(text, c"}") and seen == 3


cdef bint _fold_issuer(Inquiry *ask, const Span *value) noexcept nogil:
    """Small letters, blanks single, and none at the ends and around separators."""
    cdef Py_ssize_t position, count = 0
    cdef uint8_t byte
    cdef bint blank = False, separator = True
    # With a letter in it, it is no My Number.
    if value.length > ISSUER_BYTES or not has_letter(value):
        return False
    for position in range(value.length):
        byte = value.at[position]
        if byte == c" ":
            blank = True
            continue
        if byte == c"," or byte == c"=" or byte == c"+":
            blank, separator = False, True
        else:
            if blank and not separator:
                ask.issuer_key[count] = c" "
                count += 1
            blank = separator = False
        ask.issuer_key[count] = byte + 32 if c"A" <= byte <= c"Z" else byte
        count += 1
    ask.issuer_key_bytes = count
    return True


cdef bint _fold_serial(Inquiry *ask, const Span *value) noexcept nogil:
    """Hexadecimal digits as capitals, without leading zeros."""
    cdef Py_ssize_t position, count = 0
    cdef uint8_t byte
    if value.length > SERIAL_BYTES or (count_digits(value) >= SUSPECT_DIGITS and not has_letter(value)):
        return False
    for position in range(value.length):
        byte = value.at[position]
        if c"a" <= byte <= c"f":
            byte -= 32
        if not (c"0" <= byte <= c"9" or c"A" <= byte <= c"F"):
            return False
        if count or byte != c"0":
            ask.serial_key[count] = byte
            count += 1
    ask.serial_key_bytes = count
    return count > 0


cdef bint _read_card(Inquiry *ask, Text *text) noexcept nogil:
    cdef Span name, value
    cdef unsigned int seen = 0, member
    if not take(text, c"{"):
        return False
    while True:
        if not take_name(text, &name):
            return False
        member = _card_member(&name)
        if member == 0 or seen & member:
            return False
        seen |= member
        if (member == C_SYMBOL or member == C_BRANCH) and take_null(text):
            pass
        elif not take_string(text, &value) or not _read_card_member(ask, member, &value):
            return False
        if not take(text, c","):
            break
    return take(text, c"}") and seen & 21 == C_INSURER | C_NUMBER | C_BIRTH and _card_is_ordinary(ask)


cdef unsigned int _card_member(const Span *name) noexcept nogil:
    if is_text(name, b"insurer_number", 14):
        return C_INSURER
    if is_text(name, b"symbol", 6):
        return C_SYMBOL
    if is_text(name, b"number", 6):
        return C_NUMBER
    if is_text(name, b"branch", 6):
        return C_BRANCH
    return C_BIRTH if is_text(name, b"birth_date", 10) else 0


cdef bint _read_card_member(Inquiry *ask, unsigned int member, const Span *value) noexcept nogil:
    if member == C_INSURER:
        ask.insurer = value[0]
        return _is_checked(value, INSURER_DIGITS)
    if member == C_BIRTH:
        if value.length != canon.ISO_CHARS:
            return False
        ask.birth_date = canon.read_iso(value.at)
        return ask.birth_date >= FIRST_BIRTH_DATE
    if member == C_BRANCH:
        if value.length == 0:
            return True
        if value.length > 2 or count_digits(value) != value.length:
            return False
        ask.branch = value.at[0] - c"0"
        if value.length == 2:
            ask.branch = 10 * ask.branch + value.at[1] - c"0"
        return True
    if value.length > IDENTIFIER_BYTES or count_digits(value) >= SUSPECT_DIGITS:
        return False
    if member == C_SYMBOL:
        ask.symbol = value[0]
        ask.symbol_key_bytes = canon.fold_ascii(value.at, value.length, False, ask.symbol_key)
        return ask.symbol_key_bytes >= 0
    ask.number = value[0]
    ask.number_key_bytes = canon.fold_ascii(value.at, value.length, True, ask.number_key)
    return ask.number_key_bytes > 0


cdef bint _card_is_ordinary(Inquiry *ask) noexcept nogil:
    cdef Py_ssize_t position
    if ask.insurer.at[0] == c"3" and ask.insurer.at[1] == c"9":
        # 後期高齢: no symbol, and a number of eight digits with a check digit.
        return (
            ask.symbol_key_bytes == 0 and _is_checked(&ask.number, ELDERLY_DIGITS)
        )
    for position in range(ask.number_key_bytes):
        if ask.number_key[position] != c"-":
            return True
    return False


# --- the answer -------------------------------------------------------------------------------------------------


cdef Py_ssize_t write_message(const Inquiry *ask, uint8_t *message) noexcept nogil:
    cdef canon.Card card
    cdef Py_ssize_t size
    if ask.by_certificate:
        message[0] = 2
        size = 1 + ask.issuer_key_bytes
        memcpy(message + 1, ask.issuer_key, ask.issuer_key_bytes)
        message[size] = 0x1f
        memcpy(message + size + 1, ask.serial_key, ask.serial_key_bytes)
        return size + 1 + ask.serial_key_bytes
    card.insurer, card.insurer_bytes = <const char *>ask.insurer.at, ask.insurer.length
    card.symbol, card.symbol_bytes = <const char *>ask.symbol_key, ask.symbol_key_bytes
    card.number, card.number_bytes = <const char *>ask.number_key, ask.number_key_bytes
    card.birth_date = ask.birth_date
    canon.write_card(&card, message)
    return canon.card_bytes(&card)


cdef bint fits(
    const Inquiry *ask, const uint8_t *start, Py_ssize_t size, Record *record
) noexcept nogil:
    if not read_record(record, start, size) or not is_in_force(ask, record):
        return False
    return is_certificate(ask, record) if ask.by_certificate else is_card(ask, record)


cdef Span insurer_of(const Record *record) noexcept nogil:
    """The insurer; nothing, which no insurer has for a number, if it is not in ASCII: callers make text of it."""
    cdef Span insurer = record.held[<int>Q_INSURER_NUMBER].text
    cdef Py_ssize_t at
    for at in range(insurer.length):
        if insurer.at[at] >= 0x80:
            insurer.length = 0
            break
    return insurer


cdef Py_ssize_t write_answer(
    const Inquiry *ask, const Record *record, uint64_t version, const Pieces *pieces, uint8_t *target
) noexcept nogil:
    cdef Writer writer
    writer.at, writer.end, writer.failed = target, target + MOST_ANSWER_BYTES, False
    put_span(&writer, &pieces.head)
    put_date(&writer, ask.as_of)
    put_literal(&writer, b',"qualification":')
    write_qualification(&writer, ask, record, &pieces.insurer_name)
    return _finished(&writer, ask, version, pieces, record if ask.by_certificate else NULL, target)


cdef Py_ssize_t write_bare(
    const Inquiry *ask, uint64_t version, const Pieces *pieces, uint8_t *target
) noexcept nogil:
    cdef Writer writer
    writer.at, writer.end, writer.failed = target, target + MOST_ANSWER_BYTES, False
    put_span(&writer, &pieces.head)
    put_date(&writer, ask.as_of)
    put_literal(&writer, b',"qualification":null')
    return _finished(&writer, ask, version, pieces, NULL, target)


cdef Py_ssize_t _finished(
    Writer *writer, const Inquiry *ask, uint64_t version, const Pieces *pieces, const Record *holder,
    const uint8_t *target
) noexcept nogil:
    """Write what stands behind the qualification; the length of the whole answer, 0 if it is for others."""
    put_literal(writer, b',"advice":')
    put_span(writer, &pieces.advice)
    put_literal(writer, b',"data_version":')
    put_number(writer, version)
    put_literal(writer, b',"insurer_fresh_at":')
    put_span(writer, &pieces.fresh_at)
    put_literal(writer, b',"notes":[],"warnings":[],"certificate":')
    write_certificate(writer, ask, holder)
    if ask.mark.length:
        put_literal(writer, b',"id":')
        put_quoted(writer, &ask.mark)
    put_literal(writer, b"}")
    return 0 if writer.failed else writer.at - target
