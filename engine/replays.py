"""Owns the memory of assertions that were accepted: each `jti` once, whichever worker of the machine it comes to.

An LMDB environment on tmpfs, beside the live index: one transaction decides, and a killed worker leaves nothing half
done. A reboot empties it; so it remembers when it was made, and refuses what may have been accepted before: an
assertion that does not say it was issued since then, and ends so soon that it may have been.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any, Final

import lmdb

from engine.assertions import LEEWAY_SECONDS, LIFETIME_SECONDS, Claims
from engine.errors import StoreFullError, StorePoisonedError

MAP_BYTES: Final = 512 << 20
"""Upper bound of the file: four million assertions in five minutes."""
_PURGED_AT_ONCE: Final = 512
_KEPT_SECONDS: Final = LIFETIME_SECONDS + 2 * LEEWAY_SECONDS
_TIME: Final = struct.Struct(">Q")
_FORMAT: Final = 0

_open: dict[str, list[Any]] = {}


class Replays:
    """The memory at `path`, made if there is none. Raises StoreFullError, StorePoisonedError.

    Args: now: seconds since 1970, for the birth of a new one.
    """

    def __init__(self, path: Path, *, now: int) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._name = os.path.realpath(path)
        held = _open.get(self._name)
        if held is None:
            held = _open[self._name] = [self._made(path), 0]
        held[1] += 1
        self._env = held[0]
        self._closed = False
        self._seen, self._ends = (self._env.open_db(name) for name in (b"seen", b"ends"))
        with self._env.begin(write=True) as txn:
            txn.put(b"born", _TIME.pack(now), overwrite=False)
            self.born: int = _TIME.unpack(txn.get(b"born"))[0]

    @staticmethod
    def _made(path: Path) -> Any:
        try:
            # On tmpfs there is no disk to wait for: what was written is what every other process sees.
            return lmdb.open(
                os.fspath(path),
                map_size=MAP_BYTES,
                max_dbs=2,
                max_readers=1024,
                sync=False,
                mode=0o600,
                lib_version=_FORMAT,
            )
        except lmdb.Error as error:
            raise StorePoisonedError(f"the memory of assertions cannot be opened: {type(error).__name__}") from error

    def accept(self, claims: Claims, now: int) -> bool:
        """Whether an assertion comes for the first time; from then on it has come."""
        if not self._is_younger(claims):
            return False
        key = hashlib.sha256(f"{claims.id}\x00{claims.jti}".encode()).digest()
        try:
            with self._env.begin(write=True) as txn:
                self._purge(txn, now)
                # Kept a little longer than it can be good, whatever the clocks of two workers say.
                ends = _TIME.pack(claims.expires + 2 * LEEWAY_SECONDS)
                if not txn.put(key, ends, overwrite=False, db=self._seen):
                    return False
                txn.put(ends + key, b"", db=self._ends)
        except lmdb.MapFullError:
            raise StoreFullError("the memory of assertions has no room left") from None
        except lmdb.Error as error:
            raise StorePoisonedError(f"the memory of assertions failed: {type(error).__name__}") from error
        return True

    def _is_younger(self, claims: Claims) -> bool:
        """Whether it was issued since this memory began, or at least cannot have been accepted before."""
        if claims.issued is not None and claims.issued >= self.born:
            return True
        return claims.expires > self.born + LIFETIME_SECONDS + LEEWAY_SECONDS

    def _purge(self, txn: Any, now: int) -> None:
        """Forget what has long ended; a bounded number at a time, and more than come in."""
        cursor = txn.cursor(self._ends)
        going = cursor.first()
        for _ in range(_PURGED_AT_ONCE):
            if not going or _TIME.unpack(cursor.key()[:8])[0] >= now:
                break
            txn.delete(cursor.key()[8:], db=self._seen)
            going = cursor.delete()

    @property
    def count(self) -> int:
        """How many are remembered."""
        with self._env.begin() as txn:
            return int(txn.stat(self._seen)["entries"])

    def close(self) -> None:
        """Let go of the environment; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        held = _open[self._name]
        held[1] -= 1
        if held[1] == 0:
            del _open[self._name]
            self._env.close()
