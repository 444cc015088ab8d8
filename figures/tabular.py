"""Tables of the house: what all of them are made of, and how one becomes Markdown, LaTeX and a picture."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.comparison import Number
from figures.estimation import Estimate
from figures.paper import Published

LOST = "table lost"
ABSENT = "not measured"
UNSTATED = "not stated"
_SIZE, _HEAD, _SMALL = 9.0, 8.0, 7.0  # points
_SPACED = 1.12  # width of a column to that of its widest entry


class Named(Protocol):
    """A mean whose interval has a name, empty if there is none."""

    @property
    def interval(self) -> str:
        """The name."""


@dataclass(frozen=True)
class Cell:
    """One entry: `value` is its first line, `interval` its second, `lost` what is wrong with some of its runs."""

    value: str
    interval: str = ""
    lost: str = ""

    @property
    def line(self) -> str:
        """All of it in one line."""
        lost = f"({self.lost})" if self.value and self.lost else self.lost
        return " ".join(part for part in (self.value, self.interval, lost) if part)


@dataclass(frozen=True)
class Column:
    """Entries below a heading `head` that stands below a shared heading `group`, top to bottom.

    `width` is relative to that of other columns.
    """

    group: str
    head: str
    cells: tuple[Cell, ...]
    width: float = 1.0


@dataclass(frozen=True)
class Trace:
    """One table.

    Attributes:
        rows: their names.
        ruled: numbers of the rows above which there is a line.
        columns: left to right.
        notes: the paragraphs below.
        label: what LaTeX calls it.
        first: width of the names' column, of a column of text.
        numbers: what stands in it, not rounded, beside the paper's.
    """

    rows: tuple[str, ...]
    ruled: tuple[int, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...]
    label: str
    first: float = 0.165
    numbers: tuple[Number, ...] = ()


def estimate_cell(found: Estimate | None) -> Cell:
    """Mean and standard deviation over seeds, and the interval over tasks."""
    if found is None:
        return Cell(ABSENT)
    if not found.seeds:
        return Cell("", lost=found.lost_text)
    spread = "one seed" if math.isnan(found.std) else f"± {found.std:.1f}"
    value = f"{found.mean:.1f} {spread}" if spread.startswith("±") else f"{found.mean:.1f} ({spread})"
    return Cell(value, bracketed(found.low, found.high), found.lost_text)


def published_cell(value: Published | None) -> Cell:
    """The paper's accuracy, as printed there."""
    if value is None:
        return Cell(UNSTATED)
    return Cell(f"{value.accuracy:.2f}" + ("" if value.std is None else f" ± {value.std:.2f}"))


def describe_cells(estimates: Iterable[Named]) -> str:
    """What the numbers of `estimate_cell` are."""
    kinds = sorted({e.interval for e in estimates if e.interval})
    told = "Accuracy on test tasks in percent: mean ± standard deviation over seeds"
    return told + (f"; in brackets, {' or '.join(kinds)}." if kinds else ".")


def bracketed(low: float, high: float) -> str:
    """The ends of an interval; empty if there is none."""
    # A point is no interval: the tasks did not differ, which does not make the mean known.
    return "" if math.isnan(low) or low == high else f"[{low:.1f}, {high:.1f}]"


def texts(trace: Trace) -> dict[str, str]:
    """The table as text, by file ending."""
    return {"md": markdown(trace), "tex": latex(trace)}


