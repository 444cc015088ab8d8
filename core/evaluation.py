"""Loss and accuracy of each task after each adaptation step."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from core.adaptation import check_chunk, checked_loop, chunks, differentiable, explained, one_replica
from core.crew import shared_out
from core.inner_loop import InnerLoop, LrScope, Walk, inner_loop
from core.losses import task_accuracies, task_losses
from core.optimizers.base import MetaOptimizer
from core.tasks.base import Episodes, Kind
from core.tasks.overlap import warn_of_shared

Tensors = Mapping[str, Tensor]
# Nats: logits as large as a cross-entropy above this calls for are whole numbers in float32, and so say nothing of
# probabilities; which is the largest is then an accident, and looks like chance.
EXPLODED = 2.0**24
CHUNK_NUMBERS = 2**20  # numbers in the larger sets of the tasks that a core takes at once: what its cache holds
GPU_CHUNK_NUMBERS = 2**27  # the same on a GPU, which has to be kept busy: half a GiB
COPIED_NUMBERS = 2**26  # numbers in the copies of a network for the tasks that go through at once: 256 MiB
CONVOLUTION_GROWTH = (
    8  # what a convolution makes of its input, in numbers, more or less; CNN-4: 4 tasks are best of 1-26
)


def replica_evaluate(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    loop: InnerLoop,
    *,
    query_only_at_end: bool = False,
    tasks_per_chunk: int | None = None,
) -> Tensor:
    """Adapt S replicas to their tasks, and measure.

    Args:
        model: the module for one task.
        rule: the meta-optimizer.
        theta: (S, *shape) initial parameters.
        xi: (S, *shape) parameters of the rule.
        episodes: S * T tasks, replica by replica.
        loop: how a task is adapted to.
        query_only_at_end: measure the query set after the last step only.
        tasks_per_chunk: tasks of each replica that go through at once; by default as many as the caches of a CPU's
            cores hold, or keep a GPU busy.

    Returns:
        (S, T, K, 2 sets, 2 measures): sets are support and query, measures are loss and accuracy; K is steps + 1, or
        1 with `query_only_at_end` (support numbers are then NaN).

    Raises:
        UserError: if the model's outputs do not fit the labels.
    """
    num_replicas = len(next(iter(theta.values())))
    each = default_chunk(model, episodes, num_replicas) if tasks_per_chunk is None else None
    crew, size = shared_out(model, rule, episodes, num_replicas, together=tasks_per_chunk, each=each)

    def of_part(part: Episodes) -> Tensor:
        walk = inner_loop(model, rule, theta, xi, part.support_x, part.support_y, part.kind, loop, create_graph=False)
        points = measure(walk, part, loop.steps, query_only_at_end=query_only_at_end)
        return points.unflatten(0, (num_replicas, -1))

    return torch.cat(list(crew.each(of_part, chunks(episodes, num_replicas, size))), dim=1)


def measure(walk: Walk, episodes: Episodes, steps: int, *, query_only_at_end: bool = False) -> Tensor:
    """Loss and accuracy at each state of an inner loop, (N, K, 2 sets, 2 measures), as `replica_evaluate` has them."""
    points = []

    def measured(outputs: Tensor, y: Tensor) -> Tensor:
        return torch.stack([task_losses(outputs, y, episodes.kind), task_accuracies(outputs, y, episodes.kind)], dim=1)

    for state, forward, outputs in walk:
        if query_only_at_end and state.step < steps:
            continue
        with torch.no_grad():
            query = measured(forward(episodes.query_x), episodes.query_y)
            if query_only_at_end:
                support = torch.full_like(query, torch.nan)
            else:
                at_end = state.step == steps
                support = measured(forward(episodes.support_x) if at_end else outputs, episodes.support_y)
        points.append(torch.stack([support, query], dim=1))
    return torch.stack(points, dim=1)


def default_chunk(model: nn.Module, episodes: Episodes, num_replicas: int = 1) -> int:
    """How many tasks of each replica a core, or a GPU, takes at once: as many as fit, and a large network's copies."""
    growth = CONVOLUTION_GROWTH if any(isinstance(module, nn.Conv2d) for module in model.modules()) else 1
    held = CHUNK_NUMBERS if episodes.support_x.device.type == "cpu" else GPU_CHUNK_NUMBERS
    examples = max(episodes.support_x[0].numel(), episodes.query_x[0].numel())
    of_examples = held // (num_replicas * examples * growth)
    of_parameters = COPIED_NUMBERS // (num_replicas * sum(p.numel() for p in model.parameters()) + 1)
    return max(1, min(of_examples, of_parameters))


