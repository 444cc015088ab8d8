"""Which layers adapt: each frozen alone, and each adapting alone (paper, section 3.2, Fig. 2 left and middle)."""

import pandas as pd

from analysis.engine import intervene
from analysis.interventions import Intervention, adapt_only, freeze
from analysis.tasks import setting_columns
from core import Run


def layer_roles(run: Run, *, num_tasks: int = 100, seed: int = 0, progress: bool = False) -> pd.DataFrame:
    """Adapt `run` as it was trained to, with each layer frozen alone, and with each adapting alone.

    Args:
        run: a saved run; its model has at least two layers.
        num_tasks: test tasks.
        seed: seed of the test tasks.
        progress: whether to show a progress bar.

    Returns:
        The table `layer_roles` of `analysis.schemas.SCHEMAS`.

    Raises:
        StudyError: for more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    layers = list(run.layers)
    roles: dict[str, tuple[str, str, Intervention | None]] = {"none": ("none", "", None)}
    roles |= {f"freeze {layer}": ("freeze", layer, freeze(layer)) for layer in layers}
    roles |= {f"adapt only {layer}": ("adapt only", layer, adapt_only(layer)) for layer in layers}
    plans = {name: plan for name, (_, _, plan) in roles.items()}
    table = intervene(run, plans, num_tasks=num_tasks, seed=seed, progress=progress)
    return table.assign(
        kind=table["intervention"].map({name: kind for name, (kind, _, _) in roles.items()}),
        layer=table["intervention"].map({name: layer for name, (_, layer, _) in roles.items()}),
        **setting_columns(run, len(table)),
    )
