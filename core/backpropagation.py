"""Backpropagation through the inner loop: through all steps at once, or in less memory step by step.

All at once, the graphs of all K steps are kept, activations and all. Rematerialised, one step at a time has a graph. Of
K steps, the first half is taken without one; then the backward pass goes through the second half, which starts there,
and then through the first. Halves are halved in turn, so that some log2(K) states of the inner loop are kept, for some
K log2(K) / 2 steps more, without a graph (the recursion of Griewank and Walther, 2000, with equal halves).

A state is kept as the loop has it, with changes thin where they are: whole, the factors of a task's optimizer may be a
hundred times as large as what its steps changed of them. Such a state grows with the steps, and the graph of a step is
little more than what it changed: memory then grows linearly either way, and fewer tasks at once save more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.inner_loop import InnerLoop, State, Tensors, go_on, start
from core.losses import task_losses
from core.optimizers.base import MetaOptimizer
from core.task_parameter import collecting
from core.tasks.base import Episodes


def gradient_of_chunk(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    loop: InnerLoop,
    *,
    scale: float,
    rematerialise: bool,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Query losses of N tasks, and `scale` times the gradient of their sum.

    Args:
        model: the module for one task.
        rule: the meta-optimizer.
        theta: (S, *shape) initial parameters.
        xi: (S, *shape) parameters of the rule.
        episodes: N tasks, replica by replica.
        loop: how a task is adapted to.
        scale: what the gradient is multiplied by.
        rematerialise: whether steps are computed again in the backward pass, and not kept.

    Returns:
        Losses (N,), and gradients (S, *shape) with respect to theta and xi; of what nothing hangs on there is none.

    Raises:
        UserError: as `inner_loop`.
    """
    losses: list[Tensor] = []
    # Once, and not in every walk: models and states know data by where it lies.
    x = loop.in_dtype(episodes.support_x)
    query_x = x if episodes.query_x is episodes.support_x else loop.in_dtype(episodes.query_x)

    def walk(state: State, steps: int, create_graph: bool) -> Callable[[Tensor], Tensor]:
        """Take the state `steps` steps on; the model there."""
        *_, (_, forward, _) = go_on(
            model, rule, state, x, episodes.support_y, episodes.kind, replace(loop, steps=steps),
            create_graph=create_graph,
        )  # fmt: skip
        return forward

    def later(point: Point, steps: int) -> Point:
        """Where the loop stands `steps` steps after `point`; nothing else of them is left."""
        state = point.state.mapped(_same)
        walk(state, steps, create_graph=False)
        return _cut_off(state, x)

    def back(point: Point, steps: int, after: Sequence[Tensor | None] | None) -> list[Tensor | None]:
        """The gradient with respect to each of a point's tensors; None where there is none, or an earlier one has it.

        Args:
            point: where the loop starts; its state is of no use afterwards.
            steps: that it takes.
            after: the gradient with respect to where it then is, of what comes after; None for the query losses.
        """
        if steps > 1 and rematerialise:
            half = steps // 2
            return back(point, half, back(later(point, half), steps - half, after))
        shared = {id(parameter.shared): parameter for parameter in point.state.parameters()}
        leaves = {id(tensor): tensor for tensor in point.tensors if tensor.requires_grad}
        forward = walk(point.state, steps, create_graph=True)
        outputs: list[Tensor]
        cotangents: list[Tensor] | None
        if after is None:
            task_loss = task_losses(forward(query_x), episodes.query_y, episodes.kind)
            losses.append(task_loss.detach())
            outputs, cotangents = [task_loss.sum() * scale], None
        else:
            with torch.no_grad():
                tensors = _mapped(point.state, _same).tensors
            ends = zip(tensors, after, strict=True)
            moved = [(end, cotangent) for end, cotangent in ends if cotangent is not None and end.requires_grad]
            outputs, cotangents = [end for end, _ in moved], [cotangent for _, cotangent in moved]
        with collecting(shared.values()):
            found = torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True)
        of_leaf = {
            key: shared[key].gradient(own) if key in shared else own for key, own in zip(leaves, found, strict=True)
        }
        return [of_leaf.pop(id(tensor), None) for tensor in point.tensors]

    beginning = start(model, rule, theta, xi, episodes.num_tasks, loop.dtype)
    total = iter(back(_mapped(beginning, _leaf), loop.steps, None))
    of_theta = {name: next(total) for name in beginning.theta}
    of_xi = {f"{name}.{part}": next(total) for name, parts in beginning.xi.items() for part in parts}
    g_theta, g_xi = ({name: g for name, g in found.items() if g is not None} for found in (of_theta, of_xi))
    return losses[0], g_theta, g_xi


@dataclass(frozen=True)
class Point:
    """A state, and the tensors that it is made of when nobody has gone on from it.

    Attributes:
        tensors: in the order of `State.mapped`; one that stands in several places, several times.
    """

    state: State
    tensors: list[Tensor]


def _mapped(state: State, by: Callable[[Tensor], Tensor]) -> Point:
    """The same state of other tensors, `by` of each."""
    tensors: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        tensors.append(by(tensor))
        return tensors[-1]

    return Point(state.mapped(noted), tensors)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _cut_off(state: State, data: Tensor) -> Point:
    """The state of leaves, one for each tensor there is; what lies where `data` does stays as it is, without one."""
    leaves: dict[int, tuple[Tensor, Tensor]] = {}  # with the tensor, or another could have its id

    def leaf(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() == data.untyped_storage().data_ptr():
            return tensor
        if id(tensor) not in leaves:
            leaves[id(tensor)] = tensor, _leaf(tensor)
        return leaves[id(tensor)][1]

    return _mapped(state, leaf)
