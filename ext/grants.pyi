"""Owns what a worker remembers of callers: tokens that were found good, and the buckets that all workers share.

A token is judged once, by Python; from then on it is one look-up until it ends, the register changes, or too many are
known. A bucket is one word in shared memory (GCRA): the instant at which all that was taken will have come back. It is
changed by compare and swap, so workers share it without a lock, and what a killed one left is whole.

    grant = gate.find(token)
    if grant is not None and not gate.buckets.wait(grant.slot, now):
        ...
        gate.buckets.charge(grant.slot, now, 1)
"""

from collections.abc import Callable
from typing import Any, Final, final

SLOT_BYTES: Final = 32
DEBT_NS_MAX: Final = 3_600_000_000_000
"""How much more than a bucket holds can be taken from it at most: nobody is kept waiting for much longer."""

@final
class Buckets:
    """The buckets of all callers, a slot each.

    Args:
        buffer: writable, SLOT_BYTES a slot; zeros at first.
        rate: of inquiries: nanoseconds in which one comes back, and how many there are at most.
        misses: the same of those about nobody.
        quiet_ns: how long nobody is told again that misses have run out.

    Times are of a clock that all processes share. Raises ValueError for numbers out of range.
    """

    def __init__(self, buffer: Any, *, rate: tuple[int, int], misses: tuple[int, int], quiet_ns: int) -> None: ...
    def wait(self, slot: int, now: int) -> int:
        """Nanoseconds until one inquiry may be made; 0 if it may now."""

    def miss_wait(self, slot: int, now: int) -> int:
        """The same, of inquiries about nobody."""

    def charge(self, slot: int, now: int, count: int) -> None:
        """Take so many, also more than there are: then it takes longer until one may be made."""

    def miss(self, slot: int, now: int, count: int) -> bool:
        """Take so many misses. Returns whether somebody is to be told that they have run out."""

    def limit(self, slot: int, now: int) -> bytes:
        """What is left, and in how many seconds all of it is: `4999;t=1`."""

@final
class Grant:
    """What a token, or a certificate, was found to allow.

    Args:
        caller: id, at most 16 bytes.
        slot: of its buckets.
        expires_ms: from then on it is not good any more.
        thumbprint: of the certificate that it is bound to; b"" for none.
        checks: whether single checks are allowed.
        who: whatever its owner wants to know later.
    """

    def __init__(
        self, caller: bytes, slot: int, expires_ms: int, thumbprint: bytes, checks: bool, who: Any
    ) -> None: ...
    @property
    def caller(self) -> bytes: ...
    @property
    def slot(self) -> int: ...
    @property
    def expires_ms(self) -> int: ...
    @property
    def thumbprint(self) -> bytes: ...
    @property
    def checks(self) -> bool: ...
    @property
    def who(self) -> Any: ...

@final
class Gate:
    """What is known of callers in one process.

    Args:
        admit: judges a token that is not known.
        of_connection: thumbprint of a transport's client certificate (b"" without), and what that allows.
        clock: the time, for the buckets.
        guessed: told of a caller whose misses have run out.
        policy: headers of every answer up to the number of inquiries left.
        miss_verdict: the number of the verdict that counts as a miss.
        tokens_max: how many tokens are remembered.
    """

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
    ) -> None: ...

    now_ms: int
    """The time, for the end of tokens; whoever sets it spares every request asking for it."""
    @property
    def buckets(self) -> Buckets: ...
    @property
    def generation(self) -> int:
        """Moves with `forget`; what was bound to a connection before is asked for anew."""

    @property
    def tokens_count(self) -> int: ...
    def find(self, token: bytes) -> Grant | None:
        """What a token allows, if it is good now."""

    def forget(self) -> None:
        """Judge everything anew."""

    def purge(self) -> None:
        """Forget tokens that have ended."""

    def headers(self, grant: Grant) -> bytes:
        """The policy, and what is left."""

    def missed(self, grant: Grant, count: int) -> None:
        """Count inquiries about nobody."""
