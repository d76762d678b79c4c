# Owns the reading of one person's record: a Person with one qualification, as arrays of values.
from libc.stdint cimport int64_t, uint8_t

from ext.packed cimport ARRAY, FALSE, NUMBER, STRING, Value, next_value, skip_value, take_array
from ext.scan cimport Span, Text, same_text


# Members of a Person and of a Qualification, in their order (engine/records).
cdef enum:
    P_NAME
    P_NAME_KANA
    P_SEX
    P_BIRTH_DATE
    P_QUALIFICATIONS
    P_CERTIFICATES
    P_LINK_CODE
    P_NAME_OTHER
    P_NAME_OTHER_KANA
    P_POSTCODE
    P_ADDRESS
    PERSON_COUNT

cdef enum:
    Q_INSURER_NUMBER
    Q_SYMBOL
    Q_NUMBER
    Q_SYMBOL_KEY
    Q_NUMBER_KEY
    Q_BRANCH
    Q_GAINED_ON
    Q_LOST_ON
    Q_LOSS_REASON
    Q_STATE
    Q_RELATION
    Q_INSURED_NAME
    Q_CARD_CLASS
    Q_CARD_ISSUED_ON
    Q_CARD_VALID_FROM
    Q_CARD_VALID_TO
    Q_COPAY_RATIO
    Q_PRESCHOOL
    Q_ELDERLY
    Q_LIMIT
    Q_DISEASES
    Q_COUNT

cdef enum:
    E_ISSUED_ON
    E_VALID_FROM
    E_VALID_TO
    E_RATIO
    ELDERLY_COUNT

cdef enum:
    C_ISSUER
    C_SERIAL
    C_EXPIRES_ON
    C_REVOKED
    C_COUNT

cdef struct Record:
    Value[PERSON_COUNT] person
    Value[Q_COUNT] held
    Value[ELDERLY_COUNT] elderly
    Text certificates           # an array, packed


cdef inline bint read_record(Record *record, const uint8_t *start, Py_ssize_t size) noexcept nogil:
    """A Person with exactly one qualification, written with all members that there are today."""
    cdef Text packed
    cdef int member
    packed.at, packed.end = start, start + size
    if not take_array(&packed, PERSON_COUNT):
        return False
    for member in range(PERSON_COUNT):
        if member == P_QUALIFICATIONS:
            if not take_array(&packed, 1) or not _read_qualification(record, &packed):
                return False
        elif member == P_CERTIFICATES:
            record.certificates.at = packed.at
            if not skip_value(&packed):
                return False
            record.certificates.end = packed.at
        elif not next_value(&packed, &record.person[member]) or record.person[member].kind == ARRAY:
            return False
    return packed.at == packed.end


cdef inline bint _read_qualification(Record *record, Text *packed) noexcept nogil:
    cdef int member
    if not take_array(packed, Q_COUNT):
        return False
    for member in range(Q_COUNT):
        if not next_value(packed, &record.held[member]):
            return False
        if member == Q_ELDERLY and record.held[member].kind == ARRAY:
            if record.held[member].number != ELDERLY_COUNT or not _read_elderly(record, packed):
                return False
        elif record.held[member].kind == ARRAY and not _skip_members(packed, record.held[member].number):
            return False
    return True


cdef inline bint find_certificate(
    const Record *record, const Span *issuer, const Span *serial, int64_t *expires_on
) noexcept nogil:
    """The last day of the certificate with these identifiers, if there is exactly one, and it was not revoked."""
    cdef Text packed = record.certificates
    cdef Value head
    cdef Value[C_COUNT] members
    cdef int64_t left
    cdef int found = 0, member
    if not next_value(&packed, &head) or head.kind != ARRAY:
        return False
    left = head.number
    while left:
        left -= 1
        if not next_value(&packed, &head) or head.kind != ARRAY or head.number != C_COUNT:
            return False
        for member in range(C_COUNT):
            if not next_value(&packed, &members[member]):
                return False
        if not _is_text(&members[<int>C_ISSUER], issuer) or not _is_text(&members[<int>C_SERIAL], serial):
            continue
        if members[<int>C_EXPIRES_ON].kind != NUMBER or members[<int>C_REVOKED].kind != FALSE:
            return False
        found += 1
        expires_on[0] = members[<int>C_EXPIRES_ON].number
    return found == 1


cdef inline bint _is_text(const Value *value, const Span *wanted) noexcept nogil:
    return value.kind == STRING and same_text(&value.text, wanted)


cdef inline bint _read_elderly(Record *record, Text *packed) noexcept nogil:
    cdef int member
    for member in range(ELDERLY_COUNT):
        if not next_value(packed, &record.elderly[member]) or record.elderly[member].kind == ARRAY:
            return False
    return True


cdef inline bint _skip_members(Text *packed, int64_t count) noexcept nogil:
    while count:
        if not skip_value(packed):
            return False
        count -= 1
    return True
