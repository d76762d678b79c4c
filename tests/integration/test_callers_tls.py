"""Asks of servers that know callers by certificates: real TLS, an authority made here, lists of what it took back."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from engine import keys
from engine.callers import thumbprint_of
from engine.register import RegisterWriter
from tests.support import api, callers
from tests.support.callers import Authority, ec_key
from tests.support.processes import Running, free_ports, running, shikaku

OTHER = "0110113719"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Place(NamedTuple):
    """A server with two workers, its register, and the authority of its clients."""

    server: Running
    folder: Path
    authority: Authority

    @contextlib.contextmanager
    def register(self) -> Iterator[RegisterWriter]:
        writer = RegisterWriter(self.folder / "data/callers", key_id=keys.load(self.folder / "master.key").key_id)
        yield writer
        writer.close()

    def client(self, name: str | None = None) -> Client:
        return Client(self, name)

    def issue(self, name: str, id_: str | None, **more: Any) -> Any:
        """A certificate, perhaps of a registered caller."""
        pem, _, certificate = self.authority.issue(self.folder, name, **more)
        if id_ is not None:
            with self.register() as writer:
                writer.add_to(id_, "thumbprints", thumbprint_of(pem.read_bytes()), now_ms=1)
        return certificate

    def revoke(self, *serials: int, days: float = 7) -> None:
        """Put another list in the place of the last."""
        new = self.folder / "crl.new"
        new.write_bytes(self.authority.revoked(*serials, days=days))
        os.replace(new, self.folder / "crl.pem")


class Client:
    """One connection with TLS, as the certificate of this name."""

    def __init__(self, place: Place, name: str | None) -> None:
        context = ssl.create_default_context(cafile=str(place.folder / "authority.pem"))
        if name is not None:
            context.load_cert_chain(place.folder / f"{name}.pem", place.folder / f"{name}.key")
        self.url = f"https://localhost:{place.server.port}"
        self._connection = HTTPSConnection("localhost", place.server.port, context=context, timeout=30)
        OPENED.append(self)

    def check(self, token: str | None = None, institution: str = api.INSTITUTION) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        body = json.dumps(api.inquiry("7", institution=institution))
        self._connection.request("POST", "/v1/eligibility/check", body, headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def token(self, id_: str = api.INSTITUTION, key: callers.Private | None = None) -> tuple[int, Any]:
        said = callers.claims(id_, f"{self.url}/token", time.time())
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION,
            "client_assertion": callers.signed(key or ec_key(), said),
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        self._connection.request("POST", "/token", urlencode(form), headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        self._connection.close()


OPENED: list[Client] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No connection outlives its test."""
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("callers")
    authority = Authority()
    authority.write(folder / "authority.pem")
    authority.issue(folder, "server")
    (folder / "crl.pem").write_bytes(authority.revoked())
    port, settings = free_ports(), folder / "shikaku.toml"
    settings.write_text(
        f'data_dir = "{folder}/data"\nkey_file = "{folder}/master.key"\nindex_dir = "{folder}/index"\n'
        f'port = {port}\nworkers = 2\nindex_keys = 4096\ncallers = "known"\ntls_client = "optional"\n'
        f'tls_certificate = "{folder}/server.pem"\ntls_key = "{folder}/server.key"\n'
        f'tls_client_ca = "{folder}/authority.pem"\ntls_client_crl = "{folder}/crl.pem"\n'
    )
    assert shikaku("init", "--config", settings).returncode == 0
    serve = [sys.executable, "-m", "api.cli.main", "serve", "--config", str(settings)]
    with running(serve, folder / "data", port, 2) as server:
        found = Place(server, folder, authority)
        with found.register() as writer:
            callers.register(writer, api.INSTITUTION, ec_key())
            callers.register(writer, OTHER, ec_key("other"))
            writer.add_to(OTHER, "subjects", "CN=by-subject", now_ms=1)
        found.issue("clinic", api.INSTITUTION)
        found.issue("by-subject", None)
        found.issue("stranger", None)
        found.issue("expired", None, days=(-30, -1))
        Authority("somebody else").issue(folder, "forged")
        time.sleep(2.5)
        yield found


