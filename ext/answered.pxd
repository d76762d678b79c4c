# Owns whether a record is what an ordinary inquiry asks about, and how its members are written as an answer.
from libc.stdint cimport int64_t, uint8_t

from ext.held cimport (
    E_ISSUED_ON, E_RATIO, E_VALID_FROM, E_VALID_TO, P_ADDRESS, P_BIRTH_DATE, P_NAME, P_NAME_KANA, P_NAME_OTHER,
    P_NAME_OTHER_KANA, P_POSTCODE, P_SEX, Q_BRANCH, Q_CARD_CLASS, Q_CARD_ISSUED_ON, Q_CARD_VALID_FROM,
    Q_CARD_VALID_TO, Q_COPAY_RATIO, Q_DISEASES, Q_ELDERLY, Q_GAINED_ON, Q_INSURED_NAME, Q_INSURER_NUMBER, Q_LIMIT,
    Q_LOSS_REASON, Q_LOST_ON, Q_NUMBER, Q_NUMBER_KEY, Q_PRESCHOOL, Q_RELATION, Q_STATE, Q_SYMBOL, Q_SYMBOL_KEY,
    Record, find_certificate,
)
from ext.ordinary cimport NO_BRANCH, Inquiry
from ext.packed cimport ARRAY, NIL, NUMBER, STRING, Value
from ext.scan cimport Span, same_text
from ext.written cimport (
    Writer, put, put_choice, put_date, put_date_later, put_day, put_day_or_null, put_flag, put_literal, put_null_of,
    put_span, put_text, put_text_or_null,
)

cdef enum:
    # A certificate is usable so long after its last day; before it, for no less than so many days, nothing is noted.
    GRACE_MONTHS = 3
    UNNOTED_DAYS = 93
    # So late that the months fit in the calendar.
    LAST_EXPIRY = 2900000


cdef inline bint _is_string(const Value *value, const Span *wanted) noexcept nogil:
    return value.kind == STRING and same_text(&value.text, wanted)


