"""Owns the appending of one audit log: entries of facts, written and synced by a thread, many at a time.

An answer may leave when what is recorded of it is on the disk. Entries collect in memory; when they are asked for with
`flush`, a thread without the GIL writes and syncs all that have collected, wakes the loop through an eventfd, and
adds them to the Merkle tree while the next ones collect. Layouts are in docs/AUDIT.md.

    index = ledger.append(...)      # as often as there are answers
    ledger.flush()
    ...                             # ledger.fileno becomes readable
    durable, failure = ledger.settle()
"""

from typing import Final, final

from ext.quick import Quick

HEADER_BYTES: Final = 4096
"""Where the frames of a segment begin."""
LEVELS_COUNT: Final = 8
ENTRY_BYTES_MAX: Final = 204
PRIVATE_BYTES_MAX: Final = 32

def scan(data: bytes, start: int) -> tuple[list[int], int]:
    """Where whole frames begin from `start` on, up to the first that is not whole or whose checksum does not fit.

    Returns: their offsets, and where the last of them ends. Raises: TypeError, ValueError.
    """

@final
class Ledger:
    """The log of one process; called by one thread.

    Args:
        slot: the log's number.
        log_id: 16 bytes that stand in the header of every segment.
        folder_fd: the log's folder, where a segment that lies ready is called `segment-next`.
        level_fds: LEVELS_COUNT files for the hashes of complete subtrees.
        segment_fd: the segment to go on with, which is the ledger's from now on.
        offset: where in it.
        filled: how far it holds zeros from there.
        entries: how many there are.
        nodes: roots of the complete subtrees that these form, the largest first.
        segment_bytes: beyond it, a segment that lies ready is begun.
        inquiry_key, code_key, person_key: of the keyed hashes, 16 bytes each.
        fixed_ms: the time of every entry, if the clock stands still.

    Raises: TypeError, ValueError for arguments that cannot be; OSError if the thread cannot start.
    """

    def __init__(
        self,
        *,
        slot: int,
        log_id: bytes,
        folder_fd: int,
        level_fds: list[int],
        segment_fd: int,
        offset: int,
        filled: int,
        entries: int,
        nodes: list[bytes],
        segment_bytes: int,
        inquiry_key: bytes,
        code_key: bytes,
        person_key: bytes,
        fixed_ms: int | None = None,
    ) -> None: ...
    @property
    def slot(self) -> int: ...
    @property
    def fileno(self) -> int:
        """Readable when something was written, or has failed."""

    @property
    def entries(self) -> int:
        """How many there are, with those that wait."""

    @property
    def flushes(self) -> tuple[int, int]:
        """How many there were, and the nanoseconds that they took together."""

    @property
    def wants_segment(self) -> bool:
        """Whether this segment is half full, and none lies ready."""

    def append(
        self,
        *,
        kind: int,
        purpose: int,
        verdict: int,
        flags: int,
        as_of: int | None,
        version: int,
        caller: bytes,
        inquiry: bytes,
        person: int | None,
        body: bytes,
        mark: bytes = b"",
    ) -> int:
        """Record an answer: the index of its entry.

        Args:
            as_of: a day number.
            inquiry: the index's keyed hash of what was asked for, which is hashed once more.
            person: the number of whom it is about, if it is one person; sealed beside the entry.
            body: the answer, whose digest is recorded.
            mark: the request's id.

        Raises: OSError if the log has failed, or too much waits for the disk; TypeError, ValueError.
        """

    def append_answer(self, quick: Quick, body: bytes, mark: bytes = b"", batch: bool = False) -> int:
        """The same for the answer that `quick` gave last. Raises as `append`."""

    def name(self, index: int) -> bytes:
        """What an entry's receipt is called."""

    def flush(self) -> None:
        """Have everything written that was appended."""

    def settle(self) -> tuple[int, int]:
        """How many entries are on the disk, and the number of the error by which the log has failed, or 0."""

    def head(self) -> tuple[int, bytes]:
        """Size and root of the tree, after the last entries that were hashed; they are on the disk."""

    def provide(self, segment_fd: int) -> None:
        """Have a segment lie ready, which is the ledger's from now on. Raises ValueError if one does."""

    def cut(self) -> None:
        """After `close`: remove what is in the segment beyond what was written whole. Raises OSError."""

    def resume(
        self,
        *,
        folder_fd: int,
        level_fds: list[int],
        segment_fd: int,
        offset: int,
        filled: int,
        entries: int,
        nodes: list[bytes],
    ) -> None:
        """Go on after `close`, as after an error: what was not written is forgotten. Arguments as above.

        Raises: ValueError if it is open; OSError if the thread cannot start.
        """

    def close(self) -> None:
        """Write what is left, and end the thread."""
