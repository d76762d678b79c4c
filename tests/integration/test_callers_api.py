"""Asks of servers that know their callers: bad proofs get nothing anywhere, good ones what their callers may have."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from engine import tokens
from engine.audit.entry import Kind, decode
from engine.audit.log import LogReader
from engine.callers import Role, Scope
from tests.support import api, callers
from tests.support.callers import NOW, ec_key, rsa_key

OTHER = "0110113719"
INSURER = "01130012"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Served]:
    with api.served(
        tmp_path_factory.mktemp("known"), callers="known", rate_burst=100_000, misses_burst=10_000
    ) as found:
        writer = found.register
        assert writer is not None
        callers.register(writer, api.INSTITUTION, ec_key())
        callers.register(writer, OTHER, rsa_key())
        callers.register(writer, INSURER, ec_key("insurer"), role=Role.INSURER)
        callers.register(writer, "portal", ec_key("portal"), role=Role.PORTAL)
        callers.register(writer, "2714206386", ec_key("less"), scopes=(Scope.INSURERS,))
        yield found


def ask_token(port: api.Port, assertion: str, **more: Any) -> api.Reply:
    form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION, "client_assertion": assertion}
    given = {name: value for name, value in (form | more).items() if value is not None}
    return port.send("POST", "/token", urlencode(given), FORM)


def url(port: api.Port) -> str:
    return f"http://127.0.0.1:{port.number}/token"


def token(port: api.Port, id_: str = api.INSTITUTION, key: callers.Private | None = None, **more: Any) -> str:
    reply = ask_token(port, callers.signed(key or ec_key(), callers.claims(id_, url(port))), **more)
    assert reply.status == 200, reply.body
    return str(reply.json["access_token"])


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def check(port: api.Port, headers: dict[str, str], **members: Any) -> api.Reply:
    return port.post("/v1/eligibility/check", api.inquiry(**members), **headers)


# --- how it should be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["check", "general"])
def test_a_caller_gets_a_token_and_its_answers(served: api.Served, name: str) -> None:
    port: api.Port = getattr(served, name)
    found = port.send("GET", "/.well-known/smart-configuration")
    assert found.status == 200 and found.json["token_endpoint"] == url(port)
    given = ask_token(port, callers.signed(ec_key(), callers.claims(api.INSTITUTION, url(port))))
    assert given.json["expires_in"] == 300 and given.json["token_type"] == "Bearer"
    assert given.headers["cache-control"] == "no-store"
    headers = bearer(given.json["access_token"])
    for _ in range(3):
        reply = check(port, headers)
        assert (reply.status, reply.json["verdict"]) == (200, "VALID")
        assert reply.headers["ratelimit-policy"].startswith('"inquiries";q=100000;w=')
        assert reply.headers["ratelimit"].startswith('"inquiries";r=')
    batch = port.post(
        "/v1/eligibility/batch", {"institution": api.INSTITUTION, "items": [{"card": api.card()}]}, **headers
    )
    assert batch.status == 200 and batch.json["items"][0]["verdict"] == "VALID"
    assert port.send("GET", "/v1/insurers", headers=headers).status == 200


def test_tokens_are_good_with_every_worker(served: api.Served) -> None:
    headers = bearer(token(served.check))
    assert check(served.general, headers).status == check(served.check, headers).status == 200


def test_an_assertion_is_good_once_on_the_whole_machine(served: api.Served) -> None:
    both = [url(served.check), url(served.general)]
    said = callers.claims(api.INSTITUTION, both[0], jti="once")
    assert ask_token(served.check, callers.signed(ec_key(), said)).status == 200
    assert ask_token(served.check, callers.signed(ec_key(), said)).json["error"] == "invalid_client"
    again = ask_token(served.general, callers.signed(ec_key(), said | {"aud": both[1]}))
    assert (again.status, again.json["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/version", "/docs", "/openapi.json", "/problems/caller.unknown"]
)
def test_what_is_public_needs_nobody(served: api.Served, path: str) -> None:
    for port in (served.check, served.general):
        assert port.send("GET", path).status == 200


def test_the_registry_is_the_operators(served: api.Served) -> None:
    assert served.registry.send("GET", "/v1/insurers").status == 200


# --- errors of the token endpoint -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": None}, "invalid_request"),
        ({"client_assertion": None}, "invalid_request"),
        ({"client_assertion": "x"}, "invalid_client"),
        ({"client_assertion_type": "x"}, "invalid_client"),
        ({"client_assertion_type": None}, "invalid_request"),
        ({"client_secret": "x"}, "invalid_request"),
        ({"scope": ""}, "invalid_scope"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"scope": "eligibility.check everything"}, "invalid_scope"),
        ({"client_id": OTHER}, "invalid_client"),
    ],
)
def test_errors_are_oauths(served: api.Served, more: dict[str, Any], error: str) -> None:
    port = served.check
    good = callers.signed(ec_key(), callers.claims(api.INSTITUTION, url(port)))
    reply = ask_token(port, more.pop("client_assertion", good) if "client_assertion" in more else good, **more)
    if reply.status == 200:
        raise AssertionError(more)
    assert set(reply.json) == {"error", "error_description"} and reply.json["error"] == error
    assert reply.status == (401 if error == "invalid_client" else 400)


@pytest.mark.parametrize(
    "body", ["", "&", "a", "grant_type=client_credentials&grant_type=client_credentials", "é", "%zz=1&" * 9]
)
def test_odd_forms_are_refused(served: api.Served, body: str) -> None:
    reply = served.check.send("POST", "/token", body, FORM)
    assert reply.status in (400, 401, 411) and "traceback" not in reply.body.decode().lower()


def test_an_insurer_gets_no_scope_of_an_institution(served: api.Served) -> None:
    said = callers.claims(INSURER, url(served.check))
    reply = ask_token(served.check, callers.signed(ec_key("insurer"), said), scope="eligibility.check")
    assert reply.json["error"] == "invalid_scope"


# --- the matrix -----------------------------------------------------------------------------------------------------


def made(served: api.Served, **more: Any) -> str:
    """A token made with the server's own key, as a forger cannot, to see each check alone."""
    keeper = served.keepers[0]
    assert keeper is not None
    plain = tokens.Token(api.INSTITUTION, frozenset(Scope), NOW * 1000, 300, b"")
    return tokens.make(keeper._keys.access_token_key, msgspec.structs.replace(plain, **more))


