"""What noise on the last layer does to adaptation, the early layers held fixed (paper, section 3.2, Fig. 2 right)."""

from collections.abc import Sequence

import pandas as pd

from analysis.engine import intervene
from analysis.errors import StudyError
from analysis.interventions import Intervention, freeze, perturb
from analysis.tasks import setting_columns
from core import Run

# In units of the layer's own scale, so that the axis means the same for every run.
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


def fc_noise(
    run: Run,
    *,
    num_tasks: int = 100,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    draws: int = 3,
    progress: bool = False,
) -> pd.DataFrame:
    """Add normal noise to the last layer before adaptation, while the last two layers adapt and the others are fixed.

    Args:
        run: a saved run; its model has at least two layers.
        num_tasks: test tasks.
        seed: seed of the test tasks and of the noise.
        strengths: standard deviations of the noise, in units of the root mean square of the layer's weights. A task's
            noise is the same for all of them, but for the factor.
        draws: noise draws for each task.
        progress: whether to show a progress bar.

    Returns:
        The table `fc_noise` of `analysis.schemas.SCHEMAS`.

    Raises:
        StudyError: for a model of one layer, a negative strength, one that is given twice, strengths without 0, which
            the others are compared with, or as `layer_roles`.
    """
    layers = list(run.layers)
    if len(layers) < 2:
        raise StudyError(f"fc_noise needs a model of at least two layers; run {run.id} has {', '.join(layers)}")
    fixed = freeze(*layers[:-2]) if len(layers) > 2 else Intervention()
    names = {f"{layers[-1]} noise {std:g}": std for std in strengths}
    if 0 not in strengths or len(names) != len(strengths):
        raise StudyError(f"strengths must be different numbers, 0 among them, got {', '.join(map(str, strengths))}")
    plans = {name: fixed + perturb(layers[-1], std=std) if std else fixed for name, std in names.items()}
    table = intervene(run, plans, num_tasks=num_tasks, seed=seed, draws=draws, progress=progress)
    return table.assign(
        layer=layers[-1], std=table["intervention"].map(names).astype("float64"), **setting_columns(run, len(table))
    )
