"""The inner loop (equations 3 and 4 of the paper), written once.

For each task, with a = `lr`:

    g_t       = grad_theta L(theta_t)
    xi_t      = xi_{t-1} - a * grad_xi L(theta_t)          (t >= 1, and only for rules that adapt)
    theta_t+1 = theta_t - a * U_{xi_t}(g_t)

theta_t depends on xi_{t-1} through the update U(g_{t-1}) alone, so grad_xi L(theta_t) is the vector-Jacobian product of
that update with cotangent -a * g_t: the gradient that the next step needs anyway, and no second backward pass through
the model. Tasks are independent: they run on one leading axis, and so do replicas (seeds of one configuration), laid
out replica by replica: N = S * T.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from core.errors import UserError, unknown_name
from core.forward import batched_forward
from core.losses import task_losses
from core.optimizers.base import MetaOptimizer
from core.task_parameter import Collected, Gradient, Product, Record, TaskParameter
from core.tasks.base import Kind

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
        num_classes: a model with fewer outputs does not fit the labels, and is refused; 0 where labels are no classes,
            or are right by construction.
        dtype: of a task's parameters and of what is computed with them; None: that of theta. Losses, and what is
            meta-learned, keep the latter.
    """

    steps: int
    lr: float
    first_order: bool
    lr_scope: LrScope = "both"
    adapted: tuple[str, ...] | None = None
    num_classes: int = 0
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"steps must be at least 0, got {self.steps}")
        if not math.isfinite(self.lr):
            raise UserError(f"lr must be a finite number, got {self.lr}")
        if self.lr_scope not in ("both", "xi"):
            raise unknown_name("lr_scope", self.lr_scope, ("both", "xi"))

    @property
    def theta_lr(self) -> float:
        """What an update of theta is multiplied by."""
        return self.lr if self.lr_scope == "both" else 1.0

    def in_dtype(self, x: Tensor) -> Tensor:
        """Data in the precision of the tasks; itself where it is, or where it has no numbers to be rounded."""
        return x if self.dtype is None or not x.is_floating_point() else x.to(self.dtype)


@dataclass
class State:
    """Where the inner loop stands after `step` steps: the parameters as each task has them.

    Attributes:
        dtype: of losses, whatever that of the parameters is.
        gradients: g of the last step, which xi has yet to be adapted by; none before the first, nor of rules that do
            not adapt, nor of what the model does not use where no update comes of it.
    """

    step: int
    theta: dict[str, TaskParameter]
    xi: Bound
    dtype: torch.dtype
    gradients: Mapping[str, Gradient] = field(default_factory=dict)

    def parameters(self) -> Iterator[TaskParameter]:
        """Those of theta and then those of xi, each before the matrices of what is to be subtracted from it."""
        for parts in (self.theta, *self.xi.values()):
            for parameter in parts.values():
                yield from parameter.parts()

    def mapped(self, by: Callable[[Tensor], Tensor]) -> "State":
        """The same state of other tensors: `by` of each, always in the same order, theta's first."""
        family: dict[Collected, TaskParameter] = {}
        theta = {name: parameter.mapped(by, family) for name, parameter in self.theta.items()}
        xi = {
            name: {part: parameter.mapped(by, family) for part, parameter in parts.items()}
            for name, parts in self.xi.items()
        }
        gradients = {name: gradient.mapped(by) for name, gradient in self.gradients.items()}
        return State(self.step, theta, xi, self.dtype, gradients)


Walk = Iterator[tuple[State, Callable[[Tensor], Tensor], Tensor]]


