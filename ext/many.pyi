"""Owns many checks at once: blocks of them taken through the steps of the quick way side by side.

What a check waits for is memory: a line of the table, the pages of a record, the record. Here each step is taken for a
whole block before the next one, and asks ahead for what the next will need. All answers of a block are of one data
version. What is not ordinary is asked the careful way, in its place.

    many = Many(quick)
    while True:
        answers, offset, count = many.answer_lines(data, offset, careful)
        if count == 0:
            ...  # no whole line is left, or the next one is blank or too long
"""

from collections.abc import Callable, Sequence
from typing import Final, final

from ext.ledger import Ledger
from ext.quick import Quick

ITEMS_MAX: Final = 64
"""How many are answered in one call: a fraction of a millisecond."""
CAREFUL_MAX: Final = 32
"""How many of them the careful way; they take twenty times as long."""
LINE_BYTES_MAX: Final = 16384
"""Longer lines are not taken."""
BLOCK_BYTES_MAX: Final = 32768
"""Behind so many bytes, no further item is taken."""

_Careful = Callable[[bytes], bytes | None]
"""The answer to what is not ordinary; None ends the call before it: there was no more time."""

@final
class Many:
    """Answers many checks; one for each thread.

    Args: ledger: where every answer is recorded; each then names its receipt, as its last member. What `careful`
        answers it records itself.
        verdicts: for each thing that can be said, in the order of Quick's words: what `verdict_lines` says.
    """

    def __init__(self, quick: Quick, ledger: Ledger | None = None, verdicts: Sequence[bytes] = ()) -> None: ...
    def answer_lines(
        self, data: bytes, start: int, careful: _Careful, mark: bytes = b"", caller: bytes = b""
    ) -> tuple[bytes, int, int]:
        """Answer whole lines of NDJSON, each an inquiry as of a single check, up to the first blank or too long one.

        Args: mark: the request's, for the record; caller: whose inquiries alone are answered here, if it is given.
        Returns: the answers, a line each; where to go on; how many lines were answered.
        Raises: TypeError, ValueError for arguments that cannot be; what `careful` and Quick's callables raise.
        """

    def verdict_lines(
        self, data: bytes, start: int, careful: _Careful, mark: bytes = b"", caller: bytes = b""
    ) -> tuple[bytes, int, int]:
        """As answer_lines, in short: of each inquiry only what can be said, from memory, and the name of its receipt.

        Raises: ValueError without `verdicts`; as answer_lines.
        """

    def cold_lines(self, data: bytes, start: int) -> list[bytes]:
        """Keys of the records that answering these lines would wait for, because they are not in memory."""

    def answer_items(
        self,
        data: bytes | bytearray,
        spans: Sequence[tuple[int, int]],
        first: int,
        as_of: int,
        careful: _Careful,
        mark: bytes = b"",
        caller: bytes = b"",
        purpose: int = 0,
    ) -> tuple[bytes, int]:
        """Answer items of a batch, which are in `data` at `spans`, from number `first` on, for one day.

        Args: mark, caller, purpose: the batch's, for the record.
        Returns: the answers, each followed by a comma, and the number of the item to go on with.
        Raises: as answer_lines.
        """

    def cold_items(
        self, data: bytes | bytearray, spans: Sequence[tuple[int, int]], first: int, as_of: int
    ) -> list[bytes]:
        """The same for items."""
