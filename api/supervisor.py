"""Owns all processes: binds the ports, starts one registry and N check workers, restarts what dies, drains.

A plain synchronous process without threads, so that a fork is cheap and safe at any time: everything heavy is
imported before the first fork, and a killed worker is back within milliseconds. Invariants:

- Both listening sockets are bound once and inherited. While a process is being restarted, connections wait in the
  kernel; none is refused.
- The lock on `server.lock` is held as long as any process of this instance lives, so that two instances never
  share a data folder.
- The registry comes first (it recovers store and index). Once it has been ready, workers go on without it.
- A damaged index is no reason to stop: it is a cache. The registry, which may have mapped the damage, is killed, and
  the next one makes the index anew before workers are started. Damaged records are one.
- While a bulk load has the store (`load.lock`), no registry is started.
- No child outlives the supervisor, even one that is killed.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api.exits import CommandError, Exit, die_with_parent, exit_of, line_of, say
from api.instance import ServerState, forget_state, hold_lock, is_loading, write_state
from api.serving import BACKLOG
from engine import clock
from engine.config import Config
from engine.errors import ShikakuError

YOUNG_NS: Final = 2_000_000_000
"""A process that dies younger than this died quickly: the next one is started later and later."""
BACKOFF_FIRST_NS: Final = 50_000_000
BACKOFF_MAX_NS: Final = 5_000_000_000
QUICK_DEATHS_READY_MAX: Final = 4
"""Beyond this, quick deaths of a process that had become ready do not count: it served, and so will the next."""
CORRUPT_DEATHS_MAX: Final = 3
"""Quick deaths in a row by corruption after which nothing is served any more."""
INDEX_DAMAGES_MAX: Final = 4
"""Times that the index is found damaged, each soon after it was made anew, after which the machine is not trusted."""
INDEX_SOUND_NS: Final = 60_000_000_000
"""An index that lasted this long was good: damage found later is counted from one."""
LOAD_POLL_NS: Final = 250_000_000
"""How often is looked whether a bulk load has ended."""
SNAPSHOT_SECONDS: Final = 60.0
"""What the registry gets beyond drain_seconds to save the index."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

Job = Callable[[socket.socket, str, Callable[[], None]], Exit]
"""What a child does: serve on the socket under the name given, and call the last argument once it answers."""


@dataclass(eq=False)
class Post:
    """A place that must always be taken by one process."""

    name: str
    job: Job
    listener: socket.socket
    pid: int | None = None
    ready: bool = False
    ready_pipe: int | None = None
    started_ns: int = 0
    ready_ns: int = 0
    vacant_until_ns: int = 0
    quick_deaths: int = 0
    corrupt_deaths: int = 0


