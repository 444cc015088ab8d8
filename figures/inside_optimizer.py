"""Inside a learned meta-optimizer: spectra of its factors, its updates against gradients, and what adapting xi adds.

The picture has one tensor of each layer, the first that is called a weight, and all tensors as one; the table has all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from analysis.statistics import Interval, paired_task_interval, task_interval
from figures import captions, data, estimation, networks, style
from figures.data import Runs, Where
from figures.intervals import whisker

STUDY = "inside_optimizer"
NEEDED = (
    "layers", "task_seed", "aspect", "layer", "tensor", "part", "adaptation", "task", "step", "split", "quantity",
    "index", "value",
)  # fmt: skip
SPECTRA = ("singular value", "eigenvalue", "rate")
DISTANCES = ("distance from the start", "best multiple", "distance beyond a rate")
FEWEST_SLOTS = 10  # factors that the panel of spectra has room for, at least
MOST_NAMED = 10  # factors whose names have room below the panel
MOST_DRAWN = 200  # values of one spectrum: more would be one block of colour

# How each way to adapt is called on paper, in the order drawn.
ADAPTATIONS = {
    "both": "θ and ξ",
    "theta only": "θ only",
    "xi only": "ξ only",
    "neither": "neither",
    "plain steps": "plain steps",
    "one plain step": "one plain step",
}
# Each kind of part: how it is called, and a colour that is no method's.
PARTS = {
    "L": ("L", "#33638d"),
    "R": ("R", "#d1495b"),
    "scale": ("scale", "#6a4c93"),
    "rate": ("rates", "#6a4c93"),
    "A": ("A", "#33638d"),
    "out": ("over filters", "#2a8c82"),
    "in": ("over channels", "#b5651d"),
    "filter": ("over the kernel", "#6a4c93"),
}
STEP_COLOURS = ("#b9d3c2", "#1d4d3a")  # of the first step and of the last
DOT: dict[str, Any] = {"marker": "o", "markersize": 4, "markeredgecolor": "#333333", "markeredgewidth": 0.4}
COMPARED = "#3b3b3b"


@dataclass(frozen=True)
class Strip:
    """The spectrum of one factor in each run, largest first."""

    layer: str
    part: str
    quantity: str
    runs: tuple[tuple[float, ...], ...]

    @property
    def kind(self) -> str:
        """The part's letter or word, without the number of its map."""
        return self.part.rstrip("0123456789")


@dataclass(frozen=True)
class Distance:
    """What a factor, or the Kronecker product of two, became; means over runs, and their extremes."""

    layer: str
    part: str
    quantity: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Aligned:
    """One layer's update against its gradient in one step: means over runs and tasks, with intervals over tasks.

    Attributes:
        layer: the layer whose weight it is; "all" for all tensors.
        step: from 1.
        cosine: of the two.
        ratio: of their norms.
        descent: share of the updates, in percent, that lower the loss to first order.
    """

    layer: str
    step: int
    cosine: Interval
    ratio: Interval
    descent: float


@dataclass(frozen=True)
class Compared:
    """Query accuracy in percent, or loss, after the last step of one way to adapt.

    Attributes:
        adaptation: its name in the table.
        over: mean over runs and tasks, and its interval over tasks; None if no run was measured to the end.
        against: difference to how the run was trained to adapt, and its paired interval; None if no run was measured
            to the end of both.
    """

    adaptation: str
    over: Interval | None
    against: Interval | None


