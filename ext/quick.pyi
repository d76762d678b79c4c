"""Owns the quick way of a check, from its body to its answer: ext/ordinary with the table and the pages it needs.

One call takes an ordinary inquiry to its answer: it is read, its card's key is looked up, the one person whom the
table names is read from the pages of the store, compared with the inquiry, and written. Where no data are asked for,
or nobody is there to have any, the table alone is asked. Whatever is not as usual is
told by None, and then the careful way (api/wire, engine/verification) decides; it would give the same bytes.

    quick = Quick(index.live, store.pages, key, today, insurer_pieces, words)
    answer = quick.answer(body, 0, len(body))
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, final

from ext.pages import Pages

RECORD_BYTES_MAX: Final = 8192
"""Longer records go the careful way."""
SAYINGS_COUNT: Final = 13
"""What can be said: VALID, unknown card, branch mismatch, not yet gained, lost for each of eight reasons, unknown
certificate."""

@final
class Quick:
    """Answers ordinary checks; one for each thread.

    Args:
        table: the table (ext/probe) of the generation in force; asked again when that one is retired.
        pages: the database of records.
        key: of the hash, 16 bytes.
        today: today's day number; asked only by inquiries that name no date.
        insurer: name and freshness of an insurer as of a data version, as JSON. Kept until
            the data version or the version of the insurers moves.
        words: for each thing that can be said, in their order: how the answer begins, up to the date; its advice, as
            JSON; its verdict as a number, for the audit log.
        looks_first: whether records may be where reading them waits for a disk; then others ask for `cold_key` before
            an answer, or look by themselves.
        notes: whether what there is to record of an answer is noted (ext/ledger).
    """

    def __init__(
        self,
        table: Callable[[], Any],
        pages: Pages,
        key: bytes,
        today: Callable[[], int],
        insurer: Callable[[str, int], tuple[bytes, bytes]],
        words: Sequence[tuple[bytes, bytes, int]],
        *,
        looks_first: bool = False,
        notes: bool = False,
    ) -> None: ...
    @property
    def looks_first(self) -> bool:
        """As given."""

    @property
    def notes(self) -> bool:
        """As given."""

    @property
    def told(self) -> tuple[bytes, int]:
        """Who asked for the answer that was given last, and the number of its verdict; needs `notes`."""

    def answer(self, data: bytes, start: int, stop: int) -> bytes | None:
        """The answer to the check in `data[start:stop]`, if both are ordinary.

        Raises: TypeError, ValueError for arguments that cannot be; what the callables raise.
        """

    def cold_key(self, data: bytes, start: int, stop: int) -> bytes | None:
        """The key of the record that the answer needs, if reading it would wait for a disk. Raises as `answer`."""
