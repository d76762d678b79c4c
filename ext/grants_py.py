"""Owns the readable specification of ext/grants: tokens that were found good, and buckets.

Buckets are changed without compare and swap here: this form is for one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

SLOT_BYTES: Final = 32
DEBT_NS_MAX: Final = 3_600_000_000_000
_WORDS: Final = 4
_RATE, _MISSES, _TOLD = range(3)
_SECOND: Final = 1_000_000_000
_INTERVAL_MAX: Final = 1 << 46
_CAPACITY_MAX: Final = 1 << 55
_CODE_BYTES: Final = 16


class Buckets:
    def __init__(self, buffer: Any, *, rate: tuple[int, int], misses: tuple[int, int], quiet_ns: int) -> None:
        words = memoryview(buffer).cast("B").cast("q")
        self._bounds = {_RATE: _bucket(rate, "rate"), _MISSES: _bucket(misses, "misses")}
        if not 0 <= quiet_ns <= DEBT_NS_MAX:
            raise ValueError("quiet_ns is out of range")
        self._quiet = quiet_ns
        self._words = words
        self._slots = len(words) // _WORDS

    def wait(self, slot: int, now: int) -> int:
        return self._wait(self._slot(slot), now, _RATE)

    def miss_wait(self, slot: int, now: int) -> int:
        return self._wait(self._slot(slot), now, _MISSES)

    def charge(self, slot: int, now: int, count: int) -> None:
        self._charge(self._slot(slot), now, _count(count), _RATE)

    def miss(self, slot: int, now: int, count: int) -> bool:
        at = self._slot(slot)
        self._charge(at, now, _count(count), _MISSES)
        if self._wait(at, now, _MISSES) == 0:
            return False
        before = self._words[at + _TOLD]
        if before != 0 and before <= now and now - before < self._quiet:
            return False
        self._words[at + _TOLD] = now or 1
        return True

    def limit(self, slot: int, now: int) -> bytes:
        interval, capacity = self._bounds[_RATE]
        debt = self._debt(self._slot(slot), now, _RATE)
        return b"%d;t=%d" % (max(0, capacity - debt) // interval, -(-debt // _SECOND))

    def _slot(self, slot: int) -> int:
        """Where its words begin."""
        if not isinstance(slot, int):
            raise TypeError(f"slot must be int, not {type(slot).__name__}")
        if not 0 <= slot < self._slots:
            raise ValueError("slot is out of range")
        return _WORDS * slot

    def _debt(self, at: int, now: int, which: int) -> int:
        return max(0, min(self._words[at + which] - now, self._bounds[which][1] + DEBT_NS_MAX))

    def _wait(self, at: int, now: int, which: int) -> int:
        interval, capacity = self._bounds[which]
        return max(0, self._debt(at, now, which) + interval - capacity)

    def _charge(self, at: int, now: int, count: int, which: int) -> None:
        interval, capacity = self._bounds[which]
        debt = self._debt(at, now, which)
        self._words[at + which] = now + min(capacity + DEBT_NS_MAX, debt + count * interval)


class Grant:
    def __init__(self, caller: bytes, slot: int, expires_ms: int, thumbprint: bytes, checks: bool, who: Any) -> None:
        if not (isinstance(caller, bytes) and isinstance(thumbprint, bytes)):
            raise TypeError("caller and thumbprint must be bytes")
        if not 0 < len(caller) <= _CODE_BYTES:
            raise ValueError(f"caller has 1 to {_CODE_BYTES} bytes")
        if slot < 0:
            raise ValueError("slot is out of range")
        self._given = caller, slot, expires_ms, thumbprint, bool(checks), who

    @property
    def caller(self) -> bytes:
        return self._given[0]

    @property
    def slot(self) -> int:
        return self._given[1]

    @property
    def expires_ms(self) -> int:
        return self._given[2]

    @property
    def thumbprint(self) -> bytes:
        return self._given[3]

    @property
    def checks(self) -> bool:
        return self._given[4]

    @property
    def who(self) -> Any:
        return self._given[5]


class Gate:
    def __init__(
        self,
        admit: Callable[[bytes], Grant | None],
        of_connection: Callable[[Any], tuple[bytes, Grant | None]],
        clock: Callable[[], int],
        guessed: Callable[[Grant], object],
        buckets: Buckets,
        policy: bytes,
        *,
        miss_verdict: int,
        tokens_max: int,
        now_ms: int = 0,
    ) -> None:
        if not isinstance(buckets, Buckets):
            raise TypeError(f"buckets must be Buckets, not {type(buckets).__name__}")
        if not isinstance(policy, bytes):
            raise TypeError(f"policy must be bytes, not {type(policy).__name__}")
        if tokens_max < 1:
            raise ValueError("tokens_max is out of range")
        self._admit = admit
        self._of_connection = of_connection
        self._clock = clock
        self._guessed = guessed
        self._buckets = buckets
        self._policy = policy
        self._miss_verdict = miss_verdict
        self._tokens_max = tokens_max
        self._tokens: dict[bytes, Grant] = {}
        self.now_ms = now_ms
        self._generation = 1

    @property
    def buckets(self) -> Buckets:
        return self._buckets

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def tokens_count(self) -> int:
        return len(self._tokens)

    def find(self, token: bytes) -> Grant | None:
        if not isinstance(token, bytes):
            raise TypeError(f"token must be bytes, not {type(token).__name__}")
        grant = self._tokens.get(token)
        if grant is not None:
            if grant.expires_ms <= self.now_ms:
                del self._tokens[token]
                return None
            return grant
        grant = self._admit(token)
        if grant is None or grant.expires_ms <= self.now_ms or grant.slot >= self._buckets._slots:
            return None
        if len(self._tokens) >= self._tokens_max:
            self.purge()
            if len(self._tokens) >= self._tokens_max:
                self._tokens.clear()
        self._tokens[token] = grant
        return grant

    def forget(self) -> None:
        self._tokens.clear()
        self._generation += 1

    def purge(self) -> None:
        for token in [token for token, grant in self._tokens.items() if grant.expires_ms <= self.now_ms]:
            del self._tokens[token]

    def headers(self, grant: Grant) -> bytes:
        return self._policy + self._buckets.limit(grant.slot, self._clock())

    def missed(self, grant: Grant, count: int) -> None:
        if count and self._buckets.miss(grant.slot, self._clock(), count):
            self._guessed(grant)


def _bucket(given: tuple[int, int], name: str) -> tuple[int, int]:
    interval, count = given
    if not 1 <= interval <= _INTERVAL_MAX or not 1 <= count <= _CAPACITY_MAX // interval:
        raise ValueError(f"{name} is out of range")
    return interval, interval * count


def _count(count: int) -> int:
    if not isinstance(count, int):
        raise TypeError(f"count must be int, not {type(count).__name__}")
    if not 0 <= count <= 1_000_000:
        raise ValueError("count is out of range")
    return count