@dataclass(frozen=True)
class Trace:
    """The runs of one data set, model and method.

    Attributes:
        title: what it is and what it was measured on.
        strips, distances: what each factor became.
        aligned: updates against gradients.
        compared: ways to adapt, that of training first.
        caption: paragraphs.
        tables: where it is from, study/id.
        value: what ways to adapt are compared by: "accuracy" (in percent), or for regression "loss".
    """

    title: str
    strips: tuple[Strip, ...]
    distances: tuple[Distance, ...]
    aligned: tuple[Aligned, ...]
    compared: tuple[Compared, ...]
    caption: tuple[str, ...]
    tables: tuple[str, ...] = ()
    value: str = "accuracy"


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A figure for each data set, model and method that was looked into, by file name.

    Raises:
        MissingTable: if there is none.
        FigureError, StudyError: for runs that cannot be pooled, or tables that cannot be read.
    """
    first = f"python -m core experiment synthetic_linear --results {results}"
    runs = data.read_runs(results, STUDY, NEEDED, where, first=first)
    groups: dict[str, list[str]] = {}
    for run, config in runs.configs.items():
        groups.setdefault(networks.file_name(run, config), []).append(run)
    return {
        f"{STUDY}_{name}": _trace(data.alike(runs.where(members))) for name, members in sorted(groups.items(), key=str)
    }


def _trace(runs: Runs) -> Trace:
    frame, config = runs.frame, next(iter(runs.configs.values()))
    drawn = weights_of(frame)
    factor, alignment, comparison = (
        frame[frame["aspect"].eq(aspect)] for aspect in ("factor", "alignment", "comparison")
    )
    lost = list(estimation.lost_runs(factor, ["part"]))  # a run that diverged has no numbers at all
    comparison = comparison[~comparison["run"].isin([run for run, _ in lost])]
    value = "loss" if len(comparison) and not comparison["quantity"].eq("accuracy").any() else "accuracy"
    compared, lost_in_one = _compared(comparison, value)
    diverged = alignment.loc[alignment["status"].eq("diverged"), "run"]
    aligned = _aligned(alignment[~alignment["run"].isin(diverged)], drawn)
    factor = factor[factor["status"].eq("ok")]
    strips, distances = _strips(factor, drawn), _distances(factor, drawn)
    title, _ = captions.heading(str(config["dataset"]), config)
    name = style.name_of(config["model"], config["method"], config.get("depth"))
    return Trace(
        title=f"{name}: {title.replace(chr(10), ', ')}",
        strips=strips,
        distances=distances,
        aligned=aligned,
        compared=compared,
        caption=(
            *_caption(runs, strips, aligned, compared, drawn, value),
            *captions.describe_versions(runs.configs.values()),
            *captions.describe_lost([*lost, *lost_in_one]),
        ),
        tables=runs.tables,
        value=value,
    )


def weights_of(frame: pd.DataFrame) -> dict[str, str]:
    """The tensor that stands for each layer, in the model's order: the first of its weights, or else its first."""
    drawn: dict[str, str] = {}
    factor = frame[frame["aspect"].eq("factor")].drop_duplicates("tensor")
    for layer, rows in factor.groupby("layer", sort=False, observed=True):
        weights = [tensor for tensor in rows["tensor"] if tensor.endswith("weight")]
        drawn[str(layer)] = str([*weights, *rows["tensor"]][0])
    return drawn


def _strips(factor: pd.DataFrame, drawn: dict[str, str]) -> tuple[Strip, ...]:
    """The spectra, layer by layer; within a layer all L before all R."""
    rows = factor[factor["quantity"].isin(SPECTRA)].sort_values("index", kind="stable")
    strips = []
    for layer, tensor in drawn.items():
        mine = rows[rows["tensor"].eq(tensor)]
        found = [
            Strip(
                layer,
                str(part),
                str(quantity),
                tuple(tuple(run["value"]) for _, run in group.groupby("run", observed=True)),
            )
            for (part, quantity), group in mine.groupby(["part", "quantity"], observed=True)
        ]
        strips += sorted(found, key=lambda strip: (list(PARTS).index(strip.kind), strip.part))
    return tuple(strips)


def _distances(factor: pd.DataFrame, drawn: dict[str, str]) -> tuple[Distance, ...]:
    found = []
    for layer, tensor in drawn.items():
        mine = factor[factor["tensor"].eq(tensor) & factor["quantity"].isin(DISTANCES)]
        for (part, quantity), rows in mine.groupby(["part", "quantity"], sort=False, observed=True):
            values = rows["value"]
            found.append(
                Distance(
                    layer, str(part), str(quantity), float(values.mean()), float(values.min()), float(values.max())
                )
            )
    return tuple(found)


def _aligned(alignment: pd.DataFrame, drawn: dict[str, str]) -> tuple[Aligned, ...]:
    """Layer by layer and step by step; tasks without a gradient or an update in one of the runs do not count."""
    found = []
    for layer, tensor in {**drawn, "all": "all"}.items():
        mine = alignment[alignment["tensor"].eq(tensor)]
        for step in sorted(mine["step"].unique()):
            rows = mine[mine["step"].eq(step)]
            task = ["task_seed", "task"]
            complete = rows["status"].eq("ok").groupby([rows[key] for key in task]).transform("all")
            wide = rows[complete].pivot(index=["run", *task], columns="quantity", values="value").reset_index()
            if len(wide):
                found.append(
                    Aligned(
                        layer=layer,
                        step=int(step),
                        cosine=task_interval(wide, "cosine"),
                        ratio=task_interval(wide, "norm ratio"),
                        descent=100 * float(wide["descent"].mean()),
                    )
                )
    return tuple(found)


