"""Owns the fast way through many rows: whole columns at once, with the same outcome as engine/ingest/checks.

Each column is turned into a list of values by C loops (map over a memo, str.join and one regular expression, set).
A row about which any column has the slightest doubt is *flagged*, taken out, and given to `check_row`, which alone
decides and words errors. So this file may flag too much, never too little.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress, repeat
from operator import attrgetter, gt
from typing import Any, Final

import numpy as np

from engine import identifiers, limits
from engine.errors import InputError
from engine.ingest import cells
from engine.ingest.cells import KANA, LINK, UNSEEN, Fault, Rules
from engine.ingest.checks import ABSENT, build_elderly, build_limit, check_row
from engine.ingest.columns import BY_NAME, COLUMNS, GROUPS, PERIODS, Column, Form
from engine.ingest.rows import Row, RowError
from engine.records import Certificate, Person, Qualification
from ext import canon

MEMO_MAX: Final = 131_072
"""Distinct texts that a memo keeps before it starts afresh: all days of a lifetime in both forms, all postcodes."""
LONG_MEMO_MAX: Final = 4_096
"""The same for issuers and lists of diseases, which are longer."""
FEW: Final = 6
"""Below this many rows, checking them one by one is quicker."""
NOTHING_LEFT: Final = frozenset("-" * length for length in range(limits.IDENTIFIER_CHARS_MAX + 1))
"""Canonical numbers that are none."""
HEX_DIGITS: Final = b"0123456789ABCDEF"
PLAIN_SERIAL: Final = re.compile("[1-9A-Fa-f][0-9A-Fa-f]*")
ODD_BEGINNING: Final = re.compile("\n[^\n一-鿿㐀-䶿ぁ-ゖァ-ヺA-Za-z]")
"""A cell of a joined column that does not plainly begin a word."""
_DOUBT: Final = object()
_BY_ROW = attrgetter("row")

Cells = Sequence[str]
Values = Sequence[Any]
Faults = dict[int, list[tuple[str, Fault]]]
"""What was found wrong with rows before they were checked: position in the block -> column and fault."""


class Memo(dict[str, Any]):
    """Text -> value of a column, filled as texts appear; what cannot be read is not kept. Safe to share by threads."""

    def __init__(self, read: Callable[[str], Any], absent: Any, bound: int = MEMO_MAX) -> None:
        super().__init__()
        self.read = read
        self.absent = absent
        self.bound = bound

    def __missing__(self, text: str) -> Any:
        value = self[text] = self.read(text) if text else self.absent
        return value

    def values_of(self, texts: Cells, flagged: set[int]) -> Values:
        """The values of a column; positions in doubt are flagged."""
        if len(self) > self.bound:
            self.clear()
        count = len(texts)
        first = texts[0]
        try:
            if first == texts[-1] and first == texts[count // 2] and texts.count(first) == count:
                return [self[first]] * count
            return list(map(self.__getitem__, texts))
        except (Fault, InputError):
            return self._with_doubts(texts, flagged)

    def _with_doubts(self, texts: Cells, flagged: set[int]) -> Values:
        found: list[Any] = []
        for position, text in enumerate(texts):
            try:
                found.append(self[text])
            except (Fault, InputError):
                found.append(_DOUBT)
                flagged.add(position)
        return found


class Block:
    """One batch of rows: texts by column name, all of equal length, with the number of each row."""

    __slots__ = ("faults", "numbers", "texts")

    def __init__(self, numbers: Sequence[int], texts: Mapping[str, Cells], faults: Faults | None = None) -> None:
        self.numbers = numbers
        self.texts = texts
        self.faults = faults or {}

    def row(self, position: int) -> dict[str, str]:
        """The filled cells of one row."""
        return {name: column[position] for name, column in self.texts.items() if column[position]}


class BlockChecker:
    """Checks blocks of one feed under one set of rules; keeps memos from block to block."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.memos = _MEMOS | {"insurer_number": Memo(self.insurer, None)}

    def check(self, block: Block) -> tuple[list[Row], list[RowError], int]:
        """The good rows in order, the errors of the others, and how many wrong check digits were let pass."""
        count = len(block.numbers)
        if count < FEW:
            return self._one_by_one(block, range(count), [])
        block.texts = {name: texts for name, texts in block.texts.items() if any(texts)}
        flagged = set(block.faults)
        values = self._values(block.texts, count, flagged)
        _flag_missing(block.texts, values["op"], flagged)
        _flag_groups(block.texts, count, flagged)
        _flag_elderly(block.texts, values["insurer_number"], flagged)
        _flag_order(block.texts, values, flagged)
        if not flagged:
            return _rows(values, block.numbers), [], 0
        keep = [position not in flagged for position in range(count)]
        kept = {name: list(compress(column, keep)) for name, column in values.items()}
        rows = _rows(kept, list(compress(block.numbers, keep)))
        return self._one_by_one(block, sorted(flagged), rows)

    def _one_by_one(
        self, block: Block, positions: Iterable[int], rows: list[Row]
    ) -> tuple[list[Row], list[RowError], int]:
        errors: list[RowError] = []
        warning_count = 0
        count_before = len(rows)
        for position in positions:
            faults = block.faults.get(position, ())
            checked = check_row(block.numbers[position], block.row(position), self.rules, faults)
            errors += checked.errors
            warning_count += checked.warning_count
            if checked.row is not None:
                rows.append(checked.row)
        if 0 < count_before < len(rows):
            rows.sort(key=_BY_ROW)
        return rows, errors, warning_count

    def insurer(self, text: str) -> str:
        """An insurer number about which there is nothing to say; otherwise Fault."""
        number: str = cells.read(_INSURER, text)
        rules = self.rules
        if not cells.check_digit_fits(number) or (rules.insurer is not None and number != rules.insurer):
            raise Fault("insurer.mismatch", "in doubt")
        if rules.known_insurer is not None and not rules.known_insurer(number):
            raise Fault("insurer.unknown", "in doubt")
        return number

    def _values(self, texts: Mapping[str, Cells], count: int, flagged: set[int]) -> dict[str, Values]:
        """Values of every column; absent columns give their default."""
        values: dict[str, Values] = {}
        for column in COLUMNS:
            name = column.name
            if name not in texts:
                values[name] = [""] * count if column.form is Form.IDENTIFIER else [ABSENT[name]] * count
            elif column.form in _VECTORS:
                values[name] = _VECTORS[column.form](column, texts[name], flagged)
            else:
                values[name] = self.memos[name].values_of(texts[name], flagged)
            if column.form is Form.IDENTIFIER:
                values[f"{name}_text"] = texts.get(name) or values[name]
        return values


