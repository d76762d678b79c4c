"""Asks whether the gate's arithmetic is right, its file is read strictly, and what it runs answers rightly."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import budgets, gate, probes
from benchmarks.gate import GateError, judge

GOOD = """
[compare]
launches = 7
rounds = 5
confidence = 0.95
[allowances]
find = 0.1
[budgets]
bytes_per_key = { measure = "bytes", at_most = 23 }
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "gates.toml"
    path.write_text(text)
    return path


# --- arithmetic -----------------------------------------------------------------------------------------------------


def test_a_regression_beyond_the_allowance_fails() -> None:
    assert not judge([1.12] * 7, 0.10, 0.95).passes


def test_exactly_the_allowance_passes() -> None:
    assert judge([1.5] * 7, 0.5, 0.95).passes
    assert not judge([1.5000001] * 7, 0.5, 0.95).passes


def test_noise_around_the_allowance_does_not_fail() -> None:
    noisy = [0.9, 0.95, 1.0, 1.12, 1.2, 1.3, 1.4]
    judged = judge(noisy, 0.10, 0.95)
    assert judged.ratio == 1.12 and judged.low < 1.10 < judged.high and judged.passes


def test_being_faster_passes() -> None:
    assert judge([0.5] * 7, 0.0, 0.95).passes


def test_no_ratios_are_no_judgement() -> None:
    with pytest.raises(ValueError, match="no ratios"):
        judge([], 0.1, 0.95)


def test_the_interval_is_reproducible_and_holds_the_median() -> None:
    values = [random.Random(7).gauss(1.0, 0.05) for _ in range(15)]
    low, high = gate.interval(values, 0.95)
    assert (low, high) == gate.interval(values, 0.95)
    assert min(values) <= low <= sorted(values)[7] <= high <= max(values)


def test_more_confidence_is_a_wider_interval() -> None:
    chance = random.Random(7)
    values = [chance.gauss(1.0, 0.05) for _ in range(15)]
    (low, high), (lower, higher) = gate.interval(values, 0.5), gate.interval(values, 0.99)
    assert lower < low < high < higher


def test_the_same_code_rarely_fails_and_a_slower_one_mostly_does() -> None:
    """Pairs of processes that differ by some percent, as they do: one in forty may fail by chance."""
    chance = random.Random(7)

    def failures(ratio: float) -> int:
        made = ([chance.gauss(ratio, 0.04) for _ in range(7)] for _ in range(40))
        return sum(not judge(ratios, 0.07, 0.95).passes for ratios in made)

    assert failures(1.0) == 0
    assert failures(1.2) >= 38


def test_a_turn_is_as_long_as_it_should_be() -> None:
    assert gate.turn_count(1_000_000, 100) == 6_000
    assert gate.turn_count(10**12, 1) == 1
    assert gate.turn_count(0, 1) > 0


# --- gates.toml -----------------------------------------------------------------------------------------------------


