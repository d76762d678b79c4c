"""A connection of the lane and its Python twin do the same, whatever comes in whatever pieces, and whatever waits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ext import connection_py, grants_py, ledger_py
from tests.support import ledgers, streams
from tests.support.outcomes import compiled, outcome

connection, grants = compiled("connection"), compiled("grants")
SEEDS = st.integers(0, 2**32)


class Transport:
    """Writes down what is asked of it."""

    def __init__(self, log: list[Any], tls: bool) -> None:
        self.log = log
        self.closing = False
        self.tls = tls

    def get_extra_info(self, name: str) -> object:
        assert name == "sslcontext"
        return self if self.tls else None

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.log.append(("write", bytes(data)))

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def set_protocol(self, protocol: Any) -> None:
        self.log.append("handed over")

    def close(self) -> None:
        self.closing = True
        self.log.append("close")


class General:
    """The server that takes over."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given: self.log.append((name, *(one for one in given if isinstance(one, bytes))))


class Run:
    """One form of a connection, with everything around it."""

    def __init__(self, form: ModuleType, tls: bool = False, ledger: Any = None, known: bool = False) -> None:
        self.log: list[Any] = []
        self.ledger = ledger
        self.due: list[tuple[Any, ...]] = []
        self.draining = False
        self.grants = grants if form is connection else grants_py
        self.certified = 0
        self.clock = 10**9
        self.gate = self.make_gate() if known else None
        self.shared = form.Shared(
            None,
            self.careful,
            lambda: None if self.draining else b"HEAD\r\nX-Request-ID: ",
            lambda given: b"other-" + given[:3],
            lambda given: not given.startswith("example"),
            lambda *call: self.due.append(call),
            lambda *call: self.due.append(call[1:]),
            prefix=b"prefix",
            body_bytes_max=300,
            ledger=ledger,
            recorded=lambda: self.log.append("recorded"),
            gate=self.gate,
        )
        self.transport = Transport(self.log, tls)
        self.connection = form.Connection(self.shared, lambda: General(self.log))
        self.connection.connection_made(self.transport)

    def make_gate(self) -> Any:
        rate, misses = (10**9, 20), (10**9, 6)
        buckets = self.grants.Buckets(bytearray(4 * 32), rate=rate, misses=misses, quiet_ns=10**9)
        return self.grants.Gate(
            self.admit,
            self.of_connection,
            lambda: self.clock,
            lambda grant: self.log.append(("guessed", grant.caller)),
            buckets,
            b"\r\nRateLimit: r=",
            miss_verdict=4,
            tokens_max=2,
        )

    def admit(self, token: bytes) -> Any:
        self.log.append(("admit", token))
        made = {
            b"a": (b"a", 0, 5, b"", True),
            b"a2": (b"a", 0, 9, b"", True),
            b"b": (b"b", 1, 50, b"", True),
            b"bound": (b"b", 1, 50, b"t" * 32, True),
            b"idle": (b"c", 2, 50, b"", False),
            b"nowhere": (b"d", 4, 50, b"", True),
        }.get(token)
        return made and self.grants.Grant(*made, token)

    def of_connection(self, transport: Any) -> Any:
        assert transport is self.transport
        self.log.append(("certificate", self.certified))
        return [
            (b"", None),
            (b"t" * 32, None),
            (b"t" * 32, self.grants.Grant(b"b", 1, 50, b"t" * 32, True, None)),
            (b"u" * 32, self.grants.Grant(b"a", 0, 3, b"u" * 32, True, None)),
        ][self.certified]

    def careful(self, data: bytes, start: int, stop: int, mark: bytes, grant: Any) -> bytes:
        if grant is not None:
            self.log.append(("careful", grant.caller))
            self.gate.missed(grant, data[start:stop] == b"{}")
        if b"!" in data[start:stop]:
            raise ValueError("refused")
        if self.ledger is not None:
            self.ledger.append(**FACTS, body=data[start:stop], mark=mark)
        return b"<" + data[start:stop] + b">"

    def state(self) -> tuple[Any, ...]:
        shared = self.shared
        return self.log, shared.answered, dict(shared.handed_over), len(shared.connections), self.waiting()

    def waiting(self) -> int:
        return int(self.connection.unanswered_bytes)


