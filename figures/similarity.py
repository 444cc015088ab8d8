"""How far each layer's outputs stay what they were: through adaptation, and against other networks, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.statistics import Interval, task_intervals
from figures import networks, style
from figures.intervals import whisker

STUDY = "similarity"
NEEDED = ("compared", "layer", "measure", "value")
# Name, colour and marker of the measures drawn; `cka` without debiasing depends on the number of examples, and is not.
MEASURES = {
    "svcca": ("SVCCA", "#33638d", "o"),
    "pwcca": ("PWCCA", "#6a4c93", "s"),
    "debiased cka": ("debiased CKA", "#d1495b", "D"),
}
TITLES = {"adapted": "before and after adaptation", "untrained": "against the untrained network"}
# What Raghu, Raghu, Bengio and Vinyals (2020, ICLR) report of canonical correlations before and after adaptation.
RAGHU_BODY, RAGHU_HEAD = (0.9, 1.0), (0.0, 0.5)
RAGHU_COLOUR = "#c9b458"


@dataclass(frozen=True)
class Trace:
    """One network.

    Attributes:
        title: what it is.
        layers: in its order.
        panels: similarity by what is compared, measure and layer; what could not be measured is absent.
        caption: paragraphs.
        tables: where it is from, study/id; empty for a table in memory.
    """

    title: str
    layers: tuple[str, ...]
    panels: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    caption: tuple[str, ...]
    tables: tuple[str, ...] = ()


def from_table(table: pd.DataFrame) -> Trace:
    """What a table of the study `similarity` says of its network.

    Raises:
        FigureError: for a missing column, or a table of several networks.
    """
    networks.check(table, NEEDED, STUDY)
    # Too few examples for one measure of one layer is no fault of the run.
    told = table[~table["status"].str.startswith("failed:")]
    good, lost = networks.measured(told)
    cell = ["compared", "measure", "layer"]
    cells = task_intervals(networks.complete(good[good["measure"].isin(MEASURES)], cell), cell, "value")
    layers = tuple(table["layer"].unique())
    panels: dict[str, dict[str, dict[str, Interval]]] = {}
    for compared in table["compared"].unique():
        by_measure = {m: {la: cells[compared, m, la] for la in layers if (compared, m, la) in cells} for m in MEASURES}
        panels[str(compared)] = {measure: by_layer for measure, by_layer in by_measure.items() if by_layer}
    subject = networks.subject(table, lost)
    caption = [
        networks.describe_mean(good, "whisker, where longer than its mark", cells),
        *subject.caption,
        "1: the same but for a linear map (SVCCA, PWCCA), or a rotation and a scale (CKA); 0: unrelated. Shaded: Raghu "
        "et al. (2020) report, of networks of their own, canonical correlations above 0.9 of convolutional layers and "
        "below 0.5 of the head.",
    ]
    absent: dict[tuple[str, str], list[str]] = {}
    failed = table[table["compared"].eq("adapted") & table["status"].str.startswith("failed: ")]
    reasons = failed.groupby(["measure", "layer"], observed=True)["status"].first().str.removeprefix("failed: ")
    for measure, (name, _, _) in MEASURES.items():
        without: dict[str, list[str]] = {}
        for layer in layers:
            if len(good) and ("adapted", measure, layer) not in cells:
                reason = str(reasons.get((measure, layer), "no such value"))
                without.setdefault("" if "too few" in reason else reason, []).append(layer)
        for reason, them in without.items():
            absent.setdefault((reason, ", ".join(them)), []).append(name)
    for (reason, listed), names in absent.items():
        begin = "Too few examples for" if not reason else "No"
        caption.append(f"{begin} {' and '.join(names)}: {listed}{f' ({reason})' if reason else ''}.")
    return Trace(subject.title, layers, panels, tuple(caption))


traces = networks.traces_of(STUDY, NEEDED, from_table)


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by what is compared."""
    with style.context():
        figure, axes = style.panels(
            len(trace.panels), height=networks.height_of(trace.layers), caption=trace.caption, top=0.42
        )
        panels = dict(zip(trace.panels, axes, strict=True))
        for compared, ax in panels.items():
            if compared == "adapted":
                _draw_reference(ax, len(trace.layers))
            for i, (measure, by_layer) in enumerate(trace.panels[compared].items()):
                _, colour, marker = MEASURES[measure]
                y = [trace.layers.index(layer) + 0.16 * (i - 1) for layer in by_layer]
                means = [over.mean for over in by_layer.values()]
                ax.plot(means, y, color=colour, marker=marker, markersize=3.6, linewidth=0.9, zorder=3)
                for position, over in zip(y, by_layer.values(), strict=True):
                    whisker(
                        ax, over.mean, position, over, horizontal=True, color=colour, linewidth=0.9, capsize=1.5,
                        zorder=3,
                    )  # fmt: skip
            networks.layers_down(ax, trace.layers)
            low = [over.low for by_layer in trace.panels[compared].values() for over in by_layer.values()]
            ax.set_xlim(min([-0.03, *(end - 0.02 for end in low if np.isfinite(end))]), 1.03)
            ax.set_xlabel("similarity")
            ax.set_title(TITLES.get(compared, f"against {compared}"))
        for ax in axes[1:]:
            ax.tick_params(labelleft=False)
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=3.6, linewidth=0.9, label=name)
            for name, colour, marker in MEASURES.values()
        ]
        reference = Patch(color=RAGHU_COLOUR, alpha=0.35, linewidth=0, label="CCA, Raghu et al. (2020)")
        style.legend(figure, [*handles, reference], trace.title, 4)
    return figure, panels


def _draw_reference(ax: Axes, num_layers: int) -> None:
    """What Raghu et al. report, all layers but the last standing for their convolutional ones."""
    for (low, high), first, last in ((RAGHU_BODY, 0, num_layers - 1), (RAGHU_HEAD, num_layers - 1, num_layers)):
        ax.fill_between([low, high], first - 0.5, last - 0.5, color=RAGHU_COLOUR, alpha=0.35, linewidth=0, zorder=1)
