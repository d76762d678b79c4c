"""Owns the rules of one row: its cells, what they demand of each other, and the Row that comes out.

This is the whole truth about rows; engine/ingest/blocks applies the same rules to many rows at once and hands every
row that looks odd to `check_row`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from engine import identifiers
from engine.ingest import cells, columns
from engine.ingest.cells import Fault, Rules
from engine.ingest.columns import COLUMNS, EVERY, GROUPS, PERIODS
from engine.ingest.rows import NO_TARGET, Op, Row, RowError
from engine.records import (
    Certificate,
    ElderlyCertificate,
    LimitCertificate,
    Person,
    Qualification,
    Relation,
    Sex,
    State,
)

ABSENT: Final[Mapping[str, Any]] = {
    **dict.fromkeys(columns.NAMES, None),
    **dict.fromkeys(("name", "name_kana", "name_other", "name_other_kana", "postcode", "address", "link_code"), ""),
    **dict.fromkeys(("branch", "insured_name", "loss_reason", "copay_ratio"), ""),
    "symbol": ("", ""),
    "sex": Sex.UNSET,
    "relation": Relation.SELF,
    "gained_on": NO_TARGET,
    "state": State.CONFIRMED,
    "card_class": "01",
    "preschool": False,
    "certificate_revoked": False,
    "diseases": (),
}
"""The value of a column that is absent or empty."""
_POSITION: Final = {"": -1} | {name: position for position, name in enumerate(columns.NAMES)}


class Checked(NamedTuple):
    """What became of one row: a Row, or its errors; and how many wrong check digits were let pass."""

    row: Row | None
    errors: list[RowError]
    warning_count: int


def check_row(number: int, texts: Mapping[str, str], rules: Rules, faults: Iterable[tuple[str, Fault]] = ()) -> Checked:
    """Check one row of texts by column name; an empty text is an absent one.

    Args: faults: what was found wrong before (a JSON value of the wrong type), by column; "" for the row itself.
    """
    check = _Check(texts, rules, faults)
    whole = check.faults.get("")
    if whole is not None and whole.code.startswith("row."):
        return Checked(None, [RowError(number, "", whole.code, whole.kind)], 0)
    check.read_cells()
    check.require()
    check.check_insurer()
    check.check_groups()
    check.check_order()
    if check.faults:
        ordered = sorted(check.faults.items(), key=lambda item: _POSITION[item[0]])
        return Checked(None, [RowError(number, column, f.code, f.kind) for column, f in ordered], 0)
    return Checked(Row(number, check.values["op"], build_person(check.values)), [], check.warning_count)


class _Check:
    """The state of checking one row: values of good cells, the first fault of each bad column."""

    def __init__(self, texts: Mapping[str, str], rules: Rules, faults: Iterable[tuple[str, Fault]]) -> None:
        self.texts = texts
        self.rules = rules
        self.faults = dict(faults)
        self.values = dict(ABSENT)
        self.warning_count = 0

    def fail(self, column: str, code: str, kind: str) -> None:
        self.faults.setdefault(column, Fault(code, kind))

    def filled(self, column: str) -> bool:
        return bool(self.texts.get(column)) or column in self.faults

    def digit_failed(self, column: str) -> None:
        if self.rules.policy == "error":
            self.fail(column, "input.check_digit", "wrong check digit")
        else:
            self.warning_count += 1

    def read_cells(self) -> None:
        for column in COLUMNS:
            text = self.texts.get(column.name)
            if not text or column.name in self.faults:
                continue
            insurer = self.values["insurer_number"]
            exempt = column.name == "number" and insurer is not None and self.rules.exempt_12_digits(insurer)
            try:
                self.values[column.name] = cells.read(column, text, exempt=exempt)
            except Fault as fault:
                self.faults[column.name] = fault

    def require(self) -> None:
        op: Op | None = self.values["op"]
        for column in COLUMNS:
            needed = column.required == EVERY if op is None else op in column.required
            if needed and not self.filled(column.name):
                self.fail(column.name, "input.required", "empty")

    def check_insurer(self) -> None:
        insurer: str | None = self.values["insurer_number"]
        if insurer is None:
            return
        if not cells.check_digit_fits(insurer):
            self.digit_failed("insurer_number")
        if self.rules.insurer is not None and insurer != self.rules.insurer:
            self.fail("insurer_number", "insurer.mismatch", "another insurer")
        elif self.rules.known_insurer is not None and not self.rules.known_insurer(insurer):
            self.fail("insurer_number", "insurer.unknown", "not registered")
        if insurer.startswith(identifiers.ELDERLY_LAW):
            self.check_elderly_identifiers()

    def check_elderly_identifiers(self) -> None:
        for column, key in (("symbol", self.values["symbol"][1]), ("branch", self.values["branch"])):
            if key:
                self.fail(column, "input.unexpected", "filled")
        if self.values["number"] is None:
            return
        fault = cells.elderly_number_fault(self.texts["number"])
        if fault is not None and fault.code == "input.check_digit":
            self.digit_failed("number")
        elif fault is not None:
            self.fail("number", fault.code, fault.kind)

    def check_groups(self) -> None:
        for group in GROUPS:
            members = (*group.needed, *group.optional)
            if any(self.filled(name) and self.values[name] is not False for name in members):
                for name in group.needed:
                    if not self.filled(name):
                        self.fail(name, "input.group", "empty")

    def check_order(self) -> None:
        for first, last in PERIODS:
            start, end = self.values[first], self.values[last]
            if start is not None and end is not None and end < start:
                self.fail(last, "input.period", "ends before it begins")
        lost = self.values["lost_on"]
        if lost is not None and lost < self.values["gained_on"]:
            self.fail("lost_on", "feed.lost_before_gained", "before gained_on")


def build_person(values: Mapping[str, Any]) -> Person:
    """The person with one qualification that a faultless row describes."""
    v = values
    return Person(
        name=v["name"],
        name_kana=v["name_kana"],
        sex=v["sex"],
        birth_date=v["birth_date"],
        qualifications=(build_qualification(v),),
        certificates=build_certificates(v),
        link_code=v["link_code"],
        name_other=v["name_other"],
        name_other_kana=v["name_other_kana"],
        postcode=v["postcode"],
        address=v["address"],
    )


def build_qualification(values: Mapping[str, Any]) -> Qualification:
    """The row's qualification."""
    v = values
    return Qualification(
        insurer_number=v["insurer_number"],
        symbol=v["symbol"][0],
        number=v["number"][0],
        symbol_key=v["symbol"][1],
        number_key=v["number"][1],
        branch=v["branch"],
        gained_on=v["gained_on"],
        lost_on=v["lost_on"],
        loss_reason=v["loss_reason"],
        state=v["state"],
        relation=v["relation"],
        insured_name=v["insured_name"],
        card_class=v["card_class"],
        card_issued_on=v["card_issued_on"],
        card_valid_from=v["card_valid_from"],
        card_valid_to=v["card_valid_to"],
        copay_ratio=v["copay_ratio"],
        preschool=v["preschool"],
        elderly=build_elderly(v),
        limit=build_limit(v),
        diseases=v["diseases"],
    )


def build_certificates(values: Mapping[str, Any]) -> tuple[Certificate, ...]:
    """The card's certificate, if the row names one."""
    v = values
    if v["certificate_issuer"] is None:
        return ()
    revoked = v["certificate_revoked"]
    return (Certificate(v["certificate_issuer"], v["certificate_serial"], v["certificate_expires_on"], revoked),)


def build_elderly(values: Mapping[str, Any]) -> ElderlyCertificate | None:
    """The elderly certificate, if the row has one."""
    v = values
    if v["elderly_issued_on"] is None:
        return None
    return ElderlyCertificate(
        v["elderly_issued_on"], v["elderly_valid_from"], v["elderly_valid_to"], v["elderly_ratio"]
    )


def build_limit(values: Mapping[str, Any]) -> LimitCertificate | None:
    """The limit certificate, if the row has one."""
    v = values
    if v["limit_category"] is None:
        return None
    return LimitCertificate(
        v["limit_category"],
        v["limit_band"],
        v["limit_issued_on"],
        v["limit_valid_from"],
        v["limit_valid_to"],
        v["limit_long_term_on"],
    )
