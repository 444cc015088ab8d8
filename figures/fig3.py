"""Figure 3: accuracy after adaptation against the number of convolutional layers, under MAML and with KFC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.statistics import paired_task_interval
from figures import captions, data, estimation, style
from figures.data import Runs, Where
from figures.errors import FigureError, MissingTable
from figures.estimation import Estimate
from figures.intervals import whisker
from figures.paper import Published, cnn_accuracy

STUDY = "depth_sweep"
NEEDED = ("steps", "task_seed", "task", "step", "split", "accuracy", "model_parameters", "rule_parameters")
LAYERS = (1, 2, 3, 4)
METHODS = ("maml", "kfc")
MODELS = tuple((layers, method) for layers in LAYERS for method in METHODS)
_SIDE = {"maml": -1, "kfc": 1}  # of the tick, so that equal values of the two stay apart
_WHISKER: dict[str, Any] = {"color": "black", "linewidth": 0.9, "capsize": 2.6, "zorder": 2.5}
_PAPER_LINE: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 0.6}
_CLAIM: dict[str, Any] = {"color": "#555555", "linestyle": (0, (1, 1.4)), "linewidth": 0.9}


@dataclass(frozen=True)
class Point:
    """One network and method: its accuracy, and the numbers that it learns."""

    layers: int
    method: str
    estimate: Estimate
    model_parameters: int
    rule_parameters: int


@dataclass(frozen=True)
class Gap:
    """Accuracy of KFC on `layers` layers less that of MAML on one layer more, in percentage points.

    Attributes:
        layers: of KFC's network.
        mean: mean over the tasks that both met, within these runs.
        low, high: ends of the paired interval over these tasks, NaN if there is none.
        interval: its name, empty if there is none.
        num_tasks: the tasks that both met.
        seeds: (seed, difference of the two runs' means) for each seed that both have.
        others: whether one of the two has a seed that the other has not, so that it is no difference of their means.
    """

    layers: int
    mean: float
    low: float
    high: float
    interval: str
    num_tasks: int
    seeds: tuple[tuple[int, float], ...]
    others: bool = False

    @property
    def text(self) -> str:
        """The difference with its interval: +1.2 [0.3, 2.1]; and its seeds, where they are not all."""
        return " ".join(part for part in (captions.signed(self.mean), self.ends, self.common) if part)

    @property
    def ends(self) -> str:
        """The interval in brackets; empty if there is none."""
        return f"[{captions.signed(self.low)}, {captions.signed(self.high)}]" if self.interval else ""

    @property
    def common(self) -> str:
        """The seeds that it is of, where one of the two networks has others; empty if it is of all."""
        if not (self.others and self.seeds):
            return ""
        listed = ", ".join(str(seed) for seed, _ in self.seeds)
        return f"(seed{'s' if len(self.seeds) > 1 else ''} {listed}, which both have)"


@dataclass(frozen=True)
class Trace:
    """One data set, in percent.

    Attributes:
        dataset: its name in the tables.
        title: the panel's title.
        chance: accuracy of guessing.
        points: what was measured, by layers and then method.
        gaps: where the claim "KFC is worth about one more layer" is read; it says that they are near zero.
        published: the paper's values by (layers, method), whether ours were measured or not.
        lead: the caption's paragraphs on what is drawn.
        about: its paragraphs on the runs.
    """

    dataset: str
    title: str
    chance: float
    points: tuple[Point, ...]
    gaps: tuple[Gap, ...]
    published: Mapping[tuple[int, str], Published]
    lead: tuple[str, ...]
    about: tuple[str, ...]

    def published_gap(self, layers: int) -> float | None:
        """The paper's difference between KFC on `layers` layers and MAML on one more, None if it has none."""
        ours, deeper = self.published.get((layers, "kfc")), self.published.get((layers + 1, "maml"))
        return None if ours is None or deeper is None else ours.accuracy - deeper.accuracy


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A figure for each data set on which networks of some depth were measured, by file name.

    Raises:
        MissingTable: if nothing was measured.
        FigureError, StudyError: for runs that cannot be compared, or tables that cannot be read.
    """
    return {f"fig3_{dataset}": found for dataset, found in measured(results, where).items()}


def measured(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """What was measured, by data set; errors as in `traces`."""
    first = f"python -m core experiment glyphs_depth --results {results}"
    runs = data.read_runs(results, STUDY, NEEDED, where, first=first)
    found = {dataset: trace for dataset in data.IMAGES if (trace := _trace(runs, dataset)) is not None}
    if not found:
        raise MissingTable(
            f"no CNN was measured in the paper's setting; {captions.missing_runs('glyphs_depth', results, STUDY)}"
        )
    return found


def _trace(runs: Runs, dataset: str) -> Trace | None:
    groups = data.by_depth(runs, dataset, MODELS)
    if not groups:
        return None
    points = tuple(_point(layers, method, group) for (layers, method), group in groups.items())
    pairs = {layers: (groups.get((layers, "kfc")), groups.get((layers + 1, "maml"))) for layers in LAYERS}
    gaps = tuple(
        found
        for layers, (ours, deeper) in pairs.items()
        if ours is not None and deeper is not None and (found := _gap(layers, ours, deeper)) is not None
    )
    title, chance = captions.heading(dataset, points[0].estimate.configs[0])
    reference = data.paper_dataset(dataset)
    published = {pair: value for pair in MODELS if (value := cnn_accuracy(reference, *pair)) is not None}
    return Trace(
        dataset=dataset,
        title=title,
        chance=chance,
        points=points,
        gaps=gaps,
        published=published,
        lead=_lead([p.estimate for p in points], gaps, bool(published)),
        about=_about(dataset, points),
    )


def _point(layers: int, method: str, group: Runs) -> Point:
    found = estimation.estimate(group)
    assert found is not None  # a group has rows
    sizes = [sorted(set(group.frame[name])) for name in ("model_parameters", "rule_parameters")]
    if any(len(size) > 1 for size in sizes):
        raise FigureError(f"runs of {found.name} of one configuration differ in their parameters: {sizes}")
    return Point(layers, method, found, *(int(size[0]) for size in sizes))


def _gap(layers: int, ours: Runs, deeper: Runs) -> Gap | None:
    """The difference, None if there are no runs or no tasks to compare."""
    a, b = estimation.final_accuracies(ours.frame), estimation.final_accuracies(deeper.frame)
    task = ["task_seed", "task"]
    # A table of 600 tasks begins with the tasks of one of 100: what both met can be paired.
    common = a[task].drop_duplicates().merge(b[task].drop_duplicates())
    a, b = a.merge(common), b.merge(common)
    if not len(a):
        return None
    # A seed that one of them lost says nothing of their difference; without a common one it is that of their means.
    others = set(a["seed"]) != set(b["seed"])
    if shared := set(a["seed"]) & set(b["seed"]):
        a, b = (one[one["seed"].isin(shared)] for one in (a, b))
    over = paired_task_interval(a, b)
    by_seed = (a.groupby("seed")["accuracy"].mean() - b.groupby("seed")["accuracy"].mean()).dropna()
    seeds = tuple((int(seed), float(value)) for seed, value in by_seed.items())  # type: ignore[call-overload]  # int keys
    return Gap(layers, over.mean, over.low, over.high, estimation.interval_name(over), len(common), seeds, others)


def _lead(estimates: Sequence[Estimate], gaps: Sequence[Gap], is_published: bool) -> tuple[str, ...]:
    intervals = " or ".join(sorted({e.interval for e in estimates if e.interval})) or "none"
    marks = f"Line: mean over seeds; dot: one seed; whisker, where longer than its mark: {intervals}."
    if is_published:
        marks += " Star, beside its number of layers: the paper, on the left in its method's colour."
    if not gaps:
        return (marks,)
    listed = "; ".join(f"{gap.layers} against {gap.layers + 1} layers: {gap.text}" for gap in gaps)
    return (
        marks,
        f"Right: KFC less MAML with one layer more, {listed} points; at zero KFC is worth that layer, above it more. "
        f"Dotted on the left, from mean to mean. {describe_paired(gaps)}".strip(),
    )


def describe_paired(gaps: Sequence[Gap]) -> str:
    """What the brackets of the differences are; empty if there are none."""
    kinds = " or ".join(sorted({gap.interval for gap in gaps if gap.interval}))
    return f"Brackets: {kinds}, paired by task; they speak for new tasks, not for new seeds." if kinds else ""


def _about(dataset: str, points: Sequence[Point]) -> tuple[str, ...]:
    estimates = [p.estimate for p in points]
    return (
        captions.describe(dataset, estimates),
        *captions.describe_norm(estimates[0].configs[0]),
        *captions.describe_absent(MODELS, [(p.layers, p.method) for p in points]),
        *captions.describe_lost(run for e in estimates for run in e.lost),
    )


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes: "accuracy", and "gap" if anything can be compared."""
    names = ["accuracy", "gap"] if trace.gaps else ["accuracy"]
    lost = [f"{p.estimate.name}: {p.estimate.lost_text}" for p in trace.points if p.estimate.lost]
    height = 2.9 + style.head_room(lost)
    with style.context():
        figure, axes = style.panels(
            len(names), height=height, caption=(*trace.lead, *trace.about), top=0.42, widths=[1.75, 1][: len(names)]
        )
        panels = dict(zip(names, axes, strict=True))
        _draw_accuracy(panels["accuracy"], trace, lost)
        if trace.gaps:
            _draw_gaps(panels["gap"], trace)
        _legend(figure, trace)
    return figure, panels


def _draw_accuracy(ax: Axes, trace: Trace, lost: Sequence[str]) -> None:
    ax.axhline(trace.chance, zorder=1.5, **style.CHANCE)
    ax.text(0.52, trace.chance - 1.2, "chance", ha="left", va="top", fontsize=7.5, color="#777777")
    good = {(p.layers, p.method): p.estimate for p in trace.points if p.estimate.seeds}
    for gap in trace.gaps:
        ends = [(gap.layers, "kfc"), (gap.layers + 1, "maml")]
        ax.plot([_x(*end) for end in ends], [good[end].mean for end in ends], zorder=2, **_CLAIM)
    for method in METHODS:
        look = style.look_of("cnn", method)
        mine = {layers: found for (layers, name), found in good.items() if name == method}
        x = [_x(layers, method) for layers in mine]
        ax.plot(
            x, [e.mean for e in mine.values()], color=look.colour, marker=look.marker, markersize=4.2,
            markeredgewidth=0, zorder=3,
        )  # fmt: skip
        for place, found in zip(x, mine.values(), strict=True):
            whisker(ax, place, found.mean, found, **_WHISKER)
            _dots(ax, place + 0.12 * _SIDE[method], [mean for _, mean in found.seeds], look.colour)
        stars = {layers: value.accuracy for (layers, name), value in trace.published.items() if name == method}
        # Joined, or the stars of two methods beside each other would be read as one curve.
        outline = {**style.PAPER, "markeredgecolor": look.colour, **_PAPER_LINE, "color": look.colour}
        ax.plot([layers + 0.33 * _SIDE[method] for layers in stars], list(stars.values()), zorder=1.8, **outline)
    ax.set_xlim(0.5, 4.5)
    ax.set_xticks(LAYERS)
    ax.set_ylim(0, 104)
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlabel("convolutional layers")
    ax.set_ylabel("accuracy after adaptation (%)")
    style.head(ax, trace.title, lost)


def _draw_gaps(ax: Axes, trace: Trace) -> None:
    ax.axhline(0, color="#555555", linewidth=0.9, zorder=1.5)
    reach = [0.0]
    for gap in trace.gaps:
        ax.plot([gap.layers], [gap.mean], marker="s", markersize=4.2, color="black", linestyle="none", zorder=3)
        whisker(ax, gap.layers, gap.mean, gap, **_WHISKER)
        _dots(ax, gap.layers - 0.2, [value for _, value in gap.seeds], "#777777")
        reach += [gap.mean, *(value for _, value in gap.seeds), *(e for e in (gap.low, gap.high) if np.isfinite(e))]
    places = [layers for layers in LAYERS[:-1] if trace.published_gap(layers) is not None]
    for layers in places:
        value = trace.published_gap(layers)
        assert value is not None
        ax.plot([layers + 0.27], [value], zorder=5, **style.PAPER)
        reach.append(value)
    span = max(max(reach) - min(reach), 4.0)
    ax.set_ylim(min(reach) - 0.12 * span, max(reach) + 0.12 * span)
    ax.set_xlim(0.5, 3.5)
    ax.set_xticks(LAYERS[:-1], [f"{layers} vs {layers + 1}" for layers in LAYERS[:-1]])
    ax.set_xlabel("layers: KFC vs MAML")
    ax.set_ylabel("difference (points)", labelpad=1)
    ax.set_title("KFC less MAML\nwith one layer more", linespacing=1.1)


def _x(layers: int, method: str) -> float:
    return layers + 0.08 * _SIDE[method]


def _dots(ax: Axes, x: float, values: Sequence[float], colour: str) -> None:
    # Side by side, in order of the seeds, so that equal values stay apart.
    offsets = np.linspace(-0.045, 0.045, len(values)) if len(values) > 1 else np.zeros(len(values))
    ax.plot(
        x + offsets, values, linestyle="none", marker="o", markersize=2.6, color=colour,
        markeredgecolor="white", markeredgewidth=0.3, zorder=3.5,
    )  # fmt: skip


def _legend(figure: Figure, trace: Trace) -> None:
    handles = []
    for method in METHODS:
        look = style.look_of("cnn", method)
        label = look.name if method == "kfc" else f"{look.name} (MAML)"
        handles.append(Line2D([], [], color=look.colour, marker=look.marker, markersize=4.2, label=label))
    handles.append(Line2D([], [], linestyle="none", marker="o", markersize=3, color="#555555", label="one seed"))
    if label := estimation.interval_label(point.estimate for point in trace.points):
        handles.append(Line2D([], [], color="black", marker="|", markersize=8, linestyle="none", label=label))
    handles.append(Line2D([], [], label=captions.paper_label([trace.dataset]), **style.PAPER))
    if trace.gaps:
        handles.append(Line2D([], [], label="KFC to MAML with one layer more", **_CLAIM))
    figure.legend(handles=handles, loc="upper center", ncols=3, borderaxespad=0.3)
