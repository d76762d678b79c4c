"""Owns what is known of this machine's memory: how much of it a process may fill, its cgroup included."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_UNKNOWN: Final = 1 << 62


def total_bytes() -> int:
    """Memory of the machine, or of the container if that is less; very much if nobody says."""
    return min(_machine_bytes(), *(_limit_bytes(file) for file in _LIMITS))


def _machine_bytes() -> int:
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(fields["MemTotal"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _UNKNOWN


def _limit_bytes(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # No such file, or "max".
        return _UNKNOWN
