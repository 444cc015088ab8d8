"""Figure A.2: training and testing accuracy of convolutional networks along meta-training, on Omniglot.

The paper's has two and four layers; ours has all that were measured, and in numbers what the end of training brought.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import captions, curves, data, style, tabular
from figures.curves import Line
from figures.data import Runs, Where
from figures.errors import MissingTable
from figures.paper import cnn_accuracy
from figures.tabular import Cell, Column, bracketed

LAYERS = (1, 2, 3, 4)
OF_PAPER = (2, 4)  # the layers of its figure
METHODS = ("maml", "meta_sgd", "meta_curvature", "kfc")
MODELS = tuple((layers, method) for layers in LAYERS for method in METHODS)
MODELS_OF_PAPER = tuple(pair for pair in MODELS if pair[0] in OF_PAPER)
_ROOM = 0.14  # of the panel's width: the paper's values may have to stand side by side
_STAR = 6.8  # points, smaller than in larger panels
_LEGEND_COLUMNS = 3
_LATE = {"half": 0.5, "fifth": 0.2}


@dataclass(frozen=True)
class Row:
    """The networks of one depth.

    Attributes:
        layers: convolutional layers.
        training, testing: the curves on training and on test tasks, of the same runs, in the order of the methods.
    """

    layers: int
    training: tuple[Line, ...]
    testing: tuple[Line, ...]


@dataclass(frozen=True)
class Trace:
    """One data set, in percent.

    Attributes:
        dataset: its name in the tables.
        title: the data set and its tasks.
        chance: accuracy of guessing.
        rows: the networks, from shallow to deep.
        caption: the paragraphs below.
    """

    dataset: str
    title: str
    chance: float
    rows: tuple[Row, ...]
    caption: tuple[str, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All curves."""
        return (*self.lines_of("training"), *self.lines_of("testing"))

    def lines_of(self, tasks: str) -> tuple[Line, ...]:
        """The curves on "training" or on "testing" tasks."""
        return tuple(one for row in self.rows for one in getattr(row, tasks))


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A figure for Omniglot and for each stand-in that has curves, by file name.

    Raises:
        MissingTable: if there is no curve.
        FigureError, StudyError: for runs that cannot be compared, or tables that cannot be read.
    """
    return {f"fig_a2_{name}": found for name, found in measured(results, data.OMNIGLOT_LIKE, "glyphs", where).items()}


def measured(results: str | Path, datasets: Sequence[str], first: str, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """What was measured on these data sets, by data set; errors as in `traces`.

    Args:
        results: folder of results.
        datasets: names in the tables.
        first: the one of them on which runs are made first, for the message.
        where: choices of runs.
    """
    command = f"python -m core experiment {first}_optimizers --results {results}"
    runs = data.read_runs(results, curves.STUDY, curves.NEEDED, where, first=command)
    found = {dataset: trace for dataset in datasets if (trace := _trace(runs, dataset)) is not None}
    if not found:
        raise MissingTable(
            f"no CNN of 1 to {max(LAYERS)} layers has a curve in the paper's setting on "
            f"{' or '.join(map(style.dataset_name, datasets))}; "
            f"{captions.missing_runs(f'{first}_optimizers', results, curves.STUDY)}"
        )
    return found


def _trace(runs: Runs, dataset: str) -> Trace | None:
    # Lengths may differ between methods, for the axis shows them; runs of one method and depth are of one length.
    groups = data.by_depth(runs, dataset, MODELS, of_any_length=True)
    if not groups:
        return None
    rows = tuple(
        Row(layers, _lines(mine, dataset, "train"), _lines(mine, dataset, "test"))
        for layers in LAYERS
        if (mine := {pair: group for pair, group in groups.items() if pair[0] == layers})
    )
    title, chance = captions.heading(dataset, rows[0].testing[0].configs[0])
    return Trace(dataset, title.replace("\n", ": "), chance, rows, _caption(dataset, rows))


def _lines(groups: dict[tuple[int, str], Runs], dataset: str, split: str) -> tuple[Line, ...]:
    found = []
    for (layers, method), group in groups.items():
        # The paper states accuracies on new tasks only.
        value = cnn_accuracy(data.paper_dataset(dataset), layers, method) if split == "test" else None
        found.append(curves.line(group, None if value is None else value.accuracy, split=split))
    return tuple(found)


def _caption(dataset: str, rows: Sequence[Row]) -> tuple[str, ...]:
    training = [one for row in rows for one in row.training]
    testing = [one for row in rows for one in row.testing]
    star = (
        "; star, in its method's colour: what the paper states of its end (Tables 2 and A1), wherever that lies on the "
        "axis"
    )
    counts = [captions.in_words(one.num_tasks for one in lines if one.num_seeds) for lines in (training, testing)]
    return (
        "Accuracy on query sets after adaptation. Training: on tasks of the classes that are trained on; testing: on "
        "tasks of other classes; both are the same tasks all along a run. Line: mean over seeds; band: "
        f"{curves.describe_band(testing)}; markers only tell the methods apart"
        f"{star if any(one.published is not None for one in testing) else ''}.",
        captions.describe_runs(
            dataset,
            {one.name: one.configs for one in testing},
            points_seen="",
            tasks=f"{counts[0]} training and {counts[1]} test tasks a point",
            num_tasks=max((one.num_tasks for one in testing), default=0),
        ),
        *captions.describe_norm(testing[0].configs[0]),
        *captions.describe_absent(MODELS_OF_PAPER, [(row.layers, one.method) for row in rows for one in row.testing]),
        *captions.describe_lost(run for one in testing for run in (*one.lost, *one.holes)),
    )


def texts(trace: Trace) -> dict[str, str]:
    """What the end of training brought each network on test tasks, as Markdown."""
    lines = [one for one in trace.lines_of("testing") if len(one.points)]
    ends = [one.points.iloc[-1] for one in lines]
    bests = [curves.highest(one.points) for one in lines]
    columns = {
        "iterations": [Cell(f"{end['iteration']:,.0f}") for end in ends],
        "seeds": [Cell(str(one.num_seeds)) for one in lines],
        "at the end": [Cell(f"{end['mean']:.1f}", bracketed(end["low"], end["high"])) for end in ends],
        **{f"last {name}": [_risen(one, share) for one in lines] for name, share in _LATE.items()},
        "highest": [Cell(f"{best['mean']:.1f} at {best['iteration']:,.0f}") for best in bests],
    }
    notes = (
        "Accuracy on test tasks in percent, mean over seeds, in brackets the smallest and the largest; and in points "
        "what the last half and the last fifth of training brought, with the iteration that this is counted from. A "
        "curve that has converged brings nothing there.",
        *trace.caption[1:],
    )
    table = tabular.Trace(
        rows=tuple(one.name for one in lines),
        ruled=(),
        columns=tuple(Column("", head, tuple(cells)) for head, cells in columns.items()),
        notes=notes,
        label="",
        first=0.25,
        numbers=(),
    )
    return {"md": f"{trace.title}\n\n{tabular.markdown(table)}"}


def _risen(one: Line, share: float) -> Cell:
    found = curves.rise(one.points, share)
    return Cell("") if found is None else Cell(captions.signed(found.points), f"from {found.since:,}")


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by split and layers: "training 2", "testing 2"."""
    with style.context():
        num_rows = len(trace.rows)
        lost = {row.layers: curves.describe_missing_runs(row.testing) for row in trace.rows}
        above = sum(style.head_room(told) for told in lost.values())
        height = (2.75 if num_rows == 1 else 2.1 * num_rows + 0.1) + above
        handles = _legend_handles(trace)
        top = 0.28 + 0.18 * -(-len(handles) // _LEGEND_COLUMNS)
        figure, flat = style.panels(2, num_rows=num_rows, height=height, caption=trace.caption, top=top)
        axes = {}
        for at, row in enumerate(trace.rows):
            for side, (name, lines) in enumerate({"training": row.training, "testing": row.testing}.items()):
                ax = axes[f"{name} {row.layers}"] = flat[2 * at + side]
                _draw_panel(ax, lines, trace)
                style.head(ax, f"{name}, {row.layers} layer{'s' if row.layers > 1 else ''}", lost[row.layers])
                # One scale for all panels, so that they can be compared, and numbers at the outer ones only.
                ax.tick_params(labelbottom=at == num_rows - 1, labelleft=side == 0)
                if at == num_rows - 1:
                    ax.set_xlabel("meta-training iteration")
                if side == 0:
                    ax.set_ylabel("accuracy (%)")
        _draw_top(figure, trace.title, handles)
    return figure, axes


def _draw_panel(ax: Axes, lines: Sequence[Line], trace: Trace) -> None:
    curves.draw_chance(ax, trace.chance)
    curves.draw_lines(ax, lines)
    curves.set_linear_iterations(ax, trace.lines, _ROOM)
    highs = [2 * trace.chance, *(one.published for one in trace.lines if one.published is not None)]
    highs += [float(one.points["high"].max()) for one in trace.lines if len(one.points)]
    ax.set_ylim(0, min(10 * np.ceil(max(highs) / 10 + 0.4), 104))  # a star needs room above its value
    curves.draw_published(ax, lines, _STAR)


def _legend_handles(trace: Trace) -> list[Line2D]:
    drawn = {one.method for one in trace.lines}
    looks = [(method, style.look_of("cnn", method)) for method in METHODS if method in drawn]
    handles = curves.handles((k, f"{k.name} (MAML)" if method == "maml" else k.name) for method, k in looks)
    if any(one.published is not None for one in trace.lines):
        handles.append(Line2D([], [], label=captions.paper_label([trace.dataset]), **style.PAPER))
    return handles


def _draw_top(figure: Figure, title: str, handles: Sequence[Line2D]) -> None:
    height = float(figure.get_figheight())
    figure.text(0.5, 1 - 0.05 / height, title, ha="center", va="top", fontsize=10)
    figure.legend(
        handles=handles, loc="upper center", ncols=_LEGEND_COLUMNS, borderaxespad=0,
        bbox_to_anchor=(0.5, 1 - 0.25 / height),
    )  # fmt: skip
