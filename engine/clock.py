"""Owns the reading of time: the only file that asks the system what time it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

JST = timezone(timedelta(hours=9), "JST")
"""Japan has no daylight saving time; the as-of date defaults to today's date in this zone."""

_DAY_OFFSET = 9 * 3600
_UNIX_EPOCH_DAY = 18263
"""The day number (engine/days) of 1970-01-01."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Tells the time; `fixed_ms` freezes it for tests and for replaying a day.

    Args: fixed_ms: milliseconds since 1970-01-01T00:00Z, or None for the system's clock.
    """

    fixed_ms: int | None = None

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00Z."""
        return time.time_ns() // 1_000_000 if self.fixed_ms is None else self.fixed_ms

    def today(self) -> int:
        """Today's day number (engine/days) in Japan."""
        seconds = time.time() if self.fixed_ms is None else self.fixed_ms / 1000
        return int((seconds + _DAY_OFFSET) // 86400) + _UNIX_EPOCH_DAY


def monotonic_ns() -> int:
    """Nanoseconds of a clock that never goes back; for durations only."""
    return time.perf_counter_ns()


def format_instant(at_ms: int) -> str:
    """RFC 3339 instant in Japan's zone, seconds resolution: `2026-11-23T08:00:00+09:00`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(JST).isoformat(timespec="seconds")
