"""How far adaptation changes what each layer represents (as in Raghu et al., 2020)."""

import math
from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from analysis.errors import StudyError
from analysis.representations import debiased_cka, linear_cka, pwcca, svcca
from analysis.tasks import draw_test_tasks, run_columns, setting_columns
from core import Run, adapt
from core.models.layers import layers_of

MEASURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "cka": linear_cka,
    "debiased cka": debiased_cka,
    "svcca": svcca,
    "pwcca": pwcca,
}
BY_POSITION = ("svcca", "pwcca")


def similarity(run: Run, *, num_tasks: int = 100, seed: int = 0, progress: bool = False) -> pd.DataFrame:
    """Compare what each layer makes of a task's examples before and after adaptation, and in the untrained network.

    Examples are those of the support and of the query set, each set passed through the network by itself. For
    alignment (cka), an example's features are all numbers of the layer; for canonical correlations, the channels, and
    every position of every example counts as an example of its own, as Raghu et al. (2020) have it.

    Args:
        run: the saved run.
        num_tasks: test tasks.
        seed: seed of the test tasks.
        progress: whether to show a progress bar.

    Returns:
        The table `similarity` of `analysis.store.SCHEMAS`. Where there are too few examples for a measure the status
        says so, and the value is NaN; for a task that diverged, and a run that did, the status is "diverged".

    Raises:
        StudyError: for more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    config, layers = run.config, list(layers_of(run.theta))
    episodes = draw_test_tasks(run.tasks(seed=seed), num_tasks)
    untrained = {name: p.detach().to(run.theta[name]) for name, p in run.blank_model().named_parameters()}
    rows = []
    for task in tqdm(range(num_tasks), unit="task", disable=not progress, leave=False):
        part = episodes[task : task + 1]
        after = adapt(
            run.model, run.rule, run.theta, run.xi, part, steps=config.steps, lr=config.adapt_lr,
            lr_scope=config.lr_scope, adapted=run.adapted,
        )  # fmt: skip
        sets = [part.support_x[0], part.query_x[0]]
        before = features(run.model, run.theta, layers, sets)
        others = {
            "adapted": features(run.model, {name: tensor[0] for name, tensor in after.params.items()}, layers, sets),
            "untrained": features(run.model, untrained, layers, sets),
        }
        diverged = run.diverged or not torch.isfinite(after.losses).all()
        for compared, other in others.items():
            for layer in layers:
                for measure in MEASURES:
                    x, y = (_arranged(z[layer], by_position=measure in BY_POSITION) for z in (before, other))
                    value, status = (math.nan, "diverged") if diverged else _measured(measure, x, y)
                    rows.append((task, compared, layer, measure, len(x), x.shape[1], value, status))
    columns = ["task", "compared", "layer", "measure", "examples", "features", "value", "status"]
    table = pd.DataFrame(rows, columns=columns)
    common = {**run_columns(run), "status": table["status"]}  # which each value has for itself
    return table.assign(**common, task_seed=seed, **setting_columns(run, len(table)))


def features(model: nn.Module, theta: Mapping[str, Tensor], layers: list[str], sets: list[Tensor]) -> dict[str, Tensor]:
    """What comes out of each layer for sets of examples, joined (n, ...), with the parameters `theta` of one task."""
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, inputs, output: found[layer].append(output)

    hooks = [model.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        with torch.no_grad():
            for x in sets:
                functional_call(model, dict(theta), (x,))
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: torch.cat(outputs) for layer, outputs in found.items()}


def _arranged(outputs: Tensor, *, by_position: bool) -> Tensor:
    """Outputs (n, ...) as examples by features."""
    if by_position and outputs.ndim > 2:
        return outputs.movedim(1, -1).flatten(0, -2)
    return outputs.flatten(1)


def _measured(measure: str, x: Tensor, y: Tensor) -> tuple[float, str]:
    try:
        return MEASURES[measure](x, y), "ok"
    except StudyError as error:
        return math.nan, f"failed: {error}"
