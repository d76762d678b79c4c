"""Answers over sockets, their receipts, the verifier that stands alone, and the check of the log behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import keys
from engine.audit import bundle, notes, receipt, receipt_verifier, verify
from engine.audit.log import LogReader
from engine.audit.notes import Policy
from tests.support import api


@pytest.mark.parametrize("port", ["check", "general"])
def test_an_answer_is_proved_by_its_receipt_and_its_log_is_as_signed(tmp_path: Path, port: str) -> None:
    with api.served(tmp_path, audit="strict") as served:
        asked = {"check": served.check, "general": served.general}[port]
        answers = [
            asked.post("/v1/eligibility/check", api.inquiry(number), X_Request_ID=f"mark-{n}")
            for n, number in enumerate(["1000001", "1000002", "9999999"] * 100)
        ]
        folder = served.settings.audit_dir / answers[0].headers["shikaku-receipt"].split("-")[0]
        public = keys.load_signing(served.settings.audit_key_file).public_key().public_bytes_raw()
    # A worker signs about once a second, and when it ends, which is now.
    vkey = (folder / "vkey").read_text().strip()
    key = notes.parse_vkey(vkey)
    assert key.public == public
    with LogReader(folder) as log:
        for n, answer in enumerate(answers):
            index = int(answer.headers["shikaku-receipt"].split("-")[1])
            text = receipt.make(log, index)
            proof = receipt_verifier.verify(text, answer.body, [vkey])
            assert (proof.index, proof.request_id, proof.kind) == (index, f"mark-{n}", "check by card")
        with pytest.raises(receipt_verifier.ReceiptError, match="not the one that was logged"):
            receipt_verifier.verify(text, answers[0].body, [vkey])
        bundle.export(log, 0, len(answers), tmp_path / "bundle")
    report = verify.verify_log(folder, Policy(key))
    assert (report.problems, report.notes) == ([], [])
    assert report.signed == report.size >= len(answers)
    assert bundle.verify_bundle(tmp_path / "bundle", Policy(key)).problems == []