def do(run: Run, step: str, given: Any) -> None:
    """One thing that can happen to a connection that is still in the lane, as asyncio would tell it."""
    one = run.connection
    if "handed over" in run.log:
        return
    if step == "data" and not run.transport.closing:
        one.data_received(given)
    elif step == "pause":
        one.pause_writing()
    elif step == "resume":
        one.resume_writing()
    elif step == "soon" and run.due:
        function, *arguments = run.due.pop(0)
        function(*arguments)
    elif step == "saved" and run.ledger is not None:
        run.shared.saved(max(0, run.ledger.entries - given))
    elif step == "failed" and run.ledger is not None:
        run.shared.unsaved_are_lost(b"503")
    elif step == "time":
        run.shared.time += given
        one.look(8, 4, 2)
    elif step == "clock" and run.gate is not None:
        run.clock += given * 10**9
        run.gate.now_ms += given
    elif step == "register" and run.gate is not None:
        run.certified = given
        run.gate.forget()
    elif step == "drain":
        run.draining = True
    elif step == "eof" and not run.transport.closing:
        run.log.append(one.eof_received())
    elif step == "lost":
        one.connection_lost(None)
    elif step == "close":
        one.close()


def steps(chance: random.Random, others: list[tuple[str, Any]] | None = None) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for _ in range(chance.choice((1, 3, 8))):
        if chance.random() < 0.7:
            data = streams.request(chance.choice((b"{}", b"!", b"x" * 290, b"x" * 310)), more=some_headers(chance))
        else:
            data = streams.odd_request(chance)
        data *= chance.choice((1, 1, 1, 2, 70, 150))
        while data:
            size = chance.choice((len(data), len(data), chance.randrange(1, len(data) + 1)))
            found.append(("data", data[:size]))
            data = data[size:] if chance.random() < 0.98 else b""
            while chance.random() < 0.35:
                found.append(chance.choice(others or OTHERS))
    return found


OTHERS: list[tuple[str, Any]] = [
    *[("soon", None)] * 8, *[("resume", None)] * 4, *[("pause", None)] * 2, *[("time", second) for second in (0, 1, 3)],
    ("drain", None), ("eof", None), ("lost", None), ("close", None), ("time", 9),
]  # fmt: skip


RECORDING = [*OTHERS, *[("saved", 0)] * 12, *[("saved", count) for count in (1, 2, 5, 60)], ("failed", None)]
FACTS: dict[str, Any] = ledgers.facts(random.Random(0)) | {"body": b""}
del FACTS["body"], FACTS["mark"]


def some_headers(chance: random.Random) -> list[bytes]:
    marks = (b"abc", b"x" * 64, b"x" * 65, b"a b", b"123456789012", b"1-2-3-4-5-6-7-8-9-0-1", b"\x7f", b"\xe9")
    return [b"X-Request-ID: " + chance.choice(marks)] if chance.random() < 0.5 else []


@given(SEEDS)
def test_both_do_the_same(seed: int) -> None:
    chance = random.Random(seed)
    tls = chance.random() < 0.3
    runs = [Run(form, tls) for form in (connection, connection_py)]
    for step, given_ in steps(chance):
        for run in runs:
            do(run, step, given_)
        assert runs[0].state() == runs[1].state()


@given(SEEDS)
def test_both_do_the_same_where_callers_are_known(seed: int) -> None:
    chance = random.Random(seed)
    runs = [Run(form, known=True) for form in (connection, connection_py)]
    others = [*OTHERS, *[("clock", n) for n in (0, 1, 1, 2, 5, 30)], *[("register", n) for n in (0, 1, 2, 3)]]
    for _ in range(chance.choice((1, 4, 12))):
        more = [b"Authorization: " + chance.choice(SHOWN)] if chance.random() < 0.8 else []
        data = streams.request(chance.choice((b"{}", b"{ }", b"!")), more=more) * chance.choice((1, 1, 2, 5))
        for step, given_ in (("data", data), *(chance.choice(others) for _ in range(chance.choice((0, 1, 3))))):
            for run in runs:
                do(run, step, given_)
            assert runs[0].state() == runs[1].state()


