"""Owns a process that loads a folder's feeds in bulk and says which are durable, for those who kill it.

python -m tests.support.bulk_loader FOLDER-OF-THE-STORE FOLDER-OF-THE-FEEDS
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.ingest.load import Load
from tests.support import registries


def main(folder: Path, feeds: Path) -> None:
    files = sorted(feeds.iterdir())
    total = sum(path.stat().st_size for path in files)
    print("ready", flush=True)
    with Load(registries.settings(folder), registries.KEYS, total_bytes=total, progress=None) as load:
        load.run(files, piece_rows=200, durable=lambda path: print(f"durable {path.name}", flush=True))
        print("visible", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
