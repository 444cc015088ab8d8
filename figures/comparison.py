"""Our numbers beside the paper's: what each is, whether they agree, and what differs between the two settings.

What differs is read from the configurations of the runs and from what the paper states, and what is known of a number
from its seeds, from its training curve, and from longer trainings. None of it is a proof of a cause.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from figures import captions, curves, data, style
from figures.errors import MissingTable
from figures.estimation import Estimate
from figures.intervals import Ends
from figures.paper import INPUT_SCALE, PUBLISHED, Published

# Which of our tables a number of the paper stands in, by where the paper has it.
TABLE_OF = {"prose, section 3.2": "table1", "Table 2": "table2", "Table A1": "table_a1"}

WITHIN, ABOVE, BELOW = "our interval contains it", "ours is above", "ours is below"
NO_INTERVAL = "no interval of ours"
UNPUBLISHED = "no published number"
LOST = "diverged or failed"
UNMEASURED = "no number of ours"
STATUSES = (WITHIN, ABOVE, BELOW, NO_INTERVAL, LOST, UNMEASURED, UNPUBLISHED)

_APART = 5.0  # points between the smallest and the largest seed

SAME = "data set and length of training are as the paper states them; the tables give no reason"
SILENT = "the paper's text has no such number (its plots and its Table 1 were pictures, and are lost)"


class Measured(Ends, Protocol):
    """What the tables hold of no run, in percent: `figures.estimation.Ceiling`, `figures.table2.Bound`."""

    @property
    def interval(self) -> str:
        """Its name, empty if there is none."""

    @property
    def num_tasks(self) -> int:
        """Test tasks that are averaged."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Where it is from, study/id."""


@dataclass(frozen=True)
class Number:
    """One number that a figure or table shows, not rounded, beside the paper's.

    Attributes:
        figure: name in the registry.
        dataset: its name in the tables.
        model, method: what was trained, as in the tables; the method of what is no run is its name, such as "bayes".
        layers: convolutional layers, None for other models.
        paper: the paper's number, None if it has none.
        reasons: what differs between the two, or why one of them is missing.
        condition: what tells it from other numbers of the model, such as "freeze C4"; empty for none.
        unit: "%" for an accuracy, "points" for a difference of two.
        mean: over runs and test tasks, NaN if there is none.
        std: standard deviation over runs, NaN for less than two.
        low, high: ends of the interval, NaN if there is none.
        interval: what kind of interval that is, in words; empty if there is none.
        num_runs: runs that are averaged, None for what is no run.
        num_tasks: test tasks.
        lost: such as "1 of 3 diverged"; empty if nothing was lost.
        tables: where it is from, study/id.
        folder: folder within the results that its tables are in, such as longer; empty for the results themselves.
    """

    figure: str
    dataset: str
    model: str
    method: str
    layers: int | None
    paper: Published | None
    reasons: tuple[str, ...]
    condition: str = ""
    unit: str = "%"
    mean: float = math.nan
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan
    interval: str = ""
    num_runs: int | None = None
    num_tasks: int = 0
    lost: str = ""
    tables: tuple[str, ...] = ()
    folder: str = ""

    @property
    def difference(self) -> float:
        """Ours less the paper's, NaN if either is missing."""
        return math.nan if self.paper is None else self.mean - self.paper.accuracy

    @property
    def status(self) -> str:
        """How the two compare, one of `STATUSES`."""
        if math.isnan(self.mean):
            return LOST if self.lost else UNMEASURED
        if self.paper is None:
            return UNPUBLISHED
        if not self.interval:
            return NO_INTERVAL
        if self.low <= self.paper.accuracy <= self.high:
            return WITHIN
        return ABOVE if self.difference > 0 else BELOW


def published(figure: str, dataset: str, model: str, method: str, layers: int | None) -> Published | None:
    """The paper's number that stands beside ours in a table, None if it has none.

    Args:
        figure: name of the table in the registry.
        dataset: its name in our tables; beside a stand-in for Omniglot stands Omniglot.
        model, method, layers: as in `Number`.
    """
    wanted = (figure, data.paper_dataset(dataset), model, method, layers or 0)
    for entry in PUBLISHED:
        if (TABLE_OF[entry.source], entry.dataset, entry.model, entry.method, entry.layers) == wanted:
            return entry
    return None


def of_estimate(
    figure: str, dataset: str, found: Estimate, *, condition: str = "", differs: Sequence[str] = ()
) -> Number:
    """The number of a table that an estimate is; `differs` is what the table alone knows to differ from the paper."""
    paper = published(figure, dataset, found.model, found.method, found.layers)
    lost = (f"{found.lost_text}, and not averaged in",) if found.lost else ()
    reasons = (*setting_differences(dataset, found), *differs, *apart(found), *lost) or (SAME,)
    return Number(
        figure,
        dataset,
        found.model,
        found.method,
        found.layers,
        paper,
        reasons if paper is not None else (SILENT, *lost),
        condition=condition,
        mean=found.mean,
        std=found.std,
        low=found.low,
        high=found.high,
        interval=found.interval,
        num_runs=len(found.seeds),
        num_tasks=found.num_tasks,
        lost=found.lost_text,
        tables=found.tables,
    )


def apart(found: Estimate) -> tuple[str, ...]:
    """That seeds are far apart, so that their mean is of none of them."""
    means = sorted(mean for _, mean in found.seeds)
    if len(means) < 2 or means[-1] - means[0] < _APART:
        return ()
    return (f"seeds have {', '.join(f'{mean:.1f}' for mean in means)} %",)


