"""Asks of TLS on the check port, with real certificates and workers: same answers, resumption everywhere, pacing."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from api import accepts, tls
from engine.config import Config
from engine.errors import ConfigError
from tests.support import api, streams
from tests.support.processes import Running, free_ports, running, shikaku

CHECK = streams.request(json.dumps(api.inquiry("7")).encode())
WORKERS = 2


class Party(NamedTuple):
    """A server with TLS, and who signed its certificate and those of clients."""

    server: Running
    settings: Path
    authority: trustme.CA


@contextlib.contextmanager
def party(folder: Path, *, mutual: bool) -> Iterator[Party]:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    certificate = authority.issue_cert("127.0.0.1", "checks.example", key_type=trustme.KeyType.ECDSA)
    certificate.private_key_pem.write_to_path(str(folder / "tls.key"))
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(folder / "tls.pem"), append=number > 0)
    authority.cert_pem.write_to_path(str(folder / "clients.pem"))
    port, settings = free_ports(), folder / "shikaku.toml"
    settings.write_text(
        f'data_dir = "{folder}/data"\nkey_file = "{folder}/master.key"\nindex_dir = "{folder}/index"\n'
        f'port = {port}\nworkers = {WORKERS}\nindex_keys = 4096\ntls_certificate = "{folder}/tls.pem"\n'
        f'tls_key = "{folder}/tls.key"\n' + (f'tls_client_ca = "{folder}/clients.pem"\n' if mutual else "")
    )
    assert shikaku("init", "--config", settings).returncode == 0
    serve = [sys.executable, "-m", "api.cli.main", "serve", "--config", str(settings)]
    with running(serve, folder / "data", port, WORKERS) as server:
        yield Party(server, settings, authority)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Party]:
    with party(tmp_path_factory.mktemp("tls"), mutual=False) as found:
        yield found


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Party]:
    with party(tmp_path_factory.mktemp("mutual"), mutual=True) as found:
        yield found


def client(party: Party, *, certificate: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    party.authority.configure_trust(context)
    if certificate is not None:
        certificate.issue_cert("clinic.example", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    return context


def connect(party: Party, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    bare = socket.create_connection(("127.0.0.1", party.server.port), timeout=30)
    return context.wrap_socket(bare, server_hostname="127.0.0.1", session=session)


def ask(connection: ssl.SSLSocket, request: bytes = CHECK) -> bytes:
    """One request; the body of its answer, which comes in one piece."""
    connection.sendall(request)
    answer = connection.recv(65536)
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return body


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_checks_are_answered(plain: Party, version: ssl.TLSVersion) -> None:
    context = client(plain)
    context.minimum_version = context.maximum_version = version
    with connect(plain, context) as connection:
        assert connection.version() == version.name.replace("_", ".")
        assert [json.loads(ask(connection))["verdict"] for _ in range(3)] == ["NOT_FOUND"] * 3
        # Another path: handed over to the general server on the same connection.
        ready = json.loads(ask(connection, b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
        assert ready["status"] == "ready"


def test_pieces_of_a_request_may_be_records_of_their_own(plain: Party) -> None:
    with connect(plain, client(plain)) as connection:
        for at in range(0, len(CHECK), 40):
            connection.sendall(CHECK[at : at + 40])
        assert b"NOT_FOUND" in connection.recv(65536)


def test_a_session_is_resumed_by_whatever_worker(plain: Party) -> None:
    """The keys of tickets are made before the workers are; a new worker has them too."""
    context = client(plain)
    with connect(plain, context) as connection:
        ask(connection)
        session = connection.session
    for turn in range(40):
        if turn == 20:
            workers = plain.server.worker_pids()
            plain.server.process.send_signal(1)
            until = time.monotonic() + 30
            while set(plain.server.worker_pids()) & set(workers):
                assert time.monotonic() < until
                time.sleep(0.05)
        with connect(plain, context, session) as connection:
            assert connection.session_reused
            ask(connection)
            session = connection.session


def test_the_command_line_speaks_to_it(plain: Party) -> None:
    inquiry = ["--insurer", api.INSURER, "--symbol", "1", "--number", "7", "--birth-date", "2000-01-02"]
    done = shikaku("check", *inquiry, "--institution", api.INSTITUTION, "--config", plain.settings)
    assert "NOT_FOUND" in done.stdout, done.stderr
    assert f"https://127.0.0.1:{plain.server.port}" in plain.server.said()


def test_plain_http_and_slow_handshakes_hold_nobody_up(plain: Party) -> None:
    idle = [socket.create_connection(("127.0.0.1", plain.server.port)) for _ in range(40)]
    try:
        with socket.create_connection(("127.0.0.1", plain.server.port), timeout=30) as bare:
            bare.sendall(CHECK)
            # The server hangs up; with an alert of TLS or without.
            assert not bare.recv(65536).startswith(b"HTTP")
        with connect(plain, client(plain)) as connection:
            ask(connection)
        # Whoever does not begin a handshake is cut off.
        idle[0].settimeout(4 * accepts.HANDSHAKE_SECONDS)
        with contextlib.suppress(ConnectionResetError):
            assert idle[0].recv(1) == b""
    finally:
        for one in idle:
            one.close()


def test_a_storm_of_handshakes_leaves_room_for_others(plain: Party) -> None:
    """Three hundred clients connect at once, while one that is connected goes on checking."""
    context, done, failed = client(plain), threading.Event(), []

    def storm() -> None:
        try:
            for _ in range(100):
                with connect(plain, context) as connection:
                    ask(connection)
        except Exception as error:
            failed.append(error)

    with connect(plain, client(plain)) as connection:
        threads = [threading.Thread(target=storm) for _ in range(3)]
        for thread in threads:
            thread.start()
        asked = 0
        while any(thread.is_alive() for thread in threads):
            ask(connection)
            asked += 1
        done.set()
    assert not failed
    assert asked > 10


def test_no_request_is_lost_when_the_server_stops(tmp_path: Path) -> None:
    with party(tmp_path, mutual=False) as found:
        context = client(found)
        connections = [connect(found, context) for _ in range(10)]
        for connection in connections:
            ask(connection)
        found.server.process.send_signal(15)
        for connection in connections:
            ask(connection)
            connection.close()
        assert found.server.process.wait(30) == 0


# --- mutual -------------------------------------------------------------------------------------------------------


def test_a_client_with_a_certificate_is_let_in(mutual: Party) -> None:
    with connect(mutual, client(mutual, certificate=mutual.authority)) as connection:
        assert b"NOT_FOUND" in ask(connection)


@pytest.mark.parametrize("known", [False, True], ids=["none", "of another"])
def test_others_are_not(mutual: Party, known: bool) -> None:
    context = client(mutual, certificate=trustme.CA() if known else None)
    with pytest.raises((ssl.SSLError, ConnectionError)), connect(mutual, context) as connection:
        connection.sendall(CHECK)
        if not connection.recv(1):
            raise ConnectionResetError


def test_the_command_line_says_that_it_is_one_of_the_others(mutual: Party) -> None:
    inquiry = ["--insurer", api.INSURER, "--symbol", "1", "--number", "7", "--birth-date", "2000-01-02"]
    done = shikaku("check", *inquiry, "--institution", api.INSTITUTION, "--config", mutual.settings)
    assert done.returncode == 3 and "only clients with a certificate (tls_client_ca)" in done.stderr


# --- settings -----------------------------------------------------------------------------------------------------


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    """The file that is wrong is named, and what is: a missing key was once told as a certificate that is not found."""
    file, missing, good, key = (tmp_path / name for name in ("some.pem", "missing", "good.pem", "key.pem"))
    file.write_text("nonsense")
    certificate = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("checks.example")
    certificate.cert_chain_pems[0].write_to_path(str(good))
    certificate.private_key_pem.write_to_path(str(key))
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("checks.example").private_key_pem.write_to_path(str(other))
    pair = {"tls_certificate": good, "tls_key": key}
    for settings, field, said in (
        ({"tls_certificate": file}, "tls_certificate", "belong together"),
        ({"tls_key": file}, "tls_key", "belong together"),
        ({"tls_client_ca": file}, "tls_client_ca", "belong together"),
        (pair | {"tls_certificate": missing}, "tls_certificate", "missing cannot be used: No such file"),
        (pair | {"tls_certificate": file}, "tls_certificate", "some.pem cannot be used: there is no certificate"),
        (pair | {"tls_certificate": tmp_path}, "tls_certificate", "cannot be used: Is a directory"),
        (pair | {"tls_key": missing}, "tls_key", "missing cannot be used: No such file"),
        (pair | {"tls_key": file}, "tls_key", "some.pem cannot be used: there is no private key"),
        (pair | {"tls_key": other}, "tls_key", "other.pem cannot be used: it is not the key of .*good.pem"),
        (pair | {"tls_client_ca": missing}, "tls_client_ca", "missing cannot be used: No such file"),
        (pair | {"tls_client_ca": key}, "tls_client_ca", "key.pem cannot be used: there is no certificate"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            tls.server_context(Config(**settings))
        assert caught.value.field == field
    assert tls.server_context(Config(**pair)) is not None
    assert tls.server_context(Config()) is None
    with pytest.raises(ConfigError, match="cannot be used"):
        tls.client_context(Config(tls_certificate=file))


def test_a_key_with_a_passphrase_is_refused_not_asked_for(tmp_path: Path) -> None:
    """A server that was started at a terminal once waited there for the passphrase."""
    certificate = trustme.CA().issue_cert("checks.example")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*form))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.pem"))
    with pytest.raises(ConfigError, match="key.pem cannot be used: it is encrypted") as caught:
        tls.server_context(Config(tls_certificate=tmp_path / "tls.pem", tls_key=tmp_path / "key.pem"))
    assert caught.value.field == "tls_key"


def test_a_client_that_ends_its_sending_is_not_logged(plain: Party) -> None:
    """Under TLS nothing can be sent to it any more; once, each such client left a line of asyncio's in the log."""
    with connect(plain, client(plain)) as connection:
        connection.sendall(CHECK * 300)
        connection.setblocking(False)
        with contextlib.suppress(ssl.SSLError):
            connection.unwrap()
        connection.setblocking(True)
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                pass
    with connect(plain, client(plain)) as connection:
        ask(connection)
    assert "eof_received" not in plain.server.said()
