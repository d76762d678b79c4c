"""Owns how contenders are written down: a table to read, the same in Markdown, bounds, and a picture."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Row:
    """One contender: a cost for each round, lower is better; or why there is none."""

    name: str
    label: str
    ours: bool = False
    costs: list[float] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    """Further cells of its row."""
    missing: str = ""

    @property
    def cost(self) -> float:
        return statistics.median(self.costs)


@dataclass
class Bound:
    """A ratio of two contenders that is asked for; at most, or at least."""

    label: str
    above: str
    below: str
    at_most: float | None = None
    at_least: float | None = None


@dataclass
class Group:
    """Contenders for the same work, in one run."""

    name: str
    title: str
    unit: str
    reference: str
    """The name of the row that all are compared with."""
    columns: list[str]
    rows: list[Row]
    bounds: list[Bound]
    said: list[str]
    """What a reader must know of it."""
    conditions: str = ""

    def row(self, name: str) -> Row | None:
        """A contender that was measured."""
        return next((row for row in self.rows if row.name == name and row.costs), None)

    def ratio(self, above: str, below: str) -> float | None:
        """The median over rounds of one cost beside the other."""
        first, second = self.row(above), self.row(below)
        if first is None or second is None:
            return None
        return statistics.median(a / b for a, b in zip(first.costs, second.costs, strict=True))


def cells(group: Group) -> list[list[str]]:
    """The table's lines: header, contenders from cheap to dear, then those that were not measured."""
    measured = sorted((row for row in group.rows if row.costs), key=lambda row: row.cost)
    ours = group.row(group.reference)
    lines = [["contender", group.unit, f"beside {ours.label if ours else '-'}", *group.columns]]
    for row in measured:
        ratio = group.ratio(row.name, group.reference)
        beside = "-" if ratio is None else f"{ratio:.2f}"
        lines.append([row.label, _short(row.cost), beside, *row.more])
    for row in group.rows:
        if not row.costs:
            lines.append([row.label, f"not measured: {row.missing}", "", *([""] * len(group.columns))])
    return lines


def bound_cells(group: Group) -> list[list[str]]:
    """The bounds' lines: what, how much, how much it may be, whether it is."""
    lines = [["figure", "measured", "bound", ""]]
    for bound in group.bounds:
        ratio = group.ratio(bound.above, bound.below)
        limit = bound.at_least if bound.at_most is None else bound.at_most
        assert limit is not None
        wanted = f"{'>=' if bound.at_most is None else '<='} {limit:g}"
        if ratio is None:
            lines.append([bound.label, "not measured", wanted, ""])
            continue
        met = ratio >= limit if bound.at_most is None else ratio <= limit
        lines.append([bound.label, f"{ratio:.2f}", wanted, "met" if met else "missed"])
    return lines


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def plain(lines: Sequence[Sequence[str]]) -> str:
    """A table for a terminal. What does not fit its column (a reason) runs over the empty ones beside it."""
    whole = [line for line in lines if "not measured:" not in line[1]]
    widths = [max(len(line[n]) for line in (lines if n == 0 else whole)) for n in range(len(lines[0]))]
    made = []
    for line in lines:
        first = line[0].ljust(widths[0])
        if line in whole:
            rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            made.append("  ".join([first, *rest]))
        else:
            made.append(f"{first}  {line[1]}")
    return "\n".join(made)


def markdown(lines: Sequence[Sequence[str]], ours: set[str]) -> str:
    """The same for a page; ours in bold."""
    header, *rest = lines
    made = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for line in rest:
        first = f"**{line[0]}**" if line[0] in ours else line[0]
        made.append("| " + " | ".join([first, *line[1:]]) + " |")
    return "\n".join(made)


def conditions(command: str, rounds: int) -> str:
    """Machine, commit and command, without which a number says nothing."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in processors if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    cores = sum(line.startswith("processor") for line in processors)
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    changed = (
        " with changes" if _git("status", "--porcelain", "--untracked-files=no", "--", "api", "engine", "ext") else ""
    )
    return (
        f"{cores} cores, {model}; CPython {platform.python_version()}; commit {commit}{changed}; `{command}`; "
        f"{rounds} rounds in turns; {os.getloadavg()[0]:.1f} processes were running when it began"
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""


def page(group: Group) -> str:
    """The group's part of docs/PERFORMANCE.md."""
    ours = {row.label for row in group.rows if row.ours}
    parts = [
        f"{group.title}. {group.conditions}.",
        markdown(cells(group), ours),
        markdown(bound_cells(group), set()) if group.bounds else "",
        "\n".join(f"- {sentence}" for sentence in group.said),
        f"![{group.title}](peers-{group.name}.png)",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def place(document: Path, group: Group) -> None:
    """Put the group's part between its marks in a document. Raises ValueError if they are not there."""
    text = document.read_text("utf-8")
    start, end = f"<!-- peers {group.name} -->\n", f"<!-- end of peers {group.name} -->\n"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{document.name} has no marks for peers {group.name}")
    document.write_text(before + start + "\n" + page(group) + "\n" + end + after, "utf-8")


def save(group: Group, folder: Path) -> None:
    """Keep everything that was measured, round by round."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{group.name}.json").write_text(json.dumps(asdict(group), ensure_ascii=False, indent=1), "utf-8")
    (folder / f"{group.name}.md").write_text(page(group), "utf-8")


def draw(group: Group, path: Path) -> None:
    """Bars on a logarithmic axis; the picture brings its own ground, so that it reads on light and on dark pages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sorted((row for row in group.rows if row.costs), key=lambda row: -row.cost)
    figure, axes = pyplot.subplots(figsize=(10, 0.36 * len(rows) + 1.3), facecolor="#f4f5f7", layout="constrained")
    axes.set_facecolor("#f4f5f7")
    colours = ["#c2410c" if row.ours else "#64748b" for row in rows]
    bars = axes.barh([row.label for row in rows], [row.cost for row in rows], color=colours)
    axes.bar_label(bars, [_short(row.cost) for row in rows], padding=4, color="#1f2937", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel(f"{group.unit} (logarithmic; shorter is better)", color="#1f2937")
    axes.set_title(group.title, color="#111827", fontsize=11, loc="left")
    axes.tick_params(colors="#1f2937", labelsize=9)
    axes.margins(x=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
