"""Owns the start of the writer, from whatever a crash left to store and index in agreement, in one readable sequence.

Also its counterpart, the snapshot: a copy of both from which the same sequence starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine import durable, scan
from engine.config import Config
from engine.errors import IndexCorruptError, KeyMismatchError, RecordCorruptError, StoreFullError
from engine.index import IndexWriter, default_directory, saved_state
from engine.ingest import publication, spool
from engine.keys import Keys
from engine.store import StoreReader, StoreWriter

REPLAY_MAX: Final = 1_000_000
"""Changes that are applied again one by one, at some microseconds each."""


def open_for_writing(config: Config, keys: Keys) -> tuple[StoreWriter, IndexWriter]:
    """Lock and open the store, undo what was never committed, and bring the index up to what was.

    Raises StoreMissingError, StoreVersionError, KeyMismatchError, IndexSpaceError; StoreLockedError if another writer
    has the store or the directory of the index.
    """
    return _opened(config, keys, open_index)


def open_for_loading(config: Config, keys: Keys) -> tuple[StoreWriter, IndexWriter]:
    """The same for a bulk load, which builds the next generation anyway: the index stays as it is, however far behind.

    So what an interrupted load left in the store is not shown before the load that goes on with it is done.
    """
    return _opened(config, keys, _index_as_it_is)


def _opened(
    config: Config, keys: Keys, open_: Callable[[Config, Keys, StoreWriter], IndexWriter]
) -> tuple[StoreWriter, IndexWriter]:
    store = StoreWriter(config.store_dir, key_id=keys.key_id, map_bytes=config.map_bytes)
    try:
        store.roll_back()
        spool.empty(config.spool_dir)
        durable.remove_leftovers(config.data_dir)
        index = open_(config, keys, store)
    except BaseException:
        store.close()
        raise
    return store, index


def _index_as_it_is(config: Config, keys: Keys, store: StoreWriter) -> IndexWriter:
    index = _attach(config, keys, store) or _nothing(config, keys, store)
    _begin_history(store, index)
    return index


def open_index(config: Config, keys: Keys, store: StoreWriter) -> IndexWriter:
    """The index as of the last committed change: the live one, else the one saved on disk, else from the records."""
    committed = store.committed_seq
    index = _near(_attach(config, keys, store), committed) or _near(_load(config, keys, store), committed)
    if index is None:
        index = _rebuild(config, keys, store, committed)
    try:
        if not index.is_tidy:
            index.drop_provisional()
        publication.replay(store, index, upto=committed)
        index.announce()
        _begin_history(store, index)
    except BaseException:
        index.close()
        raise
    return index


def _begin_history(store: StoreWriter, index: IndexWriter) -> None:
    """Name what is committed from here on, in the store first: until the index says so too, it is one of before."""
    try:
        index.history = store.begin_history()
    except StoreFullError:
        # Checks must go on with a full disk. The index keeps the name it has, and at worst is built anew next time.
        return


def index_directory(config: Config, store_id: bytes) -> Path:
    """Where the live index of a store is; a copy of the data folder has another, unless the settings name one."""
    return config.index_dir or default_directory(store_id, config.data_dir)


def _attach(config: Config, keys: Keys, store: StoreWriter) -> IndexWriter | None:
    try:
        index = IndexWriter.attach(
            index_directory(config, store.store_id),
            store_id=store.store_id,
            key_id=keys.key_id,
            spool_dir=config.spool_dir,
        )
    except (IndexCorruptError, KeyMismatchError, FileNotFoundError):
        return None
    return _of_this_history(store, index)


def _load(config: Config, keys: Keys, store: StoreWriter) -> IndexWriter | None:
    try:
        index = IndexWriter.load(
            index_directory(config, store.store_id),
            config.snapshot_file,
            store_id=store.store_id,
            key_id=keys.key_id,
            spool_dir=config.spool_dir,
            publish=False,  # it may be days old
        )
    except (IndexCorruptError, KeyMismatchError, FileNotFoundError):
        return None
    if _of_this_history(store, index) is None:
        # Nor must it be taken for ours later, when the store has got as far as it.
        config.snapshot_file.unlink(missing_ok=True)
        return None
    return index


def _of_this_history(store: StoreWriter, index: IndexWriter) -> IndexWriter | None:
    """An index of a state that this store was never in is another one's (the store was put back, and went on)."""
    if store.has_been(index.history, index.visible_version):
        return index
    index.close()
    return None


def saved_seq(config: Config, keys: Keys, store: StoreWriter) -> int:
    """The change that the saved index of this store is at; -1 if there is none that the next start could load."""
    saved = saved_state(config.snapshot_file, store_id=store.store_id, key_id=keys.key_id)
    return saved[1] if saved is not None and store.has_been(*saved) else -1


def _rebuild(config: Config, keys: Keys, store: StoreWriter, committed: int) -> IndexWriter:
    needed = max(config.index_keys, scan.keys_estimated(store, committed))
    index = _nothing(config, keys, store)
    try:
        index.rebuild(lambda: scan.all_entries(store, committed), seq=committed, keys=needed)
    except BaseException:
        index.close()
        raise
    return index


def _nothing(config: Config, keys: Keys, store: StoreWriter) -> IndexWriter:
    """An index for want of a better one. Nobody is told of it: an empty one would call everybody unknown."""
    return IndexWriter.create(
        index_directory(config, store.store_id),
        store_id=store.store_id,
        key_id=keys.key_id,
        keys=1,
        spool_dir=config.spool_dir,
        publish=False,
    )


def _near(index: IndexWriter | None, committed: int) -> IndexWriter | None:
    """An index that is worth bringing up to date; one that a bulk load has left far behind is sooner built anew."""
    if index is None or committed - index.data_version <= REPLAY_MAX:
        return index
    index.close()
    return None


def snapshot(directory: Path, store: StoreWriter, index: IndexWriter, keys: Keys, *, map_bytes: int) -> None:
    """Copy store and index into an absent or empty directory, which can then be used as a data folder.

    Durable and read back on return. Raises FileExistsError, StoreFullError.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty")
    names = Config(data_dir=directory)
    store.copy(names.store_dir)
    index.save(names.snapshot_file)
    durable.fsync_directory(directory)
    copy = StoreReader(names.store_dir, key_id=keys.key_id, map_bytes=map_bytes)
    try:
        _compare(store, copy)
    finally:
        copy.close()


def _compare(store: StoreReader, copy: StoreReader) -> None:
    """Every record of the copy is read: a copy is worth what can be read back from it."""
    if copy.store_id != store.store_id or copy.committed_seq != store.committed_seq:
        raise StoreFullError("the copy is not complete")
    rows = sum(1 for _ in copy.versions_checked())
    if rows != copy.committed_seq:
        raise RecordCorruptError("the copy has not one version for each change")
