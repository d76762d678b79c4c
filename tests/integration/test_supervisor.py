"""Asks whether a real server starts, drains, survives kills, and refuses what it must, with real data behind it."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli.demo import as_expected
from api.cli.people import today_in_japan
from api.exits import Exit
from engine.config import Config
from loadtest import population
from tests.support.processes import (
    Caller,
    Running,
    alive,
    ask_once,
    free_ports,
    make_store,
    remove_index,
    serving,
    shikaku,
    signal_quietly,
    until,
)

CHECK = "/v1/eligibility/check"


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    made = make_store(tmp_path)
    yield made
    remove_index(made.data_dir, made.key_file)


@pytest.fixture
def server(config: Config) -> Iterator[Running]:
    with serving(config) as running:
        yield running


def cast() -> list[dict[str, Any]]:
    return population.personas(today_in_japan())


def assert_cast(port: int) -> None:
    """Every persona gets what is expected, over one connection."""
    caller = Caller(port)
    for each in cast():
        status, _, answer = caller.ask("POST", CHECK, each["request"])
        assert status == 200 and as_expected(each, answer), (each["name"], answer)
    caller.close()


def register(port: int, number: str) -> None:
    """Register a new qualification and wait for the acknowledgement."""
    operation = {
        "op": "new",
        "insurer_number": "01130012",
        "symbol": "77",
        "number": number,
        "branch": "00",
        "birth_date": "1980-01-01",
        "name": "新規 者",
        "name_kana": "シンキ モノ",
        "sex": 1,
        "relation": 1,
        "gained_on": "2020-04-01",
    }
    body = {"operations": [operation]}
    status, _, answer = ask_once(port, "POST", "/v1/insurers/01130012/qualifications", body)
    assert status == 200, answer


def inquiry(number: str) -> dict[str, Any]:
    card = {"insurer_number": "01130012", "symbol": "77", "number": number, "branch": "00", "birth_date": "1980-01-01"}
    return {"institution": "1311111114", "as_of": "2026-01-01", "card": card}


def test_both_ports_are_ready_and_every_persona_is_answered(server: Running) -> None:
    assert ask_once(server.port, "GET", "/readyz")[0] == 200
    assert ask_once(server.registry_port, "GET", "/readyz")[0] == 200
    assert_cast(server.port)
    assert "Traceback" not in server.said()


def test_a_write_is_seen_by_every_worker_once_it_is_acknowledged(server: Running) -> None:
    callers = [Caller(server.port) for _ in range(16)]
    for at in range(5):
        register(server.registry_port, str(5000 + at))
        assert all(caller.ask("POST", CHECK, inquiry(str(5000 + at)))[2]["verdict"] == "VALID" for caller in callers)
    for caller in callers:
        caller.close()


def test_checks_go_on_while_the_registry_stands_still(server: Running) -> None:
    registry = server.registry_pid()
    os.kill(registry, signal.SIGSTOP)
    try:
        assert_cast(server.port)
    finally:
        os.kill(registry, signal.SIGCONT)
    register(server.registry_port, "5100")


def test_a_killed_registry_comes_back_and_takes_writes(server: Running) -> None:
    former = server.registry_pid()
    register(server.registry_port, "5200")
    os.kill(former, signal.SIGKILL)
    assert_cast(server.port)
    register(server.registry_port, "5201")
    assert server.registry_pid() != former
    for number in ("5200", "5201"):
        assert ask_once(server.port, "POST", CHECK, inquiry(number))[2]["verdict"] == "VALID"


def test_killed_workers_answer_again_within_a_second(server: Running) -> None:
    for _ in range(5):
        for pid in server.worker_pids():
            signal_quietly(pid, signal.SIGKILL)
        waited = until(
            lambda: ask_once(server.port, "POST", CHECK, cast()[0]["request"])[0] == 200, "an answer", server
        )
        assert waited < 1.0


def test_sigterm_finishes_a_batch_under_way_and_the_index_is_saved(server: Running, config: Config) -> None:
    requests = [json.dumps(each["request"], ensure_ascii=False).encode() + b"\n" for each in cast()]
    lines = requests * 20
    with socket.create_connection(("127.0.0.1", server.port), 30) as peer:
        head = "POST /v1/eligibility/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        peer.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % sum(map(len, lines)) + b"".join(lines[:100]))
        until(lambda: _workers_have_accepted(server), "the request", server)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "draining" in server.said(), "the drain", server)
        peer.sendall(b"".join(lines[100:]))
        received = b"".join(iter(lambda: peer.recv(1 << 16), b""))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b'"verdict"') == len(lines)
    assert server.process.wait(20) == Exit.OK
    assert config.snapshot_file.exists()
    assert not (config.data_dir / "server.json").exists()


def _workers_have_accepted(server: Running) -> bool:
    import psutil

    return any(c.raddr for pid in server.worker_pids() for c in psutil.Process(pid).net_connections("tcp"))


def test_an_idle_connection_does_not_hold_up_a_stop(server: Running) -> None:
    caller = Caller(server.port)
    caller.ask("GET", "/livez")
    assert server.stop(timeout=8) == Exit.OK
    caller.close()


def test_sighup_renews_the_workers_without_a_failed_check(server: Running) -> None:
    former = set(server.worker_pids())
    failures: list[object] = []
    stop = threading.Event()

    def ask_on() -> None:
        caller = Caller(server.port)
        request = cast()[0]["request"]
        while not stop.is_set():
            status, _, answer = caller.ask("POST", CHECK, request)
            if status != 200 or answer["verdict"] != "VALID":
                failures.append(answer)
        caller.close()

    asking = threading.Thread(target=ask_on)
    asking.start()
    server.process.send_signal(signal.SIGHUP)
    until(lambda: not former & set(server.worker_pids()), "new workers", server)
    until(lambda: not any(alive(pid) for pid in former), "the former workers to leave", server)
    stop.set()
    asking.join()
    assert not failures


def test_a_killed_supervisor_leaves_nothing_and_the_next_start_works_at_once(server: Running, config: Config) -> None:
    register(server.registry_port, "5300")
    children = server.children()
    server.stop(signal.SIGKILL)
    with serving(config, port=server.port) as again:
        assert not any(alive(pid) for pid in children)
        assert_cast(again.port)
        assert ask_once(again.port, "POST", CHECK, inquiry("5300"))[2]["verdict"] == "VALID"


def test_a_second_instance_and_a_used_port_are_one_line_and_an_exit_code(server: Running, config: Config) -> None:
    where = ("--data", config.data_dir, "--key", config.key_file)
    second = shikaku("serve", "--port", free_ports(), *where)
    assert (second.returncode, second.stderr.count("\n")) == (Exit.STORE, 1)
    assert "[store.locked]" in second.stderr
    config.data_dir.with_name("other").mkdir()
    third = shikaku("serve", "--port", server.port, "--data", config.data_dir.with_name("other"), *where[2:])
    assert (third.returncode, third.stderr.count("\n")) == (Exit.PORT, 1)
    assert f"port {server.port} on 127.0.0.1 is in use" in third.stderr
    assert_cast(server.port)


def test_a_data_folder_without_a_store_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = shikaku("serve", "--port", free_ports(), "--data", tmp_path / "empty", "--key", config.key_file)
    assert ended.returncode == Exit.STORE
    assert "[store.missing]" in ended.stderr


def test_after_a_reboot_the_index_is_there_again(config: Config) -> None:
    with serving(config) as server:
        register(server.registry_port, "5400")
        server.stop(signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in server.worker_pids()), "the workers' end")
    remove_index(config.data_dir, config.key_file)
    with serving(config) as server:
        assert_cast(server.port)
        assert ask_once(server.port, "POST", CHECK, inquiry("5400"))[2]["verdict"] == "VALID"


def test_an_index_deleted_by_hand_under_a_running_server_is_made_anew(server: Running, config: Config) -> None:
    remove_index(config.data_dir, config.key_file)
    assert_cast(server.port)
    os.kill(server.registry_pid(), signal.SIGKILL)
    register(server.registry_port, "5500")
    callers = [Caller(server.port) for _ in range(8)]

    def seen_by_all() -> bool:
        return all(caller.ask("POST", CHECK, inquiry("5500"))[2]["verdict"] == "VALID" for caller in callers)

    assert until(seen_by_all, "the new index", server) < 3.0
    for caller in callers:
        caller.close()


def test_a_damaged_record_ends_the_worker_and_is_never_answered(server: Running, config: Config) -> None:
    victim = cast()[0]
    name = "診療　太郎".encode()
    with open(config.store_dir / "data.mdb", "r+b") as file:
        image = file.read()
        assert name in image
        at = image.find(name)
        while at >= 0:
            file.seek(at)
            file.write(b"\x01" * len(name))
            at = image.find(name, at + 1)
    try:
        status = ask_once(server.port, "POST", CHECK, victim["request"])[0]
    except ConnectionError:
        status = 0
    assert status != 200
    until(lambda: f"(exit code {Exit.CORRUPTION:d})" in server.said(), "the worker's end", server)
    assert "[store.corrupt]" in server.said()
    assert victim["request"]["card"]["number"] not in server.said()
    sound = next(each for each in cast() if each["verdict"] == "SUPERSEDED")
    assert ask_once(server.port, "POST", CHECK, sound["request"])[2]["verdict"] == "SUPERSEDED"
