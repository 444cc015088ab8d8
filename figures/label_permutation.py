"""What hangs on the numbers of a task's classes: its accuracy with the classes in random orders."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.statistics import Interval, paired_task_interval, task_interval
from figures import networks, style
from figures.errors import FigureError
from figures.intervals import whisker

STUDY = "label_permutation"
NEEDED = ("intervention", "draw", "step", "split", "accuracy")
PERMUTED, AS_THEY_COME = "labels permuted", "none"
SPREAD_COLOUR, START_COLOUR = "#33638d", "#d1495b"


@dataclass(frozen=True)
class Trace:
    """One network. Accuracies are those after adaptation, on the query set, in percent.

    Attributes:
        title: what it is.
        tasks: of each task, lowest mean first: accuracy with the classes as they come, and the lowest, mean and highest
            over random orders.
        spread: of each task, in that order, the standard deviation of its accuracy over orders (ddof 1).
        mean_spread: its mean over tasks.
        over_orders: accuracy, mean over orders.
        as_they_come: accuracy with the classes as they come.
        difference: of these two, paired by task.
        chance: accuracy of guessing.
        caption: paragraphs.
        tables: where it is from, study/id; empty for a table in memory.
    """

    title: str
    tasks: tuple[tuple[float, float, float, float], ...]
    spread: tuple[float, ...]
    mean_spread: Interval | None
    over_orders: Interval | None
    as_they_come: Interval | None
    difference: Interval | None
    chance: float
    caption: tuple[str, ...]
    tables: tuple[str, ...] = ()


def from_table(table: pd.DataFrame) -> Trace:
    """What a table of the study `label_permutation` says of its network.

    Raises:
        FigureError: for a missing column, a table of several networks, or fewer than two orders.
    """
    networks.check(table, NEEDED, STUDY)
    num_orders = table.loc[table["intervention"].eq(PERMUTED), "draw"].nunique()
    if num_orders < 2:
        raise FigureError(f"a spread needs at least 2 random orders of the classes, and the table has {num_orders}")
    good, lost = networks.measured(table)
    last = good[good["split"].eq("query") & good["step"].eq(good["steps"])]
    last = last.assign(accuracy=100 * last["accuracy"])
    subject = networks.subject(table, lost)
    if not len(last):
        return Trace(subject.title, (), (), None, None, None, None, subject.chance, subject.caption)
    keys = ["run", "task_seed", "task"]
    permuted = last[last["intervention"].eq(PERMUTED)].groupby(keys)["accuracy"]
    per_task = permuted.agg(["min", "mean", "max", "std"])
    per_task["start"] = last[last["intervention"].eq(AS_THEY_COME)].set_index(keys)["accuracy"]
    # A task of several runs: the mean over them of each number.
    shown = per_task.groupby(level=["task_seed", "task"]).mean().sort_values("mean", kind="stable")
    rows = per_task.reset_index()
    orders, start = (rows.assign(accuracy=rows[name]) for name in ("mean", "start"))
    spread, over_orders, as_they_come = task_interval(rows, "std"), task_interval(orders), task_interval(start)
    difference = paired_task_interval(orders, start)
    three = (networks.number(as_they_come), networks.number(over_orders), networks.number(difference, "+.1f"))
    caption = [
        f"{networks.describe_mean(good, 'whisker', [spread])} Accuracy on the query set, after the last step.",
        *subject.caption,
        f"{num_orders} random orders of the classes a task. As they come {three[0]} %, mean over orders {three[1]} %, "
        f"difference {three[2]} points.",
    ]
    return Trace(
        title=subject.title,
        tasks=tuple(shown[["start", "min", "mean", "max"]].itertuples(index=False, name=None)),
        spread=tuple(shown["std"]),
        mean_spread=spread,
        over_orders=over_orders,
        as_they_come=as_they_come,
        difference=difference,
        chance=subject.chance,
        caption=tuple(caption),
    )


traces = networks.traces_of(STUDY, NEEDED, from_table)


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes: "tasks", each task's range, and "spread", how tasks differ in it."""
    with style.context():
        figure, axes = style.panels(2, height=2.5, caption=trace.caption, top=0.42, widths=(1.9, 1.0))
        panels = dict(zip(("tasks", "spread"), axes, strict=True))
        _draw_tasks(panels["tasks"], trace)
        _draw_spread(panels["spread"], trace)
        handles = [
            Line2D([], [], color=SPREAD_COLOUR, alpha=0.45, linewidth=2, label="lowest to highest order"),
            Line2D([], [], color=SPREAD_COLOUR, linestyle="none", marker="o", markersize=3, label="mean over orders"),
            Line2D([], [], color=START_COLOUR, linestyle="none", marker="D", markersize=2.6, label="as they come"),
        ]
        style.legend(figure, handles, trace.title, 3)
    return figure, panels


def _draw_tasks(ax: Axes, trace: Trace) -> None:
    if trace.tasks:
        start, low, mean, high = (np.array(column) for column in zip(*trace.tasks, strict=True))
        x = np.arange(len(mean))
        ax.vlines(x, low, high, color=SPREAD_COLOUR, alpha=0.45, linewidth=min(4.0, 160 / len(x)), zorder=2)
        ax.plot(x, mean, linestyle="none", marker="o", markersize=1.8, color=SPREAD_COLOUR, zorder=3)
        ax.plot(x, start, linestyle="none", marker="D", markersize=1.5, color=START_COLOUR, zorder=3.5)
        ax.set_ylim(max(0.0, low.min() - 3), min(102.0, high.max() + 3))
    ax.set_xticks([])
    ax.set_xlabel("test tasks, by their mean")
    ax.set_ylabel("accuracy (%)")


def _draw_spread(ax: Axes, trace: Trace) -> None:
    if trace.mean_spread is not None:
        top = max(*trace.spread, 0.5)
        ax.hist(trace.spread, bins=np.linspace(0, 1.05 * top, 13).tolist(), color=SPREAD_COLOUR, alpha=0.75)
        over, height = trace.mean_spread, ax.get_ylim()[1]
        ax.plot([over.mean], [1.08 * height], marker="o", markersize=3.2, color="black", linestyle="none")
        whisker(ax, over.mean, 1.08 * height, over, horizontal=True, color="black", linewidth=0.9, capsize=2.0)
        ax.annotate(
            f"mean {networks.number(over)}", (over.mean, 1.08 * height), xytext=(0, 4), textcoords="offset points",
            ha="center", fontsize=7.5,
        )  # fmt: skip
        ax.set_ylim(0, 1.28 * height)
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("standard deviation (points)")
    ax.set_title("spread over orders")
    ax.set_ylabel("tasks")
