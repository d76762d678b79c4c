"""Owns a witness: what it saw of each log, and its cosignature under what continues that (c2sp.org/tlog-witness).

State is one file for each log, the newest checkpoint cosigned, durable before the answer. One process holds the folder,
and one request at a time is decided, so that no answer can roll a log back.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import msgspec

from engine import durable, keys
from engine.audit import bundle, merkle, notes
from engine.audit.log import CHECKPOINT, COSIGNED, LogReader
from engine.audit.notes import Checkpoint, Note, Scheme, Signer, Verifier
from engine.clock import Clock
from engine.errors import (
    AuditDamagedError,
    AuditLockedError,
    AuditMissingError,
    AuditNoteError,
    AuditProofError,
    AuditSignatureError,
    ConfigError,
)

PROOF_LINES_MAX: Final = 63
BODY_BYTES_MAX: Final = notes.NOTE_BYTES_MAX + 64 * (PROOF_LINES_MAX + 1)
SIZE_TYPE: Final = "text/x.tlog.size"
TEXT_TYPE: Final = "text/plain"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a witness's TOML file says; paths are relative to that file."""

    name: str
    """Under which it signs, as `witness.example/w1`."""
    key_file: Path = Path("witness.key")
    state_dir: Path = Path("state")
    logs: tuple[str, ...] = ()
    """Verifier keys of the logs that it looks after."""
    host: Literal["127.0.0.1", "::1"] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8446


class Reply(msgspec.Struct, frozen=True):
    """What is answered: HTTP status, body and media type."""

    status: int
    body: bytes
    media_type: str = TEXT_TYPE


class Submission(msgspec.Struct, frozen=True):
    """A request: the size that the log thinks the witness knows, the proof from there, the checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint

    def encode(self) -> bytes:
        """The body of the request."""
        return "\n".join([f"old {self.old}", *map(notes.encode64, self.proof), "", ""]).encode() + self.note.encode()


def parse_submission(body: bytes) -> Submission:
    """The request that a body is. Raises AuditNoteError."""
    head, blank, rest = body.partition(b"\n\n")
    if not blank or not head.isascii() or len(body) > BODY_BYTES_MAX:
        raise AuditNoteError("a request has an old size, proof lines, an empty line and a checkpoint")
    first, *lines = head.decode("ascii").split("\n")
    if not first.startswith("old ") or len(lines) > PROOF_LINES_MAX:
        raise AuditNoteError(f"a request begins with `old` and has at most {PROOF_LINES_MAX} proof lines")
    proof = tuple(map(notes.decode64, lines))
    if any(len(each) != merkle.HASH_BYTES for each in proof):
        raise AuditNoteError("a hash of the proof has not 32 bytes")
    note = notes.parse(rest)
    return Submission(notes.decimal(first.removeprefix("old ")), proof, note, notes.parse_checkpoint(note.text))


def load_settings(path: Path) -> Settings:
    """Read a witness's settings. Raises ConfigError."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Settings, dec_hook=_path)
        notes.check_name(found.name)
        for text in found.logs:
            notes.parse_vkey(text)
    except (OSError, ValueError, AuditNoteError) as error:
        said = error.detail if isinstance(error, AuditNoteError) else type(error).__name__
        said = str(error) if isinstance(error, msgspec.ValidationError) else said
        raise ConfigError(f"the witness's settings cannot be used: {said}", field=path.name) from None
    base = path.parent
    return msgspec.structs.replace(found, key_file=base / found.key_file, state_dir=base / found.state_dir)