def inner_loop(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    x: Tensor,
    y: Tensor,
    kind: Kind,
    loop: InnerLoop,
    *,
    create_graph: bool,
    between: Callable[[State], None] | None = None,
) -> Walk:
    """Adapt to N = S * T tasks, giving the state at theta_0, theta_1, ..., theta_steps.

    Args:
        model: the module for one task.
        rule: the meta-optimizer.
        theta: (S, *shape) initial parameters of each replica. Tensors may differ in S: with S = N, each task has its
            own; with S = 1, all share one.
        xi: (S, *shape) initial parameters of the rule, likewise.
        x: (N, n, *example) support examples, replica by replica, as `loop.in_dtype` has them.
        y: their labels.
        kind: which loss.
        loop: steps, rate, and what adapts.
        create_graph: keep the graph for a meta-gradient, to be taken under `collecting` (see `TaskParameter`).
            Otherwise each step starts a graph of its own.
        between: called after each step, and may put other parameters into the state.

    Yields:
        The state; the model at that state, a function of examples (N, q, *example) in that precision; and its outputs
        (N, n, ...) on x, an empty tensor at theta_steps, where no step needs them. They hold until the next item is
        asked for.

    Raises:
        UserError: if the model's outputs do not fit the labels; right away, if it cannot be computed in `loop.dtype`.
    """
    if not create_graph:
        # A step's own graph starts here, whether or not the caller's tensors ask for one.
        theta = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        xi = {name: tensor.detach().requires_grad_() for name, tensor in xi.items()}
    state = start(model, rule, theta, xi, len(x), loop.dtype)
    return go_on(model, rule, state, x, y, kind, loop, create_graph=create_graph, between=between)