def _text(column: Column, texts: Cells, flagged: set[int]) -> Values:
    """Texts as they are: flagged if too long, unreadable, blank, or perhaps a My Number."""
    _flag_long(column, texts, flagged)
    joined = "\n".join(texts)
    _flag_unseen(texts, joined, flagged)
    if identifiers.may_hold_my_number(joined):
        flagged.update(position for position, text in enumerate(texts) if identifiers.holds_my_number(text))
    if ODD_BEGINNING.search("\n" + joined):
        for position, text in enumerate(texts):
            if text and not cells.begins_a_word(text[0]) and (identifiers.is_my_number(text) or not text.strip()):
                flagged.add(position)
    return texts


def _flag_unseen(texts: Cells, joined: str, flagged: set[int]) -> None:
    """Control and unreadable characters; str.isprintable is much quicker than the regular expression, but stricter."""
    plain = joined.replace("\n", "").replace("\u3000", "").isprintable()
    if joined.count("\n") != len(texts) - 1 or "\ufffd" in joined or not plain:
        flagged.update(position for position, text in enumerate(texts) if UNSEEN.search(text))


def _kana(column: Column, texts: Cells, flagged: set[int]) -> Values:
    """Kana in full width; NFKC of the joined column at once, because a line feed never composes with anything."""
    found = _text(column, texts, flagged)
    joined = "\n".join(texts)
    folded = unicodedata.normalize("NFKC", joined)
    if folded is not joined:
        found = folded.split("\n")
        if len(found) != len(texts):
            found = [unicodedata.normalize("NFKC", text) for text in texts]
        _flag_long(column, found, flagged)
    if not KANA.fullmatch("".join(found)):
        flagged.update(position for position, text in enumerate(found) if not KANA.fullmatch(text))
    return found


def _link(column: Column, texts: Cells, flagged: set[int]) -> Values:
    _flag_long(column, texts, flagged)
    joined = "".join(texts)
    if not (joined.isascii() and joined.encode().isalnum()):
        flagged.update(position for position, text in enumerate(texts) if text and not LINK.fullmatch(text))
    _flag_my_numbers(texts, joined, flagged)
    return texts


def _identifier(column: Column, texts: Cells, flagged: set[int]) -> Values:
    """Canonical forms, printable ASCII by the fast path. The texts as registered are kept apart."""
    is_number = column.name == "number"
    folded: list[Any] = list(map(canon.fold_number if is_number else canon.fold, texts))
    if None in folded:
        # Kanji, kana and full-width digits are as usual in symbols as ASCII: no reason to check the row one by one.
        for position, key in enumerate(folded):
            if key is None:
                try:
                    folded[position] = cells.read(column, texts[position])[1]
                except Fault:
                    flagged.add(position)
    if is_number and not NOTHING_LEFT.isdisjoint(folded):
        flagged.update(position for position, key in enumerate(folded) if key in NOTHING_LEFT)
    if _flag_long(column, texts, flagged) >= identifiers.MY_NUMBER_DIGITS:
        _flag_my_numbers(texts, "".join(texts), flagged)
    return folded


