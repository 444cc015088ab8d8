"""Loss and accuracy along meta-training: the study behind Figs. A.1 to A.3."""

import numpy as np
import pandas as pd

from analysis.errors import StudyError
from analysis.tasks import run_columns
from core import Run
from core.evaluation import diverged_rows
from core.tasks import DATASETS
from core.tasks.base import Kind


def training_curves(run: Run) -> pd.DataFrame:
    """The curve that was saved with the run, as a table of this study; nothing is measured again.

    Returns:
        The table `training_curves` of `analysis.schemas.SCHEMAS`. The status is the run's: points of a diverged run
        from before it diverged keep their values. A run that diverged before its first point has one row of NaN. A
        point of a run that is ok, of whose tasks some diverged, is "diverged" by itself: its means measure nothing.

    Raises:
        StudyError: for a run without a curve that did not diverge: it was not trained here.
    """
    curve = run.curve
    if not len(curve) and not run.diverged:
        raise StudyError(f"run {run.id} has no training curve: it was not trained here")
    if not len(curve):
        curve = pd.DataFrame({"iteration": [0], "split": ["test"], "loss": [np.nan], "accuracy": [np.nan]})
        curve["num_tasks"] = 0
    table = curve[["iteration", "split", "loss", "accuracy", "num_tasks"]].assign(**run_columns(run))
    if run.status == "ok":
        lost = diverged_rows(table, _kind(run))
        table.loc[lost, "status"] = "diverged"
        table.loc[lost, ["loss", "accuracy"]] = np.nan
    return table


def _kind(run: Run) -> Kind:
    """Of its tasks; of tasks from outside that are not here, by whether any point has an accuracy."""
    if run.source is not None:
        return run.source.kind
    if run.config.dataset in DATASETS:
        return getattr(DATASETS[run.config.dataset], "kind", "classification")  # a function makes those of images
    return "regression" if run.curve["accuracy"].isna().all() else "classification"
