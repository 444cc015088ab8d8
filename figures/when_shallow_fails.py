"""Where LR cannot be meta-learned and LinNet can: accuracy over the settings, and over the turn of the fast step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from analysis.statistics import Interval, interval, task_interval
from analysis.store import read_table, table_paths
from figures import data, estimation, style
from figures.data import Where
from figures.intervals import whisker

STUDY = "when_shallow_fails"
QUANTITIES = ("input_scale", "adapt_lr", "meta_lr", "points", "init_scale", "iterations")
NEEDED = (
    "model", "varied", *QUANTITIES, "seed", "status", "task_seed", "task", "evaluated_on", "accuracy",
    "mean_classifier", "bayes", "turn", "predicted_accuracy",
)  # fmt: skip
CEILINGS = {"mean classifier": "mean_classifier", "bayes": "bayes"}  # columns
MODELS = ("lr", "linnet")
MAP = {"none", "input_scale", "adapt_lr", "input_scale, adapt_lr"}  # what may be varied in a map
SWEEPS = {
    "points": "points a task",
    "init_scale": "initial weights (factor on the default)",
    "meta_lr": "meta learning rate",
}
TURNS = (1e-3, 1e2)  # of the last panel
CHANCE = 50.0
_SETTING: dict[str, Any] = {**style.PAPER, "marker": "D"}  # about our accuracies, and not one of the paper's
# Of the maps, from chance up: paper-white to the colour of the ceilings.
_COLOURS = LinearSegmentedColormap.from_list("accuracy", ["#f7f4f6", "#d9a9c0", "#9b2d5e"])


@dataclass(frozen=True)
class Mark:
    """One cell, in percent.

    Attributes:
        at: the settings by name, of all `QUANTITIES`.
        over: mean over runs and tasks, and its interval over tasks; None if every run diverged.
        lost: such as "1 of 3 diverged"; empty if none was lost.
        is_centre: whether it is the setting of Figure 1, but for the length.
    """

    at: dict[str, float]
    over: Interval | None
    lost: str
    is_centre: bool


@dataclass(frozen=True)
class Line:
    """Cells of one model that differ in one quantity, in its order.

    Attributes:
        model: "lr" or "linnet".
        iterations: length of their training.
        is_longer: whether that is longer than the study's own.
        marks: the cells.
    """

    model: str
    iterations: int
    is_longer: bool
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Trace:
    """One figure, in percent, on fresh points of the test tasks.

    Attributes:
        maps: for each model, its cells over input scale and adaptation learning rate.
        sweeps: for each quantity, the lines.
        points: points a task, in all panels but the one that varies them.
        ceilings: for each number of points, the mean accuracies by ceiling.
        dots: for each model, (turn, accuracy) of every run on as many points.
        curve: (turn, accuracy) that geometry predicts there.
        caption: the paragraphs below the panels.
        tables: where it is from, study/id.
    """

    maps: dict[str, tuple[Mark, ...]]
    sweeps: dict[str, tuple[Line, ...]]
    points: int
    ceilings: dict[int, dict[str, float]]
    dots: dict[str, tuple[tuple[float, float], ...]]
    curve: tuple[tuple[float, float], ...]
    caption: tuple[str, ...]
    tables: tuple[str, ...] = ()


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A figure for each table of the study, by file name. Choices of runs do not concern it: there are no saved ones.

    Raises:
        MissingTable: if there is none.
        FigureError, StudyError: for tables that cannot be read.
    """
    data.require_tables(results, STUDY)
    paths = table_paths(results, STUDY)
    found = {}
    for path in paths:
        frame = read_table(path)
        data.check_columns(frame, NEEDED, f"{STUDY}/{path.stem}")
        found[STUDY if len(paths) == 1 else f"{STUDY}_{path.stem}"] = replace(
            trace(frame), tables=(f"{STUDY}/{path.stem}",)
        )
    return found


