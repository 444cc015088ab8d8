"""Figure 2: which layers of a CNN adapt, and what noise on the last one does to adaptation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, comparison, data, estimation, layer_roles, networks, style
from figures.comparison import Number
from figures.data import Where
from figures.errors import MissingTable
from figures.intervals import whisker
from figures.layer_roles import ALONE, AS_TRAINED, FROZEN, NOISE, ROLES, Mark

PAPER_HAS = ("omniglot", "cifar_fs")  # data sets of the paper's figure


@dataclass(frozen=True)
class Trace(layer_roles.Trace):
    """One data set; panels that were not measured are empty."""

    dataset: str

    @property
    def numbers(self) -> tuple[Number, ...]:
        """What is drawn, not rounded: the accuracies, and their differences to the run as trained or to no noise."""
        found = []
        roles = [(mark, "as trained") for mark in (*self.frozen, *self.alone)]
        if self.as_trained is not None:
            found.append(self._number(self.as_trained, "as trained"))
        for mark, reference in (*roles, *((mark, "no noise") for mark in self.noise)):
            found.append(self._number(mark, mark.name))
            if mark.std or mark in (*self.frozen, *self.alone):
                found.append(self._number(mark, f"{mark.name}, less {reference}", difference=True))
        return tuple(found)

    def _number(self, mark: Mark, condition: str, *, difference: bool = False) -> Number:
        over = mark.against if difference else mark.over
        return Number(
            "fig2",
            self.dataset,
            "cnn",
            "maml",
            4,
            None,
            (comparison.SILENT,),
            condition=condition,
            unit="points" if difference else "%",
            mean=over.mean,
            low=over.low,
            high=over.high,
            interval=estimation.interval_name(over),
            num_runs=len(mark.seeds),
            num_tasks=over.n,
            tables=mark.tables,
        )


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A figure for each data set on which a CNN of 4 layers under MAML was measured, by file name.

    Raises:
        MissingTable: if there is none.
        FigureError, StudyError: for runs that cannot be pooled, or tables that cannot be read.
    """
    first = f"python -m core experiment glyphs_layers --results {results}"
    found = networks.tables_of(results, (ROLES, NOISE), where, of=_is_shown, first=first)
    if not found:
        raise MissingTable(
            f"no CNN of 4 layers under MAML was measured; make it with: {first}, "
            f"then: python -m analysis layer_roles --results {results}"
        )
    traces = [_trace(**studies) for studies in found.values()]
    there = {data.paper_dataset(trace.dataset) for trace in traces}
    if absent := [style.dataset_name(name) for name in PAPER_HAS if name not in there]:
        told = f"Not measured, and in the paper's figure: {', '.join(absent)}."
        traces = [replace(trace, caption=(*trace.caption, told)) for trace in traces]
    return {f"fig2_{trace.dataset}": trace for trace in traces}


def _is_shown(config: Mapping[str, Any]) -> bool:
    return (config["model"], config["method"], config.get("depth")) == ("cnn", "maml", 4)


def _trace(**studies: pd.DataFrame) -> Trace:
    of_network = layer_roles.from_table(**studies)
    row = next(iter(studies.values())).iloc[0]
    title, _ = captions.heading(row["dataset"], {str(name): value for name, value in row.items()})
    about = "In the paper: 100 test tasks; the length of the training is not stated."
    caption = (*of_network.caption[:2], about, *of_network.caption[2:])
    return Trace(**{**vars(of_network), "title": title, "caption": caption}, dataset=str(row["dataset"]))


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by panel: "roles" and "noise", those that were measured."""
    names = [name for name, there in (("roles", trace.layers), ("noise", trace.noisy_layer)) if there]
    with style.context():
        figure, axes = style.panels(len(names), height=2.9, caption=trace.caption, top=0.26)
        panels = dict(zip(names, axes, strict=True))
        for name, ax in panels.items():
            {"roles": _draw_roles, "noise": _draw_noise}[name](ax, trace)
            ax.axhline(trace.chance, zorder=1.5, **style.CHANCE)
            ax.set_ylim(0, 107)
            ax.set_yticks(range(0, 101, 20))
        axes[0].set_ylabel("accuracy after adaptation (%)")
        _legend(figure, trace)
    return figure, panels


def _draw_roles(ax: Axes, trace: Trace) -> None:
    if trace.as_trained is not None:
        over = trace.as_trained.over
        ax.axhline(over.mean, zorder=1.6, **AS_TRAINED)
        if np.isfinite(over.low):
            ax.axhspan(over.low, over.high, color="black", alpha=0.12, linewidth=0, zorder=1.4)
    for shift, colour, marks in ((-0.2, FROZEN, trace.frozen), (0.2, ALONE, trace.alone)):
        for mark in marks:
            x = trace.layers.index(mark.layer) + shift
            ax.bar(x, mark.over.mean, width=0.36, color=colour, alpha=0.75, zorder=2)
            whisker(ax, x, mark.over.mean, mark.over, color="black", linewidth=0.9, capsize=2.0, zorder=4)
            if len(mark.seeds) > 1:
                offsets = np.linspace(-0.1, 0.1, len(mark.seeds))
                ax.plot(x + offsets, mark.seeds, **layer_roles.seed_dots(colour))
            ax.text(x, 2, f"{mark.over.mean:.0f}", ha="center", va="bottom", fontsize=7, color="white", zorder=4)
    ax.set_xticks(range(len(trace.layers)), trace.layers)
    ax.set_xlim(-0.6, len(trace.layers) - 0.4)
    ax.set_title(trace.title, linespacing=1.1)


def _draw_noise(ax: Axes, trace: Trace) -> None:
    layer_roles.draw_noise(ax, trace.noise, trace.noisy_layer)
    ax.set_title("all but the last two layers fixed,\nnoise before adaptation", linespacing=1.1)


def _legend(figure: Figure, trace: Trace) -> None:
    handles: list[Any] = layer_roles.roles_legend() if trace.layers else []
    handles.append(Line2D([], [], label="chance", **style.CHANCE))
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), borderaxespad=0.3)


def texts(trace: Trace) -> dict[str, str]:
    """The numbers as Markdown: each intervention, and its difference to the run as trained, or to no noise."""
    title, roles = trace.title.replace(chr(10), ", "), (*trace.frozen, *trace.alone)
    return layer_roles.markdown(title, "accuracy in percent", trace.as_trained, roles, trace.noise, trace.caption)
