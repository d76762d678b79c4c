# The quick way for other compiled modules; ext/quick.pyi says what Python may call.
cimport cython
from libc.stdint cimport uint8_t, uint64_t

from ext.ledger cimport Facts
from ext.ordinary cimport Inquiry, Pieces
from ext.pages cimport Pages
from ext.probe cimport Match, Table
from ext.scan cimport Span
from ext.stored cimport RECORD_KEY_BYTES

# What an answer can say; places in what Quick was given to say. LOST is followed by one place a reason of loss.
cdef enum:
    SAY_NOTHING = -1
    SAY_VALID = 0
    SAY_UNKNOWN_CARD = 1
    SAY_BRANCH_MISMATCH = 2
    SAY_NOT_YET_GAINED = 3
    SAY_LOST = 4
    SAY_UNKNOWN_CERTIFICATE = 12
    SAYINGS = 13

cdef enum:
    COLD = -2


@cython.final
cdef class Quick:
    cdef Table table
    cdef Pages pages
    cdef object renewed_table
    cdef object today
    cdef object insurer
    cdef tuple words
    cdef list pieces
    cdef Span[SAYINGS] heads
    cdef Span[SAYINGS] advices
    cdef readonly bint looks_first
    cdef uint8_t[RECORD_KEY_BYTES] waiting
    cdef uint64_t k0
    cdef uint64_t k1
    cdef int[SAYINGS] verdicts
    # Whether `facts` are what there is to record of the answer that was written last.
    cdef readonly bint notes
    cdef Facts facts

    # Writes the answer to a check, at most ordinary.MOST_ANSWER_BYTES; 0 if that is for the careful way; COLD, if
    # `look_first` and the record is not in memory: its key is in `waiting`. Raises what the callables raise.
    cdef Py_ssize_t write_answer(
        self, const uint8_t *start, Py_ssize_t size, uint8_t *target, bint look_first
    ) except -1
    # The table of the generation in force.
    cdef Table live(self)
    # The version at which the table is whole, or SAY_NOTHING (-1) while a change is under way; the visible one, if
    # `visible` is enough because records are going to be read as of it.
    cdef long long version(self, Table table, bint visible) noexcept nogil
    # What is hashed of the card, hashed; the memory of its place in the table is asked for.
    cdef void hash_card(self, const Inquiry *asked, Table table, uint64_t *words) noexcept nogil
    # What can be said of a card whose one match this is, from memory alone; SAY_NOTHING: ask the careful way.
    cdef int said(self, const Inquiry *asked, const Match *match) noexcept nogil
    # Today, for an inquiry that names no date; False if that is no date that can be asked for.
    cdef bint date(self, Inquiry *asked) except -1
    # What is said of an insurer (`null` without), and for `saying`. Good until it is called again.
    cdef int fill(self, const Span *insurer, uint64_t version, int saying, Pieces *pieces) except -1
    # Sets down what there is to record of an answer about nobody (NULL) or somebody.
    cdef void note(
        self, Facts *facts, const Inquiry *asked, const uint64_t *words, const Match *match, int saying,
        uint64_t version
    ) noexcept nogil
    # What can be said if there is nobody; the insurer of such an answer, if it names one.
    cdef int nobody(self, const Inquiry *asked) noexcept nogil
    cdef Span *insurer_asked(self, Inquiry *asked) noexcept nogil
    # The answer out of a record that was read as of a data version; 0 if that is for the careful way.
    cdef Py_ssize_t write_from_record(
        self, const Inquiry *asked, const uint8_t *key, const uint8_t *value, Py_ssize_t value_bytes, uint64_t version,
        uint8_t *target
    ) except -1
