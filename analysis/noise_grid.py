"""Noise of several strengths on one layer, and what it does to accuracy and to each layer's outputs, step by step.

The table that `figures.explorer` lets a person walk through; it is not a study of record.
"""

from collections.abc import Sequence

import pandas as pd

from analysis.engine import intervene
from analysis.errors import StudyError
from analysis.fc_noise import STRENGTHS
from analysis.interventions import perturb
from analysis.probes import cka_to_start
from analysis.tasks import setting_columns
from core import Run


def noise_grid(
    run: Run,
    *,
    layer: str | None = None,
    strengths: Sequence[float] = STRENGTHS,
    num_tasks: int = 20,
    seed: int = 0,
    draws: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """Add normal noise to one layer before adaptation, and measure accuracy and similarity after each step.

    All layers adapt that adapted in training, unlike in `fc_noise`, which fixes the early ones.

    Args:
        run: the run.
        layer: what gets the noise: a layer, a parameter or a glob; by default the last layer.
        strengths: standard deviations of the noise, in units of the root mean square of the layer's weights. A task's
            noise is the same for all of them, but for the factor.
        num_tasks: test tasks.
        seed: seed of the test tasks and of the noise.
        draws: noise draws for each task.
        progress: whether to show a progress bar.

    Returns:
        A table as `intervene` returns it, with the settings of the run, `layer`, `std` (the strength), and a column
        `cka <layer>` for each layer of the network: debiased CKA of its outputs with those before adaptation, the
        noise being in both.

    Raises:
        StudyError: for no or a negative strength, or one that is given twice, or more test tasks than there are.
        UserError: for a layer that the network does not have, or a data set whose files are not found.
    """
    noisy = list(run.layers)[-1] if layer is None else layer
    names = {f"{noisy} noise {std:g}": float(std) for std in strengths}
    if not names or len(names) != len(strengths):
        raise StudyError(f"strengths must be different numbers, at least one, got {', '.join(map(str, strengths))}")
    plans = {name: perturb(noisy, std=std) if std else None for name, std in names.items()}
    table = intervene(
        run, plans, probes={"cka": cka_to_start}, num_tasks=num_tasks, seed=seed, draws=draws, progress=progress
    )
    return table.assign(layer=noisy, std=table["intervention"].map(names), **setting_columns(run, len(table)))
