"""What runs of one model, method and data set say together, in percent.

Two kinds of repetition are kept apart. The mean and the single dots are of runs, one a seed; the interval is over test
tasks, within these runs. A run with a diverged loss is counted and named, and never averaged in.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics import KINDS, Interval, interval, seed_spread, task_interval
from figures.data import Runs, check_columns, read_named, require_tables
from figures.errors import MissingTable
from figures.style import CEILINGS, name_of


@dataclass(frozen=True)
class Estimate:
    """What the runs of one model, method and data set say, in percent.

    Attributes:
        model, method: what was trained.
        mean: mean over seeds of the runs' mean accuracies, NaN if all diverged.
        std: their standard deviation (ddof 1), NaN for one seed.
        low, high: ends of the interval over test tasks, NaN if there is none.
        interval: what kind of interval that is, in words; empty if it has no length.
        seeds: (seed, mean accuracy) of each run that is averaged.
        num_tasks: test tasks of each run.
        lost: (run, what happened) of each run that is not averaged.
        configs: configuration of every run, lost ones included.
        level: confidence level of the interval, 0.95 for 95 %; NaN if there is none.
        tables: the tables of all these runs, study/id.
    """

    model: str
    method: str
    mean: float
    std: float
    low: float
    high: float
    interval: str
    seeds: tuple[tuple[int, float], ...]
    num_tasks: int
    lost: tuple[tuple[str, str], ...]
    configs: tuple[Mapping[str, Any], ...] = field(repr=False)
    level: float = math.nan
    tables: tuple[str, ...] = field(default=(), repr=False)

    @property
    def layers(self) -> int | None:
        """Convolutional layers, None for linear models."""
        return self.configs[0].get("depth")

    @property
    def name(self) -> str:
        """Model and method, on paper."""
        return name_of(self.model, self.method, self.layers)

    @property
    def lost_text(self) -> str:
        """Such as "3 of 5 diverged"; empty if no run was lost."""
        return lost_text(self.lost, len(self.seeds))


@dataclass(frozen=True)
class Ceiling:
    """Accuracy of a classifier that is no run, in percent, with its interval over test tasks; `tables` are study/id."""

    name: str
    evaluated_on: str
    mean: float
    low: float
    high: float
    interval: str
    num_tasks: int
    tables: tuple[str, ...]


def read_ceilings(results: str | Path) -> pd.DataFrame | None:
    """The table `ceilings`, None if it was not made; as `read_named` reads it.

    Raises:
        FigureError: for a missing column.
        StudyError: for a damaged table.
    """
    try:
        require_tables(results, "ceilings")
    except MissingTable:
        return None
    return read_named(results, "ceilings")


def ceiling_estimates(frame: pd.DataFrame | None, *, points: int, evaluated_on: str) -> tuple[Ceiling, ...]:
    """The ceilings of synthetic tasks with so many support points; none if they were not measured.

    Args:
        frame: the table `ceilings`, or None.
        points: support points a task.
        evaluated_on: "same" or "fresh".

    Raises:
        FigureError: for a missing column.
    """
    if frame is None:
        return ()
    check_columns(frame, ["dataset", "ceiling", "evaluated_on", "points", "task_seed", "task", "accuracy"], "ceilings")
    fits = frame["dataset"].eq("synthetic") & frame["points"].eq(points) & frame["evaluated_on"].eq(evaluated_on)
    found = []
    for name in CEILINGS:
        # Tables of 100 and of 600 tasks may share their first 100, and a task counts once.
        rows = frame[fits & frame["ceiling"].eq(name)].drop_duplicates(["task_seed", "task"])
        if len(rows):
            over = interval(100 * rows["accuracy"], over="tasks")
            ends, tables = (over.low, over.high, interval_name(over)), tuple(rows["table"].unique())
            found.append(Ceiling(name, evaluated_on, over.mean, *ends, len(rows), tables))
    return tuple(found)


def estimate(group: Runs, points_seen: str = "") -> Estimate | None:
    """Query accuracy after the last adaptation step.

    Args:
        group: runs of one model, method and data set, which differ in their seed only, of a study of accuracy by task.
        points_seen: "same" or "fresh" for synthetic tasks, "" for others.

    Returns:
        The estimate, None if no run was measured on such points.

    Raises:
        StudyError: if the runs did not meet the same test tasks.
    """
    frame = group.frame
    if "points_seen" in frame:  # a column of `post_adaptation`, which alone has synthetic tasks
        frame = frame[frame["points_seen"].eq(points_seen)]
    if not len(frame):
        return None
    configs = tuple(group.configs[run] for run in frame["run"].unique())
    lost, percent = lost_runs(frame), final_accuracies(frame)
    model, method = configs[0]["model"], configs[0]["method"]
    num_tasks = len(percent[["task_seed", "task"]].drop_duplicates())
    tables = tuple(f"{group.study}/{run}" for run in frame["run"].unique())
    if not len(percent):
        nothing = (math.nan,) * 4
        return Estimate(model, method, *nothing, "", (), num_tasks, lost, configs, tables=tables)
    spread, over = seed_spread(percent), task_interval(percent)
    means = percent.groupby("seed")["accuracy"].mean()
    seeds = tuple((int(seed), float(mean)) for seed, mean in means.items())  # type: ignore[call-overload]  # int keys
    ends = (over.low, over.high, interval_name(over))
    return Estimate(model, method, spread.mean, spread.std, *ends, seeds, num_tasks, lost, configs, over.level, tables)


def final_accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """The query rows after the last adaptation step, in percent, of the runs that did not diverge or fail."""
    bad = [run for run, _ in lost_runs(frame)]
    last = frame[~frame["run"].isin(bad) & frame["split"].eq("query") & frame["step"].eq(frame["steps"])]
    return last.assign(accuracy=100 * last["accuracy"])


def interval_name(over: Interval) -> str:
    """What kind of interval it is, without the count that captions state once; empty if it is a point or none."""
    if over.kind == "none" or over.low == over.high:
        return ""
    return f"{100 * over.level:g} % {KINDS[over.kind]} interval over test {over.over}"


def interval_label(estimates: Iterable[Estimate]) -> str:
    """The whisker's name in a legend, whose caption says the kind; empty if none of them has an interval."""
    levels = sorted({e.level for e in estimates if e.interval})
    return f"{' or '.join(f'{100 * level:g} %' for level in levels)} interval over tasks" if levels else ""


def lost_runs(frame: pd.DataFrame, repetition: Sequence[str] = ("task_seed", "task")) -> tuple[tuple[str, str], ...]:
    """(run, what happened) of each run with a row that is not ok, in order of their names.

    Args:
        frame: rows of runs.
        repetition: columns that name what a status belongs to, a task under whichever draw; a run of which some are ok
            says how many are not.
    """
    found = []
    for run, rows in frame.groupby("run", observed=True):
        bad = rows[rows["status"].ne("ok")]
        if len(bad):
            what = str(bad["status"].iloc[0])
            num_bad, num_all = (len(part[list(repetition)].drop_duplicates()) for part in (bad, rows))
            found.append((str(run), what if num_bad == num_all else f"{what} on {num_bad} of {num_all} tasks"))
    return tuple(found)


def lost_text(lost: Sequence[tuple[str, str]], num_good: int) -> str:
    """Such as "3 of 5 diverged", or "diverged in part" where only on some tasks; empty if no run was lost."""
    counts: dict[str, int] = {}
    for _, what in lost:
        word = "failed" if not what.startswith("diverged") else "diverged"
        word += " in part" if what.endswith(" tasks") else ""
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} of {len(lost) + num_good} {word}" for word, count in counts.items())
