"""Loss and accuracy along meta-training: the study behind Figs. A.1 to A.3."""

import numpy as np
import pandas as pd

from analysis.tasks import run_columns
from core import Run
from core.evaluation import diverged_rows


def training_curves(run: Run) -> pd.DataFrame:
    """The curve that was saved with the run, as a table of this study; nothing is measured again.

    Returns:
        The table `training_curves` of `analysis.store.SCHEMAS`. The status is the run's: points of a diverged run
        from before it diverged keep their values. A run that diverged before its first point has one row of NaN. A
        point of a run that is ok, of whose tasks some diverged, is "diverged" by itself: its means measure nothing.
    """
    curve = run.curve
    if not len(curve):
        curve = pd.DataFrame({"iteration": [0], "split": ["test"], "loss": [np.nan], "accuracy": [np.nan]})
        curve["num_tasks"] = 0
    table = curve[["iteration", "split", "loss", "accuracy", "num_tasks"]].assign(**run_columns(run))
    if run.status == "ok":
        lost = diverged_rows(table)
        table.loc[lost, "status"] = "diverged"
        table.loc[lost, ["loss", "accuracy"]] = np.nan
    return table