cdef inline bint _is_branch(const Span *text, int branch) noexcept nogil:
    return (
        text.length == 2 and text.at[0] == <uint8_t>(c"0" + branch // 10)
        and text.at[1] == <uint8_t>(c"0" + branch % 10)
    )


cdef inline bint _is_later(const Value *day, int64_t first) noexcept nogil:
    """No day at all, or one that is `first` or later."""
    return day.kind == NIL or (day.kind == NUMBER and day.number >= first)


cdef inline bint _is_begun(const Value *day, int64_t last) noexcept nogil:
    return day.kind == NIL or (day.kind == NUMBER and day.number <= last)


cdef inline bint is_in_force(const Inquiry *ask, const Record *record) noexcept nogil:
    """Whether the qualification is in force, as engine/rules decides, and needs no note."""
    cdef const Value *held = &record.held[0]
    if held[<int>Q_INSURER_NUMBER].kind != STRING:
        return False
    if held[<int>Q_STATE].kind != NUMBER or held[<int>Q_STATE].number != 0:
        return False
    if held[<int>Q_GAINED_ON].kind != NUMBER or held[<int>Q_GAINED_ON].number > ask.as_of:
        return False
    return (
        _is_later(&held[<int>Q_LOST_ON], <int64_t>ask.as_of + 1) and _is_later(&held[<int>Q_CARD_VALID_TO], ask.as_of)
        and _is_begun(&held[<int>Q_CARD_VALID_FROM], ask.as_of)
    )


cdef inline bint is_card(const Inquiry *ask, const Record *record) noexcept nogil:
    """Whether the record is the card's."""
    cdef const Value *held = &record.held[0]
    cdef const Value *birth = &record.person[<int>P_BIRTH_DATE]
    cdef Span symbol_key, number_key
    symbol_key.at, symbol_key.length = <const uint8_t *>ask.symbol_key, ask.symbol_key_bytes
    number_key.at, number_key.length = <const uint8_t *>ask.number_key, ask.number_key_bytes
    if not (birth.kind == NUMBER and birth.number == ask.birth_date):
        return False
    if not _is_string(&held[<int>Q_INSURER_NUMBER], &ask.insurer):
        return False
    if not _is_string(&held[<int>Q_SYMBOL_KEY], &symbol_key):
        return False
    if not _is_string(&held[<int>Q_NUMBER_KEY], &number_key):
        return False
    if held[<int>Q_BRANCH].kind != STRING:
        return False
    return ask.branch == NO_BRANCH or _is_branch(&held[<int>Q_BRANCH].text, ask.branch)


cdef inline bint _find_certificate(const Inquiry *ask, const Record *record, int64_t *expires_on) noexcept nogil:
    cdef Span issuer, serial
    issuer.at, issuer.length = <const uint8_t *>ask.issuer_key, ask.issuer_key_bytes
    serial.at, serial.length = <const uint8_t *>ask.serial_key, ask.serial_key_bytes
    return find_certificate(record, &issuer, &serial, expires_on)


cdef inline bint is_certificate(const Inquiry *ask, const Record *record) noexcept nogil:
    """Whether the certificate is this person's, and good for so long that it needs no note."""
    cdef int64_t expires_on = 0
    return (
        _find_certificate(ask, record, &expires_on)
        and ask.today + UNNOTED_DAYS < expires_on <= LAST_EXPIRY
    )


cdef inline void write_certificate(Writer *writer, const Inquiry *ask, const Record *holder) noexcept nogil:
    """The certificate that was asked with, if it is the holder's."""
    cdef int64_t expires_on = 0
    if holder == NULL:
        put(writer, b"null", 4)
        return
    if not _find_certificate(ask, holder, &expires_on):
        writer.failed = True
        return
    put_literal(writer, b'{"expires_on":')
    put_date(writer, <int>expires_on)
    put_literal(writer, b',"usable_until":')
    put_date_later(writer, <int>expires_on, GRACE_MONTHS)
    put_literal(writer, b"}")


cdef inline void _write_elderly(Writer *writer, const Value *held, const Value *members) noexcept nogil:
    if held.kind != ARRAY:
        put_null_of(writer, held)
        return
    put_literal(writer, b'{"issued_on":')
    put_day(writer, &members[<int>E_ISSUED_ON])
    put_literal(writer, b',"valid_from":')
    put_day(writer, &members[<int>E_VALID_FROM])
    put_literal(writer, b',"valid_to":')
    put_day_or_null(writer, &members[<int>E_VALID_TO])
    put_literal(writer, b',"ratio":')
    put_text(writer, &members[<int>E_RATIO])
    put_literal(writer, b"}")


cdef inline void _write_person(Writer *writer, const Record *record) noexcept nogil:
    """The members about the holder, and those of the qualification that stand between them."""
    cdef const Value *held = &record.held[0]
    cdef const Value *person = &record.person[0]
    put_literal(writer, b',"name":')
    put_text(writer, &person[<int>P_NAME])
    put_literal(writer, b',"name_kana":')
    put_text_or_null(writer, &person[<int>P_NAME_KANA])
    put_literal(writer, b',"sex":')
    put_choice(writer, &person[<int>P_SEX], b'"male"', b'"female"', b'"unset"')
    put_literal(writer, b',"birth_date":')
    put_day(writer, &person[<int>P_BIRTH_DATE])
    put_literal(writer, b',"gained_on":')
    put_day(writer, &held[<int>Q_GAINED_ON])
    put_literal(writer, b',"lost_on":')
    put_day_or_null(writer, &held[<int>Q_LOST_ON])
    put_literal(writer, b',"loss_reason":')
    put_text_or_null(writer, &held[<int>Q_LOSS_REASON])
    put_literal(writer, b',"insured_name":')
    put_text_or_null(writer, &held[<int>Q_INSURED_NAME])
    put_literal(writer, b',"name_other":')
    put_text_or_null(writer, &person[<int>P_NAME_OTHER])
    put_literal(writer, b',"name_other_kana":')
    put_text_or_null(writer, &person[<int>P_NAME_OTHER_KANA])
    put_literal(writer, b',"postcode":')
    put_text_or_null(writer, &person[<int>P_POSTCODE])
    put_literal(writer, b',"address":')
    put_text_or_null(writer, &person[<int>P_ADDRESS])


cdef inline void write_qualification(
    Writer *writer, const Inquiry *ask, const Record *record, const Span *insurer_name
) noexcept nogil:
    cdef const Value *held = &record.held[0]
    put_literal(writer, b'{"insurer_number":')
    put_text(writer, &held[<int>Q_INSURER_NUMBER])
    put_literal(writer, b',"insurer_name":')
    put_span(writer, insurer_name)
    put_literal(writer, b',"symbol":')
    put_text_or_null(writer, &held[<int>Q_SYMBOL])
    put_literal(writer, b',"number":')
    put_text(writer, &held[<int>Q_NUMBER])
    put_literal(writer, b',"branch":')
    put_text_or_null(writer, &held[<int>Q_BRANCH])
    put_literal(writer, b',"relation":')
    put_choice(writer, &held[<int>Q_RELATION], b'"self"', b'"family"', NULL)
    _write_person(writer, record)
    put_literal(writer, b',"card_class":')
    put_text(writer, &held[<int>Q_CARD_CLASS])
    put_literal(writer, b',"card_issued_on":')
    put_day_or_null(writer, &held[<int>Q_CARD_ISSUED_ON])
    put_literal(writer, b',"card_valid_from":')
    put_day_or_null(writer, &held[<int>Q_CARD_VALID_FROM])
    put_literal(writer, b',"card_valid_to":')
    put_day_or_null(writer, &held[<int>Q_CARD_VALID_TO])
    put_literal(writer, b',"copay_ratio":')
    put_text_or_null(writer, &held[<int>Q_COPAY_RATIO])
    put_literal(writer, b',"preschool":')
    put_flag(writer, &held[<int>Q_PRESCHOOL])
    put_literal(writer, b',"elderly_certificate":')
    _write_elderly(writer, &held[<int>Q_ELDERLY], &record.elderly[0])
    # What the patient did not agree to disclose is left out; what there is to disclose, others write.
    put_literal(writer, b',"limit_certificate":null,"specific_diseases":')
    if ask.limit_consent and held[<int>Q_LIMIT].kind != NIL:
        writer.failed = True
    if not ask.diseases_consent:
        put_literal(writer, b"null}")
    elif held[<int>Q_DISEASES].kind == ARRAY and held[<int>Q_DISEASES].number == 0:
        put_literal(writer, b"[]}")
    else:
        writer.failed = True
