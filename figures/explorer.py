"""Noise and adaptation to walk through in JupyterLab: two sliders over one table, nothing measured again.

table = noise_grid(run, layer="FC", num_tasks=50)    # analysis.noise_grid
explore(table)
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.statistics import Interval, task_intervals
from figures import data, estimation, networks, style
from figures.errors import FigureError
from figures.intervals import band, whisker

NEEDED = ("run", "status", "intervention", "draw", "task_seed", "task", "step", "split", "accuracy", "loss")
QUERY, CHOSEN, SIMILAR = "#6a4c93", "#d1495b", "#33638d"
# The number that a name such as "FC noise 0.5" ends in.
_STRENGTH = re.compile(r" (\d+(?:\.\d+)?(?:e[+-]?\d+)?)$")


@dataclass(frozen=True)
class Trace:
    """All that the sliders choose from.

    Attributes:
        title: what was disturbed.
        value: "accuracy" (in percent), or for regression "loss".
        strengths: weakest first.
        steps: adaptation steps, 0 first.
        measured: accuracy or loss on the query set by (strength, step).
        probe: what the numbers by layer are.
        layers: in the network's order.
        similar: these numbers by (strength, step, layer), where there is one.
        caption: paragraphs.
    """

    title: str
    value: str
    strengths: tuple[float, ...]
    steps: tuple[int, ...]
    measured: Mapping[tuple[float, int], Interval]
    probe: str
    layers: tuple[str, ...]
    similar: Mapping[tuple[float, int, str], Interval]
    caption: tuple[str, ...]


def from_table(table: pd.DataFrame, probe: str = "cka") -> Trace:
    """What a table of `intervene` holds for the sliders.

    Args:
        table: of interventions that differ in their strength: given by a column `std`, or by the number that each one's
            name ends in (none, without a number, is 0).
        probe: what the columns `<probe> <layer>` begin with.

    Raises:
        FigureError: for a missing column, runs of several networks, strengths that cannot be told, no column of the
            probe, or no task that did not diverge.
    """
    data.check_columns(table, NEEDED, "of the interventions")
    networks.check_one(table, "the table of the interventions")
    columns = {str(name): str(name).removeprefix(f"{probe} ") for name in table if str(name).startswith(f"{probe} ")}
    if not columns:
        raise FigureError(f"the table has no column '{probe} <layer>'; pass probes={{{probe!r}: ...}} to intervene")
    table = table.assign(std=table["std"] if "std" in table else table["intervention"].map(_strength))
    good, lost = networks.measured(table, within="intervention")
    good = good[good["split"].eq("query")]
    if not len(good):
        raise FigureError(f"there is nothing to walk through. {' '.join(lost)}")
    value = "loss" if good["accuracy"].isna().all() else "accuracy"
    good = good.assign(accuracy=100 * good["accuracy"])
    keys = ["run", "std", "step", "task_seed", "task"]
    # Draws of a task are no further tasks: they are averaged first.
    by_task = good.groupby(keys, sort=False)[[value, *columns]].mean().reset_index()
    long = by_task.melt(keys, list(columns), "layer").dropna()
    long, cell = long.assign(layer=long["layer"].map(columns)), ["std", "step", "layer"]
    similar = task_intervals(networks.complete(long, cell), cell, "value")
    measured = task_intervals(by_task, ["std", "step"], value)
    noisy = str(table["layer"].iloc[0]) if "layer" in table else ""
    kinds = sorted({estimation.interval_name(over) for over in (*measured.values(), *similar.values())} - {""})
    return Trace(
        title=f"noise on {noisy}" if noisy else "noise",
        value=value,
        strengths=tuple(float(std) for std in sorted(good["std"].unique())),
        steps=tuple(int(step) for step in sorted(good["step"].unique())),
        measured={(float(std), int(step)): over for (std, step), over in measured.items()},
        probe=probe,
        layers=tuple(columns.values()),
        similar={(float(std), int(step), str(layer)): over for (std, step, layer), over in similar.items()},
        caption=(
            f"Mean over {by_task[['task_seed', 'task']].drop_duplicates().shape[0]} test tasks; band, whisker: "
            f"{' or '.join(kinds) or 'none'}. Query set.",
            *lost,
        ),
    )


def _strength(name: str) -> float:
    if name == "none":
        return 0.0
    found = _STRENGTH.search(name)
    if found is None:
        raise FigureError(
            f"intervention {name!r} does not say how strong it is: let names end in a number, as in 'FC noise 0.5', or "
            "give the table a column std"
        )
    return float(found[1])


def draw(trace: Trace, strength: float, step: int) -> tuple[Figure, dict[str, Axes]]:
    """The figure at one place of the sliders, and its axes: "measured" and "similar".

    Raises:
        FigureError: for a place that the table does not have.
    """
    if (strength, step) not in trace.measured:
        raise FigureError(
            f"no strength {strength:g} at step {step}; strengths are {', '.join(f'{s:g}' for s in trace.strengths)}, "
            f"steps {', '.join(map(str, trace.steps))}"
        )
    with style.context():
        figure, axes = style.panels(2, height=networks.height_of(trace.layers) + 0.6, caption=trace.caption)
        panels = dict(zip(("measured", "similar"), axes, strict=True))
        _draw_measured(panels["measured"], trace, strength, step)
        _draw_similar(panels["similar"], trace, strength, step)
    return figure, panels


def _draw_measured(ax: Axes, trace: Trace, strength: float, step: int) -> None:
    there = [std for std in trace.strengths if (std, step) in trace.measured]
    x, over = [trace.strengths.index(std) for std in there], [trace.measured[std, step] for std in there]
    band(ax, x, over, QUERY)
    ax.plot(x, [one.mean for one in over], color=QUERY, marker="o", markersize=3.2, zorder=3)
    ax.plot(
        [trace.strengths.index(strength)], [trace.measured[strength, step].mean], linestyle="none", marker="o",
        markersize=8, markerfacecolor="none", markeredgecolor=CHOSEN, markeredgewidth=1.6, zorder=4,
    )  # fmt: skip
    ax.set_xticks(range(len(trace.strengths)), [f"{std:g}" for std in trace.strengths])
    ax.set_xlabel(f"{style.plain(trace.title)} (strength)")
    ax.set_ylabel("accuracy (%)" if trace.value == "accuracy" else "loss")
    ax.set_title(f"after {step} step{'' if step == 1 else 's'}")
    # The same axis wherever the sliders are, so that what moves is what changes.
    ends = np.array([end for one in trace.measured.values() for end in (one.mean, one.low, one.high)])
    top = 104.0 if trace.value == "accuracy" else 1.05 * float(np.nanmax(ends))
    ax.set_ylim(0, top)


def _draw_similar(ax: Axes, trace: Trace, strength: float, step: int) -> None:
    found = {layer: trace.similar[key] for layer in trace.layers if (key := (strength, step, layer)) in trace.similar}
    y = [trace.layers.index(layer) for layer in found]
    ax.plot(
        [over.mean for over in found.values()], y, color=SIMILAR, marker="D", markersize=3.6, linewidth=0.9, zorder=3
    )  # fmt: skip
    for position, over in zip(y, found.values(), strict=True):
        whisker(
            ax, over.mean, position, over, horizontal=True, color=SIMILAR, linewidth=0.9, capsize=1.5, zorder=3
        )  # fmt: skip
    networks.layers_down(ax, trace.layers)
    ends = np.array([end for one in trace.similar.values() for end in (one.mean, one.low)])
    ax.set_xlim(min(-0.03, float(np.nanmin(ends, initial=0.0))), 1.03)
    ax.set_xlabel(f"{trace.probe} to the start")
    ax.set_title(f"strength {strength:g}")


@dataclass(repr=False)
class Explorer:
    """Two sliders and the picture that they redraw; the last line of a notebook's cell shows it.

    Attributes:
        trace: what the sliders choose from.
        strength: the slider of the noise's strength; set its `value`, or move it.
        step: the slider of the adaptation step.
        axes: those of the picture that is shown.
        box: sliders and picture, a widget.
    """

    trace: Trace
    strength: Any
    step: Any
    axes: dict[str, Axes]
    box: Any

    def __repr__(self) -> str:
        strengths = ", ".join(f"{std:g}" for std in self.trace.strengths)
        steps = ", ".join(map(str, self.trace.steps))
        return f"<Explorer: sliders for Jupyter; strength.value is one of {strengths}, step.value one of {steps}>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


def explore(table: pd.DataFrame, probe: str = "cka") -> Explorer:
    """Walk through a table of noise strengths and adaptation steps, with two sliders.

    Args:
        table: of `analysis.noise_grid.noise_grid`, or of `intervene`, see `from_table`.
        probe: what the columns `<probe> <layer>` begin with.

    Raises:
        FigureError: if ipywidgets is not installed, or for a table that has no such columns.
    """
    try:
        import ipywidgets
    except ImportError:
        raise FigureError("the sliders need ipywidgets; install it with: pip install ipywidgets") from None
    trace = from_table(table, probe)
    strength = ipywidgets.SelectionSlider(
        options=[(f"{std:g}", std) for std in trace.strengths], description="strength", continuous_update=False
    )
    step = ipywidgets.SelectionSlider(
        options=list(trace.steps), value=trace.steps[-1], description="step", continuous_update=False
    )
    picture = ipywidgets.Image(format="png")
    explorer = Explorer(trace, strength, step, {}, ipywidgets.VBox([strength, step, picture]))

    def redraw(_: Any = None) -> None:
        figure, explorer.axes = draw(trace, strength.value, step.value)
        buffer = io.BytesIO()
        with style.context():
            figure.savefig(buffer, format="png", dpi=130)
        picture.value = buffer.getvalue()

    strength.observe(redraw, "value")
    step.observe(redraw, "value")
    redraw()
    return explorer
