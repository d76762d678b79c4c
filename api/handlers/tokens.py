"""Owns POST /token and /.well-known/smart-configuration: how a system gets an access token (SMART Backend Services).

Errors are OAuth's (RFC 6749 5.2): a fixed word and a fixed sentence, nothing of what was sent. Why an assertion is not
good is not told: whoever signs honest ones finds the rules in docs/SECURITY.md.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from api.gate import Keeper
from api.handlers.http import Desk, Handler, read_body, require_accepted, require_media_type
from engine.callers import Algorithm, Scope
from engine.tokens import LIFETIME_SECONDS

FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"
FORM_BYTES_MAX: Final = 16_384
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SENTENCES: Final = {
    "invalid_request": "a parameter is missing, unknown or repeated",
    "invalid_client": "the client assertion is not good, was used before, or is of nobody who is let in",
    "invalid_scope": "a scope is unknown, or not this client's",
    "unsupported_grant_type": "the grant type must be client_credentials",
}


class TokenRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The form that asks for a token."""

    grant_type: str
    client_assertion_type: str
    client_assertion: str
    scope: str | None = None
    client_id: str | None = None


class TokenAnswer(msgspec.Struct, frozen=True):
    """An access token; it is good for `expires_in` seconds."""

    access_token: str
    scope: str
    expires_in: int = LIFETIME_SECONDS
    token_type: Literal["Bearer"] = "Bearer"


class OAuthError(msgspec.Struct, frozen=True):
    """Why there is no token (RFC 6749 5.2)."""

    error: Literal["invalid_request", "invalid_client", "invalid_scope", "unsupported_grant_type"]
    error_description: str


class SmartConfiguration(msgspec.Struct, frozen=True):
    """What this server offers to systems that want a token."""

    token_endpoint: str
    grant_types_supported: tuple[str, ...] = ("client_credentials",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("private_key_jwt",)
    token_endpoint_auth_signing_alg_values_supported: tuple[str, ...] = tuple(Algorithm)
    scopes_supported: tuple[str, ...] = tuple(Scope)
    capabilities: tuple[str, ...] = ("client-confidential-asymmetric",)
    tls_client_certificate_bound_access_tokens: bool = True


def configuration(desk: Desk, keeper: Keeper) -> Handler:
    """The handler that tells what there is."""

    async def handle(request: web.Request) -> web.StreamResponse:
        require_accepted(request, JSON)
        found = SmartConfiguration(keeper.address(request) + "/token")
        return desk.respond(request, msgspec.json.encode(found))

    return handle


def token(desk: Desk, keeper: Keeper) -> Handler:
    """The handler that gives tokens."""

    async def handle(request: web.Request) -> web.StreamResponse:
        require_media_type(request, FORM)
        require_accepted(request, JSON)
        found = read_form(await read_body(request, FORM_BYTES_MAX))
        if isinstance(found, str):
            return _refused(desk, request, found)
        given = keeper.give_token(found.client_assertion, found.scope, found.client_id, request)
        if given.error:
            return _refused(desk, request, given.error)
        return desk.respond(request, msgspec.json.encode(TokenAnswer(given.token, given.scopes)))

    return handle


def read_form(body: bytes) -> TokenRequest | str:
    """The form, or the word for what is wrong with it."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=8
        )
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            return "invalid_request"
        found = msgspec.convert(dict(pairs), TokenRequest)
    except (ValueError, msgspec.ValidationError):
        return "invalid_request"
    if found.grant_type != "client_credentials":
        return "unsupported_grant_type"
    return found if found.client_assertion_type == ASSERTION_TYPE else "invalid_client"


def _refused(desk: Desk, request: web.Request, error: str) -> web.Response:
    answer = {"error": error, "error_description": _SENTENCES[error]}
    return desk.respond(request, msgspec.json.encode(answer), status=401 if error == "invalid_client" else 400)
