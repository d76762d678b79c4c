"""Owns how benchmarks are found and sized: `pytest benchmarks --size smoke|standard|large`.

Files are `bench_<module>.py`, functions `bench_<operation>_<case>`. A group of pytest-benchmark holds an operation and
its references, so that the table shows ratios of one run. Each benchmark keeps a checksum of its answers in
`extra_info["checksum"]` and asserts it where a reference gives the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

SIZES = ("smoke", "standard", "large")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--size",
        choices=SIZES,
        default="smoke",
        help="how much data to work on: smoke (tiny, seconds), standard (minutes), large (the documented figures)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> str:
    """The chosen size: one of SIZES."""
    chosen: str = request.config.getoption("--size")
    return chosen


@pytest.fixture(autouse=True)
def answers_were_checked(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[None]:
    """A benchmark that reports no checksum of its answers fails: a fast wrong answer is worth nothing."""
    yield
    call = request.node.stash.get(_outcome, None)
    if call is not None and call.passed:
        assert "checksum" in benchmark.extra_info, "no checksum of the answers"


_outcome = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_outcome] = report
    return report


Figure = tuple[str, float, str, float, str]
_figures = pytest.StashKey[list[Figure]]()
Recorder = Callable[..., None]


@pytest.fixture(scope="session")
def figure(request: pytest.FixtureRequest) -> Recorder:
    """Record a figure that has a bound: `figure("find / dict", 3.4, at_least=3)`; printed together at the end.

    A missed bound is shown and fails nothing: a busy machine must not fail a build. Answers do that.
    """
    found = request.config.stash.setdefault(_figures, [])

    def record(name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        bound = at_least if at_most is None else at_most
        assert bound is not None
        met = value >= bound if at_most is None else value <= bound
        found.append((name, value, ">=" if at_most is None else "<=", bound, "met" if met else "MISSED"))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_figures, [])
    if not found:
        return
    terminalreporter.section(f"figures, size {config.getoption('--size')}")
    width = max(len(row[0]) for row in found)
    for name, value, relation, bound, met in found:
        terminalreporter.write_line(f"{name:{width}}  {value:>14,.2f}  {relation} {bound:>12,.2f}  {met}")