def trace(frame: pd.DataFrame) -> Trace:
    """What is drawn of one table."""
    fresh = frame[frame["evaluated_on"].eq("fresh")].copy()
    fresh.attrs.clear()  # pandas copies them, deeply, with every selection
    for column in ("accuracy", "predicted_accuracy", *CEILINGS.values()):
        fresh[column] = 100 * fresh[column]
    fresh["run"] = fresh.groupby(["model", *QUANTITIES, "seed"], sort=False).ngroup().astype(str)
    marks = {model: _marks(fresh[fresh["model"] == model]) for model in MODELS}
    centre = {model: next(m for m, v in found if v == "none") for model, found in marks.items()}
    length = int(centre["lr"].at["iterations"])
    sweeps = {
        quantity: tuple(
            line
            for model in MODELS
            for iterations in sorted({m.at["iterations"] for m, _ in marks[model]})
            if (line := _line(model, marks[model], centre[model], quantity, int(iterations)))
        )
        for quantity in SWEEPS
    }
    tasks = fresh.drop_duplicates(["points", "task"])
    points = int(centre["lr"].at["points"])
    ceilings = {
        int(n): {name: float(tasks.loc[tasks["points"] == n, column].mean()) for name, column in CEILINGS.items()}
        for n in tasks["points"].unique()
    }
    good = fresh[fresh["status"].eq("ok") & fresh["points"].eq(points)]
    runs = good.groupby(["model", "run"], sort=False).agg(turn=("turn", "median"), accuracy=("accuracy", "mean"))
    return Trace(
        maps={model: tuple(m for m, v in found if v in MAP) for model, found in marks.items()},
        sweeps=sweeps,
        points=points,
        ceilings=ceilings,
        dots={
            model: tuple((float(t), float(a)) for t, a in runs.loc[model].to_numpy())
            for model in MODELS
            if model in runs.index.get_level_values("model")
        },
        curve=_curve(good),
        caption=_caption(fresh, marks, length, points),
    )


def _marks(frame: pd.DataFrame) -> list[tuple[Mark, str]]:
    """The cells of one model, each with what is varied."""
    found = []
    for _, rows in frame.groupby([*QUANTITIES, "varied"], sort=False):
        one = rows.iloc[0]
        lost = estimation.lost_runs(rows)
        kept = rows[~rows["run"].isin([run for run, _ in lost])]
        over = task_interval(kept) if len(kept) else None
        mark = Mark(
            at={name: float(one[name]) for name in QUANTITIES},
            over=over,
            lost=estimation.lost_text(lost, kept["run"].nunique()),
            is_centre=one["varied"] in ("none", "iterations"),
        )
        found.append((mark, str(one["varied"])))
    return found


def _line(model: str, marks: Sequence[tuple[Mark, str]], centre: Mark, quantity: str, iterations: int) -> Line | None:
    """The cells that differ from that of Figure 1 in this quantity alone, at one length; None for fewer than two."""
    chosen = sorted(
        (m for m, _ in marks if m.at == {**centre.at, quantity: m.at[quantity], "iterations": iterations}),
        key=lambda mark: mark.at[quantity],
    )
    is_longer = iterations > centre.at["iterations"]
    return Line(model, iterations, is_longer, tuple(chosen)) if len(chosen) > 1 else None


