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
    from importlib import metadata

    import ext
    from api.cli.output import print_json, print_pairs

    versions = {name: metadata.version(name) for name in _SHOWN}
    found = versions | {"python": platform.python_version(), "ext": ext.FORM}
    if as_json:
        print_json(found)
    else:
        print_pairs(found)
