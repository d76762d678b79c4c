"""Holds the registry against a plain model: any rows, by file and by call, in any grouping, with restarts between."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine import limits
from engine.errors import FeedNumberError, FeedRowsError, ShikakuError
from engine.ingest import feed
from engine.ingest.registry import FeedReceipt, Registry
from engine.ingest.rows import Op, Row
from engine.records import Sex, State
from tests.models.registry import Model
from tests.support import registries
from tests.support.registries import INSURERS, call, csv_line, row, write_csv

REGISTERED = INSURERS[:2]
GAINED = (36_000, 36_100, 36_200)
LOST = (None, None, 36_000, 36_050, 36_100, 36_150, 36_300)
CSV_GAINED = ("2018-07-25", "2018-11-02", "2019-02-10")
CSV_LOST = ("", "", "2018-07-25", "2018-09-01", "2018-11-02", "2019-01-01", "2020-01-01")


class Maker:
    """Makes rows, lines and steps in which cards, people and days collide often, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.pick = self.random.choice

    def identity(self) -> dict[str, Any]:
        return {
            "number": self.pick(["1", "2", "3"]),
            "insurer": self.pick([*REGISTERED * 8, INSURERS[2]]),
            "branch": self.pick(["", "01", "02"]),
            "link": self.pick(["", "", "", "A", "B"]),
            "serial": self.pick(["", "", "", "0a", "0b"]),
        }

    def row(self) -> Row:
        op = self.pick([Op.NEW, Op.NEW, Op.NEW, Op.CHANGE, Op.LOSE, Op.CANCEL])
        gained = self.pick(GAINED)
        if op in (Op.LOSE, Op.CANCEL):
            gained = self.pick([gained, None, None])
        lost = self.pick(LOST[2:] if op is Op.LOSE else LOST)
        return row(
            op=op,
            gained=gained,
            lost=lost,
            reason="" if lost is None else self.pick(["01", "03", "99"]),
            kana=self.pick(["ヤマダ", "ヤマダ", "スズキ"]),
            sex=self.pick([Sex.MALE, Sex.MALE, Sex.FEMALE]),
            born=self.pick([registries.BORN] * 4 + [registries.BORN + 1]),
            state=self.pick([State.CONFIRMED, State.CONFIRMED, State.PENDING]) if op is Op.NEW else State.CONFIRMED,
            address=self.pick(["", "x"]),
            **self.identity(),
        )

    def line(self) -> str:
        op = self.pick(["new", "new", "new", "change", "lose", "cancel"])
        gained = self.pick(CSV_GAINED)
        if op in ("lose", "cancel"):
            gained = self.pick([gained, "", ""])
        lost = self.pick(CSV_LOST) if op in ("new", "change") else self.pick(CSV_LOST[2:]) if op == "lose" else ""
        if gained and lost and lost < gained:
            lost = gained
        identity = self.identity()
        if op in ("lose", "cancel"):
            identity["serial"] = ""
        return csv_line(
            op=op,
            gained=gained,
            lost=lost,
            reason="03" if lost else "",
            kana=self.pick(["ヤマダ", "ヤマダ", "スズキ"]),
            sex=self.pick(["1", "1", "2"]),
            birth=self.pick(["1990-01-02"] * 4 + ["1990-01-03"]),
            **identity,
        )

    def feed_number(self) -> int | None:
        return self.pick([None] * 12 + [1, 2, 3])

    def as_they_come(self) -> bool:
        """Whether refused rows stay in: random rows alone would nearly always sink the whole call or feed."""
        return self.random.random() < 0.3

    def call(self) -> tuple[str, list[Row], int | None, bool]:
        made = [self.row() for _ in range(self.random.randrange(5))]
        return self.pick(REGISTERED), made, self.feed_number(), self.as_they_come()

    def steps(self, count: int) -> Iterator[tuple[str, Any]]:
        for _ in range(count):
            name = self.pick(["calls", "calls", "feed", "feed", "reopen"])
            if name == "calls":
                yield name, [self.call() for _ in range(self.random.randrange(1, 10))]
            elif name == "feed":
                made = [self.line() for _ in range(self.random.randrange(40))]
                yield name, (self.pick([None, None, *REGISTERED]), made, self.feed_number(), self.as_they_come())
            else:
                yield name, None


