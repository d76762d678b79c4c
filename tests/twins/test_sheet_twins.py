"""ext/sheet and its Python twin have the same outcome, on hostile arguments and hostile lines too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext import sheet_py
from tests.support import feeds
from tests.support.outcomes import compiled, outcome

sheet = compiled("sheet")

CODES = [(b"new", b"\xa3new", 0), (b"lose", b"\xa4lose", 1), (b"odd", b"\x01", 2**40)]
FLAGS = [(b"0", b"\xc2", 0), (b"1", b"\xc3", 1)]


def known(text: bytes) -> Any:
    """Marks what begins with 39; of the rest knows what begins with a digit."""
    return (b"\xa2" + text[:2], int(text[:2] == b"39")) if text[:2].isdigit() else None


CELLS: list[Any] = [
    (sheet.CODE, 0, 3, b"\xa0", 0, CODES, None),
    (sheet.KNOWN, 0, 3, b"\xa0", 0, [], known),
    (sheet.TEXT, 8, 0, b"\xa0", 0, [], None),
    (sheet.KANA, 8, 1, b"\xa0", 0, [], None),
    (sheet.IDENTIFIER, 20, 0, b"\xa0", 0, [], None),
    (sheet.NUMBER, 20, 3, b"\xa0", 0, [], None),
    (sheet.LINK, 20, 0, b"\xa0", -5, [], None),
    (sheet.SERIAL, 20, 0, b"\xa0", 0, [], None),
    (sheet.DATE, -25_000, 0, b"\xc0", 2**31, [], None),
    (sheet.DATE, -(2**31), 0, b"\xc0", -1, [], None),
    (sheet.POSTCODE, 0, 0, b"\xa0", 0, [], None),
    (sheet.RATIO, 0, 0, b"\xa0", 0, [], None),
    (sheet.BRANCH, 0, 0, b"\xa0", 127, [], None),
    (sheet.CODE, 0, 0, b"\xc2", 0, FLAGS, None),
    (sheet.TEXT, 400, 0, b"\xa9not there", 7, [], None),
]
WIDTH = len(CELLS) - 1
RECORD: list[Any] = [
    (sheet.LITERAL, 0, 0, b"\x9f"),
    *((sheet.PACKED, cell, 0, b"") for cell in range(len(CELLS))),
    (sheet.KEY_PACKED, 4, 0, b""),
    (sheet.UNLESS, 7, 2, b"\xc0"),
    (sheet.LITERAL, 0, 0, b"\x92"),
    (sheet.DECIMAL, 8, 0, b""),
]
MESSAGES: list[Any] = [
    [(sheet.RAW, 1, 0, b""), (sheet.DECIMAL, 9, 0, b""), (sheet.KEY_RAW, 4, 0, b""), (sheet.KEY_RAW, 5, 0, b"")],
    [(sheet.UNLESS, 6, 1, b""), (sheet.RAW, 6, 0, b"")],
]
NUMBERS = [(0, sheet.VALUE), (8, sheet.VALUE), (9, sheet.FILLED), (12, sheet.VALUE), (14, sheet.VALUE)]
ARGUMENTS: list[Any] = [CELLS, WIDTH, 0, [([7, 8], [13])], [(8, 9)], (1, [4, 12], 5), RECORD, MESSAGES, NUMBERS]

CHOICES = [
    ["new", "lose", "new", "", "odd", "x"],
    ["01130012", "39131156", "３９", "", "a,b", "x"],
    ["山田　太郎", "葛󠄀", "𠮷田", "123456789012a", "", "ab", "12", "―々", "a\tb"],
    [
        "ヤマダ　タロウ",
        "ｱ",
        "ヤ-1",
        "",
        " ",
        "やま",
        "ヷ・ー",
        "か\u3099",
        "ｶﾞｷﾞ ﾊﾟ･ｰ",
        "ｳﾞｦﾞﾜﾞ",
        "ｱﾞ",
        "カﾞ",
        "ｶﾞﾞ",
        "ｶﾟ",
        "ﾞ",
        "ﾊﾟ" * 8,
        "ﾊﾟ" * 9,
        "ｶ。",
        "･",
    ],
    ["", "記号-12", "１２ー３", "a /ｂ", "12345678901２", "ー", "々"],
    ["12", "01234566", "000", "-", "００１", "0-", "1" * 20, "1" * 21, "1a" * 10],
    ["", "L9E3779B97F4A7C15", "123456789012", "12345678901", "a\x7f", "a b", "x" * 20, "x" * 21],
    ["", "1a2B", "0A", "123456789012", "12345678901", "A" * 20, "A" * 21, "G"],
    ["", "2000-02-29", "1900-02-29", "20240101", "0001-01-01", "1851-07-21", "1851-07-20", "2024-1301", "99991231"],
    ["", "2000-02-28", "2000-12-31", "0000-01-01", "2000-04-31", "2000-06-00", "2２00101", "2000 101"],
    ["", "1234567", "123-4567", "1234-567", "12345678"],
    ["", "030", "100", "101", "03", "a30"],
    ["", "1", "01", "99", "a", "100", "/0"],
    ["", "0", "1", "2"],
]


def arrays(rows: int, room: int, widths: tuple[int, int]) -> tuple[Any, Any, list[Any]]:
    """Numbers, people and messages, empty."""
    messages = [(np.zeros((rows, width), np.uint8), np.zeros(rows, np.uint16)) for width in widths]
    return np.zeros((rows, 3 + len(NUMBERS)), np.int64), np.zeros(room, np.uint8), messages


def everything(module: Any, data: Any, rows: int, room: int, widths: tuple[int, int], start: Any = 0) -> Any:
    """All that a module gives for some lines, read to the end by calls that go on where the last one stopped."""
    plan, found = module.Plan(*ARGUMENTS), []
    while True:
        numbers, people, messages = arrays(rows, room, widths)
        result = outcome(module.read, plan, data, start, numbers, people, min(room, 3), messages)
        found.append(result)
        if result[0] == "error":
            return found
        end, _, taken, used, counts, _ = result[2]
        # What lies behind the rest is nobody's: something was begun there that did not fit.
        found += [numbers[:taken].tolist(), people[:used].tobytes()]
        for (written, lengths), count in zip(messages, counts, strict=True):
            found += [row[:length].tobytes() for row, length in zip(written[:count], lengths[:count], strict=True)]
        if end in (start, len(data)):
            return found
        start = end


def both(data: Any, rows: int = 5, room: int = 2_000, widths: tuple[int, int] = (120, 30), start: Any = 0) -> Any:
    """What both modules give, which is the same."""
    found, expected = (everything(module, data, rows, room, widths, start) for module in (sheet, sheet_py))
    assert found == expected
    return found


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Lines of the plan's width, mostly; with quotes, and damaged now and then."""
    made = []
    for _ in range(draw(st.integers(0, 8))):
        cells = [draw(st.sampled_from(choice)) if draw(st.integers(0, 3)) == 0 else choice[0] for choice in CHOICES]
        if draw(st.integers(0, 3)) == 0:
            cells[draw(st.integers(0, WIDTH - 1))] = draw(st.sampled_from(feeds.HOSTILE) | st.text(max_size=12))
        for at, cell in enumerate(cells):
            if any(sign in cell for sign in ',"\r\n') or draw(st.integers(0, 9)) == 0:
                cells[at] = f'"{cell.replace(chr(34), chr(34) * 2)}"'
        made.append(",".join(cells) + draw(st.sampled_from(("\n", "\n", "\r\n", "\n\n"))))
    return draw(feeds.damaged("".join(made).encode("utf-8", "surrogatepass")))


