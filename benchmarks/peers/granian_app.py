"""Owns the application that Granian's worker imports: decode the request, look the answer up, over RSGI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.peers.services import end_with_parent
from benchmarks.peers.work import from_a_dict

end_with_parent()
_answer = from_a_dict(Path(os.environ["SHIKAKU_PEERS_ANSWERS"]))
_HEADERS = [("content-type", "application/json")]


async def app(scope: Any, protocol: Any) -> None:
    """One request."""
    protocol.response_bytes(200, _HEADERS, _answer(await protocol()))
