"""Owns the measurement of feed reading: from file bytes to checked rows with their records built, or to staged rows.

References in the same run: the csv module alone over the same bytes (what any reader must pay to see the cells), and
the same reader with every row checked one by one.
"""

from __future__ import annotations

import csv
import io
import json
import random
import time
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from engine.ingest import blocks, bulk, columns, feed, plain
from engine.keys import Keys

ROWS = {"smoke": 10_000, "standard": 100_000, "large": 1_000_000}
POSTCODES = 20_000
CHECKED_EVERY = 50
SEED = 20261123
KEYS = Keys(bytes(range(32)))
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
        "postcode": f"{1_000_000 + 37 * chance.randrange(POSTCODES):07}",
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


def feed_csv(rows: list[dict[str, str]], *, quoting: int = csv.QUOTE_MINIMAL, encoding: str = "utf-8") -> bytes:
    """The rows as a CSV with every column in the header. The certificate's issuer has commas, and so quotes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting, lineterminator="\r\n")  # type: ignore[arg-type]
    writer.writerow(columns.NAMES)
    writer.writerows([row.get(name, "") for name in columns.NAMES] for row in rows)
    return text.getvalue().encode(encoding)


def feed_ndjson(rows: list[dict[str, str]]) -> bytes:
    """The rows as NDJSON."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read_all(data: bytes, **options: Any) -> int:
    """Read a feed. Returns: a checksum over what was registered, so that a fast wrong answer fails."""
    total = 0
    for chunk in feed.read(io.BytesIO(data), **options):
        assert not chunk.errors
        for row in chunk.rows[row_stride(chunk.rows[0].row) :: CHECKED_EVERY]:
            total += row.row * (row.person.birth_date + int(row.person.qualifications[0].number_key))
    return total


def row_stride(first_row: int) -> int:
    """The position of the first checked row in a chunk: the same rows are checked however chunks are cut."""
    return -first_row % CHECKED_EVERY


@pytest.fixture(scope="module")
def rows(size: str) -> list[dict[str, str]]:
    return feed_rows(ROWS[size])


def run(benchmark: Any, rows: list[dict[str, str]], data: bytes, **options: Any) -> None:
    """Time one way of reading, after one round that fills the memos as the first chunks of a long feed do."""
    total = benchmark.pedantic(read_all, (data,), options, rounds=5, warmup_rounds=1)
    benchmark.extra_info["checksum"] = total
    benchmark.extra_info["rows_per_s"] = round(len(rows) / benchmark.stats.stats.min)
    assert total == read_all(feed_csv(rows))


MEASURED = pytest.mark.benchmark(group="feed: new rows, 41 columns, 22 filled", timer=time.process_time)
"""Processor time: reading waits for nothing, and a crowded machine should not count twice."""


def stage_all(data: bytes, **options: Any) -> int:
    """Stage a feed as an import does. Returns: a checksum over what was staged."""
    total = 0
    for chunk in plain.stage(io.BytesIO(data), KEYS, **options):
        assert not chunk.errors
        rows = chunk.staged.rows
        total += int((rows["row"].astype(np.int64) * (rows["person_bytes"] + rows["gained"])).sum())
    return total


def run_staged(benchmark: Any, rows: list[dict[str, str]], data: bytes, **options: Any) -> None:
    """Time the way to staged rows, hashes included, which an import takes instead of reading rows."""
    total = benchmark.pedantic(stage_all, (data,), options, rounds=5, warmup_rounds=1)
    benchmark.extra_info["checksum"] = total
    benchmark.extra_info["rows_per_s"] = round(len(rows) / benchmark.stats.stats.min)
    chunks = (bulk.stage_rows(KEYS, chunk.rows).rows for chunk in feed.read(io.BytesIO(data), **options))
    assert total == sum(
        int((each["row"].astype(np.int64) * (each["person_bytes"] + each["gained"])).sum()) for each in chunks
    )


