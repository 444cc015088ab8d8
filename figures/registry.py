"""The figures by name. To add one: a module with `traces` and `draw`, and a line here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import benchmark, fig1, fig2, fig3, fig_a1, fig_a2, fig_a3, table1, table2, table_a1, tabular
from figures.data import Where


@dataclass(frozen=True)
class Entry:
    """One figure or table of the paper.

    Attributes:
        shows: what it draws, for the help.
        traces: step one, (results folder, choices of runs) to plain data by file name (no ending).
        draw: step two, one of these to a figure and its axes by name.
        texts: for tables, one of these to text by file ending.
    """

    shows: str
    traces: Callable[[str | Path, Sequence[Where]], dict[str, Any]]
    draw: Callable[[Any], tuple[Figure, dict[str, Axes]]]
    texts: Callable[[Any], dict[str, str]] | None = None


FIGURES: dict[str, Entry] = {
    "fig1": Entry(
        "accuracy after adaptation of LR and LinNet under MAML: synthetic tasks, and characters 5-way 1-shot",
        fig1.traces,
        fig1.draw,
    ),
    "fig2": Entry(
        "which layers of a CNN adapt (freezing only one, adapting only one), and noise on the last layer, with the "
        "differences as Markdown",
        fig2.traces,
        fig2.draw,
        fig2.texts,
    ),
    "fig3": Entry(
        "accuracy after adaptation against the number of convolutional layers, under MAML and with KFC",
        fig3.traces,
        fig3.draw,
    ),
    "table1": Entry(
        "accuracy after adaptation of LR, LinNet, LR w/ KLin and LR w/ KFC on every data set, as Markdown, LaTeX and "
        "picture",
        table1.traces,
        tabular.draw,
        tabular.texts,
    ),
    "table2": Entry(
        "accuracy after adaptation of a CNN of 2 layers under MAML, Meta-SGD, Meta-Curvature and KFC, and its upper "
        "bound, on every data set, as Markdown, LaTeX and picture",
        table2.traces,
        tabular.draw,
        tabular.texts,
    ),
    "fig_a1": Entry(
        "test accuracy of the four linear models along meta-training: synthetic tasks, and characters 5-way 1-shot",
        fig_a1.traces,
        fig_a1.draw,
    ),
    "fig_a2": Entry(
        "training and testing accuracy of CNNs of 2 and 4 layers along meta-training, under MAML, Meta-SGD, "
        "Meta-Curvature and KFC: Omniglot and its stand-ins, 10-way 5-shot",
        fig_a2.traces,
        fig_a2.draw,
    ),
    "fig_a3": Entry("the same on mini-ImageNet, 10-way 1-shot", fig_a3.traces, fig_a3.draw),
    "table_a1": Entry(
        "the numbers of fig3 with the paper's, the parameters of networks and meta-optimizers, and how long they were "
        "trained, as Markdown, LaTeX and picture",
        table_a1.traces,
        tabular.draw,
        tabular.texts,
    ),
    "benchmark": Entry(
        "speed of the engine beside a naive reference and other libraries, with the table as Markdown; time and memory "
        "against tasks, steps, width and seeds",
        benchmark.traces,
        benchmark.draw,
        benchmark.texts,
    ),
}
