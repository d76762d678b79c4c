"""Owns the quick ways of cutting CSV lines into columns: string operations on a whole block, no loop over rows.

Each way proves by counting that it cuts as RFC 4180 says, or gives up (None); the csv module then does it.
"""

from __future__ import annotations

from typing import Final

HIDDEN: Final = "\x00"
"""Stands for a comma within quotes while lines are cut."""
QUOTES_PER_LINE_MAX: Final = 16
"""With more quotes in a line (and not all cells quoted), the csv module is as quick."""

Columns = list[list[str]]


def columns_of(text: str, width: int) -> Columns | None:
    """The columns of whole CSV lines, each of `width` cells; None if that cannot be said with certainty."""
    quotes = text.count('"')
    if quotes == 0:
        return plain_columns(text, width)
    if text.startswith('"') and quotes == 2 * width * text.count("\n"):
        return quoted_columns(text, width)
    if quotes <= QUOTES_PER_LINE_MAX * text.count("\n"):
        return hidden_columns(text, width)
    return None


def plain_columns(text: str, width: int) -> Columns | None:
    """Lines without any quotes.

    Each line end becomes a cell of its own; if those stand at every (width + 1)th place, and there are no others,
    every line has `width` cells.
    """
    count = text.count("\n")
    if not text.endswith("\n"):
        text, count = text + "\n", count + 1
    marked = text.replace("\r\n" if "\r" in text else "\n", ",\n,")
    if "\r" in marked:
        return None
    cells = marked.split(",")
    step = width + 1
    if len(cells) != count * step + 1 or cells[width::step].count("\n") != count:
        return None
    cells.pop()
    return [cells[start::step] for start in range(width)]


def quoted_columns(text: str, width: int) -> Columns | None:
    """Lines in which every cell is quoted and no cell holds a quote or a line end.

    There are two quotes for each of width * lines cells (asked by the caller). Cut at `","`, with line ends as cells
    of their own, that many cells take up all the quotes: none can be left within a cell.
    """
    count = text.count("\n")
    end = "\r\n" if "\r" in text else "\n"
    if not text.endswith('"' + end) or text.count("\r") != (count if end == "\r\n" else 0):
        return None
    cells = text[1 : -1 - len(end)].replace(f'"{end}"', '","\n","').split('","')
    step = width + 1
    if len(cells) != count * step - 1 or cells[width::step].count("\n") != count - 1:
        return None
    return [cells[start::step] for start in range(width)]


def hidden_columns(text: str, width: int) -> Columns | None:
    """Lines in which some cells are quoted, for a comma mostly: hide those commas, cut, and put them back."""
    parts = text.split('"')
    within = parts[1::2]
    quoted = "".join(within)
    if len(parts) % 2 == 0 or HIDDEN in text or "\n" in quoted or "\r" in quoted:
        return None
    if not _cells_only(parts[0::2]):
        return None
    parts[1::2] = [part.replace(",", HIDDEN) for part in within]
    columns = plain_columns("".join(parts), width)
    hidden = quoted.count(",")
    if columns is None or hidden == 0:
        return columns
    for position in sorted(range(width), key=lambda place: HIDDEN not in columns[place][0]):
        joined = "\n".join(columns[position])
        found = joined.count(HIDDEN)
        if found:
            columns[position] = joined.replace(HIDDEN, ",").split("\n")
            hidden -= found
            if hidden == 0:
                break
    return columns


def _cells_only(between: list[str]) -> bool:
    """Whether quotes stand only at the borders of cells: what is outside them begins and ends at a border."""
    first, *middle, last = between
    if (first and first[-1] not in ",\n") or (last and last[0] not in ",\r\n"):
        return False
    return all(part and part[0] in ",\r\n" and part[-1] in ",\n" for part in middle)
