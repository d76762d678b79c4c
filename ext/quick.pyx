"""Owns the quick way of a check, from its body to its answer: ext/ordinary with the table and the pages it needs."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ext cimport keyhash, ordinary
from ext.pages cimport FOUND, TRIES, UNSURE, Entry, Pages
from ext.probe cimport ROOM, Match, Table, fetch, find_all, probe_fence_acquire, probe_load_acquire
from ext.scan cimport Span
from ext.stored cimport RECORD_KEY_BYTES, crc32_prepare, read_stored, write_record_key

cdef enum:
    # Longer records go the careful way.
    MOST_RECORD_BYTES = 8192
    KEY_BYTES = 16
    PIECES = 4096
    INSURER_BYTES = 8

RECORD_BYTES_MAX = MOST_RECORD_BYTES
crc32_prepare()


# A record that was read, apart from its pages.
cdef struct Copy:
    uint8_t[RECORD_KEY_BYTES] key
    uint8_t[MOST_RECORD_BYTES] value
    Py_ssize_t value_bytes


# What an answer says of one insurer, as JSON, as of a data version and a version of the insurers.
cdef class _Piece:
    cdef uint64_t number
    cdef uint64_t version
    cdef uint64_t changed
    cdef bytes name
    cdef bytes fresh_at


@cython.final
cdef class Quick:
    def __init__(self, table, pages, key, today, insurer, advice):
        for value, name, size in ((key, "key", KEY_BYTES), (advice, "advice", None)):
            if not isinstance(value, bytes):
                raise TypeError(f"{name} must be bytes, not {type(value).__name__}")
            if size is not None and len(value) != size:
                raise ValueError(f"{name} must have {size} bytes")
        if not isinstance(pages, Pages):
            raise TypeError(f"pages must be Pages, not {type(pages).__name__}")
        self.renewed_table = table
        self.pages = pages
        self.today = today
        self.insurer = insurer
        self.advice = advice
        self.k0 = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(key))
        self.k1 = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(key) + 8)
        self.pieces = [None] * PIECES

    def answer(self, data, start, stop):
        cdef uint8_t[ordinary.MOST_ANSWER_BYTES] target
        cdef Py_ssize_t first, last, size
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        first, last = _place(start, "start", PyBytes_GET_SIZE(data)), _place(stop, "stop", PyBytes_GET_SIZE(data))
        if first > last:
            raise ValueError("start is behind stop")
        size = self.write_answer(<const uint8_t *>PyBytes_AS_STRING(data) + first, last - first, target)
        return PyBytes_FromStringAndSize(<const char *>target, size) if size else None

    cdef Py_ssize_t write_answer(self, const uint8_t *start, Py_ssize_t size, uint8_t *target) except -1:
        cdef ordinary.Inquiry asked
        cdef uint32_t number = 0
        cdef uint64_t version = 0
        cdef Copy record
        cdef Span person
        if not ordinary.read_inquiry(&asked, start, size):
            return 0
        if asked.as_of == ordinary.NO_DAY:
            asked.as_of = self.today()
            if not ordinary.FIRST_AS_OF <= asked.as_of <= ordinary.LAST_AS_OF:
                return 0
        if not _only_person(self, &asked, &number, &version) or not _read_record(self.pages, number, version, &record):
            return 0
        if not read_stored(record.key, record.value, record.value_bytes, &person):
            return 0
        return _written(self, &asked, &person, version, target)


cdef Py_ssize_t _place(value, str name, Py_ssize_t size) except -1:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 0 <= value <= size:
        raise ValueError(f"{name} is not within data")
    return value


cdef bint _only_person(
    Quick quick, const ordinary.Inquiry *asked, uint32_t *number, uint64_t *version
) except -1:
    """The one person whom the table names for the card, and the data version; False: nobody, or several people.

    Whoever goes on from here reads the record as of that version and compares it with the inquiry.
    """
    cdef uint8_t[ordinary.MESSAGE_BYTES] message
    cdef uint64_t[2] words
    cdef Match[ROOM] found
    cdef Table table = _live(quick)
    cdef int count
    version[0] = probe_load_acquire(&table.view.header.visible_seq)
    keyhash.hash_one(quick.k0, quick.k1, message, ordinary.write_message(asked, message), words)
    fetch(&table.view, words[0])
    count = find_all(&table.view, words[0], words[1], found)
    # A search that found this number before it began, and finds it again, missed nothing: its loads end here.
    probe_fence_acquire()
    number[0] = found[0].person
    return count == 1 and probe_load_acquire(&table.view.header.visible_seq) == version[0]


cdef Table _live(Quick quick):
    """The table of the generation in force."""
    cdef Table table = quick.table
    if table is None or table.view.header is NULL or probe_load_acquire(&table.view.header.retired):
        table = quick.table = quick.renewed_table()
        if table.view.header is NULL:
            raise ValueError("the table was released")
    return table


cdef bint _read_record(Pages pages, uint32_t number, uint64_t version, Copy *record) noexcept nogil:
    """A copy of a person's record as of a data version; False if there is none, or none that can be told here."""
    cdef uint8_t[RECORD_KEY_BYTES] wanted
    cdef Entry entry
    cdef int found
    write_record_key(number, version, wanted)
    for _ in range(TRIES):
        if not pages.begin():
            continue
        found = pages.look(wanted, RECORD_KEY_BYTES, &entry)
        if found == UNSURE:
            continue
        if found == FOUND and entry.key_bytes == RECORD_KEY_BYTES and entry.value_bytes <= MOST_RECORD_BYTES:
            memcpy(record.key, entry.key, RECORD_KEY_BYTES)
            memcpy(record.value, entry.value, entry.value_bytes)
            record.value_bytes = entry.value_bytes
        else:
            found = UNSURE
        if pages.still():
            return found == FOUND and memcmp(record.key, wanted, 4) == 0
    return False


cdef Py_ssize_t _written(
    Quick quick, const ordinary.Inquiry *asked, const Span *person, uint64_t version, uint8_t *target
) except -1:
    cdef ordinary.Pieces pieces
    cdef _Piece piece = _piece_of(quick, &asked.insurer, version)
    pieces.insurer_name, pieces.fresh_at, pieces.advice = _span(piece.name), _span(piece.fresh_at), _span(quick.advice)
    return ordinary.write_answer(asked, person.at, person.length, version, &pieces, target)


cdef Span _span(bytes text):
    cdef Span span
    span.at, span.length = <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)
    return span


cdef _Piece _piece_of(Quick quick, const Span *insurer, uint64_t version):
    """What is said of an insurer; made once for each state of it."""
    cdef uint64_t number, changed = probe_load_acquire(&quick.table.view.header.insurers_version)
    cdef _Piece piece
    cdef Py_ssize_t place
    memcpy(&number, insurer.at, INSURER_BYTES)
    # The digits stand in the low halves of the bytes: the product brings them all to its upper end.
    place = <Py_ssize_t>((number * <uint64_t>0x9e3779b97f4a7c15) >> 52)
    piece = <_Piece>quick.pieces[place]
    if piece is not None and piece.number == number and piece.version == version and piece.changed == changed:
        return piece
    piece = _Piece()
    piece.number, piece.version, piece.changed = number, version, changed
    text = PyBytes_FromStringAndSize(<const char *>insurer.at, INSURER_BYTES).decode("ascii")
    piece.name, piece.fresh_at = quick.insurer(text, version)
    quick.pieces[place] = piece
    return piece
