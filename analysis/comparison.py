"""Accuracy after adaptation with what a model and its meta-optimizer cost: Fig. 3, Tables 2 and A1."""

import pandas as pd

from analysis.tasks import draw_test_tasks, mark_diverged, run_columns, setting_columns
from core import Run
from core.optimizers.base import split_key


def comparison(run: Run, *, num_tasks: int = 100, seed: int = 0) -> pd.DataFrame:
    """Evaluate `run` on test tasks, adapting as it was trained to.

    Runs of one data set meet the same tasks if the seed is the same: differences of depth (study `depth_sweep`) and of
    method (study `optimizer_comparison`) are paired.

    Args:
        run: a saved run.
        num_tasks: test tasks.
        seed: seed of the test tasks.

    Returns:
        The table `depth_sweep`, or `optimizer_comparison`, of `analysis.schemas.SCHEMAS`. Where a loss is not finite,
        and everywhere for a run that diverged, the status is "diverged" and loss and accuracy are NaN.

    Raises:
        StudyError: for more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    episodes = draw_test_tasks(run.tasks(seed=seed), num_tasks)
    table = run.evaluate(episodes)
    adapted = run.theta if run.adapted is None else run.adapted  # the others' rules are never used
    table = table.assign(
        **run_columns(run),
        **setting_columns(run, len(table)),
        model_parameters=sum(tensor.numel() for tensor in run.theta.values()),
        rule_parameters=sum(tensor.numel() for key, tensor in run.xi.items() if split_key(key)[0] in adapted),
        task_seed=seed,
    )
    return mark_diverged(table, run, ["task"], episodes.kind)
