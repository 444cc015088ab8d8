"""Loss and accuracy along meta-training: the study behind Figs. A.1 to A.3."""

import numpy as np
import pandas as pd

from analysis.tasks import run_columns
from core import Run


def training_curves(run: Run) -> pd.DataFrame:
    """The curve that was saved with the run, as a table of this study; nothing is measured again.

    Returns:
        The table `training_curves` of `analysis.store.SCHEMAS`. The status is the run's: points of a diverged run
        from before it diverged keep their values. A run that diverged before its first point has one row of NaN.
    """
    curve = run.curve
    if not len(curve):
        curve = pd.DataFrame({"iteration": [0], "split": ["test"], "loss": [np.nan], "accuracy": [np.nan]})
        curve["num_tasks"] = 0
    return curve[["iteration", "split", "loss", "accuracy", "num_tasks"]].assign(**run_columns(run))
