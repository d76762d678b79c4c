"""Owns the synthetic population: people of Japan from a seed, their registration files, and the verdicts they deserve.

It imports nothing of the engine (not even its check digits), so that it can be an oracle for it.
"""

from loadtest.population.feed import COLUMNS, Generated, generate, write_insurers, write_rows
from loadtest.population.inquiries import INSTITUTION, Asked, Population
from loadtest.population.personas import personas, write_personas
from loadtest.population.truth import expected

__all__ = [
    "COLUMNS",
    "INSTITUTION",
    "Asked",
    "Generated",
    "Population",
    "expected",
    "generate",
    "personas",
    "write_insurers",
    "write_personas",
    "write_rows",
]