def changed(served: api.Served, at: int) -> str:
    good = made(served)
    return good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]


BAD: dict[str, Callable[[api.Served], dict[str, str]]] = {
    "none": lambda s: {},
    "empty": lambda s: {"Authorization": ""},
    "no scheme": lambda s: {"Authorization": made(s)},
    "scheme alone": lambda s: {"Authorization": "Bearer"},
    "scheme and blank": lambda s: {"Authorization": "Bearer "},
    "basic": lambda s: {"Authorization": "Basic " + base64.b64encode(b"a:b").decode()},
    "dpop": lambda s: {"Authorization": "DPoP " + made(s)},
    "nonsense": lambda s: bearer("x"),
    "long nonsense": lambda s: bearer("x" * 3000),
    "two tokens": lambda s: bearer(f"{made(s)} {made(s)}"),
    "two with a comma": lambda s: bearer(f"{made(s)},{made(s)}"),
    "quoted": lambda s: bearer(f'"{made(s)}"'),
    "padded": lambda s: bearer(made(s) + "="),
    "cut": lambda s: bearer(made(s)[:-1]),
    "longer": lambda s: bearer(made(s) + "A"),
    "version": lambda s: bearer(changed(s, 0)),
    "scopes": lambda s: bearer(changed(s, 2)),
    "time": lambda s: bearer(changed(s, 8)),
    "binding": lambda s: bearer(changed(s, 30)),
    "caller": lambda s: bearer(changed(s, 80)),
    "mac": lambda s: bearer(changed(s, -5)),
    "another key": lambda s: bearer(
        tokens.make(bytes(32), tokens.Token(api.INSTITUTION, frozenset(Scope), NOW * 1000, 300, b""))
    ),
    "expired": lambda s: bearer(made(s, issued_ms=(NOW - 300) * 1000)),
    "long expired": lambda s: bearer(made(s, issued_ms=1)),
    "unknown caller": lambda s: bearer(made(s, id="nobody")),
    "suspended caller": lambda s: bearer(made(s, id="suspended")),
    "revoked": lambda s: bearer(made(s, id="revoked", issued_ms=NOW * 1000 - 1)),
    "bound to a certificate": lambda s: bearer(made(s, thumbprint=b"t" * 32)),
    "an assertion": lambda s: bearer(callers.signed(ec_key(), callers.claims(api.INSTITUTION, url(s.check)))),
    "unsigned jwt": lambda s: bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiIxMzExMTExMTE0In0."),
    "an api key outside of a sandbox": lambda s: bearer("sandbox-" + "x" * 43),
    "the api key of a caller": lambda s: bearer("sandbox-known"),
}
"""Kinds of proof that are none."""

ENDPOINTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/eligibility/check", api.inquiry()),
    ("POST", "/v1/eligibility/batch", {"institution": api.INSTITUTION, "items": [{"card": api.card()}]}),
    ("GET", "/v1/insurers", None),
    ("GET", f"/v1/insurers/{api.INSURER}", None),
    ("GET", "/v1/eligibility/check", None),
    ("GET", "/nothing", None),
]


@pytest.fixture(scope="module")
def barred(served: api.Served) -> api.Served:
    """The same, with callers that are not let in any more."""
    writer, keeper = served.register, served.keepers[0]
    assert writer is not None and keeper is not None
    for id_ in ("suspended", "revoked"):
        callers.register(writer, id_, role=Role.OPERATOR)
        writer.suspend(id_, now_ms=NOW * 1000 - 1)
    writer.resume("revoked", now_ms=NOW * 1000)
    hashed = tokens.api_key_hash(keeper._keys.api_key_key, "sandbox-known")
    writer.add_to(api.INSTITUTION, "api_keys", hashed, now_ms=1)
    return served


@pytest.mark.parametrize("kind", BAD)
def test_nothing_is_told_to_who_does_not_prove_who_asks(barred: api.Served, kind: str) -> None:
    for port in (barred.check, barred.general):
        for method, path, body in ENDPOINTS:
            headers = BAD[kind](barred)
            if body is not None:
                reply = port.post(path, body, **headers)
            else:
                reply = port.send(method, path, headers=headers)
            # An HTTP parser may refuse what no header can be, and then nothing is said of callers.
            assert reply.status == 401 or (kind == "long nonsense" and reply.status == 400), (kind, path)
            assert reply.json["code"] == "caller.unknown" and "WWW-Authenticate".lower() in reply.headers
            assert "ratelimit" not in reply.headers
            sent = headers.get("Authorization", "")
            assert len(sent) < 10 or sent.encode() not in reply.body


@pytest.mark.parametrize("name", ["check", "general"])
@pytest.mark.parametrize(
    ("id_", "key", "allowed"), [(INSURER, "insurer", 2), ("portal", "portal", 2), ("2714206386", "less", 2)]
)
def test_roles_and_scopes_end_where_they_end(served: api.Served, name: str, id_: str, key: str, allowed: int) -> None:
    port: api.Port = getattr(served, name)
    headers = bearer(token(port, id_, ec_key(key)))
    for method, path, body in ENDPOINTS[:4]:
        reply = port.post(path, body, **headers) if body is not None else port.send(method, path, headers=headers)
        if path.startswith("/v1/insurers"):
            assert reply.status == 200
        else:
            assert (reply.status, reply.json["code"]) == (403, "caller.scope")
            assert "insufficient_scope" in reply.headers["www-authenticate"]


