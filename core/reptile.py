"""What Reptile descends (Nichol, Achiam and Schulman, 2018): the way back from where adaptation ends."""

import torch
from torch import nn

from core.adaptation import MetaGradient, added_up, check_chunk, chunks
from core.crew import shared_out
from core.inner_loop import InnerLoop, Tensors, inner_loop
from core.losses import task_losses
from core.optimizers.base import MetaOptimizer
from core.tasks.base import Episodes


def replica_reptile_gradient(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    loop: InnerLoop,
    *,
    tasks_per_chunk: int | None = None,
) -> MetaGradient:
    """theta_0 - mean over tasks of theta_steps, in the place of a meta-gradient; arguments as `replica_meta_gradient`.

    A step of plain SGD at rate e then is theta_0 + e (mean theta_steps - theta_0), equation 1 of the reference with a
    batch of tasks; Adam takes it for a gradient. Each adaptation step is on the whole support set, where the
    reference draws batches of all the task's examples. The query set has no part in it but for the loss returned.

    Returns:
        Query losses (S,) after adaptation; theta's gradients (S, *shape); and xi's, which are zero.

    Raises:
        UserError: as `replica_meta_gradient`.
    """
    num_replicas = len(next(iter(theta.values())))
    num_tasks = episodes.num_tasks // num_replicas

    def of_part(part: Episodes) -> MetaGradient:
        *_, (state, forward, _) = inner_loop(
            model, rule, theta, xi, part.support_x, part.support_y, part.kind, loop, create_graph=False
        )
        ways_back = {}
        with torch.no_grad():
            losses = task_losses(forward(part.query_x), part.query_y, part.kind)
            for name, start in theta.items():
                ends = state.theta[name].materialise().unflatten(0, (num_replicas, -1))
                ways_back[name] = (start.unsqueeze(1) - ends).sum(1) / num_tasks
        return losses.view(num_replicas, -1).sum(1) / num_tasks, ways_back, {}

    check_chunk(tasks_per_chunk)
    crew, size = shared_out(model, rule, episodes, num_replicas, together=tasks_per_chunk)
    loss, ways_back, _ = added_up(crew.each(of_part, chunks(episodes, num_replicas, size)))
    return loss, ways_back, {name: torch.zeros_like(tensor) for name, tensor in xi.items()}
