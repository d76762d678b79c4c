"""Owns many checks at once: blocks of them taken through the steps of the quick way side by side."""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from ext cimport ordinary
from ext.growing cimport Growing, discard, reserve
from ext.ledger cimport CALLER_BYTES, KIND_IN_BATCH, MOST_NAME_BYTES, Facts, Ledger
from ext.ordinary cimport MOST_ANSWER_BYTES, Inquiry
from ext.pages cimport FOUND, TRIES, Entry, Path
from ext.places cimport place
from ext.probe cimport ROOM, Match, Table, find_all
from ext.quick cimport SAY_NOTHING, SAY_VALID, SAYINGS, Quick
from ext.scan cimport Span
from ext.stored cimport RECORD_KEY_BYTES, write_record_key

cdef enum:
    MOST = 64
    # More of these would hold others up: they take twenty times as long.
    MOST_CAREFUL = 32
    MOST_LINE_BYTES = 16384
    # A block that is longer is not begun: what is read in vain, if time runs out before, stays little.
    MOST_BLOCK_BYTES = 32768
    MOST_VERDICT_BYTES = 64

ITEMS_MAX = MOST
CAREFUL_MAX = MOST_CAREFUL
LINE_BYTES_MAX = MOST_LINE_BYTES
BLOCK_BYTES_MAX = MOST_BLOCK_BYTES

# Where an item stands: to be asked the careful way, to be answered from memory, or out of its record.
cdef enum Stage:
    CAREFUL
    FROM_MEMORY
    FROM_RECORD

# What is recorded of a whole batch.
cdef struct Asked:
    Span mark
    Span caller
    int purpose

cdef struct Item:
    const uint8_t *text
    Py_ssize_t size
    Inquiry asked
    uint64_t[2] words
    Match match
    int saying
    bint found                  # whether `match` is set
    Stage stage
    uint8_t[RECORD_KEY_BYTES] wanted
    Path path
    Entry entry
    bint reached
    Py_ssize_t answer_at
    Py_ssize_t answer_bytes


@cython.final
cdef class Many:
    cdef Quick quick
    cdef Ledger ledger
    cdef Item *items
    cdef uint8_t *answers       # written side by side; up to `written` are good, and up to `told` are in `out`
    cdef Py_ssize_t written
    cdef Py_ssize_t told
    cdef Growing out            # answers in their order, once some came the careful way
    cdef long long visible      # data version of answers from records, and of those from memory
    cdef long long whole
    cdef tuple verdicts         # what can be said, in short
    cdef Span[SAYINGS] said

    def __cinit__(self, quick, ledger=None, verdicts=()):
        cdef int saying
        self.items, self.answers = NULL, NULL
        self.out.start, self.out.room, self.out.used = NULL, 0, 0
        if not isinstance(quick, Quick):
            raise TypeError(f"quick must be Quick, not {type(quick).__name__}")
        if not (ledger is None or isinstance(ledger, Ledger)):
            raise TypeError(f"ledger must be Ledger, not {type(ledger).__name__}")
        self.quick, self.ledger = quick, ledger
        self.verdicts = tuple([bytes(one) for one in verdicts])
        if self.verdicts and not (len(self.verdicts) == SAYINGS and max(map(len, self.verdicts)) <= MOST_VERDICT_BYTES):
            raise ValueError(f"verdicts must be none, or {SAYINGS} of at most {MOST_VERDICT_BYTES} bytes")
        for saying, text in enumerate(self.verdicts):
            self.said[saying].at, self.said[saying].length = <const uint8_t *>PyBytes_AS_STRING(text), len(text)
        self.items = <Item *>PyMem_Malloc(MOST * sizeof(Item))
        self.answers = <uint8_t *>PyMem_Malloc(MOST * (MOST_ANSWER_BYTES + 1))
        if self.items == NULL or self.answers == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.items)
        PyMem_Free(self.answers)
        discard(&self.out)

    def answer_lines(self, data, start, careful, mark=b"", caller=b""):
        cdef Py_ssize_t at = _first(data, start)
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef int count, done
        cdef Asked asked
        _set_asked(&asked, mark, caller, 0)
        count = _take_lines(self, text, PyBytes_GET_SIZE(data), &at)
        done = _answer(self, count, ordinary.NO_DAY, True, careful, b"\n", &asked)
        if done < count:
            at = self.items[done].text - text
        return _told(self), at, done

    def verdict_lines(self, data, start, careful, mark=b"", caller=b""):
        cdef Py_ssize_t at = _first(data, start)
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef int count, done
        cdef Asked asked
        if not self.verdicts:
            raise ValueError("no verdicts were given")
        _set_asked(&asked, mark, caller, 0)
        count = _take_lines(self, text, PyBytes_GET_SIZE(data), &at)
        done = _say(self, count, careful, &asked)
        if done < count:
            at = self.items[done].text - text
        return PyBytes_FromStringAndSize(self.out.start, self.out.used), at, done

    def cold_lines(self, data, start):
        cdef Py_ssize_t at = _first(data, start)
        cdef int count = _take_lines(self, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &at)
        return _cold(self, count, ordinary.NO_DAY, True)

    def answer_items(self, data, spans, first, as_of, careful, mark=b"", caller=b"", purpose=0):
        cdef Py_ssize_t position = first
        cdef int count, done
        cdef Asked asked
        cdef Py_buffer buffer
        _check_day(as_of)
        _set_asked(&asked, mark, caller, purpose)
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            count = _take_items(self, &buffer, spans, position)
            done = _answer(self, count, as_of, False, careful, b",", &asked)
        finally:
            PyBuffer_Release(&buffer)
        return _told(self), position + done

    def cold_items(self, data, spans, first, as_of):
        cdef int count
        cdef Py_buffer buffer
        _check_day(as_of)
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            count = _take_items(self, &buffer, spans, first)
            return _cold(self, count, as_of, False)
        finally:
            PyBuffer_Release(&buffer)


