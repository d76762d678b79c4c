"""Asks whether the load notices every wrong answer, and reads the CPU time of whole families of processes."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from benchmarks.http_load import driver
from benchmarks.http_load.driver import Driver, LoadError, Sample

SAMPLES = [Sample(driver.request("/check", b"ask %d" % n, 1), b"answer %d" % n) for n in range(5)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("load"))


class Toy:
    """Answers `ask N` with `answer N`, unless it is told to do something else."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.answered = 0
        self.pause_s = 0.0
        """How long each connection waits with its first answer."""
        self.head, self.body, self.pieces = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: %d\r\n\r\n", b"answer %b", 1
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self.listener.accept()[0]], daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        data, pause_s = b"", self.pause_s
        with suppress(OSError), peer:
            while got := peer.recv(65536):
                time.sleep(pause_s)
                data, pause_s = data + got, 0
                out = b""
                while b"ask " in data and len(data) > data.index(b"ask ") + 4:
                    at = data.index(b"ask ")
                    number, data = data[at + 4 : at + 5], data[at + 5 :]
                    body = self.body % number if b"%b" in self.body else self.body
                    out += self.head % len(body) + body
                    self.answered += 1
                middle = len(out) // 2 if self.pieces > 1 else len(out)
                for part in (out[:middle], out[middle:]):
                    peer.sendall(part)
                    time.sleep(0.001 * (self.pieces - 1))


@contextmanager
def load(toy: Toy, program: Path, folder: Path, *, connections: int = 2, depth: int = 1) -> Iterator[Driver]:
    driver.write_samples(folder / "samples", SAMPLES)
    with Driver(program, folder / "samples", toy.port, [os.getpid()], connections=connections, depth=depth) as made:
        yield made
    toy.listener.close()


@pytest.mark.parametrize("depth", [1, 8])
def test_right_answers_are_counted(program: Path, tmp_path: Path, depth: int) -> None:
    toy = Toy()
    with load(toy, program, tmp_path, depth=depth) as made:
        for count in (1, 203):
            turn = made.turn(count)
            assert turn.requests == count and turn.seconds > 0 and turn.cpu_us > 0
    assert toy.answered == 204


def test_answers_may_come_in_pieces(program: Path, tmp_path: Path) -> None:
    toy = Toy()
    toy.pieces = 2
    with load(toy, program, tmp_path, depth=3) as made:
        assert made.turn(30).requests == 30


@pytest.mark.parametrize(
    ("head", "body", "said"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n", b"answer %b", "status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", b"answer x", "not the expected one"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", b"answer", "length"),
        (b"HTTP/1.1 200 OK\r\nX: %d\r\n\r\n", b"answer %b", "length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", b"answer 0", "not the expected one"),
    ],
)
def test_a_wrong_answer_ends_the_load(program: Path, tmp_path: Path, head: bytes, body: bytes, said: str) -> None:
    toy = Toy()
    toy.head, toy.body = head, body
    with load(toy, program, tmp_path) as made, pytest.raises(LoadError, match=said):
        made.turn(50)


def test_nobody_there_is_an_error(program: Path, tmp_path: Path) -> None:
    toy = Toy()
    toy.listener.shutdown(socket.SHUT_RDWR)
    toy.listener.close()
    with load(toy, program, tmp_path) as made, pytest.raises(LoadError, match="cannot connect"):
        made.turn(1)


def test_the_time_of_children_counts() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert driver.cpu_ns([parent.pid]) > 0.3e9
        assert len(driver.family([parent.pid])) == 2
        parent.communicate(b"\n")


# --- the open loop --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("open"), source=driver.OPEN_SOURCE)


def open_loop(toy: Toy, program: Path, folder: Path, rate: int, seconds: float) -> driver.Latencies:
    driver.write_samples(folder / "samples", SAMPLES)
    found = driver.open_loop(program, folder / "samples", toy.port, rate=rate, seconds=seconds, connections=4)
    toy.listener.close()
    return found


def test_requests_are_sent_at_their_rate(open_program: Path, tmp_path: Path) -> None:
    toy, start = Toy(), time.monotonic()
    found = open_loop(toy, open_program, tmp_path, 200, 1)
    assert found.requests == toy.answered == 200
    assert time.monotonic() - start > 0.95
    assert 0 < found.p50 <= found.p99 <= found.p999 <= found.most


def test_a_server_that_stands_still_is_charged_for_all_that_were_due(open_program: Path, tmp_path: Path) -> None:
    """Four connections wait half a second once; the hundred requests of that time had to wait, too."""
    toy = Toy()
    toy.pause_s = 0.5
    found = open_loop(toy, open_program, tmp_path, 200, 0.8)
    assert found.most > 400 and found.p50 > 50
    assert found.late > 50


def test_a_wrong_answer_ends_the_open_loop(open_program: Path, tmp_path: Path) -> None:
    toy = Toy()
    toy.body = b"answer x"
    with pytest.raises(LoadError, match="not the expected one"):
        open_loop(toy, open_program, tmp_path, 100, 1)


