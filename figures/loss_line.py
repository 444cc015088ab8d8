"""Loss and accuracy along the line from where adaptation starts to where it ends, and beyond."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.statistics import Interval, task_intervals
from figures import captions, estimation, networks, style
from figures.intervals import band

STUDY = "loss_line"
NEEDED = ("position", "split", "loss", "accuracy")
COLOURS = {"support": "#33638d", "query": "#d1495b"}
LOG_FROM = 30.0  # largest over smallest mean loss
ENDS = {0.0: "before", 1.0: "after"}


@dataclass(frozen=True)
class Trace:
    """One network.

    Attributes:
        title: what it is.
        loss: by split and position, in nats (regression: squared error).
        accuracy: by split and position, in percent; empty for regression.
        chance: accuracy of guessing in percent, NaN where there is none.
        caption: paragraphs.
        tables: where it is from, study/id; empty for a table in memory.
    """

    title: str
    loss: Mapping[str, Mapping[float, Interval]]
    accuracy: Mapping[str, Mapping[float, Interval]]
    chance: float
    caption: tuple[str, ...]
    tables: tuple[str, ...] = ()


def from_table(table: pd.DataFrame) -> Trace:
    """What a table of the study `loss_line` says of its network.

    Raises:
        FigureError: for a missing column, or a table of several networks.
    """
    networks.check(table, NEEDED, STUDY)
    good, lost = _measured(table)
    losses = _lines(good, "loss")
    accuracies = (
        {} if good["accuracy"].isna().all() else _lines(good.assign(accuracy=100 * good["accuracy"]), "accuracy")
    )
    found = [over for line in (*losses.values(), *accuracies.values()) for over in line.values()]
    subject = networks.subject(table, lost)
    caption = (
        networks.describe_mean(good, "band", found),
        *subject.caption,
        "Position p stands for the parameters start + p (end − start) of each task: 0 is before, 1 after adaptation.",
    )
    return Trace(subject.title, losses, accuracies, subject.chance, caption)


traces = networks.traces_of(STUDY, NEEDED, from_table)


def _measured(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows that are averaged, and the caption's paragraphs on the others.

    A run is lost if a task diverged; where a loss explodes only beyond what adaptation passed, these positions are.
    """
    passed = table["position"].between(0, 1)
    lost = estimation.lost_runs(table[passed])
    rows = table[~table["run"].isin([run for run, _ in lost])]
    exploded = rows["status"].ne("ok").groupby([rows["run"], rows["position"]]).transform("any")
    beyond = []
    for run, what in estimation.lost_runs(rows[exploded]):
        positions = sorted(rows.loc[exploded & rows["run"].eq(run), "position"].unique())
        beyond.append((f"{run} at {', '.join(f'{position:g}' for position in positions)}", what))
    return rows[~exploded], (*captions.describe_lost(lost), *captions.describe_lost(beyond))


def _lines(table: pd.DataFrame, value: str) -> dict[str, dict[float, Interval]]:
    lines: dict[str, dict[float, Interval]] = {}
    for (split, position), over in task_intervals(table, ["split", "position"], value).items():
        lines.setdefault(str(split), {})[float(position)] = over
    return {split: dict(sorted(line.items())) for split, line in lines.items()}


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by what is measured: "loss" and "accuracy", the latter if there is one."""
    measured = {"loss": trace.loss} | ({"accuracy": trace.accuracy} if trace.accuracy else {})
    with style.context():
        figure, axes = style.panels(len(measured), height=2.5, caption=trace.caption, top=0.42)
        panels = dict(zip(measured, axes, strict=True))
        for name, ax in panels.items():
            for split, line in measured[name].items():
                colour, positions, over = COLOURS[split], list(line), list(line.values())
                band(ax, positions, over, colour)
                ax.plot(positions, [one.mean for one in over], color=colour, zorder=3)
                marked = [position for position in ENDS if position in line]
                ax.plot(
                    marked, [line[p].mean for p in marked], linestyle="none", marker="o", markersize=4, color=colour,
                    zorder=3.5,
                )  # fmt: skip
            for position, when in ENDS.items():
                ax.axvline(position, color="#bbbbbb", linewidth=0.8, zorder=1.5)
                ax.annotate(
                    when, (position, 1), xycoords=("data", "axes fraction"), xytext=(0, 1),
                    textcoords="offset points", ha="center", va="bottom", fontsize=8, color="#555555",
                )  # fmt: skip
            ax.set_xlabel("position on the line")
        _scale_loss(panels["loss"], trace)
        if "accuracy" in panels:
            panels["accuracy"].axhline(trace.chance, zorder=1.5, **style.CHANCE)
            panels["accuracy"].set_ylim(0, 107)
            panels["accuracy"].set_ylabel("accuracy (%)")
        handles = [Line2D([], [], color=COLOURS[split], label=f"{split} set") for split in trace.loss]
        if "accuracy" in panels and np.isfinite(trace.chance):
            handles.append(Line2D([], [], label="chance", **style.CHANCE))
        if handles:
            style.legend(figure, handles, trace.title, 3)
    return figure, panels


def _scale_loss(ax: Axes, trace: Trace) -> None:
    means = np.array([over.mean for line in trace.loss.values() for over in line.values()])
    if len(means) and means.min() > 0 and means.max() / means.min() > LOG_FROM:
        networks.log_axis(ax)
    elif len(means):
        ax.set_ylim(bottom=min(0.0, means.min()))
    ax.set_ylabel("loss" if not trace.accuracy else "loss (nats)")
