"""Table 2: the meta-optimizers on a CNN of 2 layers, below what the same network reaches when trained on each task."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics import interval
from analysis.store import table_paths
from figures import captions, comparison, data, estimation, style
from figures.comparison import Number
from figures.data import Where
from figures.errors import FigureError, MissingTable
from figures.estimation import Estimate
from figures.paper import CNN_LENGTHS, CNN_SETTINGS, cnn_accuracy
from figures.tabular import (
    ABSENT,
    UNSTATED,
    Cell,
    Column,
    Trace,
    bracketed,
    describe_cells,
    estimate_cell,
    published_cell,
)

STUDY = "optimizer_comparison"
NEEDED = ("steps", "task_seed", "task", "step", "split", "accuracy")
BOUND = "upper_bound"
BOUND_NEEDED = (
    "dataset", "model", "layers", "norm_mode", "ways", "shots", "task_seed", "task", "training_shots",
    "training_steps", "converged", "accuracy", "status",
)  # fmt: skip
LAYERS = 2
METHODS = ("maml", "meta_sgd", "meta_curvature", "kfc")
_LENGTH_ROWS = ("seeds", "test tasks", "iterations", "tasks an iteration")


@dataclass(frozen=True)
class Bound:
    """What the network reaches on tasks that it is trained on one by one, in percent.

    Attributes:
        mean: over tasks that did not diverge.
        low, high: ends of the interval over these tasks.
        interval: its name, empty if there is none.
        num_tasks: tasks that are averaged.
        num_lost: tasks that diverged, which are not.
        num_converged: tasks whose training ended by its stopping rule.
        steps: fewest, median and most steps of these, None if there are none.
        stopped: steps after which the others were stopped, None if there are none.
        training_shots: images of each class that it learned from, in words.
        tables: where it is from, study/id.
    """

    mean: float
    low: float
    high: float
    interval: str
    num_tasks: int
    num_lost: int
    num_converged: int
    steps: tuple[float, float, float] | None
    stopped: int | None
    training_shots: str
    tables: tuple[str, ...]

    @property
    def lost_text(self) -> str:
        """Such as "1 of 4 tasks diverged"; empty if none did."""
        return f"{self.num_lost} of {self.num_tasks + self.num_lost} tasks diverged" if self.num_lost else ""


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """The table, by file name.

    Raises:
        MissingTable: if nothing was measured.
        FigureError, StudyError: for runs that cannot be compared, or tables that cannot be read.
    """
    first = f"python -m core experiment glyphs_optimizers --results {results}"
    runs = data.read_runs(results, STUDY, NEEDED, where, first=first)
    bounds = read_bounds(results)
    measured: dict[str, dict[str, Estimate]] = {}
    for dataset in data.IMAGES:
        groups = data.by_depth(runs, dataset, [(LAYERS, method) for method in METHODS])
        estimates = {
            method: e for (_, method), group in groups.items() if (e := estimation.estimate(group)) is not None
        }
        if estimates:
            measured[dataset] = estimates
    if not measured:
        needed = captions.missing_runs("glyphs_optimizers", results, STUDY)
        raise MissingTable(f"no CNN-{LAYERS} was measured in the paper's setting; {needed}")
    found = {
        dataset: bound(bounds, dataset, next(iter(estimates.values())).configs[0])
        for dataset, estimates in measured.items()
    }
    return {"table2": table(measured, found)}


def read_bounds(results: str | Path) -> pd.DataFrame | None:
    """The tables `upper_bound`, None if there are none.

    Raises:
        FigureError: for a missing column.
        StudyError: for a damaged table.
    """
    if not table_paths(results, BOUND):
        return None
    frame = data.read_named(results, BOUND)
    data.check_columns(frame, BOUND_NEEDED, BOUND)
    return frame


def bound(frame: pd.DataFrame | None, dataset: str, config: Mapping[str, Any]) -> Bound | None:
    """The upper bound of the compared network on a data set, None if it was not measured.

    Args:
        frame: the tables `upper_bound`, or None.
        dataset: its name in the tables.
        config: of one of the compared runs; a network that normalises otherwise is another, and so is one of which the
            table says more, such as its filters, and that differs in it.

    Raises:
        FigureError: if a task is there twice, from networks or tasks of two kinds, or is of other data than the runs'.
    """
    if frame is None:
        return None
    setting = CNN_SETTINGS[data.paper_dataset(dataset)]
    norm_mode = config.get("norm_mode") or ""
    names = frame["dataset"].eq(dataset) & frame["model"].eq("cnn") & frame["norm_mode"].eq(norm_mode)
    numbers = frame["ways"].eq(setting["ways"]) & frame["shots"].eq(setting["shots"]) & frame["layers"].eq(LAYERS)
    rows = frame[names & numbers]
    rows = rows[[data.is_bound_of(json.loads(stated), config) for stated in rows["config"]]]
    if not len(rows):
        return None
    if rows.duplicated(["task_seed", "task"]).any():
        raise FigureError(
            f"tables of {BOUND} hold a task of {dataset} twice for CNN-{LAYERS}, from networks or tasks of two kinds; "
            "keep the one that belongs to the runs"
        )
    known = {one for one in (*rows["dataset_fingerprint"], config.get("dataset_fingerprint")) if one}
    if len(known) > 1:
        raise FigureError(f"the table {BOUND} of {dataset} is of other data than the runs; measure it again")
    good = rows[rows["status"].eq("ok")]
    learned_from, tables = captions.in_words(rows["training_shots"].unique()), tuple(rows["table"].unique())
    if not len(good):
        nothing = float("nan")
        return Bound(nothing, nothing, nothing, "", 0, len(rows), 0, None, None, learned_from, tables)
    over = interval(100 * good["accuracy"], over="tasks")
    ended, cut = good[good["converged"]]["training_steps"], good[~good["converged"]]["training_steps"]
    return Bound(
        over.mean,
        over.low,
        over.high,
        estimation.interval_name(over),
        len(good),
        len(rows) - len(good),
        len(ended),
        (float(ended.min()), float(ended.median()), float(ended.max())) if len(ended) else None,
        int(cut.max()) if len(cut) else None,
        learned_from,
        tables,
    )


def table(measured: Mapping[str, Mapping[str, Estimate]], bounds: Mapping[str, Bound | None]) -> Trace:
    """The table of estimates by data set and method, and of the upper bounds."""
    columns: list[Column] = []
    for reference, own in groupby(measured, key=data.paper_dataset):
        setting = CNN_SETTINGS[reference]
        group = f"{setting['ways']}-way {setting['shots']}-shot, {setting['steps']} steps"
        for dataset in own:
            estimates = measured[dataset]
            cells = [_bound_cell(bounds[dataset]), *(estimate_cell(estimates.get(method)) for method in METHODS)]
            columns.append(
                Column(group, style.dataset_name(dataset), (*cells, *_length_cells(estimates, bounds[dataset])))
            )
        published = [published_cell(cnn_accuracy(reference, LAYERS, name)) for name in (BOUND, *METHODS)]
        stated = CNN_LENGTHS[reference]
        lengths = (None, stated.test_tasks, stated.iterations, stated.tasks_per_iteration)
        cells = [*published, *(Cell(UNSTATED if n is None else f"{n:,}") for n in lengths)]
        head = "paper (full Omniglot)" if reference == "omniglot" else "paper"
        columns.append(Column(group, head, tuple(cells)))
    return Trace(
        rows=("upper bound", *(style.name_of("cnn", method, LAYERS) for method in METHODS), *_LENGTH_ROWS),
        ruled=(1, 1 + len(METHODS)),
        columns=tuple(columns),
        notes=_notes(measured, bounds),
        label="tab:optimizers",
        first=0.27,
        numbers=tuple(_numbers(measured, bounds)),
    )


def _numbers(measured: Mapping[str, Mapping[str, Estimate]], bounds: Mapping[str, Bound | None]) -> Iterator[Number]:
    for dataset, estimates in measured.items():
        if (found := bounds[dataset]) is not None:
            differs = [f"trained on {found.training_shots} images a class (the paper does not say on how many)"]
            if dataset in data.OMNIGLOT_LIKE:
                differs.append("Omniglot has 20 a class, so few more can have been the paper's: not explained")
            if found.stopped is not None:
                differs.append(f"{found.num_tasks - found.num_converged} of {found.num_tasks} tasks not converged")
            yield comparison.of_no_run(
                "table2", dataset, BOUND, found, model="cnn", layers=LAYERS, lost=found.lost_text, differs=differs
            )
        for e in estimates.values():
            yield comparison.of_estimate("table2", dataset, e)


def _bound_cell(found: Bound | None) -> Cell:
    if found is None:
        return Cell(ABSENT)
    return Cell(f"{found.mean:.1f}" if found.num_tasks else "", bracketed(found.low, found.high), found.lost_text)


def _length_cells(estimates: Mapping[str, Estimate], found: Bound | None) -> list[Cell]:
    config = next(iter(estimates.values())).configs[0]
    num_tasks = captions.in_words(e.num_tasks for e in estimates.values() if e.seeds)
    of_bound = "" if found is None or f"{found.num_tasks:,}" == num_tasks else f" (bound: {found.num_tasks:,})"
    return [
        Cell(captions.in_words(len(e.seeds) for e in estimates.values())),
        Cell(f"{num_tasks}{of_bound}"),
        Cell(f"{config['iterations']:,}"),
        Cell(f"{config['tasks_per_iteration']:,}"),
    ]


def _notes(measured: Mapping[str, Mapping[str, Estimate]], bounds: Mapping[str, Bound | None]) -> tuple[str, ...]:
    estimates = [e for found in measured.values() for e in found.values()]
    kinds = describe_cells([*estimates, *(found for found in bounds.values() if found is not None)])
    notes = [f"{kinds} {style.name_of('cnn', 'maml', LAYERS)} alone is under MAML."]
    notes += [_describe_bound(dataset, found) for dataset, found in bounds.items() if found is not None]
    for dataset, found in measured.items():
        notes.append(captions.describe(dataset, list(found.values())))
        absent = [style.name_of("cnn", method, LAYERS) for method in METHODS if method not in found]
        absent = [*(["upper bound"] if bounds[dataset] is None else []), *absent]
        if absent:
            notes.append(f"Not measured on {style.dataset_name(dataset)}: {', '.join(absent)}.")
    there = {data.paper_dataset(dataset) for dataset in measured}
    if absent := [style.dataset_name(reference) for reference in CNN_SETTINGS if reference not in there]:
        notes.append(f"Not measured: {', '.join(absent)}.")
    for found in measured.values():
        notes += captions.describe_norm(next(iter(found.values())).configs[0])
    notes.append("Paper: its Table 2; it does not say what its deviations are over.")
    notes += captions.describe_lost(run for e in estimates for run in e.lost)
    return tuple(dict.fromkeys(notes))


def _describe_bound(dataset: str, found: Bound) -> str:
    told = (
        f"Upper bound on {style.dataset_name(dataset)}: the network trained from scratch on each of {found.num_tasks} "
        f"tasks alone, on {found.training_shots} images a class (the paper does not say on how many)"
    )
    if found.steps is not None:
        fewest, median, most = (f"{steps:,g}" for steps in found.steps)
        told += f"; {found.num_converged} converged, after {fewest} to {most} steps (median {median})"
    if found.stopped is not None:
        num_cut = found.num_tasks - found.num_converged
        told += f"; not converged, and measured after {found.stopped:,} steps: {num_cut}"
    if found.num_lost:
        told += f"; diverged, and not averaged in: {found.num_lost}"
    return f"{told}; mean over tasks."