# --- TLS ------------------------------------------------------------------------------------------------------------

AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)


class TlsToy(Toy):
    """The same behind TLS."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA).configure_cert(self.context)
        super().__init__()

    def _serve(self, peer: socket.socket) -> None:
        with suppress(OSError):
            super()._serve(self.context.wrap_socket(peer, server_side=True))


@pytest.fixture(scope="module")
def handshakes_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("handshakes"), source=driver.HANDSHAKES_SOURCE, tls=True)


@pytest.fixture
def tls_toy() -> Iterator[TlsToy]:
    toy = TlsToy()
    yield toy
    toy.listener.close()


def shake(toy: Toy, program: Path, folder: Path, **more: object) -> driver.Handshakes:
    driver.write_samples(folder / "samples", SAMPLES)
    given: dict[str, object] = {"count": 20, "at_once": 4, **more}
    return driver.handshakes(program, folder / "samples", toy.port, **given)  # type: ignore[arg-type]


def client_certificate(folder: Path) -> driver.Certificate:
    made = AUTHORITY.issue_cert("clinic.example", key_type=trustme.KeyType.ECDSA)
    made.private_key_pem.write_to_path(str(folder / "client.key"))
    made.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    return driver.Certificate(folder / "client.pem", folder / "client.key")


def test_each_new_connection_shakes_hands_in_full(tls_toy: TlsToy, handshakes_program: Path, tmp_path: Path) -> None:
    found = shake(tls_toy, handshakes_program, tmp_path)
    assert (found.count, found.resumed, tls_toy.answered) == (20, 0, 20)
    assert 0 < found.p50 <= found.p99 <= found.most and found.rate > 0


def test_tickets_are_used_and_the_first_is_not_counted(
    tls_toy: TlsToy, handshakes_program: Path, tmp_path: Path
) -> None:
    found = shake(tls_toy, handshakes_program, tmp_path, resumed=True)
    assert (found.count, tls_toy.answered) == (20, 21)
    # Now and then OpenSSL leaves a ticket unused; those who measure look at the number.
    assert found.resumed >= 15


def test_a_server_that_gives_no_tickets_is_told(tls_toy: TlsToy, handshakes_program: Path, tmp_path: Path) -> None:
    tls_toy.context.num_tickets = 0
    with pytest.raises(LoadError, match="no ticket"):
        shake(tls_toy, handshakes_program, tmp_path, resumed=True)


def test_all_may_come_at_once(tls_toy: TlsToy, handshakes_program: Path, tmp_path: Path) -> None:
    assert shake(tls_toy, handshakes_program, tmp_path, count=60, at_once=60).count == tls_toy.answered == 60


def test_a_wrong_answer_ends_the_handshakes(tls_toy: TlsToy, handshakes_program: Path, tmp_path: Path) -> None:
    tls_toy.body = b"answer x"
    with pytest.raises(LoadError, match="not the expected one"):
        shake(tls_toy, handshakes_program, tmp_path)


def test_an_older_tls_is_not_measured(tls_toy: TlsToy, handshakes_program: Path, tmp_path: Path) -> None:
    tls_toy.context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(LoadError, match="handshake failed"):
        shake(tls_toy, handshakes_program, tmp_path)


def test_a_client_shows_its_certificate(tls_toy: TlsToy, handshakes_program: Path, tmp_path: Path) -> None:
    tls_toy.context.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(tls_toy.context)
    shown = client_certificate(tmp_path)
    for resumed in (False, True):
        assert shake(tls_toy, handshakes_program, tmp_path, certificate=shown, resumed=resumed).count == 20
    with pytest.raises(LoadError, match="closed a connection|not taken as a whole"):
        shake(tls_toy, handshakes_program, tmp_path)


def test_the_other_loads_speak_tls_too(tls_toy: TlsToy, tmp_path: Path) -> None:
    driver.write_samples(tmp_path / "samples", SAMPLES)
    program = driver.build(tmp_path, source=driver.OPEN_SOURCE, tls=True)
    tls_toy.context.verify_mode = ssl.CERT_OPTIONAL
    AUTHORITY.configure_trust(tls_toy.context)
    for certificate in (None, client_certificate(tmp_path)):
        found = driver.open_loop(
            program, tmp_path / "samples", tls_toy.port, rate=200, seconds=0.5, connections=4, tls=True,
            certificate=certificate,
        )  # fmt: skip
        assert found.requests == 100
    load_program = driver.build(tmp_path, tls=True)
    with Driver(load_program, tmp_path / "samples", tls_toy.port, [os.getpid()], depth=3, tls=True) as made:
        assert made.turn(100).requests == 100
    assert tls_toy.answered == 300


def test_a_load_without_tls_says_so(open_program: Path, tmp_path: Path) -> None:
    driver.write_samples(tmp_path / "samples", SAMPLES)
    with pytest.raises(LoadError, match="built without TLS"):
        driver.open_loop(open_program, tmp_path / "samples", 1, rate=1, seconds=1, tls=True)
