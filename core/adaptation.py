"""The inner loop (equations 3 and 4 of the paper), written once, and the meta-gradient through it.

For each task, with a = `lr`:

    g_t       = grad_theta L(theta_t)
    xi_t      = xi_{t-1} - a * grad_xi L(theta_t)          (t >= 1, and only for rules that adapt)
    theta_t+1 = theta_t - a * U_{xi_t}(g_t)

theta_t depends on xi_{t-1} through the update U(g_{t-1}) alone, so grad_xi L(theta_t) is the vector-Jacobian product of
that update with cotangent -a * g_t: the gradient that the next step needs anyway, and no second backward pass through
the model. Tasks are independent: they run on one leading axis, and so do replicas (seeds of one configuration), laid out
replica by replica: N = S * T.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from core.errors import UserError, unknown_name
from core.losses import task_accuracies, task_losses
from core.optimizers.base import MetaOptimizer
from core.optimizers.task_parameter import TaskParameter, gradients_of_uses
from core.tasks.base import Episodes

Tensors = Mapping[str, Tensor]
LrScope = Literal["both", "xi"]
Bound = dict[str, dict[str, TaskParameter]]


@dataclass(frozen=True)
class InnerLoop:
    """How a task is adapted to.

    Attributes:
        steps: number of adaptation steps, at least 0.
        lr: the adaptation learning rate a.
        first_order: treat every inner gradient as a constant in the meta-gradient.
        lr_scope: what `lr` scales: "both" updates, of theta and of xi (the authors' released code), or that of "xi"
            only (equations 3 and 4 as printed: theta_{t+1} = theta_t - U(g_t)).
        adapted: names of the parameters that adapt; the others stay as they are. None: all of them.
    """

    steps: int
    lr: float
    first_order: bool = False
    lr_scope: LrScope = "both"
    adapted: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"steps must be at least 0, got {self.steps}")
        if self.lr_scope not in ("both", "xi"):
            raise unknown_name("lr_scope", self.lr_scope, ("both", "xi"))

    @property
    def theta_lr(self) -> float:
        """What an update of theta is multiplied by."""
        return self.lr if self.lr_scope == "both" else 1.0


@dataclass
class State:
    """Where the inner loop stands after `step` steps: fast weights (N, *shape) and xi as each task has it."""

    step: int
    theta: dict[str, Tensor]
    xi: Bound


def batched_forward(model: nn.Module, params: Tensors, shared: Tensors, x: Tensor) -> Tensor:
    """Outputs (N, n, ...) of `model` on x (N, n, ...), with `params` (N, *shape) and `shared` (*shape) for all tasks."""

    def one_task(params: Tensors, x: Tensor) -> Tensor:
        return functional_call(model, {**params, **shared}, (x,))

    return vmap(one_task, randomness="different")(dict(params), x)


def inner_loop(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    x: Tensor,
    y: Tensor,
    kind: Literal["binary", "classification", "regression"],
    loop: InnerLoop,
    *,
    create_graph: bool,
) -> Iterator[tuple[State, Callable[[State, Tensor], Tensor], Tensor]]:
    """Adapt to N = S * T tasks, giving the state at theta_0, theta_1, ..., theta_steps.

    Args:
        model: the module for one task.
        rule: the meta-optimizer.
        theta: (S, *shape) initial parameters of each replica.
        xi: (S, *shape) initial parameters of the rule.
        x: (N, n, *example) support examples, replica by replica.
        y: their labels.
        kind: which loss.
        loop: steps, rate, and what adapts.
        create_graph: keep the graph for a meta-gradient. Otherwise each step starts a graph of its own.

    Yields:
        The state, the forward function (state, x) -> outputs, and the support losses (N,) at that state (with a
        gradient graph); the losses at theta_steps are computed only if the caller asks for the last item's loss by
        calling the forward function: the third item is then empty.
    """
    num_replicas = len(next(iter(theta.values())))
    num_tasks = len(x) // num_replicas
    names = tuple(theta) if loop.adapted is None else loop.adapted

    def per_task(tensor: Tensor) -> Tensor:
        return tensor.unsqueeze(1).expand(-1, num_tasks, *tensor.shape[1:]).flatten(0, 1)

    frozen = {name: tensor for name, tensor in theta.items() if name not in names}
    shared = {name: tensor[0] for name, tensor in frozen.items()} if num_replicas == 1 else {}
    own = {} if num_replicas == 1 else {name: per_task(tensor) for name, tensor in frozen.items()}
    if not create_graph:
        # The graph of a step reaches from the matrices of xi to the update, whether or not the caller asks for more.
        xi = {name: tensor.detach().requires_grad_() for name, tensor in xi.items()}
    state = State(0, {name: per_task(theta[name]) for name in names}, rule.bind(xi, num_tasks, dict.fromkeys(names)))

    def forward(state: State, x: Tensor) -> Tensor:
        return batched_forward(model, {**state.theta, **own}, shared, x)

    constant = loop.first_order or not create_graph
    update: dict[str, Tensor] = {}
    for step in range(loop.steps):
        if constant:
            # Inner gradients are taken at theta_t as a point, and so cannot carry a graph into the meta-gradient.
            point = {name: tensor.detach().requires_grad_() for name, tensor in state.theta.items()}
        else:
            point = {name: t if t.requires_grad else t.requires_grad_() for name, t in state.theta.items()}
        losses = task_losses(forward(State(step, point, state.xi), x), y, kind)
        yield state, forward, losses
        grads = torch.autograd.grad(
            losses.sum(), list(point.values()), create_graph=not constant, materialize_grads=True
        )
        gradient = dict(zip(names, grads, strict=True))
        if rule.adapts and step > 0:
            _adapt_xi(state.xi, update, gradient, loop, constant=constant)
        for parts in state.xi.values():
            for parameter in parts.values():
                parameter.forget_uses()
        update = {name: rule.transform(state.xi[name], gradient[name]) for name in names}
        theta_next = {name: state.theta[name] - loop.theta_lr * update[name] for name in names}
        if not create_graph:
            theta_next = {name: tensor.detach() for name, tensor in theta_next.items()}
        state = State(step + 1, theta_next, state.xi)
    yield state, forward, x.new_empty(0)


def _adapt_xi(
    xi: Bound, update: Tensors, gradient: Tensors, loop: InnerLoop, *, constant: bool
) -> None:
    """Equation 4: one gradient step on every part of xi, through the last `update` alone."""
    parameters = [parameter for parts in xi.values() for parameter in parts.values()]
    watched = [parameter.watched() for parameter in parameters]
    flat = [tensor for tensors in watched for tensor in tensors]
    if not flat:
        return
    grads = gradients_of_uses(
        list(update.values()), [-loop.theta_lr * gradient[name] for name in update], flat, constant=constant
    )
    start = 0
    for parameter, tensors in zip(parameters, watched, strict=True):
        parameter.adapt(grads[start : start + len(tensors)], loop.lr, constant=constant)
        start += len(tensors)


def replica_meta_gradient(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    loop: InnerLoop,
    *,
    tasks_per_chunk: int | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Meta-losses and meta-gradients of S replicas at once.

    Args:
        model: the module for one task.
        rule: the meta-optimizer.
        theta: (S, *shape) initial parameters.
        xi: (S, *shape) parameters of the rule.
        episodes: S * T tasks, replica by replica.
        loop: how a task is adapted to.
        tasks_per_chunk: tasks of each replica that go through at once; the others wait, and gradients add up.

    Returns:
        Query losses (S,) and accuracies (S,), means over T tasks, and the gradients (S, *shape) of the losses with
        respect to theta and xi.
    """
    num_replicas = len(next(iter(theta.values())))
    num_tasks = episodes.num_tasks // num_replicas
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
    leaves_xi = {name: tensor.detach().requires_grad_() for name, tensor in xi.items()}
    inputs = [*leaves.values(), *leaves_xi.values()]
    size = num_tasks if tasks_per_chunk is None else min(tasks_per_chunk, num_tasks)
    if size < 1:
        raise UserError(f"tasks_per_chunk must be at least 1, got {tasks_per_chunk}")
    loss_sum: Tensor | float = 0.0
    accuracy_sum: Tensor | float = 0.0
    total: list[Tensor] | None = None
    for start in range(0, num_tasks, size):
        part = replica_slice(episodes, num_replicas, start, start + size)
        *_, (state, forward, _) = inner_loop(
            model, rule, leaves, leaves_xi, part.support_x, part.support_y, part.kind, loop, create_graph=True
        )
        outputs = forward(state, part.query_x)
        losses = task_losses(outputs, part.query_y, part.kind).view(num_replicas, -1)
        grads = torch.autograd.grad(losses.sum() / num_tasks, inputs, materialize_grads=True)
        total = list(grads) if total is None else [a + b for a, b in zip(total, grads, strict=True)]
        with torch.no_grad():
            loss_sum = loss_sum + losses.detach().sum(1)
            accuracy_sum = accuracy_sum + task_accuracies(outputs, part.query_y, part.kind).view(num_replicas, -1).sum(1)
    assert total is not None and isinstance(loss_sum, Tensor) and isinstance(accuracy_sum, Tensor)
    split = len(leaves)
    return (
        loss_sum / num_tasks,
        accuracy_sum / num_tasks,
        dict(zip(leaves, total[:split], strict=True)),
        dict(zip(leaves_xi, total[split:], strict=True)),
    )


def replica_slice(episodes: Episodes, num_replicas: int, start: int, stop: int) -> Episodes:
    """Tasks start..stop of every replica."""
    if num_replicas == 1 or (start == 0 and stop * num_replicas >= episodes.num_tasks):
        return episodes[start:stop] if num_replicas == 1 else episodes

    def cut(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (num_replicas, -1))[:, start:stop].flatten(0, 1)

    return Episodes(
        cut(episodes.support_x), cut(episodes.support_y), cut(episodes.query_x), cut(episodes.query_y), episodes.kind
    )


def one_replica(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().unsqueeze(0) for name, tensor in tensors.items()}


def checked_loop(
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    steps: int,
    lr: float,
    first_order: bool,
    lr_scope: LrScope,
    adapted: tuple[str, ...] | list[str] | None,
) -> InnerLoop:
    rule.check(theta, xi)
    if adapted is not None and (unknown := sorted(set(adapted) - theta.keys())):
        raise unknown_name("parameter", unknown[0], theta)
    names = None if adapted is None else tuple(name for name in theta if name in set(adapted))
    return InnerLoop(steps, lr, first_order, lr_scope, names)


def meta_gradient(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    *,
    steps: int,
    lr: float,
    first_order: bool,
    lr_scope: LrScope = "both",
    adapted: tuple[str, ...] | list[str] | None = None,
    tasks_per_chunk: int | None = None,
) -> tuple[Tensor, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The query loss after adaptation (equation 1, any number of steps and any rule), and its gradient.

    Args:
        model: a module for one task, called on (examples, *example); its parameters are named as in `theta`.
        rule: the meta-optimizer.
        theta: initial parameters.
        xi: parameters of the rule, named and shaped as by `rule.init(theta)`.
        episodes: T tasks.
        steps: adaptation steps.
        lr: adaptation learning rate.
        first_order: treat every inner gradient, of theta and of xi, as a constant.
        lr_scope: what `lr` scales, see `InnerLoop`.
        adapted: names of the parameters that adapt within a task; default all.
        tasks_per_chunk: tasks that go through at once; bounds the memory, and changes nothing else but rounding.

    Returns:
        The mean query loss over tasks, and its gradients with respect to (theta, xi).

    Raises:
        UserError: for names or shapes that do not fit together.
    """
    loop = checked_loop(rule, theta, xi, steps, lr, first_order, lr_scope, adapted)
    loss, _, g_theta, g_xi = replica_meta_gradient(
        model, rule, one_replica(theta), one_replica(xi), episodes, loop, tasks_per_chunk=tasks_per_chunk
    )
    return loss[0], ({n: g[0] for n, g in g_theta.items()}, {n: g[0] for n, g in g_xi.items()})


@dataclass(frozen=True)
class Adapted:
    """The outcome of adaptation to T tasks.

    Attributes:
        params: fast weights (T, *shape) of every parameter, adapted or not.
        losses: support losses (T, steps + 1) at theta_0 ... theta_steps.
    """

    params: dict[str, Tensor]
    losses: Tensor
    _xi: Bound

    @property
    def xi(self) -> dict[str, Tensor]:
        """xi of each task, (T, *shape), as last used: xi_{steps-1}. Built on request, as it may be large."""
        return {
            f"{name}.{part}": parameter.materialise().detach()
            for name, parts in self._xi.items()
            for part, parameter in parts.items()
        }


def adapt(
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
) -> Adapted:
    """Adapt to each task from its support set; arguments and errors as in `meta_gradient`."""
    loop = checked_loop(rule, theta, xi, steps, lr, True, lr_scope, adapted)
    x, y = episodes.support_x, episodes.support_y
    losses = []
    walk = inner_loop(
        model, rule, one_replica(theta), one_replica(xi), x, y, episodes.kind, loop, create_graph=False
    )
    for state, forward, loss in walk:
        if state.step == steps:
            with torch.no_grad():
                loss = task_losses(forward(state, x), y, episodes.kind)
        losses.append(loss.detach())
    fixed = {
        name: tensor.detach().expand(len(x), *tensor.shape) for name, tensor in theta.items() if name not in state.theta
    }
    params = {**state.theta, **fixed}
    return Adapted({name: params[name] for name in theta}, torch.stack(losses, dim=1), state.xi)