def of_no_run(
    figure: str,
    dataset: str,
    method: str,
    found: Measured,
    *,
    model: str = "",
    layers: int | None = None,
    condition: str = "",
    lost: str = "",
    differs: Sequence[str] = (),
) -> Number:
    """The number of a table that belongs to no run: a ceiling, or an upper bound."""
    paper = published(figure, dataset, model, method, layers)
    reasons = (*stand_in(dataset), *differs, *((f"{lost}, and not averaged in",) if lost else ())) or (SAME,)
    return Number(
        figure,
        dataset,
        model,
        method,
        layers,
        paper,
        reasons if paper is not None else (SILENT,),
        condition=condition,
        mean=found.mean,
        low=found.low,
        high=found.high,
        interval=found.interval,
        num_tasks=found.num_tasks,
        lost=lost,
        tables=found.tables,
    )


def stand_in(dataset: str) -> tuple[str, ...]:
    """That the data set is not the paper's, if so."""
    reference = data.paper_dataset(dataset)
    if reference == dataset:
        return ()
    return (f"{style.dataset_name(dataset)} stands in for {style.dataset_name(reference)}",)


def setting_differences(dataset: str, found: Estimate) -> tuple[str, ...]:
    """What the runs' configurations and test tasks have otherwise than the paper states, or where it states nothing."""
    config = found.configs[0]  # those of one estimate differ in their seed only
    stated = captions.paper_length(config)
    told = list(stand_in(dataset))
    if dataset == "synthetic" and (scale := data.setting(config, "input_scale")) != INPUT_SCALE:
        told.append(f"points times {scale:g} in place of {INPUT_SCALE:g}")
    for ours, paper, what in (
        (config["iterations"], stated.iterations, "training iterations"),
        (config["tasks_per_iteration"], stated.tasks_per_iteration, "tasks an iteration"),
    ):
        if paper is None:
            told.append(f"{ours:,} {what} (the paper does not state how many)")
        elif ours != paper:
            told.append(f"{ours:,} {what} in place of {paper:,}")
    if stated.test_tasks not in (None, found.num_tasks) and found.seeds:
        told.append(f"{found.num_tasks:,} test tasks in place of {stated.test_tasks:,}")
    return tuple(told)


def along_training(numbers: Iterable[Number], results: str | Path) -> list[Number]:
    """The same numbers, each with what its training curve says of its end, where there is one.

    Args:
        numbers: of figures drawn from `results`.
        results: folder of results.

    Raises:
        StudyError: for a damaged table.
    """
    numbers = list(numbers)
    try:
        runs = data.read_runs(results, curves.STUDY, curves.NEEDED)
    except MissingTable:
        return numbers
    return [replace(n, reasons=_with(n.reasons, _ends(n, runs))) for n in numbers]


def _ends(n: Number, runs: data.Runs) -> list[str]:
    """What the curves of a number's runs say; of a difference of two networks, each under its name."""
    ids = {table.partition("/")[2] for table in n.tables}
    groups: dict[tuple[str, str, int | None], list[str]] = {}
    for run in ids & runs.configs.keys():
        config = runs.configs[run]
        groups.setdefault((config["model"], config["method"], config.get("depth")), []).append(run)
    told = []
    for key in sorted(groups, key=str):
        about = f"{style.name_of(*key)}: " if len(groups) > 1 else ""
        told += [f"{about}{sentence}" for sentence in curves.describe_end(curves.line(runs.where(groups[key])))]
    return told


def of_other_folder(numbers: Iterable[Number], others: Iterable[Number]) -> list[Number]:
    """The same numbers, each with what those of another folder, such as of longer trainings, have in its place."""
    known: dict[tuple[object, ...], list[Number]] = {}
    for n in others:
        if not math.isnan(n.mean):
            known.setdefault(_place(n), []).append(n)
    told = [(n, [f"{_told(m)} in {m.folder}" for m in known.get(_place(n), ())]) for n in numbers]
    return [replace(n, reasons=_with(n.reasons, sentences)) for n, sentences in told]


def _told(n: Number) -> str:
    return f"{n.mean:.1f} %" if n.unit == "%" else f"{captions.signed(n.mean)} {n.unit}"


def _place(n: Number) -> tuple[object, ...]:
    return n.figure, n.dataset, n.model, n.method, n.layers, n.condition, n.unit


def _with(reasons: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    found = (*(reason for reason in reasons if reason != SAME), *more)
    return found or reasons


def unmeasured(numbers: Iterable[Number], results: str | Path, failures: Mapping[str, str]) -> list[Number]:
    """A number without a value for each of the paper's that has none of ours beside it.

    Args:
        numbers: what was measured.
        results: folder of results, for the command that makes what is missing.
        failures: why a figure that has tables cannot be drawn, by name in the registry.
    """
    there = {(n.figure, n.dataset, n.paper) for n in numbers if n.paper is not None}
    measured: dict[tuple[str, str], list[str]] = {}
    for n in numbers:
        datasets = measured.setdefault((n.figure, data.paper_dataset(n.dataset)), [])
        if n.dataset not in datasets:
            datasets.append(n.dataset)
    found = []
    for entry in PUBLISHED:
        figure = TABLE_OF[entry.source]
        for dataset in measured.get((figure, entry.dataset), [entry.dataset]):
            if (figure, dataset, entry) not in there:
                reason = failures.get(figure) or _command(entry, dataset, results)
                layers = entry.layers or None
                found.append(Number(figure, dataset, entry.model, entry.method, layers, entry, (reason,)))
    return found


def _command(entry: Published, dataset: str, results: str | Path) -> str:
    if entry.layers == 0:
        return captions.missing_runs(f"{dataset}_linear", results, "post_adaptation")
    if entry.source == "Table A1":
        return captions.missing_runs(f"{dataset}_depth", results, "depth_sweep")
    study = "upper_bound" if entry.method == "upper_bound" else "optimizer_comparison"
    return captions.missing_runs(f"{dataset}_optimizers", results, study)
