"""Loss and accuracy on test tasks before and after each adaptation step: the study behind Fig. 1 and Table 1."""

from typing import Any

import pandas as pd

from analysis.tasks import draw_test_tasks, mark_diverged, run_columns
from core import Run


def post_adaptation(run: Run, *, num_tasks: int = 100, seed: int = 0) -> pd.DataFrame:
    """Evaluate `run` on test tasks, adapting as it was trained to.

    Args:
        run: a saved run.
        num_tasks: test tasks.
        seed: seed of the test tasks. It is not the run's own: with equal seeds all runs of a data set meet the same
            tasks, and their differences are paired.

    Returns:
        The table `post_adaptation` of `analysis.schemas.SCHEMAS`: one row a task, step and split. Synthetic tasks are
        measured twice, with the task's own points as query points (`points_seen` "same", as the paper's equation 1
        has it) and with fresh ones. Where a loss is not finite, and everywhere for a run that diverged, the status is
        "diverged" and loss and accuracy are NaN.

    Raises:
        StudyError: for more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    synthetic = run.config.dataset == "synthetic"
    parts = []
    for points_seen in ("same", "fresh") if synthetic else ("",):
        changes: dict[str, Any] = {"same_points": points_seen == "same"} if synthetic else {}
        episodes = draw_test_tasks(run.tasks(seed=seed, **changes), num_tasks)
        parts.append(run.evaluate(episodes).assign(points_seen=points_seen))
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(
        **run_columns(run),
        ways=pd.array([run.config.ways] * len(table), dtype="Int64"),
        shots=pd.array([run.config.shots] * len(table), dtype="Int64"),
        steps=run.config.steps,
        adapt_lr=run.config.adapt_lr,
        task_seed=seed,
    )
    return mark_diverged(table, run, ["points_seen", "task"], episodes.kind)
