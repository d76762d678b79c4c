"""Owns `shikaku status`: what runs, what it serves, and how fresh it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import typer

from api.cli.options import ConfigFile, DataDir, Json, KeyFile, settings
from engine.config import Config

_SLOT_BYTES: Final = 16
_INSURERS_SHOWN: Final = 20


def status(
    config_file: ConfigFile = None, data_dir: DataDir = None, key_file: KeyFile = None, as_json: Json = False
) -> None:
    """Show processes, ports, data version, the index with its load and huge pages, and the insurers' freshness.

    Reads store and index directly, so it tells also what a stopped server left.

    Example: shikaku status --json
    """
    from api.cli.output import print_json, print_pairs, print_table

    found = gather(settings(config_file, data_dir, key_file))
    if as_json:
        print_json(found)
        return
    print_pairs({name: _shown(value) for name, value in _flat(found)})
    fresh = sorted(found["freshness"], key=lambda each: each["fresh_at"] or "", reverse=True)
    if fresh:
        typer.echo("\ninsurers, the last fed first")
        print_table(
            ("insurer", "name", "fresh at", "as of"),
            ((each["number"], each["name"], each["fresh_at"], each["as_of"]) for each in fresh[:_INSURERS_SHOWN]),
        )
    if len(fresh) > _INSURERS_SHOWN:
        typer.echo(f"... and {len(fresh) - _INSURERS_SHOWN} more; --json has them all")


def gather(config: Config) -> dict[str, Any]:
    """Everything that status shows."""
    from engine import keys
    from engine.store import StoreReader

    secrets = keys.load(config.key_file)
    store = StoreReader(config.store_dir, key_id=secrets.key_id, map_bytes=config.map_bytes)
    try:
        return {
            "server": _server(config),
            "store": {"committed_seq": store.committed_seq, **store.sizes()},
            "index": _index(config, secrets.key_id, store.store_id),
            "freshness": freshness(config),
        }
    finally:
        store.close()


def freshness(config: Config) -> list[dict[str, Any]]:
    """All insurers with the time, day and number of their last feed."""
    from engine import clock, days, keys
    from engine.store import StoreReader

    store = StoreReader(config.store_dir, key_id=keys.load(config.key_file).key_id, map_bytes=config.map_bytes)
    try:
        return [
            {
                "number": each.number,
                "name": each.name,
                "fresh_at": None if each.fresh_at_ms is None else clock.format_instant(each.fresh_at_ms),
                "as_of": None if each.feed_as_of is None else days.format_iso(each.feed_as_of),
                "feed_number": each.feed_number,
            }
            for each in store.insurers()
        ]
    finally:
        store.close()


def _server(config: Config) -> dict[str, Any]:
    import msgspec

    from api import instance
    from engine import clock

    state = instance.read_state(config.data_dir) if instance.is_running(config.data_dir) else None
    loading = instance.is_loading(config.data_dir)
    if state is None:
        return {"running": False, "bulk_load": loading}
    found: dict[str, Any] = msgspec.to_builtins(state)
    found["started_at"] = clock.format_instant(found.pop("started_at_ms"))
    return {"running": True, "bulk_load": loading, **found}


def _index(config: Config, key_id: bytes, store_id: bytes) -> dict[str, Any]:
    """The live index as a reader sees it, and other indexes of this store that take memory."""
    from engine.index import IndexReader, elsewhere
    from engine.recovery import index_directory

    directory = index_directory(config, store_id)
    others = [str(path) for path in elsewhere(directory, store_id)]
    try:
        index = IndexReader.attach(directory, store_id=store_id, key_id=key_id)
    except FileNotFoundError:
        return {"directory": str(directory), "attached": False, "elsewhere": others}
    try:
        size = (directory / (directory / "CURRENT").read_text("ascii").strip()).stat().st_size
        return {
            "directory": str(directory),
            "attached": True,
            "data_version": index.data_version,
            "generation": index.generation,
            "keys": index.count,
            "load": round(index.count * _SLOT_BYTES / size, 6),
            "bytes": size,
            "huge_page_bytes": huge_page_bytes(directory),
            "elsewhere": others,
        }
    finally:
        index.close()


def huge_page_bytes(directory: Path) -> int:
    """How much of the index this process has mapped by huge pages."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if "-" in name and not name.endswith(":"):
            inside = str(directory) in line
        elif inside and name in ("ShmemPmdMapped:", "FilePmdMapped:"):
            found += int(rest.split()[0]) * 1024
    return found


def _flat(found: dict[str, Any]) -> list[tuple[str, Any]]:
    groups = ((group, value) for group, value in found.items() if isinstance(value, dict))
    return [(f"{group} {name.replace('_', ' ')}", value) for group, held in groups for name, value in held.items()]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nowhere"
    return str(value)
