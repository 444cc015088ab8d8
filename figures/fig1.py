"""Figure 1: accuracy after adaptation of LR and LinNet under MAML, on synthetic tasks and on characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, data, estimation, style
from figures.data import Runs, Where
from figures.errors import MissingTable
from figures.estimation import Ceiling, Estimate
from figures.intervals import whisker
from figures.paper import linear_accuracy

STUDY = "post_adaptation"
NEEDED = ("steps", "points_seen", "task_seed", "task", "step", "split", "accuracy")
MODELS = (("lr", "maml"), ("linnet", "maml"))


@dataclass(frozen=True)
class Panel:
    """One data set, in percent.

    Attributes:
        dataset: its name in the tables.
        points_seen: "same", "fresh" or "".
        title: the panel's title.
        chance: accuracy of guessing.
        bars: the estimates, in the order drawn.
        published: the paper's value beside each bar, None where none is known.
        ceilings: of synthetic tasks.
    """

    dataset: str
    points_seen: str
    title: str
    chance: float
    bars: tuple[Estimate, ...]
    published: tuple[float | None, ...]
    ceilings: tuple[Ceiling, ...]


@dataclass(frozen=True)
class Trace:
    """One figure: its panels and the paragraphs below them."""

    panels: tuple[Panel, ...]
    caption: tuple[str, ...]


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A figure for each data set of characters that was measured, by file name.

    Raises:
        MissingTable: if nothing was measured.
        FigureError, StudyError: for runs that cannot be pooled, or tables that cannot be read.
    """
    first = f"python -m core experiment synthetic_linear --results {results}"
    runs = data.read_runs(results, STUDY, NEEDED, where, first=first)
    groups = data.panels_of(panel, runs, estimation.read_ceilings(results))
    if not groups:
        raise MissingTable(
            f"no run of LR or LinNet was measured; {captions.missing_runs('synthetic_linear', results, STUDY)}"
        )
    return {f"fig1_{panels[-1].dataset}": Trace(tuple(panels), _caption(panels)) for panels in groups}


def panel(runs: Runs, dataset: str, ceilings: pd.DataFrame | None = None) -> Panel | None:
    """The panel of a data set, None if neither model was measured on it.

    Raises:
        FigureError, StudyError: for runs that cannot be pooled.
    """
    groups = data.by_method(data.in_setting(runs, dataset, MODELS), MODELS)
    # The paper has one loss a task (equation 1): its accuracies are on the points adapted to.
    for points_seen in ("same", "fresh") if dataset == "synthetic" else ("",):
        bars = tuple(e for group in groups.values() if (e := estimation.estimate(group, points_seen)) is not None)
        if bars:
            break
    else:
        return None
    config = bars[0].configs[0]
    reference = data.paper_dataset(dataset)
    found: tuple[Ceiling, ...] = ()
    title, chance = captions.heading(dataset, config)
    if dataset == "synthetic":
        points, _ = data.synthetic_setting(config)
        found = estimation.ceiling_estimates(ceilings, points=points, evaluated_on=points_seen)
    return Panel(
        dataset=dataset,
        points_seen=points_seen,
        title=title,
        chance=chance,
        bars=bars,
        published=tuple(linear_accuracy(reference, e.model, e.method) for e in bars),
        ceilings=found,
    )


def _caption(panels: Sequence[Panel]) -> tuple[str, ...]:
    intervals = sorted({e.interval for p in panels for e in p.bars if e.interval})
    marks = f"Bar: mean over seeds; dot: one seed; whisker: {' or '.join(intervals) or 'none'}."
    lost = [run for p in panels for e in p.bars for run in e.lost]
    return (
        marks,
        *(captions.describe(p.dataset, p.bars, p.points_seen) for p in panels),
        *(
            told
            for p in panels
            for told in captions.describe_missing(p.dataset, MODELS, [(e.model, e.method) for e in p.bars])
        ),
        *captions.describe_lost(lost),
    )


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by data set."""
    with style.context():
        figure, axes = style.panels(len(trace.panels), height=2.7, caption=trace.caption, top=0.24)
        for ax, one in zip(axes, trace.panels, strict=True):
            _draw_panel(ax, one)
        axes[0].set_ylabel("accuracy after adaptation (%)")
        _legend(figure, trace)
    return figure, {one.dataset: ax for ax, one in zip(axes, trace.panels, strict=True)}


def _draw_panel(ax: Axes, panel: Panel) -> None:
    ax.axhline(panel.chance, zorder=1.5, **style.CHANCE)
    right = len(panel.bars) - 0.38
    ax.text(right, panel.chance + 1.2, "chance", ha="right", va="bottom", fontsize=7.5, color="#777777")
    for ceiling in panel.ceilings:
        rule = style.CEILINGS[ceiling.name]
        ax.axhline(ceiling.mean, zorder=1.6, **rule)
        ax.text(
            -0.62, ceiling.mean + 1.2, f"{style.CEILING_NAMES[ceiling.name]} {ceiling.mean:.1f}", fontsize=7.5,
            ha="left", va="bottom", color=rule["color"],
        )  # fmt: skip
    for x, (bar, published) in enumerate(zip(panel.bars, panel.published, strict=True)):
        look = style.look_of(bar.model, bar.method)
        if bar.seeds:
            ax.bar(x, bar.mean, width=0.46, color=look.colour, alpha=0.35, zorder=2)
            whisker(ax, x + 0.13, bar.mean, bar, color="black", linewidth=1.0, capsize=2.5, zorder=4)
            # Side by side, in order of the seeds, so that equal values stay apart, and clear of the whisker.
            offsets = np.linspace(-0.17, 0.05, len(bar.seeds)) if len(bar.seeds) > 1 else [-0.06]
            ax.plot(
                x + np.asarray(offsets), [mean for _, mean in bar.seeds], linestyle="none", marker="o", markersize=2.6,
                color=look.colour, markeredgecolor="white", markeredgewidth=0.3, zorder=3.5,
            )  # fmt: skip
            ax.text(x, 3, f"{bar.mean:.1f}", ha="center", va="bottom", fontsize=8.5)
        if published is not None:
            ax.plot([x + 0.34], [published], zorder=5, **style.PAPER)
        if bar.lost:
            height = 11 if bar.seeds else 3
            ax.text(x, height, bar.lost_text, ha="center", va="bottom", **style.LOST)
    ax.set_xticks(range(len(panel.bars)), [style.look_of(e.model, e.method).name for e in panel.bars])
    ax.set_xlim(-0.65, len(panel.bars) - 0.35)
    ax.set_ylim(0, 107)
    ax.set_yticks(range(0, 101, 20))
    ax.set_title(panel.title, linespacing=1.1)


def _legend(figure: Figure, trace: Trace) -> None:
    handles = [Line2D([], [], linestyle="none", marker="o", markersize=3, color="#555555", label="one seed")]
    if label := estimation.interval_label(e for p in trace.panels for e in p.bars):
        handles.append(Line2D([], [], color="black", marker="|", markersize=8, linestyle="none", label=label))
    handles.append(Line2D([], [], label=captions.paper_label([p.dataset for p in trace.panels]), **style.PAPER))
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), borderaxespad=0.3)
