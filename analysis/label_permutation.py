"""How much hangs on which output of the head stands for which class of a task (as in Ye and Chao, 2022)."""

import pandas as pd

from analysis.engine import intervene
from analysis.interventions import permute_labels
from analysis.tasks import setting_columns
from core import Run

DRAWS = 10


def label_permutation(
    run: Run, *, num_tasks: int = 100, seed: int = 0, draws: int = DRAWS, progress: bool = False
) -> pd.DataFrame:
    """Adapt `run` to each task with its classes numbered as they come, and in `draws` random orders.

    The order of the classes means nothing, but a meta-learned head may favour some. The standard deviation of a task's
    accuracy over the draws says how much; the mean over draws is the accuracy that does not depend on the order.

    Args:
        run: a run that classifies, with an output for each class.
        num_tasks: test tasks.
        seed: seed of the test tasks and of the orders.
        draws: orders of each task's classes.
        progress: whether to show a progress bar.

    Returns:
        The table `label_permutation` of `analysis.schemas.SCHEMAS`; `intervention` is none or labels permuted.

    Raises:
        StudyError: if labels are not numbers of classes, or more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    plans = {"none": None, "labels permuted": permute_labels()}
    table = intervene(run, plans, num_tasks=num_tasks, seed=seed, draws=draws, progress=progress)
    return table.assign(**setting_columns(run, len(table)))