def create(path: Path, name: str, logs: Sequence[str]) -> Verifier:
    """Make a witness's settings and its key beside them. Returns its public key. Raises FileExistsError."""
    notes.check_name(name)
    # A JSON string is a TOML string too.
    quoted = [msgspec.json.encode(each).decode() for each in (name, *(notes.parse_vkey(text).vkey for text in logs))]
    text = f'name = {quoted[0]}\nkey_file = "witness.key"\nstate_dir = "state"\nlogs = [{", ".join(quoted[1:])}]\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise FileExistsError(path)
    key = keys.create_signing(path.parent / "witness.key")
    durable.create_exclusive(path, text.encode(), mode=0o644)
    return Signer(name, key, Scheme.COSIGNATURE).verifier


class Witness:
    """A witness with its state. Close it, or use it in `with`."""

    def __init__(self, signer: Signer, logs: Sequence[Verifier], state_dir: Path, clock: Clock) -> None:
        """Take the state folder. Raises AuditLockedError; AuditDamagedError if the state is not what was written."""
        self.signer = signer
        self._clock, self._folder = clock, state_dir
        self._logs: dict[str, list[Verifier]] = {}
        for key in logs:
            self._logs.setdefault(key.name, []).append(key)
        self._deciding = threading.Lock()
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            durable.remove_leftovers(state_dir)
            self._seen = {origin: found for origin in self._logs if (found := self._load(origin)) is not None}
        except BlockingIOError:
            os.close(self._lock)
            raise AuditLockedError("another process is this witness") from None
        except BaseException:
            os.close(self._lock)
            raise

    @classmethod
    def open(cls, settings: Settings, clock: Clock) -> Self:
        """The witness that settings describe. Raises AuditKeyError, AuditLockedError, AuditDamagedError."""
        signer = Signer(settings.name, keys.load_signing(settings.key_file), Scheme.COSIGNATURE)
        return cls(signer, [notes.parse_vkey(text) for text in settings.logs], settings.state_dir, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size_of(self, origin: str) -> int:
        """The size of the newest checkpoint that was cosigned for a log; 0 if none was."""
        return self._seen[origin].size if origin in self._seen else 0

    def add_checkpoint(self, body: bytes) -> Reply:
        """Answer `POST /add-checkpoint`. What is answered with 200 is durable."""
        try:
            given = parse_submission(body)
        except AuditNoteError as error:
            return _reply(400, error.detail)
        return self.consider(given)

    def consider(self, given: Submission) -> Reply:
        """Cosign a checkpoint that continues what was cosigned before, or say by the status why not."""
        size, origin = given.checkpoint.size, given.checkpoint.origin
        if origin not in self._logs:
            return _reply(404, "this witness does not look after a log of this origin")
        try:
            signed = notes.verify(given.note, self._logs[origin])
        except AuditSignatureError as error:
            return _reply(403, error.detail)
        if not signed:
            return _reply(403, "the checkpoint is not signed by a key of the log")
        if given.old > size:
            return _reply(400, "the old size is larger than the checkpoint's")
        with self._deciding:
            known = self.size_of(origin)
            if given.old != known:
                return Reply(409, b"%d\n" % known, SIZE_TYPE)
            try:
                self._check_growth(given)
            except AuditProofError as error:
                return _reply(422, error.detail)
            return self._cosign(given, signed)

    def monitored(self, origin_digest: str) -> bytes | None:
        """The newest cosigned checkpoint of a log, by the SHA-256 of its origin in hexadecimal."""
        for origin in self._seen:
            if _digest(origin) == origin_digest:
                return (self._folder / origin_digest).read_bytes()
        return None

    def once(self, folder: Path) -> Reply:
        """Look at a log's folder or a bundle, and put the cosigned checkpoint there if it continues what was seen.

        Raises AuditMissingError, AuditNoteError, AuditDamagedError if the folder cannot be read.
        """
        try:
            data = (folder / CHECKPOINT).read_bytes()
        except OSError:
            raise AuditMissingError(f"there is no checkpoint in {folder}") from None
        note = notes.parse(data)
        checkpoint = notes.parse_checkpoint(note.text)
        old = self.size_of(checkpoint.origin)
        if old > checkpoint.size:
            return _reply(409, f"the folder's checkpoint has {checkpoint.size} entries, {old} were seen before")
        proof = () if old in (0, checkpoint.size) else tuple(_proof(folder, old, checkpoint.size))
        reply = self.consider(Submission(old, proof, note, checkpoint))
        if reply.status == 200:
            keep_cosigned(folder, note, notes.parse_signatures(reply.body.decode()))
        return reply

    def close(self) -> None:
        """Let go of the state folder."""
        os.close(self._lock)

    def _check_growth(self, given: Submission) -> None:
        size, root = given.checkpoint.size, given.checkpoint.root
        if given.old == 0:
            if given.proof:
                raise AuditProofError("the proof from the empty tree is empty")
            if size == 0 and root != merkle.EMPTY_ROOT:
                raise AuditProofError("the root of the empty tree is the hash of nothing")
            return
        old_root = self._seen[given.checkpoint.origin].root
        merkle.verify_consistency(given.old, old_root, size, root, given.proof)

    def _cosign(self, given: Submission, signed: dict[Verifier, int]) -> Reply:
        signature = self.signer.sign(given.note.text, max(self._clock.now_ms() // 1000, 1))
        ids = {(key.name, key.key_id) for key in signed}
        kept = tuple(each for each in given.note.signatures if (each.name, each.key_id) in ids)
        origin = given.checkpoint.origin
        durable.write_atomic(self._folder / _digest(origin), Note(given.note.text, (*kept, signature)).encode())
        self._seen[origin] = given.checkpoint  # durable from here on
        return Reply(200, signature.line().encode())

    def _load(self, origin: str) -> Checkpoint | None:
        path = self._folder / _digest(origin)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            note = notes.parse(data)
            found = notes.parse_checkpoint(note.text)
            signed = notes.verify(note, [self.signer.verifier])
        except (AuditNoteError, AuditSignatureError) as error:
            raise AuditDamagedError(f"the witness's state cannot be used: {error.detail}", field=path.name) from None
        if not signed or found.origin != origin:
            raise AuditDamagedError("the witness's state is not signed by this witness", field=path.name)
        return found


def keep_cosigned(folder: Path, note: Note, more: Sequence[notes.Signature]) -> None:
    """Put a log's cosigned checkpoint in its folder, with the cosignatures that are there already for the same one.

    An older one never replaces a newer one.
    """
    path = folder / COSIGNED
    if path.exists():
        there = notes.parse(path.read_bytes())
        if there.text == note.text:
            note = notes.cosigned(note, [each for each in there.signatures if each not in note.signatures])
        elif notes.parse_checkpoint(there.text).size > notes.parse_checkpoint(note.text).size:
            return
    durable.write_atomic(path, notes.cosigned(note, more).encode())


def cosignatures(reply: bytes, note: Note, key: Verifier) -> list[notes.Signature]:
    """The signatures of a witness in its answer. Raises AuditNoteError, AuditSignatureError if none fits."""
    try:
        lines = notes.parse_signatures(reply.decode("utf-8"))
    except UnicodeDecodeError:
        raise AuditNoteError("the witness's answer is not UTF-8") from None
    found = [each for each in lines if (each.name, each.key_id) == (key.name, key.key_id)]
    for each in found:
        key.check(note.text, each)
    if not found:
        raise AuditSignatureError(f"the answer has no signature of {key.name}")
    return found


def _proof(folder: Path, old: int, size: int) -> list[bytes]:
    if bundle.is_bundle(folder):
        return bundle.consistency_proof(folder, old, size)
    with LogReader(folder) as log:
        return log.consistency_proof(old, size)


def _digest(origin: str) -> str:
    return hashlib.sha256(origin.encode()).hexdigest()


def _reply(status: int, detail: str) -> Reply:
    return Reply(status, f"{detail}\n".encode())


def _path(wanted: type, value: object) -> object:
    if wanted is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected {wanted.__name__}")
