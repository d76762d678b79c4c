"""Owns the quick way from a check's body to its answer: what ext/ordinary takes, with what only this process knows.

It gives the bytes that reading, verification and writing would give, or None; then those are asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from api.advice import advise_json
from engine import clock
from engine.records import Insurer, Verdict
from engine.verification import Verifier
from ext import ordinary

_ADVICE: Final = bytes(advise_json(Verdict.VALID, None, ()))
_encode: Final = msgspec.json.Encoder().encode
_NULL: Final = b"null"


class Quick:
    """Answers ordinary checks; one per thread. `today`: today's day number in Japan."""

    def __init__(self, verifier: Verifier, today: Callable[[], int]) -> None:
        self._verifier = verifier
        self._today = today
        self._pieces: dict[str, tuple[Insurer, bytes, bytes]] = {}

    def answer(self, data: bytes, start: int, stop: int) -> bytes | None:
        """The answer to the check in `data[start:stop]`, if both are ordinary. Raises what reading a record does."""
        ask = ordinary.read(data, start, stop, self._today())
        if ask is None:
            return None

        def use(record: memoryview, first: int, last: int, version: int) -> bytes | None:
            name, fresh_at = self._insurer_pieces(ask.insurer_number, version)
            return ask.answer(record, first, last, version, name, fresh_at, _ADVICE)

        return self._verifier.use_only_record(ask.message, use)

    def _insurer_pieces(self, number: str, version: int) -> tuple[bytes, bytes]:
        """Name and freshness of an insurer as JSON, made once for each state of it."""
        insurer = self._verifier.insurer(number, version)
        if insurer is None:
            return _NULL, _NULL
        known = self._pieces.get(number)
        if known is None or known[0] is not insurer:
            fresh_at = None if insurer.fresh_at_ms is None else clock.format_instant(insurer.fresh_at_ms)
            known = self._pieces[number] = (insurer, _encode(insurer.name), _encode(fresh_at))
        return known[1:]
