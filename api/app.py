"""Owns the two aiohttp applications: which path and method leads to which handler, and how connections are served.

The check port answers inquiries and holds store and index read-only; the registry port takes registrations.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from aiohttp import hdrs, web

from api import openapi, problems
from api.commit import Commits
from api.gate import Keeper
from api.handlers import checks, insurers, pages, tokens
from api.handlers.batch import Batches
from api.handlers.http import Desk, Handler, Switch
from api.handlers.receipts import Receipts
from api.handlers.registration import Registrations
from api.lane import Lane
from api.recorder import Recorder
from api.wire import reading, writing
from engine.clock import Clock
from engine.config import Config
from engine.ingest.registry import Registry
from engine.records import Insurer
from engine.verification import Verifier

SWITCH: Final = web.AppKey("switch", Switch)
"""Where a process says that it is ready, draining, or must not go on: `app[SWITCH].draining = True`."""
_DESK: Final = web.AppKey("desk", Desk)
_LANE: Final = web.AppKey("lane", Lane)
RECORDER: Final = web.AppKey("recorder", Recorder)
"""Where answers are recorded, if they are."""
KEEPER: Final = web.AppKey("keeper", Keeper)
"""Who may ask, if that is asked."""
_HERE: Final = web.AppKey("here", object)
"""Whether a Host header names this machine."""
_HOT: Final = web.AppKey("hot", object)
"""The handler of checks, for connections that find it without the router."""

LINGERING_SECONDS: Final = 2.0
"""How long the rest of a body that nobody wants is still read, so that the client sees its answer."""

Route = tuple[str, str, Handler]


def check_app(
    verifier: Verifier, config: Config, recorder: Recorder | None = None, keeper: Keeper | None = None
) -> web.Application:
    """The application of a check worker. Every answer is recorded, if there is somewhere to.

    Args: keeper: who may ask; it must be given if callers are to be known.
    """
    if (keeper is None) is not (config.callers == "open"):
        raise ValueError("known callers need their keeper")
    switch = Switch()
    desk = Desk(switch)
    today = Clock(config.clock_fixed_ms).today
    reader = reading.Reader(policy=config.inquiry_check_digits, today=today, insurer=verifier.insurer)
    writer = writing.Writer(insurer=verifier.insurer)
    answerer = checks.Answerer(
        verifier,
        reader,
        writer,
        looks_first=verifier.looks_first(config.cold_reads),
        recorder=recorder,
        gate=None if keeper is None else keeper.gate,
    )
    check = checks.check(desk, answerer)
    routes: list[Route] = [
        ("POST", checks.PATH, check),
        ("POST", "/v1/eligibility/batch", Batches(desk, verifier, reader, writer, answerer).handle),
        ("GET", "/v1/insurers", insurers.listing(desk, verifier.insurers)),
        ("GET", "/v1/insurers/{number}", insurers.one(desk, verifier.insurer)),
    ]
    if config.audit != "off":
        receipts = Receipts(desk, config.audit_dir)
        routes.append(("GET", "/v1/receipts/{id}", receipts.handle))
    if keeper is not None:
        routes += [
            ("POST", "/token", tokens.token(desk, keeper)),
            ("GET", "/.well-known/smart-configuration", tokens.configuration(desk, keeper)),
        ]
    routes = [(method, path, _without_parameters(handler)) for method, path, handler in routes]
    app = _application(desk, switch, routes, "check")
    app[_HOT] = check
    if config.audit != "off":
        app.on_cleanup.append(_closed(receipts))
    here = app[_HERE] = hosts_of(config)
    if keeper is not None:
        _keep(app, desk, keeper, recorder)
    if recorder is not None:
        app[RECORDER] = recorder
        app.on_startup.append(_started(recorder))
        app.on_cleanup.append(_closed(recorder))
    if config.express_lane:
        app[_LANE] = Lane(desk, answerer, here)
    return app


def _keep(app: web.Application, desk: Desk, keeper: Keeper, recorder: Recorder | None) -> None:
    """Have requests admitted, and what is odd about callers recorded."""
    app[KEEPER], desk.gate = keeper, keeper.gate
    if recorder is not None:
        keeper.on_guessing = lambda caller: recorder.event(caller, b"guessing")

    async def close(app: web.Application) -> None:
        keeper.close()

    app.on_cleanup.append(close)


def _started(recorder: Recorder) -> Callable[[web.Application], Awaitable[None]]:
    async def start(app: web.Application) -> None:
        recorder.start()

    return start


def _closed(closed: Recorder | Receipts) -> Callable[[web.Application], Awaitable[None]]:
    async def close(app: web.Application) -> None:
        closed.close()

    return close


def registry_app(commits: Commits, registry: Registry, config: Config) -> web.Application:
    """The application of the registry process. Closes `commits` (not `registry`) when it is cleaned up."""
    switch = Switch()
    desk = Desk(switch)

    def find(number: str) -> Insurer | None:
        return registry.insurer(number)

    writes = Registrations(desk, commits, find, config)
    routes: list[Route] = [
        ("GET", "/v1/insurers", insurers.listing(desk, registry.insurers)),
        ("GET", "/v1/insurers/{number}", insurers.one(desk, find)),
        ("PUT", "/v1/insurers/{number}", writes.put_insurer),
        ("POST", "/v1/insurers/{number}/qualifications", writes.post_operations),
        ("PUT", "/v1/insurers/{number}/qualifications", writes.put_qualifications),
        ("POST", "/v1/insurers/{number}/feeds", writes.post_feed),
        ("POST", "/v1/feeds", writes.post_operator_feed),
    ]
    app = _application(desk, switch, routes, "registry")

    async def close(app: web.Application) -> None:
        commits.close()

    app.on_cleanup.append(close)
    return app


def _application(desk: Desk, switch: Switch, routes: list[Route], port: str) -> web.Application:
    app = web.Application(client_max_size=0)
    app[SWITCH], app[_DESK] = switch, desk
    _add_routes(app, desk, [*routes, *_common_routes(desk, switch, port)])
    return app


def _common_routes(desk: Desk, switch: Switch, port: str) -> Iterable[Route]:
    return [
        ("GET", "/livez", pages.livez(desk)),
        ("GET", "/readyz", pages.readyz(desk, switch)),
        ("GET", "/version", pages.version_page(desk, port)),
        ("GET", "/openapi.json", pages.openapi(desk, openapi.document(port))),
        ("GET", "/docs", pages.docs(desk)),
        ("GET", "/problems/{code}", pages.problem_page(desk)),
        *(("GET", f"/static/{name}", pages.static(desk, name)) for name in pages.STATIC),
    ]


def _add_routes(app: web.Application, desk: Desk, routes: list[Route]) -> None:
    """Add the routes; every other method of their paths is a 405 that names the right ones, all else is a 404."""
    paths: dict[str, list[tuple[str, Handler]]] = {}
    for method, path, handler in routes:
        paths.setdefault(path, []).append((method, desk.guarded(handler)))
    for path, handlers in paths.items():
        allowed = [method for method, _ in handlers]
        for method, handler in handlers:
            app.router.add_route(method, path, handler, expect_handler=desk.expect)
            if method == "GET":
                app.router.add_route("HEAD", path, handler, expect_handler=desk.expect)
                allowed.append("HEAD")
        app.router.add_route("*", path, desk.refuse(_method_error(allowed)), expect_handler=desk.expect)
    app.router.add_route("*", "/{rest:.*}", desk.refuse(_not_found), expect_handler=desk.expect)


def _without_parameters(handler: Handler) -> Handler:
    """Refuse query parameters: addresses are kept in logs and histories, and must not carry what a body does."""

    async def run(request: web.Request) -> web.StreamResponse:
        if request.query_string:
            raise problems.ParameterError("known parameters: none")
        return await handler(request)

    return run


def _method_error(allowed: list[str]) -> Callable[[], problems.HttpError]:
    names = ", ".join(sorted(allowed))
    return lambda: problems.MethodError(f"allowed here: {names}", headers={"Allow": names})


def _not_found() -> problems.HttpError:
    return problems.NotFoundError("there is nothing at this path")


# --- connections ----------------------------------------------------------------------------------------------------


class Runner(web.AppRunner):
    """Serves an application of this module: as web.AppRunner, but also what is not HTTP gets a problem for an answer.

    aiohttp's own error answers and log lines quote raw header bytes; here they never do.
    """

    __slots__ = ("_connection_settings",)

    def __init__(self, app: web.Application, **settings: Any) -> None:
        settings = {
            "access_log": None,
            "logger": _QUIET,
            "auto_decompress": False,
            "keepalive_timeout": 75.0,
            "lingering_time": LINGERING_SECONDS,
            **settings,
        }
        super().__init__(app, **settings)
        self._connection_settings = {
            name: value for name, value in settings.items() if name not in ("shutdown_timeout", "handle_signals")
        }

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self.app, self._connection_settings)


class _Server(web.Server):
    """Makes connections; hands checks to their handler at once and everything else to the application's router."""

    def __init__(self, server: web.Server, app: web.Application, settings: dict[str, Any]) -> None:
        handler: Any = server.request_handler
        if _HOT in app:
            handler = _shortcut(app[_HOT], handler)
        if KEEPER in app:
            handler = _for_callers(app[KEEPER], app[_DESK], handler)
        handler = _for_this_host(app[_DESK], handler, app.get(_HERE, is_this_host))
        super().__init__(handler, request_factory=server.request_factory, **settings)
        self._desk = app[_DESK]
        self._settings = settings
        self._lane = app.get(_LANE)

    def __call__(self) -> Any:
        """The protocol of a new connection."""
        return self._general() if self._lane is None else self._lane.connection(self._general)

    def _general(self) -> web.RequestHandler:
        connection = _Connection(self, loop=self._loop, **self._settings)
        connection.desk = self._desk
        return connection

    @property
    def connections(self) -> list[Any]:
        """All that are open, in the lane too."""
        return [*super().connections, *(self._lane.connections if self._lane is not None else ())]

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close all connections, once their requests are answered."""
        if self._lane is not None:
            self._lane.close()
            await self._lane.settled()
        await super().shutdown(timeout)


# Both of these are plain functions that hand on an awaitable: a coroutine of their own would cost each check a frame.


def _shortcut(hot: Any, routed: Any) -> Any:
    """The router costs more than the check: requests spelt exactly like one go past it."""

    def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        ordinary = request.raw_path == checks.PATH and request.method == "POST" and hdrs.EXPECT not in request.headers
        found: Awaitable[web.StreamResponse] = hot(request) if ordinary else routed(request)
        return found

    return handle


def _for_callers(keeper: Keeper, desk: Desk, handler: Any) -> Any:
    """Let in who may ask; all others get a problem."""

    async def refuse(request: web.BaseRequest, error: Exception) -> web.StreamResponse:
        return desk.problem(request, error)

    def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        try:
            keeper.admit(request)
        except Exception as error:
            return refuse(request, error)
        found: Awaitable[web.StreamResponse] = handler(request)
        return found

    return handle


def _for_this_host(desk: Desk, handler: Any, is_here: Any) -> Any:
    """Answer only what is addressed to this machine by name.

    Where callers are not known, a page that has its own name resolved to 127.0.0.1 must not reach them through a
    browser.
    """

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        return desk.problem(request, problems.HostError("this is not the host asked for", field="Host"))

    def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        here = is_here(request.headers.get(hdrs.HOST))
        found: Awaitable[web.StreamResponse] = handler(request) if here else refuse(request)
        return found

    return handle


@lru_cache(maxsize=256)
def is_this_host(given: str | None) -> bool:
    """Whether a Host header names this machine."""
    return given is not None and _THIS_HOST.fullmatch(given) is not None


def hosts_of(config: Config) -> Callable[[str | None], bool]:
    """Whether a Host header names this machine: the loopback, or what the settings call it."""
    names = {config.host if ":" not in config.host else f"[{config.host}]"}
    if config.public_url is not None:
        names.add(config.public_url.partition("://")[2].lower())
    names |= {re.sub(r":[0-9]+$", "", name) for name in names if not name.endswith("]")}
    if config.is_on_the_loopback and config.public_url is None:
        return is_this_host

    def is_here(given: str | None) -> bool:
        if is_this_host(given):
            return True
        return given is not None and (given.lower() in names or re.sub(r":[0-9]{1,5}$", "", given.lower()) in names)

    return is_here


_THIS_HOST: Final = re.compile(r"(?:127\.0\.0\.1|\[::1\]|localhost)(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)


class _Connection(web.RequestHandler):
    __slots__ = ("_held", "desk")

    desk: Desk

    def __init__(self, server: web.Server, **settings: Any) -> None:
        self._held = False
        super().__init__(server, **settings)

    def pause_reading(self) -> None:
        self._held = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume what was paused. aiohttp asks for it after every body read, and parses nothing all over again."""
        if self._held:
            self._held = False
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is answered when a request cannot be read, or a handler has failed in spite of everything."""
        if request.writer.output_size or isinstance(exc, ConnectionError):
            raise ConnectionAbortedError from None
        if status < 500:
            error: BaseException = problems.ProtocolError("the request is not readable as HTTP/1.1")
        else:
            error = exc or problems.UnexpectedError("a request took too long")
        response = self.desk.problem(request, error)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        error = kwargs.get("exc_info")
        _QUIET.error("a connection failed: %s", type(error).__name__)


_QUIET: Final = logging.getLogger("shikaku.http")
