"""Owns the files: insurers.ndjson, population.csv and manifest.json, written in constant memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, TextIO

from loadtest.population.households import Families, iso
from loadtest.population.insurers import Insurer, insurers
from loadtest.population.model import Certificate, Person, Spell

COLUMNS: Final = (
    "op insurer_number symbol number branch birth_date link_code name name_kana name_other name_other_kana sex "
    "postcode address relation insured_name gained_on lost_on loss_reason state card_class card_issued_on "
    "card_valid_from card_valid_to copay_ratio preschool certificate_issuer certificate_serial certificate_expires_on "
    "certificate_revoked elderly_issued_on elderly_valid_from elderly_valid_to elderly_ratio limit_category limit_band "
    "limit_issued_on limit_valid_from limit_valid_to limit_long_term_on diseases"
).split()
"""The feed's columns, in the order in which they are written."""

INSURERS_FILE: Final = "insurers.ndjson"
POPULATION_FILE: Final = "population.csv"
MANIFEST_FILE: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Generated:
    """What was written, and where."""

    insurers_file: Path
    population_file: Path
    people: int
    rows: int


def generate(people: int, seed: int, today: date, directory: Path | str) -> Generated:
    """Write a population of `people` human beings; the same arguments give the same bytes.

    Rows are in an order that can be imported in one go: a person's older qualification before the newer.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_insurers(folder / INSURERS_FILE)
    with open(folder / POPULATION_FILE, "w", encoding="utf-8", newline="", buffering=1 << 20) as file:
        everybody = (person for household in Families(people, seed, today) for person in household.people)
        count = write_rows(file, everybody)
    manifest = {"people": people, "seed": seed, "today": today.isoformat(), "rows": count, "insurers": len(insurers())}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest) + "\n", "utf-8")
    return Generated(folder / INSURERS_FILE, folder / POPULATION_FILE, people, count)


def write_insurers(path: Path, chosen: Iterable[Insurer] | None = None) -> None:
    """Write insurers as NDJSON: number (8 digits), name, name_kana."""
    with open(path, "w", encoding="utf-8") as file:
        for each in insurers() if chosen is None else chosen:
            line = {"number": each.number, "name": each.name, "name_kana": each.name_kana}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_rows(file: TextIO, people: Iterable[Person]) -> int:
    """Write the header and all rows of these people. Returns how many rows (without the header)."""
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    empty = dict.fromkeys(COLUMNS, "")
    count = 0
    for person in people:
        for row in rows_of(person):
            writer.writerow((empty | row).values())
            count += 1
    return count


def rows_of(person: Person) -> Iterator[dict[str, str]]:
    """The rows that bring a person to what it is: new, then lose or cancel where the loss is not in the new row."""
    for position, spell in enumerate(person.spells):
        later = spell.lost is not None and bool(spell.loss_reason) and spell.gained % 4 == 0
        row = _row(person, spell, position, None if later else spell.lost)
        yield row
        if spell.cancelled:
            yield _target(person, spell) | {"op": "cancel"}
        elif later:
            yield _target(person, spell) | {"op": "lose", "lost_on": _iso(spell.lost), "loss_reason": spell.loss_reason}
    if person.moved and not spell.cancelled and not later:
        yield row | {"op": "change", "address": person.address + " 転居後"}


def _row(person: Person, spell: Spell, position: int, lost: int | None) -> dict[str, str]:
    row = {
        **_target(person, spell),
        "op": "new",
        "name": person.name,
        "name_kana": person.kana,
        "sex": str(person.sex),
        "postcode": person.postcode,
        "address": person.address,
        "relation": "2" if spell.family else "1",
        "lost_on": _iso(lost),
        "loss_reason": spell.loss_reason if lost is not None else "",
        "state": "pending" if spell.pending else "",
        **spell.columns,
    }
    # From the second registration on, one of link code and certificate is enough, and both must do.
    if position == 0 or not person.link_code or spell.gained % 2:
        for certificate in person.certificates[:1]:
            row |= _certificate(certificate)
        if position and person.certificates:
            row["link_code"] = ""
    return row


def _target(person: Person, spell: Spell) -> dict[str, str]:
    return {
        "insurer_number": spell.insurer[2:] if spell.insurer.startswith("00") else spell.insurer,
        "symbol": spell.symbol,
        "number": spell.number,
        "branch": spell.branch,
        "birth_date": iso(person.birth),
        "link_code": person.link_code,
        "gained_on": iso(spell.gained),
    }


def _certificate(certificate: Certificate) -> dict[str, str]:
    return {
        "certificate_issuer": certificate.issuer,
        "certificate_serial": certificate.serial,
        "certificate_expires_on": iso(certificate.expires),
        "certificate_revoked": "1" if certificate.revoked else "",
    }


def _iso(ordinal: int | None) -> str:
    return "" if ordinal is None else iso(ordinal)
