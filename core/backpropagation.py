"""Backpropagation through the inner loop: through all steps at once, or in less memory step by step.

All at once, the graphs of all K steps are kept, activations and all. Rematerialised, one step at a time has a graph. Of
K steps, the first half is taken without one; then the backward pass goes through the second half, which starts there,
and then through the first. Halves are halved in turn, so that some log2(K) states of the inner loop are kept, for some
K log2(K) / 2 steps more, without a graph (the recursion of Griewank and Walther, 2000, with equal halves).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.inner_loop import InnerLoop, State, Tensors, inner_loop
from core.losses import task_losses
from core.optimizers.base import MetaOptimizer, split_key
from core.task_parameter import TaskParameter, collecting
from core.tasks.base import Episodes

# Where the inner loop stands, or the meta-gradient with respect to that: tensors of theta, of xi, and gradients g.
Key = tuple[str, str]
Point = Mapping[Key, Tensor]


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
    names = tuple(theta) if loop.adapted is None else loop.adapted
    losses: list[Tensor] = []

    def moves(key: Key) -> bool:
        """Whether a step changes this tensor."""
        kind, name = key
        return name in names if kind == "theta" else rule.adapts and split_key(name)[0] in names

    def walk(point: Point, steps: int, create_graph: bool) -> tuple[State, Callable[[Tensor], Tensor]]:
        """The state `steps` steps after `point`, and the model there."""
        theta, xi, gradients = ({n: x for (k, n), x in point.items() if k == kind} for kind in ("theta", "xi", "g"))
        *_, (state, forward, _) = inner_loop(
            model, rule, theta, xi, episodes.support_x, episodes.support_y, episodes.kind, replace(loop, steps=steps),
            create_graph=create_graph, gradients=gradients,
        )  # fmt: skip
        return state, forward

    def tensors_of(state: State, before: Point) -> dict[Key, Tensor]:
        """The state as a point; what a step does not change is that of the point before it."""
        found = {key: value for key, value in before.items() if key[0] != "g"}
        for key in filter(moves, found):
            found[key] = _parameter(state, key).materialise()
        if rule.adapts:
            found |= {("g", name): gradient.dense for name, gradient in state.gradients.items()}
        return found

    def later(point: Point, steps: int) -> Point:
        """Where the loop stands `steps` steps after `point`; nothing else of them is left."""
        state, _ = walk(point, steps, create_graph=False)
        return {key: tensor.detach() for key, tensor in tensors_of(state, point).items()}

    def back(point: Point, steps: int, after: Point | None) -> dict[Key, Tensor]:
        """The gradient with respect to `point`, of what is `after` so many steps, or of the query losses (None)."""
        if steps > 1 and rematerialise:
            half = steps // 2
            return back(point, half, back(later(point, half), steps - half, after))
        leaves = {key: tensor.detach().requires_grad_() for key, tensor in point.items()}
        state, forward = walk(leaves, steps, create_graph=True)
        if after is None:
            task_loss = task_losses(forward(episodes.query_x), episodes.query_y, episodes.kind)
            losses.append(task_loss.detach())
            outputs, cotangents, passed = [task_loss.sum() * scale], None, {}
        else:
            ends = {key: x for key, x in tensors_of(state, leaves).items() if key in after and x is not leaves.get(key)}
            moved = {key: x for key, x in ends.items() if x.requires_grad}
            outputs, cotangents = list(moved.values()), [after[key] for key in moved]
            passed = {key: cotangent for key, cotangent in after.items() if key not in ends}
        parameters = {key: _parameter(state, key) for key in leaves if key[0] != "g"}
        with collecting(parameters.values()):
            found = torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True)
        gradient: dict[Key, Tensor] = dict(passed)
        for key, own in zip(leaves, found, strict=True):
            whole = parameters[key].gradient(own) if key in parameters else own
            if whole is not None:
                gradient[key] = gradient[key] + whole if key in gradient else whole
        return gradient

    start = {("theta", name): tensor for name, tensor in theta.items()}
    total = back(start | {("xi", name): tensor for name, tensor in xi.items()}, loop.steps, None)
    of_theta, of_xi = ({n: x for (k, n), x in total.items() if k == kind} for kind in ("theta", "xi"))
    return losses[0], of_theta, of_xi


def _parameter(state: State, key: Key) -> TaskParameter:
    """The parameter, of theta or of xi, that a point has under this key."""
    kind, name = key
    if kind == "theta":
        return state.theta[name]
    name, part = split_key(name)
    return state.xi[name][part]
