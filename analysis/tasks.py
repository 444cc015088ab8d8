"""What all studies of runs share: the test tasks, and the columns that say which run it was."""

from typing import Any

from torch import Tensor

from analysis.errors import StudyError
from core import Run
from core.tasks.base import Episodes, TaskSource, concatenate


def draw_test_tasks(source: TaskSource, num_tasks: int) -> Episodes:
    """The first `num_tasks` test tasks of `source`.

    They are drawn one at a time, so that task i is the same whatever `num_tasks` is: tables of 100 and of 600 tasks
    can be paired.

    Raises:
        StudyError: for fewer than one task, or more than a fixed pool has (repeats would pass for more evidence).
    """
    if num_tasks < 1:
        raise StudyError(f"num_tasks must be at least 1, got {num_tasks}")
    pools = getattr(source, "pool_sizes", None)
    if pools is not None and num_tasks > pools["test"]:
        raise StudyError(f"{num_tasks} tasks asked for, but the test pool of {source.name} has {pools['test']}")
    return concatenate([source.sample("test", 1, index=task) for task in range(num_tasks)])


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


def to_float64(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in double precision, detached."""
    return {name: tensor.detach().double() for name, tensor in tensors.items()}
