"""What each layer of any network does for adaptation: frozen alone, adapting alone, and noise on the last one.

`fig2` draws the same of the paper's network; what it computes is here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.statistics import Interval, task_intervals
from figures import estimation, networks, style
from figures.data import Where
from figures.errors import FigureError
from figures.intervals import band, whisker

MEASURED = ("steps", "intervention", "draw", "task_seed", "task", "step", "split", "accuracy", "loss")
ROLES = ("layer_roles", ("kind", "layer", *MEASURED))
NOISE = ("fc_noise", ("std", "layer", *MEASURED))

# A colour for each role, none of them a method's.
FROZEN, ALONE, NOISY = "#33638d", "#d1495b", "#6a4c93"
AS_TRAINED: dict[str, Any] = {"color": "black", "linewidth": 1.0}


@dataclass(frozen=True)
class Mark:
    """What was measured under one intervention: accuracy in percent, or the loss.

    Attributes:
        name: the intervention's, or the noise's strength in words.
        layer: the layer it is about, empty for none.
        std: strength of the noise, 0 for none.
        over: mean over runs and tasks, and its interval over tasks.
        seeds: mean of each run.
        against: difference to the run as trained (or, of noise, to none), and its paired interval over tasks.
        tables: where it is from, study/id.
    """

    name: str
    layer: str
    std: float
    over: Interval
    seeds: tuple[float, ...]
    against: Interval
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """One network; what was not measured is empty.

    Attributes:
        title: what it is.
        value: "accuracy" (in percent), or for regression "loss".
        layers: those of `layer_roles`, in the network's order.
        chance: accuracy of guessing in percent, NaN where there is none.
        as_trained: as trained, with nothing frozen.
        frozen: one layer frozen, each in its turn.
        alone: one layer adapting.
        noise: noise on the last layer, weakest first.
        noisy_layer: that layer.
        caption: paragraphs.
        tables: where it is from, study/id.
    """

    title: str
    value: str
    layers: tuple[str, ...]
    chance: float
    as_trained: Mark | None
    frozen: tuple[Mark, ...]
    alone: tuple[Mark, ...]
    noise: tuple[Mark, ...]
    noisy_layer: str
    caption: tuple[str, ...]
    tables: tuple[str, ...]


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """A figure for each data set and network, by file name.

    Raises:
        MissingTable: if there is none.
        FigureError, StudyError: for runs that cannot be pooled, or tables that cannot be read.
    """
    found = networks.tables_of(results, (ROLES, NOISE), where)
    return {f"layer_roles_{name}": from_table(**studies) for name, studies in found.items()}


def from_table(layer_roles: pd.DataFrame | None = None, fc_noise: pd.DataFrame | None = None) -> Trace:
    """What tables of the studies `layer_roles` and `fc_noise` say of a network; one of them may be absent.

    Raises:
        FigureError: for no table, a missing column, tables of several networks, or one without what the others are
            compared with.
    """
    by_study = {
        study: networks.check(table, needed, study)
        for table, (study, needed) in ((layer_roles, ROLES), (fc_noise, NOISE))
        if table is not None
    }
    given = list(by_study.values())
    if not given:
        raise FigureError("give a table of layer_roles, of fc_noise, or both")
    is_regression = all(table.loc[table["status"].eq("ok"), "accuracy"].isna().all() for table in given)
    value = "loss" if is_regression and any(table["status"].eq("ok").any() for table in given) else "accuracy"
    roles, lost = ([], ()) if layer_roles is None else _comparable(layer_roles, "kind", "none", "layer_roles", value)
    noise, lost_noise = ([], ()) if fc_noise is None else _comparable(fc_noise, "std", 0, "fc_noise", value)
    subject = networks.subject(given[0])
    has_dots = bool(roles) and given[0]["seed"].nunique() > 1
    caption = [
        networks.describe_mean(
            given[0], "whisker, where longer than its mark, or band", [mark.over for mark in (*roles, *noise)]
        )
        + (" Dot in a bar: one seed; intervals speak for new tasks, not for new seeds." if has_dots else "")
        + f" {value.capitalize()} on the query set after the last step.",
        *subject.caption,
    ]
    if len({tuple(sorted(table["run"].unique())) for table in given}) > 1:
        of_each = " and ".join(", ".join(map(str, sorted(table["seed"].unique()))) for table in given)
        caption.append(f"Freezing layers and noise were measured on runs of other seeds: {of_each}.")
    tasks = [table[["task_seed", "task"]].drop_duplicates() for table in given]
    if len({frozenset(one.itertuples(index=False, name=None)) for one in tasks}) > 1:
        of_each = " and ".join(
            f"{len(one):,} of seed {', '.join(map(str, sorted(one['task_seed'].unique())))}" for one in tasks
        )
        caption.append(f"Freezing layers and noise were measured on other test tasks: {of_each}.")
    noisy = "" if fc_noise is None else str(fc_noise["layer"].iloc[0])
    if noise and fc_noise is not None:
        caption.append(describe_noise(noisy, int(fc_noise["draw"].max()) + 1, "Right: all" if roles else "All"))
    return Trace(
        title=subject.title,
        value=value,
        layers=() if layer_roles is None else tuple(layer for layer in layer_roles["layer"].unique() if layer),
        chance=subject.chance if value == "accuracy" else np.nan,
        as_trained=next((mark for mark in roles if mark.name == "none"), None),
        frozen=tuple(mark for mark in roles if mark.name.startswith("freeze ")),
        alone=tuple(mark for mark in roles if mark.name.startswith("adapt only ")),
        noise=tuple(sorted(noise, key=lambda mark: mark.std)),
        noisy_layer=noisy,
        caption=(*caption, *dict.fromkeys((*lost, *lost_noise))),
        tables=tuple(f"{study}/{run}" for study, table in by_study.items() for run in table["run"].unique()),
    )


def _comparable(
    table: pd.DataFrame, column: str, reference: str | float, study: str, value: str
) -> tuple[list[Mark], tuple[str, ...]]:
    """The marks of each intervention under which runs did not diverge, and the caption's paragraph on the others.

    A run that diverged under the intervention that the others are compared with is left out as a whole.

    Raises:
        FigureError: for a run that was not measured under it.
    """
    if without := sorted(set(table["run"]) - set(table.loc[table[column].eq(reference), "run"])):
        raise FigureError(
            f"the table of {study} has no row of {column} {reference}, which the others are compared with, for run "
            f"{', '.join(without)}"
        )
    names = table.loc[table[column].eq(reference), "intervention"].unique().tolist()
    good, lost = networks.measured(table, within="intervention", reference=names)
    return marks(good, good[column].eq(reference), study, value), lost


def marks(frame: pd.DataFrame, is_reference: "pd.Series[bool]", study: str, value: str = "accuracy") -> list[Mark]:
    """Each intervention of the runs that did not diverge, in the order of the table.

    Args:
        frame: rows of `layer_roles` or `fc_noise`.
        is_reference: which of them are of the intervention that the others are compared with.
        study: which of the two.
        value: "accuracy", which is told in percent, or "loss".
    """
    tables = tuple(f"{study}/{run}" for run in frame["run"].unique())
    bad = {run for run, _ in estimation.lost_runs(frame)}
    kept = ~frame["run"].isin(bad) & frame["split"].eq("query") & frame["step"].eq(frame["steps"])
    frame, is_reference = frame[kept], is_reference[kept]
    if not len(frame):
        return []
    scale, keys = 100 if value == "accuracy" else 1, ["run", "seed", "task_seed", "task"]
    # Draws of a task are no further tasks: they are averaged first.
    by_task = [*keys, "intervention"]
    means = (scale * frame.set_index(by_task)[value]).groupby(level=by_task, observed=True, sort=False).mean()
    rows = means.reset_index()
    reference = rows[rows["intervention"].isin(frame.loc[is_reference, "intervention"])].set_index(keys)[value]
    rows["difference"] = rows[value] - reference.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy()
    over, against = (task_intervals(rows, ["intervention"], column) for column in (value, "difference"))
    seeds = rows.groupby(["intervention", "seed"], observed=True)[value].mean()
    first = frame.drop_duplicates("intervention").set_index("intervention")
    return [
        Mark(
            name=str(name),
            layer=str(first.loc[name, "layer"]),
            std=float(first.loc[name, "std"]) if "std" in first else 0.0,
            over=over[name,],
            seeds=tuple(seeds[name]),
            against=against[name,],
            tables=tables,
        )
        for name in first.index
    ]


def describe_noise(layer: str, draws: int, beginning: str) -> str:
    """The caption's sentence on the noise; its `beginning` is "All", or says before where it is drawn."""
    return (
        f"{beginning} layers but the last two are fixed; noise is added to {layer} before adaptation, in units of the "
        f"root mean square of its weights, {draws} draw{'s' if draws > 1 else ''} a task."
    )


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by panel, those that were measured.

    "roles" has a layer a row, "differences" how far each is from the run as trained, and "noise" its strength.
    """
    names = ["roles", "differences"] if trace.layers else []
    names += ["noise"] if trace.noisy_layer else []
    with style.context():
        figure, axes = style.panels(
            len(names), height=networks.height_of(trace.layers, rows=2), caption=trace.caption, top=0.42
        )
        panels = dict(zip(names, axes, strict=True))
        if "roles" in panels:
            _draw_roles(panels["roles"], trace)
            _draw_differences(panels["differences"], trace)
        if "noise" in panels:
            draw_noise(panels["noise"], trace.noise, trace.noisy_layer)
            panels["noise"].axhline(trace.chance, zorder=1.5, **style.CHANCE)
            panels["noise"].set_ylabel(_name(trace))
            panels["noise"].set_title("noise before adaptation")
            panels["noise"].tick_params(axis="x", labelsize=7)
            if trace.value == "accuracy":
                panels["noise"].set_ylim(0, 107)
        _legend(figure, trace)
    return figure, panels


def _name(trace: Trace) -> str:
    return "accuracy (%)" if trace.value == "accuracy" else "loss"


def _rows(trace: Trace) -> tuple[tuple[float, str, tuple[Mark, ...]], ...]:
    return (-0.19, FROZEN, trace.frozen), (0.19, ALONE, trace.alone)


def _draw_roles(ax: Axes, trace: Trace) -> None:
    if trace.as_trained is not None:
        over = trace.as_trained.over
        ax.axvline(over.mean, zorder=1.6, **AS_TRAINED)
        if np.isfinite(over.low):
            ax.axvspan(over.low, over.high, color="black", alpha=0.12, linewidth=0, zorder=1.4)
    for shift, colour, found in _rows(trace):
        for mark in found:
            y = trace.layers.index(mark.layer) + shift
            ax.barh(y, mark.over.mean, height=0.34, color=colour, alpha=0.75, zorder=2)
            whisker(
                ax, mark.over.mean, y, mark.over, horizontal=True, color="black", linewidth=0.8, capsize=1.5, zorder=4
            )
            if len(mark.seeds) > 1:
                offsets = np.linspace(-0.1, 0.1, len(mark.seeds))
                ax.plot(mark.seeds, y + offsets, **seed_dots(colour))
    ax.axvline(trace.chance, zorder=1.5, **style.CHANCE)
    networks.layers_down(ax, trace.layers)
    if trace.value == "accuracy":
        ax.set_xlim(0, 105)
    ax.set_xlabel(_name(trace))
    ax.set_title("after adaptation")


def _draw_differences(ax: Axes, trace: Trace) -> None:
    ax.axvline(0, zorder=1.6, **AS_TRAINED)
    for shift, colour, found in _rows(trace):
        for mark in found:
            y = trace.layers.index(mark.layer) + shift
            ax.plot([mark.against.mean], [y], linestyle="none", marker="o", markersize=3.4, color=colour, zorder=3)
            whisker(
                ax, mark.against.mean, y, mark.against, horizontal=True, color=colour, linewidth=1.0, capsize=1.8,
                zorder=3,
            )  # fmt: skip
    networks.layers_down(ax, trace.layers)
    ax.tick_params(labelleft=False)
    ax.set_xlabel("points" if trace.value == "accuracy" else "loss")
    ax.set_title("difference to as trained")


def draw_noise(ax: Axes, noise: Sequence[Mark], layer: str) -> None:
    """Accuracy or loss against the strength of the noise, one strength beside the other."""
    x = range(len(noise))
    band(ax, list(x), [mark.over for mark in noise], NOISY)
    ax.plot(x, [mark.over.mean for mark in noise], color=NOISY, marker="o", markersize=3.2, zorder=3)
    ax.set_xticks(x, [f"{mark.std:g}" for mark in noise])
    ax.set_xlabel(f"noise on {style.plain(layer)} (in its own scale)")


def seed_dots(colour: str) -> dict[str, Any]:
    """How the means of single seeds are drawn."""
    return {
        "linestyle": "none", "marker": "o", "markersize": 2.2, "color": "white", "markeredgecolor": colour,
        "markeredgewidth": 0.5, "zorder": 4.5,  # not behind a whisker
    }  # fmt: skip


def roles_legend() -> list[Any]:
    """The entries of a legend for the roles of layers."""
    return [
        Line2D([], [], label="as trained", **AS_TRAINED),
        Patch(color=FROZEN, alpha=0.75, label="only this frozen"),
        Patch(color=ALONE, alpha=0.75, label="only this adapts"),
    ]


def _legend(figure: Figure, trace: Trace) -> None:
    handles: list[Any] = roles_legend() if trace.layers else []
    if np.isfinite(trace.chance):
        handles.append(Line2D([], [], label="chance", **style.CHANCE))
    style.legend(figure, handles, trace.title, max(1, len(handles)))


def texts(trace: Trace) -> dict[str, str]:
    """The numbers as Markdown, see `markdown`."""
    unit = "accuracy in percent" if trace.value == "accuracy" else "loss"
    return markdown(trace.title, unit, trace.as_trained, (*trace.frozen, *trace.alone), trace.noise, trace.caption)


def markdown(
    title: str, unit: str, as_trained: Mark | None, roles: Sequence[Mark], noise: Sequence[Mark], caption: Sequence[str]
) -> dict[str, str]:
    """The numbers as Markdown: each intervention, and its difference to the run as trained, or to no noise."""
    digits = ".1f" if unit.startswith("accuracy") else ".3g"
    lines = [
        f"**{title}** ({unit}, [95 % interval over tasks])",
        "",
        f"| intervention | {unit.partition(' ')[0]} | difference | against |",
        "|---|---|---|---|",
    ]
    if as_trained is not None:
        lines.append(f"| as trained | {networks.number(as_trained.over, digits)} | | |")
    for mark in roles:
        against = networks.number(mark.against, f"+{digits}")
        lines.append(f"| {mark.name} | {networks.number(mark.over, digits)} | {against} | as trained |")
    for mark in noise:
        against = f"{networks.number(mark.against, f'+{digits}')} | no noise" if mark.std else " | "
        lines.append(f"| {mark.name} | {networks.number(mark.over, digits)} | {against} |")
    return {"md": "\n".join([*lines, "", *(f"- {part}" for part in caption), ""])}