def markdown(trace: Trace) -> str:
    """The table in Markdown, its notes as a list below it."""
    heads = ["", *(f"{c.group}: {c.head}" if c.group else c.head for c in trace.columns)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for i, row in enumerate(trace.rows):
        lines.append(f"| {' | '.join([row, *(c.cells[i].line for c in trace.columns)])} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in trace.notes)]) + "\n"


def latex(trace: Trace) -> str:
    r"""The table in LaTeX, a float that needs `\usepackage{booktabs}` and nothing else."""
    spans, rules, start = [], [], 2
    for group, members in groupby(trace.columns, key=lambda c: c.group):
        width = len(list(members))
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if group else []
        start += width
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}l{'c' * len(trace.columns)}@{{}}}}",
        r"\toprule",
        f" & {' & '.join(spans)} \\\\",
        "".join(rules),
        f" & {' & '.join(escape(c.head) for c in trace.columns)} \\\\",
        r"\midrule",
    ]
    for i, row in enumerate(trace.rows):
        if i in trace.ruled:
            lines.append(r"\midrule")
        cells = [c.cells[i] for c in trace.columns]
        lines.append(f"{escape(row)} & {' & '.join(escape(cell.value) for cell in cells)} \\\\")
        for name in ("interval", "lost"):
            second = [getattr(cell, name) for cell in cells]
            if any(second):
                small = [rf"{{\scriptsize {escape(text)}}}" if text else "" for text in second]
                lines.append(f" & {' & '.join(small)} \\\\")
    caption = " ".join(escape(note) for note in trace.notes)
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", rf"\label{{{trace.label}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    for plain, escaped in (("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    for plain, sign in (("±", r"$\pm$"), ("×", r"$\times$"), ("−", "$-$")):
        text = text.replace(plain, sign)
    # A row that starts with a bracket would be read as the option of the \\ before it.
    return text.replace("[", "{[}").replace("]", "{]}").replace('"chance"', "``chance''")


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The table as a picture, and its axes under the name "table"."""
    with style.context():
        heights = [_height([c.cells[i] for c in trace.columns]) for i in range(len(trace.rows))]
        body = sum(heights)
        height = body + 0.74
        whole = _width(trace)
        figure, (ax,) = style.panels(1, height=height, caption=trace.notes, width=whole)
        ax.set_axis_off()
        ax.set_xlim(0, 1)
        ax.set_ylim(height, 0)  # inches from the top
        first = trace.first * style.TEXT_WIDTH / whole
        unit = (1 - first) / sum(c.width for c in trace.columns)
        ends = [first + unit * sum(c.width for c in trace.columns[:j]) for j in range(len(trace.columns) + 1)]
        centres = [(left + right) / 2 for left, right in pairwise(ends)]
        for y, thickness in ((0.02, 1.1), (0.64, 0.6), (body + 0.72, 1.1)):
            ax.plot([0, 1], [y, y], color="black", linewidth=thickness)
        start = 0
        for group, members in groupby(trace.columns, key=lambda c: c.group):
            end = start + len(list(members))
            middle = (ends[start] + ends[end]) / 2
            ax.text(middle, 0.14, group, ha="center", va="center", fontweight="bold")
            gap = 0.04 * unit
            if group:
                ax.plot([ends[start] + gap, ends[end] - gap], [0.26, 0.26], color="black", linewidth=0.5)
            start = end
        for x, column in zip(centres, trace.columns, strict=True):
            head = "\n".join(_lines(column.head, whole * unit * column.width / _SPACED))
            ax.text(x, 0.45, head, ha="center", va="center", fontsize=_HEAD)
        y = 0.66
        for i, (row, tall) in enumerate(zip(trace.rows, heights, strict=True)):
            if i in trace.ruled:
                ax.plot([0, 1], [y, y], color="black", linewidth=0.6)
            ax.text(0.005, y + 0.12, row, ha="left", va="center")
            for x, column in zip(centres, trace.columns, strict=True):
                cell = column.cells[i]
                muted = cell.value in (LOST, ABSENT, UNSTATED)
                ax.text(
                    x, y + 0.12, cell.value, ha="center", va="center", color="#888888" if muted else "black",
                    style="italic" if muted else "normal",
                )  # fmt: skip
                ax.text(x, y + 0.25, cell.interval, ha="center", va="center", fontsize=_SMALL, color="#555555")
                if cell.lost:
                    below = 0.12 if not cell.value else 0.36 if cell.interval else 0.25
                    ax.text(
                        x, y + below, cell.lost, ha="center", va="center", fontsize=_SMALL, color=style.LOST["color"]
                    )
            y += tall
    return figure, {"table": ax}


def _width(trace: Trace) -> float:
    """Inches that the picture takes: more than a column of text where entries would run into one another."""
    needs = []
    for group, members in groupby(trace.columns, key=lambda c: c.group):
        columns = list(members)
        needs.append(style.text_width(group, _SIZE, "bold") / sum(c.width for c in columns))
        for column in columns:
            words = _lines(column.head, 0)  # as short as its lines can be
            needs.append(max(style.text_width(word, _HEAD) for word in words) / column.width)
            for cell in column.cells:
                small = max(style.text_width(text, _SMALL) for text in (cell.interval, cell.lost))
                needs.append(max(style.text_width(cell.value, _SIZE), small) / column.width)
    units = sum(column.width for column in trace.columns)
    return max(style.TEXT_WIDTH, trace.first * style.TEXT_WIDTH + _SPACED * max(needs) * units)


def _lines(head: str, room: float) -> list[str]:
    """A heading in lines of `room` inches where its words allow that; a bracket begins a line of its own."""
    if " (" in head:
        return head.replace(" (", "\n(").split("\n")
    lines = [""]
    for word in head.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and style.text_width(longer, _HEAD) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _height(cells: Sequence[Cell]) -> float:
    """Inches that a row takes: the value, and a line of small print for an interval and for lost runs."""
    return 0.25 + 0.11 * max(bool(cell.interval) + bool(cell.lost) for cell in cells)