def _compared(comparison: pd.DataFrame, value: str) -> tuple[tuple[Compared, ...], list[tuple[str, str]]]:
    """Each way to adapt, by its accuracy or loss, and (run, what happened) of those that are not averaged in.

    A run in which some task diverged under one way to adapt is left out of that one, and if it is as trained of all
    that can be compared with others.
    """
    rows = comparison[comparison["quantity"].eq(value) & comparison["split"].eq("query")]
    # In the order measured, which is the order of the layers for "theta only in" each.
    known = list(dict.fromkeys(rows["adaptation"]))
    order = {name: i for i, name in enumerate(ADAPTATIONS)}
    names = sorted(known, key=lambda name: order[name.split(" in ")[0]])
    lost: list[tuple[str, str]] = []
    finals: dict[str, pd.DataFrame] = {}
    for name in names:
        mine = rows[rows["adaptation"].eq(name)]
        bad = estimation.lost_runs(mine)
        lost += [(run, f"{name}: {what}") for run, what in bad]
        mine = mine[mine["step"].eq(mine["step"].max()) & ~mine["run"].isin([run for run, _ in bad])]
        finals[name] = mine.assign(value=(100 if value == "accuracy" else 1) * mine["value"])
    if not names:
        return (), lost
    reference = finals[names[0]]
    found = []
    for name, mine in finals.items():
        common = mine[mine["run"].isin(reference["run"])]
        paired = reference[reference["run"].isin(common["run"])]
        shown = common if len(common) else mine
        found.append(
            Compared(
                name,
                task_interval(shown, "value") if len(shown) else None,
                paired_task_interval(common, paired, "value") if len(common) else None,
            )
        )
    return tuple(found), lost


def _caption(
    runs: Runs,
    strips: Sequence[Strip],
    aligned: Sequence[Aligned],
    compared: Sequence[Compared],
    drawn: dict[str, str],
    value: str,
) -> list[str]:
    configs, frame = list(runs.configs.values()), runs.frame
    config = configs[0]
    seeds, steps = len({c["seed"] for c in configs}), int(config["steps"])
    overs = [one.over for one in compared if one.over is not None]
    kinds = sorted({estimation.interval_name(over) for over in [mark.cosine for mark in aligned] + overs} - {""})
    num_tasks = len(frame.loc[frame["task"].notna(), ["task_seed", "task"]].drop_duplicates())
    tensors = ", ".join(drawn.values())
    longest = max((len(run) for strip in strips for run in strip.runs), default=0)
    told = [
        f"Top: each {_spectrum_name(strips)} of what was learned, one line each"
        + (f", {seeds} seeds side by side" if seeds > 1 else "")
        + ("; a map of the gradient G is L G R" if {"L", "R"} <= {s.part.rstrip("0123456789") for s in strips} else "")
        + ("; maps in their order" if any(strip.part[-1].isdigit() for strip in strips) else "")
        + f". All start at 1. Drawn is one tensor of each layer: {tensors}."
        + (f" Of more than {MOST_DRAWN} values, {MOST_DRAWN} evenly spaced in rank." if longest > MOST_DRAWN else ""),
        f"Bottom: update U(g) and gradient g in each step, and query {value} after the last step of other ways to "
        "adapt, less that as trained, paired by task; means over test tasks. Whiskers, where wider than the dot: "
        f"{' or '.join(kinds) or 'none'}.",
    ]
    if steps == 1:
        told.append("With one step ξ does not adapt: it is first used in the second. Plain: U is the identity.")
    elif frame["adaptation"].eq("both").any():
        told.append(
            "As trained, θ and ξ both adapt. θ only (in a layer): ξ (of it) stays as meta-learned. ξ only: ξ adapts, "
            "but each step starts at the first θ again. Neither: one step. Plain: U is the identity, at the same rate."
        )
    else:
        told.append("As trained, ξ does not adapt. Neither: one step. Plain: U is the identity, at the same rate.")
    told.append(
        f"{style.dataset_name(config['dataset'])}: {networks.describe_training(config)}; "
        f"{networks.counted(seeds, 'seed')}; {networks.counted(num_tasks, 'test task')}."
    )
    return told