def _serial(column: Column, texts: Cells, flagged: set[int]) -> Values:
    """Serial numbers in hexadecimal without separators and leading zeros have the fast path."""
    joined = "\n".join(texts).upper()
    plain = joined.isascii() and not joined.encode().translate(None, HEX_DIGITS + b"\n")
    serials = joined.split("\n")
    if not plain or "\n0" in "\n" + joined or len(serials) != len(texts):
        serials = [text.upper() for text in texts]
        flagged.update(position for position, text in enumerate(texts) if text and not PLAIN_SERIAL.fullmatch(text))
    lengths = set(map(len, serials))
    if max(lengths) > identifiers.SERIAL_DIGITS_MAX:
        flagged.update(position for position, text in enumerate(texts) if len(text) > identifiers.SERIAL_DIGITS_MAX)
    if identifiers.MY_NUMBER_DIGITS in lengths:
        _flag_my_numbers(texts, "".join(texts), flagged)
    return serials


_VECTORS: Final[dict[Form, Callable[[Column, Cells, set[int]], Values]]] = {
    Form.TEXT: _text,
    Form.KANA: _kana,
    Form.LINK: _link,
    Form.IDENTIFIER: _identifier,
    Form.SERIAL: _serial,
}
_INSURER: Final = BY_NAME["insurer_number"]


def _made_memos() -> dict[str, Memo]:
    """A memo for each column of few values; columns of dates that may be any day and absent share one."""
    memos: dict[str, Memo] = {}
    dates = Memo(cells.memo_reader(BY_NAME["lost_on"]), None)
    for column in COLUMNS:
        if column.form in _VECTORS or column.form is Form.INSURER:
            continue
        absent = ABSENT[column.name]
        if column.form is Form.DATE and column.name != "birth_date" and absent is None:
            memos[column.name] = dates
        else:
            bound = LONG_MEMO_MAX if column.form in (Form.ISSUER, Form.DISEASES) else MEMO_MAX
            memos[column.name] = Memo(cells.memo_reader(column), absent, bound)
    return memos


_MEMOS: Final = _made_memos()
"""What does not depend on rules is remembered for all feeds: dates, codes, postcodes, issuers."""
CERTIFICATE_COLUMNS: Final = (
    "certificate_issuer",
    "certificate_serial",
    "certificate_expires_on",
    "certificate_revoked",
)
ELDERLY_COLUMNS: Final = ("elderly_issued_on", "elderly_valid_from", "elderly_valid_to", "elderly_ratio")
LIMIT_COLUMNS: Final = tuple(name for name in BY_NAME if name.startswith("limit_"))


def _flag_long(column: Column, texts: Cells, flagged: set[int]) -> int:
    """Flag what is longer than the column allows. Returns: the greatest length."""
    bound = column.chars_max
    assert bound is not None
    longest = max(map(len, texts))
    if longest > bound:
        flagged.update(position for position, text in enumerate(texts) if len(text) > bound)
    return longest


def _flag_my_numbers(texts: Cells, joined: str, flagged: set[int]) -> None:
    """For columns that hold printable ASCII (cells that do not are flagged already)."""
    digits = identifiers.MY_NUMBER_DIGITS
    if digits not in set(map(len, texts)) and joined.isascii() and joined.encode().isalnum():
        return
    for position, text in enumerate(texts):
        if (len(text) == digits or not text.isalnum()) and identifiers.is_my_number(text):
            flagged.add(position)


def _flag_missing(texts: Mapping[str, Cells], ops: Values, flagged: set[int]) -> None:
    """Rows that lack a column which their operation requires, or have no operation."""
    present = set(ops)
    if None in present:
        flagged.update(position for position, op in enumerate(ops) if op is None)
    for column in COLUMNS:
        if column.required.isdisjoint(present):
            continue
        column_texts = texts.get(column.name)
        if column_texts is None:
            flagged.update(position for position, op in enumerate(ops) if op in column.required)
        elif not all(column_texts):
            flagged.update(
                position
                for position, (op, text) in enumerate(zip(ops, column_texts, strict=True))
                if not text and op in column.required
            )


def _flag_groups(texts: Mapping[str, Cells], count: int, flagged: set[int]) -> None:
    """Rows in which a group of columns is filled in part."""
    for group in GROUPS:
        if not any(name in texts for name in (*group.needed, *group.optional)):
            continue
        if all(name in texts and all(texts[name]) for name in group.needed):
            continue
        whole, *needed = (_shape(name, texts, count) for name in group.needed)
        for shape in needed:
            if shape != whole:
                flagged.update(position for position in range(count) if shape[position] != whole[position])
        for shape in (_shape(name, texts, count) for name in group.optional if name in texts):
            if any(map(gt, shape, whole)):
                flagged.update(position for position in range(count) if shape[position] > whole[position])