@pytest.mark.parametrize("name", ["check", "general"])
def test_a_token_can_have_less_than_its_caller(served: api.Served, name: str) -> None:
    port: api.Port = getattr(served, name)
    headers = bearer(token(port, scope="insurers.read"))
    assert check(port, headers).status == 403
    assert port.send("GET", "/v1/insurers", headers=headers).status == 200


@pytest.mark.parametrize("name", ["check", "general"])
@pytest.mark.parametrize("number", ["1000001", "1000004", "9999999"])
def test_nobody_asks_in_the_name_of_another(served: api.Served, name: str, number: str) -> None:
    """Whether there is such a person makes no difference: not found and not yours look alike."""
    port: api.Port = getattr(served, name)
    headers = bearer(token(port, OTHER, rsa_key()))
    reply = check(port, headers, number=number)
    assert (reply.status, reply.json["code"], reply.json["field"]) == (403, "caller.mismatch", "institution")
    assert api.INSTITUTION not in reply.body.decode() and number not in reply.body.decode()
    batch = {"institution": api.INSTITUTION, "items": [{"card": api.card(number)}]}
    assert port.post("/v1/eligibility/batch", batch, **headers).status == 403
    lines = "".join(json.dumps(api.inquiry(number, institution=one)) + "\n" for one in (OTHER, api.INSTITUTION))
    reply = port.send("POST", "/v1/eligibility/batch", lines, headers | {"Content-Type": "application/x-ndjson"})
    assert "verdict" in reply.json[0] and reply.json[1]["error"]["code"] == "caller.mismatch"


def test_unknown_people_and_wrong_birth_dates_look_alike(served: api.Served) -> None:
    headers = bearer(token(served.check))
    bodies = []
    for asked in (api.card("5555555"), api.card(birth_date="2000-01-03")):
        reply = served.check.post("/v1/eligibility/check", api.inquiry() | {"card": asked}, **headers)
        bodies.append(reply.body)
    assert bodies[0] == bodies[1] and b"NOT_FOUND" in bodies[0]


# --- what changes while servers run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["check", "general"])
def test_a_suspended_caller_is_out_and_its_old_tokens_stay_out(served: api.Served, name: str) -> None:
    port: api.Port = getattr(served, name)
    writer = served.register
    assert writer is not None
    id_ = {"check": "1311111122", "general": "1311111130"}[name]
    callers.register(writer, id_, ec_key())
    headers = bearer(token(port, id_))
    assert check(port, headers, institution=id_).status == 200
    for change, expected in ((writer.suspend, 401), (writer.resume, 401)):
        change(id_, now_ms=NOW * 1000)
        for keeper in served.keepers:
            assert keeper is not None
            keeper.tend()
        assert check(port, headers, institution=id_).status == expected


def test_a_removed_key_gets_no_token_and_ends_those_that_it_got(served: api.Served) -> None:
    writer = served.register
    assert writer is not None
    callers.register(writer, "1311111148", ec_key())
    writer.add_keys("1311111148", callers.public_keys(ec_key("new"), "new"), now_ms=1)
    headers = bearer(token(served.check, "1311111148"))
    writer.remove_key("1311111148", "a", now_ms=NOW * 1000)
    for keeper in served.keepers:
        assert keeper is not None
        keeper.tend()
    assert check(served.check, headers, institution="1311111148").status == 401
    said = callers.claims("1311111148", url(served.check))
    assert ask_token(served.check, callers.signed(ec_key(), said)).status == 401
    said = callers.claims("1311111148", url(served.check))
    assert ask_token(served.check, callers.signed(ec_key("new"), said, kid="new")).status == 200


