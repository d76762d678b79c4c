"""Owns the quick way of a check, from its body to its answer: ext/ordinary with the table and the pages it needs."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ext cimport keyhash, ordinary
from ext.held cimport Record
from ext.ledger cimport (
    CALLER_BYTES, FLAG_CONSENT_USED, FLAG_VERDICT_ONLY, KIND_CARD, KIND_CERTIFICATE, Facts,
)
from ext.ordinary cimport Inquiry
from ext.pages cimport FOUND, TRIES, UNSURE, Entry, Pages
from ext.places cimport part
from ext.probe cimport ROOM, Match, Table, fetch, find_all, probe_fence_acquire, probe_load_acquire
from ext.scan cimport Span
from ext.stored cimport RECORD_KEY_BYTES, crc32_prepare, read_stored, write_record_key

cdef enum:
    # Longer records go the careful way.
    MOST_RECORD_BYTES = 8192
    KEY_BYTES = 16
    PIECES = 4096
    INSURER_BYTES = 8
    # Bits of a match (engine/entries): what memory alone cannot decide, and where branch and loss are.
    NOT_PLAIN = 1 << 8 | 1 << 4 | 1 << 3 | 1 << 2
    BRANCH_SHIFT = 9
    LOSS_SHIFT = 5
    LOSS_MASK = 7

RECORD_BYTES_MAX = MOST_RECORD_BYTES
SAYINGS_COUNT = SAYINGS
crc32_prepare()
cdef bytes _NULL = b"null"


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
    def __init__(self, table, pages, key, today, insurer, words, *, looks_first=False, notes=False):
        cdef int saying
        if not isinstance(key, bytes):
            raise TypeError(f"key must be bytes, not {type(key).__name__}")
        if len(key) != KEY_BYTES:
            raise ValueError(f"key must have {KEY_BYTES} bytes")
        if not isinstance(pages, Pages):
            raise TypeError(f"pages must be Pages, not {type(pages).__name__}")
        self.looks_first, self.notes = bool(looks_first), bool(notes)
        self.renewed_table = table
        self.pages = pages
        self.today = today
        self.insurer = insurer
        self.k0 = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(key))
        self.k1 = keyhash.load_little(<const uint8_t *>PyBytes_AS_STRING(key) + 8)
        self.pieces = [None] * PIECES
        self.words = tuple([(bytes(head), bytes(advice), int(verdict)) for head, advice, verdict in words])
        if len(self.words) != SAYINGS:
            raise ValueError(f"words must be {SAYINGS} triples")
        for saying in range(SAYINGS):
            self.heads[saying] = _span(self.words[saying][0])
            self.advices[saying] = _span(self.words[saying][1])
            self.verdicts[saying] = self.words[saying][2]

    @property
    def told(self):
        return PyBytes_FromStringAndSize(<const char *>self.facts.caller, CALLER_BYTES).rstrip(b"\0"), self.facts.verdict

    def answer(self, data, start, stop):
        cdef uint8_t[ordinary.MOST_ANSWER_BYTES] target
        cdef Py_ssize_t size = _write_part(self, data, start, stop, target, False)
        return PyBytes_FromStringAndSize(<const char *>target, size) if size else None

    def cold_key(self, data, start, stop):
        cdef uint8_t[ordinary.MOST_ANSWER_BYTES] target
        cdef Py_ssize_t size = _write_part(self, data, start, stop, target, True)
        return PyBytes_FromStringAndSize(<const char *>self.waiting, RECORD_KEY_BYTES) if size == COLD else None

    cdef Py_ssize_t write_answer(
        self, const uint8_t *start, Py_ssize_t size, uint8_t *target, bint look_first
    ) except -1:
        cdef Inquiry asked
        cdef ordinary.Pieces pieces
        cdef Copy record
        cdef Match[ROOM] found
        cdef uint64_t[2] words
        cdef long long version
        cdef int count, saying
        cdef Table table
        if not ordinary.read_inquiry(&asked, start, size) or not self.date(&asked):
            return 0
        table = self.live()
        self.hash_card(&asked, table, words)
        version = self.version(table, not asked.verdict_only)
        count = find_all(&table.view, words[0], words[1], found)
        # A search that found this number before it began, and finds it again, missed nothing.
        if version < 0 or self.version(table, not asked.verdict_only) != version or not 0 <= count <= 1:
            return 0
        saying = SAY_VALID
        if count == 0:
            saying = self.nobody(&asked)
        elif asked.verdict_only:
            saying = self.said(&asked, &found[0])
        if saying == SAY_NOTHING:
            return 0
        if self.notes:
            self.note(&self.facts, &asked, words, &found[0] if count else NULL, saying, version)
        if look_first and count and not asked.verdict_only:
            write_record_key(found[0].person, version, self.waiting)
            if self.pages.begin() and not self.pages.resident(self.waiting, RECORD_KEY_BYTES):
                return COLD
        if count and not asked.verdict_only:
            if not _read_record(self.pages, found[0].person, version, &record):
                return 0
            return self.write_from_record(&asked, record.key, record.value, record.value_bytes, version, target)
        self.fill(self.insurer_asked(&asked), version, saying, &pieces)
        return ordinary.write_bare(&asked, version, &pieces, target)

    cdef Py_ssize_t write_from_record(
        self, const Inquiry *asked, const uint8_t *key, const uint8_t *value, Py_ssize_t value_bytes, uint64_t version,
        uint8_t *target
    ) except -1:
        cdef Record record
        cdef ordinary.Pieces pieces
        cdef Span person, insurer
        if not read_stored(key, value, value_bytes, &person):
            return 0
        if not ordinary.fits(asked, person.at, person.length, &record):
            return 0
        insurer = ordinary.insurer_of(&record)
        if insurer.length != INSURER_BYTES:
            return 0
        self.fill(&insurer, version, SAY_VALID, &pieces)
        return ordinary.write_answer(asked, &record, version, &pieces, target)

    cdef void note(
        self, Facts *facts, const Inquiry *asked, const uint64_t *words, const Match *match, int saying,
        uint64_t version
    ) noexcept nogil:
        cdef Py_ssize_t caller = min(asked.institution.length, <Py_ssize_t>CALLER_BYTES)
        facts.kind = KIND_CERTIFICATE if asked.by_certificate else KIND_CARD
        facts.purpose, facts.verdict, facts.as_of, facts.version = (
            asked.purpose, self.verdicts[saying], asked.as_of, version
        )
        facts.flags = FLAG_VERDICT_ONLY if asked.verdict_only else 0
        if asked.limit_consent or asked.diseases_consent:
            facts.flags |= FLAG_CONSENT_USED
        memset(facts.caller, 0, CALLER_BYTES)
        memcpy(facts.caller, asked.institution.at, caller)
        facts.inquiry[0], facts.inquiry[1] = words[0], words[1]
        facts.known = match != NULL
        facts.person = match.person if match != NULL else 0

    cdef int nobody(self, const Inquiry *asked) noexcept nogil:
        return SAY_UNKNOWN_CERTIFICATE if asked.by_certificate else SAY_UNKNOWN_CARD

    cdef Span *insurer_asked(self, Inquiry *asked) noexcept nogil:
        return NULL if asked.by_certificate else &asked.insurer

    cdef Table live(self):
        cdef Table table = self.table
        if table is None or table.view.header is NULL or probe_load_acquire(&table.view.header.retired):
            table = self.table = self.renewed_table()
            if table.view.header is NULL:
                raise ValueError("the table was released")
        return table

    cdef long long version(self, Table table, bint visible) noexcept nogil:
        cdef uint64_t seen
        # What was found before is found before this is read.
        probe_fence_acquire()
        seen = probe_load_acquire(&table.view.header.visible_seq)
        if not visible and probe_load_acquire(&table.view.header.applied_seq) != seen:
            return SAY_NOTHING
        return <long long>seen

    cdef void hash_card(self, const Inquiry *asked, Table table, uint64_t *words) noexcept nogil:
        cdef uint8_t[ordinary.MESSAGE_BYTES] message
        keyhash.hash_one(self.k0, self.k1, message, ordinary.write_message(asked, message), words)
        fetch(&table.view, words[0])

    cdef int said(self, const Inquiry *asked, const Match *match) noexcept nogil:
        if asked.by_certificate or match.aux & NOT_PLAIN:
            return SAY_NOTHING
        if asked.branch != ordinary.NO_BRANCH and match.aux >> BRANCH_SHIFT != asked.branch:
            return SAY_BRANCH_MISMATCH
        if match.gained <= asked.as_of < match.lost:
            return SAY_VALID
        return SAY_NOT_YET_GAINED if match.gained > asked.as_of else SAY_LOST + (match.aux >> LOSS_SHIFT & LOSS_MASK)

    cdef bint date(self, Inquiry *asked) except -1:
        if asked.by_certificate or asked.as_of == ordinary.NO_DAY:
            asked.today = self.today()
        if asked.as_of == ordinary.NO_DAY:
            asked.as_of = asked.today
        return ordinary.FIRST_AS_OF <= asked.as_of <= ordinary.LAST_AS_OF

    cdef int fill(self, const Span *insurer, uint64_t version, int saying, ordinary.Pieces *pieces) except -1:
        cdef _Piece piece
        if insurer == NULL:
            pieces.insurer_name, pieces.fresh_at = _span(_NULL), _span(_NULL)
        else:
            piece = _piece_of(self, insurer, version)
            pieces.insurer_name, pieces.fresh_at = _span(piece.name), _span(piece.fresh_at)
        pieces.head, pieces.advice = self.heads[saying], self.advices[saying]
        return 0


cdef Py_ssize_t _write_part(Quick quick, data, start, stop, uint8_t *target, bint look_first) except -1:
    """As write_answer, of a part of what Python gave."""
    cdef Py_ssize_t first, last
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    part(start, stop, PyBytes_GET_SIZE(data), &first, &last)
    return quick.write_answer(<const uint8_t *>PyBytes_AS_STRING(data) + first, last - first, target, look_first)


cdef Span _span(bytes text):
    cdef Span span
    span.at, span.length = <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)
    return span


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


cdef _Piece _piece_of(Quick quick, const Span *insurer, uint64_t version):
    """What is said of an insurer; made once for each state of it."""
    cdef uint64_t number, changed = probe_load_acquire(&quick.table.view.header.insurers_version)
    cdef _Piece piece
    cdef Py_ssize_t place
    # Read once: the page it is in may be written anew meanwhile. That answer is thrown away; what is kept here is not.
    memcpy(&number, insurer.at, INSURER_BYTES)
    # The digits stand in the low halves of the bytes: the product brings them all to its upper end.
    place = <Py_ssize_t>((number * <uint64_t>0x9e3779b97f4a7c15) >> 52)
    piece = <_Piece>quick.pieces[place]
    if piece is not None and piece.number == number and piece.version == version and piece.changed == changed:
        return piece
    piece = _Piece()
    piece.number, piece.version, piece.changed = number, version, changed
    text = (<const char *>&number)[:INSURER_BYTES].decode("ascii", "replace")
    piece.name, piece.fresh_at = quick.insurer(text, version)
    quick.pieces[place] = piece
    return piece
