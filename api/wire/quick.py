"""Owns the words of the quick way (ext/quick): what an answer says of an insurer, and its advice, as JSON."""

from __future__ import annotations

from typing import Final

import msgspec

from api.advice import advise_json
from engine import clock
from engine.records import Insurer, Reason, Verdict
from engine.verification import Verifier
from ext import quick

_NULL: Final = b"null"
_encode: Final = msgspec.json.Encoder().encode


def quick_way(verifier: Verifier, *, looks_first: bool = False, notes: bool = False) -> quick.Quick:
    """Answers ordinary checks; one per thread. It gives the bytes that reading, verification and writing would give."""
    return verifier.quick(_Insurers(verifier).pieces, _words, looks_first=looks_first, notes=notes)


def _words(verdict: Verdict, reason: Reason | None) -> tuple[bytes, bytes]:
    head = _encode({"verdict": verdict, "reason": reason, "as_of": None}).removesuffix(b"null}")
    return head, bytes(advise_json(verdict, reason, ()))


class _Insurers:
    """Name and freshness of insurers as JSON, made anew only for another state of the insurer."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._known: dict[str, tuple[Insurer, bytes, bytes]] = {}

    def pieces(self, number: str, version: int) -> tuple[bytes, bytes]:
        """Name and freshness of an insurer as of a data version."""
        insurer = self._verifier.insurer(number, version)
        if insurer is None:
            # Unknown numbers are not remembered: callers could fill the memory with them.
            return _NULL, _NULL
        known = self._known.get(number)
        if known is None or known[0] is not insurer:
            instant = None if insurer.fresh_at_ms is None else clock.format_instant(insurer.fresh_at_ms)
            known = self._known[number] = (insurer, _encode(insurer.name), _encode(instant))
        return known[1], known[2]
