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
        self._pieces: dict[str, tuple[int, int, Insurer, bytes, bytes]] = {}
        """Of an insurer: data version and version of the insurers when it was asked for, itself, and its pieces."""

    def answer(self, data: bytes, start: int, stop: int) -> bytes | None:
        """The answer to the check in `data[start:stop]`, if both are ordinary. Raises what reading a record does."""
        ask = ordinary.read(data, start, stop, self._today())
        if ask is None:
            return None
        verifier = self._verifier
        only = verifier.only_person(ask.message)
        if only is None:
            return None
        number, version = only
        name, fresh_at = self._insurer_pieces(ask.insurer_number, version)
        return verifier.use_record(number, version, ask.answer, version, name, fresh_at, _ADVICE)

    def _insurer_pieces(self, number: str, version: int) -> tuple[bytes, bytes]:
        """Name and freshness of an insurer as of a data version, as JSON; made once for each state of it."""
        changed = self._verifier.insurers_version
        known = self._pieces.get(number)
        if known is not None and known[0] == version and known[1] == changed:
            return known[3], known[4]
        insurer = self._verifier.insurer(number, version)
        if insurer is None:
            # Unknown numbers are not remembered: callers could fill the memory with them.
            return _NULL, _NULL
        if known is not None and known[2] is insurer:
            name, fresh_at = known[3], known[4]
        else:
            instant = None if insurer.fresh_at_ms is None else clock.format_instant(insurer.fresh_at_ms)
            name, fresh_at = _encode(insurer.name), _encode(instant)
        self._pieces[number] = (version, changed, insurer, name, fresh_at)
        return name, fresh_at