class Pair:
    """The registry and its model, side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = registries.settings(folder, index_keys=64)
        registries.init(self.config, REGISTERED)
        self.model = Model(set(REGISTERED))
        self.registry = Registry.open(self.config, registries.KEYS)

    def calls(self, step: list[tuple[str, list[Row], int | None, bool]]) -> None:
        made, expected = [], []
        for insurer, asked, number, whole in step:
            if not whole:
                asked = [asked[at] for at in self.model.accepted(insurer, asked)]
            made.append(call(*asked, insurer=insurer, feed_number=number))
            expected.append(self.model.apply(insurer, made[-1].digest, made[-1].rows, number, is_call=True))
        assert [outcome(result) for result in self.registry.apply_calls(made)] == expected

    def feed(self, step: tuple[str | None, list[str], int | None, bool]) -> None:
        insurer, feed_lines, number, whole = step
        scope = insurer or "operator"
        path = write_csv(self.folder / "feed.csv", feed_lines)
        good, wrong = self.read(path, insurer)
        if not whole:
            kept = {good[at].row - 1 for at in self.model.accepted(scope, good)}
            write_csv(path, [line for at, line in enumerate(feed_lines) if at in kept])
            good, wrong = self.read(path, insurer)
        digest = hashlib.sha256(path.read_bytes()).digest()
        assert self.imported(path, insurer, number, dry_run=True) == self.dry(scope, digest, good, number, wrong)
        assert self.imported(path, insurer, number) == _expected(self.model, scope, digest, good, number, wrong)

    def read(self, path: Path, insurer: str | None) -> tuple[list[Row], set[tuple[int, str]]]:
        """A feed's rows, and what is wrong with the others whatever is registered."""
        chunks = list(feed.read(path, insurer=insurer, known_insurer=self.model.insurers.__contains__))
        wrong = {(error.row, error.code) for chunk in chunks for error in chunk.errors}
        return [each for chunk in chunks for each in chunk.rows], wrong

    def dry(
        self, scope: str, digest: bytes, good: list[Row], number: int | None, wrong: set[tuple[int, str]]
    ) -> object:
        return _expected(deepcopy(self.model), scope, digest, good, number, wrong)

    def imported(self, path: Path, insurer: str | None, number: int | None, dry_run: bool = False) -> object:
        try:
            return outcome(self.registry.import_feed(path, insurer=insurer, feed_number=number, dry_run=dry_run))
        except ShikakuError as error:
            return outcome(error)

    def reopen(self, _: None) -> None:
        self.registry.close()
        self.registry = Registry.open(self.config, registries.KEYS)

    def check(self) -> None:
        """Everybody, with all versions, is the same in both; person numbers are the registry's own affair."""
        store = self.registry.store
        mine = [[person for _, _, person in store.history(number)] for number in range(1, store.next_person)]
        encode = msgspec.msgpack.Encoder().encode
        assert sorted(map(encode, mine)) == sorted(map(encode, self.model.people))
        registries.assert_sound(self.config)


def _expected(
    model: Model, scope: str, digest: bytes, good: list[Row], number: int | None, wrong: set[tuple[int, str]]
) -> object:
    if wrong and (scope, digest) not in model.receipts:
        if number is not None and number <= model.numbers.get(scope, -1):
            return "feed.number"
        return wrong
    return model.apply(scope, digest, good, number)


def outcome(result: FeedReceipt | ShikakuError) -> object:
    """A result in the model's terms."""
    if isinstance(result, FeedRowsError):
        assert result.report.error_count == len(result.report.errors)  # type: ignore[attr-defined]
        return {(error.row, error.code) for error in result.report.errors}  # type: ignore[attr-defined]
    if isinstance(result, FeedNumberError):
        return "feed.number"
    assert isinstance(result, FeedReceipt), result
    counts = dict(zip(Op, (result.new, result.changed, result.lost, result.cancelled), strict=True))
    return ("replayed", counts) if result.replayed else counts


@contextmanager
def a_pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        pair = Pair(Path(folder))
        try:
            yield pair
        finally:
            pair.registry.close()


def run(seed: int, count: int) -> None:
    with a_pair() as pair:
        for name, step in Maker(seed).steps(count):
            getattr(pair, name)(step)
            pair.check()


seeds = st.integers(0, 2**32)
# The seed is all that there is to shrink, and a smaller seed is no simpler case.
without_shrinking = settings(
    deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate]
)


@settings(without_shrinking, max_examples=40)
@given(seeds)
def test_any_rows_leave_what_the_model_says(seed: int) -> None:
    run(seed, 12)


@settings(without_shrinking, max_examples=30)
@given(seeds)
def test_chunks_of_three_rows_leave_the_same(seed: int) -> None:
    """What one row does must not depend on whether the rows before it are in the same chunk."""
    with mock.patch.object(limits, "FEED_ROWS_PER_CHUNK", 3), mock.patch.object(feed, "ROWS_PER_BLOCK_MAX", 3):
        run(seed, 12)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(without_shrinking, max_examples=1000)
@given(seeds)
def test_many_rows_leave_what_the_model_says(seed: int) -> None:
    run(seed, 20)
