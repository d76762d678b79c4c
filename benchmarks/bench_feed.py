"""Owns the measurement of feed reading: rows a second from CSV bytes to checked rows, beside the csv module alone.

The reference in the same run is what any reader must pay: `csv.reader` over the same bytes, cells thrown away.
"""

from __future__ import annotations

import csv
import io
import random
from typing import Any

import pytest

from engine.ingest import columns, feed

ROWS = 20_000
SEED = 20261123
_FAMILY = ("佐藤", "鈴木", "髙橋", "田中", "渡邉", "伊藤", "山本", "中村", "小林", "加藤")
_FAMILY_KANA = (
    "サトウ",
    "スズキ",
    "タカハシ",
    "タナカ",
    "ワタナベ",
    "イトウ",
    "ヤマモト",
    "ナカムラ",
    "コバヤシ",
    "カトウ",
)
_GIVEN = ("太郎", "花子", "健一", "美咲", "大翔", "陽菜", "翔太", "結衣", "誠", "明美")
_GIVEN_KANA = ("タロウ", "ハナコ", "ケンイチ", "ミサキ", "ヒロト", "ヒナ", "ショウタ", "ユイ", "マコト", "アケミ")
_CITIES = (
    "東京都千代田区霞が関1-2-2",
    "大阪府大阪市中央区大手前2丁目1-22",
    "北海道札幌市中央区北3条西6丁目",
    "福岡県福岡市博多区東公園7-7",
)


def feed_rows(count: int, *, insurer: str = "01130012") -> list[dict[str, str]]:
    """New registrations with 22 columns filled, from a fixed seed."""
    chance = random.Random(SEED)
    return [_row(chance, position, insurer) for position in range(count)]


def _row(chance: random.Random, position: int, insurer: str) -> dict[str, str]:
    family, given = chance.randrange(10), chance.randrange(10)
    year, month, day = chance.randrange(1930, 2026), chance.randrange(1, 13), chance.randrange(1, 29)
    gained = f"{chance.randrange(2015, 2027)}-{chance.randrange(1, 13):02}-01"
    return {
        "op": "new",
        "insurer_number": insurer,
        "symbol": f"{chance.randrange(10**8):08}",
        "number": str(position + 1),
        "branch": f"{chance.randrange(5):02}",
        "birth_date": f"{year}-{month:02}-{day:02}",
        "link_code": f"L{chance.getrandbits(60):015X}",
        "name": f"{_FAMILY[family]}　{_GIVEN[given]}",
        "name_kana": f"{_FAMILY_KANA[family]} {_GIVEN_KANA[given]}",
        "sex": str(chance.randrange(1, 3)),
        "postcode": f"{chance.randrange(10**7):07}",
        "address": f"{chance.choice(_CITIES)}-{chance.randrange(900)}",
        "relation": str(chance.randrange(1, 3)),
        "gained_on": gained,
        "state": "confirmed",
        "card_class": "01",
        "card_issued_on": gained,
        "card_valid_from": gained,
        "copay_ratio": "030",
        "certificate_issuer": "CN=JPKI for user authentication,O=JPKI,C=JP",
        "certificate_serial": f"{chance.getrandbits(64) | 1 << 63:X}",
        "certificate_expires_on": f"{chance.randrange(2027, 2032)}-{month:02}-{day:02}",
    }


def feed_bytes(rows: list[dict[str, str]], *, quoting: int = csv.QUOTE_MINIMAL, encoding: str = "utf-8") -> bytes:
    """The rows as a CSV with every column in the header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns.NAMES, restval="", lineterminator="\r\n", quoting=quoting)  # type: ignore[arg-type]
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def checked(data: bytes, **options: Any) -> int:
    """Read a feed; the checksum is over what was registered, so that a fast wrong answer fails."""
    total = 0
    for chunk in feed.read(io.BytesIO(data), **options):
        assert not chunk.errors
        total += sum(row.person.birth_date + len(row.person.qualifications[0].number_key) for row in chunk.rows)
    return total


CASES = {
    "plain": {},
    "quoted": {"quoting": csv.QUOTE_ALL},
    "cp932": {"encoding": "cp932"},
}


@pytest.mark.parametrize("case", CASES)
def bench_read_csv(benchmark: Any, case: str) -> None:
    """CSV bytes to rows with people, qualifications and certificates built."""
    rows = feed_rows(ROWS)
    data = feed_bytes(rows, **CASES[case])  # type: ignore[arg-type]
    encoding = CASES[case].get("encoding", "utf-8")
    found = benchmark(lambda: sum(len(chunk.rows) for chunk in feed.read(io.BytesIO(data), encoding=encoding)))
    assert found == ROWS
    benchmark.extra_info["checksum"] = checked(data, encoding=encoding)
    assert benchmark.extra_info["checksum"] == checked(feed_bytes(rows))


def bench_read_csv_reference(benchmark: Any) -> None:
    """The csv module alone over the same bytes."""
    data = feed_bytes(feed_rows(ROWS))
    found = benchmark(lambda: sum(1 for _ in csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""))))
    assert found == ROWS + 1
