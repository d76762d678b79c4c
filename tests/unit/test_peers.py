"""Asks whether the tables of the comparisons say what was measured, and what was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import profile
from benchmarks.http_load.driver import Turn
from benchmarks.peers import report, services
from benchmarks.peers.report import Bound, Group, Row
from benchmarks.peers.services import Missing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def group() -> Group:
    rows = [
        Row("dear", "a dear one", costs=[20.0, 22.0, 60.0], more=["3"]),
        Row("ours", "ours", ours=True, costs=[10.0, 11.0, 12.0], more=["1"]),
        Row("gone", "one that is not there", missing="not installed"),
    ]
    bounds = [
        Bound("ours / dear", "ours", "dear", at_most=0.5),
        Bound("dear / ours", "dear", "ours", at_least=2.5),
        Bound("gone / ours", "gone", "ours", at_most=1),
    ]
    return Group("toy", "A toy", "us", "ours", ["more"], rows, bounds, ["It is a toy."], "here")


def test_ratios_are_medians_over_rounds(group: Group) -> None:
    assert group.ratio("dear", "ours") == 2.0
    assert group.ratio("gone", "ours") is None


def test_rows_go_from_cheap_to_dear_and_say_what_is_missing(group: Group) -> None:
    assert report.cells(group) == [
        ["contender", "us", "beside ours", "more"],
        ["ours", "11", "1.00", "1"],
        ["a dear one", "22", "2.00", "3"],
        ["one that is not there", "not measured: not installed", "", ""],
    ]


def test_bounds_are_judged_on_both_sides(group: Group) -> None:
    assert [line[-1] for line in report.bound_cells(group)[1:]] == ["met", "missed", ""]
    assert report.bound_cells(group)[3][1] == "not measured"


def test_nobody_measured_is_still_a_table(group: Group) -> None:
    for row in group.rows:
        row.costs = []
    assert len(report.cells(group)) == 4 and report.plain(report.cells(group))


def test_a_part_of_a_page_is_replaced_and_nothing_else(group: Group, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers toy -->\nold\n<!-- end of peers toy -->\nafter\n")
    for _ in range(2):
        report.place(page, group)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("| **ours** | 11 | 1.00 | 1 |") == 1 and text.count("not measured: not installed") == 1


def test_a_page_without_marks_is_an_error(group: Group, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- peers toy -->\n")
    with pytest.raises(ValueError, match="no marks"):
        report.place(page, group)
    assert page.read_text() == "<!-- peers toy -->\n"


def test_our_page_has_all_marks() -> None:
    text = (ROOT / "docs" / "PERFORMANCE.md").read_text("utf-8")
    for name in ("http", "lookup", "lookup-many"):
        assert text.count(f"<!-- peers {name} -->\n") == text.count(f"<!-- end of peers {name} -->\n") == 1
    assert all(text.count(mark) == 1 for mark in profile.MARKS)


def test_a_program_that_is_not_there_is_missing() -> None:
    with pytest.raises(Missing, match="no-such-program is not installed"):
        services.program("no-such-program", "no-such-package")


# --- the profile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("[kernel.kallsyms]", "kernel: sockets, epoll, scheduling"),
        ("loop.cpython-311-x86_64-linux-gnu.so", "uvloop"),
        ("cpython.cpython-311-x86_64-linux-gnu.so", "LMDB"),
        ("ordinary.cpython-311-x86_64-linux-gnu.so", "ours, compiled"),
        ("python3.11", "Python interpreter and its objects"),
        ("_msgspec.cpython-311-x86_64-linux-gnu.so", "aiohttp, msgspec, numpy"),
        ("libc.so.6", "C library"),
        ("[vdso]", "C library"),
        ("ld-linux-x86-64.so.2", "C library"),
        ("something.so", profile.OTHERS),
    ],
)
def test_machine_code_belongs_to_a_part(name: str, part: str) -> None:
    assert profile.part_of(name) == part


def test_every_module_of_ext_is_ours() -> None:
    for source in (ROOT / "ext").glob("*.pyx"):
        assert profile.part_of(f"{source.stem}.cpython-311-x86_64-linux-gnu.so") == "ours, compiled"


def test_shares_are_of_everything_that_was_seen() -> None:
    files = {"python3.11": 30, "libpython3.11.so.1.0": 10, "[kernel.kallsyms]": 40}
    lines = ["# Overhead  Shared Object", "", *(f"    {share}.00%  {name}" for name, share in files.items())]
    found = profile.shares(lines)
    assert found == {"Python interpreter and its objects": 0.5, "kernel: sockets, epoll, scheduling": 0.5}
    assert profile.rows(found, Turn(1, 1.0, 30.0))[1:] == [
        ["Python interpreter and its objects", "50%", "15.0"],
        ["kernel: sockets, epoll, scheduling", "50%", "15.0"],
        ["all", "100%", "30.0"],
    ]


def test_nothing_seen_is_an_error() -> None:
    with pytest.raises(ValueError, match="saw nothing"):
        profile.shares(["# nothing"])


def test_what_only_the_oldest_python_needs_is_pinned() -> None:
    """redis asks for one package more before Python 3.11.3: there, `make peers` could not set up its environment."""
    folder = Path(__file__).parents[2] / "requirements"
    condition = '; python_full_version < "3.11.3"'
    for file in ("peers.in", "peers.txt"):
        lines = [line for line in (folder / file).read_text().splitlines() if line.startswith("async-timeout")]
        assert len(lines) == 1 and condition in lines[0]