# --- rates and guesses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["check", "general"])
def test_who_asks_too_often_is_told_when_to_come_back(tmp_path: Path, name: str) -> None:
    with api.served(tmp_path, callers="known", rate_per_second=0.01, rate_burst=5) as found:
        assert found.register is not None
        callers.register(found.register, api.INSTITUTION, ec_key())
        callers.register(found.register, OTHER, rsa_key())
        port: api.Port = getattr(found, name)
        headers = bearer(token(port))
        left = [check(port, headers).headers["ratelimit"] for _ in range(5)]
        assert [one.split(";")[1] for one in left] == ["r=4", "r=3", "r=2", "r=1", "r=0"]
        reply = check(port, headers)
        assert (reply.status, reply.json["code"]) == (429, "caller.rate")
        assert 0 < int(reply.headers["retry-after"]) <= 100 and ";r=0;t=" in reply.headers["ratelimit"]
        assert check(found.general, headers).status == 429, "all share the buckets"
        other = bearer(token(port, OTHER, rsa_key()))
        assert check(port, other, institution=OTHER).status == 200


@pytest.mark.parametrize("name", ["check", "general"])
@pytest.mark.parametrize("detail", ["full", "verdict"])
def test_who_guesses_is_slowed_down_and_recorded(tmp_path: Path, name: str, detail: str) -> None:
    settings = {"misses_per_hour": 1, "misses_burst": 3, "audit": "strict"}
    with api.served(tmp_path, callers="known", **settings) as found:
        assert found.register is not None
        callers.register(found.register, api.INSTITUTION, ec_key())
        port: api.Port = getattr(found, name)
        headers = bearer(token(port))
        # The second is asked the careful way: its symbol is wide.
        asked = [api.card("7000001"), api.card("7000002", symbol="１"), api.card(birth_date="2000-02-02")]
        for card in asked:
            assert check(port, headers).status == 200
            reply = port.post("/v1/eligibility/check", api.inquiry(detail=detail) | {"card": card}, **headers)
            assert reply.json["verdict"] == "NOT_FOUND"
        for _ in range(3):
            reply = check(port, headers)
            assert (reply.status, reply.json["code"]) == (429, "caller.guessing")
        folder = found.settings.audit_dir / ("0" if name == "check" else "1")
    with LogReader(folder) as log:
        entries = [decode(one) for one in log.entries(0, log.size)]
    events = [one for one in entries if one.kind is Kind.EVENT]
    assert [(one.caller, one.request_id) for one in events] == [(api.INSTITUTION, "event-guessing")]
    assert {one.caller for one in entries} == {api.INSTITUTION}


def test_a_batch_that_guesses_is_slowed_down(tmp_path: Path) -> None:
    with api.served(tmp_path, callers="known", misses_per_hour=36_000, misses_burst=20) as found:
        assert found.register is not None
        callers.register(found.register, api.INSTITUTION, ec_key())
        headers = bearer(token(found.check))
        lines = "".join(json.dumps(api.inquiry(str(8000000 + n))) + "\n" for n in range(130))
        begun = time.perf_counter()
        reply = found.check.send(
            "POST", "/v1/eligibility/batch", lines, headers | {"Content-Type": "application/x-ndjson"}
        )
        assert [one["verdict"] for one in reply.json] == ["NOT_FOUND"] * 130
        # 64 are answered at a time, and ten come back in a second.
        assert time.perf_counter() - begun > 4.0


def test_api_keys_are_good_in_a_sandbox(tmp_path: Path) -> None:
    with api.served(tmp_path, callers="known", sandbox=True) as found:
        keeper = found.keepers[0]
        assert found.register is not None and keeper is not None
        callers.register(found.register, api.INSTITUTION)
        text = tokens.new_api_key()
        hashed = tokens.api_key_hash(keeper._keys.api_key_key, text)
        found.register.add_to(api.INSTITUTION, "api_keys", hashed, now_ms=1)
        assert check(found.check, bearer(text)).status == 200
        assert check(found.check, bearer(text + "x")).status == 401