@MEASURED
def bench_csv_staged(benchmark: Any, rows: list[dict[str, str]]) -> None:
    run_staged(benchmark, rows, feed_csv(rows))


@MEASURED
def bench_csv_staged_cp932(benchmark: Any, rows: list[dict[str, str]]) -> None:
    run_staged(benchmark, rows, feed_csv(rows, encoding="cp932"), encoding="cp932")


@MEASURED
def bench_csv_staged_with_every_fifth_line_odd(benchmark: Any, rows: list[dict[str, str]]) -> None:
    """Where the quick way loses its lead: a doubled quote sends a line to the careful one."""
    odd = [row | ({"address": f'{row["address"]} "A"'} if at % 5 == 0 else {}) for at, row in enumerate(rows)]
    run_staged(benchmark, odd, feed_csv(odd))


@MEASURED
def bench_ndjson_staged(benchmark: Any, rows: list[dict[str, str]]) -> None:
    """No quick way: NDJSON is read row by row."""
    run_staged(benchmark, rows, feed_ndjson(rows), format="ndjson")


@MEASURED
def bench_csv_plain(benchmark: Any, rows: list[dict[str, str]]) -> None:
    unquoted = [row | {"certificate_issuer": "JPKI for user authentication"} for row in rows]
    run(benchmark, unquoted, feed_csv(unquoted))


@MEASURED
def bench_csv_quoted_where_needed(benchmark: Any, rows: list[dict[str, str]]) -> None:
    run(benchmark, rows, feed_csv(rows))


@MEASURED
def bench_csv_small_chunks(benchmark: Any, rows: list[dict[str, str]]) -> None:
    """Rows are let go of while they are still in the processor's cache."""
    run(benchmark, rows, feed_csv(rows), rows_per_chunk=100)


@MEASURED
def bench_csv_quoted_everywhere(benchmark: Any, rows: list[dict[str, str]]) -> None:
    run(benchmark, rows, feed_csv(rows, quoting=csv.QUOTE_ALL))


@MEASURED
def bench_csv_cp932(benchmark: Any, rows: list[dict[str, str]]) -> None:
    run(benchmark, rows, feed_csv(rows, encoding="cp932"), encoding="cp932")


@MEASURED
def bench_csv_late_elderly(benchmark: Any, size: str) -> None:
    """Insurers 39...: no symbol, no branch, and a check digit in every insured number."""
    rows = [row | {"symbol": "", "branch": ""} for row in feed_rows(ROWS[size], insurer="39131156")]
    for position, row in enumerate(rows):
        row["number"] = with_check_digit(f"{position:07}")
    run(benchmark, rows, feed_csv(rows))


@MEASURED
def bench_ndjson(benchmark: Any, rows: list[dict[str, str]]) -> None:
    run(benchmark, rows, feed_ndjson(rows), format="ndjson")


@MEASURED
def bench_csv_reference_one_by_one(benchmark: Any, rows: list[dict[str, str]]) -> None:
    with patch.object(blocks, "FEW", 10**9):
        run(benchmark, rows[: len(rows) // 5], feed_csv(rows[: len(rows) // 5]))


@MEASURED
def bench_csv_reference_module_alone(benchmark: Any, rows: list[dict[str, str]]) -> None:
    """Cells only, thrown away: no values, no rules, no records."""
    data = feed_csv(rows)

    def cells() -> int:
        return sum(len(row) for row in csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")))

    total = benchmark.pedantic(cells, rounds=5, warmup_rounds=1)
    benchmark.extra_info["checksum"] = total
    benchmark.extra_info["rows_per_s"] = round(len(rows) / benchmark.stats.stats.min)
    assert total == (len(rows) + 1) * len(columns.NAMES)


def with_check_digit(digits: str) -> str:
    """The digits with their check digit: weights 2, 1, 2, 1... from the right."""
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(digits)))
    return digits + str(-total % 10)
