"""What figures of single networks share: which runs go into one figure, what they are called, how layers are laid out.

The paper's figures put chosen networks side by side. These draw any network that was measured, one a figure, with as
many layers as it has, and are made of columns alone, so that a table in memory can be drawn as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis.statistics import Interval
from figures import captions, data, estimation, style
from figures.data import Runs, Where
from figures.errors import FigureError, MissingTable

# The columns of every study of single networks that these figures use.
COLUMNS = (
    "run", "dataset", "model", "method", "seed", "status", "layers", "norm_mode", "ways", "shots", "steps",
    "iterations", "tasks_per_iteration", "task_seed", "task",
)  # fmt: skip
# What the runs of one table must have in common to be averaged: all of these but the seed.
_SHARED = (
    "dataset", "model", "method", "layers", "norm_mode", "ways", "shots", "steps", "adapt_lr", "iterations",
    "tasks_per_iteration",
)  # fmt: skip
LAYER_HEIGHT = 0.24  # inches

Trace = TypeVar("Trace", bound=Any)  # a dataclass with `tables`


@dataclass(frozen=True)
class Subject:
    """The network of a figure.

    Attributes:
        title: what it is and what it was measured on, in one line.
        chance: accuracy of guessing in percent, NaN where there is no such thing.
        caption: paragraphs on the tasks, the training and what is not averaged in.
    """

    title: str
    chance: float
    caption: tuple[str, ...]


def tables(
    results: str | Path, study: str, needed: Sequence[str], where: Sequence[Where] = ()
) -> dict[str, pd.DataFrame]:
    """The rows of a study by network: data set, model and layers, method; each of runs that differ in their seed only.

    A network from outside is by itself, and its name ends in the digest that its run's id ends in.

    Raises:
        MissingTable: if the study has no table.
        FigureError: for a missing column, or runs that differ in another setting.
        StudyError: for a damaged table.
    """
    return {name: found[study] for name, found in tables_of(results, [(study, needed)], where).items()}


def tables_of(
    results: str | Path,
    studies: Sequence[tuple[str, Sequence[str]]],
    where: Sequence[Where] = (),
    *,
    of: Callable[[Mapping[str, Any]], bool] = lambda config: True,
    first: str = "",
) -> dict[str, dict[str, pd.DataFrame]]:
    """The rows of several studies by network and study, as `tables` has those of one.

    Args:
        results: folder of results.
        studies: each with the columns that are needed; those that have no table are left out.
        where: choices of runs.
        of: the configurations that are wanted; what the others are does not matter.
        first: what has to be typed before a study, for the message.

    Raises:
        MissingTable: if none of the studies has a table.
        FigureError: for a missing column, or runs that differ in another setting than the seed, in one study or in two.
        StudyError: for a damaged table.
    """
    groups: dict[str, dict[str, Runs]] = {}
    missing: list[MissingTable] = []
    for study, needed in studies:
        try:
            runs = data.read_runs(results, study, (*COLUMNS, *needed), where, first=first)
        except MissingTable as error:
            missing.append(error)
            continue
        members: dict[str, list[str]] = {}
        for run, config in runs.configs.items():
            if of(config):
                members.setdefault(file_name(run, config), []).append(run)
        for name, chosen in members.items():
            groups.setdefault(name, {})[study] = runs.where(chosen)
    if len(missing) == len(studies):
        raise missing[0]
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for name, by_study in sorted(groups.items(), key=_place):
        data.belong_together(by_study.values())
        versions = captions.describe_versions(config for one in by_study.values() for config in one.configs.values())
        found[name] = {study: one.frame for study, one in by_study.items()}
        for frame in found[name].values():
            frame.attrs["versions"] = versions
    return found


def _place(group: tuple[str, Mapping[str, Runs]]) -> tuple[int, str]:
    """Networks by their data set, in the order of all figures, and then by name."""
    name, by_study = group
    dataset = next(iter(next(iter(by_study.values())).configs.values()))["dataset"]
    return data.IMAGES.index(dataset) if dataset in data.IMAGES else len(data.IMAGES), name


def file_name(run: str, config: Mapping[str, Any]) -> str:
    """Of the network of a run, as in names of files; runs of one network have one."""
    parts = [config["dataset"], f"{config['model']}{config.get('depth') or ''}", config["method"]]
    name = "_".join(part.removeprefix("own:") for part in parts)
    return f"{name}_{run.rpartition('-')[2]}" if config.get("own") else name


class Traces(Protocol[Trace]):
    """From stored tables to what is drawn: the first step of a figure."""

    def __call__(self, results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
        """A figure for each data set and network, by file name.

        Raises:
            MissingTable: if there is none.
            FigureError, StudyError: for runs that cannot be pooled, or tables that cannot be read.
        """


def traces_of(study: str, needed: Sequence[str], from_table: Callable[[pd.DataFrame], Trace]) -> Traces[Trace]:
    """The `traces` of a figure of single networks: what `from_table` makes of each one's rows, with their tables."""

    def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
        return {
            f"{study}_{name}": replace(from_table(rows), tables=tuple(f"{study}/{run}" for run in rows["run"].unique()))
            for name, rows in tables(results, study, needed, where).items()
        }

    return traces


def check(table: pd.DataFrame, needed: Sequence[str], study: str) -> pd.DataFrame:
    """The table itself, once it is seen to have these columns and to be of one network.

    Raises:
        FigureError: for a missing column, an empty table, or one of several networks.
    """
    data.check_columns(table, (*COLUMNS, *needed), study)
    if not len(table):
        raise FigureError(f"the table of {study} is empty")
    check_one(table, f"the table of {study}")
    return table


