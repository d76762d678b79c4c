"""Kills check workers of a real server at random instants (-9): is every answer that a client received in a log?

Clients keep the receipt's name and the digest of each answer, a batch's items too. In the end every one of them must be
found in the log that it names, the logs must verify from their first entry to their last, and no record may be there
twice. Answers that never left may have been recorded; that is all that may differ.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from api.cli.people import today_in_japan
from engine.audit.entry import decode
from engine.audit.log import LogReader
from loadtest import population
from tests.support.processes import Running, make_store, remove_index, serving, shikaku, signal_quietly

CLIENTS = 4


class Client(threading.Thread):
    """Asks, alone and in batches, and keeps what it was told."""

    def __init__(self, server: Running, requests: list[bytes], seed: int) -> None:
        super().__init__(daemon=True)
        self.server, self.requests, self.chance = server, requests, random.Random(seed)
        self.stopped = threading.Event()
        self.received: list[tuple[str, bytes]] = []
        self.wrong: list[str] = []
        self.breaks = 0

    def run(self) -> None:
        caller = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        while not self.stopped.is_set():
            try:
                self._ask(caller)
            except (ConnectionError, http.client.HTTPException):
                self.breaks += 1
                caller.close()
            except Exception as error:
                self.wrong.append(repr(error))
                break
        caller.close()

    def _ask(self, caller: http.client.HTTPConnection) -> None:
        batch = self.chance.random() < 0.05
        if batch:
            body = b"\n".join(self.chance.choices(self.requests, k=30)) + b"\n"
        else:
            body = self.chance.choice(self.requests)
        media_type = {"Content-Type": "application/x-ndjson" if batch else "application/json"}
        caller.request("POST", f"/v1/eligibility/{'batch' if batch else 'check'}", body, media_type)
        response = caller.getresponse()
        told = response.read()
        if response.status != 200:
            self.wrong.append(f"an answer with status {response.status}")
        elif batch:
            for line in told.splitlines():
                text, _, receipt = line.decode().removesuffix('"}').rpartition(',"receipt":"')
                self.received.append((receipt, hashlib.sha256(f"{text}}}".encode()).digest()))
        else:
            self.received.append((response.headers["Shikaku-Receipt"], hashlib.sha256(told).digest()))


def kill_workers(server: Running, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        time.sleep(chance.uniform(0.02, 0.4))
        pids = server.worker_pids()
        if pids:
            signal_quietly(chance.choice(pids), signal.SIGKILL)


@pytest.mark.parametrize(("kills", "seed"), [(12, 1), pytest.param(500, 2, marks=pytest.mark.long)])
@pytest.mark.timeout(1200)
def test_every_answer_that_was_received_is_in_a_log(tmp_path: Path, kills: int, seed: int) -> None:
    config = make_store(tmp_path)
    requests = [json.dumps(each["request"]).encode() for each in population.personas(today_in_japan())]
    try:
        with serving(config, workers=2) as server:
            clients = [Client(server, requests, seed * 100 + number) for number in range(CLIENTS)]
            for client in clients:
                client.start()
            kill_workers(server, kills, seed)
            time.sleep(1)
            for client in clients:
                client.stopped.set()
            for client in clients:
                client.join(30)
            assert [client.wrong for client in clients] == [[]] * CLIENTS, server.said()
            assert server.stop() == 0
        received = [one for client in clients for one in client.received]
        assert len(received) > 100 * CLIENTS and sum(client.breaks for client in clients) > 0
        names = [name for name, _ in received]
        assert len(set(names)) == len(names), "two answers have one receipt"
        logs = {path.name: LogReader(path) for path in config.audit_dir.iterdir() if path.is_dir()}
        for name, digest in received:
            slot, index = name.split("-")
            assert int(index) < logs[slot].size, f"{name} is not in its log"
            assert decode(logs[slot].entry(int(index))).answer_digest == digest, name
        for slot, log in logs.items():
            vkey = (config.audit_dir / slot / "vkey").read_text().strip()
            log.close()
            checked = shikaku("audit", "verify", config.audit_dir / slot, "--key", vkey)
            assert checked.returncode == 0, checked.stdout + checked.stderr
    finally:
        remove_index(config.data_dir, config.key_file)
