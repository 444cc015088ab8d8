"""What all studies of runs share: the test tasks, and the columns that say which run it was."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from analysis.errors import StudyError
from core import Run
from core.evaluation import diverged_rows
from core.tasks.base import Episodes, Kind, TaskSource, concatenate


def draw_test_tasks(source: TaskSource, num_tasks: int) -> Episodes:
    """The first `num_tasks` test tasks of `source`.

    They are drawn one at a time, so that task i is the same whatever `num_tasks` is: tables of 100 and of 600 tasks
    can be paired.

    Raises:
        StudyError: for fewer than one task, or more than a fixed pool has (repeats would pass for more evidence).
    """
    check_num_tasks(source, num_tasks)
    return concatenate([source.sample("test", 1, index=task) for task in range(num_tasks)])


def check_num_tasks(source: TaskSource, num_tasks: int) -> None:
    """See that `source` has as many test tasks.

    Raises:
        StudyError: if not, or for fewer than one task.
    """
    if num_tasks < 1:
        raise StudyError(f"num_tasks must be at least 1, got {num_tasks}")
    pools = source.pool_sizes
    if pools is not None and "test" not in pools:
        raise StudyError(f"there are no test episodes, only {', '.join(pools)}")
    if pools is not None and num_tasks > pools["test"]:
        raise StudyError(f"{num_tasks} tasks asked for, but the test pool of {source.name} has {pools['test']}")


def run_columns(run: Run) -> dict[str, Any]:
    """The columns common to the tables of all studies of runs."""
    config = run.config
    return {
        "run": run.id,
        "dataset": config.dataset,
        "model": config.model,
        "method": config.method,
        "seed": config.seed,
        # At which iteration is told by the run itself; here the word is a category.
        "status": "diverged" if run.diverged else run.status,
    }


def setting_columns(run: Run, rows: int) -> dict[str, Any]:
    """The columns that say what was trained and for how long, for tables of `rows` rows."""
    config = run.config
    return {
        "layers": pd.array([config.num_layers] * rows, dtype="Int64"),
        "norm_mode": config.norm_mode or "",
        "ways": pd.array([config.ways] * rows, dtype="Int64"),
        "shots": pd.array([config.shots] * rows, dtype="Int64"),
        "steps": config.steps,
        "adapt_lr": config.adapt_lr,
        "iterations": config.iterations,
        "tasks_per_iteration": config.tasks_per_iteration,
    }


def mark_diverged(
    table: pd.DataFrame, run: Run, task: Sequence[str], kind: Kind, also: Sequence[str] = ()
) -> pd.DataFrame:
    """Set loss and accuracy of diverged tasks to NaN and their status to "diverged"; all tasks of a diverged run.

    A task diverges as a whole: a finite number at step 0 of a task that later blew up is no measurement of it. What is
    none, `core.evaluation.diverged_rows` says.

    Args:
        table: with columns loss, accuracy and status; changed in place.
        run: the run that was measured.
        task: the columns that tell tasks (and what was done to them) apart.
        kind: of the tasks.
        also: further columns that are no measurement of a task that diverged.
    """
    keys = [table[name] for name in task]
    lost = diverged_rows(table, kind).groupby(keys).transform("any") | (run.status != "ok")
    table.loc[lost, ["loss", "accuracy", *also]] = np.nan
    if run.status == "ok":
        table.loc[lost, "status"] = "diverged"
    return table


def to_float64(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in double precision, detached."""
    return {name: tensor.detach().double() for name, tensor in tensors.items()}