def _curve(good: pd.DataFrame) -> tuple[tuple[float, float], ...]:
    """Turn and predicted accuracy of every task, thinned to what a line needs."""
    at = good[["turn", "predicted_accuracy"]].dropna().sort_values("turn")
    at = at[at["turn"].between(*TURNS)]
    return tuple((float(t), float(a)) for t, a in at.iloc[:: max(1, len(at) // 300)].to_numpy())


def _caption(
    fresh: pd.DataFrame, marks: dict[str, list[tuple[Mark, str]]], length: int, points: int
) -> tuple[str, ...]:
    intervals = [m.over for found in marks.values() for m, _ in found if m.over is not None]
    kinds = sorted({name for over in intervals if (name := estimation.interval_name(over))})
    good = fresh[fresh["status"].eq("ok")]
    halves = [_half_length(rows["accuracy"]) for _, rows in good[good["points"].eq(points)].groupby("run")]
    wide = max((half for half in halves if np.isfinite(half)), default=None)  # a single task has no interval
    dots = "" if wide is None else f"; its 95 % interval over tasks is within {wide:.1f} points of it"
    num_tasks, num_seeds = fresh["task"].nunique(), fresh["seed"].nunique()
    lost = sum(mark.over is None for found in marks.values() for mark, _ in found)
    cells = sum(len(found) for found in marks.values())
    return (
        f"Synthetic: MAML, 1 adaptation step, one task an iteration; {length:,} iterations where nothing else is said "
        f"(paper: 30,000); measured on fresh points; mean over {num_seeds} seed{'s' if num_seeds > 1 else ''} and "
        f"{num_tasks} test tasks. Square, diamond: as in Figure 1, with the paper's learning rates and points a "
        "tenth of the paper's.",
        f"Whisker: {' or '.join(kinds) or 'none'}. Dot (bottom right): one run{dots}. "
        "Turn: tangent of the angle between start and adapted weights, median over tasks; "
        "the line is what it predicts, with nothing fitted. Turns outside the panel are drawn at its edge.",
        f"Cross: every seed diverged ({lost} of {cells} cells). {_partly_lost(marks)}".strip(),
    )


def _half_length(values: "pd.Series[float]") -> float:
    over = interval(values, num_resamples=999)
    return max(over.mean - over.low, over.high - over.mean)


def _partly_lost(marks: dict[str, list[tuple[Mark, str]]]) -> str:
    """The sentence on cells of which some seeds diverged; empty if there are none."""
    partly = []
    for model, found in marks.items():
        for mark, varied in found:
            if mark.lost and mark.over is not None:
                names = ["iterations"] if varied == "none" else varied.split(", ")
                told = ", ".join(f"{name.replace('_', ' ')} {_short(mark.at[name])}" for name in names)
                partly.append(f"{style.look_of(model, 'maml').name} at {told} ({mark.lost})")
    return f"*: mean of the other seeds: {'; '.join(partly)}." if partly else ""


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes: a map for each model, a panel for each sweep, and "turn"."""
    names = [*trace.maps, *trace.sweeps, "turn"]
    with style.context():
        figure, axes = style.panels(2, height=6.3, caption=trace.caption, top=0.44, num_rows=3)
        panels = dict(zip(names, axes, strict=True))
        for model, marks in trace.maps.items():
            _draw_map(panels[model], model, marks)
        for quantity, lines in trace.sweeps.items():
            _draw_sweep(panels[quantity], quantity, lines, trace)
        _draw_turn(panels["turn"], trace)
        for name in (*trace.sweeps, "turn"):
            panels[name].set_ylim(45, 102)
            panels[name].set_yticks(range(50, 101, 10))
            panels[name].axhline(CHANCE, zorder=1.5, **style.CHANCE)
        panels["lr"].set_ylabel("input scale")
        for name in list(trace.sweeps)[::2]:
            panels[name].set_ylabel("accuracy (%)")
        _legend(figure, trace)
    return figure, panels


def _draw_map(ax: Axes, model: str, marks: Sequence[Mark]) -> None:
    columns = sorted({m.at["adapt_lr"] for m in marks})
    rows = sorted({m.at["input_scale"] for m in marks})
    for mark in marks:
        x, y = columns.index(mark.at["adapt_lr"]), rows.index(mark.at["input_scale"])
        corner = (x - 0.5, y - 0.5)
        if mark.over is None:
            ax.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor="#bbbbbb", hatch="////", linewidth=0))
            ax.text(x, y, "\u00d7", ha="center", va="center", fontsize=9, color=style.LOST["color"])
        else:
            share = (mark.over.mean - CHANCE) / (100 - CHANCE)
            ax.add_patch(Rectangle(corner, 1, 1, facecolor=_COLOURS(max(0.0, share)), linewidth=0))
            text = f"{mark.over.mean:.0f}{'*' if mark.lost else ''}"
            ax.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if share > 0.5 else "#222222")
        if mark.is_centre:
            box = Rectangle((x - 0.46, y - 0.43), 0.92, 0.86, fill=False, edgecolor="black", linewidth=1.3, zorder=4)
            ax.add_patch(box)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(-0.5, len(rows) - 0.5)
    ax.set_xticks(range(len(columns)), map(_short, columns))
    ax.set_yticks(range(len(rows)), map(_short, rows))
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.set_xlabel("adaptation learning rate")
    ax.set_title(f"{style.look_of(model, 'maml').name}: accuracy (%)")


def _short(value: float) -> str:
    """Two digits at least, and no exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _draw_sweep(ax: Axes, quantity: str, lines: Sequence[Line], trace: Trace) -> None:
    ax.set_xscale("log")
    for line in lines:
        look = style.look_of(line.model, "maml")
        there = [(m.at[quantity], m.over) for m in line.marks if m.over is not None]
        face = "white" if line.is_longer else look.colour
        ax.plot(
            [x for x, _ in there], [over.mean for _, over in there], color=look.colour, marker=look.marker,
            markersize=3.6, markerfacecolor=face, linestyle=(0, (3, 1.5)) if line.is_longer else "-", zorder=3,
        )  # fmt: skip
        for x, over in there:
            whisker(ax, x, over.mean, over, color=look.colour, linewidth=0.9, capsize=1.6, zorder=2.8)
        for mark in line.marks:
            x = mark.at[quantity]
            if mark.over is None:
                ax.plot([x], [47.3], marker="x", markersize=4, color=look.colour, zorder=4)
            elif mark.is_centre:
                ax.plot([x], [mark.over.mean], **{**_SETTING, "markersize": 8, "markerfacecolor": "none"}, zorder=4)
    if quantity == "points":
        at = sorted(trace.ceilings)
        for name in CEILINGS:
            ax.plot(at, [trace.ceilings[n][name] for n in at], zorder=1.6, **style.CEILINGS[name])
    else:
        for name in CEILINGS:
            ax.axhline(trace.ceilings[trace.points][name], zorder=1.6, **style.CEILINGS[name])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(SWEEPS[quantity])


def _draw_turn(ax: Axes, trace: Trace) -> None:
    ax.set_xscale("log")
    ax.plot([t for t, _ in trace.curve], [a for _, a in trace.curve], color="black", linewidth=1.0, zorder=2)
    for model, dots in trace.dots.items():
        look = style.look_of(model, "maml")
        inside = [(min(max(turn, TURNS[0]), TURNS[1]), accuracy) for turn, accuracy in dots]
        ax.plot(
            [t for t, _ in inside], [a for _, a in inside], linestyle="none", marker=look.marker, markersize=3.0,
            color=look.colour, markeredgewidth=0, alpha=0.6, zorder=3,
        )  # fmt: skip
    ax.set_xlim(TURNS[0] / 1.5, TURNS[1] * 1.5)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("turn of the fast step (tangent)")


def _legend(figure: Figure, trace: Trace) -> None:
    handles: list[Any] = [
        Line2D([], [], color=look.colour, marker=look.marker, markersize=4, label=look.name)
        for look in (style.look_of(model, "maml") for model in trace.maps)
    ]
    for iterations in sorted({line.iterations for lines in trace.sweeps.values() for line in lines if line.is_longer}):
        handles.append(
            Line2D([], [], color="#555555", linestyle=(0, (3, 1.5)), marker="o", markersize=4, markerfacecolor="white",
                   label=f"{iterations:,} iterations")
        )  # fmt: skip
    handles.append(Line2D([], [], label="as in Figure 1", **{**_SETTING, "markersize": 7}))
    handles += [Line2D([], [], label=style.CEILING_NAMES[name], **style.CEILINGS[name]) for name in CEILINGS]
    handles.append(Line2D([], [], label="chance", **style.CHANCE))
    handles.append(Line2D([], [], color="black", linewidth=1.0, label="predicted from the turn"))
    figure.legend(handles=handles, loc="upper center", ncols=4, borderaxespad=0.3)
