"""Owns the reading of an LMDB file page by page: the entry at a key, as of the last commit, without a call of LMDB.

Opening a transaction through py-lmdb costs several times what its search costs. Here nothing is opened: the file is
read as it lies in memory, and what was read counts only if no commit came meanwhile. LMDB never writes to a page that
its last commit uses: pages that commit N+1 has freed are written again by N+3 at the earliest, and the meta page of N
by N+2. So as long as the number of the last commit, which stands in the lock file, has not moved, everything that was
followed from there was whole. Source: mdb.c of LMDB 0.9 (mdb_page_alloc, mdb_find_oldest, mdb_env_write_meta).

    pages = Pages(data, lock, b"versions")
    found = pages.seek(key)
    if found == ():
        ...  # ask LMDB itself
"""

from collections.abc import Iterable
from typing import Any, final

@final
class Pages:
    """One named database of a file that others write to; it has no flags.

    Args:
        data: the data file, mapped whole, or with room for it to grow; nothing behind its end is touched.
        lock: the lock file of the same environment.
    Both stay exported until `release`. One instance for each thread.
    Raises: ValueError if these are not the files of an LMDB environment of format 0.9 and this machine's word size.
    """

    def __init__(self, data: Any, lock: Any, name: bytes) -> None: ...
    @property
    def txnid(self) -> int:
        """The number of the last commit. Raises ValueError after `release`."""

    def seek(self, wanted: bytes) -> tuple[bytes, bytes] | tuple[()] | None:
        """Key and value of the first entry whose key is not less than `wanted`.

        Returns: None if there is none; () if it cannot be told here (the database does not exist yet, commits come too
            fast, the pages are damaged): LMDB itself is to be asked.
        Raises: ValueError after `release`.
        """

    def tree(self) -> tuple[int, int, int, int] | None:
        """Number of the last commit, bytes of a page, page of the root, levels of pages (0: there is no page).

        Returns: None if it cannot be told here, as `seek` has it. Raises ValueError after `release`.
        """

    def is_resident(self, wanted: bytes) -> bool:
        """Whether `seek` would find all that it reads in memory, as far as the system says. Raises as `seek`."""

    def touch(self, wanted: Iterable[bytes]) -> None:
        """Bring what `seek` would read for each of these into memory; waits for the disk, without the GIL.

        Raises: as `seek`.
        """

    def release(self) -> None:
        """Let go of the files."""
