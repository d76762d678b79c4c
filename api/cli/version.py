"""Owns `shikaku version`: what is installed here."""

from __future__ import annotations

from typing import Final

from api.cli.options import Json

_SHOWN: Final = ("shikaku", "aiohttp", "lmdb", "msgspec", "numpy", "uvloop")


def version(as_json: Json = False) -> None:
    """Print the versions of Shikaku, Python and the libraries that matter.

    Example: shikaku version --json
    """
    import platform

    import ext
    from api.cli.output import print_json, print_pairs

    versions = {name: _installed(name) for name in _SHOWN}
    found = versions | {"python": platform.python_version(), "ext": ext.FORM}
    if as_json:
        print_json(found)
    else:
        print_pairs(found)


def _installed(name: str) -> str:
    """A distribution's version; without `make build`, Shikaku itself is not installed."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