cdef int _take_lines(Many many, const uint8_t *text, Py_ssize_t size, Py_ssize_t *at) except -1:
    """Whole lines from `at` on, which moves behind them: at most a block, up to one that is blank or too long."""
    cdef const uint8_t *end
    cdef Py_ssize_t first = at[0], length
    cdef int count = 0
    while count < MOST and at[0] < size and at[0] - first < MOST_BLOCK_BYTES:
        end = <const uint8_t *>memchr(text + at[0], c"\n", size - at[0])
        if end == NULL:
            break
        length = end - (text + at[0])
        if length > MOST_LINE_BYTES or _is_blank(text + at[0], length):
            break
        many.items[count].text, many.items[count].size = text + at[0], length
        count += 1
        at[0] += length + 1
    return count


cdef int _take_items(Many many, const Py_buffer *buffer, spans, Py_ssize_t position) except -1:
    cdef Py_ssize_t start, end, taken = 0
    cdef int count = 0
    for start, end in spans[position:position + MOST]:
        if not 0 <= start <= end <= buffer.len:
            raise ValueError("a span is not within data")
        if taken >= MOST_BLOCK_BYTES:
            break
        taken += end - start
        many.items[count].text, many.items[count].size = <const uint8_t *>buffer.buf + start, end - start
        count += 1
    return count


cdef int _check_day(as_of) except -1:
    if not isinstance(as_of, int):
        raise TypeError(f"as_of must be int, not {type(as_of).__name__}")
    if not ordinary.FIRST_AS_OF <= as_of <= ordinary.LAST_AS_OF:
        raise ValueError("as_of is out of range")
    return 0


cdef list _cold(Many many, int count, int as_of, bint lines):
    """Keys of the records of a block that are not in memory."""
    cdef int position
    cdef Item *item
    cdef list keys = []
    _read(many, count, as_of, lines)
    if not _look_up(many, count) or not many.quick.pages.begin():
        return keys
    for position in range(count):
        item = &many.items[position]
        if item.stage == FROM_RECORD:
            write_record_key(item.match.person, many.visible, item.wanted)
            if not many.quick.pages.resident(item.wanted, RECORD_KEY_BYTES):
                keys.append(PyBytes_FromStringAndSize(<const char *>item.wanted, RECORD_KEY_BYTES))
    return keys


cdef Py_ssize_t _first(data, start) except -1:
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    return place(start, "start", PyBytes_GET_SIZE(data))


cdef inline bint _is_blank(const uint8_t *text, Py_ssize_t size) noexcept nogil:
    """As bytes.isspace says, or empty."""
    cdef Py_ssize_t position
    for position in range(size):
        if text[position] != c" " and not c"\t" <= text[position] <= c"\r":
            return False
    return True


cdef int _answer(
    Many many, int count, int as_of, bint lines, careful, const char *separator, const Asked *asked
) except -1:
    """Answer items in their order into `out`, each followed by the separator; returns how many."""
    cdef int position, others = 0
    cdef Item *item
    cdef bytes answer
    many.out.used = many.told = many.written = 0
    _read(many, count, as_of, lines)
    if lines and asked.caller.length:
        _keep_own(many, count, &asked.caller)
    if not _look_up(many, count) or not _write(many, count, separator[0]):
        for position in range(count):
            many.items[position].stage = CAREFUL
    for position in range(count):
        item = &many.items[position]
        if item.stage != CAREFUL and many.ledger is not None:
            _record(many, item, lines, separator, asked)
            continue
        if item.stage != CAREFUL:
            many.written = item.answer_at + item.answer_bytes + 1
            continue
        answer = None
        if others < MOST_CAREFUL:
            others += 1
            answer = careful(PyBytes_FromStringAndSize(<const char *>item.text, item.size))
        if answer is None:
            return position
        _flush(many)
        _append(many, PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer))
        _append(many, separator, 1)
    return count


