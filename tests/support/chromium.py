"""Owns the browser of tests: a real Chromium without a window, driven by its DevTools protocol over two pipes.

Pipes need no port and no library, and nothing but the pages under test makes the browser use the network: all names
but the loopback's are unknown to it, and so are all services of its maker.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
"""The names that `make setup-test` looks for, too."""
SECONDS = 60.0
"""How long the browser may take for one thing on a busy machine."""
_OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def program() -> str:
    """The browser's path: CHROMIUM in the environment, else the first of PROGRAMS that is installed."""
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [named] if named else PROGRAMS)), None)
    assert found is not None, "Chromium is missing: `make setup-test` installs it, or says how"
    return found


class Chromium:
    """A running browser: sends commands, and keeps the events that come meanwhile."""

    def __init__(self, folder: Path) -> None:
        commands, self._write = os.pipe()
        self._read, events = os.pipe()

        def give_pipes() -> None:
            # The browser reads commands from descriptor 3 and writes to 4; the copies survive the exec.
            copies = os.dup(commands), os.dup(events)
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        options = [*_OPTIONS, f"--user-data-dir={folder}"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # which cannot be had by root, and the pages are our own
        with open(folder / "chromium.log", "wb") as log:
            self.process = subprocess.Popen(
                [program(), *options, "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                close_fds=False,
                preexec_fn=give_pipes,
            )
        os.close(commands)
        os.close(events)
        self.log = folder / "chromium.log"
        self.events: list[dict[str, Any]] = []
        self._received = b""
        self._count = 0

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Do one command and return its result. Fails with the browser's own words."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        self._write_all(json.dumps(command).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while (message := self._next(until)).get("id") != self._count:
            self.events.append(message)
        assert "error" not in message, (method, message["error"])
        result: dict[str, Any] = message["result"]
        return result

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._write, data) :]

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready = select.select([self._read], [], [], max(0.0, until - time.monotonic()))[0]
            data = os.read(self._read, 1 << 16) if ready else b""
            assert data, f"the browser said nothing more:\n{self.log.read_text('utf-8', 'replace')[-4000:]}"
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        """End the browser with all its processes, which end when their pipes do."""
        os.close(self._write)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._read)


@dataclass
class Tab:
    """One page of the browser, in a profile of its own, with all that it asked for and complained about."""

    browser: Chromium
    session: str
    context: str
    requests: list[str] = field(default_factory=list)
    responses: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By address: status, and headers with names in lower case."""
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, uncaught exceptions, and what the browser logged (blocked loads among it)."""

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do one command in this page, and note the events that have come."""
        result = self.browser.send(method, self.session, **parameters)
        self._sort()
        return result

    def open(self, address: str, ready: str) -> None:
        """Go to an address and wait until the expression `ready` is true there."""
        failure = self.send("Page.navigate", url=address).get("errorText")
        assert failure is None, (address, failure)
        self.wait(ready)

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        until = time.monotonic() + SECONDS
        while not self.value(f"document.readyState === 'complete' && Boolean({expression})"):
            assert time.monotonic() < until, (expression, self.complaints)
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression (of a promise, what it comes to), under the page's own policy."""
        found = self.send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            allowUnsafeEvalBlockedByCSP=False,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key of the keyboard."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "), "Escape": (27, "")}[key]
        pressed = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **pressed)
        self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def _sort(self) -> None:
        others = []
        for event in self.browser.events:
            if event.get("sessionId") == self.session:
                self._note(event["method"], event["params"])
            else:
                others.append(event)
        self.browser.events[:] = others

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Network.responseReceived":
            headers = {name.lower(): text for name, text in told["response"]["headers"].items()}
            self.responses[told["response"]["url"]] = {"status": told["response"]["status"], "headers": headers}
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])


@contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    """A browser with its profile in `folder`, until the end of the block."""
    browser = Chromium(folder)
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def tab(browser: Chromium, *, language: str, width: int = 1200) -> Iterator[Tab]:
    """A new page with nothing remembered, for somebody who reads `language`."""
    context = browser.send("Target.createBrowserContext")["browserContextId"]
    target = browser.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
    session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    page = Tab(browser, session, context)
    agent = browser.send("Browser.getVersion")["userAgent"]
    for domain in ("Page", "Network", "Runtime", "Log", "Accessibility"):
        page.send(f"{domain}.enable")
    page.send("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    page.send("Emulation.setFocusEmulationEnabled", enabled=True)
    try:
        yield page
    finally:
        browser.send("Target.disposeBrowserContext", browserContextId=context)
