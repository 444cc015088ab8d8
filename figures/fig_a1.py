"""Figure A.1: test accuracy of the linear models along meta-training, on synthetic tasks and on characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, curves, data, estimation, style
from figures.curves import Line
from figures.data import Runs, Where
from figures.errors import MissingTable
from figures.estimation import Ceiling
from figures.paper import linear_accuracy


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
    runs = data.read_runs(results, curves.STUDY, curves.NEEDED, where, first=first)
    groups = data.panels_of(panel, runs, estimation.read_ceilings(results))
    if not groups:
        raise MissingTable(
            f"no linear model has a curve; {captions.missing_runs('synthetic_linear', results, curves.STUDY)}"
        )
    return {f"fig_a1_{panels[-1].dataset}": Trace(tuple(panels), _caption(panels)) for panels in groups}


def panel(runs: Runs, dataset: str, ceilings: pd.DataFrame | None = None) -> Panel | None:
    """The panel of a data set, None if no linear model has a curve on it.

    Raises:
        FigureError: for runs that cannot be pooled.
    """
    reference = data.paper_dataset(dataset)
    lines = []
    for (model, method), group in data.by_method(data.in_setting(runs, dataset)).items():
        lines.append(curves.line(group, linear_accuracy(reference, model, method)))
    if not lines:
        return None
    config = lines[0].configs[0]
    found: tuple[Ceiling, ...] = ()
    points_seen = ""
    title, chance = captions.heading(dataset, config)
    if dataset == "synthetic":
        points, points_seen = data.synthetic_setting(config)
        found = estimation.ceiling_estimates(ceilings, points=points, evaluated_on=points_seen)
    num_tasks = [one.num_tasks for one in lines if one.num_seeds]
    about = captions.describe_runs(
        dataset,
        {one.name: one.configs for one in lines},
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


def _caption(panels: Sequence[Panel]) -> tuple[str, ...]:
    lines = [one for p in panels for one in p.lines]
    return (
        f"Line: mean over seeds; band: {curves.describe_band(lines)}; star, in its method's colour: what the paper "
        "states of its end, wherever that lies on the axis.",
        *(p.about for p in panels),
        *(
            told
            for p in panels
            for told in captions.describe_missing(p.dataset, data.LINEAR, [(one.model, one.method) for one in p.lines])
        ),
        *captions.describe_lost(run for one in lines for run in (*one.lost, *one.holes)),
    )


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by data set."""
    height = 2.85 + max(style.head_room(curves.describe_missing_runs(p.lines)) for p in trace.panels)
    with style.context():
        figure, axes = style.panels(len(trace.panels), height=height, caption=trace.caption, top=0.24)
        for ax, one in zip(axes, trace.panels, strict=True):
            _draw_panel(ax, one)
        axes[0].set_ylabel("test accuracy (%)")
        drawn = dict.fromkeys((one.model, one.method) for p in trace.panels for one in p.lines)
        looks = [style.look_of(*pair) for pair in data.LINEAR if pair in drawn]
        handles = curves.handles((look, look.name) for look in looks)
        handles.append(Line2D([], [], label=captions.paper_label([p.dataset for p in trace.panels]), **style.PAPER))
        figure.legend(handles=handles, loc="upper center", ncols=len(handles), borderaxespad=0.3, columnspacing=1.2)
    return figure, {one.dataset: ax for ax, one in zip(axes, trace.panels, strict=True)}


def _draw_panel(ax: Axes, panel: Panel) -> None:
    curves.draw_chance(ax, panel.chance)
    for ceiling in panel.ceilings:
        rule = style.CEILINGS[ceiling.name]
        ax.axhline(ceiling.mean, zorder=1.6, **rule)
        ax.text(
            0.02, ceiling.mean + 0.8, f"{style.CEILING_NAMES[ceiling.name]} {ceiling.mean:.1f}", ha="left", va="bottom",
            fontsize=7.5, color=rule["color"], transform=ax.get_yaxis_transform(),
        )  # fmt: skip
    curves.draw_lines(ax, panel.lines)
    curves.set_iterations(ax, panel.lines)
    lows = [one.points["low"].min() for one in panel.lines if len(one.points)]
    ax.set_ylim(10 * np.floor(min([panel.chance, *lows]) / 10 - 1), 105 if panel.ceilings else 100)
    curves.draw_published(ax, panel.lines)
    ax.set_xlabel("meta-training iteration")
    style.head(ax, panel.title, curves.describe_missing_runs(panel.lines))