cdef int _say(Many many, int count, careful, const Asked *asked) except -1:
    """Write what can be said of each line in short, from memory; returns how many."""
    cdef int position, others = 0
    cdef Item *item
    cdef bytes answer
    many.out.used = 0
    _read(many, count, ordinary.NO_DAY, True)
    for position in range(count):
        item = &many.items[position]
        if item.stage != CAREFUL:
            item.asked.verdict_only, item.stage = True, FROM_MEMORY
    if asked.caller.length:
        _keep_own(many, count, &asked.caller)
    if not _look_up(many, count):
        for position in range(count):
            many.items[position].stage = CAREFUL
    reserve(&many.out, MOST * (MOST_VERDICT_BYTES + MOST_NAME_BYTES + 1))
    for position in range(count):
        item = &many.items[position]
        if item.stage != CAREFUL:
            _append(many, <const char *>many.said[item.saying].at, many.said[item.saying].length)
            if many.ledger is not None:
                _name_receipt(many, _recorded(many, item, asked, &many.said[item.saying]))
            _append(many, b"\n", 1)
            continue
        answer = None
        if others < MOST_CAREFUL:
            others += 1
            answer = careful(PyBytes_FromStringAndSize(<const char *>item.text, item.size))
        if answer is None:
            return position
        _append(many, PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer))
        _append(many, b"\n", 1)
    return count


cdef int _keep_own(Many many, int count, const Span *caller) except -1:
    """Whoever asks in another's name is told so the careful way."""
    cdef int position
    cdef Item *item
    for position in range(count):
        item = &many.items[position]
        if item.stage != CAREFUL and (
            item.asked.institution.length != caller.length
            or memcmp(item.asked.institution.at, caller.at, caller.length) != 0
        ):
            item.stage = CAREFUL
    return 0


cdef int _set_asked(Asked *asked, bytes mark, bytes caller, int purpose) except -1:
    if PyBytes_GET_SIZE(caller) > CALLER_BYTES:
        raise ValueError(f"caller has at most {CALLER_BYTES} bytes")
    asked.mark.at, asked.mark.length = <const uint8_t *>PyBytes_AS_STRING(mark), PyBytes_GET_SIZE(mark)
    asked.caller.at, asked.caller.length = <const uint8_t *>PyBytes_AS_STRING(caller), PyBytes_GET_SIZE(caller)
    asked.purpose = purpose
    return 0


cdef int _record(Many many, Item *item, bint lines, const char *separator, const Asked *asked) except -1:
    """Record an answer, and add it with the name of its receipt to `out`."""
    cdef Span body
    cdef int64_t index
    if not lines:
        item.asked.institution, item.asked.purpose = asked.caller, asked.purpose
    body.at, body.length = many.answers + item.answer_at, item.answer_bytes
    index = _recorded(many, item, asked, &body)
    _append(many, <const char *>body.at, body.length - 1)
    _append(many, b',"receipt":"', 12)
    _name_receipt(many, index)
    _append(many, b'"}', 2)
    return _append(many, separator, 1)


cdef int64_t _recorded(Many many, const Item *item, const Asked *asked, const Span *body) except -1:
    cdef Facts facts
    cdef uint64_t version = many.visible
    if item.stage == FROM_MEMORY and item.asked.verdict_only:
        version = many.whole
    many.quick.note(&facts, &item.asked, item.words, &item.match if item.found else NULL, item.saying, version)
    facts.kind += KIND_IN_BATCH
    return many.ledger.record(&facts, body, &asked.mark)


cdef int _name_receipt(Many many, int64_t index) except -1:
    cdef char[MOST_NAME_BYTES] name
    return _append(many, name, many.ledger.write_name(index, name))


cdef bytes _told(Many many):
    """All answers; without a copy in between if all were written side by side."""
    if many.out.used == 0:
        return PyBytes_FromStringAndSize(<const char *>many.answers, many.written)
    _flush(many)
    return PyBytes_FromStringAndSize(many.out.start, many.out.used)


cdef int _flush(Many many) except -1:
    """Copy what was written since the last careful answer behind that one."""
    _append(many, <const char *>many.answers + many.told, many.written - many.told)
    many.told = many.written
    return 0


cdef int _append(Many many, const char *text, Py_ssize_t size) except -1:
    memcpy(reserve(&many.out, size), text, size)
    many.out.used += size
    return 0