@torch.inference_mode(False)
def evaluate(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    *,
    steps: int,
    lr: float,
    lr_scope: LrScope = "both",
    adapted: tuple[str, ...] | list[str] | None = None,
    tasks_per_chunk: int | None = None,
) -> pd.DataFrame:
    """Adapt to each task and measure at theta_0 ... theta_steps; arguments as in `meta_gradient`.

    Returns:
        A table with one row per task, step and set, sorted so:
        `task` (int64) position on the task axis; `step` (int64) number of steps taken, 0 is before adaptation;
        `split` (str) "support" or "query"; `loss` (float64) mean over the set's examples, nats for classification;
        `accuracy` (float64) fraction of the set's examples, NaN for regression and for a task that diverged;
        `status` (str) "ok", or "diverged" for all rows of a task of which a loss is not finite or, for classes, above
        `EXPLODED`: its accuracies would look like chance. pandas leaves NaN out of a mean, so that a warning says how
        many tasks are meant, unless it is all of them. Query examples in the support set are warned of, too.

    Raises:
        UserError: as `meta_gradient`.
    """
    check_chunk(tasks_per_chunk)
    loop = checked_loop(model, rule, theta, xi, episodes, steps, lr, True, lr_scope, adapted)
    warn_of_shared(episodes)
    episodes = episodes.map(differentiable)
    with explained(model, theta, episodes):
        values = replica_evaluate(
            model, rule, one_replica(theta), one_replica(xi), episodes, loop, tasks_per_chunk=tasks_per_chunk
        )[0]
    table = as_table(values)
    lost = diverged_rows(table, episodes.kind).groupby(table["task"]).transform("any")
    table["status"] = np.where(lost, "diverged", "ok")
    table.loc[lost, "accuracy"] = np.nan
    warn_of_diverged(int(lost.groupby(table["task"]).first().sum()), episodes.num_tasks)
    return table


def diverged_rows(table: pd.DataFrame, kind: Kind) -> "pd.Series[bool]":
    """The rows with a loss that is no measurement: not finite, or of classes and above `EXPLODED`.

    Args:
        table: with columns loss and accuracy.
        kind: of the tasks; a regression has no accuracy, and classes without one were found to have diverged.
    """
    lost = ~np.isfinite(table["loss"])
    return lost if kind == "regression" else lost | (table["loss"] > EXPLODED) | table["accuracy"].isna()


def warn_of_diverged(count: int, total: int) -> None:
    """Say that a mean would leave tasks out, if some diverged but not all."""
    if 0 < count < total:
        warnings.warn(
            f"{count} of {total} tasks diverged: their accuracy is NaN, which a mean of pandas leaves out; see the "
            "column status",
            stacklevel=3,
        )


def as_table(values: Tensor) -> pd.DataFrame:
    """Measurements (T, K, 2 sets, 2 measures) as the table that `evaluate` returns."""
    num_tasks, num_points = values.shape[:2]
    index = pd.MultiIndex.from_product(
        [range(num_tasks), range(num_points), ["support", "query"]], names=["task", "step", "split"]
    )
    flat = values.reshape(-1, 2).double().cpu().numpy()
    return pd.DataFrame(flat, index=index, columns=["loss", "accuracy"]).reset_index()
