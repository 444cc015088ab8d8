"""Table 1: accuracy after adaptation of the linear models and meta-optimizers, on every data set that was measured."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from figures import captions, comparison, data, estimation, style
from figures.comparison import Number
from figures.data import LINEAR, Runs, Where
from figures.errors import MissingTable
from figures.estimation import Ceiling, Estimate
from figures.paper import linear_accuracy
from figures.tabular import LOST, Cell, Column, Trace, bracketed, describe_cells, estimate_cell

STUDY = "post_adaptation"
NEEDED = ("steps", "points_seen", "task_seed", "task", "step", "split", "accuracy")


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """The table, by file name.

    Raises:
        MissingTable: if nothing was measured.
        FigureError, StudyError: for runs that cannot be pooled, or tables that cannot be read.
    """
    first = f"python -m core experiment synthetic_linear --results {results}"
    runs = data.read_runs(results, STUDY, NEEDED, where, first=first)
    found = table(runs, estimation.read_ceilings(results))
    if found is None:
        raise MissingTable(f"no linear model was measured; {captions.missing_runs('synthetic_linear', results, STUDY)}")
    return {"table1": found}


def table(runs: Runs, ceilings: pd.DataFrame | None = None) -> Trace | None:
    """The table of these runs, None if none of them belongs in it.

    Raises:
        FigureError, StudyError: for runs that cannot be pooled.
    """
    measured: list[tuple[str, str, dict[tuple[str, str], Estimate]]] = []
    for dataset, points_seen in [("synthetic", "same"), ("synthetic", "fresh"), *((d, "") for d in data.OMNIGLOT_LIKE)]:
        groups = data.by_method(data.in_setting(runs, dataset))
        estimates = {
            pair: e for pair, group in groups.items() if (e := estimation.estimate(group, points_seen)) is not None
        }
        if estimates:
            measured.append((dataset, points_seen, estimates))
    if not measured:
        return None
    bounds: dict[str, tuple[Ceiling, ...]] = {}
    for dataset, points_seen, estimates in measured:
        if dataset == "synthetic":
            points, _ = data.synthetic_setting(next(iter(estimates.values())).configs[0])
            bounds[points_seen] = estimation.ceiling_estimates(ceilings, points=points, evaluated_on=points_seen)
    names = list(dict.fromkeys(c.name for found in bounds.values() for c in found))

    columns: list[Column] = []
    for reference, own in groupby(measured, key=lambda m: data.paper_dataset(m[0])):
        group = "Synthetic, 1 step" if reference == "synthetic" else "Characters, 5-way 1-shot, 2 steps"
        for dataset, points_seen, estimates in own:
            cells = [estimate_cell(estimates.get(pair)) for pair in LINEAR]
            by_name = {c.name: c for c in bounds.get(points_seen, ())}
            cells += [_ceiling_cell(by_name.get(name)) for name in names]
            head = captions.POINTS_SEEN[points_seen] or style.dataset_name(dataset)
            columns.append(Column(group, head, tuple(cells)))
        published = [linear_accuracy(reference, *pair) for pair in LINEAR]
        cells = [Cell(LOST if value is None else f"{value:.0f}") for value in published]
        head = "paper" if reference == "synthetic" else "paper (full Omniglot)"
        columns.append(Column(group, head, (*cells, *(Cell("") for _ in names))))
    return Trace(
        rows=(*(style.look_of(*pair).name for pair in LINEAR), *(style.CEILING_NAMES[name] for name in names)),
        ruled=(len(LINEAR),) if names else (),
        columns=tuple(columns),
        notes=_notes(measured, [c for found in bounds.values() for c in found]),
        label="tab:linear",
        numbers=_numbers(measured, bounds),
    )


def _numbers(
    measured: Sequence[tuple[str, str, dict[tuple[str, str], Estimate]]], bounds: Mapping[str, Sequence[Ceiling]]
) -> tuple[Number, ...]:
    found = []
    for dataset, points_seen, estimates in measured:
        # The paper has one loss a task (equation 1): its accuracies are on the points adapted to.
        differs = ("measured on fresh points, not on those adapted to",) if points_seen == "fresh" else ()
        told = captions.POINTS_SEEN[points_seen]
        for e in estimates.values():
            found.append(comparison.of_estimate("table1", dataset, e, condition=told, differs=differs))
        if dataset == "synthetic":
            for ceiling in bounds[points_seen]:
                found.append(comparison.of_no_run("table1", dataset, ceiling.name, ceiling, condition=told))
    return tuple(found)


def _ceiling_cell(found: Ceiling | None) -> Cell:
    return Cell("") if found is None else Cell(f"{found.mean:.1f}", bracketed(found.low, found.high))


def _notes(
    measured: Sequence[tuple[str, str, dict[tuple[str, str], Estimate]]], ceilings: Sequence[Ceiling]
) -> tuple[str, ...]:
    notes = [describe_cells(e for _, _, estimates in measured for e in estimates.values())]
    notes += [captions.describe(dataset, list(found.values())) for dataset, _, found in measured]
    if any(dataset == "synthetic" for dataset, _, _ in measured):
        notes.append("Own points are those that were adapted to, fresh points are new ones of the same tasks.")
    if ceilings:
        notes.append(
            "Mean and Bayes classifier are made from a task's support points, without any run; the former is the "
            "ceiling of one step by a rule that favours no direction."
        )
    notes.append(
        'Paper: the values that its prose states (LR on synthetic tasks: "chance"); its Table 1 was a picture and is '
        "lost."
    )
    notes += captions.describe_lost(run for _, _, found in measured for e in found.values() for run in e.lost)
    return tuple(dict.fromkeys(notes))
