"""Owns the oracle of the index table: a dictionary of digests, each with its set of entries. No lines, no tags."""

from __future__ import annotations

Row = tuple[int, int, int, int]
"""Person number, gained, lost, aux."""


class TableModel:
    """What a table holds: for each digest its rows, and whether each is provisional."""

    def __init__(self) -> None:
        self.rows: dict[bytes, dict[Row, bool]] = {}

    def insert(self, digest: bytes, row: Row, provisional: bool = False) -> bool:
        """Whether it was added; an existing provisional row becomes plain if this one is."""
        known = self.rows.setdefault(digest, {})
        added = row not in known
        known[row] = provisional if added else known[row] and provisional
        return added

    def remove(self, digest: bytes, row: Row) -> bool:
        return self.rows.get(digest, {}).pop(row, None) is not None

    def replace(self, digest: bytes, old: Row, new: Row) -> bool:
        known = self.rows.get(digest, {})
        if old not in known:
            return False
        provisional = known.pop(old)
        known.setdefault(new, provisional)
        return True

    def find(self, digest: bytes, provisional: bool = True) -> list[Row]:
        """In order, because a table promises none."""
        return sorted(row for row, hidden in self.rows.get(digest, {}).items() if provisional or not hidden)

    def sweep(self) -> int:
        swept = 0
        for known in self.rows.values():
            hidden = [row for row, provisional in known.items() if provisional]
            swept += len(hidden)
            for row in hidden:
                del known[row]
        return swept

    @property
    def count(self) -> int:
        return sum(map(len, self.rows.values()))

    @property
    def provisional_count(self) -> int:
        return sum(sum(known.values()) for known in self.rows.values())
