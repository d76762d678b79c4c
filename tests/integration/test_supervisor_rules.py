"""Asks whether the supervisor keeps its rules, over toy applications: restart, back-off, drain, roll, lock, ports."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.exits import Exit
from tests.support.processes import ROOT, Caller, Running, alive, ask_once, free_ports, running, until


def command(data_dir: Path, port: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.toy_server", str(data_dir), str(port), *options]


def run(data_dir: Path, port: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a toy server that is expected to end by itself."""
    return subprocess.run(
        command(data_dir, port, *options), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Running]:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    port = free_ports()
    with running(command(data_dir, port), data_dir, port, workers=2) as server:
        yield server


def answering_pid(port: int) -> int:
    return int(ask_once(port, "GET", "/")[2].split()[1])


def test_workers_share_the_check_port_and_the_registry_has_its_own(toy: Running) -> None:
    assert answering_pid(toy.port) in toy.worker_pids()
    assert answering_pid(toy.registry_port) == toy.registry_pid()
    assert sorted(toy.children()) == sorted([*toy.worker_pids(), toy.registry_pid()])


def test_a_killed_process_is_replaced_and_no_connection_is_refused(toy: Running) -> None:
    for victim, port in ((toy.worker_pids()[0], toy.port), (toy.registry_pid(), toy.registry_port)):
        os.kill(victim, signal.SIGKILL)
        assert answering_pid(port) != victim
        until(lambda gone=victim: gone not in [*toy.worker_pids(), toy.registry_pid()], "a new process", toy)
    assert "killed by SIGKILL" in toy.said()


def test_all_workers_killed_at_once_come_back_within_a_second(toy: Running) -> None:
    former = toy.worker_pids()
    for pid in former:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: answering_pid(toy.port) not in former, "an answer", toy) < 1.0


def test_sigterm_finishes_the_request_under_way_and_says_close(toy: Running) -> None:
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask_once(toy.port, "GET", "/slow")))
    asking.start()
    until(lambda: "slow" in _connections(toy), "the request", toy)
    assert toy.stop(signal.SIGTERM) == Exit.OK
    asking.join()
    status, headers, body = answers[0]
    assert (status, body, headers["connection"].lower()) == (200, "slow", "close")


def _connections(toy: Running) -> str:
    """`slow` once a worker has accepted a connection: a client's socket is then established on both sides."""
    import psutil

    found = [c for pid in toy.worker_pids() for c in psutil.Process(pid).net_connections("tcp") if c.raddr]
    return "slow" if found else ""


def test_an_idle_kept_alive_connection_gets_one_more_answer_while_draining(toy: Running) -> None:
    caller = Caller(toy.port)
    caller.ask("GET", "/")
    toy.process.send_signal(signal.SIGTERM)

    def told_to_close() -> bool:
        status, headers, _ = caller.ask("GET", "/")
        assert status == 200
        return headers.get("connection", "").lower() == "close"

    until(told_to_close, "an answer that closes the connection", toy)
    caller.close()
    assert toy.process.wait(10) == Exit.OK


def test_ctrl_c_drains_and_a_second_one_kills(toy: Running) -> None:
    asking = threading.Thread(target=lambda: _ignore_reset(toy.port))
    asking.start()
    until(lambda: "slow" in _connections(toy), "the request", toy)
    toy.process.send_signal(signal.SIGINT)
    until(lambda: "draining" in toy.said(), "the drain", toy)
    toy.process.send_signal(signal.SIGINT)
    assert toy.process.wait(0.9) == Exit.OK, "the request takes a second: it was waited for"
    asking.join()


def _ignore_reset(port: int) -> None:
    try:
        ask_once(port, "GET", "/slow")
    except ConnectionError:
        pass


def test_sighup_renews_every_worker_without_a_failed_request(toy: Running) -> None:
    former = set(toy.worker_pids())
    toy.process.send_signal(signal.SIGHUP)

    def renewed() -> bool:
        assert ask_once(toy.port, "GET", "/")[0] == 200
        return not former & set(toy.worker_pids())

    until(renewed, "new workers", toy)
    until(lambda: not any(alive(pid) for pid in former), "the former workers to leave", toy)
    assert len(toy.worker_pids()) == 2


def test_nothing_outlives_a_killed_supervisor_and_a_new_start_works_at_once(toy: Running) -> None:
    children = toy.children()
    toy.stop(signal.SIGKILL)
    with running(command(toy.data_dir, toy.port), toy.data_dir, toy.port, workers=2) as again:
        assert not any(alive(pid) for pid in children)
        assert answering_pid(again.port) in again.worker_pids()


def test_a_second_instance_on_the_same_data_folder_is_refused(toy: Running) -> None:
    second = run(toy.data_dir, free_ports())
    assert second.returncode == Exit.STORE
    assert "[store.locked]" in second.stderr
    assert answering_pid(toy.port) in toy.worker_pids()


@pytest.mark.parametrize("offset", [0, 1], ids=["check-port", "registry-port"])
def test_a_port_in_use_is_said(tmp_path: Path, offset: int) -> None:
    port = free_ports()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port + offset))
        holder.listen()
        ended = run(tmp_path, port)
    assert ended.returncode == Exit.PORT
    assert f"port {port + offset} on 127.0.0.1 is in use" in ended.stderr


def test_a_registry_that_cannot_start_ends_the_server_with_its_exit_code(tmp_path: Path) -> None:
    ended = run(tmp_path, free_ports(), f"registry={Exit.STORE:d}")
    assert ended.returncode == Exit.STORE
    assert ended.stderr.count("registry ended (exit code 4)") == 1


@pytest.mark.parametrize("role", ["registry", "worker"])
def test_corruption_three_times_in_a_row_stops_serving(tmp_path: Path, role: str) -> None:
    ended = run(tmp_path, free_ports(), f"{role}={Exit.CORRUPTION:d}")
    assert ended.returncode == Exit.CORRUPTION
    assert "stored bytes are corrupt" in ended.stderr
    assert 3 <= ended.stderr.count("(exit code 5)") <= 5, "two workers"


def test_a_process_that_keeps_dying_is_restarted_later_and_later(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command(data_dir, free_ports(), "worker=9"), cwd=ROOT, stderr=file)
    until(lambda: log.read_text().count("worker-1 ended") >= 5, "five deaths")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert log.read_text().count("worker-1 ended") < 10
    process.terminate()
    assert process.wait(10) == Exit.OK
