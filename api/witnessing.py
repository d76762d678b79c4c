"""Owns the asking of witnesses: a log's newest checkpoint goes to each, and what they sign comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

from engine.audit import notes, witness
from engine.audit.log import LogReader
from engine.audit.notes import Checkpoint, Note, Signature, Verifier
from engine.audit.witness import Submission
from engine.errors import AuditNoteError, AuditSignatureError

TIMEOUT_SECONDS: Final = 20.0
_ANSWER_BYTES_MAX: Final = 64 << 10
_TRIES: Final = 3


class Asked(msgspec.Struct, frozen=True):
    """A witness: where it is, and its key."""

    url: str
    key: Verifier


class Outcome(msgspec.Struct, frozen=True):
    """What came of asking one witness: its signatures, or why there are none."""

    name: str
    signatures: tuple[Signature, ...] = ()
    reason: str | None = None
    is_conflict: bool = False
    """The witness knows another history, or more entries than the log has: somebody lost or changed something."""


def parse_witness(text: str) -> Asked:
    """A witness as `URL=VKEY`. Raises AuditNoteError."""
    url, _, vkey = text.rpartition("=")
    if not url.startswith(("http://", "https://")):
        raise AuditNoteError("a witness is given as URL=VKEY, with http:// or https://")
    key = notes.parse_vkey(vkey)
    if key.scheme is not notes.Scheme.COSIGNATURE:
        raise AuditNoteError("the key of a witness is of type 04")
    return Asked(url.rstrip("/"), key)


async def ask_all(log: LogReader, note: Note, known: dict[str, int], witnesses: Sequence[Asked]) -> list[Outcome]:
    """Send a checkpoint to witnesses, all at once.

    Args: known: the size that each witness signed last, as far as is known; it says itself if that is wrong.
    """
    checkpoint = notes.parse_checkpoint(note.text)
    async with ClientSession(timeout=ClientTimeout(total=TIMEOUT_SECONDS)) as session:
        asking = (_ask(session, log, note, checkpoint, known.get(each.key.name, 0), each) for each in witnesses)
        return await asyncio.gather(*asking)


async def _ask(
    session: ClientSession, log: LogReader, note: Note, checkpoint: Checkpoint, old: int, asked: Asked
) -> Outcome:
    name = asked.key.name
    try:
        for _ in range(_TRIES):
            proof = tuple(log.consistency_proof(old, checkpoint.size))
            body = Submission(old, proof, note, checkpoint).encode()
            async with session.post(f"{asked.url}/add-checkpoint", data=body) as response:
                answer = await _bounded(response)
            if response.status != 409:
                break
            old = notes.decimal(answer.decode("ascii", "replace").removesuffix("\n"))
            if old > checkpoint.size:
                reason = f"it signed {old} entries, and the log's checkpoint has {checkpoint.size}"
                return Outcome(name, reason=reason, is_conflict=True)
        if response.status != 200:
            reason = f"it answered {response.status}: {_said(answer)}"
            return Outcome(name, reason=reason, is_conflict=response.status == 422)
        return Outcome(name, tuple(witness.cosignatures(answer, note, asked.key)))
    except (AuditNoteError, AuditSignatureError) as error:
        return Outcome(name, reason=f"its answer cannot be used: {error.detail}")
    except (ClientError, TimeoutError, ValueError) as error:
        return Outcome(name, reason=f"it cannot be reached ({type(error).__name__})")


async def _bounded(response: ClientResponse) -> bytes:
    """An answer's body, or its beginning if it is too long to be a witness's."""
    answer = b""
    async for chunk in response.content.iter_chunked(4096):
        answer += chunk
        if len(answer) > _ANSWER_BYTES_MAX:
            break
    return answer


def _said(answer: bytes) -> str:
    """The first line of an answer, as far as it can be shown."""
    line = answer.decode("ascii", "replace").partition("\n")[0][:100]
    return "".join(each if each.isprintable() else "?" for each in line)
