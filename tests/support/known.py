"""Owns what callers of the differential tests show: a good line of Authorization first, then all kinds of others."""

from __future__ import annotations

import msgspec

from engine import keys, tokens
from engine.callers import Role, Scope
from tests.support import api, callers


def headers(built: api.Engine) -> list[bytes]:
    """Lines of Authorization for an engine that knows its callers, whom this registers."""
    assert built.register is not None
    callers.register(built.register, api.INSTITUTION)
    callers.register(built.register, "0110113719")
    callers.register(built.register, "insurer", role=Role.INSURER)
    callers.register(built.register, "suspended", role=Role.PORTAL)
    built.register.suspend("suspended", now_ms=0)
    key = keys.load(built.settings.key_file).access_token_key
    plain = tokens.Token(api.INSTITUTION, frozenset(Scope), api.NOW_MS, 300, b"")
    changes = [
        {},
        {"id": "0110113719"},
        {"id": "insurer"},
        {"id": "suspended"},
        {"id": "nobody"},
        {"issued_ms": api.NOW_MS - 300_000},
        {"issued_ms": api.NOW_MS - 299_999},
        {"scopes": frozenset({Scope.INSURERS})},
        {"thumbprint": b"t" * 32},
    ]
    made = [tokens.make(key, msgspec.structs.replace(plain, **change)).encode() for change in changes]
    good = made[0]
    others = [
        b"Authorization:",
        b"Authorization: " + good,
        b"Authorization: Bearer",
        b"Authorization: Bearer  " + good,
        b"Authorization: bearer " + good,
        b"Authorization: BEARER " + good,
        b"authorization:Bearer " + good,
        b"Authorization: Bearer " + good[:-1],
        b"Authorization: Bearer " + good + b"A",
        b"Authorization: Bearer " + good + b" x",
        b"Authorization: Bearer\t" + good,
        b"Authorization: Basic eDp5",
        b"Authorization: Bearer sandbox-x",
        b"X-Other: x",
    ]
    return [b"Authorization: Bearer " + one for one in made] + others
