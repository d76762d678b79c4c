"""Asks whether the front desk is told something for every verdict, reason and note, in both languages."""

from __future__ import annotations

import re

import pytest

from api import advice
from engine.records import Note, Reason, Verdict

JAPANESE = re.compile("[ぁ-ん]")
TEXTS = [advice.VALID, *advice.REASONS.values(), *advice.NOTES.values()]


def test_a_wrong_check_digit_comes_first_if_nobody_was_found() -> None:
    fields = ("institution", "card.insurer_number")
    found = advice.advise(Verdict.NOT_FOUND, Reason.UNKNOWN_CARD, (), fields)
    assert found.ja.startswith("保険者番号の検証番号が合いません。")
    assert found.en.endswith(advice.REASONS[Reason.UNKNOWN_CARD].en)
    assert advice.advise(Verdict.VALID, None, (), fields) == advice.VALID


def test_every_reason_and_note_has_a_text() -> None:
    assert set(advice.REASONS) == set(Reason)
    assert set(advice.NOTES) == set(Note)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.en[:30])
def test_texts_are_sentences_in_both_languages(text: advice.Advice) -> None:
    assert JAPANESE.search(text.ja) and text.ja.endswith("。") and "。。" not in text.ja
    assert text.en.isascii() and text.en.endswith(".") and "  " not in text.en


def test_texts_differ() -> None:
    assert len({text.ja for text in TEXTS}) == len({text.en for text in TEXTS}) == len(TEXTS)


def test_valid_is_followed_by_its_notes() -> None:
    found = advice.advise(Verdict.VALID, None, (Note.OVERLAP, Note.CARD_EXPIRED))
    assert found.ja == advice.VALID.ja + advice.NOTES[Note.OVERLAP].ja + advice.NOTES[Note.CARD_EXPIRED].ja
    assert found.en.startswith(advice.VALID.en + " ")


@pytest.mark.parametrize("reason", Reason)
def test_reason_decides_for_every_other_verdict(reason: Reason) -> None:
    assert advice.advise(Verdict.INVALID, reason, ()) == advice.REASONS[reason]


@pytest.mark.parametrize("reason", [Reason.LOST, Reason.UNKNOWN_CARD, Reason.ANNOUNCED, Reason.NO_QUALIFICATION])
def test_the_last_resort_is_named_where_the_patient_may_be_insured(reason: Reason) -> None:
    assert "全額（10割）" in advice.REASONS[reason].ja
    assert "pays in full" in advice.REASONS[reason].en


@pytest.mark.parametrize("reason", [Reason.UNKNOWN_CARD, Reason.NO_QUALIFICATION, Reason.INSURANCE_CHANGED])
def test_new_employees_are_explained(reason: Reason) -> None:
    assert "10日" in advice.REASONS[reason].ja