def test_constants_are_the_same() -> None:
    names = [name for name in vars(sheet) if name.isupper() and name[0] != "_"]
    assert {"TEXT", "KNOWN", "UNLESS", "FILLED", "CELL_BYTES_MAX", "HEAD_NUMBERS"} <= set(names)
    for name in names:
        assert getattr(sheet, name) == getattr(sheet_py, name), name


@settings(max_examples=400)
@given(lines(), st.sampled_from((0, 1, 5, 20)), st.sampled_from((2_000, 400, 90, 3)), st.sampled_from((120, 20, 9)))
def test_read(data: bytes, rows: int, room: int, width: int) -> None:
    both(data, rows, room, (width, 30))


@given(lines(), st.integers(0, 200))
def test_read_from_anywhere(data: bytes, start: int) -> None:
    both(data, start=start)


@pytest.mark.parametrize("choice", range(WIDTH))
def test_every_cell_of_every_kind(choice: int) -> None:
    """Most of these are taken, so that this compares more than refusals."""
    texts = [*CHOICES[choice], "x" * 1024, "x" * 1025, "あ" * 400, "0", "é", "\u3000", *map(chr, range(32, 127))]
    row = [cells[0] for cells in CHOICES]
    data = "".join(
        ",".join([*row[:choice], f'"{text}"' if text not in '"' else "", *row[choice + 1 :]]) + "\n" for text in texts
    )
    both(data.encode(), rows=200, room=100_000)


def test_every_character() -> None:
    """Each in the cells that may hold it; both kinds of each answer."""
    plane = [*range(0x20, 0xD800), *range(0xE000, 0xFFFF), *range(0x1FFF0, 0x20010), *range(0x2A6D0, 0x2A6F0), 0x10FFFF]
    row = [cells[0] for cells in CHOICES]
    for at in (2, 3, 4, 5):
        for begin in range(0, len(plane), 4_000):
            texts = [chr(code) if code != 0x22 else '""' for code in plane[begin : begin + 4_000]]
            rows = [[*row[:at], f'"1a{text}"', *row[at + 1 :]] for text in texts]
            both("".join(",".join(each) + "\n" for each in rows).encode(), rows=4_000, room=400_000)


