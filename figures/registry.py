"""The figures by name. To add one: a module with `traces` and `draw`, and a line here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import (
    adaptation_path,
    benchmark,
    fig1,
    fig2,
    fig3,
    fig_a1,
    fig_a2,
    fig_a3,
    inside_optimizer,
    label_permutation,
    layer_roles,
    loss_line,
    similarity,
    style,
    table1,
    table2,
    table_a1,
    tabular,
    when_shallow_fails,
)
from figures.data import Where
from figures.errors import unknown_name


@dataclass(frozen=True)
class Entry:
    """One figure or table.

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
        "training and testing accuracy of CNNs along meta-training, under MAML, Meta-SGD, Meta-Curvature and KFC: "
        "Omniglot and its stand-ins, 10-way 5-shot, with what the end of training brought as Markdown",
        fig_a2.traces,
        fig_a2.draw,
        fig_a2.texts,
    ),
    "fig_a3": Entry("as fig_a2, on mini-ImageNet, 10-way 1-shot", fig_a3.traces, fig_a3.draw, fig_a3.texts),
    "table_a1": Entry(
        "the numbers of fig3 with the paper's, the parameters of networks and meta-optimizers, and how long they were "
        "trained, as Markdown, LaTeX and picture",
        table_a1.traces,
        tabular.draw,
        tabular.texts,
    ),
    "inside_optimizer": Entry(
        "what is inside a learned meta-optimizer: spectra of its factors, its updates against gradients, and what its "
        "adaptation adds to the model's, with the numbers as Markdown",
        inside_optimizer.traces,
        inside_optimizer.draw,
        inside_optimizer.texts,
    ),
    "when_shallow_fails": Entry(
        "not in the paper: where LR cannot be meta-learned and LinNet can, and accuracy against the fast step's turn",
        when_shallow_fails.traces,
        when_shallow_fails.draw,
    ),
    "layer_roles": Entry(
        "what fig2 shows, of every network that was measured, with the differences to adapting all layers drawn, too",
        layer_roles.traces,
        layer_roles.draw,
        layer_roles.texts,
    ),
    "similarity": Entry(
        "how far each layer's outputs stay what they were through adaptation, and against the untrained network",
        similarity.traces,
        similarity.draw,
    ),
    "adaptation_path": Entry(
        "how each layer's weights and outputs move, step by step: a panel a probe, a line a layer",
        adaptation_path.traces,
        adaptation_path.draw,
    ),
    "loss_line": Entry(
        "loss and accuracy along the line from where adaptation starts to where it ends, and beyond",
        loss_line.traces,
        loss_line.draw,
    ),
    "label_permutation": Entry(
        "how far each task's accuracy spreads over random orders of its classes",
        label_permutation.traces,
        label_permutation.draw,
    ),
    "benchmark": Entry(
        "speed of the engine beside a naive reference and other libraries, with the table as Markdown; time and memory "
        "against tasks, steps, width and seeds",
        benchmark.traces,
        benchmark.draw,
        benchmark.texts,
    ),
}


def draw(
    name: str, results: str | Path = "results", where: Sequence[Where | str] = ()
) -> dict[str, tuple[Figure, dict[str, Axes]]]:
    """Draw one figure from stored tables, for a notebook; nothing is written.

    Args:
        name: name in `FIGURES`.
        results: folder of results.
        where: choices of runs, such as "glyphs:iterations=600".

    Returns:
        Figure and axes by file name: some figures are one for each data set or network.

    Raises:
        FigureError: for an unknown name, listing the known ones, or what cannot be drawn.
        StudyError: for a damaged table.
    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    choices = [Where.parse(choice) if isinstance(choice, str) else choice for choice in where]
    with style.context():
        return {stem: FIGURES[name].draw(trace) for stem, trace in FIGURES[name].traces(results, choices).items()}
