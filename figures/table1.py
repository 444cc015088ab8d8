"""Table 1: accuracy after adaptation of the linear models and meta-optimizers, on every data set that was measured."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import data, style
from figures.data import LINEAR, POINTS_SEEN, Ceiling, Estimate, Runs, Where
from figures.errors import MissingTable
from figures.paper import linear_accuracy

STUDY = "post_adaptation"
NEEDED = ("steps", "points_seen", "task_seed", "task", "step", "split", "accuracy")
LOST = "table lost"


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
    """Entries below a heading `head` that stands below a shared heading `group`, top to bottom."""

    group: str
    head: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Trace:
    """The table: names of the rows, of which the last `num_ceilings` are no models, its columns, and its notes."""

    rows: tuple[str, ...]
    num_ceilings: int
    columns: tuple[Column, ...]
    notes: tuple[str, ...]


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """The table, by file name.

    Raises:
        MissingTable: if nothing was measured.
        FigureError, StudyError: for runs that cannot be pooled, or tables that cannot be read.
    """
    first = f"python -m core experiment synthetic_linear --results {results}"
    runs = data.read_runs(results, STUDY, NEEDED, where, first=first)
    found = table(runs, data.read_ceilings(results))
    if found is None:
        raise MissingTable(f"no linear model was measured; {data.missing_runs('synthetic', results, STUDY)}")
    return {"table1": found}


def table(runs: Runs, ceilings: pd.DataFrame | None = None) -> Trace | None:
    """The table of these runs, None if none of them belongs in it.

    Raises:
        FigureError, StudyError: for runs that cannot be pooled.
    """
    measured: list[tuple[str, str, dict[tuple[str, str], Estimate]]] = []
    for dataset, points_seen in [("synthetic", "same"), ("synthetic", "fresh"), *((d, "") for d in data.OMNIGLOT_LIKE)]:
        groups = data.by_method(data.in_setting(runs, dataset))
        estimates = {pair: e for pair, group in groups.items() if (e := data.estimate(group, points_seen)) is not None}
        if estimates:
            measured.append((dataset, points_seen, estimates))
    if not measured:
        return None
    bounds: dict[str, tuple[Ceiling, ...]] = {}
    for dataset, points_seen, estimates in measured:
        if dataset == "synthetic":
            points, _ = data.synthetic_setting(next(iter(estimates.values())).configs[0])
            bounds[points_seen] = data.ceiling_estimates(ceilings, points=points, evaluated_on=points_seen)
    names = list(dict.fromkeys(c.name for found in bounds.values() for c in found))

    columns: list[Column] = []
    for reference, own in groupby(measured, key=lambda m: data.paper_dataset(m[0])):
        group = "Synthetic, 1 step" if reference == "synthetic" else "Characters, 5-way 1-shot, 2 steps"
        for dataset, points_seen, estimates in own:
            cells = [_cell(estimates.get(pair)) for pair in LINEAR]
            by_name = {c.name: c for c in bounds.get(points_seen, ())}
            cells += [_ceiling_cell(by_name.get(name)) for name in names]
            head = POINTS_SEEN[points_seen] or style.dataset_name(dataset)
            columns.append(Column(group, head, tuple(cells)))
        published = [linear_accuracy(reference, *pair) for pair in LINEAR]
        cells = [Cell(LOST if value is None else f"{value:.0f}") for value in published]
        head = "paper" if reference == "synthetic" else "paper (full Omniglot)"
        columns.append(Column(group, head, (*cells, *(Cell("") for _ in names))))
    return Trace(
        rows=(*(style.look_of(*pair).name for pair in LINEAR), *(style.CEILING_NAMES[name] for name in names)),
        num_ceilings=len(names),
        columns=tuple(columns),
        notes=_notes(measured, [c for found in bounds.values() for c in found]),
    )


def _cell(found: Estimate | None) -> Cell:
    if found is None:
        return Cell("not measured")
    if not found.seeds:
        return Cell("", lost=found.lost_text)
    spread = "one seed" if math.isnan(found.std) else f"± {found.std:.1f}"
    value = f"{found.mean:.1f} {spread}" if spread.startswith("±") else f"{found.mean:.1f} ({spread})"
    return Cell(value, _interval(found.low, found.high), found.lost_text)


def _ceiling_cell(found: Ceiling | None) -> Cell:
    return Cell("") if found is None else Cell(f"{found.mean:.1f}", _interval(found.low, found.high))


def _interval(low: float, high: float) -> str:
    # A point is no interval: the tasks did not differ, which does not make the mean known.
    return "" if math.isnan(low) or low == high else f"[{low:.1f}, {high:.1f}]"


def _notes(
    measured: Sequence[tuple[str, str, dict[tuple[str, str], Estimate]]], ceilings: Sequence[Ceiling]
) -> tuple[str, ...]:
    kinds = [e.interval for _, _, estimates in measured for e in estimates.values() if e.interval]
    notes = [
        "Accuracy on test tasks in percent: mean ± standard deviation over seeds"
        + (f"; in brackets, {' or '.join(sorted(set(kinds)))}." if kinds else ".")
    ]
    notes += [data.describe(dataset, list(found.values())) for dataset, _, found in measured]
    if any(dataset == "synthetic" for dataset, _, _ in measured):
        notes.append("Own points are those that were adapted to, fresh points are new ones of the same tasks.")
    if ceilings:
        notes.append(
            "Mean and Bayes classifier are made from a task's support points, without any run; the former is the "
            "ceiling of one step by a rule that favours no direction."
        )
    notes.append(
        'Paper: the values that its prose states (LR on synthetic tasks: "chance"); its Table 1 was a picture and is '
        "lost."
    )
    notes += data.describe_lost(run for _, _, found in measured for e in found.values() for run in e.lost)
    return tuple(dict.fromkeys(notes))


def texts(trace: Trace) -> dict[str, str]:
    """The table as text, by file ending."""
    return {"md": markdown(trace), "tex": latex(trace)}


def markdown(trace: Trace) -> str:
    """The table in Markdown, its notes as a list below it."""
    heads = ["", *(f"{c.group}: {c.head}" for c in trace.columns)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for i, row in enumerate(trace.rows):
        lines.append(f"| {' | '.join([row, *(c.cells[i].line for c in trace.columns)])} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in trace.notes)]) + "\n"


def latex(trace: Trace) -> str:
    r"""The table in LaTeX, a float that needs `\usepackage{booktabs}` and nothing else."""
    spans, rules, start = [], [], 2
    for group, members in groupby(trace.columns, key=lambda c: c.group):
        width = len(list(members))
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{_escape(group)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}l{'c' * len(trace.columns)}@{{}}}}",
        r"\toprule",
        f" & {' & '.join(spans)} \\\\",
        "".join(rules),
        f" & {' & '.join(_escape(c.head) for c in trace.columns)} \\\\",
        r"\midrule",
    ]
    for i, row in enumerate(trace.rows):
        if trace.num_ceilings and i == len(trace.rows) - trace.num_ceilings:
            lines.append(r"\midrule")
        cells = [c.cells[i] for c in trace.columns]
        lines.append(f"{_escape(row)} & {' & '.join(_escape(cell.value) for cell in cells)} \\\\")
        for name in ("interval", "lost"):
            second = [getattr(cell, name) for cell in cells]
            if any(second):
                small = [rf"{{\scriptsize {_escape(text)}}}" if text else "" for text in second]
                lines.append(f" & {' & '.join(small)} \\\\")
    caption = " ".join(_escape(note) for note in trace.notes)
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\label{tab:linear}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    for plain, escaped in (("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    # A row that starts with a bracket would be read as the option of the \\ before it.
    return text.replace("±", r"$\pm$").replace("[", "{[}").replace("]", "{]}").replace('"chance"', "``chance''")


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The table as a picture, and its axes under the name "table"."""
    with style.context():
        heights = [_height([c.cells[i] for c in trace.columns]) for i in range(len(trace.rows))]
        body = sum(heights)
        height = body + 0.74
        figure, (ax,) = style.panels(1, height=height, caption=trace.notes)
        ax.set_axis_off()
        ax.set_xlim(0, 1)
        ax.set_ylim(height, 0)  # inches from the top
        first = 0.165
        width = (1 - first) / len(trace.columns)
        centres = [first + (j + 0.5) * width for j in range(len(trace.columns))]
        for y, thickness in ((0.02, 1.1), (0.64, 0.6), (body + 0.72, 1.1)):
            ax.plot([0, 1], [y, y], color="black", linewidth=thickness)
        start = 0
        for group, members in groupby(trace.columns, key=lambda c: c.group):
            end = start + len(list(members)) - 1
            ax.text((centres[start] + centres[end]) / 2, 0.14, group, ha="center", va="center", fontweight="bold")
            ends = [centres[start] - 0.46 * width, centres[end] + 0.46 * width]
            ax.plot(ends, [0.26, 0.26], color="black", linewidth=0.5)
            start = end + 1
        for x, column in zip(centres, trace.columns, strict=True):
            head = column.head.replace(" (", "\n(")
            head = head if "\n" in head else "\n".join(textwrap.wrap(head, 14))
            ax.text(x, 0.45, head, ha="center", va="center", fontsize=8)
        y = 0.66
        for i, (row, tall) in enumerate(zip(trace.rows, heights, strict=True)):
            if trace.num_ceilings and i == len(trace.rows) - trace.num_ceilings:
                ax.plot([0, 1], [y, y], color="black", linewidth=0.6)
            ax.text(0.005, y + 0.12, row, ha="left", va="center")
            for x, column in zip(centres, trace.columns, strict=True):
                cell = column.cells[i]
                muted = cell.value in (LOST, "not measured")
                ax.text(
                    x, y + 0.12, cell.value, ha="center", va="center", color="#888888" if muted else "black",
                    style="italic" if muted else "normal",
                )  # fmt: skip
                ax.text(x, y + 0.25, cell.interval, ha="center", va="center", fontsize=7, color="#555555")
                if cell.lost:
                    below = 0.12 if not cell.value else 0.36 if cell.interval else 0.25
                    ax.text(x, y + below, cell.lost, ha="center", va="center", fontsize=7, color="#b00020")
            y += tall
    return figure, {"table": ax}


def _height(cells: Sequence[Cell]) -> float:
    """Inches that a row takes: the value, and a line of small print for an interval and for lost runs."""
    return 0.25 + 0.11 * max(bool(cell.interval) + bool(cell.lost) for cell in cells)