SHOWN = [b"Bearer a"] * 8 + [
    b"Bearer a2", b"Bearer b", b"Bearer bound", b"Bearer idle", b"Bearer nowhere", b"Bearer x", b"bearer a", b"Bearer",
    b"Basic a", b"Bearer  a", b"Bearer\ta", b"Bearer a b",
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SEEDS)
def test_both_do_the_same_where_answers_are_recorded(pair: tuple[Any, Any], seed: int) -> None:
    chance = random.Random(seed)
    runs = [Run(form, ledger=ledger) for form, ledger in zip((connection, connection_py), pair, strict=True)]
    for step, given_ in steps(chance, RECORDING):
        for run in runs:
            do(run, step, given_)
        assert runs[0].state() == runs[1].state()
        assert pair[0].entries == pair[1].entries
    for run in runs:
        before = -1
        while run.due or before < run.ledger.entries:
            before = run.ledger.entries
            run.shared.saved(before)
            do(run, "soon", None)
    assert runs[0].state() == runs[1].state()
    written = b"".join(one[1] for one in runs[0].log if isinstance(one, tuple) and one[0] == "write")
    # A connection that waits for its peer or that has ended keeps what it has not answered.
    lost = {"lost", "failed", "close"} & {step for step, _ in steps(random.Random(seed), RECORDING)}
    assert lost or written.count(b"Shikaku-Receipt: 3-") == runs[0].shared.answered


@pytest.mark.parametrize("form", [connection, connection_py])
def test_the_fault_of_one_connection_keeps_no_answer_from_others(form: ModuleType, pair: tuple[Any, Any]) -> None:
    run = Run(form, ledger=pair[form is connection_py])
    others = [form.Connection(run.shared, lambda: General(run.log)) for _ in range(3)]
    logs: list[list[Any]] = [[], [], []]
    for one, log in zip(others, logs, strict=True):
        one.connection_made(Transport(log, False))
        one.data_received(streams.request(b"{}"))

    def broken(data: bytes) -> None:
        raise RuntimeError("a fault")

    others[1].connection_made(transport := Transport([], False))
    transport.write = broken  # type: ignore[method-assign]
    others[1].connection_made(transport)
    with pytest.raises(RuntimeError, match="a fault"):
        run.shared.saved(run.ledger.entries)
    assert [len(log) for log in logs] == [1, 0, 1]
    run.connection.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Two ledgers, one of each form; what is recorded in them is never asked to be written."""
    both = ledgers.opened(compiled("ledger"), tmp_path / "compiled"), ledgers.opened(ledger_py, tmp_path / "python")
    yield both
    for one in both:
        one.close()


def test_marks_of_ours_are_counted() -> None:
    runs = [Run(form) for form in (connection, connection_py)]
    request = streams.request(b"{}")
    for run in runs:
        for _ in range(40):
            run.connection.data_received(request * 50)
    assert runs[0].state() == runs[1].state()
    assert b"prefix-000007d0" in runs[0].log[-1][1]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("form", [connection, connection_py])
def test_a_peer_that_sends_no_more_is_answered_unless_it_speaks_tls(form: ModuleType, tls: bool) -> None:
    run = Run(form, tls)
    run.connection.data_received(streams.request(b"{}") * 70)
    assert run.connection.unanswered_bytes
    assert run.connection.eof_received() is not tls


@pytest.mark.parametrize("form", [connection, connection_py])
def test_what_comes_behind_the_loss_of_a_connection_is_let_go(form: ModuleType) -> None:
    """Found by `make fuzz`: whether the lost connection had TLS was asked of nobody."""
    run = Run(form)
    run.connection.data_received(streams.request(b"{}") * 70)
    run.connection.connection_lost(None)
    run.connection.data_received(b"POST")
    assert run.connection.eof_received() is False


@pytest.mark.parametrize("form", [connection, connection_py])
def test_what_is_not_as_it_must_be_is_refused(form: ModuleType) -> None:
    run = Run(form)
    assert outcome(form.Connection, None, None)[0] == "error"
    plain: dict[str, Any] = {"prefix": b"x", "body_bytes_max": 5}
    for more in ({"prefix": "x"}, {"body_bytes_max": -1}, {"body_bytes_max": None}, {"body_bytes_max": 2**31}):
        given_ = [None] * 7
        assert outcome(connection.Shared, *given_, **plain | more) == outcome(
            connection_py.Shared, *given_, **plain | more
        )
    assert outcome(form.Shared, 1, *[None] * 6, **plain)[1] is TypeError
    run.connection.close()
