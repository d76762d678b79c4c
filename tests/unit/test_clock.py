"""Asks whether clock.py tells Japan's day and instants, frozen or running."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine import days
from engine.clock import Clock, format_instant, monotonic_ns


def at(text: str) -> int:
    """Milliseconds of an instant in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("instant", "today"),
    [
        ("2026-11-22T14:59:59.999", "2026-11-22"),
        ("2026-11-22T15:00:00", "2026-11-23"),
        ("2026-11-23T14:59:59", "2026-11-23"),
        ("1970-01-01T00:00:00", "1970-01-01"),
        ("2024-02-28T15:00:00", "2024-02-29"),
    ],
)
def test_the_day_turns_at_midnight_in_japan(instant: str, today: str) -> None:
    assert days.format_iso(Clock(at(instant)).today()) == today


def test_a_frozen_clock_stands_still() -> None:
    clock = Clock(1_234_567)
    assert clock.now_ms() == clock.now_ms() == 1_234_567


def test_a_running_clock_agrees_with_the_system() -> None:
    before = datetime.now(UTC).timestamp() * 1000
    now = Clock().now_ms()
    assert before - 1 <= now <= datetime.now(UTC).timestamp() * 1000 + 1
    assert abs(Clock().today() - Clock(now).today()) <= 1


def test_monotonic_never_goes_back() -> None:
    readings = [monotonic_ns() for _ in range(1000)]
    assert readings == sorted(readings)
    assert readings[-1] > readings[0]


def test_instants_are_written_in_japans_zone() -> None:
    assert format_instant(at("2026-11-22T23:00:00")) == "2026-11-23T08:00:00+09:00"
    assert format_instant(at("2026-11-22T23:00:00") + 999) == "2026-11-23T08:00:00+09:00"