class Supervisor:
    """One running instance. Raises CommandError or StoreLockedError where it cannot start."""

    def __init__(self, config: Config, *, registry: Job, worker: Job) -> None:
        self._config = config
        self._started_at_ms = clock.Clock().now_ms()
        self._lock = hold_lock(config.data_dir)
        check_socket = listen(config.host, config.port)
        registry_socket = listen(config.registry_host, config.registry_port_or_next)
        self._registry = Post("registry", registry, registry_socket)
        self._workers = [Post(f"worker-{n}", worker, check_socket) for n in range(1, config.worker_count + 1)]
        self._leaving: dict[int, Post] = {}
        """Processes whose post is being, or has been, taken over by a new one."""
        self._rolling: list[Post] = []
        """Posts still to be renewed by a rolling restart."""
        self._selector = selectors.PollSelector()
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._serving = False
        self._stopping = False
        self._registry_told = False
        self._loading = False
        self._reindexing = False
        """The index is damaged: no worker is started until a new registry is ready, which has made it anew."""
        self._index_damages = 0
        self._kill_at_ns: int | None = None
        self._exit_code = Exit.OK

    def addresses(self) -> dict[str, str]:
        """Where checks and the registry are reached."""
        scheme = "http" if self._config.tls_certificate is None else "https"
        ports = {
            "checks": (scheme, self._config.host, self._workers[0].listener),
            "registry": ("http", self._config.registry_host, self._registry.listener),
        }
        return {
            name: f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
            for name, (scheme, host, listener) in ports.items()
        }

    def run(self) -> Exit:
        """Start everything and watch it until SIGTERM or SIGINT, then drain. Returns the exit code."""
        self._selector.register(self._wakeup_read, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _handled_by_wakeup)
        gc.collect()
        gc.freeze()
        try:
            while not self._over():
                self._fill_vacancies()
                self._roll()
                self._wait()
                self._reap()
                self._press()
        finally:
            signal.set_wakeup_fd(-1)
            forget_state(self._config.data_dir)
        return self._exit_code

    # --- starting ---------------------------------------------------------------------------------------------

    def _posts(self) -> list[Post]:
        return [self._registry, *self._workers]

    def _fill_vacancies(self) -> None:
        now = clock.monotonic_ns()
        for post in self._posts() if not self._stopping else ():
            due = post is self._registry or (self._serving and not self._reindexing)
            if due and post.pid is None and post.vacant_until_ns <= now and not self._kept_by_a_load(post):
                self._start(post)

    def _kept_by_a_load(self, post: Post) -> bool:
        """Whether a bulk load has the place of the registry; it is looked at again in a moment."""
        if post is not self._registry:
            return False
        before, self._loading = self._loading, is_loading(self._config.data_dir)
        if self._loading:
            post.vacant_until_ns = clock.monotonic_ns() + LOAD_POLL_NS
        if self._loading != before:
            say("supervisor", "a bulk load has the store: no registry" if self._loading else "the bulk load has ended")
        return self._loading

    def _start(self, post: Post) -> None:
        """Fork a process for a post. Signals are held back until the child has its own handlers."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        supervisor_pid = os.getpid()
        post.pid = os.fork()
        if post.pid == 0:
            self._be_child(post, write_end, supervisor_pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(write_end)
        post.ready, post.ready_pipe, post.started_ns = False, read_end, clock.monotonic_ns()
        self._selector.register(read_end, selectors.EVENT_READ, post)

    def _be_child(self, post: Post, ready_pipe: int, supervisor_pid: int) -> None:
        code: int = Exit.DEFECT
        try:
            die_with_parent(supervisor_pid, signal.SIGKILL)
            self._forget_supervising(post)

            def ready() -> None:
                os.write(ready_pipe, b"1")
                os.close(ready_pipe)

            code = post.job(post.listener, post.name, ready)
        except BaseException as error:
            say(post.name, line_of(error))
            code = exit_of(error)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _forget_supervising(self, own: Post) -> None:
        """In a child: default signals, no descriptor of the supervisor or of the other port."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        faulthandler.enable()
        for descriptor in (self._wakeup_read, self._wakeup_write, *(post.ready_pipe for post in self._posts())):
            if descriptor is not None:
                os.close(descriptor)
        for listener in {self._registry.listener, self._workers[0].listener} - {own.listener}:
            listener.close()

    # --- watching ---------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        for key, _ in self._selector.select(self._patience_seconds()):
            if key.data is None:
                for number in os.read(self._wakeup_read, 512):
                    self._on_signal(number)
            else:
                self._on_ready_pipe(key.data)

    def _patience_seconds(self) -> float | None:
        now = clock.monotonic_ns()
        instants = [post.vacant_until_ns for post in self._posts() if post.pid is None and not self._stopping]
        if not self._serving or self._reindexing:
            instants = instants[:1] if self._registry.pid is None else []
        if self._kill_at_ns is not None:
            instants.append(self._kill_at_ns)
        return max(0.0, (min(instants) - now) / 1e9) if instants else None

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP and self._serving and not self._stopping:
            self._rolling = list(self._workers)
        elif number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping:
                say("supervisor", "a second signal: killing what is left")
                self._kill_at_ns = clock.monotonic_ns()
            else:
                self._stop(Exit.OK, "draining; a second signal kills")

    def _on_ready_pipe(self, post: Post) -> None:
        assert post.ready_pipe is not None
        post.ready = os.read(post.ready_pipe, 1) == b"1"
        self._close_ready_pipe(post)
        if not post.ready:
            return
        for pid, former in self._leaving.items():
            if former is post:
                os.kill(pid, signal.SIGTERM)
        post.ready_ns = clock.monotonic_ns()
        if post is self._registry:
            self._serving, self._reindexing = True, False
        say("supervisor", f"{post.name} ready after {(clock.monotonic_ns() - post.started_ns) // 1_000_000} ms")
        self._publish_state()

    def _close_ready_pipe(self, post: Post) -> None:
        if post.ready_pipe is not None:
            self._selector.unregister(post.ready_pipe)
            os.close(post.ready_pipe)
            post.ready_pipe = None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._leaving.pop(pid, None) is None:
                post = next(post for post in self._posts() if post.pid == pid)
                self._on_death(post, os.waitstatus_to_exitcode(status))

    def _on_death(self, post: Post, code: int) -> None:
        """Leave the post vacant: at once refilled after a long life, later and later after quick deaths."""
        now = clock.monotonic_ns()
        young = now - post.started_ns < YOUNG_NS
        counted = min(post.quick_deaths + 1, QUICK_DEATHS_READY_MAX) if post.ready else post.quick_deaths + 1
        post.pid, post.ready = None, False
        self._close_ready_pipe(post)
        if self._stopping:
            return
        say("supervisor", f"{post.name} ended ({_describe(code)}), restarting it")
        post.quick_deaths = counted if young else 0
        post.corrupt_deaths = post.corrupt_deaths + 1 if young and code == Exit.CORRUPTION else 0
        backoff = BACKOFF_FIRST_NS << min(post.quick_deaths - 2, 10) if post.quick_deaths > 1 else 0
        post.vacant_until_ns = now + min(backoff, BACKOFF_MAX_NS)
        if post.corrupt_deaths >= CORRUPT_DEATHS_MAX:
            self._stop(Exit.CORRUPTION, "stored bytes are corrupt: serving nothing; run `shikaku fsck`")
        elif code == Exit.INDEX:
            self._on_index_damage(post)
        elif not self._serving and code > 0 and code != Exit.CORRUPTION:
            self._stop(Exit(code) if code in set(Exit) else Exit.DEFECT, "the registry cannot start")

    def _on_index_damage(self, finder: Post) -> None:
        """Have the index made anew, unless that has happened since the process that found the damage was started."""
        registry = self._registry
        is_old_news = finder is not registry and registry.ready and finder.started_ns < registry.ready_ns
        if self._reindexing and finder is not registry or is_old_news:
            return
        if not self._reindexing and clock.monotonic_ns() - registry.ready_ns > INDEX_SOUND_NS:
            self._index_damages = 0
        self._index_damages += 1
        self._reindexing = True
        if self._index_damages >= INDEX_DAMAGES_MAX:
            self._stop(Exit.INDEX, "the index is damaged again and again: serving nothing; test the memory")
        elif registry.pid is not None:
            say("supervisor", "the index is damaged: restarting the registry, which makes it anew")
            os.kill(registry.pid, signal.SIGKILL)

    def _roll(self) -> None:
        """Rolling restart: renew one worker after the other; the old one leaves when the new one is ready."""
        if self._stopping or self._reindexing or not self._rolling or not all(post.ready for post in self._workers):
            return
        post = self._rolling.pop(0)
        assert post.pid is not None
        self._leaving[post.pid] = post
        self._start(post)

    def _publish_state(self) -> None:
        """Tell the command line where everything is; a full disk must not stop the server."""
        state = ServerState(
            host=self._config.host,
            check_port=self._workers[0].listener.getsockname()[1],
            registry_port=self._registry.listener.getsockname()[1],
            supervisor_pid=os.getpid(),
            registry_pid=self._registry.pid,
            worker_pids=[post.pid for post in self._workers if post.pid is not None],
            started_at_ms=self._started_at_ms,
        )
        try:
            write_state(self._config.data_dir, state)
        except (OSError, ShikakuError) as error:
            say("supervisor", f"server.json was not written: {line_of(error)}")

    # --- stopping ---------------------------------------------------------------------------------------------

    def _stop(self, code: Exit, why: str) -> None:
        """Begin to drain: workers first, so that they answer as long as anything is being acknowledged."""
        say("supervisor", why)
        self._stopping, self._exit_code, self._rolling = True, code, []
        self._tell(self._worker_pids(), self._config.drain_seconds)

    def _press(self) -> None:
        """While stopping: tell the registry once the workers are gone, and kill what is late."""
        if not self._stopping:
            return
        workers, registry = self._worker_pids(), self._registry.pid
        if not workers and registry is not None and not self._registry_told:
            self._registry_told = True
            self._tell([registry], self._config.drain_seconds + SNAPSHOT_SECONDS)
        if self._kill_at_ns is not None and clock.monotonic_ns() >= self._kill_at_ns:
            self._kill_at_ns = None
            for pid in workers or ([registry] if registry is not None else []):
                os.kill(pid, signal.SIGKILL)

    def _tell(self, pids: list[int], seconds: float) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        self._kill_at_ns = clock.monotonic_ns() + int(seconds * 1e9)

    def _worker_pids(self) -> list[int]:
        return [post.pid for post in self._workers if post.pid is not None] + list(self._leaving)

    def _over(self) -> bool:
        return self._stopping and self._registry.pid is None and not self._worker_pids()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for children to inherit. Raises CommandError if the port cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
        raise CommandError(Exit.PORT, "server.port", f"port {port} on {host} {why}") from None
    return listener


def _describe(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _handled_by_wakeup(number: int, frame: object) -> None:
    """Signals reach the loop as bytes of the wake-up pipe."""