def _shape(name: str, texts: Mapping[str, Cells], count: int) -> list[bool]:
    """Which rows have a column filled; a flag of 0 says nothing and does not count."""
    column = texts.get(name)
    if column is None:
        return [False] * count
    return list(map("1".__eq__, column)) if BY_NAME[name].form is Form.FLAG else list(map(bool, column))


def _flag_elderly(texts: Mapping[str, Cells], insurers: Values, flagged: set[int]) -> None:
    """Rows of insurers 39... that have a symbol or a branch, or a number without its check digit."""
    elderly = {i for i in set(insurers) if isinstance(i, str) and i.startswith(identifiers.ELDERLY_LAW)}
    if not elderly:
        return
    positions = [position for position, insurer in enumerate(insurers) if insurer in elderly]
    for name in ("symbol", "branch"):
        column = texts.get(name)
        if column:
            flagged.update(position for position in positions if column[position])
    numbers = texts.get("number")
    if numbers:
        odd = _odd_elderly_numbers([numbers[position] for position in positions])
        flagged.update(positions[where] for where in odd)


_DIGIT_SUMS: Final = np.array([2 * d // 10 + 2 * d % 10 for d in range(10)], dtype=np.uint8)


def _odd_elderly_numbers(numbers: list[str]) -> Iterable[int]:
    """Positions of numbers that are not eight ASCII digits with the right check digit."""
    joined = "".join(numbers)
    if set(map(len, numbers)) != {identifiers.ELDERLY_NUMBER_DIGITS} or not (joined.isascii() and joined.isdigit()):
        return [where for where, number in enumerate(numbers) if cells.elderly_number_fault(number) is not None]
    digits = np.frombuffer(joined.encode(), dtype=np.uint8).reshape(-1, identifiers.ELDERLY_NUMBER_DIGITS) - ord("0")
    sums = digits[:, 1::2].sum(axis=1) + _DIGIT_SUMS[digits[:, 0::2]].sum(axis=1)
    return map(int, np.nonzero(sums % 10)[0])


def _flag_order(texts: Mapping[str, Cells], values: Mapping[str, Values], flagged: set[int]) -> None:
    """Rows in which something ends before it begins."""
    for first, last in (("gained_on", "lost_on"), *PERIODS):
        if last not in texts:
            continue
        starts, ends = values[first], values[last]
        for position in compress(range(len(ends)), texts[last]):
            start, end = starts[position], ends[position]
            if start is not None and (start is _DOUBT or end is _DOUBT or end < start):
                flagged.add(position)


def _rows(values: Mapping[str, Values], numbers: Sequence[int]) -> list[Row]:
    """Build the rows of faultless columns; the structs are made by C loops over whole columns."""
    v = values
    held = map(
        Qualification,
        v["insurer_number"],
        v["symbol_text"],
        v["number_text"],
        v["symbol"],
        v["number"],
        v["branch"],
        v["gained_on"],
        v["lost_on"],
        v["loss_reason"],
        v["state"],
        v["relation"],
        v["insured_name"],
        v["card_class"],
        v["card_issued_on"],
        v["card_valid_from"],
        v["card_valid_to"],
        v["copay_ratio"],
        v["preschool"],
        _built(build_elderly, v, ELDERLY_COLUMNS),
        _built(build_limit, v, LIMIT_COLUMNS),
        v["diseases"],
    )
    people = map(
        Person,
        v["name"],
        v["name_kana"],
        v["sex"],
        v["birth_date"],
        zip(held, strict=False),
        _certificates(v),
        v["link_code"],
        v["name_other"],
        v["name_other_kana"],
        v["postcode"],
        v["address"],
    )
    return list(map(Row, numbers, v["op"], people))


def _certificates(values: Mapping[str, Values]) -> Iterable[tuple[Certificate, ...]]:
    """Each row's certificates: one or none."""
    columns = [values[name] for name in CERTIFICATE_COLUMNS]
    issuers = columns[0]
    if not any(issuers):
        return repeat(())
    if all(issuers):
        return zip(map(Certificate, *columns), strict=False)
    return [() if issuer is None else (Certificate(issuer, *rest),) for issuer, *rest in zip(*columns, strict=True)]


def _built(
    build: Callable[[Mapping[str, Any]], Any], values: Mapping[str, Values], names: tuple[str, ...]
) -> Iterable[Any]:
    """A certificate struct for each row from its group of columns; most feeds have none at all."""
    if not any(value is not None for value in values[names[0]]):
        return repeat(None)
    return [build(dict(zip(names, row, strict=True))) for row in zip(*(values[name] for name in names), strict=True)]