ODD_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, 1, -1, 2**70, b"x", "x", [], (), [1], [[]], [(0, 0)], (1, 2, 3), (0, [99], 0), [(1, 2, 3, b"")],
     [(7, 0, 9, b"")], [(5, 0, 0, b"")], [[(1, 0, 0, "x")]], [(0, 5)], [CELLS[1]], [CELLS[0]] * 65, [CELLS[0][:6]],
     [(0, *CELLS[0][1:])], [(*CELLS[0][:2], 2**40, *CELLS[0][3:])], [(*CELLS[0][:3], "x", *CELLS[0][4:])],
     [(*CELLS[0][:5], [(b"x",)], None)], [(*CELLS[0][:5], [("x", b"", 0)], None)], [(*CELLS[0][:6], known)],
     [(*CELLS[1][:6], None)], [(*CELLS[0][:5], [CODES[0]] * 257, None)], [(1, 0, 0, b"")] * 129, [([], [])] * 17,
     [(8, 9)] * 17, [(0, 0)] * 33, [[]] * 5, [(8, 2)], (2, [], 5)]
)  # fmt: skip


@given(st.integers(0, len(ARGUMENTS) - 1), ODD_VALUES)
def test_plans_are_refused_alike(at: int, value: Any) -> None:
    arguments = [*ARGUMENTS[:at], value, *ARGUMENTS[at + 1 :]]
    found, expected = (outcome(module.Plan, *arguments) for module in (sheet, sheet_py))
    assert (found[0], found[2:]) == (expected[0], expected[2:]) if found[0] == "error" else expected[0] == "value"


@given(st.integers(0, 6), st.sampled_from(
    [None, 1, -1, 2**70, 10**6, "x", bytearray(b"x"), [], (), [()], [(1, 2)], np.zeros((5, 8)), np.zeros(5, np.uint8),
     np.zeros((5, 9), np.int64), np.zeros((10, 8), np.int64)[::2], np.frombuffer(bytes(5), np.uint8),
     [(np.zeros((4, 9), np.uint8), np.zeros(5, np.uint16))] * 2,
     [(np.zeros((5, 9), np.uint8), np.zeros(5, np.uint8))] * 2]
))  # fmt: skip
def test_arguments_of_read_are_refused_alike(at: int, value: Any) -> None:
    found = []
    for module in (sheet, sheet_py):
        arguments: list[Any] = [module.Plan(*ARGUMENTS), b"\n", 0, *arrays(5, 99, (9, 9))]
        arguments.insert(5, 0)
        arguments[at] = value
        found.append(outcome(module.read, *arguments))
    assert found[0] == found[1]


@pytest.mark.parametrize("answer", [1, (b"x",), ("x", 1), (b"x", "1"), (b"x", 2**63), [b"\xa1x", 1], (b"", 0)])
def test_what_resolve_returns_is_asked_alike(answer: Any) -> None:
    found = []
    for module in (sheet, sheet_py):
        cells = [*CELLS[:1], (*CELLS[1][:6], lambda text: answer), *CELLS[2:]]
        plan = module.Plan(cells, *ARGUMENTS[1:])
        data = ",".join(cells[0] for cells in CHOICES).encode() + b"\n"
        numbers, people, messages = arrays(5, 999, (99, 99))
        result = outcome(module.read, plan, data, 0, numbers, people, 0, messages)
        found.append((result, people[: result[2][3]].tobytes() if result[0] == "value" else b""))
    assert found[0] == found[1]


@pytest.mark.parametrize("module", [sheet, sheet_py])
def test_a_plan_reads_one_thing_at_a_time(module: Any) -> None:
    line = ",".join(cells[0] for cells in CHOICES).encode() + b"\n"

    def again(text: bytes) -> Any:
        numbers, people, messages = arrays(5, 999, (99, 99))
        return module.read(plan, line, 0, numbers, people, 0, messages)

    plan = module.Plan([CELLS[0], (*CELLS[1][:6], again), *CELLS[2:]], *ARGUMENTS[1:])
    # An error sets it free.
    for _ in range(2):
        with pytest.raises(ValueError, match="one thing at a time"):
            again(b"")


@pytest.mark.parametrize("module", [sheet, sheet_py])
def test_a_plan_is_made_once(module: Any) -> None:
    """What a plan points into must not be let go while it is in use."""
    plan = module.Plan(*ARGUMENTS)
    with pytest.raises(ValueError, match="made once"):
        plan.__init__(*ARGUMENTS)


def test_what_is_known_is_forgotten_in_time() -> None:
    """More distinct cells than are remembered, and each twice."""
    row = ["new", "", *(cells[0] for cells in CHOICES[2:])]
    names = [f"01{number}" for number in range(sheet.KNOWN_MAX + 5)]
    data = "".join(",".join([row[0], name, *row[2:]]) + "\n" for name in [*names, *names]).encode()
    both(data, rows=10_000, room=2_000_000)