def test_a_good_file_is_read(tmp_path: Path) -> None:
    read = gate.read(written(tmp_path, GOOD))
    assert (read.launches, read.rounds, read.confidence) == (7, 5, 0.95)
    assert read.allowances == {"find": 0.1}
    assert read.budgets == [gate.Budget("bytes_per_key", "bytes", 23.0, "")]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[compare]", "[compare", "gates.toml: Expected"),
        ("[compare]", "[compared]", "gates.toml: unknown table [compared]"),
        ("[allowances]\nfind = 0.1", "", "gates.toml: the table [allowances] is missing"),
        ("rounds = 5", "", "gates.toml: compare.rounds must be a number"),
        ("rounds = 5", "rounds = 2", "gates.toml: compare.rounds must be from 3 to 1000"),
        ("rounds = 5", "rounds = true", "gates.toml: compare.rounds must be a number"),
        ("rounds = 5", "rounds = 5\nturns = 3", "gates.toml: unknown member compare.turns"),
        ("find = 0.1", "find = -0.1", "gates.toml: allowances.find must be from 0 to 1"),
        ("find = 0.1", 'find = "10 %"', "gates.toml: allowances.find must be a number"),
        ('"bytes"', '"byte"', "gates.toml: budgets.bytes_per_key.measure must be one of: bytes, instructions"),
        (", at_most = 23", "", "gates.toml: budgets.bytes_per_key.at_most must be a number"),
        ("at_most = 23", "at_least = 23", "gates.toml: unknown member budgets.bytes_per_key.at_least"),
        ('{ measure = "bytes", at_most = 23 }', "23", "gates.toml: budgets.bytes_per_key must be a table"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(GateError) as raised:
        gate.read(written(tmp_path, GOOD.replace(old, new)))
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="gates.toml: there is no such file"):
        gate.read(tmp_path / "gates.toml")


def test_our_file_names_what_can_be_measured() -> None:
    gates = gate.read()
    assert set(gates.allowances) == set(probes.OPERATIONS)
    for budget in gates.budgets:
        operation = budget.name.removeprefix(f"{budget.measure}_")
        if budget.measure in ("instructions", "allocations"):
            assert operation in probes.OPERATIONS
        elif budget.measure == "calls":
            assert budget.name in budgets.CONNECTIONS
    assert {budget.measure for budget in gates.budgets} == set(gate.MEASURES)


def test_an_unknown_revision_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main(["compare", "no-such-revision"]) == 2
    assert capsys.readouterr().err == "gate: no-such-revision is no revision of this repository\n"


def test_a_revision_is_unpacked(tmp_path: Path) -> None:
    """Python 3.11.2, which Debian 12 has, does not know the filters of tarfile: the gate ended with a traceback."""
    gate.unpack("HEAD", tmp_path / "tree")
    assert (tmp_path / "tree" / "ext" / "probe.pyx").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_an_unknown_budget_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main(["budgets", "seconds"]) == 2
    assert capsys.readouterr().err.startswith("gate: seconds is no budget; known: ")


# --- what tools say -------------------------------------------------------------------------------------------------


def test_callgrinds_count_is_read() -> None:
    assert budgets.collected("==7== Events    : Ir\n==7== Collected : 404385975\n==7== \n") == 404_385_975


def test_memchecks_count_is_read() -> None:
    said = "==7==   total heap usage: 1,234,567 allocs, 1,234,000 frees, 99,999 bytes allocated\n"
    assert budgets.allocated(said) == 1_234_567


@pytest.mark.parametrize("said", ["", "valgrind: failed to start tool\n"])
def test_a_tool_that_counts_nothing_is_an_error(said: str) -> None:
    for read in (budgets.collected, budgets.allocated, budgets.total_calls):
        with pytest.raises(GateError, match="counted nothing"):
            read(said)


@pytest.mark.parametrize("errors", ["        1", "         "])
def test_straces_total_is_read(errors: str) -> None:
    line = "------ ----------- ----------- --------- --------- ----------------\n"
    assert budgets.total_calls(f"{line}100.00    0.003078         106      3029 {errors} total\n") == 3029


# --- what is measured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", probes.OPERATIONS)
def test_an_operation_answers_rightly(name: str) -> None:
    command = [sys.executable, "-P", str(gate.PROBES), name, "run", "300"]
    done = subprocess.run(command, cwd=gate.ROOT, env=gate.environment(gate.ROOT), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()


def test_a_tree_without_the_operation_says_so(tmp_path: Path) -> None:
    """The base may be older than what is measured."""
    with gate.Probe(tmp_path, "no_such_operation") as probe:
        assert not probe.ready
        assert "no_such_operation" in probe.why_not()
    (tmp_path / "ext").mkdir()
    (tmp_path / "ext" / "__init__.py").touch()
    command = [sys.executable, "-P", str(gate.PROBES), "keyhash", "run", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=gate.environment(tmp_path), capture_output=True, timeout=60)
    assert done.returncode == probes.LACKING, done.stderr.decode()


def test_a_probe_leaves_no_table_behind() -> None:
    def tables() -> set[Path]:
        return set(Path("/dev/shm").glob("shikaku-bench-*"))

    before = tables()
    with gate.Probe(gate.ROOT, "find") as probe:
        assert probe.ready and tables() - before
    assert tables() <= before


def test_a_probe_counts_cpu_time() -> None:
    with gate.Probe(gate.ROOT, "keyhash") as probe:
        assert probe.ready
        assert 0 < probe.turn(1_000) < probe.turn(200_000)
