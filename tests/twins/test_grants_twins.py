"""ext/grants and its Python twin do the same, and buckets are those of a simple model; two processes share them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import shm
from ext import grants_py
from tests.support.outcomes import compiled, outcome

grants = compiled("grants")
FORMS = [grants, grants_py]
HOUR = grants_py.DEBT_NS_MAX
NOW = st.integers(0, 10**15)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wait", "miss_wait", "charge", "miss", "limit"]),
        st.integers(0, 3),
        st.sampled_from([0, 1, 7, 10**6, 10**9, 10**12]) | st.integers(0, 10**13),
        st.sampled_from([0, 1, 1, 1, 2, 10, 1000, 1_000_000]),
    ),
    max_size=60,
)
BOUNDS = st.tuples(st.sampled_from([1, 7, 10**6, 10**9, 3_600_000_000_000]), st.sampled_from([1, 2, 5, 300, 10_000]))
ODD: Any = st.sampled_from([None, "x", -1, 2**62, 2**70, 4, 1.5, b""])


def test_constants_are_the_same() -> None:
    for name in ("SLOT_BYTES", "DEBT_NS_MAX"):
        assert getattr(grants, name) == getattr(grants_py, name)


class Model:
    """A bucket as it is usually told: so many tokens, that come back one by one; exact, in nanoseconds' worth."""

    def __init__(self, interval: int, burst: int) -> None:
        self.interval, self.capacity = interval, interval * burst
        self.level = self.capacity
        self.seen = 0

    def at(self, now: int) -> Model:
        self.level = min(self.capacity, self.level + now - self.seen)
        self.seen = now
        return self

    def wait(self, now: int) -> int:
        return max(0, self.interval - self.at(now).level)

    def take(self, now: int, count: int) -> None:
        self.at(now)
        self.level = max(-HOUR, self.level - count * self.interval)


@given(STEPS, BOUNDS, BOUNDS, NOW)
def test_buckets_are_those_of_the_model(steps: Any, rate: Any, misses: Any, now: int) -> None:
    both = [form.Buckets(bytearray(4 * form.SLOT_BYTES), rate=rate, misses=misses, quiet_ns=10**10) for form in FORMS]
    models = [(Model(*rate), Model(*misses)) for _ in range(4)]
    for what, slot, later, count in steps:
        now += later
        given_ = (slot, now, count) if what in ("charge", "miss") else (slot, now)
        found = [getattr(one, what)(*given_) for one in both]
        assert found[0] == found[1]
        own = models[slot]
        if what == "charge":
            own[0].take(now, count)
        elif what == "miss":
            own[1].take(now, count)
            assert not found[0] or own[1].wait(now) > 0
        elif what == "wait":
            assert found[0] == own[0].wait(now)
        elif what == "miss_wait":
            assert found[0] == own[1].wait(now)
        else:
            left = max(0, own[0].at(now).level) // rate[0]
            assert found[0] == b"%d;t=%d" % (left, -((own[0].level - own[0].capacity) // 10**9))


@pytest.mark.parametrize("form", FORMS)
def test_never_more_than_a_burst_and_what_came_back(form: ModuleType) -> None:
    buckets = form.Buckets(bytearray(32), rate=(10**9, 5), misses=(1, 1), quiet_ns=0)
    taken = 0
    for step in range(1000):
        now = step * 10**8
        if buckets.wait(0, now) == 0:
            buckets.charge(0, now, 1)
            taken += 1
        assert taken <= 5 + now / 1e9
    assert taken >= 5 + 99


@pytest.mark.parametrize("form", FORMS)
def test_somebody_is_told_once_in_a_while(form: ModuleType) -> None:
    buckets = form.Buckets(bytearray(32), rate=(1, 1), misses=(10**9, 3), quiet_ns=5 * 10**9)
    told = [buckets.miss(0, (10 + now) * 10**9, 1) for now in (0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7)]
    assert told == [False, False, True, False, False, False, False, False, True, False, False]
    assert form.Buckets(bytearray(32), rate=(1, 1), misses=(10**9, 1), quiet_ns=0).miss(0, 0, 0) is False


@pytest.mark.parametrize("form", FORMS)
def test_what_another_clock_wrote_keeps_nobody_out_for_long(form: ModuleType) -> None:
    memory = bytearray(b"\x7f" * 32)
    buckets = form.Buckets(memory, rate=(10**9, 5), misses=(10**9, 5), quiet_ns=0)
    assert buckets.wait(0, 0) == HOUR + 10**9


@given(ODD, ODD)
def test_odd_arguments_have_the_same_outcome(slot: Any, count: Any) -> None:
    both = [form.Buckets(bytearray(128), rate=(1, 1), misses=(1, 1), quiet_ns=0) for form in FORMS]
    for what, given_ in (("charge", (slot, 5, 1)), ("charge", (0, 5, count)), ("wait", (slot, 5))):
        found = [outcome(getattr(one, what), *given_) for one in both]
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("rate", "quiet"),
    [((0, 1), 0), ((1, 0), 0), ((2**46 + 1, 1), 0), ((2**40, 2**16), 0), ((1, 1), -1), ((1, 1), HOUR + 1)],
)
def test_bounds_out_of_range_are_refused(rate: tuple[int, int], quiet: int) -> None:
    found = [outcome(form.Buckets, bytearray(32), rate=rate, misses=(1, 1), quiet_ns=quiet) for form in FORMS]
    assert found[0] == found[1] and found[0][1] is ValueError


def _charge_many(path: Path, count: int) -> None:
    segment = shm.open_(path, writable=True)
    buckets = grants.Buckets(segment.buffer, rate=(10**6, 10**6), misses=(1, 1), quiet_ns=0)
    for _ in range(count):
        buckets.charge(1, 1000, 1)


def test_processes_lose_nothing_to_each_other(tmp_path: Path) -> None:
    path = tmp_path / "buckets"
    segment = shm.create(path, 4096)
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_charge_many, args=(path, 100_000)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    buckets = grants.Buckets(segment.buffer, rate=(10**6, 10**6), misses=(1, 1), quiet_ns=0)
    assert buckets.limit(1, 1000) == b"800000;t=200"


# --- tokens ---------------------------------------------------------------------------------------------------------


class Around:
    """A gate of one form, with everything that it calls."""

    def __init__(self, form: ModuleType, tokens_max: int = 3) -> None:
        self.form = form
        self.log: list[Any] = []
        self.good: dict[bytes, tuple[bytes, int]] = {}
        buckets = form.Buckets(bytearray(4 * 32), rate=(10**9, 5), misses=(10**9, 2), quiet_ns=0)
        self.gate = form.Gate(
            self.admit,
            lambda transport: (b"", None),
            lambda: 7,
            lambda grant: self.log.append(("guessed", grant.caller)),
            buckets,
            b"\r\nRateLimit: r=",
            miss_verdict=4,
            tokens_max=tokens_max,
        )

    def admit(self, token: bytes) -> Any:
        self.log.append(token)
        found = self.good.get(token)
        return found and self.form.Grant(found[0], len(token) - 1, found[1], b"", True, token)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["find", "find", "find", "add", "forget", "time", "purge"]),
            st.sampled_from([b"a", b"b", b"cc", b"ddd", b"eeee", b"fffff"]),
            st.integers(1, 5),
        ),
        max_size=60,
    )
)
def test_tokens_are_remembered_alike(steps: list[tuple[str, bytes, int]]) -> None:
    both = [Around(form) for form in FORMS]
    for what, token, number in steps:
        for one in both:
            if what == "find":
                found = one.gate.find(token)
                one.log.append(found and (found.caller, found.slot, found.expires_ms, found.checks, found.who))
            elif what == "add":
                one.good[token] = (token, one.gate.now_ms + number)
            elif what == "time":
                one.gate.now_ms += number
            else:
                getattr(one.gate, what)()
            one.log.append((one.gate.tokens_count, one.gate.generation))
        assert both[0].log == both[1].log
        assert both[0].gate.tokens_count <= 3


