"""Figure A.1: test accuracy of the linear models along meta-training, on synthetic tasks and on characters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from analysis.statistics import seed_spread
from figures import data, style
from figures.data import Ceiling, Runs, Where
from figures.errors import MissingTable
from figures.paper import linear_accuracy

STUDY = "training_curves"
NEEDED = ("iteration", "split", "accuracy", "num_tasks")
BAND = "range (smallest to largest) over seeds"
_APART = 0.12  # of the panel's diagonal: markers tell lines apart without colour, at any density of points
_LINEAR_PART = 10  # iterations: the axis is linear up to here, and logarithmic beyond


@dataclass(frozen=True)
class Line:
    """The curve of one model and method, in percent.

    Attributes:
        model, method: what was trained.
        points: one row an iteration: iteration, mean over the runs, low and high: smallest and largest of a run.
        num_seeds: runs behind each point.
        num_tasks: test tasks behind each point of a run.
        lost: (run, what happened) of each run that is left out.
        configs: configuration of every run, lost ones included.
        published: what the paper says of the end, None if nothing.
    """

    model: str
    method: str
    points: pd.DataFrame
    num_seeds: int
    num_tasks: int
    lost: tuple[tuple[str, str], ...]
    configs: tuple[Mapping[str, Any], ...]
    published: float | None

    @property
    def band(self) -> str:
        """What the band is."""
        return f"{BAND} ({self.num_seeds})" if self.num_seeds > 1 else "none, one seed"


@dataclass(frozen=True)
class Panel:
    """One data set.

    Attributes:
        dataset: its name in the tables.
        title: the panel's title.
        chance: accuracy of guessing, in percent.
        lines: the curves, in the order of the table of methods.
        ceilings: of synthetic tasks.
        about: the caption's paragraph.
    """

    dataset: str
    title: str
    chance: float
    lines: tuple[Line, ...]
    ceilings: tuple[Ceiling, ...]
    about: str


@dataclass(frozen=True)
class Trace:
    """One figure: its panels and the paragraphs below them."""

    panels: tuple[Panel, ...]
    caption: tuple[str, ...]


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A figure for each data set of characters that has curves, by file name.

    Raises:
        MissingTable: if there is no curve.
        FigureError, StudyError: for runs that cannot be pooled, or tables that cannot be read.
    """
    first = f"python -m core experiment synthetic_linear --results {results}"
    runs = data.read_runs(results, STUDY, NEEDED, where, first=first)
    groups = data.panels_of(panel, runs, data.read_ceilings(results))
    if not groups:
        raise MissingTable(f"no linear model has a curve; {data.missing_runs('synthetic', results, STUDY)}")
    return {f"fig_a1_{panels[-1].dataset}": Trace(tuple(panels), _caption(panels)) for panels in groups}


def panel(runs: Runs, dataset: str, ceilings: pd.DataFrame | None = None) -> Panel | None:
    """The panel of a data set, None if no linear model has a curve on it.

    Raises:
        FigureError: for runs that cannot be pooled.
    """
    reference = data.paper_dataset(dataset)
    lines = []
    for (model, method), group in data.by_method(data.in_setting(runs, dataset)).items():
        lines.append(line(group, linear_accuracy(reference, model, method)))
    if not lines:
        return None
    config = lines[0].configs[0]
    found: tuple[Ceiling, ...] = ()
    points_seen = ""
    title, chance = data.heading(dataset, config)
    if dataset == "synthetic":
        points, points_seen = data.synthetic_setting(config)
        found = data.ceiling_estimates(ceilings, points=points, evaluated_on=points_seen)
    num_tasks = [one.num_tasks for one in lines if one.num_seeds]
    about = data.describe_runs(
        dataset,
        {style.look_of(one.model, one.method).name: one.configs for one in lines},
        points_seen=points_seen,
        tasks=f"{' or '.join(str(n) for n in sorted(set(num_tasks)))} test tasks a point",
        num_tasks=max(num_tasks, default=0),
    )
    return Panel(
        dataset=dataset,
        title=title,
        chance=chance,
        lines=tuple(lines),
        ceilings=found,
        about=about,
    )


def line(group: Runs, published: float | None = None) -> Line:
    """The curve of runs that differ in their seed only, at the iterations that all of them have.

    Args:
        group: rows of `training_curves`.
        published: the paper's value.
    """
    configs = tuple(group.configs.values())
    frame = group.frame
    lost = data.lost_runs(frame, ["run"])
    good = frame[frame["split"].eq("test") & ~frame["run"].isin([run for run, _ in lost])]
    num_seeds = good["run"].nunique()
    rows = []
    for iteration, at in good.groupby("iteration"):
        # A mean whose runs change along the line would jump for no reason of the method's.
        if at["run"].nunique() == num_seeds:
            spread = seed_spread(at.assign(accuracy=100 * at["accuracy"]))
            rows.append((iteration, spread.mean, spread.low, spread.high))
    points = pd.DataFrame(rows, columns=["iteration", "mean", "low", "high"])
    num_tasks = int(good["num_tasks"].min()) if len(good) else 0
    one = configs[0]
    return Line(one["model"], one["method"], points, num_seeds, num_tasks, lost, configs, published)


