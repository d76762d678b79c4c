"""Owns a log that a process records its answers in: opened and recovered by LogWriter, appended to by ext/ledger."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine import durable, limits
from engine.audit import notes
from engine.audit.frames import SEGMENT_BYTES
from engine.audit.log import CHECKPOINT, LogWriter
from engine.audit.notes import Checkpoint, Note, Signer
from engine.errors import AuditLockedError, ShikakuError
from engine.keys import Keys
from ext import ledger

_NEXT: Final = "segment-next"
_FILL_BYTES: Final = 1 << 20


class Appender:
    """One log, open for appending. Everything is called by one thread."""

    def __init__(
        self,
        directory: Path,
        signer_of: Callable[[int], Signer],
        keys: Keys,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        fixed_ms: int | None = None,
    ) -> None:
        """Open the first log below `directory` that no other process has open; it is made if there is none yet.

        Args:
            signer_of: who signs the checkpoints of the log with a number.
            fixed_ms: the time of every entry, if the clock stands still.

        Raises AuditLockedError if all are taken, AuditDamagedError, and what opening a log raises.
        """
        self._segment_bytes = segment_bytes
        self.slot, self._signer, self._writer = _first_free(directory, signer_of, segment_bytes)
        self._folder = self._writer.folder
        self._preparing: threading.Thread | None = None
        self._signed = -1
        lent = self._writer.lend()
        self.ledger = ledger.Ledger(
            slot=self.slot,
            log_id=lent.log_id,
            segment_bytes=segment_bytes,
            inquiry_key=keys.audit_inquiry_key,
            code_key=keys.institution_code_key,
            person_key=keys.audit_person_key,
            fixed_ms=fixed_ms,
            **lent.place(),
        )

    @property
    def folder(self) -> Path:
        """The log's folder."""
        return self._folder

    def tend(self) -> None:
        """Have the next segment ready in time. Cheap; to be called whenever something was written."""
        if self.ledger.wants_segment and (self._preparing is None or not self._preparing.is_alive()):
            self._preparing = threading.Thread(target=self._prepare, name="segment", daemon=True)
            self._preparing.start()

    def sign_checkpoint(self) -> Note | None:
        """Sign the log as it is on the disk, and keep that as its checkpoint; None if nothing was added since.

        Raises StoreFullError, StorePoisonedError.
        """
        size, root = self.ledger.head()
        if size == self._signed:
            return None
        note = notes.sign_checkpoint(Checkpoint(self._signer.verifier.name, size, root), self._signer)
        durable.write_atomic(self._folder / CHECKPOINT, note.encode())
        self._signed = size
        return note

    def reopen(self) -> None:
        """Go on after a failure, with what was written whole and in time. Raises what opening a log raises."""
        self.ledger.close()
        self._join()
        # What of the failed write is in the file may not be on the disk, and nothing may follow it.
        with durable.explained("recovering the audit log"):
            self.ledger.cut()
        self._writer.close()
        self._writer = LogWriter(self._folder, self._signer, slot=self.slot, segment_bytes=self._segment_bytes)
        self.ledger.resume(**self._writer.lend().place())

    def close(self) -> None:
        """Write what is left, sign it and let go of the log."""
        self.ledger.close()
        self._join()
        try:
            self.sign_checkpoint()
        except ShikakuError:
            pass  # the next process signs what is there
        self._writer.close()

    def _join(self) -> None:
        if self._preparing is not None:
            self._preparing.join()

    def _prepare(self) -> None:
        """Fill a file with zeros, so that appending to it never makes it longer."""
        descriptor = os.open(self._folder / _NEXT, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(self._segment_bytes // _FILL_BYTES):
                os.write(descriptor, bytes(_FILL_BYTES))
            durable.sync_data(descriptor, "preparing a segment of the audit log")
        except (OSError, ShikakuError):
            os.close(descriptor)  # the ledger makes its segment longer, and fails by itself if there is no room
            return
        self.ledger.provide(descriptor)


def _first_free(
    directory: Path, signer_of: Callable[[int], Signer], segment_bytes: int
) -> tuple[int, Signer, LogWriter]:
    for slot in range(limits.AUDIT_LOGS_MAX):
        signer = signer_of(slot)
        try:
            return slot, signer, LogWriter(directory / str(slot), signer, slot=slot, segment_bytes=segment_bytes)
        except AuditLockedError:
            continue
    raise AuditLockedError("all audit logs are in use")
