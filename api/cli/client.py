"""Owns how subcommands speak with a running server: where it is, one request, and its problems as errors."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

import msgspec

from api import instance, tls
from api.exits import CommandError, Exit
from engine.config import Config

TIMEOUT_SECONDS: Final = 30.0
IMPORT_TIMEOUT_SECONDS: Final = 3600.0
_CHUNK_BYTES: Final = 1 << 16
_EXITS: Final = {"input": Exit.USAGE, "http": Exit.USAGE, "registry": Exit.BUSY, "store": Exit.STORE, "key": Exit.STORE}


class ProblemError(CommandError):
    """The server refused; `problem` is its RFC 9457 document."""

    def __init__(self, exit_code: Exit, problem: dict[str, Any]) -> None:
        field = problem.get("field")
        detail = f"{field}: {problem.get('detail', '')}" if field else str(problem.get("detail", ""))
        super().__init__(exit_code, str(problem.get("code", "http")), detail)
        self.problem = problem


class Client:
    """One port of a running server. Raises CommandError (unreachable) and ProblemError (refused)."""

    def __init__(
        self, host: str, port: int, *, timeout: float = TIMEOUT_SECONDS, context: ssl.SSLContext | None = None
    ) -> None:
        scheme = "http" if context is None else "https"
        self.address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self._connection = (
            http.client.HTTPConnection(host, port, timeout=timeout)
            if context is None
            else http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        )

    def get(self, path: str) -> Any:
        """The decoded answer to a GET."""
        return self._ask("GET", path, None, {})

    def post_json(self, path: str, body: bytes) -> Any:
        """The decoded answer to JSON bytes."""
        return self._ask("POST", path, body, {"Content-Type": "application/json"})

    def send(self, method: str, path: str, value: object) -> Any:
        """The decoded answer to a JSON body."""
        return self._ask(method, path, msgspec.json.encode(value), {"Content-Type": "application/json"})

    def upload(self, path: str, body: Iterator[bytes], size: int, media_type: str) -> Any:
        """The decoded answer to a body that is sent in pieces."""
        return self._ask("POST", path, body, {"Content-Type": media_type, "Content-Length": str(size)})

    def _ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        try:
            self._connection.request(method, path, body, dict(headers))
            response = self._connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            detail = f"no answer from {self.address} ({type(error).__name__})"
            raise CommandError(Exit.UNREACHABLE, "server.unreachable", detail) from None
        value = msgspec.json.decode(content) if content else None
        if status >= 400:
            raise ProblemError(_exit_of(status, value), value if isinstance(value, dict) else {})
        return value


def check_client(config: Config, **options: Any) -> Client:
    """The check port of the server that runs on the data folder, else of the one that the settings name."""
    state = _running(config)
    port = state.check_port if state else config.port
    return Client(config.reached_at, port, context=check_context(config), **options)


def check_context(config: Config) -> ssl.SSLContext | None:
    """TLS as the check port speaks it, if it does. Raises ConfigError; CommandError if it lets no such client in."""
    if config.tls_client_ca is not None and config.tls_client == "required":
        # Else it would be told that no server answers.
        detail = "the check port lets in only clients with a certificate (tls_client_ca), and this command has none"
        raise CommandError(Exit.UNREACHABLE, "server.unreachable", detail)
    return tls.client_context(config)


def registry_client(config: Config, **options: Any) -> Client:
    """The registry port, likewise."""
    state = _running(config)
    return Client(config.registry_host, state.registry_port if state else config.registry_port_or_next, **options)


def query(path: str, **parameters: object) -> str:
    """A path with those parameters that are given."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """A file's content, piece by piece."""
    while piece := file.read(_CHUNK_BYTES):
        yield piece


def _running(config: Config) -> instance.ServerState | None:
    return instance.read_state(config.data_dir) if instance.is_running(config.data_dir) else None


def _exit_of(status: int, problem: object) -> Exit:
    code = str(problem.get("code", "")) if isinstance(problem, dict) else ""
    if status in (429, 503):
        return Exit.BUSY
    if code.startswith(("feed.", "insurer.")):
        return Exit.NEGATIVE
    return _EXITS.get(code.partition(".")[0], Exit.USAGE if status < 500 else Exit.DEFECT)
