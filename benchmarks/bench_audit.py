"""Owns the measurement of the audit log: append, verify, receipts, each beside the bare hashing or signature in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from engine.audit import entry, merkle, notes, receipt, receipt_verifier, verify
from engine.audit.log import LogReader, LogWriter
from engine.audit.notes import Policy
from tests.support.audit import signer, some_entry, witness

COUNTS = {"smoke": 5_000, "standard": 100_000, "large": 1_000_000}
RECEIPTS = 100
"""Receipts made or verified in one round."""
BLOCK = 1_000
"""Entries of one append, which costs one sync."""


@pytest.fixture(scope="module")
def rows(size: str) -> list[bytes]:
    """Entries of 153 bytes: a check by card with a request id of 36 characters and an operator."""
    some = [msgspec.structs.replace(some_entry(n), request_id="r" * 36, operator="operator-1") for n in range(1_000)]
    encoded = list(map(entry.encode, some))
    return [encoded[n % len(encoded)] for n in range(COUNTS[size])]


@pytest.fixture(scope="module")
def root(rows: list[bytes]) -> str:
    """The root over all entries, by itself."""
    frontier = merkle.Frontier()
    frontier.extend(merkle.leaf_hashes(rows))
    return frontier.root().hex()


@pytest.fixture(scope="module")
def folder(rows: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "log"
    with LogWriter(path, signer()) as log:
        for at in range(0, len(rows), 20_000):
            log.append(rows[at : at + 20_000])
        note = log.sign_checkpoint()
    signed = notes.cosigned(note, [witness().sign(note.text, 1_795_388_400)])
    (path / "checkpoint.cosigned").write_bytes(signed.encode())
    return path


@pytest.fixture(scope="module")
def receipts(folder: Path, rows: list[bytes]) -> list[bytes]:
    with LogReader(folder) as log:
        return [receipt.make(log, n * (len(rows) // RECEIPTS)) for n in range(RECEIPTS)]


def per_second(benchmark: Any, count: int) -> float:
    return float(count / benchmark.stats.stats.min)


@pytest.mark.benchmark(group="audit: all entries of a log")
def bench_append(benchmark: Any, rows: list[bytes], root: str, tmp_path: Path) -> None:
    """By the plain appender, a thousand at a time, each thousand synced."""
    numbers = iter(range(1_000))

    def append() -> str:
        with LogWriter(tmp_path / str(next(numbers)), signer()) as log:
            for at in range(0, len(rows), BLOCK):
                log.append(rows[at : at + BLOCK])
            return log.root.hex()

    benchmark.extra_info["checksum"] = benchmark.pedantic(append, rounds=3)
    benchmark.extra_info["entries_per_second"] = per_second(benchmark, len(rows))
    assert benchmark.extra_info["checksum"] == root


@pytest.mark.benchmark(group="audit: all entries of a log")
def bench_verify(benchmark: Any, folder: Path, rows: list[bytes], root: str, figure: Any) -> None:
    """Frames, entries, level files, root and signatures."""
    report = benchmark.pedantic(lambda: verify.verify_log(folder, Policy(signer().verifier)), rounds=3)
    assert report.ok
    benchmark.extra_info["checksum"] = report.root
    benchmark.extra_info["entries_per_second"] = per_second(benchmark, len(rows))
    figure("audit verify, entries/s", per_second(benchmark, len(rows)), at_least=300_000)
    assert report.root == root


@pytest.mark.benchmark(group="audit: all entries of a log")
def bench_hashing_reference(benchmark: Any, rows: list[bytes], root: str) -> None:
    """The least that any check in Python does: two SHA-256 for each entry, one call after another."""

    def hashed() -> str:
        sha256 = hashlib.sha256
        level = [sha256(b"\0" + row).digest() for row in rows]
        spare: list[bytes] = []
        while len(level) > 1:
            if len(level) % 2:
                spare.append(level.pop())
            level = [sha256(b"\1" + level[n] + level[n + 1]).digest() for n in range(0, len(level), 2)]
        root, *left = *spare, level[0]
        for each in left:
            root = sha256(b"\1" + each + root).digest()
        return root.hex()

    benchmark.extra_info["checksum"] = benchmark.pedantic(hashed, rounds=3)
    benchmark.extra_info["entries_per_second"] = per_second(benchmark, len(rows))
    assert benchmark.extra_info["checksum"] == root


@pytest.mark.benchmark(group="audit: a hundred receipts")
def bench_receipt_make(benchmark: Any, folder: Path, rows: list[bytes], receipts: list[bytes]) -> None:
    """Each proof is verified before it is given out."""
    step = len(rows) // RECEIPTS
    with LogReader(folder) as log:
        made = benchmark.pedantic(lambda: [receipt.make(log, n * step) for n in range(RECEIPTS)], rounds=5)
    benchmark.extra_info["checksum"] = hashlib.sha256(b"".join(made)).hexdigest()
    benchmark.extra_info["bytes"] = max(map(len, made))
    assert made == receipts


@pytest.mark.benchmark(group="audit: a hundred receipts")
def bench_receipt_verify(benchmark: Any, receipts: list[bytes], figure: Any) -> None:
    """By the verifier that stands alone, with one witness required."""
    keys, witnesses = [signer().verifier.vkey], [witness().verifier.vkey]

    def proved() -> int:
        return sum(receipt_verifier.verify(text, None, keys, witnesses, 1).index for text in receipts)

    benchmark.extra_info["checksum"] = benchmark.pedantic(proved, rounds=5)
    figure("receipt verify, ms", 1000 * benchmark.stats.stats.min / len(receipts), at_most=1)
    assert benchmark.extra_info["checksum"] == sum(receipt.parse(text).index for text in receipts)


@pytest.mark.benchmark(group="audit: a hundred receipts")
def bench_two_signatures_reference(benchmark: Any, receipts: list[bytes]) -> None:
    """Of each receipt nothing but its two Ed25519 signatures."""
    keys = [each.verifier for each in (signer(), witness())]
    found = []
    for text in receipts:
        note = receipt.parse(text).note
        first, second = note.signatures
        message = f"cosignature/v1\ntime {int.from_bytes(second.data[:8], 'big')}\n{note.text}"
        found.append((note.text.encode(), first.data, message.encode(), second.data[8:]))

    def checked() -> int:
        for text, own, message, more in found:
            Ed25519PublicKey.from_public_bytes(keys[0].public).verify(own, text)
            Ed25519PublicKey.from_public_bytes(keys[1].public).verify(more, message)
        return len(found)

    benchmark.extra_info["checksum"] = benchmark.pedantic(checked, rounds=5)
    assert benchmark.extra_info["checksum"] == RECEIPTS