def start(
    model: nn.Module, rule: MetaOptimizer, theta: Tensors, xi: Tensors, num_tasks: int, dtype: torch.dtype | None
) -> State:
    """The state at theta_0 of N = `num_tasks` tasks, in precision `dtype`; other arguments as in `inner_loop`.

    Raises:
        UserError: if the model cannot be computed in that precision.
    """
    kept = next((tensor.dtype for tensor in theta.values()), torch.get_default_dtype())
    if dtype is not None:
        check_no_buffers(model, dtype)
        theta = {name: tensor.to(dtype) for name, tensor in theta.items()}
        xi = {name: tensor.to(dtype) for name, tensor in xi.items()}
    bound = {name: TaskParameter(tensor, num_tasks // len(tensor)) for name, tensor in theta.items()}
    return State(0, bound, rule.bind(xi, num_tasks, theta), kept)


def go_on(
    model: nn.Module,
    rule: MetaOptimizer,
    state: State,
    x: Tensor,
    y: Tensor,
    kind: Kind,
    loop: InnerLoop,
    *,
    create_graph: bool,
    between: Callable[[State], None] | None = None,
) -> Walk:
    """`loop.steps` steps of `inner_loop` from a state, which is changed; its tensors ask for gradients.

    Yields, and raises, what `inner_loop` does; the state's own `step` counts on.
    """
    names = tuple(state.theta) if loop.adapted is None else loop.adapted

    def outputs_at(theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        outputs = batched_forward(model, theta, x, names)
        if loop.dtype is not None and outputs.is_floating_point():
            outputs = outputs.to(state.dtype)
        if outputs.ndim == 3 and outputs.shape[-1] < loop.num_classes:
            largest, num_outputs = loop.num_classes - 1, outputs.shape[-1]
            raise UserError(f"a label is {largest}, but the model has {num_outputs} outputs, and the first is class 0")
        return outputs

    def forward(x: Tensor) -> Tensor:
        outputs = outputs_at(state.theta, x)
        for parameter in state.theta.values():
            parameter.take_record()  # the caller's uses are no part of the step
        return outputs

    constant = loop.first_order or not create_graph
    last: LastUpdate | None = None

    def take_step(losses: Tensor, records: Mapping[str, Record]) -> None:
        nonlocal last
        grads = _gradients(losses, records, constant=constant)
        if rule.is_gradient_descent:
            for name, record in records.items():
                state.theta[name].adapt(record, grads[name], loop.theta_lr, constant=constant)
            return
        gradient = {
            name: state.theta[name].gradient_of(record, grads[name], constant=constant)
            for name, record in records.items()
            if record.watched() or not rule.keeps_zero
        }
        if rule.adapts and last is not None:
            _adapt_xi(state.xi, last, gradient, loop, constant=constant)
        last = _update(rule, state, gradient)
        for name, update in last.updates.items():
            state.theta[name].subtract(update, loop.theta_lr, constant=not create_graph)
        state.gradients = gradient if rule.adapts else {}

    if state.gradients:
        last = _update(rule, state, state.gradients)
    for _ in range(loop.steps):
        outputs = outputs_at(state.theta, x)
        losses = task_losses(outputs, y, kind)
        records = {name: state.theta[name].take_record() for name in names}
        yield state, forward, outputs.detach()
        take_step(losses, records)
        del outputs, losses, records  # or all activations of a step would stay through the next one
        state.step += 1
        if between is not None:
            between(state)
    yield state, forward, x.new_empty(0)


def check_no_buffers(model: nn.Module, dtype: torch.dtype) -> None:
    """See that a model can be computed in another precision than its own.

    Raises:
        UserError: if it has buffers of numbers, which would keep theirs.
    """
    if kept := [name for name, buffer in model.named_buffers() if buffer.is_floating_point()]:
        raise UserError(f"the model cannot be computed in {dtype}: it has buffers, {', '.join(kept)}")


def _gradients(losses: Tensor, records: Mapping[str, Record], *, constant: bool) -> dict[str, list[Tensor]]:
    """The gradients of each task's loss with respect to what each parameter's record watches."""
    watched = [tensor for record in records.values() for tensor in record.watched()]
    grads = iter(
        torch.autograd.grad(losses.sum(), watched, create_graph=not constant, materialize_grads=True) if watched else ()
    )
    return {name: [next(grads) for _ in record.watched()] for name, record in records.items()}


@dataclass(frozen=True)
class LastUpdate:
    """The updates U(g) of the last step, and how each part of xi went into them."""

    updates: Mapping[str, Tensor | Product]
    records: Mapping[str, Mapping[str, Record]]


def _update(rule: MetaOptimizer, state: State, gradients: Mapping[str, Gradient]) -> LastUpdate:
    """What the rule makes of the gradient: theta's step of equation 3."""
    updates = {name: rule.transform_thin(state.xi[name], gradient) for name, gradient in gradients.items()}
    records = {
        name: {part: parameter.take_record() for part, parameter in parts.items()} for name, parts in state.xi.items()
    }
    return LastUpdate(updates, records)


def _adapt_xi(
    xi: Bound, last: LastUpdate, gradients: Mapping[str, Gradient], loop: InnerLoop, *, constant: bool
) -> None:
    """Equation 4: one gradient step on every part of xi, through the last update alone."""
    uses = [(xi[name][part], record) for name, records in last.records.items() for part, record in records.items()]
    watched = [tensor for _, record in uses for tensor in record.watched()]
    updates = {name: update for name, update in last.updates.items() if name in gradients}  # used in this step, too
    if not watched or not updates:
        return
    outputs, cotangents = [], []
    for name, update in updates.items():
        gradient = gradients[name]
        if isinstance(update, Product):
            outputs.append(update.rows)
            cotangents.append(-loop.theta_lr * update.pull_back(gradient))
        else:
            outputs.append(update)
            cotangents.append(-loop.theta_lr * gradient.dense)
    grads = iter(
        torch.autograd.grad(
            outputs, watched, cotangents, create_graph=not constant, retain_graph=True, materialize_grads=True
        )
    )
    for parameter, record in uses:
        parameter.adapt(record, [next(grads) for _ in record.watched()], loop.lr, constant=constant)
    for name, update in updates.items():
        if isinstance(update, Product):
            update.adapt(-loop.theta_lr * gradients[name].dense, loop.lr, constant=constant)
