"""Holds the registry against a plain model: any rows, by file and by call, in any grouping, with restarts between."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
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

identities = st.fixed_dictionaries(
    {
        "number": st.sampled_from(["1", "2"]),
        "insurer": st.sampled_from([*REGISTERED, *REGISTERED, *REGISTERED, INSURERS[2]]),
        "branch": st.sampled_from(["", "01", "02"]),
        "link": st.sampled_from(["", "", "", "A", "B"]),
        "serial": st.sampled_from(["", "", "", "0a", "0b"]),
    }
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Rows in which cards, people and days collide often."""
    op = draw(st.sampled_from([Op.NEW, Op.NEW, Op.NEW, Op.CHANGE, Op.LOSE, Op.CANCEL]))
    gained = draw(st.sampled_from(GAINED))
    if op in (Op.LOSE, Op.CANCEL):
        gained = draw(st.sampled_from([gained, None, None]))
    lost = draw(st.sampled_from(LOST)) if op is not Op.LOSE else draw(st.sampled_from(LOST[2:]))
    return row(
        op=op,
        gained=gained,
        lost=lost,
        reason="" if lost is None else draw(st.sampled_from(["01", "03", "99"])),
        kana=draw(st.sampled_from(["ヤマダ", "ヤマダ", "スズキ"])),
        sex=draw(st.sampled_from([Sex.MALE, Sex.MALE, Sex.FEMALE])),
        born=draw(st.sampled_from([registries.BORN, registries.BORN, registries.BORN + 1])),
        state=draw(st.sampled_from([State.CONFIRMED, State.CONFIRMED, State.PENDING]))
        if op is Op.NEW
        else State.CONFIRMED,
        address=draw(st.sampled_from(["", "x"])),
        **draw(identities),
    )


@st.composite
def lines(draw: st.DrawFn) -> str:
    """The same as lines of a feed."""
    op = draw(st.sampled_from(["new", "new", "new", "change", "lose", "cancel"]))
    gained = draw(st.sampled_from(CSV_GAINED))
    if op in ("lose", "cancel"):
        gained = draw(st.sampled_from([gained, "", ""]))
    lost = draw(st.sampled_from(CSV_LOST)) if op in ("new", "change") else ""
    if op == "lose":
        lost = draw(st.sampled_from(CSV_LOST[2:]))
    if gained and lost and lost < gained:
        lost = gained
    identity = draw(identities)
    if op in ("lose", "cancel"):
        identity["serial"] = ""
    return csv_line(
        op=op,
        gained=gained,
        lost=lost,
        reason="03" if lost else "",
        kana=draw(st.sampled_from(["ヤマダ", "ヤマダ", "スズキ"])),
        sex=draw(st.sampled_from(["1", "1", "2"])),
        birth=draw(st.sampled_from(["1990-01-02", "1990-01-02", "1990-01-03"])),
        **identity,
    )


numbers = st.sampled_from([None, None, None, None, None, 1, 2, 3])
as_they_come = st.sampled_from([False, False, False, True])
"""Whether refused rows stay in: random rows alone would nearly always sink the whole call or feed."""
some_calls = st.lists(
    st.tuples(st.sampled_from(REGISTERED), st.lists(rows(), max_size=3), numbers, as_they_come), min_size=1, max_size=12
)
a_feed = st.tuples(
    st.sampled_from([None, None, *REGISTERED]), st.lists(lines(), min_size=1, max_size=40), numbers, as_they_come
)
steps = st.one_of(
    st.tuples(st.just("calls"), some_calls),
    st.tuples(st.just("feed"), a_feed),
    st.tuples(st.just("feed"), a_feed),
    st.tuples(st.just("reopen"), st.none()),
)


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
            expected.append(self.model.apply(insurer, made[-1].digest, made[-1].rows, number))
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
        model = Model(self.model.insurers, [list(v) for v in self.model.people], dict(self.model.receipts))
        model.numbers = dict(self.model.numbers)
        return _expected(model, scope, digest, good, number, wrong)

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


def run(program: list[tuple[str, object]]) -> None:
    with a_pair() as pair:
        for name, step in program:
            getattr(pair, name)(step)
        pair.check()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(steps, min_size=2, max_size=6))
def test_any_rows_leave_what_the_model_says(program: list[tuple[str, object]]) -> None:
    run(program)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(steps, min_size=2, max_size=5))
def test_chunks_of_three_rows_leave_the_same(program: list[tuple[str, object]]) -> None:
    """What one row does must not depend on whether the rows before it are in the same chunk."""
    with mock.patch.object(limits, "FEED_ROWS_PER_CHUNK", 3), mock.patch.object(feed, "ROWS_PER_BLOCK_MAX", 3):
        run(program)


@pytest.mark.long
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=1, max_size=12))
def test_many_rows_leave_what_the_model_says(program: list[tuple[str, object]]) -> None:
    run(program)