cdef int _read(Many many, int count, int as_of, bint lines) except -1:
    """Read all inquiries. `as_of` is that of items; lines have their own."""
    cdef int position
    cdef Item *item
    for position in range(count):
        item = &many.items[position]
        item.stage = CAREFUL
        if lines:
            if not ordinary.read_inquiry(&item.asked, item.text, item.size) or not many.quick.date(&item.asked):
                continue
        elif not ordinary.read_item(&item.asked, item.text, item.size):
            continue
        else:
            item.asked.as_of = as_of
            if not many.quick.date(&item.asked):
                continue
        item.stage = FROM_MEMORY if item.asked.verdict_only else FROM_RECORD
    return 0


cdef bint _look_up(Many many, int count) except -1:
    """Find all cards in one state of the table; False if it would not hold still."""
    cdef Quick quick = many.quick
    cdef Table table = quick.live()
    cdef Item *item
    cdef int position
    for position in range(count):
        item = &many.items[position]
        if item.stage != CAREFUL:
            quick.hash_card(&item.asked, table, item.words)
    for _ in range(TRIES):
        many.visible, many.whole = quick.version(table, True), quick.version(table, False)
        for position in range(count):
            if many.items[position].stage != CAREFUL:
                _find(quick, table, &many.items[position])
        # A search that found this number before it began, and finds it again, missed nothing.
        if quick.version(table, True) == many.visible and quick.version(table, False) == many.whole:
            break
    else:
        return False
    for position in range(count):
        item = &many.items[position]
        if item.stage == CAREFUL:
            continue
        # While a change is under way, memory alone cannot be asked.
        if item.saying == SAY_NOTHING or (item.asked.verdict_only and many.whole < 0):
            item.stage = CAREFUL
        elif item.saying != SAY_VALID:
            item.stage = FROM_MEMORY
    return True


cdef void _find(Quick quick, Table table, Item *item) noexcept:
    cdef Match[ROOM] found
    cdef int count = find_all(&table.view, item.words[0], item.words[1], found)
    item.saying, item.found = SAY_NOTHING, count == 1
    if count == 0:
        item.saying = quick.nobody(&item.asked)
    elif count == 1:
        item.match = found[0]
        item.saying = quick.said(&item.asked, &found[0]) if item.asked.verdict_only else SAY_VALID


cdef bint _write(Many many, int count, uint8_t separator) except -1:
    """Write all answers that can be; False if commits came too fast."""
    for _ in range(TRIES):
        if not many.quick.pages.begin():
            continue
        _reach(many, count)
        _write_all(many, count, separator)
        if many.quick.pages.still():
            _settle(many, count)
            return True
    return False


cdef void _reach(Many many, int count) noexcept:
    """Find all records, step by step side by side, so that each waits for memory while the others are looked at."""
    cdef int position
    cdef Item *item
    for position in range(count):
        item = &many.items[position]
        if item.stage == FROM_RECORD:
            write_record_key(item.match.person, many.visible, item.wanted)
            item.reached = many.quick.pages.approach(item.wanted, RECORD_KEY_BYTES, &item.path)
    for position in range(count):
        item = &many.items[position]
        if item.stage == FROM_RECORD and item.reached:
            item.reached = many.quick.pages.open_leaf(&item.path)
    for position in range(count):
        item = &many.items[position]
        if item.stage == FROM_RECORD and item.reached:
            item.reached = many.quick.pages.settle(item.wanted, RECORD_KEY_BYTES, &item.path, &item.entry) == FOUND


cdef int _write_all(Many many, int count, uint8_t separator) except -1:
    """Write every answer and a separator behind the one before; what cannot be written has no bytes."""
    cdef ordinary.Pieces pieces
    cdef Py_ssize_t used = 0
    cdef long long version
    cdef int position
    cdef Item *item
    for position in range(count):
        item = &many.items[position]
        if item.stage == CAREFUL:
            continue
        item.answer_at = used
        if item.stage == FROM_MEMORY:
            version = many.whole if item.asked.verdict_only else many.visible
            many.quick.fill(many.quick.insurer_asked(&item.asked), version, item.saying, &pieces)
            item.answer_bytes = ordinary.write_bare(&item.asked, version, &pieces, many.answers + used)
        else:
            item.answer_bytes = _write_from_record(many, item, many.answers + used)
        if item.answer_bytes:
            used += item.answer_bytes
            many.answers[used] = separator
            used += 1
    return 0


cdef Py_ssize_t _write_from_record(Many many, const Item *item, uint8_t *target) except -1:
    cdef const Entry *entry = &item.entry
    if not item.reached or entry.key_bytes != RECORD_KEY_BYTES or memcmp(entry.key, item.wanted, 4) != 0:
        return 0
    return many.quick.write_from_record(
        &item.asked, entry.key, entry.value, entry.value_bytes, many.visible, target
    )


cdef void _settle(Many many, int count) noexcept:
    cdef int position
    for position in range(count):
        if many.items[position].stage != CAREFUL and many.items[position].answer_bytes == 0:
            many.items[position].stage = CAREFUL
