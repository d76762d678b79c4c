"""Owns what the front desk is told to do next: one text in Japanese and English for every verdict, reason and note.

The texts are read aloud to patients' faces, so they say what to do, not what the system thinks. Where an answer is
not VALID the last resort is always the same: the patient pays in full and is refunded by the insurer later.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from api.problems import Advice
from engine.records import Note, Reason, Verdict

_PAY_IN_FULL: Final = Advice(
    "確認できない場合は、いったん全額（10割）をお支払いいただき、後日、保険者に療養費を申請すると払い戻しを受けられる"
    "ことをご案内ください。",
    "If it cannot be cleared up, the patient pays in full now and claims the money back from the insurer later.",
)

VALID: Final = Advice(
    "有効な資格を確認できました。回答にある保険者・記号・番号などの内容で受付してください。",
    "The qualification is valid. Register the visit with what the answer says of insurer, symbol, number and so on.",
)

REASONS: Final[dict[Reason, Advice]] = {
    Reason.LOST: Advice(
        "この資格は、確認日にはすでに喪失しています。新しい資格確認書や資格情報のお知らせ、"
        "マイナ保険証をお持ちでないかお尋ねください。" + _PAY_IN_FULL.ja,
        "This cover had ended by the date asked for. Ask for the new certificate of eligibility, or the My Number"
        " card used as insurance card. " + _PAY_IN_FULL.en,
    ),
    Reason.INSURANCE_CHANGED: Advice(
        "別の医療保険に移られたため、この資格は使えません。新しい保険の登録は、確認日の分がまだ届いていません。"
        "新しい資格確認書などをご確認ください。就職・転職の直後は、登録まで10日ほどかかることがあります。"
        + _PAY_IN_FULL.ja,
        "The patient has moved to another insurance, so this cover cannot be used; the new one is not registered for"
        " this date yet. Ask for the new document. After a change of job, registration can take about 10 days. "
        + _PAY_IN_FULL.en,
    ),
    Reason.DECEASED: Advice(
        "死亡により資格を喪失した方として登録されています。記号・番号・枝番・生年月日と、"
        "ご本人かどうかを確かめてください。入力に誤りがなければ、登録の確認を保険者に依頼してください。",
        "This person is registered as deceased. Check symbol, number, branch number and birth date, and who the"
        " patient is. If everything is right, ask the insurer to check its registration.",
    ),
    Reason.PUBLIC_ASSISTANCE: Advice(
        "生活保護の受給開始により、この資格は喪失しています。医療券・調剤券の有無をお尋ねになり、"
        "福祉事務所にご確認ください。",
        "This cover ended because public assistance began. Ask for the medical care ticket, and confirm with the"
        " welfare office.",
    ),
    Reason.NOT_YET_GAINED: Advice(
        "この資格は、確認日にはまだ始まっていません。確認日に間違いがないかを確かめ、"
        "それまでの保険の資格確認書などをお持ちでないかお尋ねください。" + _PAY_IN_FULL.ja,
        "This cover begins after the date asked for. Check the date, and ask for the document of the insurance"
        " before it. " + _PAY_IN_FULL.en,
    ),
    Reason.CANCELLED: Advice(
        "この資格の登録は、保険者が取り消しています。ほかの資格確認書などをお持ちでないかお尋ねになり、"
        "加入先の保険者にご確認いただいてください。" + _PAY_IN_FULL.ja,
        "The insurer has withdrawn this registration. Ask for another document, and have the patient ask the insurer. "
        + _PAY_IN_FULL.en,
    ),
    Reason.NEWER_QUALIFICATION: Advice(
        "この資格は使えませんが、同じ方に新しい有効な資格があります。新しい資格確認書などの提示をお願いするか、"
        "マイナ保険証をカードリーダーで読み取って確認してください。",
        "This cover has ended, but the same person holds a newer one that is valid. Ask for the new document, or"
        " read the My Number card with the card reader.",
    ),
    Reason.UNKNOWN_CARD: Advice(
        "入力された内容に合う資格が見つかりません。保険者番号・記号・番号・生年月日を、"
        "資格確認書などと照らし合わせて入力し直してください。誤りがなければ、"
        "就職・転職の直後は登録まで10日ほど（事業主の届出5日、保険者の登録5日）かかることがあります。"
        + _PAY_IN_FULL.ja,
        "No cover fits these identifiers and this birth date. Compare insurer number, symbol, number and birth date"
        " with the document and enter them again. If they are right: after a new employment, registration can take"
        " about 10 days (employer 5, insurer 5). " + _PAY_IN_FULL.en,
    ),
    Reason.BRANCH_MISMATCH: Advice(
        "記号・番号と生年月日は合いますが、枝番が合いません。枝番（2桁）を入力し直すか、"
        "枝番を空欄にして確認してください。",
        "Symbol, number and birth date fit, the branch number does not. Enter the two digits again, or leave them"
        " empty.",
    ),
    Reason.UNKNOWN_CERTIFICATE: Advice(
        "このマイナンバーカードは、保険の資格と結び付いていません。保険証としての利用登録がお済みかお尋ねになり、"
        "資格確認書などの記号・番号で確認してください。カードを更新した直後は、反映までお待ちいただくことがあります。",
        "This card is not linked to any cover. Ask whether it was registered for use as an insurance card, and check"
        " by the symbol and number on the patient's document. After a card was renewed, the link can take a while.",
    ),
    Reason.CERTIFICATE_EXPIRED: Advice(
        "カードの電子証明書が、有効期限から3か月を過ぎています。資格確認書などの記号・番号で確認し、"
        "市区町村の窓口で証明書を更新していただくようご案内ください。",
        "The certificate on the card expired more than three months ago. Check by the symbol and number on the"
        " patient's document, and ask the patient to renew the certificate at the municipal office.",
    ),
    Reason.CERTIFICATE_REVOKED: Advice(
        "カードの電子証明書が失効しています（紛失の届出、カードの更新など）。"
        "新しいカードをお持ちでないかお尋ねになるか、資格確認書などの記号・番号で確認してください。",
        "The certificate on the card was revoked (card reported lost, or replaced). Ask for the new card, or check"
        " by the symbol and number on the patient's document.",
    ),
    Reason.NO_QUALIFICATION: Advice(
        "この方について、現在登録されている資格がありません（未登録、または登録の取消）。"
        "加入手続き中でないかお尋ねください。手続きから登録まで、10日ほどかかることがあります。" + _PAY_IN_FULL.ja,
        "No insurer has cover on record for this person (none registered, or withdrawn). Ask whether an enrolment is"
        " under way; it can take about 10 days. " + _PAY_IN_FULL.en,
    ),
    Reason.SEVERAL_PEOPLE: Advice(
        "同じ記号・番号・生年月日の方が複数いらっしゃいます（双子のごきょうだいなど）。枝番（2桁）を入力して、"
        "もう一度確認してください。枝番がわからない場合は、マイナ保険証を読み取るか、保険者にお問い合わせください。",
        "More than one person fits, for example twins. Enter the two-digit branch number and check again. If it is"
        " not known, read the My Number card, or ask the insurer.",
    ),
    Reason.ANNOUNCED: Advice(
        "保険者から加入予定の連絡が届いていますが、資格はまだ確定していません。後日、あらためて確認してください。"
        + _PAY_IN_FULL.ja,
        "The insurer has announced this cover but not confirmed it yet. Check again on a later day. " + _PAY_IN_FULL.en,
    ),
}

NOTES: Final[dict[Note, Advice]] = {
    Note.OVERLAP: Advice(
        "同じ日に有効な資格がもう一つあります。現在加入している保険はどちらか（前の保険の喪失手続が済んでいるか）をご確認ください。",
        "A second cover is in force on the same date. Ask which insurance the patient belongs to now, and whether the"
        " former one was given up.",
    ),
    Note.CARD_EXPIRED: Advice(
        "資格は有効ですが、お手元の資格確認書などの有効期間は確認日を含みません。"
        "新しいものをお持ちでないかお尋ねください。",
        "The cover is valid, but the document's own period does not include this date. Ask for the new document.",
    ),
    Note.CERTIFICATE_EXPIRING: Advice(
        "カードの電子証明書の有効期限まで3か月以内です。市区町村の窓口での更新をご案内ください。",
        "The certificate on the card expires within three months. Tell the patient to renew it at the municipal"
        " office.",
    ),
    Note.CERTIFICATE_GRACE: Advice(
        "カードの電子証明書の有効期限が切れています。資格の確認に使えるのは期限後3か月までです。"
        "早めの更新をご案内ください。",
        "The certificate on the card has expired; it can be used for this check for three months only. Tell the"
        " patient to renew it soon.",
    ),
}


_DOUBTFUL: Final = {
    "card.insurer_number": Advice(
        "保険者番号の検証番号が合いません。保険者番号を入力し直してください。",
        "The check digit of the insurer number does not fit. Enter it again.",
    ),
    "card.number": Advice(
        "番号の検証番号が合いません。番号を入力し直してください。",
        "The check digit of the insured number does not fit. Enter it again.",
    ),
}
"""What comes first if nobody was found, by the field whose check digit is wrong."""


def advise(verdict: Verdict, reason: Reason | None, notes: tuple[Note, ...], doubtful: tuple[str, ...] = ()) -> Advice:
    """The text for one answer: for the reason (or for VALID), followed by one for each note.

    Args: doubtful: fields whose check digit does not fit.
    """
    first = VALID if verdict is Verdict.VALID or reason is None else REASONS[reason]
    parts = [first, *(NOTES[note] for note in notes)]
    if verdict is Verdict.NOT_FOUND:
        parts = [*(_DOUBTFUL[field] for field in doubtful if field in _DOUBTFUL), *parts]
    return Advice("".join(part.ja for part in parts), " ".join(part.en for part in parts))


@lru_cache(maxsize=4096)
def advise_json(
    verdict: Verdict, reason: Reason | None, notes: tuple[Note, ...], doubtful: tuple[str, ...] = ()
) -> msgspec.Raw:
    """The same, encoded once for all answers."""
    return msgspec.Raw(msgspec.json.encode(advise(verdict, reason, notes, doubtful)))
