"""Owns the open-addressing table in the caller's buffer: lock-free finds beside one writer, one key and many.

Layout in docs/FORMATS.md, reasons in docs/design/0001. Digests are 16 bytes, hashes are the same as uint64 (n, 2)
[lo, hi]. `aux` has its two low bits zero: they belong to the table. A match is (person, gained, lost, aux).
Any number of threads and processes may find; one thread of one process may write.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FORM_ATOMIC16: Final[int]
"""Slots are read and written by aligned 16-byte loads and stores."""
FORM_VERSIONED: Final[int]
"""Slots are read and written by 8-byte atomics under 1,024 striped version words."""
HEADER_BYTES: Final[int]
LINE_BYTES: Final[int]
SLOTS_PER_LINE: Final[int]
ENTRY_BYTES: Final[int]
MATCHES_MAX: Final[int]
"""How many entries a key may have, and how much room find_many asks for beyond what it has used."""
WALKS: tuple[str, ...]
"""How find_many can go here, the fastest last: `plain`, `avx2`, `avx512`."""
MATCH_DTYPE: np.dtype[np.void]
"""person u4, gained u2, lost u2, aux u2, reserved u2."""

class TableError(ValueError):
    """The buffer does not hold a table that can be used here."""

class TableFullError(RuntimeError):
    """No slot is free; nothing was lost."""

class CrowdedError(RuntimeError):
    """A key would have, or has, more than MATCHES_MAX entries."""

class BusyError(RuntimeError):
    """A line stayed locked: a writer of form VERSIONED was killed in the middle of a change (see `repair`)."""

def atomic16_supported() -> bool:
    """Whether this processor guarantees that aligned 16-byte loads and stores are atomic (asked at run time)."""

def segment_bytes(lines: int) -> int:
    """How large a buffer for this many lines (of four slots) must be."""

def format(
    buffer: Any, *, form: int, lines: int, generation: int = 0, store_id: bytes = ..., key_id: bytes = ...
) -> None:
    """Write the header of an empty table into a buffer of zero bytes, which may be larger than needed.

    Raises: TableError if the buffer is too small; BufferError if it is read-only.
    """

class Table:
    """A view of one table. It holds an export of the buffer, so the memory stays, until `release` or its end."""

    writable: bool

    def __init__(
        self,
        buffer: Any,
        *,
        writable: bool = False,
        provisional: bool = False,
        follow: Callable[[], Table] | None = None,
        walk: str = ...,
    ) -> None:
        """Attach to a formatted buffer, aligned to 64 bytes; sizes are checked here and taken over.

        Args:
            provisional: finds return entries that are provisional too.
            walk: one of WALKS (for tests); form VERSIONED is always walked plainly.
            follow: called when the table is retired; finds and the numbers of the header go on in what it returns.
        Raises: TableError.
        """

    def release(self) -> None:
        """Give the buffer back. Raises BufferError while another thread uses the table."""

    @property
    def form(self) -> int: ...
    @property
    def lines(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def store_id(self) -> bytes: ...
    @property
    def key_id(self) -> bytes: ...
    @property
    def retired(self) -> bool:
        """Whether a newer generation has taken over."""

    @property
    def visible_seq(self) -> int: ...
    @visible_seq.setter
    def visible_seq(self, value: int) -> None: ...
    @property
    def insurers_version(self) -> int: ...
    @insurers_version.setter
    def insurers_version(self, value: int) -> None: ...
    @property
    def settled_seq(self) -> int:
        """The change up to which the table is whole; -1 while a change is under way."""

    def still(self) -> int:
        """The visible sequence number if the table is whole at it; -1 while a change is under way.

        If it is the same before and after some finds, they saw that version and no other.
        """

    @property
    def applied_seq(self) -> int:
        """The change up to which nothing has to be applied again; setting it ends what `unsettle` began."""

    @applied_seq.setter
    def applied_seq(self, value: int) -> None: ...
    def unsettle(self) -> None:
        """Say that a change begins; readers see it no later than the change itself."""

    @property
    def count(self) -> int:
        """Entries, the provisional ones included; after a kill it may be wrong by one until `sweep`."""

    @property
    def provisional_count(self) -> int: ...
    def retire(self) -> None:
        """Tell readers to look for the next generation."""

    def find(self, digest: bytes) -> tuple[tuple[int, int, int, int], ...]:
        """All entries of one key. Raises BusyError, CrowdedError (the segment is corrupt)."""

    def find_message(self, key: bytes, message: bytes) -> tuple[tuple[int, int, int, int], ...]:
        """`find` of the message's siphash128, in one call."""

    def find_card(
        self, key: bytes, insurer_number: str, birth_date: int, symbol_key: str, number_key: str
    ) -> tuple[tuple[int, int, int, int], ...]:
        """`find_message` of canon's card_message, in one call. Raises what both raise."""

    def find_many(
        self, hashes: NDArray[np.uint64], counts: NDArray[np.uint8], matches: NDArray[np.void]
    ) -> tuple[int, int]:
        """Look up many keys with prefetch and without the GIL.

        Args:
            hashes: uint64, shape (n, 2).
            counts: uint8, shape (n,); receives the number of entries of each key.
            matches: MATCH_DTYPE; receives all entries, key after key: those of key i begin at counts[:i].sum(). Rows
                behind the last one hold nothing that means anything.
        Returns: (keys done, matches used). Fewer than n keys are done when fewer than MATCHES_MAX rows of
            `matches` are left; go on with hashes[done:] and new room. Does not look at `retired`.
        """

    def find_many_rows(
        self,
        key: bytes,
        rows: NDArray[np.uint8],
        lengths: NDArray[np.uint16],
        counts: NDArray[np.uint8],
        matches: NDArray[np.void],
    ) -> tuple[int, int]:
        """`find_many` from messages: row i's first lengths[i] bytes are hashed, eight rows at a time."""

    def gather(self, hashes: NDArray[np.uint64], distance: int = 16) -> int:
        """Sum one word of each key's home line, with prefetch so far ahead: the limit that memory sets (benchmarks)."""

    def insert(self, digest: bytes, person: int, gained: int, lost: int, aux: int, provisional: bool = False) -> bool:
        """Add one entry. An identical one is not added again, but a provisional one becomes plain.

        Returns: whether an entry was added. Raises: TableFullError, CrowdedError.
        """

    def remove(self, digest: bytes, person: int, gained: int, lost: int, aux: int) -> bool:
        """Take one entry out. Returns: whether it was there."""

    def replace(
        self, digest: bytes, person: int, gained: int, lost: int, aux: int, new_gained: int, new_lost: int, new_aux: int
    ) -> bool:
        """Change days and aux of one entry in place; readers see the old or the new one.

        Returns: whether it was there. If the new one is there already, the old one is removed.
        """

    def insert_many(self, persons: NDArray[np.uint32], entries: Any, provisional: bool = False) -> int:
        """Insert entries (ENTRY_BYTES each, as engine/entries packs them), one person number for each.

        Returns: how many were added. Raises as `insert` does; entries before the failing one are in then.
        """

    def remove_many(self, persons: NDArray[np.uint32], entries: Any) -> int:
        """Remove entries. Returns: how many were there."""

    def contains_many(self, persons: NDArray[np.uint32], entries: Any, missing: NDArray[np.uint8] | None = None) -> int:
        """Count the entries that a find reaches; `missing` receives 1 for each that it does not."""

    def sweep(self) -> int:
        """Remove all provisional entries and count the rest anew. Returns: how many were removed."""

    def repair(self) -> int:
        """Finish what a killed writer left half written (VERSIONED). Returns: how many stripes were unlocked."""

    def scan(self) -> dict[str, int]:
        """Walk all slots: entries, provisional, overflowing_lines, torn_stripes."""