def check_one(table: pd.DataFrame, what: str) -> None:
    """See that a table is of one network, as far as its columns say so.

    Raises:
        FigureError: for one of several.
    """
    for name in _SHARED:
        values = [str(value) for value in table[name].unique()] if name in table else []
        if len(values) > 1:
            raise FigureError(
                f"{what} holds runs that differ in {name} ({', '.join(values)}); choose those of one network, such as "
                "table[table['run'] == ...]"
            )


def measured(
    table: pd.DataFrame, *, within: str | None = None, reference: Sequence[str] = ()
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of runs that did not diverge, and the caption's paragraph on the others.

    Args:
        table: rows of runs.
        within: a column by which a run is lost in parts, such as the intervention: strong noise that makes a run
            diverge says nothing of weak noise.
        reference: parts that the others are compared with; a run that is lost in one of them is lost as a whole.
    """
    lost = dict(estimation.lost_runs(table))
    bad = table["run"].isin(lost)
    if within is not None:
        for run in [run for run in lost if table.loc[table["run"].eq(run), "status"].eq("ok").any()]:
            mine = table[table["run"].eq(run)]
            if within_reference := estimation.lost_runs(mine[mine[within].isin(reference)]):
                ((_, what),) = within_reference
                lost[run] = f"{what} under {', '.join(reference)}, which the others are compared with"
                continue
            del lost[run]
            for part, rows in mine.groupby(within, sort=False, observed=True):
                found = estimation.lost_runs(rows)
                bad &= ~(table["run"].eq(run) & table[within].eq(part)) | bool(found)
                lost |= {f"{run} under {part}": what for _, what in found}
    return table[~bad], tuple(captions.describe_lost(lost.items()))


def complete(table: pd.DataFrame, cell: Sequence[str]) -> pd.DataFrame:
    """The rows of the tasks of which each run that has the cell has a value: runs are averaged over the same tasks."""
    runs = table.groupby([*cell], observed=True)["run"].transform("nunique")
    have = table.groupby([*cell, "task_seed", "task"], observed=True)["run"].transform("nunique")
    return table[have.eq(runs)]


def subject(table: pd.DataFrame, lost: Sequence[str] = ()) -> Subject:
    """The network that a table is of.

    Args:
        table: with `COLUMNS`, of one network, lost runs included.
        lost: the caption's paragraph on these.

    Raises:
        FigureError: for a method without a name.
    """
    row = table.iloc[0]
    layers = None if pd.isna(row["layers"]) else int(row["layers"])
    network = style.name_of(row["model"], row["method"], layers)
    dataset, steps = style.dataset_name(row["dataset"]), int(row["steps"])
    ways = "" if pd.isna(row["ways"]) else f"{row['ways']}-way {row['shots']}-shot"
    chance = 50.0 if row["dataset"] == "synthetic" else np.nan if pd.isna(row["ways"]) else 100 / int(row["ways"])
    seeds, tasks = table["seed"].nunique(), len(table[["task_seed", "task"]].drop_duplicates())
    about = [
        ", ".join(part for part in (ways, counted(steps, "adaptation step")) if part),
        f"{network}{', MAML' if row['method'] == 'maml' else ''}, {describe_training(row)}",
        f"{counted(seeds, 'seed')}, {counted(tasks, 'test task')}",
    ]
    caption = [
        f"{dataset}: {'; '.join(about)}.",
        *captions.describe_norm({"norm_mode": row["norm_mode"]}),
        *table.attrs.get("versions", []),
    ]
    return Subject(
        ", ".join(part for part in (f"{network} on {dataset}", ways) if part), chance, (" ".join(caption), *lost)
    )


def describe_training(settings: Mapping[str, Any] | pd.Series) -> str:
    """How long a network was trained, from a run's configuration or a row of its table."""
    if not settings["iterations"]:
        return "trained elsewhere" if str(settings["model"]).startswith("own:") else "not trained"
    return f"{settings['iterations']:,} iterations of {counted(int(settings['tasks_per_iteration']), 'task')}"


def describe_mean(table: pd.DataFrame, mark: str, intervals: Mapping[Any, Interval] | Sequence[Interval]) -> str:
    """The caption's sentence on what is averaged over, and what the whisker or band (`mark`) is."""
    found = list(intervals.values()) if isinstance(intervals, Mapping) else list(intervals)
    kinds = sorted({estimation.interval_name(over) for over in found} - {""})
    averaged = "seeds and test tasks" if table["seed"].nunique() > 1 else "test tasks"
    fewer = captions.in_words(over.n for over in found)
    few = f" ({fewer} of them: fewer where a value does not exist)" if len({over.n for over in found}) > 1 else ""
    return f"Mean over {averaged}{few}; {mark}: {' or '.join(kinds) or 'none'}."


def number(over: Interval, form: str = ".1f") -> str:
    """A mean and its interval in brackets, if it has one, each as `form` has it."""
    mean, low, high = (captions.written(value, form) for value in (over.mean, over.low, over.high))
    return f"{mean} [{low}, {high}]" if np.isfinite(over.low) else mean


def layers_down(ax: Axes, layers: Sequence[str]) -> None:
    """Lay out an axis with a row a layer, the first on top: their names can be long, and many."""
    ax.set_yticks(range(len(layers)), list(map(style.plain, layers)))
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")


def height_of(layers: Sequence[str], rows: int = 1) -> float:
    """Height of a panel of `layers_down` with titles and labels, in inches, with so many marks a row."""
    return 1.15 + LAYER_HEIGHT * max(4, len(layers)) * (1 if rows == 1 else 1.25)


def log_axis(ax: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers; what is zero, such as a first distance, is left out."""
    ax.set_yscale("log", nonpositive="mask")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def counted(number: int, what: str) -> str:
    """So many of something: 1 seed, 1,000 test tasks."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
