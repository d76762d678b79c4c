"""Owns the ordinary check: an inquiry in plain JSON, and the answer if one confirmed qualification covers it.

Nine checks in ten are like this, and take a hundredth of the time here. Whatever is not (other letters than ASCII, a
wrong check digit, a lost qualification, anything that needs a note or a refusal) is told by None: the careful way,
api/wire and engine/verification, then decides, and here nothing is ever answered that it would not answer in the
same bytes. Both follow the same rules; tests hold them against each other.

    ask = read(body, 0, len(body), today)
    if ask is not None:
        matches = table.find_message(key, ask.message)
        ... # one match: the record of that person
        answer = ask.answer(record, start, stop, data_version, name_json, fresh_json, advice_json)
"""

from typing import Final, final

ANSWER_BYTES_MAX: Final = 8192
"""Longer answers go the careful way."""
PURPOSES: Final[tuple[str, ...]]
AS_OF_MIN: Final = 1
AS_OF_MAX: Final = 65533
BIRTH_DATE_MIN: Final = -25566
PERSON_MEMBERS: Final = 11
QUALIFICATION_MEMBERS: Final = 21

@final
class Ask:
    """What an ordinary inquiry asks; made by `read` only."""

    @property
    def message(self) -> bytes:
        """What is hashed of card or certificate, as engine.keys makes it."""

    @property
    def as_of(self) -> int:
        """Day number."""

    @property
    def institution(self) -> str:
        """Ten digits whose check digit fits; empty for an item of a batch."""

    @property
    def by_certificate(self) -> bool:
        """Whether a certificate is asked about, not a card."""

    @property
    def insurer_number(self) -> str | None:
        """The card's: eight digits whose check digit fits."""

    @property
    def verdict_only(self) -> bool:
        """Whether it asks for no data."""

    @property
    def branch(self) -> int | None:
        """The branch asked for, if any."""

    def answer(
        self,
        record: bytes | memoryview,
        start: int,
        stop: int,
        data_version: int,
        insurer_name: bytes,
        fresh_at: bytes,
        advice: bytes,
    ) -> bytes | None:
        """The answer, if this person's one qualification is the card's, confirmed, and in force: VALID without notes.

        Args:
            record: holds the Person in MessagePack from `start` to `stop`. Its checksum has been compared.
            insurer_name, fresh_at, advice: as JSON, `null` where there is none.
        Raises: TypeError, ValueError for arguments that cannot be; never for what a record holds.
        """

    def insurer_of(self, record: bytes | memoryview, start: int, stop: int) -> str | None:
        """The insurer of the record's one qualification (eight characters of ASCII), if `answer` would take it for the
        card's or the certificate's, and in force. Raises as `answer`."""

    def bare(self, head: bytes, data_version: int, fresh_at: bytes, advice: bytes) -> bytes | None:
        """The answer without data that `head` begins, up to the date. Raises as `answer`."""

def read(data: bytes, start: int, stop: int, today: int, *, item: bool = False) -> Ask | None:
    """The inquiry in `data[start:stop]`, for `today` if it names no date; None if it is not an ordinary one.

    Args: item: whether it is an item of a batch, which has no institution, date and purpose of its own.
    Raises: TypeError, ValueError for arguments that cannot be; never for what the body holds.
    """
