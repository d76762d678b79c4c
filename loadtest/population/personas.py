"""Owns the cast: named people, at least one for every verdict, reason and note, with what to ask and what to expect.

Cards and certificates never change; dates lie so far from `today` that the expected verdicts hold for a month after
the cast was imported, and every request says its as-of date. Symbols here are used by nobody in the population.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

from loadtest.population.check_digits import with_check_digit
from loadtest.population.feed import write_rows
from loadtest.population.households import ISSUER
from loadtest.population.inquiries import INSTITUTION
from loadtest.population.model import Certificate, Person, Spell

PERSONAS_FILE: Final = "personas.csv"
KYOKAI: Final = "01130012"
KUMIAI: Final = with_check_digit("0613001")
KYOSAI: Final = with_check_digit("3413001")
MUNICIPAL: Final = with_check_digit("13001").zfill(8)
ELDERLY: Final = with_check_digit("3913001")
SYMBOL: Final = "診療・１２"


@dataclass(slots=True)
class Persona:
    """One of the cast: who is registered (perhaps nobody), what is asked, and what is to come back."""

    id: str
    name: str
    request: dict[str, Any]
    verdict: str
    reason: str | None
    ja: str
    en: str
    registered: list[Person] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def personas(today: date) -> list[dict[str, Any]]:
    """The cast as plain values: id, name, request, verdict, reason, note, and notes (codes that the answer carries)."""
    return [
        {
            "id": each.id,
            "name": each.name,
            "request": each.request,
            "verdict": each.verdict,
            "reason": each.reason,
            "note": f"{each.ja} / {each.en}",
            "notes": list(each.notes),
        }
        for each in cast(today)
    ]


def write_personas(directory: Path | str, today: date) -> Path:
    """Write the registrations of the cast as a feed. Returns its path. Its insurers are among `insurers()`."""
    path = Path(directory) / PERSONAS_FILE
    with open(path, "w", encoding="utf-8", newline="") as file:
        write_rows(file, (person for each in cast(today) for person in each.registered))
    return path


def cast(today: date) -> list[Persona]:
    """Everybody, in the order of verdicts."""
    stage = _Stage(today)
    return [*stage.valid(), *stage.invalid(), *stage.not_found(), *stage.open_questions()]


class _Stage:
    def __init__(self, today: date) -> None:
        self.today = today.toordinal()
        self.text = today.isoformat()

    # --- the people, by verdict ---------------------------------------------------------------------------

    def valid(self) -> Iterator[Persona]:
        taro = _person("診療　太郎", "シンリョウ　タロウ", 1, "2000-01-02", [_spell(KYOKAI, "1234", "1987654", "01")])
        taro.spells[0].columns |= self._limit()
        request = self._card(taro) | {"consent": {"limit_certificate": True}}
        yield Persona("valid_self", taro.name, request, "VALID", None, "本人・有効", "insured person, in force", [taro])

        hana = _person(
            "診療　花", "シンリョウ　ハナ", 2, "2019-05-20", [_spell(KYOKAI, "1235", "1987655", "02", "2019-05-20")]
        )
        hana.spells[0].family = True
        hana.spells[0].columns |= {"insured_name": "診療　次郎", "copay_ratio": "030"}
        hana.certificates.append(self._certificate(2, 800))
        yield Persona(
            "valid_family", hana.name, self._chip(hana), "VALID", None,
            "家族・マイナ保険証で有効", "family member, by card certificate", [hana],
        )  # fmt: skip

        ume = _person(
            "高齢　ウメ",
            "コウレイ　ウメ",
            2,
            "1941-03-03",
            [_spell(ELDERLY, "", with_check_digit("0000042"), "", "2016-03-03")],
        )
        ume.spells[0].columns |= {"copay_ratio": "010"}
        yield Persona(
            "valid_elderly", ume.name, self._card(ume), "VALID", None,
            "後期高齢者・１割・記号枝番なし", "elderly, 10 %, neither symbol nor branch", [ume],
        )  # fmt: skip

        kana = _person(
            "全角　まこと", "ゼンカク　マコト", 1, "1975-07-07", [_spell(KYOSAI, SYMBOL, "００１２３", "00")]
        )
        request = self._card(kana)
        request["card"] |= {"symbol": "診療12", "number": "123"}
        yield Persona(
            "valid_mixed_width", kana.name, request, "VALID", None,
            "記号番号の表記ゆれ（全角・半角・中点）でも有効", "found although width, dots and zeros differ", [kana],
        )  # fmt: skip

        yield from self._valid_with_notes()

    def _valid_with_notes(self) -> Iterator[Persona]:
        june = _person("重複　ジュン", "チョウフク　ジュン", 1, "1988-08-08")
        june.spells = [_spell(MUNICIPAL, SYMBOL, "201", "01"), _spell(KUMIAI, SYMBOL, "202", "00", self._ago(90))]
        june.certificates.append(self._certificate(5, 800))
        yield Persona(
            "overlap", june.name, self._chip(june), "VALID", None,
            "資格が重複・新しい方で有効", "two in force: the one gained last decides", [june], ("overlap",),
        )  # fmt: skip

        kigen = _person("期限　切夫", "キゲン　キレオ", 1, "1960-10-01", [_spell(MUNICIPAL, SYMBOL, "203", "01")])
        kigen.spells[0].columns["card_valid_to"] = self._ago(115)
        yield Persona(
            "card_expired", kigen.name, self._card(kigen), "VALID", None,
            "証の有効期限切れ・資格は有効", "the card is out of date, the qualification is not", [kigen],
            ("card_expired",),
        )  # fmt: skip

        majika = _person("更新　マヂカ", "コウシン　マヂカ", 2, "1992-02-14", [_spell(KUMIAI, SYMBOL, "204", "00")])
        majika.certificates.append(self._certificate(7, 45))
        yield Persona(
            "certificate_expiring", majika.name, self._chip(majika), "VALID", None,
            "電子証明書の期限まで３か月以内", "the certificate expires within three months", [majika],
            ("certificate_expiring",),
        )  # fmt: skip

        yuyo = _person("猶予　三月", "ユウヨ　ミツキ", 2, "1983-12-24", [_spell(KUMIAI, SYMBOL, "205", "00")])
        yuyo.certificates.append(self._certificate(8, -40))
        yield Persona(
            "certificate_grace", yuyo.name, self._chip(yuyo), "VALID", None,
            "電子証明書は期限切れ・３か月の猶予内", "certificate expired, within its three months of grace", [yuyo],
            ("certificate_grace",),
        )  # fmt: skip

    def invalid(self) -> Iterator[Persona]:
        losses = (
            ("lost", "喪失　信", "ソウシツ　シン", "99", "lost", "資格喪失（その他）", "lost, no more is known"),
            ("insurance_changed", "転職　進", "テンショク　ススム", "03", "insurance_changed",
             "他保険へ移行・新資格は未登録", "went to another insurance, which is not registered yet"),
            ("deceased", "故人　静", "コジン　シズカ", "01", "deceased", "死亡による喪失", "died"),
            ("public_assistance", "扶助　恵", "フジョ　メグミ", "02", "public_assistance",
             "生活保護の受給開始", "went on public assistance"),
        )  # fmt: skip
        for n, (id_, name, kana, code, reason, ja, en) in enumerate(losses):
            spell = _spell(KYOKAI, "1301", str(301 + n), "00")
            spell.lost, spell.loss_reason = self.today - 60, code
            person = _person(name, kana, 1 + n % 2, f"197{n}-04-1{n}", [spell])
            yield Persona(id_, name, self._card(person), "INVALID", reason, ja, en, [person])

        mirai = _person(
            "内定　未来", "ナイテイ　ミライ", 2, "2003-06-15", [_spell(KUMIAI, SYMBOL, "305", "00", self._ago(-90))]
        )
        yield Persona(
            "not_yet_gained", mirai.name, self._card(mirai), "INVALID", "not_yet_gained",
            "資格取得日前", "begins after the as-of date", [mirai],
        )  # fmt: skip

        torikeshi = _person("取消　正", "トリケシ　タダシ", 1, "1995-05-05", [_spell(KUMIAI, SYMBOL, "306", "00")])
        torikeshi.spells[0].cancelled = True
        yield Persona(
            "cancelled", torikeshi.name, self._card(torikeshi), "INVALID", "cancelled",
            "資格登録の取消", "the registration was withdrawn", [torikeshi],
        )  # fmt: skip

        susumu = _person("継続　新", "ケイゾク　アラタ", 1, "1990-09-30")
        susumu.link_code = "L-PERSONA-0001"
        susumu.spells = [_spell(KYOKAI, "1301", "307", "00"), _spell(MUNICIPAL, SYMBOL, "308", "01", self._ago(60))]
        susumu.spells[0].lost, susumu.spells[0].loss_reason = self.today - 60, "03"
        yield Persona(
            "superseded", susumu.name, self._card(susumu), "SUPERSEDED", "newer_qualification",
            "旧資格は喪失・新しい資格あり", "the old card was shown; a newer qualification is in force", [susumu],
        )  # fmt: skip

    def not_found(self) -> Iterator[Persona]:
        nobody = _person("該当　梨子", "ガイトウ　ナシコ", 2, "1999-01-31", [_spell(KYOKAI, "1401", "401", "00")])
        yield Persona(
            "unknown_card", nobody.name, self._card(nobody), "NOT_FOUND", "unknown_card",
            "該当資格なし（未登録）", "nobody is registered with this card and birth date",
        )  # fmt: skip

        eda = _person("枝番　違", "エダバン　チガウ", 1, "1981-11-11", [_spell(KYOKAI, "1401", "402", "00")])
        request = self._card(eda)
        request["card"]["branch"] = "07"
        yield Persona(
            "branch_mismatch", eda.name, request, "NOT_FOUND", "branch_mismatch",
            "枝番相違", "everything fits but the branch number", [eda],
        )  # fmt: skip

        unknown = _person("未登録　証", "ミトウロク　アカシ", 1, "1985-01-01")
        unknown.certificates.append(self._certificate(21, 800))
        yield Persona(
            "unknown_certificate", unknown.name, self._chip(unknown), "NOT_FOUND", "unknown_certificate",
            "電子証明書の登録なし", "nobody is registered with this certificate",
        )  # fmt: skip

        expired = _person("失効　期子", "シッコウ　トキコ", 2, "1979-03-21", [_spell(KUMIAI, SYMBOL, "404", "00")])
        expired.certificates.append(self._certificate(22, -200))
        yield Persona(
            "certificate_expired", expired.name, self._chip(expired), "NOT_FOUND", "certificate_expired",
            "電子証明書の期限切れ（３か月超）", "the certificate expired more than three months ago", [expired],
        )  # fmt: skip

        revoked = _person("失効　届", "シッコウ　トドケ", 1, "1986-06-06", [_spell(KUMIAI, SYMBOL, "405", "00")])
        revoked.certificates.append(self._certificate(23, 700))
        revoked.certificates[0].revoked = True
        yield Persona(
            "certificate_revoked", revoked.name, self._chip(revoked), "NOT_FOUND", "certificate_revoked",
            "電子証明書の失効（紛失届など）", "the certificate was revoked", [revoked],
        )  # fmt: skip

        bare = _person("取消　済子", "トリケシ　スミコ", 2, "1997-07-17", [_spell(KUMIAI, SYMBOL, "406", "00")])
        bare.spells[0].cancelled = True
        bare.certificates.append(self._certificate(24, 700))
        yield Persona(
            "no_qualification", bare.name, self._chip(bare), "NOT_FOUND", "no_qualification",
            "証明書の持ち主に有効な登録が一つもない", "the holder's only registration was withdrawn", [bare],
        )  # fmt: skip

    def open_questions(self) -> Iterator[Persona]:
        twins = [
            _person(
                f"双子　{name}",
                f"フタゴ　{kana}",
                1,
                "2015-08-15",
                [_spell(KYOKAI, "1501", "501", branch, "2015-08-15")],
            )
            for name, kana, branch in (("空", "ソラ", "02"), ("陸", "リク", "03"))
        ]
        for twin in twins:
            twin.spells[0].family = True
            twin.spells[0].columns |= {"insured_name": "双子　海", "copay_ratio": "030"}
        request = self._card(twins[0])
        del request["card"]["branch"]
        yield Persona(
            "twins_without_branch", "双子　空と陸", request, "AMBIGUOUS", "several_people",
            "双子・枝番なしで複数該当", "twins on one card, no branch given", twins,
        )  # fmt: skip
        yield Persona(
            "twin_with_branch", twins[1].name, self._card(twins[1]), "VALID", None,
            "双子・枝番ありで有効", "the same card with a branch: one person", [],
        )  # fmt: skip

        yotei = _person(
            "予告　仮", "ヨコク　カリ", 2, "2001-10-10", [_spell(KUMIAI, SYMBOL, "503", "00", self._ago(10))]
        )
        yotei.spells[0].pending = True
        yield Persona(
            "announced", yotei.name, self._card(yotei), "PENDING", "announced",
            "保険者から通知済み・確定前", "announced by the insurer, not confirmed yet", [yotei],
        )  # fmt: skip

    # --- their papers -------------------------------------------------------------------------------------

    def _card(self, person: Person) -> dict[str, Any]:
        spell = person.spells[0]
        card = {"insurer_number": spell.insurer, "symbol": spell.symbol, "number": spell.number}
        if spell.branch:
            card["branch"] = spell.branch
        card["birth_date"] = date.fromordinal(person.birth).isoformat()
        return self._request() | {"card": card}

    def _chip(self, person: Person) -> dict[str, Any]:
        held = person.certificates[0]
        return self._request() | {"certificate": {"issuer": held.issuer, "serial": held.serial}}

    def _request(self) -> dict[str, Any]:
        return {"institution": INSTITUTION, "as_of": self.text, "purpose": "treatment"}

    def _ago(self, days: int) -> str:
        return date.fromordinal(self.today - days).isoformat()

    def _certificate(self, serial: int, days_left: int) -> Certificate:
        """Real certificates end on a birthday; the cast's end where the demonstration needs it."""
        return Certificate(ISSUER, f"5EAC0DE{serial:05X}", self.today + days_left)

    def _limit(self) -> dict[str, str]:
        return {
            "limit_category": "01",
            "limit_band": "A03",
            "limit_issued_on": self._ago(83),
            "limit_valid_from": self._ago(83),
            "limit_valid_to": self._ago(-280),
        }


def _person(name: str, kana: str, sex: int, birth: str, spells: list[Spell] | None = None) -> Person:
    return Person(
        name,
        kana,
        sex,
        date.fromisoformat(birth).toordinal(),
        "100-0013",
        "東京都千代田区霞が関１丁目",
        spells=spells or [],
    )


def _spell(insurer: str, symbol: str, number: str, branch: str, gained: str = "2019-04-01") -> Spell:
    columns = {"card_class": "01", "card_issued_on": gained, "card_valid_from": gained, "copay_ratio": "030"}
    return Spell(insurer, symbol, number, branch, date.fromisoformat(gained).toordinal(), columns=columns)
