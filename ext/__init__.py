"""Owns the boundary of the compiled leaves: what may be used from outside, and which form of it runs.

Contract. Everything here is a pure function over bytes, text and arrays that the caller owns: no files, no clock,
no settings, no log, no memory kept after the call. Every public function checks lengths, ranges, dtypes and
alignment and raises TypeError or ValueError with a stable message; after that nothing can read or write out of
bounds. The names below are all that other packages may use, as `from ext import keyhash`:

    canon     canonical form of identifiers, for plain ASCII
    connection  a connection of the express lane; alone of all these it has a state, and calls what it was handed
    frame     the outline of a JSON text: where its members and elements begin and end
    grants    tokens that were found good, and the buckets that all workers share
    keyhash   keyed 128-bit hash of identifiers
    lane      the frame of a canonical check request among the bytes of a connection
    leaves    pages of an LMDB file in the order of the file, for whoever reads everything
    ledger    the appending of an audit log; it has a state and a thread, and writes to files that it was handed
    many      ordinary checks in blocks, for batches
    merkle    hashes of a Merkle tree
    ordinary  the ordinary check by card: inquiry in plain JSON, answer out of one record
    pages     entries of an LMDB file that others write to, without a call of LMDB
    probe     open-addressing table in the caller's buffer
    quick     the ordinary check in one call: inquiry, table, pages, answer
    sheet     the plain lines of a CSV: values, packed records and messages by a plan

Each has a twin in plain Python (`keyhash_py`), which is the readable specification: same names, arguments,
results, error types and messages. SHIKAKU_EXT chooses: `compiled` (or unset) or `python`. There is no silent fall
back: a compiled module that is missing is an ImportError that names the command to build it.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ext.canon as canon
    import ext.connection as connection
    import ext.frame as frame
    import ext.grants as grants
    import ext.keyhash as keyhash
    import ext.lane as lane
    import ext.leaves as leaves
    import ext.ledger as ledger
    import ext.many as many
    import ext.merkle as merkle
    import ext.ordinary as ordinary
    import ext.pages as pages
    import ext.probe as probe
    import ext.quick as quick
    import ext.sheet as sheet

__all__ = [
    "FORM",
    "canon",
    "connection",
    "frame",
    "grants",
    "keyhash",
    "lane",
    "leaves",
    "ledger",
    "many",
    "merkle",
    "ordinary",
    "pages",
    "probe",
    "quick",
    "sheet",
]

FORM = os.environ.get("SHIKAKU_EXT") or "compiled"
"""Which form runs: `compiled` or `python`."""

if FORM not in ("compiled", "python"):
    raise ImportError(f"SHIKAKU_EXT={FORM!r} is unknown; choose `compiled` or `python`")

for _name in __all__[1:]:
    try:
        globals()[_name] = import_module(f"ext.{_name}" if FORM == "compiled" else f"ext.{_name}_py")
    except ImportError as error:
        if error.name != f"ext.{_name}":
            raise
        raise ImportError(f"ext.{_name} is not compiled: run `make build` (or set SHIKAKU_EXT=python)") from error
