"""Owns the population's own check digit arithmetic, so that it can doubt the engine's."""

from __future__ import annotations


def check_digit(base: str) -> str:
    """The check digit of insurer, institution and elderly insured numbers: weights 2, 1, 2, 1 from the right."""
    total = 0
    for position, digit in enumerate(reversed(base)):
        product = int(digit) * (2 if position % 2 == 0 else 1)
        total += product // 10 + product % 10
    return str(-total % 10)


def with_check_digit(base: str) -> str:
    """`base` followed by its check digit."""
    return base + check_digit(base)


def my_number(base: str) -> str:
    """A twelve-digit My Number over eleven base digits: only for showing that it is refused."""
    total = 0
    for position, digit in enumerate(reversed(base), start=1):
        total += int(digit) * (position + 1 if position <= 6 else position - 5)
    rest = total % 11
    return base + ("0" if rest <= 1 else str(11 - rest))
