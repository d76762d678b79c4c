"""Owns a connection of the express lane: what is done with what comes, and when another protocol takes over.

The one piece of ext with a state of its own: a connection is handed its transport and everything it may call, and
opens nothing itself. Requests that are canonical (ext/lane) are answered where they are read, all that came together
with one write. At the first that is not, the transport gets another protocol, with everything not answered yet.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, final

from ext.grants import Gate, Grant
from ext.ledger import Ledger
from ext.quick import Quick

HOSTS_MAX: Final = 64
"""Spellings of Host that are remembered."""
REQUESTS_AT_A_TIME: Final = 64
"""How many requests of one connection are answered before others get their turn."""

class Shared:
    """What all connections of one process share. Everything is called in the loop's thread.

    Args:
        quick: asked first, if there is one.
        careful: the answer to the check in `data[start:stop]` of a request with this mark and this caller, if `quick`
            has none; may raise. It is recorded by then, and a miss is counted.
        head: the head of an answer up to the value of X-Request-ID; None while the process stops.
        mark: what goes back for an X-Request-ID that is not plainly harmless.
        is_this_host: whether a Host header names this machine.
        soon: calls a function with arguments when others had their turn.
        warm: brings the records with these keys into memory, and then calls a function with arguments.
        prefix: of the marks that requests get that bring none.
        body_bytes_max: longer bodies are left to the general server.
        ledger: where every answer is recorded; answers then name their receipt.
        recorded: called when something was, so that somebody has it written.
        waits: whether answers wait for `saved`.
        gate: who may ask; None: everybody may. Then only what the caller's token or certificate allows is answered, in
            its own name, while its buckets are not empty; all else is left to the general server.
    """

    def __init__(
        self,
        quick: Quick | None,
        careful: Callable[[bytes, int, int, bytes, Grant | None], bytes],
        head: Callable[[], bytes | None],
        mark: Callable[[bytes], bytes],
        is_this_host: Callable[[str], bool],
        soon: Callable[..., object],
        warm: Callable[..., object],
        *,
        prefix: bytes,
        body_bytes_max: int,
        ledger: Ledger | None = None,
        recorded: Callable[[], object] | None = None,
        waits: bool = True,
        gate: Gate | None = None,
    ) -> None: ...
    def saved(self, durable: int) -> None:
        """Send the answers whose records are among the first so many entries of the log."""

    def unsaved_are_lost(self, response: bytes) -> None:
        """The log has failed: whoever waits for an answer gets this instead, and the connection ends."""

    answered: int
    """Requests."""
    time: int
    """Seconds, about; whoever counts them spares every request asking for the time."""
    @property
    def connections(self) -> set[Connection]:
        """All that are in the lane."""

    @property
    def handed_over(self) -> Counter[str]:
        """How often a connection was handed over, by reason."""

@final
class Connection:
    """One connection, as long as it stays in the lane: an asyncio protocol, handed its transport by the server.

    Args: general: makes the protocol that takes over, at the first request that is not canonical.
    """

    def __init__(self, shared: Shared, general: Callable[[], Any]) -> None: ...
    @property
    def unanswered_bytes(self) -> int:
        """How much of what was received waits."""

    def connection_made(self, transport: Any) -> None: ...
    def connection_lost(self, error: Exception | None) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool:
        """Whether there is something left to answer; else the connection is closed."""

    def pause_writing(self) -> None:
        """The peer does not read its answers: no more are made, and no more requests read."""

    def resume_writing(self) -> None: ...
    def go_on(self, reason: int) -> None:
        """Go on reading, if this was the last reason not to."""

    def look(self, idle_seconds: int, head_seconds: int, body_seconds: int) -> None:
        """Close the connection, or hand it over, if it takes too long."""

    def close(self) -> None:
        """Close the connection, once what was answered has been read."""