def _spectrum_name(strips: Sequence[Strip]) -> str:
    """What the values of most strips are, "singular value" where there are any."""
    found = {strip.quantity for strip in strips}
    return next((quantity for quantity in SPECTRA if quantity in found), SPECTRA[0])


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by panel: "spectra", "cosine", "ratio" and "comparison"."""
    with style.context():
        figure, (spectra, below) = style.panels(1, height=4.5, caption=trace.caption, top=0.26, num_rows=2, width=6.6)
        grid, place = spectra.get_gridspec(), below.get_subplotspec()
        assert grid is not None  # these axes were made by a grid
        assert place is not None
        grid.set_height_ratios((1.0, 1.4))  # with titles and labels in the second
        below.remove()
        # The comparison has a grid of its own: room for its long labels would be made between the other two as well.
        parts = place.subgridspec(1, 2, width_ratios=(2.0, 1.0))
        halves = parts[0, 0].subgridspec(1, 2)
        cosine, ratio = (figure.add_subplot(halves[0, i]) for i in range(2))
        panels = {"spectra": spectra, "cosine": cosine, "ratio": ratio, "comparison": figure.add_subplot(parts[0, 1])}
        _draw_spectra(panels["spectra"], trace)
        _draw_alignment(panels["cosine"], panels["ratio"], trace)
        _draw_comparison(panels["comparison"], trace)
        _legend(figure, trace)
    return figure, panels


def _draw_spectra(ax: Axes, trace: Trace) -> None:
    centres: dict[str, list[float]] = {}
    middles: list[float] = []
    x = 0.0
    for i, strip in enumerate(trace.strips):
        if i and strip.layer != trace.strips[i - 1].layer:
            ax.axvline(x - 0.1, color="#bbbbbb", linewidth=0.6, zorder=1)
            x += 0.8
        _, colour = PARTS[strip.kind]
        width = 0.8 / len(strip.runs)
        for j, values in enumerate(strip.runs):
            left = x - 0.4 + (j + 0.08) * width
            few = np.asarray(values)[np.linspace(0, len(values) - 1, min(len(values), MOST_DRAWN)).round().astype(int)]
            faint = 0.9 if len(few) <= 10 else 0.55 if len(few) <= 80 else 0.35
            ax.hlines(few, left, left + 0.84 * width, color=colour, linewidth=0.6, alpha=faint, zorder=3)
        centres.setdefault(strip.layer, []).append(x)
        middles.append(x)
        x += 1
    ax.axhline(1, color="black", linewidth=0.8, linestyle=(0, (1, 1.2)), zorder=2)
    ax.set_xticks([float(np.mean(found)) for found in centres.values()], list(map(style.plain, centres)))
    ax.tick_params(axis="x", length=0)
    margin = max(0.0, FEWEST_SLOTS - x) / 2  # a strip is not to be as wide as the panel
    ax.set_xlim(-0.8 - margin, x - 0.2 + margin)
    if all(value > 0 for strip in trace.strips for run in strip.runs for value in run):
        _log_axis(ax)
    if len(middles) <= MOST_NAMED:
        ax.set_xticks(middles, [style.plain(strip.part) for strip in trace.strips], minor=True)
        ax.tick_params(axis="x", which="minor", length=0, labelsize=7.5)
        ax.tick_params(axis="x", pad=14)  # layers below their parts
        ax.xaxis.remove_overlapping_locs = False  # a layer of one part is right below it
    ax.set_ylabel(_spectrum_name(trace.strips))
    ax.set_title(style.plain(trace.title))


def _draw_alignment(cosine: Axes, ratio: Axes, trace: Trace) -> None:
    layers = list(dict.fromkeys(mark.layer for mark in trace.aligned))
    num_steps = max((mark.step for mark in trace.aligned), default=1)
    for mark in trace.aligned:
        x = layers.index(mark.layer) + 0.6 * ((mark.step - 0.5) / num_steps - 0.5)
        colour = _step_colour(mark.step, num_steps)
        for ax, over in ((cosine, mark.cosine), (ratio, mark.ratio)):
            whisker(ax, x, over.mean, over, color=colour, linewidth=1.0, zorder=3)
            ax.plot(x, over.mean, color=colour, zorder=3, **DOT)
    for ax, reference in ((cosine, 0), (ratio, 1)):
        ax.axhline(reference, color="black", linewidth=0.8, linestyle=(0, (1, 1.2)), zorder=2)
        ax.set_xticks(range(len(layers)), list(map(style.plain, layers)))
        ax.set_xlabel("layer")  # and so on one line with the comparison, which has a label
        ax.set_xlim(-0.6, max(len(layers), 1) - 0.4)
    cosine.set_ylim(min(-0.05, cosine.get_ylim()[0]), 1.05)
    cosine.set_title("cosine of U(g) and g")
    ratio.set_title("|U(g)| / |g|")
    _log_axis(ratio)


def _draw_comparison(ax: Axes, trace: Trace) -> None:
    labels = []
    crowded = len(trace.compared) > len(ADAPTATIONS)
    for y, mark in enumerate(trace.compared):
        kind, _, layer = mark.adaptation.partition(" in ")
        name = (f"{ADAPTATIONS[kind]} in {layer}" if layer else ADAPTATIONS[kind]) if y else "as trained"
        if mark.over is None:
            labels.append(name)
            ax.text(0, y, "diverged", ha="right", va="center", **style.LOST)
            continue
        told = f"{mark.over.mean:.1f} %" if trace.value == "accuracy" else f"{mark.over.mean:.3g}"
        labels.append(f"{name}{' ' if crowded else chr(10)}{told}")
        over = mark.against
        if over is None:
            ax.text(0, y, "no reference", ha="right", va="center", fontsize=7.5, color="#777777")
            continue
        whisker(ax, over.mean, y, over, horizontal=True, color=COMPARED, linewidth=1.2, zorder=3)
        ax.plot(over.mean, y, color=COMPARED, marker="o", markersize=4, zorder=3)
    ax.axvline(0, color="black", linewidth=0.8, linestyle=(0, (1, 1.2)), zorder=2)
    ax.set_yticks(range(len(labels)), list(map(style.plain, labels)), fontsize=7.5, linespacing=0.95)
    ax.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    ax.grid(True, axis="x")
    ax.set_xlabel("difference (points)" if trace.value == "accuracy" else "difference")
    ax.set_title(f"{trace.value} against as trained")


def _log_axis(ax: Axes) -> None:
    """A log scale with plain numbers, where the values differ enough for one."""
    low, high = ax.dataLim.intervaly
    if high < 4 * low:
        return
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0), numticks=7))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.minorticks_off()


def _step_colour(step: int, num_steps: int) -> Any:
    shades = matplotlib.colors.LinearSegmentedColormap.from_list("steps", STEP_COLOURS)
    return shades((step - 1) / (num_steps - 1) if num_steps > 1 else 1.0)


def _legend(figure: Figure, trace: Trace) -> None:
    handles = []
    for kind in dict.fromkeys(strip.kind for strip in trace.strips):
        name, colour = PARTS[kind]
        handles.append(Line2D([], [], color=colour, linewidth=2.5, label=name))
    num_steps = max((mark.step for mark in trace.aligned), default=1)
    if num_steps > 1:
        for step in range(1, num_steps + 1):
            colour = _step_colour(step, num_steps)
            handles.append(Line2D([], [], color=colour, linestyle="none", label=f"step {step}", **DOT))
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), borderaxespad=0.3)


def texts(trace: Trace) -> dict[str, str]:
    """The numbers as Markdown: distances from the start, alignment, and the comparison."""
    lines = [f"**{trace.title}**", "", "| layer | part | " + " | ".join(DISTANCES) + " |", "|---" * 5 + "|"]
    by_part: dict[tuple[str, str], dict[str, Distance]] = {}
    for found in trace.distances:
        by_part.setdefault((found.layer, found.part), {})[found.quantity] = found
    for (layer, part), quantities in by_part.items():
        cells = [_spread(quantities[name]) if name in quantities else "" for name in DISTANCES]
        lines.append(f"| {layer} | {part} | {' | '.join(cells)} |")
    lines += ["", "| layer | step | cosine | norm ratio | descent (%) |", "|---" * 5 + "|"]
    lines += [
        f"| {mark.layer} | {mark.step} | {_shown(mark.cosine, '.3f')} | {_shown(mark.ratio, '.4g')} | "
        f"{mark.descent:.1f} |"
        for mark in trace.aligned
    ]
    is_loss = trace.value == "loss"
    units, form = ("", "") if is_loss else (" (%)", " (points)"), ".3g" if is_loss else ".1f"
    lines += ["", f"| adaptation | query {trace.value}{units[0]} | less that as trained{units[1]} |", "|---|---|---|"]
    for i, one in enumerate(trace.compared):
        missing = "diverged" if one.over is None else "no reference"
        against = "" if i == 0 else _shown(one.against, f"+{form}", missing)
        lines.append(f"| {one.adaptation} | {_shown(one.over, form)} | {against} |")
    return {"md": "\n".join([*lines, "", *(f"- {part}" for part in trace.caption), ""])}


def _spread(found: Distance) -> str:
    """A mean over runs with their extremes, if they differ."""
    same = f"{found.low:.3g}" == f"{found.high:.3g}"
    return f"{found.mean:.3g}" + ("" if same else f" ({found.low:.3g} to {found.high:.3g})")


def _shown(over: Interval | None, form: str, missing: str = "diverged") -> str:
    if over is None:
        return missing
    return networks.number(over, form)