def soon(ask: Any, expected: int) -> float:
    """How long it takes until a question is answered with this status."""
    begun = time.perf_counter()
    while ask()[0] != expected:
        assert time.perf_counter() - begun < 5, f"not {expected} within five seconds"
        time.sleep(0.05)
    return time.perf_counter() - begun


def test_a_certificate_is_a_caller_by_thumbprint_or_subject(place: Place) -> None:
    one = place.client("clinic")
    assert [one.check()[0] for _ in range(5)] == [200] * 5
    assert one.check(institution=OTHER)[1]["code"] == "caller.mismatch"
    assert place.client("by-subject").check(institution=OTHER)[0] == 200


@pytest.mark.parametrize("name", [None, "stranger"])
def test_others_are_let_in_and_get_nothing(place: Place, name: str | None) -> None:
    assert place.client(name).check()[0] == 401


@pytest.mark.parametrize("name", ["expired", "forged"])
def test_what_the_authority_did_not_sign_or_is_over_is_not_let_in(place: Place, name: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        place.client(name).check()


def test_a_token_without_a_certificate(place: Place) -> None:
    status, given = place.client().token()
    assert status == 200
    for _ in range(3):
        assert place.client().check(given["access_token"])[0] == 200
    assert place.client("clinic").check(given["access_token"])[0] == 200
    assert place.client("by-subject").check(given["access_token"])[0] == 401, "two callers at once are none"


def test_a_token_is_bound_to_the_certificate_that_asked(place: Place) -> None:
    status, given = place.client("clinic").token()
    assert status == 200
    assert place.client("clinic").check(given["access_token"])[0] == 200
    for other in (None, "stranger", "by-subject"):
        assert place.client(other).check(given["access_token"])[0] == 401
    assert place.client("by-subject").token()[0] == 401, "the certificate is of another caller than the assertion"


def test_a_revoked_certificate_is_out_on_open_connections_and_new_ones(place: Place) -> None:
    taken_back = place.issue("lost", api.INSTITUTION)
    open_one = place.client("lost")
    soon(place.client("lost").check, 200)
    soon(open_one.check, 200)
    token = open_one.token()[1]["access_token"]
    place.revoke(taken_back.serial_number)
    assert soon(open_one.check, 401) < 2.5
    time.sleep(1.5)  # The other worker looks at another time of the second.
    assert place.client("lost").check()[0] == place.client("lost").check(token)[0] == 401
    assert place.client("clinic").check()[0] == 200
    # A list that ran out vouches for nobody, and one that is none changes nothing.
    place.revoke(days=-1)
    soon(place.client("clinic").check, 401)
    place.revoke()
    soon(place.client("clinic").check, 200)
    time.sleep(2.5)  # Both workers have read it.
    (place.folder / "crl.pem").write_bytes(b"no list")
    time.sleep(2.5)
    assert place.client("clinic").check()[0] == 200 and "is not taken" in place.server.said()
    place.revoke(taken_back.serial_number)


def test_a_suspended_caller_is_out_within_a_second_on_open_connections(place: Place) -> None:
    open_one, bearer = place.client("by-subject"), place.client()
    token = bearer.token(OTHER, ec_key("other"))[1]["access_token"]
    assert open_one.check(institution=OTHER)[0] == bearer.check(token, OTHER)[0] == 200
    with place.register() as writer:
        writer.suspend(OTHER, now_ms=int(time.time() * 1000))
    assert soon(lambda: open_one.check(institution=OTHER), 401) < 2.5
    assert soon(lambda: bearer.check(token, OTHER), 401) < 2.5
    assert bearer.token(OTHER, ec_key("other"))[0] == 401
    with place.register() as writer:
        writer.resume(OTHER, now_ms=int(time.time() * 1000))
    soon(lambda: place.client("by-subject").check(institution=OTHER), 200)
    assert bearer.check(token, OTHER)[0] == 401, "a token of before stays out"
