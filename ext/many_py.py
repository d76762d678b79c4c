"""Owns the readable specification of ext/many: many checks at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ext import ledger_py, ordinary_py
from ext.quick_py import SAYINGS_COUNT, Quick

ITEMS_MAX: Final = 64
CAREFUL_MAX: Final = 32
LINE_BYTES_MAX: Final = 16384
BLOCK_BYTES_MAX: Final = 32768
_CALLER_BYTES: Final = 16
_VERDICT_BYTES_MAX: Final = 64

_Careful = Callable[[bytes], bytes | None]


class Many:
    def __init__(self, quick: Quick, ledger: ledger_py.Ledger | None = None, verdicts: Sequence[bytes] = ()) -> None:
        if not isinstance(quick, Quick):
            raise TypeError(f"quick must be Quick, not {type(quick).__name__}")
        if not (ledger is None or isinstance(ledger, ledger_py.Ledger)):
            raise TypeError(f"ledger must be Ledger, not {type(ledger).__name__}")
        self._quick = quick
        self._ledger = ledger
        self._verdicts = [bytes(one) for one in verdicts]
        lengths = [len(one) for one in self._verdicts]
        if lengths and not (len(lengths) == SAYINGS_COUNT and max(lengths) <= _VERDICT_BYTES_MAX):
            raise ValueError(f"verdicts must be none, or {SAYINGS_COUNT} of at most {_VERDICT_BYTES_MAX} bytes")

    def answer_lines(
        self, data: bytes, start: int, careful: _Careful, mark: bytes = b"", caller: bytes = b""
    ) -> tuple[bytes, int, int]:
        lines = _lines(data, start, caller)
        answers = self._answers(lines, careful, lambda line: self._recorded(self._own(line, caller), mark, {}))
        return _joined(answers, lines, start)

    def verdict_lines(
        self, data: bytes, start: int, careful: _Careful, mark: bytes = b"", caller: bytes = b""
    ) -> tuple[bytes, int, int]:
        lines = _lines(data, start, caller)
        if not self._verdicts:
            raise ValueError("no verdicts were given")
        return _joined(self._answers(lines, careful, lambda line: self._said(line, mark, caller)), lines, start)

    def _said(self, line: bytes, mark: bytes, caller: bytes) -> bytes | None:
        saying = self._quick._saying_of(line)
        if saying is None or (caller and self._quick.told[0] != caller):
            return None
        said = self._verdicts[saying]
        if self._ledger is None:
            return said
        facts = self._quick._facts
        return said + self._ledger.name(
            self._ledger.append(**{**facts, "kind": facts["kind"] + 2}, body=said, mark=mark)
        )

    def _own(self, line: bytes, caller: bytes) -> bytes | None:
        """The answer, unless it was asked for in another's name than the caller's."""
        answer = self._quick.answer(line, 0, len(line))
        return None if caller and self._quick.told[0] != caller else answer

    def cold_lines(self, data: bytes, start: int) -> list[bytes]:
        # In plain Python all is in memory, as far as anybody says.
        self.answer_lines(data, start, lambda body: b"")
        return []

    def cold_items(
        self, data: bytes | bytearray, spans: Sequence[tuple[int, int]], first: int, as_of: int
    ) -> list[bytes]:
        self.answer_items(data, spans, first, as_of, lambda body: b"")
        return []

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
        if not isinstance(as_of, int):
            raise TypeError(f"as_of must be int, not {type(as_of).__name__}")
        if not ordinary_py.AS_OF_MIN <= as_of <= ordinary_py.AS_OF_MAX:
            raise ValueError("as_of is out of range")
        if len(caller) > _CALLER_BYTES:
            raise ValueError(f"caller has at most {_CALLER_BYTES} bytes")
        items: list[bytes] = []
        with memoryview(data) as view:
            for start, end in spans[first : first + ITEMS_MAX]:
                if not 0 <= start <= end <= len(view):
                    raise ValueError("a span is not within data")
                if sum(map(len, items)) >= BLOCK_BYTES_MAX:
                    break
                items.append(bytes(view[start:end]))
        own = {"caller": caller, "purpose": purpose}
        answers = self._answers(items, careful, lambda item: self._recorded(self._quick_item(item, as_of), mark, own))
        return b"".join(answer + b"," for answer in answers), first + len(answers)

    def _quick_item(self, item: bytes, as_of: int) -> bytes | None:
        ask = ordinary_py.read(item, 0, len(item), as_of, item=True)
        if ask is not None and ask.by_certificate:
            # Its own day is the one on which it is presented.
            ask = ordinary_py.read(item, 0, len(item), self._quick._today(), item=True)
            assert ask is not None
            ask.as_of = as_of
        return None if ask is None else self._quick._answered(ask)

    def _recorded(self, answer: bytes | None, mark: bytes, own: dict[str, Any]) -> bytes | None:
        """The answer with the name of its receipt, once it is recorded."""
        if answer is None or self._ledger is None:
            return answer
        facts = self._quick._facts
        index = self._ledger.append(**{**facts, **own, "kind": facts["kind"] + 2}, body=answer, mark=mark)
        return answer[:-1] + b',"receipt":"' + self._ledger.name(index) + b'"}'

    @staticmethod
    def _answers(items: list[bytes], careful: _Careful, quick: Callable[[bytes], bytes | None]) -> list[bytes]:
        answers: list[bytes] = []
        others = 0
        for item in items:
            answer = quick(item)
            if answer is None:
                if others == CAREFUL_MAX:
                    break
                others += 1
                answer = careful(item)
                if answer is None:
                    break
            answers.append(answer)
        return answers


def _lines(data: bytes, start: int, caller: bytes) -> list[bytes]:
    """Whole lines from `start` on: at most a block, up to one that is blank or too long."""
    if not isinstance(data, bytes):
        raise TypeError(f"data must be bytes, not {type(data).__name__}")
    if not isinstance(start, int):
        raise TypeError(f"start must be int, not {type(start).__name__}")
    if not 0 <= start <= len(data):
        raise ValueError("start is not within data")
    if len(caller) > _CALLER_BYTES:
        raise ValueError(f"caller has at most {_CALLER_BYTES} bytes")
    lines: list[bytes] = []
    at = start
    while len(lines) < ITEMS_MAX and at - start < BLOCK_BYTES_MAX and (end := data.find(b"\n", at)) >= 0:
        line = data[at:end]
        if len(line) > LINE_BYTES_MAX or not line or line.isspace():
            break
        lines.append(line)
        at = end + 1
    return lines


def _joined(answers: list[bytes], lines: list[bytes], start: int) -> tuple[bytes, int, int]:
    """The answers, a line each; where to go on; how many there are."""
    taken = sum(len(line) + 1 for line in lines[: len(answers)])
    return b"".join(answer + b"\n" for answer in answers), start + taken, len(answers)
