"""The population is deterministic, realistic, importable in its order, and its truth agrees with hand-made cases."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path

import pytest

from engine.ingest.columns import NAMES
from loadtest.population import COLUMNS, Population, expected, generate
from loadtest.population.check_digits import check_digit, my_number, with_check_digit
from loadtest.population.households import ISSUER, birthday
from loadtest.population.insurers import insurers
from loadtest.population.model import Certificate, Household, Person, Spell
from loadtest.population.nation import Nation
from loadtest.population.truth import canonical, number, three_months_after

TODAY = date(2026, 11, 23)
PEOPLE = 4000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("population")
    generate(PEOPLE, 7, TODAY, folder)
    return folder


@pytest.fixture(scope="module")
def rows(written: Path) -> list[dict[str, str]]:
    with open(written / "population.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def households() -> list[Household]:
    return list(Population(PEOPLE, 7, TODAY).households())


def test_check_digits_are_those_of_the_published_examples() -> None:
    for example in ("33120015", "01130012", "39131156", "138040", "123455", "01234566", "1311111114", "0110113719"):
        assert check_digit(example[:-1]) == example[-1]
    assert check_digit("12345") != "6"
    assert my_number("98320567321") == "983205673214"


def test_insurers_have_valid_numbers_and_every_kind() -> None:
    numbers = [each.number for each in insurers()]
    assert len(set(numbers)) == len(numbers)
    assert all(len(each) == 8 and check_digit(each[:-1]) == each[-1] for each in numbers)
    assert {each[:2] for each in numbers} == {"00", "01", "06", "31", "32", "33", "34", "39"}
    assert {each.kind for each in insurers()} == {"kyokai", "kumiai", "kyosai", "municipal", "guild", "elderly"}
    assert len([each for each in insurers() if each.kind == "elderly"]) == 47
    municipal = next(each for each in insurers() if each.kind == "municipal")
    assert (
        len(municipal.number_as_printed) == 6 and with_check_digit(municipal.number_as_printed[:-1]) in municipal.number
    )


def test_columns_are_those_of_the_feed() -> None:
    assert tuple(COLUMNS) == NAMES


def test_same_arguments_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    generate(PEOPLE, 7, TODAY, tmp_path)
    for name in ("insurers.ndjson", "population.csv", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    generate(PEOPLE, 8, TODAY, tmp_path)
    assert (tmp_path / "population.csv").read_bytes() != (written / "population.csv").read_bytes()


def test_manifest_says_what_was_written(written: Path, rows: list[dict[str, str]]) -> None:
    manifest = json.loads((written / "manifest.json").read_text("utf-8"))
    assert manifest["people"] == PEOPLE
    assert manifest["rows"] == len(rows)
    assert list(rows[0]) == list(COLUMNS)


def test_every_row_is_of_a_listed_insurer(written: Path, rows: list[dict[str, str]]) -> None:
    listed = {json.loads(line)["number"] for line in (written / "insurers.ndjson").read_text("utf-8").splitlines()}
    assert {row["insurer_number"].zfill(8) for row in rows} <= listed


def test_rows_are_in_an_order_that_can_be_imported(rows: list[dict[str, str]]) -> None:
    """Lose, cancel and change come after the new row that they mean; nothing is registered twice."""
    registered = set()
    for row in rows:
        spell = (*_card_of(row), row["branch"], row["gained_on"], row["name_kana"] if not row["branch"] else "")
        if row["op"] == "new":
            assert spell not in registered or row["name_kana"]
            registered.add(spell[:-1])
        else:
            assert spell[:-1] in registered
        if row["lost_on"]:
            assert row["lost_on"] >= row["gained_on"]


def test_cards_never_cross_households(households: list[Household]) -> None:
    owner: dict[tuple[str, str, str], int] = {}
    serials = Counter(
        c.serial for h in households for c in {c.serial: c for p in h.people for c in p.certificates}.values()
    )
    for place, household in enumerate(households):
        for person in household.people:
            for spell in person.spells:
                card = (spell.insurer, canonical(spell.symbol), number(spell.number))
                assert owner.setdefault(card, place) == place
    assert max(serials.values()) == 1


def test_exactly_as_many_people_as_asked_for(households: list[Household]) -> None:
    assert sum(each.humans for each in households) == PEOPLE


def test_ages_are_those_of_japan(households: list[Household]) -> None:
    ages = [(TODAY.toordinal() - person.birth) / 365.2425 for each in households for person in each.people]
    assert 0.12 < sum(age < 20 for age in ages) / len(ages) < 0.22
    assert 0.14 < sum(age >= 75 for age in ages) / len(ages) < 0.21
    assert min(ages) >= 0 and max(ages) < 106


def test_the_elderly_have_neither_symbol_nor_branch(rows: list[dict[str, str]]) -> None:
    elderly = [row for row in rows if row["insurer_number"].startswith("39") and len(row["insurer_number"]) == 8]
    assert elderly
    for row in elderly:
        assert row["symbol"] == row["branch"] == ""
        assert len(row["number"]) == 8 and check_digit(row["number"][:-1]) == row["number"][-1]


def test_no_identifier_could_be_a_my_number(rows: list[dict[str, str]]) -> None:
    for row in rows:
        for name in ("symbol", "number", "certificate_serial", "link_code", "postcode"):
            digits = canonical(row[name])
            assert not (len(digits) == 12 and digits.isdigit())


def test_about_three_quarters_hold_a_certificate_ending_on_a_birthday(households: list[Household]) -> None:
    people = [person for each in households for person in each.people]
    held = [(person, person.certificates[0]) for person in people if person.certificates]
    assert 0.68 < len(held) / PEOPLE < 0.80
    for person, certificate in held:
        years = date.fromordinal(certificate.expires).year - date.fromordinal(person.birth).year
        assert birthday(person.birth, years) == certificate.expires
    assert any(certificate.expires < TODAY.toordinal() for _, certificate in held)
    assert any(certificate.revoked for _, certificate in held)


def test_all_circumstances_occur(households: list[Household], rows: list[dict[str, str]]) -> None:
    people = [person for each in households for person in each.people]
    spells = [spell for person in people for spell in person.spells]
    assert any(spell.pending for spell in spells) and any(spell.cancelled for spell in spells)
    assert any(spell.lost == spell.gained for spell in spells)
    assert any(spell.gained > TODAY.toordinal() for spell in spells)
    assert {spell.loss_reason for spell in spells} == {"", "01", "02", "03", "99"}
    assert any(len(person.spells) == 3 for person in people)
    assert {row["op"] for row in rows} == {"new", "lose", "cancel", "change"}
    for column in ("link_code", "elderly_ratio", "limit_band", "diseases", "certificate_revoked", "preschool"):
        assert any(row[column] for row in rows), column
    assert any(not row["symbol"].isascii() for row in rows) and any("-" in row["symbol"] for row in rows)
    assert {"010", "020", "030"} <= {row["copay_ratio"] for row in rows}


def test_twins_occur_with_and_without_branch() -> None:
    found = set()
    for household in Population(30_000, 1, TODAY).households():
        behind: dict[tuple[object, ...], list[str]] = defaultdict(list)
        for person in household.people:
            spell = person.spells[0]
            behind[spell.insurer, spell.symbol, spell.number, person.birth].append(spell.branch)
        found |= {bool(branches[0]) for branches in behind.values() if len(branches) > 1}
    assert found == {True, False}


def test_inquiries_cover_every_verdict_and_are_deterministic() -> None:
    population = Population(PEOPLE, 7, TODAY)
    asked = list(population.inquiries(6000, 3))
    assert asked == list(population.inquiries(6000, 3))
    assert len(asked) == 6000
    verdicts = Counter(verdict for _, verdict, _ in asked)
    assert set(verdicts) == {"VALID", "INVALID", "SUPERSEDED", "NOT_FOUND", "PENDING", "AMBIGUOUS"}
    assert verdicts["VALID"] > 3000


def test_canonical_keeps_only_what_carries_meaning() -> None:
    assert canonical("１２－３４") == canonical("12-34") == canonical(" 12ー34 ") == "12-34"
    assert canonical("ｱ・ab") == canonical("ア/AB") == "アAB"
    assert number("０００１２") == "12" and number("000") == "0"


def test_three_months_end_with_the_month() -> None:
    assert three_months_after(date(2026, 11, 30).toordinal()) == date(2027, 2, 28).toordinal()
    assert three_months_after(date(2026, 1, 15).toordinal()) == date(2026, 4, 15).toordinal()


def _card_of(row: dict[str, str]) -> tuple[str, ...]:
    return row["insurer_number"], row["symbol"], row["number"], row["birth_date"]


# --- the truth itself, by hand ----------------------------------------------------------------------------------


def _spell(gained: str, lost: str | None = None, reason: str = "", **more: object) -> Spell:
    made = Spell("01130012", "12・34", "0056", "01", _day(gained), _day(lost) if lost else None, reason)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def _somebody(*spells: Spell, kana: str = "シケン　タロウ") -> Person:
    certificate = Certificate(ISSUER, "ABC1", _day("2026-09-01"))
    return Person("試験　太郎", kana, 1, _day("1990-04-01"), spells=list(spells), certificates=[certificate])


def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal()


def _ask(people: list[Person], as_of: str, **card: str) -> tuple[str, str | None]:
    asked = {"insurer_number": "01130012", "symbol": "１２３４", "number": "56", "birth_date": "1990-04-01"} | card
    return expected(people, {"as_of": as_of, "card": asked}, TODAY)


def test_truth_at_the_edges_of_a_spell() -> None:
    people = [_somebody(_spell("2020-04-01", "2021-04-01", "01"))]
    assert _ask(people, "2020-03-31") == ("INVALID", "not_yet_gained")
    assert _ask(people, "2020-04-01") == ("VALID", None)
    assert _ask(people, "2021-03-31") == ("VALID", None)
    assert _ask(people, "2021-04-01") == ("INVALID", "deceased")


def test_truth_about_identifiers_that_do_not_fit() -> None:
    people = [_somebody(_spell("2020-04-01"))]
    assert _ask(people, "2026-01-01", birth_date="1990-04-02") == ("NOT_FOUND", "unknown_card")
    assert _ask(people, "2026-01-01", branch="02") == ("NOT_FOUND", "branch_mismatch")
    assert _ask(people, "2026-01-01", branch="1") == ("VALID", None)
    assert _ask(people, "2026-01-01", number="57") == ("NOT_FOUND", "unknown_card")


def test_truth_about_two_people_on_one_card() -> None:
    gone = _somebody(_spell("2020-04-01", "2021-04-01", "01", branch="02"), kana="シケン　ジロウ")
    people = [_somebody(_spell("2020-04-01")), gone]
    assert _ask(people, "2026-01-01") == ("AMBIGUOUS", "several_people")
    assert _ask(people, "2026-01-01", branch="02") == ("INVALID", "deceased")
    gone.spells[0].cancelled = True
    assert _ask(people, "2026-01-01") == ("VALID", None)


def test_truth_about_another_qualification_of_the_same_person() -> None:
    other = _spell("2022-04-01", insurer="06130017", number="9")
    people = [_somebody(_spell("2020-04-01", "2022-04-01", "03"), other)]
    assert _ask(people, "2022-04-01") == ("SUPERSEDED", "newer_qualification")
    assert _ask(people, "2022-03-31") == ("VALID", None)
    other.pending = True
    assert _ask(people, "2022-04-01") == ("INVALID", "insurance_changed")


def test_truth_about_announced_and_cancelled_registrations() -> None:
    assert _ask([_somebody(_spell("2020-04-01", pending=True))], "2021-01-01") == ("PENDING", "announced")
    assert _ask([_somebody(_spell("2020-04-01", pending=True))], "2020-01-01") == ("INVALID", "not_yet_gained")
    assert _ask([_somebody(_spell("2020-04-01", cancelled=True))], "2021-01-01") == ("INVALID", "cancelled")

    withdrawn = [_somebody(_spell("2020-04-01", cancelled=True))]
    request = {"as_of": "2021-01-01", "certificate": {"issuer": ISSUER, "serial": "ABC1"}}
    assert expected(withdrawn, request, TODAY) == ("NOT_FOUND", "no_qualification")


def test_truth_by_certificate_judges_it_on_the_day_of_presentation() -> None:
    people = [_somebody(_spell("2020-04-01"))]
    request = {"as_of": "2020-06-01", "certificate": {"issuer": ISSUER, "serial": "ABC1"}}
    assert expected(people, request, date(2026, 12, 1)) == ("VALID", None)
    assert expected(people, request, date(2026, 12, 2)) == ("NOT_FOUND", "certificate_expired")
    people[0].certificates[0].revoked = True
    assert expected(people, request, TODAY) == ("NOT_FOUND", "certificate_revoked")
    request["certificate"] = {"issuer": ISSUER, "serial": "ABC2"}
    assert expected(people, request, TODAY) == ("NOT_FOUND", "unknown_certificate")


# --- a country ------------------------------------------------------------------------------------------------------


def _country() -> Nation:
    return Nation(3_000, 9, date(2026, 11, 23), town_people=1_000)


def _read(nation: Nation, part: int, folder: Path) -> list[dict[str, str]]:
    path = folder / f"{part}.csv"
    count = nation.write_part(part, path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count == nation.town_rows
    return rows


def test_the_first_part_of_a_country_is_an_ordinary_population(tmp_path: Path) -> None:
    written = generate(1_000, 9, date(2026, 11, 23), tmp_path)
    _country().write_part(0, tmp_path / "part.csv")
    assert (tmp_path / "part.csv").read_bytes() == written.population_file.read_bytes()


def test_no_two_parts_of_a_country_share_an_identifier(tmp_path: Path) -> None:
    nation = _country()
    parts = [_read(nation, part, tmp_path) for part in range(nation.parts)]
    for names in (("certificate_serial",), ("link_code",), ("insurer_number", "symbol", "number")):
        seen = [{tuple(row[name] for name in names) for row in rows} - {("",)} for rows in parts]
        assert sum(map(len, seen)) == len(set().union(*seen))
    for rows in parts[1:]:
        assert [row["name"] for row in rows] == [row["name"] for row in parts[0]]
        assert [bool(row["link_code"]) for row in rows] == [bool(row["link_code"]) for row in parts[0]]


def test_inquiries_about_a_part_name_identifiers_of_that_part(tmp_path: Path) -> None:
    nation = _country()
    rows = _read(nation, 2, tmp_path)
    serials = {row["certificate_serial"] for row in rows}
    asked = [request["certificate"]["serial"] for request, *_ in nation.inquiries(2, 400) if "certificate" in request]
    assert len(asked) > 50 and sum(serial in serials for serial in asked) > len(asked) * 0.7
    assert list(nation.inquiries(2, 20)) == list(_country().inquiries(2, 20))
    with pytest.raises(ValueError):
        list(nation.inquiries(3, 1))
