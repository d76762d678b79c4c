"""Owns how benchmarks are found and sized: `pytest benchmarks --size smoke|standard|large`.

Files are `bench_<module>.py`, functions `bench_<operation>_<case>`. A group of pytest-benchmark holds an operation and
its references, so that the table shows ratios of one run. Each benchmark keeps a checksum of its answers in
`extra_info["checksum"]` and asserts it where a reference gives the same answers.
"""

from __future__ import annotations

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
