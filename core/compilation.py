"""The meta-gradient as one compiled function."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from core.adaptation import MetaGradient, added_up, check_chunk, chunks, share_of_gradient
from core.crew import alone, shared_out
from core.errors import UserError
from core.inner_loop import InnerLoop
from core.memory import is_out_of_memory
from core.optimizers.base import MetaOptimizer
from core.recording import Recorded
from core.tasks.base import Episodes

Tensors = Mapping[str, Tensor]

# Operations for which PyTorch's compiler takes a minute and a half on two cores.
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
    matrix products take most of the time. On a CPU, lists of more than `MOST_FUSED` operations, as Kronecker-factored
    rules make on convolutional networks, are not fused but replayed: nothing is left then of finding derivatives, and
    little of what only reshapes. The same up to rounding.

    Raises:
        UserError: for fewer than one task a chunk; if there is no C++ compiler, or the model cannot be recorded (its
            operations depend on the data).
    """
    # The compiler takes as long to load as the rest of PyTorch, and most processes compile nothing.
    from torch._dynamo.exc import BackendCompilerFailed

    check_chunk(tasks_per_chunk)
    num_replicas = len(next(iter(theta.values())))
    num_tasks = episodes.num_tasks // num_replicas
    of_theta, of_xi = list(theta), list(xi)

    def flat(theta: Tensors, xi: Tensors, part: Episodes) -> list[Tensor]:
        data = part.support_x, part.support_y, part.query_x, part.query_y
        return [*(theta[name] for name in of_theta), *(xi[name] for name in of_xi), *data]

    def named(tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The first tensors, as theta and xi."""
        ours, learned = tensors[: len(of_theta)], tensors[len(of_theta) : len(of_theta) + len(of_xi)]
        return dict(zip(of_theta, ours, strict=True)), dict(zip(of_xi, learned, strict=True))

    def function(*tensors: Tensor) -> list[Tensor]:
        support_x, support_y, query_x, query_y = tensors[len(of_theta) + len(of_xi) :]
        part = Episodes(support_x, support_y, query_x, query_y, episodes.kind)
        loss, g_theta, g_xi = share_of_gradient(model, rule, *named(tensors), part, loop, num_tasks)
        return [*(g_theta[name] for name in of_theta), *(g_xi[name] for name in of_xi), loss]

    def run(theta: Tensors, xi: Tensors, episodes: Episodes) -> MetaGradient:
        if episodes.num_tasks != num_replicas * num_tasks:
            raise UserError(f"compiled for {num_replicas * num_tasks} tasks, not for {episodes.num_tasks}")

        def of_part(part: Episodes) -> MetaGradient:
            found = recorded[part.num_tasks](*flat(theta, xi, part))
            return found[-1], *named(found)

        workers = crew
        if crew.size > 1:  # if still so: the thread that asks now may be watched
            now, _ = shared_out(model, rule, episodes, num_replicas, together=tasks_per_chunk)
            workers = crew if now == crew else alone()
        return added_up(workers.each(of_part, chunks(episodes, num_replicas, size)))

    def recorded_parts(size: int | None) -> dict[int, Recorded]:
        """By number of tasks: the last part may have fewer."""
        parts = {part.num_tasks: part for part in chunks(episodes, num_replicas, size)}
        return {number: Recorded(function, *flat(theta, xi, part)) for number, part in parts.items()}

    crew, size = alone(), tasks_per_chunk  # fused code is slower with more
    try:
        recorded = recorded_parts(size)
        if episodes.support_x.device.type == "cpu" and min(map(len, recorded.values())) > MOST_FUSED:
            crew, size = shared_out(model, rule, episodes, num_replicas, together=tasks_per_chunk)
            if crew.size > 1:
                recorded = recorded_parts(size)
            for part in recorded.values():
                part.join_views()
        else:
            for part in recorded.values():
                part.fuse()
        run(theta, xi, episodes)  # is when they are compiled
    except (BackendCompilerFailed, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the meta-gradient cannot be compiled here, train without compile: {reason}") from error
    return run