def _caption(panels: Sequence[Panel]) -> tuple[str, ...]:
    banded = any(one.num_seeds > 1 for p in panels for one in p.lines)
    lost = [run for p in panels for one in p.lines for run in one.lost]
    return (
        f"Line: mean over seeds; band: {BAND if banded else 'none, one seed'}; diamond: what the paper states.",
        *(p.about for p in panels),
        *data.describe_lost(lost),
    )


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by data set."""
    with style.context():
        figure, axes = style.panels(len(trace.panels), height=2.85, caption=trace.caption, top=0.24)
        for ax, one in zip(axes, trace.panels, strict=True):
            _draw_panel(ax, one)
        axes[0].set_ylabel("test accuracy (%)")
        drawn = dict.fromkeys((one.model, one.method) for p in trace.panels for one in p.lines)
        looks = [style.look_of(*pair) for pair in data.LINEAR if pair in drawn]
        handles = [Line2D([], [], color=k.colour, marker=k.marker, markersize=4, label=k.name) for k in looks]
        handles.append(Line2D([], [], label=data.paper_label([p.dataset for p in trace.panels]), **style.PAPER))
        figure.legend(handles=handles, loc="upper center", ncols=len(handles), borderaxespad=0.3, columnspacing=1.2)
    return figure, {one.dataset: ax for ax, one in zip(axes, trace.panels, strict=True)}


def _draw_panel(ax: Axes, panel: Panel) -> None:
    ends = [int(one.points["iteration"].max()) for one in panel.lines if len(one.points)]
    end = max(ends, default=_LINEAR_PART)
    ax.set_xscale("symlog", linthresh=_LINEAR_PART, linscale=0.6)
    ax.axhline(panel.chance, zorder=1.5, **style.CHANCE)
    ax.text(
        0.92, panel.chance - 0.8, "chance", fontsize=7.5, color="#777777", va="top", ha="right",
        transform=ax.get_yaxis_transform(),
    )  # fmt: skip
    for ceiling in panel.ceilings:
        rule = style.CEILINGS[ceiling.name]
        ax.axhline(ceiling.mean, zorder=1.6, **rule)
        ax.text(
            0.02, ceiling.mean + 0.8, f"{style.CEILING_NAMES[ceiling.name]} {ceiling.mean:.1f}", ha="left", va="bottom",
            fontsize=7.5, color=rule["color"], transform=ax.get_yaxis_transform(),
        )  # fmt: skip
    lost = []
    for one in panel.lines:
        look = style.look_of(one.model, one.method)
        if one.lost:
            lost.append(f"{look.name}: {data.lost_text(one.lost, one.num_seeds)}")
        if not len(one.points):
            continue
        x = one.points["iteration"].to_numpy()
        if one.num_seeds > 1:
            low, high = one.points["low"].to_numpy(), one.points["high"].to_numpy()
            ax.fill_between(x, low, high, color=look.colour, alpha=0.2, linewidth=0, zorder=2)
        ax.plot(
            x, one.points["mean"], color=look.colour, marker=look.marker, markersize=3.6, markeredgewidth=0, zorder=3,
            markevery=_APART,
        )  # fmt: skip
    for one in panel.lines:
        if one.published is None:
            continue
        # At the right edge and not at an iteration: the paper says where its curves end, not where they pass.
        outline = {**style.PAPER, "markeredgecolor": style.look_of(one.model, one.method).colour}
        ax.plot([0.965], [one.published], transform=ax.get_yaxis_transform(), zorder=5, **outline)
    if lost:
        ax.text(
            0.02, 0.02, "\n".join(lost), transform=ax.transAxes, fontsize=7.5, color="#b00020", ha="left", va="bottom"
        )
    ax.set_xlim(0, end * 2.2)
    decades = [10**k for k in range(1, 7) if 10**k <= end * 2.2]
    ax.set_xticks([0, *decades])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    lows = [one.points["low"].min() for one in panel.lines if len(one.points)]
    ax.set_ylim(10 * np.floor(min([panel.chance, *lows]) / 10 - 1), 105 if panel.ceilings else 100)
    ax.set_xlabel("meta-training iteration")
    ax.set_title(panel.title, linespacing=1.1)
