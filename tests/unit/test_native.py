"""Asks whether native JSON becomes the inquiry that it says, or an error that names the place and never the value."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.advice import advise
from api.wire import reading, writing
from api.wire.outline import BatchOutline
from engine import days
from engine.errors import InputError
from engine.records import (
    Answer,
    CardIdentifiers,
    Certificate,
    CertificateIdentifiers,
    ElderlyCertificate,
    Inquiry,
    Insurer,
    LimitCertificate,
    Note,
    Person,
    Qualification,
    Reason,
    Relation,
    Sex,
    SpecificDisease,
    Verdict,
    Warning,
)

TODAY = days.parse_iso("2026-11-23")
MY_NUMBER = "983205673214"
INSURERS = {
    "01130012": Insurer("01130012", "全国健康保険協会 東京支部", fresh_at_ms=1_795_388_400_000),
    "63130017": Insurer("63130017", "十二桁組合", twelve_digit_numbers=True),
}
CARD = {
    "insurer_number": "01130012",
    "symbol": "1234",
    "number": "1987654",
    "branch": "01",
    "birth_date": "2000-01-02",
}
CERTIFICATE = {"issuer": "CN=JPKI,C=JP", "serial": "0a 1f"}


def reader(policy: Any = "warn") -> reading.Reader:
    return reading.Reader(policy=policy, today=lambda: TODAY, insurer=INSURERS.get)


def request(**members: Any) -> dict[str, Any]:
    return {"institution": "1311111114", "as_of": "2026-11-23", "card": CARD} | members


def decode(value: Any, policy: Any = "warn") -> tuple[str | None, Inquiry]:
    body = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return reader(policy).inquiry(body)


def refusal(value: Any, policy: Any = "warn") -> tuple[str, str | None]:
    with pytest.raises(InputError) as caught:
        decode(value, policy)
    return caught.value.code, caught.value.field


# --- inquiries ------------------------------------------------------------------------------------------------------


def test_card_inquiry_is_read_whole() -> None:
    mark, inquiry = decode(request(id="a1", purpose="dental", consent={"limit_certificate": True}))
    assert mark == "a1"
    assert inquiry == Inquiry(
        "1311111114",
        TODAY,
        "dental",
        CardIdentifiers("01130012", "1234", "1987654", "01", days.parse_iso("2000-01-02")),
        None,
        True,
        False,
        False,
        (),
    )


def test_certificate_inquiry_is_read_whole() -> None:
    _, inquiry = decode({"institution": "1311111114", "certificate": CERTIFICATE, "detail": "verdict"})
    assert inquiry.card is None and inquiry.verdict_only
    assert inquiry.certificate == CertificateIdentifiers("cn=jpki,c=jp", "A1F")
    assert (inquiry.as_of, inquiry.purpose) == (TODAY, "treatment")


def test_null_is_as_good_as_absent() -> None:
    card = CARD | {"symbol": None, "branch": None}
    nulls = dict.fromkeys(("as_of", "certificate", "consent", "id"))
    mark, inquiry = decode(request(card=card, **nulls))
    assert mark is None and inquiry.as_of == TODAY
    assert inquiry.card is not None and (inquiry.card.symbol_key, inquiry.card.branch) == ("", "")


def test_wide_and_narrow_identifiers_are_the_same() -> None:
    wide = CARD | {
        "insurer_number": "０１１３００１２",
        "symbol": "１２３４",
        "number": "１９８－７６５４",
        "branch": "１",
    }
    narrow = CARD | {"number": "198-7654", "branch": "1"}
    assert decode(request(card=wide))[1] == decode(request(card=narrow))[1]


def test_wrong_check_digits_are_warnings_or_errors_by_setting() -> None:
    wrong = request(institution="1311111111", card=CARD | {"insurer_number": "123456"})
    _, inquiry = decode(wrong)
    assert inquiry.warnings == (Warning("institution", "check_digit"), Warning("card.insurer_number", "check_digit"))
    assert refusal(wrong, "error") == ("input.check_digit", "institution")


@pytest.mark.parametrize("day", ["1920-01-02", "2099-06-03"])
def test_as_of_at_its_bounds(day: str) -> None:
    assert decode(request(as_of=day))[1].as_of == days.parse_iso(day)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (b"", "input.malformed", None),
        (b"{", "input.malformed", None),
        (b"\xef\xbb\xbf{}", "input.malformed", None),
        (b'{"institution":"\xff"}', "input.malformed", None),
        (b'{"institution":"\\ud800"}', "input.malformed", None),
        (b"[" * 5000, "input.schema", None),
        (b'{"institution":"1311111114"} x', "input.malformed", None),
        (b"[]", "input.schema", None),
        (b"null", "input.schema", None),
        ({}, "input.schema", "institution"),
        (request(institution=1311111114), "input.schema", "institution"),
        (request(colour="red"), "input.schema", "colour"),
        (request(card=CARD | {"hue": 1}), "input.schema", "card.hue"),
        (request(card={"insurer_number": "01130012"}), "input.schema", "card.number"),
        (request(card=CARD | {"number": 1987654}), "input.schema", "card.number"),
        (request(purpose="curiosity"), "input.schema", "purpose"),
        (request(detail="some"), "input.schema", "detail"),
        (request(consent={"limit_certificate": "yes"}), "input.schema", "consent.limit_certificate"),
        (request(consent={"name": True}), "input.schema", "consent.name"),
        (request(institution="131111111"), "input.format", "institution"),
        (request(institution="13111111１４a"), "input.format", "institution"),
        (request(card=CARD | {"insurer_number": "12"}), "input.format", "card.insurer_number"),
        (request(card=CARD | {"branch": "123"}), "input.format", "card.branch"),
        (request(card=CARD | {"symbol": "a\u0007"}), "input.format", "card.symbol"),
        (request(card=CARD | {"number": "1" * 21}), "input.too_long", "card.number"),
        (request(id="x" * 65), "input.too_long", "id"),
        (request(id="a\u0000"), "input.format", "id"),
        (request(card=CARD | {"birth_date": "2000-02-30"}), "input.date", "card.birth_date"),
        (request(card=CARD | {"birth_date": "20000102"}), "input.date", "card.birth_date"),
        (request(card=CARD | {"birth_date": "1700-01-01"}), "input.date", "card.birth_date"),
        (request(as_of="2026-13-01"), "input.date", "as_of"),
        (request(as_of="1920-01-01"), "input.date", "as_of"),
        (request(as_of="2099-06-04"), "input.date", "as_of"),
        (request(as_of=""), "input.date", "as_of"),
        (request(as_of=20261123), "input.schema", "as_of"),
        (request(certificate=CERTIFICATE), "input.inquiry", None),
        ({"institution": "1311111114"}, "input.inquiry", None),
        (request(card=None, certificate={"issuer": "x", "serial": "xyz"}), "input.format", "certificate.serial"),
        (request(card=None, certificate={"issuer": "x", "serial": "A" * 65}), "input.too_long", "certificate.serial"),
    ],
)
def test_what_is_refused(value: Any, code: str, field: str | None) -> None:
    assert refusal(value) == (code, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"institution":"1311111114","institution":"1311111114","card":null}', None),
        (b'{"institution":"1311111114","card":{"number":"1","number":"2","insurer_number":"01130012",'
         b'"birth_date":"2000-01-02"}}', "card"),
        (b'{"institution":"1311111114","institutio\\u006e":"1311111114","certificate":{"issuer":"a:b","serial":"1"}}',
         None),
        (b' {"institution":"1311111114","institution":"1311111114"}', None),
        (b'{"institution":"1311111114","consent":{"limit_certificate":true,"limit_certificate":false}}', "consent"),
    ],
)  # fmt: skip
def test_a_member_given_twice_is_refused(body: bytes, field: str | None) -> None:
    assert refusal(body) == ("input.schema", field)


def test_escapes_are_no_repeats() -> None:
    body = json.dumps(request(id="あ", card=CARD | {"symbol": "ア"})).replace('"card"', '"c\\u0061rd"').encode()
    mark, inquiry = decode(body)
    assert mark == "あ" and inquiry.card is not None and inquiry.card.symbol_key == "ア"


def test_colons_within_values_are_no_members() -> None:
    certificate = {"issuer": "CN=a:b:c", "serial": "0a:1f"}
    _, inquiry = decode({"institution": "1311111114", "certificate": certificate})
    assert inquiry.certificate == CertificateIdentifiers("cn=a:b:c", "A1F")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (request(institution=MY_NUMBER), "institution"),
        (request(purpose=MY_NUMBER), "purpose"),
        (request(id=MY_NUMBER), "id"),
        (request(as_of=MY_NUMBER), "as_of"),
        (request(detail=MY_NUMBER), "detail"),
        (request(person=MY_NUMBER), "person"),
        (request(person=int(MY_NUMBER)), "person"),
        (request(person={"deep": ["x", MY_NUMBER]}), "person.deep[1]"),
        (request(**{MY_NUMBER: 1}), None),
        (request(card=CARD | {"number": MY_NUMBER}), "card.number"),
        (request(card=CARD | {"number": "９８３２ー０５６７ー３２１４"}), "card.number"),
        (request(card=CARD | {"symbol": "9832 0567 3214"}), "card.symbol"),
        (request(card=CARD | {"branch": MY_NUMBER}), "card.branch"),
        (request(card=CARD | {"birth_date": MY_NUMBER}), "card.birth_date"),
        (request(card=CARD | {"insurer_number": MY_NUMBER}), "card.insurer_number"),
        (request(card=None, certificate={"issuer": "x", "serial": MY_NUMBER}), "certificate.serial"),
        (request(card=None, certificate={"issuer": MY_NUMBER, "serial": "1"}), "certificate.issuer"),
        (request(as_of="never", id=MY_NUMBER), "id"),
    ],
)
def test_my_number_is_refused_wherever_it_is(value: Any, field: str | None) -> None:
    assert refusal(value) == ("input.my_number", field)


def test_an_insurer_with_twelve_digits_is_exempt_for_its_numbers_only() -> None:
    card = CARD | {"insurer_number": "63130017", "number": MY_NUMBER}
    _, inquiry = decode(request(card=card))
    assert inquiry.card is not None and inquiry.card.number_key == MY_NUMBER
    assert refusal(request(card=card, as_of="2026-02-30")) == ("input.date", "as_of")
    assert refusal(request(card=card, id=MY_NUMBER)) == ("input.my_number", "id")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.just(MY_NUMBER),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["institution", "as_of", "purpose", "card", "certificate", "consent", "id", "detail"])


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=8), st.dictionaries(st.sampled_from(sorted(CARD)), JSON_VALUES))
def test_any_json_is_an_inquiry_or_an_input_error_without_its_values(members: dict[str, Any], card: Any) -> None:
    value = request(**members, **({} if "card" in members else {"card": CARD | card}))
    try:
        decode(value)
    except InputError as error:
        assert MY_NUMBER not in f"{error.detail} {error.field}"
        assert error.code.startswith("input.")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_input(body: bytes) -> None:
    assert refusal(body)[0] in ("input.malformed", "input.schema", "input.my_number")


@given(st.binary(max_size=100))
def test_any_bytes_have_an_id_or_none(body: bytes) -> None:
    assert reading.id_of(body) is None


def test_id_of_what_could_not_be_read() -> None:
    assert reading.id_of(b'{"id":"a1","card":3}') == "a1"
    assert reading.id_of(json.dumps({"id": MY_NUMBER}).encode()) is None
    assert reading.id_of(json.dumps({"id": "x" * 65}).encode()) is None
    assert reading.id_of(b'{"id":7}') is None


# --- batches --------------------------------------------------------------------------------------------------------


def outline(body: bytes) -> BatchOutline:
    """As the handler has it: in an array that grew as it arrived."""
    found = BatchOutline(bytearray(body))
    for _ in found.walk():
        pass
    return found


def test_outline_finds_items_wherever_they_stand() -> None:
    body = b' {"items": [ {"id":"a"} , 3,[] ], "institution":"1311111114","as_of":"2026-11-23"} '
    found = outline(body)
    assert [body[start:end] for start, end in found.items] == [b'{"id":"a"}', b"3", b"[]"]
    context = reader().batch(found.head)
    assert (context.institution, context.as_of, context.purpose) == ("1311111114", TODAY, "treatment")


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", "input.malformed", None),
        (b"[]", "input.schema", None),
        (b'{"institution":"1311111114"}', "input.schema", "items"),
        (b'{"items":3}', "input.schema", "items"),
        (b'{"items":[', "input.malformed", None),
        (b'{"items":[{}', "input.malformed", None),
        (b'{"items":[]', "input.malformed", None),
        (b'{"items":[]} {}', "input.malformed", None),
        (b'{"items":[],"items":[]}', "input.schema", "items"),
        (b'{"items":[1 2]}', "input.malformed", None),
        (b'{"items":["' + b"x" * 200_000 + b'"]}', "input.too_large", "items"),
        (b'{"items":[' + b"1," * 10_000 + b"1]}", "input.too_large", "items"),
    ],
)
def test_a_batch_that_is_not_well_formed_is_refused(body: bytes, code: str, field: str | None) -> None:
    with pytest.raises(InputError) as caught:
        outline(body)
    assert (caught.value.code, caught.value.field) == (code, field)


@pytest.mark.parametrize(
    ("head", "code", "field"),
    [
        (b"{}", "input.schema", "institution"),
        (b'{"institution":"1311111114","colour":1}', "input.schema", "colour"),
        (b'{"institution":"1311111114","as_of":"2026-02-30"}', "input.date", "as_of"),
        (b'{"institution":"1311111114","purpose":"983205673214"}', "input.my_number", "purpose"),
    ],
)
def test_a_batch_head_is_checked_like_an_inquiry(head: bytes, code: str, field: str) -> None:
    with pytest.raises(InputError) as caught:
        reader().batch(head)
    assert (caught.value.code, caught.value.field) == (code, field)


# --- answers --------------------------------------------------------------------------------------------------------

QUALIFICATION = Qualification(
    "01130012",
    "1234",
    "198-7654",
    "1234",
    "198-7654",
    "01",
    days.parse_iso("2023-04-01"),
    days.parse_iso("2027-04-01"),
    "03",
    relation=Relation.FAMILY,
    insured_name="見本 一",
    card_class="01",
    card_issued_on=days.parse_iso("2023-04-10"),
    card_valid_from=days.parse_iso("2023-04-01"),
    card_valid_to=days.parse_iso("2027-03-31"),
    copay_ratio="030",
    preschool=True,
    elderly=ElderlyCertificate(TODAY, TODAY, None, "020"),
    limit=LimitCertificate("01", "A03", TODAY, TODAY, None, TODAY),
    diseases=(SpecificDisease("1", TODAY, TODAY, None, 10_000),),
)
PERSON = Person(
    '見本 "太郎"\\',
    "ミホン タロウ",
    Sex.MALE,
    days.parse_iso("2000-01-02"),
    name_other="通称",
    name_other_kana="ツウショウ",
    postcode="100-0001",
    address="東京都\u2028千代田区",
)


def answer(**members: Any) -> Answer:
    plain = Answer(Verdict.VALID, None, TODAY, 17, "01130012", person=PERSON, qualification=QUALIFICATION)
    return msgspec.structs.replace(plain, **members)


def encode(given: Answer, mark: str | None = None, **consents: bool) -> dict[str, Any]:
    inquiry = Inquiry("1311111114", TODAY, "treatment", **consents)
    sent: dict[str, Any] = json.loads(
        writing.Writer(insurer=lambda number, version: INSURERS.get(number)).answer(inquiry, given, mark)
    )
    return sent


def test_valid_answer_has_every_member() -> None:
    sent = encode(answer(), "a1", consent_limit_certificate=True, consent_specific_diseases=True)
    day = "2026-11-23"
    assert sent["qualification"] == {
        "insurer_number": "01130012",
        "insurer_name": "全国健康保険協会 東京支部",
        "symbol": "1234",
        "number": "198-7654",
        "branch": "01",
        "relation": "family",
        "name": '見本 "太郎"\\',
        "name_kana": "ミホン タロウ",
        "sex": "male",
        "birth_date": "2000-01-02",
        "gained_on": "2023-04-01",
        "lost_on": "2027-04-01",
        "loss_reason": "03",
        "insured_name": "見本 一",
        "name_other": "通称",
        "name_other_kana": "ツウショウ",
        "postcode": "100-0001",
        "address": "東京都\u2028千代田区",
        "card_class": "01",
        "card_issued_on": "2023-04-10",
        "card_valid_from": "2023-04-01",
        "card_valid_to": "2027-03-31",
        "copay_ratio": "030",
        "preschool": True,
        "elderly_certificate": {"issued_on": day, "valid_from": day, "valid_to": None, "ratio": "020"},
        "limit_certificate": {
            "category": "01",
            "band": "A03",
            "issued_on": day,
            "valid_from": day,
            "valid_to": None,
            "long_term_on": day,
        },
        "specific_diseases": [
            {"category": "1", "issued_on": day, "valid_from": day, "valid_to": None, "self_pay": 10_000}
        ],
    }
    assert (sent["verdict"], sent["reason"], sent["as_of"], sent["data_version"]) == ("VALID", None, day, 17)
    assert (sent["id"], sent["insurer_fresh_at"]) == ("a1", "2026-11-23T08:00:00+09:00")
    assert (sent["notes"], sent["warnings"], sent["certificate"]) == ([], [], None)


def test_without_consent_neither_limit_certificate_nor_diseases_are_told() -> None:
    qualification = encode(answer())["qualification"]
    assert qualification["limit_certificate"] is None and qualification["specific_diseases"] is None
    only_one = encode(answer(), consent_specific_diseases=True)["qualification"]
    assert only_one["limit_certificate"] is None and only_one["specific_diseases"] is not None


def test_absent_values_are_null() -> None:
    bare = Qualification("01130012", "", "1", "", "1", "", TODAY)
    person = Person("見本", "", Sex.UNSET, TODAY)
    sent = encode(answer(qualification=bare, person=person))["qualification"]
    absent = {name for name, value in sent.items() if value is None}
    assert {"symbol", "branch", "lost_on", "loss_reason", "name_kana", "postcode", "copay_ratio"} <= absent
    assert sent["sex"] == "unset"


def test_answer_without_data() -> None:
    given = answer(verdict=Verdict.AMBIGUOUS, reason=Reason.SEVERAL_PEOPLE, person=None, qualification=None)
    sent = encode(given)
    assert (sent["verdict"], sent["reason"], sent["qualification"]) == ("AMBIGUOUS", "several_people", None)
    assert sent["advice"]["ja"] == advise(Verdict.AMBIGUOUS, Reason.SEVERAL_PEOPLE, ()).ja
    assert "id" not in sent


def test_unknown_insurer_has_no_freshness() -> None:
    sent = encode(answer(insurer_number="", person=None, qualification=None))
    assert sent["insurer_fresh_at"] is None


def test_notes_warnings_and_certificate_are_told() -> None:
    held = Certificate("cn=jpki", "A1", days.parse_iso("2026-11-30"))
    sent = encode(
        answer(notes=(Note.CERTIFICATE_EXPIRING,), warnings=(Warning("institution", "check_digit"),), certificate=held)
    )
    assert sent["notes"] == ["certificate_expiring"]
    assert sent["warnings"] == [{"field": "institution", "code": "check_digit"}]
    assert sent["certificate"] == {"expires_on": "2026-11-30", "usable_until": "2027-02-28"}


# --- bodies made to be slow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [f'"{MY_NUMBER}"', MY_NUMBER, '"９８３２-０５６７ ３２１４"', '"\\u0039832 0567 3214"']
)
def test_a_my_number_is_found_behind_many_other_values(number: str) -> None:
    others = ",".join(['"見本 太郎"', '"2026-11-23"', "0", '"a"'] * 300)
    assert refusal(f'{{"memo":[{others},{number}]}}'.encode()) == ("input.my_number", None)
    assert refusal(f'{{"memo":["1",{number}]}}'.encode()) == ("input.my_number", "memo[1]")


def test_digits_of_many_values_are_no_my_number() -> None:
    apart = ",".join(MY_NUMBER)
    assert refusal(f'{{"memo":["a",{apart},"b"]}}'.encode()) == ("input.schema", "memo")


def test_a_member_name_made_to_look_like_a_path_is_not_repeated() -> None:
    assert refusal({"x - at `$.7135790246": 1}) == ("input.schema", None)
    assert refusal({"x - at `$.taro7135`": 1}) == ("input.schema", None)
