"""How far adaptation changes what each layer represents (as in Raghu et al., 2020)."""

import math
from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.errors import StudyError
from analysis.representations import debiased_cka, linear_cka, pwcca, svcca
from analysis.snapshots import layer_outputs
from analysis.tasks import draw_test_tasks, run_columns, setting_columns
from core import Episodes, Run
from core.adaptation import one_replica
from core.evaluation import as_table, diverged_rows, measure
from core.inner_loop import InnerLoop, inner_loop
from core.progress import progress_bar

MEASURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "cka": linear_cka,
    "debiased cka": debiased_cka,
    "svcca": svcca,
    "pwcca": pwcca,
}
BY_POSITION = ("svcca", "pwcca")


@torch.inference_mode(False)  # and with gradients, whatever the caller's mode
def similarity(
    run: Run,
    *,
    others: Mapping[str, Run] | None = None,
    num_tasks: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Compare what each layer makes of a task's examples before and after adaptation, and in other networks.

    Examples are those of the support and of the query set, each set passed through the network by itself. For
    alignment (cka), an example's features are all numbers of the layer; for canonical correlations, the channels, and
    every position of every example counts as an example of its own, as Raghu et al. (2020) have it. Outputs (examples,
    a, b), where either may be the features, have no canonical correlations.

    Args:
        run: the run.
        others: further networks before adaptation, by name, such as the same with another seed; with layers of the
            same names. The untrained network is one in any case (of a network trained elsewhere: a random one).
        num_tasks: test tasks.
        seed: seed of the test tasks.
        progress: whether to show a progress bar.

    Returns:
        The table `similarity` of `analysis.schemas.SCHEMAS`. Where there are too few examples for a measure the status
        says so, and the value is NaN; for a task that diverged, and a run that did, the status is "diverged".

    Raises:
        StudyError: for more test tasks than there are, or another network that lacks a layer of this one or has the
            name of a comparison that there is in any case.
        UserError: for a data set whose files are not found.
    """
    others = dict(others or {})
    if taken := sorted({"adapted", "untrained"} & others.keys()):
        raise StudyError(f"another network cannot be called {', '.join(taken)}: there is such a comparison in any case")
    for name, other in others.items():
        if missing := [layer for layer in run.layers if layer not in other.layers]:
            raise StudyError(f"{name} has no layer {', '.join(missing)}; it has {', '.join(other.layers)}")
    episodes = draw_test_tasks(run.tasks(seed=seed), num_tasks)
    blank = run.blank_model().to(next(iter(run.theta.values())).device)
    untrained = {name: p.detach().to(run.theta[name]) for name, p in blank.named_parameters()}
    rows = []
    for task in progress_bar(range(num_tasks), unit="task", shown=progress, leave=False):
        part = episodes[task : task + 1]
        after, lost = _adapted(run, part)
        before = _features(run, one_replica(run.theta), part)
        networks = {
            "adapted": _features(run, after, part),
            "untrained": _features(run, one_replica(untrained), part, blank),
        }
        networks |= {name: _features(other, one_replica(other.theta), part) for name, other in others.items()}
        diverged = run.diverged or lost
        for compared, outputs in networks.items():
            for layer in before:
                for name in MEASURES:
                    x, y = (_arranged(z[layer], by_position=name in BY_POSITION) for z in (before, outputs))
                    if diverged:
                        value, status = math.nan, "diverged"
                    elif name in BY_POSITION and before[layer].ndim == 3:
                        value, status = math.nan, "failed: which axis of its outputs has the features is not known"
                    else:
                        value, status = _measured(name, x, y)
                    rows.append((task, compared, layer, name, len(x), x.shape[1], value, status))
    columns = ["task", "compared", "layer", "measure", "examples", "features", "value", "status"]
    table = pd.DataFrame(rows, columns=columns)
    common = {**run_columns(run), "status": table["status"]}  # which each value has for itself
    return table.assign(**common, task_seed=seed, **setting_columns(run, len(table)))


def _adapted(run: Run, part: Episodes) -> tuple[dict[str, Tensor], bool]:
    """The parameters (1, *shape) of one task after adaptation, and whether the task diverged, as in all studies."""
    config = run.config
    loop = InnerLoop(config.steps, config.adapt_lr, True, config.lr_scope, run.adapted)
    walk = inner_loop(
        run.model, run.rule, one_replica(run.theta), one_replica(run.xi), part.support_x, part.support_y, part.kind,
        loop, create_graph=False,
    )  # fmt: skip
    points = []
    for point in walk:
        points.append(measure(iter([point]), part, loop.steps))
    theta = {name: parameter.detached() for name, parameter in point[0].theta.items()}
    return theta, bool(diverged_rows(as_table(torch.cat(points, dim=1)), part.kind).any())


def _features(
    run: Run, theta: Mapping[str, Tensor], part: Episodes, model: nn.Module | None = None
) -> dict[str, Tensor]:
    """What comes out of each layer for the support and then the query examples of one task, (n, ...)."""
    support, query = (layer_outputs(run, theta, x, model) for x in (part.support_x, part.query_x))
    return {layer: torch.cat([outputs[0], query[layer][0]]) for layer, outputs in support.items()}


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
