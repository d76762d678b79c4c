"""Owns the judgement who asks: tokens and certificates to grants, and what a grant allows, for lane and general server.

With `callers = known` every request but the public ones needs a caller of the register. What a token or a certificate
allows is worked out once; from then on ext/grants remembers it, until it ends or the register changes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import hdrs, web
from cryptography import x509

from api.handlers.http import GRANT
from engine import clock, shm, tokens
from engine.assertions import Refused, judge
from engine.callers import Caller, Role, Scope
from engine.clock import Clock
from engine.config import Config
from engine.errors import (
    CallerGuessingError,
    CallerRateError,
    CallerScopeError,
    CallerUnknownError,
    ShikakuError,
    StoreMissingError,
)
from engine.keys import Keys
from engine.records import VERDICT_CODES, Verdict
from engine.register import CALLERS_MAX, Register
from engine.replays import Replays
from engine.revocations import Revocations
from ext import grants
from ext.grants import Gate, Grant

TOKENS_MAX: Final = 1 << 18
"""Tokens that a worker remembers: one of every institution."""
CERTIFICATES_MAX: Final = 1 << 16
CERTIFICATE_SECONDS: Final = 300
"""How long what an API key allows is remembered at most."""
QUIET_NS: Final = 600_000_000_000
"""How long nothing is recorded again of a caller whose misses have run out."""
POLICY: Final = "inquiries"
PUBLIC: Final = frozenset(
    {"/livez", "/readyz", "/version", "/docs", "/openapi.json", "/token", "/.well-known/smart-configuration"}
)
PUBLIC_BELOW: Final = ("/static/", "/problems/")
_SCHEME: Final = "bearer "

log = logging.getLogger("shikaku.callers")


class Permission(NamedTuple):
    """What stands behind a grant."""

    id: str
    scopes: frozenset[Scope]
    sees_all: bool = False
    """Whether receipts of others are shown, too."""


class Asked(NamedTuple):
    """What came of a request for a token: the token and its scopes, or the error as OAuth names it."""

    token: str = ""
    scopes: str = ""
    error: str = ""


class Keeper:
    """Knows callers, for one process. Raises StoreMissingError and what else opening the register raises.

    Args: memory: the folder on tmpfs beside the live index, for what workers share.
    """

    def __init__(self, config: Config, keys: Keys, memory: Path) -> None:
        self._config = config
        self._keys = keys
        self._clock = Clock(config.clock_fixed_ms)
        self._register = Register(config.callers_dir, key_id=keys.key_id)
        self._version = self._register.version
        memory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._replays = Replays(memory / "assertions", now=self._clock.now_ms() // 1000)
        self._segment = _shared(memory / "buckets")
        self._revocations = None
        if config.tls_client_crl is not None and config.tls_client_ca is not None:
            self._revocations = Revocations(config.tls_client_crl, config.tls_client_ca)
        self._certificates: dict[bytes, Grant | None] = {}
        self.on_guessing: Callable[[bytes], object] = lambda caller: None
        """Told of a caller whose misses have run out."""
        rate = int(1e9 / config.rate_per_second), config.rate_burst
        misses = int(3600e9 / config.misses_per_hour), config.misses_burst
        self.gate = Gate(
            self._admit,
            self.of_connection,
            clock.monotonic_ns,
            self._guessed,
            grants.Buckets(self._segment.buffer, rate=rate, misses=misses, quiet_ns=QUIET_NS),
            _policy(rate),
            miss_verdict=VERDICT_CODES[Verdict.NOT_FOUND],
            tokens_max=TOKENS_MAX,
            now_ms=self._clock.now_ms(),
        )

    def close(self) -> None:
        """Let go of the register. The buckets stay mapped until the process ends: the lane may still look at them."""
        self._register.close()
        self._replays.close()

    def tend(self) -> None:
        """Notice what has changed; to be called each second, and costs microseconds."""
        self.gate.now_ms = self._clock.now_ms()
        version = self._register.version
        try:
            changed = self._revocations is not None and self._revocations.refresh()
        except ShikakuError as error:
            log.error("the list of revoked certificates is not taken: %s", error.detail)
            changed = False
        if version != self._version or changed:
            self._version = version
            self._certificates.clear()
            self.gate.forget()

    # --- requests ---------------------------------------------------------------------------------------------------

    def admit(self, request: web.BaseRequest) -> None:
        """Let a request in, with its Grant, and take one inquiry from its caller's bucket.

        Raises: CallerUnknownError, CallerScopeError, CallerRateError, CallerGuessingError.
        """
        path = request.path
        if path in PUBLIC or path.startswith(PUBLIC_BELOW):
            return
        self.gate.now_ms = self._clock.now_ms()
        grant = request[GRANT] = self._grant(request)
        needed = _scope_of(path)
        if needed is not None and needed not in grant.who.scopes:
            raise CallerScopeError(f"this needs the scope {needed}")
        self._take(grant)

    def _grant(self, request: web.BaseRequest) -> Grant:
        thumbprint, own = self.of_connection(request.transport)
        given = request.headers.getall(hdrs.AUTHORIZATION, ())
        if not given:
            if own is None:
                raise CallerUnknownError("an access token or a client certificate is needed")
            return own
        grant = None
        if len(given) == 1 and given[0][: len(_SCHEME)].lower() == _SCHEME and given[0].isascii():
            grant = self.gate.find(given[0][len(_SCHEME) :].encode("ascii"))
        if (
            grant is None
            or (grant.thumbprint and grant.thumbprint != thumbprint)
            or (own is not None and own.caller != grant.caller)
        ):
            raise CallerUnknownError("the access token is not good, or not any more", field="Authorization")
        return grant

    def _take(self, grant: Grant) -> None:
        buckets, now = self.gate.buckets, clock.monotonic_ns()
        if wait := buckets.wait(grant.slot, now):
            raise CallerRateError("too many inquiries", retry_after_ms=-(-wait // 1_000_000))
        if wait := buckets.miss_wait(grant.slot, now):
            raise CallerGuessingError("too many inquiries about nobody", retry_after_ms=-(-wait // 1_000_000))
        buckets.charge(grant.slot, now, 1)

    # --- what is shown ----------------------------------------------------------------------------------------------

    def _admit(self, token: bytes) -> Grant | None:
        """What a token that is not remembered allows."""
        text = token.decode("ascii", "replace")
        if text.startswith(tokens.API_KEY_PREFIX):
            return self._of_api_key(text)
        found = tokens.read(self._keys.access_token_key, text)
        caller = None if found is None else self._register.get(found.id)
        if found is None or caller is None or found.issued_ms < caller.tokens_from_ms:
            return None
        return _grant_of(caller, found.scopes, found.expires_ms, found.thumbprint)

    def _of_api_key(self, text: str) -> Grant | None:
        if not self._config.sandbox:
            return None
        caller = self._register.by_api_key(tokens.api_key_hash(self._keys.api_key_key, text))
        until = self._clock.now_ms() + 1000 * CERTIFICATE_SECONDS
        return None if caller is None else _grant_of(caller, frozenset(Scope), until)

    def of_connection(self, transport: Any) -> tuple[bytes, Grant | None]:
        """Thumbprint of the client certificate that a connection showed (b"" without), and what it allows."""
        shown = None if transport is None else transport.get_extra_info("ssl_object")
        data = None if shown is None else shown.getpeercert(binary_form=True)
        if not data:
            return b"", None
        thumbprint = hashlib.sha256(data).digest()
        if thumbprint not in self._certificates:
            if len(self._certificates) >= CERTIFICATES_MAX:
                self._certificates.clear()
            self._certificates[thumbprint] = self._of_certificate(thumbprint, data)
        grant = self._certificates[thumbprint]
        if not self._is_accepted(thumbprint, data):
            return b"", None
        return thumbprint, grant

    def _is_accepted(self, thumbprint: bytes, data: bytes) -> bool:
        if self._revocations is None:
            return True
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        return self._revocations.accepts(x509.load_der_x509_certificate(data), now)

    def _of_certificate(self, thumbprint: bytes, data: bytes) -> Grant | None:
        certificate = x509.load_der_x509_certificate(data)
        caller = self._register.by_thumbprint(thumbprint)
        if caller is None:
            caller = self._register.by_subject(certificate.subject.rfc4514_string())
        if caller is None:
            return None
        ends = int(certificate.not_valid_after_utc.timestamp() * 1000)
        return _grant_of(caller, frozenset(Scope), ends, thumbprint)

    def _guessed(self, grant: Grant) -> None:
        log.warning("a caller's inquiries are about nobody too often: %s", grant.caller.decode("ascii"))
        # It is told from within an answer, which must not fail for it.
        with suppress(Exception):
            self.on_guessing(grant.caller)

    # --- tokens -----------------------------------------------------------------------------------------------------

    def give_token(self, assertion: str, scope: str | None, client_id: str | None, request: web.BaseRequest) -> Asked:
        """A token for whoever signed the assertion, bound to the certificate of the connection if it showed one."""
        now_ms = self._clock.now_ms()
        try:
            claims = judge(
                assertion,
                find=self._register.get,
                audience=lambda name: name == self.address(request) + "/token",
                now=now_ms / 1000,
            )
        except Refused:
            return Asked(error="invalid_client")
        if client_id is not None and client_id != claims.id:
            return Asked(error="invalid_client")
        caller = self._register.get(claims.id)
        thumbprint, own = self.of_connection(request.transport)
        if caller is None or (own is not None and own.caller != caller.id.encode()):
            return Asked(error="invalid_client")
        wanted = caller.scopes if scope is None else tuple(scope.split(" "))
        if not wanted or not set(wanted) <= set(caller.scopes):
            return Asked(error="invalid_scope")
        if not self._replays.accept(claims, now_ms // 1000):
            return Asked(error="invalid_client")
        scopes = frozenset(Scope(one) for one in wanted)
        token = tokens.Token(caller.id, scopes, now_ms, tokens.LIFETIME_SECONDS, thumbprint)
        return Asked(tokens.make(self._keys.access_token_key, token), " ".join(sorted(scopes)))

    def address(self, request: web.BaseRequest) -> str:
        """How this port is called: as the settings say, else as the request, which names the loopback, does."""
        if self._config.public_url is not None:
            return self._config.public_url
        scheme = "http" if self._config.tls_certificate is None else "https"
        return f"{scheme}://{request.headers.get(hdrs.HOST, '').lower()}"


def open_keeper(config: Config, keys: Keys, memory: Path) -> Keeper | None:
    """Who may ask, if that is asked; None where everybody on the loopback may."""
    if config.callers == "open":
        return None
    for _ in range(2):
        with suppress(StoreMissingError):
            return Keeper(config, keys, memory)
        prepare(config, keys)
    return Keeper(config, keys, memory)


def prepare(config: Config, keys: Keys) -> None:
    """Make an empty register if there is none: nobody is let in, until somebody is added."""
    from engine.register import RegisterWriter

    if config.callers == "known":
        RegisterWriter(config.callers_dir, key_id=keys.key_id).close()


def _grant_of(caller: Caller, scopes: frozenset[Scope], expires_ms: int, thumbprint: bytes = b"") -> Grant | None:
    if not caller.is_active:
        return None
    allowed = scopes & frozenset(caller.scopes)
    return Grant(
        caller.id.encode("ascii"),
        caller.number,
        expires_ms,
        thumbprint,
        Scope.CHECK in allowed,
        Permission(caller.id, allowed, caller.role is Role.OVERSIGHT),
    )


def _scope_of(path: str) -> Scope | None:
    """What a path asks for; None where there is nothing to be had."""
    if path == "/v1/eligibility/check":
        return Scope.CHECK
    if path == "/v1/eligibility/batch":
        return Scope.BATCH
    return Scope.INSURERS if path == "/v1/insurers" or path.startswith("/v1/insurers/") else None


def _policy(rate: tuple[int, int]) -> bytes:
    interval, burst = rate
    window = max(1, -(-interval * burst // 1_000_000_000))
    return f'\r\nRateLimit-Policy: "{POLICY}";q={burst};w={window}\r\nRateLimit: "{POLICY}";r='.encode()


def _shared(file: Path) -> shm.Segment:
    """The buckets of this machine, made by whoever comes first."""
    size = CALLERS_MAX * grants.SLOT_BYTES
    with suppress(FileExistsError):
        return shm.create(file, size)
    while True:
        # Whoever makes it has not given it its length yet.
        with suppress(ValueError):
            found = shm.open_(file, writable=True)
            if found.size_bytes == size:
                return found
            found.close()
