"""The meta-gradient as one compiled function."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from core.adaptation import MetaGradient, added_up, check_chunk, chunks, share_of_gradient
from core.crew import alone, shared_out
from core.errors import UserError
from core.inner_loop import InnerLoop
from core.memory import is_out_of_memory
from core.optimizers.base import MetaOptimizer
from core.recording import record, replayed
from core.tasks.base import Episodes

Tensors = Mapping[str, Tensor]

# Operations that PyTorch's compiler takes a minute and a half for on two cores.
MOST_FUSED = 10_000


def compile_meta_gradient(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    loop: InnerLoop,
    *,
    tasks_per_chunk: int | None = None,
) -> Callable[[Tensors, Tensors, Episodes], MetaGradient]:
    """`replica_meta_gradient` of this model, rule and loop, compiled for arguments of these shapes.

    The computation for a chunk of tasks, and for a last one that is smaller, backward passes included, is recorded as a
    flat list of tensor operations, which PyTorch's compiler fuses. That takes from ten seconds to minutes, and pays off
    where iterations are many: the step itself is 5 times faster for LinNet on synthetic tasks, 1.3 times where large
    matrix products take most of the time. Lists of more than `MOST_FUSED` operations, as of Kronecker-factored rules on
    convolutional networks, are not fused but replayed: nothing is left then of finding derivatives, and little of what
    only reshapes. The same up to rounding.

    Raises:
        UserError: for fewer than one task a chunk; if there is no C++ compiler, or the model cannot be recorded (its
            operations depend on the data).
    """
    # The compiler takes as long to load as the rest of PyTorch, and most processes compile nothing.
    from torch._dynamo.exc import BackendCompilerFailed

    check_chunk(tasks_per_chunk)
    num_replicas = len(next(iter(theta.values())))
    num_tasks = episodes.num_tasks // num_replicas

    def flat(
        theta: Tensors, xi: Tensors, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> MetaGradient:
        part = Episodes(support_x, support_y, query_x, query_y, episodes.kind)
        return share_of_gradient(model, rule, theta, xi, part, loop, num_tasks)

    def tensors_of(part: Episodes) -> tuple[Tensor, ...]:
        return part.support_x, part.support_y, part.query_x, part.query_y

    def run(theta: Tensors, xi: Tensors, episodes: Episodes) -> MetaGradient:
        if episodes.num_tasks != num_replicas * num_tasks:
            raise UserError(f"compiled for {num_replicas * num_tasks} tasks, not for {episodes.num_tasks}")

        def of_part(part: Episodes) -> MetaGradient:
            with torch.no_grad():
                return compiled[part.num_tasks](dict(theta), dict(xi), *tensors_of(part))

        return added_up(crew.each(of_part, chunks(episodes, num_replicas, size)))

    def recorded_parts(size: int | None) -> dict[int, tuple[fx.GraphModule, tuple[Any, ...]]]:
        """What is recorded, and of which arguments, by number of tasks: the last part may have fewer."""
        arguments = {
            part.num_tasks: (dict(theta), dict(xi), *tensors_of(part)) for part in chunks(episodes, num_replicas, size)
        }
        return {number: (record(flat, *given), given) for number, given in arguments.items()}

    compiled: dict[int, Callable[..., MetaGradient]]
    size: int | None
    crew, size = shared_out(model, rule, episodes, num_replicas, together=tasks_per_chunk)
    try:
        parts = recorded_parts(size)
        if all(len(recorded.graph.nodes) > MOST_FUSED for recorded, _ in parts.values()):
            compiled = {number: replayed(recorded, *given) for number, (recorded, given) in parts.items()}
        else:
            if crew.size > 1:  # which fused code is slower with
                crew, size = alone(), tasks_per_chunk
                parts = recorded_parts(size)
            compiled = {number: torch.compile(recorded) for number, (recorded, _) in parts.items()}
        run(theta, xi, episodes)  # is when they are compiled
    except (BackendCompilerFailed, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the meta-gradient cannot be compiled here, train without compile: {reason}") from error
    return run
