"""Adaptation step by step: a panel a probe, a line a layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.statistics import Interval, task_intervals
from figures import networks, style
from figures.intervals import band

STUDY = "adaptation_path"
NEEDED = ("step", "probe", "layer", "value")
COLUMNS = 3
# What stands above a panel; probes of a user's own have their names there.
TITLES = {
    "distance": "distance from the start\n(relative to the weights)",
    "update norm": "size of the update\n(relative to the weights)",
    "update cosine": "cosine of the update\nwith the one before",
    "descent cosine": "cosine of the update\nwith minus the gradient",
    "cka to start": "similarity to the start\n(debiased CKA)",
    "prototype accuracy": "accuracy by the nearest\nclass mean (%)",
    "within-class cosine": "cosine of outputs\nwithin a class",
    "between-class cosine": "cosine of outputs\nbetween classes",
}
PERCENT = ("prototype accuracy",)
# Layers whose weights move by such different factors cannot be told apart on a linear axis.
LOG_FROM = 30.0
# Values that differ by less differ by rounding: the cosine of gradient descent with its gradient is 1.
LEAST_SPAN = 0.02


@dataclass(frozen=True)
class Trace:
    """One network.

    Attributes:
        title: what it is.
        layers: in its order.
        panels: by probe and layer, the value after each step at which there is one.
        caption: paragraphs.
        chance: accuracy of guessing in percent, NaN where there is none.
        tables: where it is from, study/id; empty for a table in memory.
    """

    title: str
    layers: tuple[str, ...]
    panels: Mapping[str, Mapping[str, Mapping[int, Interval]]]
    caption: tuple[str, ...]
    chance: float
    tables: tuple[str, ...] = ()


def from_table(table: pd.DataFrame) -> Trace:
    """What a table of the study `adaptation_path` says of its network.

    Raises:
        FigureError: for a missing column, or a table of several networks.
    """
    networks.check(table, NEEDED, STUDY)
    good, lost = networks.measured(table)
    scale = good["probe"].isin(PERCENT).map({True: 100.0, False: 1.0})
    cell = ["probe", "layer", "step"]
    cells = task_intervals(networks.complete(good.assign(value=good["value"] * scale), cell), cell, "value")
    layers = tuple(table["layer"].unique())
    panels: dict[str, dict[str, dict[int, Interval]]] = {}
    for probe in table["probe"].unique():
        panels[str(probe)] = {}
    for (probe, layer, step), over in cells.items():
        panels[probe].setdefault(layer, {})[int(step)] = over
    subject = networks.subject(table, lost)
    caption = (networks.describe_mean(good, "band", cells), *subject.caption)
    return Trace(subject.title, layers, panels, caption, subject.chance)


traces = networks.traces_of(STUDY, NEEDED, from_table)


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by probe; the layers' names have the last cell of the grid."""
    num_rows = -(-(len(trace.panels) + 1) // COLUMNS)
    colours = dict(zip(trace.layers, style.layer_colours(len(trace.layers)), strict=True))
    with style.context():
        figure, axes = style.panels(COLUMNS, height=1.75 * num_rows + 0.2, caption=trace.caption, num_rows=num_rows)
        panels = dict(zip(trace.panels, axes, strict=False))
        for probe, ax in panels.items():
            for layer, points in trace.panels[probe].items():
                steps, over = sorted(points), [points[step] for step in sorted(points)]
                band(ax, steps, over, colours[layer])
                ax.plot(
                    steps, [one.mean for one in over], color=colours[layer], marker="o", markersize=2.4, linewidth=1.1
                )  # fmt: skip
            _scale(ax, probe, trace)
            ax.set_title(TITLES.get(probe, probe), fontsize=8.5, linespacing=1.1)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for ax in axes[max(0, len(panels) - COLUMNS) : len(panels)]:
            ax.set_xlabel("adaptation step")
        handles = [
            Line2D([], [], color=colours[la], marker="o", markersize=2.4, label=style.plain(la)) for la in trace.layers
        ]
        if trace.chance == trace.chance and set(PERCENT) & set(panels):
            handles.append(Line2D([], [], label="chance", **style.CHANCE))
        axes[len(panels)].legend(handles=handles, loc="center", ncols=1 if len(handles) <= 7 else 2, fontsize=8)
        figure.suptitle(style.plain(trace.title), fontsize=9.5)
    return figure, panels


def _scale(ax: Axes, probe: str, trace: Trace) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.tick_params(labelsize=7.5)
    steps = {step for panel in trace.panels.values() for points in panel.values() for step in points}
    if steps:
        ax.set_xlim(min(steps) - 0.04 * len(steps), max(steps) + 0.04 * len(steps))
    if probe in PERCENT:
        ax.axhline(trace.chance, zorder=1.5, **style.CHANCE)
        ax.set_ylim(0, 104)
    if probe in ("distance", "update norm"):
        means = np.array([over.mean for points in trace.panels[probe].values() for over in points.values()])
        positive = means[means > 0]
        if len(positive) and positive.max() / positive.min() > LOG_FROM:
            networks.log_axis(ax)
        else:
            ax.set_ylim(bottom=0)
    low, high = ax.get_ylim()
    if ax.get_yscale() == "linear" and probe not in ("distance", "update norm") and high - low < LEAST_SPAN:
        most = max(high, 1 + LEAST_SPAN / 20)  # cosines and similarities end at 1, and so do their ticks
        top = min((low + high + LEAST_SPAN) / 2, most)
        ax.set_ylim(top - LEAST_SPAN, top)
