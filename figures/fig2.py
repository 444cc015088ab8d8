"""Figure 2: which layers of a CNN adapt, and what noise on the last one does to adaptation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import comparison, data, layer_roles, networks, style
from figures.comparison import Number
from figures.data import Runs, Where
from figures.errors import MissingTable
from figures.layer_roles import ALL_ADAPT, ALONE, FROZEN, NOISE, REPETITION, ROLES, Mark


@dataclass(frozen=True)
class Trace:
    """One data set; panels that were not measured are empty."""

    dataset: str
    title: str
    chance: float
    all_adapt: Mark | None
    frozen: tuple[Mark, ...]
    alone: tuple[Mark, ...]
    noise: tuple[Mark, ...]
    noisy_layer: str
    caption: tuple[str, ...]

    @property
    def numbers(self) -> tuple[Number, ...]:
        """What is drawn, not rounded: the accuracies, and their differences to adapting all layers or to no noise."""
        found = []
        roles = [(mark, "all layers adapt") for mark in (*self.frozen, *self.alone)]
        if self.all_adapt is not None:
            found.append(self._number(self.all_adapt, "all layers adapt"))
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
            interval=data.interval_name(over),
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
    found: dict[str, dict[str, Runs]] = {}
    for study, needed in (ROLES, NOISE):
        try:
            runs = data.read_runs(results, study, needed, where, first=first)
        except MissingTable:
            continue
        for dataset in sorted({str(config["dataset"]) for config in runs.configs.values()}):
            chosen = data.alike(
                runs.where(
                    run
                    for run, config in runs.configs.items()
                    if (config["dataset"], config["method"], config.get("depth")) == (dataset, "maml", 4)
                )
            )
            if chosen.configs:
                found.setdefault(dataset, {})[study] = chosen
    if not found:
        raise MissingTable(
            f"no CNN of 4 layers under MAML was measured; make it with: {first}, "
            f"then: python -m analysis layer_roles --results {results}"
        )
    return {f"fig2_{dataset}": _trace(dataset, studies) for dataset, studies in found.items()}


def _trace(dataset: str, studies: dict[str, Runs]) -> Trace:
    tables = {study: runs.frame for study, runs in studies.items()}
    rows, noisy = tables.get("layer_roles"), tables.get("fc_noise")
    roles = [] if rows is None else layer_roles.marks(rows, rows["kind"].eq("none"), "layer_roles")
    noise = [] if noisy is None else layer_roles.marks(noisy, noisy["std"].eq(0), "fc_noise")
    runs = next(iter(studies.values()))
    config = next(iter(runs.configs.values()))
    title, chance = data.heading(dataset, config)
    layers = [] if "fc_noise" not in studies else list(studies["fc_noise"].frame["layer"].unique())
    lost = [one for study in studies.values() for one in data.lost_runs(study.frame, REPETITION)]
    intervals = {data.interval_name(mark.over) for mark in (*roles, *noise)} - {""}
    draws = 0 if "fc_noise" not in studies else int(studies["fc_noise"].frame["draw"].max()) + 1
    seeds = sorted({int(config["seed"]) for study in studies.values() for config in study.configs.values()})
    num_tasks = max((mark.over.n for mark in (*roles, *noise)), default=0)
    caption = [
        f"Mean over {len(seeds)} seed{'s' if len(seeds) > 1 else ''} and test tasks; whisker, band: "
        f"{' or '.join(sorted(intervals)) or 'none'}" + ("; dot: one seed." if len(seeds) > 1 else "."),
        f"{style.dataset_name(dataset)}: {config['ways']}-way {config['shots']}-shot, {config['steps']} adaptation "
        f"steps; CNN-4, MAML, {config['iterations']:,} iterations of {config['tasks_per_iteration']} tasks (paper: "
        f"iterations not stated); {num_tasks} test tasks (paper: 100); batch norm on the batch at hand.",
    ]
    if noise:
        caption.append(layer_roles.describe_noise(layers[0], draws))
    return Trace(
        dataset=dataset,
        title=title,
        chance=chance,
        all_adapt=next((mark for mark in roles if mark.name == "none"), None),
        frozen=tuple(mark for mark in roles if mark.name.startswith("freeze ")),
        alone=tuple(mark for mark in roles if mark.name.startswith("adapt only ")),
        noise=tuple(sorted(noise, key=lambda mark: mark.std)),
        noisy_layer=layers[0] if layers else "",
        caption=(
            *caption,
            *data.describe_versions(each for one in studies.values() for each in one.configs.values()),
            *data.describe_lost(lost),
        ),
    )


def draw(trace: Trace) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by panel: "roles" and "noise", those that were measured."""
    names = [name for name, there in (("roles", trace.frozen), ("noise", trace.noise)) if there]
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
    if trace.all_adapt is not None:
        over = trace.all_adapt.over
        ax.axhline(over.mean, zorder=1.6, **ALL_ADAPT)
        if np.isfinite(over.low):
            ax.axhspan(over.low, over.high, color="black", alpha=0.12, linewidth=0, zorder=1.4)
    for shift, colour, marks in ((-0.2, FROZEN, trace.frozen), (0.2, ALONE, trace.alone)):
        for i, mark in enumerate(marks):
            x = i + shift
            ax.bar(x, mark.over.mean, width=0.36, color=colour, alpha=0.75, zorder=2)
            networks.whisker(ax, x, mark.over.mean, mark.over, color="black", linewidth=0.9, capsize=2.0, zorder=4)
            if len(mark.seeds) > 1:
                offsets = np.linspace(-0.1, 0.1, len(mark.seeds))
                ax.plot(x + offsets, mark.seeds, **layer_roles.seed_dots(colour))
            ax.text(x, 2, f"{mark.over.mean:.0f}", ha="center", va="bottom", fontsize=7, color="white", zorder=4)
    ax.set_xticks(range(len(trace.frozen)), [mark.layer for mark in trace.frozen])
    ax.set_xlim(-0.6, len(trace.frozen) - 0.4)
    ax.set_title(trace.title, linespacing=1.1)


def _draw_noise(ax: Axes, trace: Trace) -> None:
    layer_roles.draw_noise(ax, trace.noise, trace.noisy_layer)
    ax.set_title("all but the last two layers fixed,\nnoise before adaptation", linespacing=1.1)


def _legend(figure: Figure, trace: Trace) -> None:
    handles: list[Any] = layer_roles.roles_legend() if trace.frozen else []
    handles.append(Line2D([], [], label="chance", **style.CHANCE))
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), borderaxespad=0.3)


def texts(trace: Trace) -> dict[str, str]:
    """The numbers as Markdown: each intervention, and its difference to adapting all layers, or to no noise."""
    title, roles = trace.title.replace(chr(10), ", "), (*trace.frozen, *trace.alone)
    return layer_roles.markdown(title, "accuracy in percent", trace.all_adapt, roles, trace.noise, trace.caption)