@pytest.mark.parametrize("form", FORMS)
def test_a_token_that_has_ended_is_nobodys(form: ModuleType) -> None:
    one = Around(form)
    one.good[b"a"] = (b"x", 10)
    one.gate.now_ms = 9
    assert one.gate.find(b"a").caller == b"x"
    one.gate.now_ms = 10
    assert one.gate.find(b"a") is None and one.gate.tokens_count == 0
    assert one.gate.find(b"a") is None
    one.good[b"fffff"] = (b"x", 99)
    assert one.gate.find(b"fffff") is None, "it has no bucket"


@pytest.mark.parametrize("form", FORMS)
def test_misses_and_headers(form: ModuleType) -> None:
    one = Around(form)
    grant = form.Grant(b"x", 0, 10, b"", False, None)
    one.gate.missed(grant, 0)
    one.gate.missed(grant, 3)
    assert one.log == [("guessed", b"x")] and one.gate.headers(grant) == b"\r\nRateLimit: r=5;t=0"
    assert (grant.checks, grant.thumbprint) == (False, b"")


def test_wrong_grants_and_gates_are_refused_alike() -> None:
    wrong = [("x", 0, b""), (b"", 0, b""), (b"x" * 17, 0, b""), (b"x", -1, b""), (b"x", 0, "")]
    for caller, slot, thumbprint in wrong:
        given_ = (caller, slot, 1, thumbprint, True, None)
        assert outcome(grants.Grant, *given_) == outcome(grants_py.Grant, *given_)
    for form in FORMS:
        buckets = form.Buckets(bytearray(32), rate=(1, 1), misses=(1, 1), quiet_ns=0)
        given = [None] * 4
        assert outcome(form.Gate, *given, None, b"", miss_verdict=4, tokens_max=1)[1] is TypeError
        assert outcome(form.Gate, *given, buckets, "", miss_verdict=4, tokens_max=1)[1] is TypeError
        assert outcome(form.Gate, *given, buckets, b"", miss_verdict=4, tokens_max=0)[1] is ValueError
        assert outcome(Around(form).gate.find, "x")[1] is TypeError
