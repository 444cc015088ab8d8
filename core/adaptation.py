"""The inner loop (equations 3 and 4 of the paper), written once, and the meta-gradient through it.

For each task, with a = `lr`:

    g_t       = grad_theta L(theta_t)
    xi_t      = xi_{t-1} - a * grad_xi L(theta_t)          (t >= 1, and only for rules that adapt)
    theta_t+1 = theta_t - a * U_{xi_t}(g_t)

theta_t depends on xi_{t-1} through the update U(g_{t-1}) alone, so grad_xi L(theta_t) is the vector-Jacobian product of
that update with cotangent -a * g_t: the gradient that the next step needs anyway, and no second backward pass through
the model. Tasks are independent: they run on one leading axis, and so do replicas (seeds of one configuration), laid
out replica by replica: N = S * T.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from core.errors import UserError, unknown_name
from core.forward import batched_forward, call_with
from core.losses import task_losses
from core.optimizers.base import MetaOptimizer, check_tensors, split_key
from core.task_parameter import Gradient, Product, Record, TaskParameter, collecting
from core.tasks.base import Episodes, Kind

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
    """

    steps: int
    lr: float
    first_order: bool
    lr_scope: LrScope = "both"
    adapted: tuple[str, ...] | None = None
    num_classes: int = 0

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
    """Where the inner loop stands after `step` steps: the parameters as each task has them."""

    step: int
    theta: dict[str, TaskParameter]
    xi: Bound


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
        x: (N, n, *example) support examples, replica by replica.
        y: their labels.
        kind: which loss.
        loop: steps, rate, and what adapts.
        create_graph: keep the graph for a meta-gradient, to be taken under `collecting` (see `TaskParameter`).
            Otherwise each step starts a graph of its own.
        between: called after each step, and may put other parameters into the state.

    Yields:
        The state; the model at that state, a function of examples (N, q, *example); and its outputs (N, n, ...) on x,
        an empty tensor at theta_steps, where no step needs them. They hold until the next item is asked for.

    Raises:
        UserError: if the model's outputs do not fit the labels.
    """
    names = tuple(theta) if loop.adapted is None else loop.adapted
    if not create_graph:
        # A step's own graph starts here, whether or not the caller's tensors ask for one.
        theta = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        xi = {name: tensor.detach().requires_grad_() for name, tensor in xi.items()}
    bound = {name: TaskParameter(tensor, len(x) // len(tensor)) for name, tensor in theta.items()}
    state = State(0, bound, rule.bind(xi, len(x), theta))

    def outputs_at(theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        outputs = batched_forward(model, theta, x, names)
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
    for _ in range(loop.steps):
        outputs = outputs_at(state.theta, x)
        losses = task_losses(outputs, y, kind)
        records = {name: state.theta[name].take_record() for name in names}
        yield state, forward, outputs.detach()
        grads = _gradients(losses, records, constant=constant)
        if rule.is_gradient_descent:
            for name, record in records.items():
                state.theta[name].adapt(record, grads[name], loop.theta_lr, constant=constant)
        else:
            gradient = {
                name: state.theta[name].gradient_of(record, grads[name], constant=constant)
                for name, record in records.items()
            }
            if rule.adapts and last is not None:
                _adapt_xi(state.xi, last, gradient, loop, constant=constant)
            last = _transform(rule, state, gradient, loop, create_graph=create_graph)
        state.step += 1
        if between is not None:
            between(state)
    yield state, forward, x.new_empty(0)


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


def _transform(
    rule: MetaOptimizer, state: State, gradients: Mapping[str, Gradient], loop: InnerLoop, *, create_graph: bool
) -> LastUpdate:
    """Equation 3: theta takes the step that the rule makes of the gradient."""
    updates = {name: rule.transform_thin(state.xi[name], gradient) for name, gradient in gradients.items()}
    for name, update in updates.items():
        state.theta[name].subtract(update, loop.theta_lr, constant=not create_graph)
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
    if not watched:
        return
    outputs, cotangents = [], []
    for name, update in last.updates.items():
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
    for name, update in last.updates.items():
        if isinstance(update, Product):
            update.adapt(-loop.theta_lr * gradients[name].dense, loop.lr, constant=constant)


def replica_meta_gradient(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    loop: InnerLoop,
    *,
    tasks_per_chunk: int | None = None,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
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
        Query losses (S,), means over T tasks, and their gradients (S, *shape) with respect to theta and xi.

    Raises:
        UserError: for fewer than one task a chunk, or if the model's outputs do not fit the labels.
    """
    num_replicas = len(next(iter(theta.values())))
    num_tasks = episodes.num_tasks // num_replicas
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
    leaves_xi = {name: tensor.detach().requires_grad_() for name, tensor in xi.items()}
    inputs = [*leaves.values(), *leaves_xi.values()]
    chunk_losses: list[Tensor] = []
    total: list[Tensor] = []
    for part in chunks(episodes, num_replicas, tasks_per_chunk):
        *_, (state, forward, _) = inner_loop(
            model, rule, leaves, leaves_xi, part.support_x, part.support_y, part.kind, loop, create_graph=True
        )
        losses = task_losses(forward(part.query_x), part.query_y, part.kind)
        parameters = [state.theta[name] for name in leaves]
        parameters += [state.xi[name][kind] for name, kind in map(split_key, leaves_xi)]
        with collecting(parameters):
            found = torch.autograd.grad(losses.sum() / num_tasks, inputs, allow_unused=True)
        whole = [parameter.gradient(grad) for parameter, grad in zip(parameters, found, strict=True)]
        grads = [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, whole, strict=True)]
        total = [a + b for a, b in zip(total, grads, strict=True)] if total else grads
        chunk_losses.append(losses.detach().view(num_replicas, -1))
    split = len(leaves)
    return (
        torch.cat(chunk_losses, dim=1).mean(dim=1),
        dict(zip(leaves, total[:split], strict=True)),
        dict(zip(leaves_xi, total[split:], strict=True)),
    )


def chunks(episodes: Episodes, num_replicas: int, tasks_per_chunk: int | None) -> Iterator[Episodes]:
    """The episodes of all replicas, `tasks_per_chunk` tasks of each at a time; None for all at once.

    Raises:
        UserError: for fewer than one task a chunk.
    """
    num_tasks = episodes.num_tasks // num_replicas
    size = num_tasks if tasks_per_chunk is None else min(tasks_per_chunk, num_tasks)
    if size < 1:
        raise UserError(f"tasks_per_chunk must be at least 1, got {tasks_per_chunk}")
    for start in range(0, num_tasks, size):
        yield replica_slice(episodes, num_replicas, start, start + size)


def replica_slice(episodes: Episodes, num_replicas: int, start: int, stop: int) -> Episodes:
    """Tasks start..stop of every replica."""
    if start == 0 and stop * num_replicas >= episodes.num_tasks:
        return episodes

    def cut(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (num_replicas, -1))[:, start:stop].flatten(0, 1)

    return episodes.map(cut)


def one_replica(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors with a replica axis of 1."""
    return {name: differentiable(tensor).detach().unsqueeze(0) for name, tensor in tensors.items()}


def differentiable(tensor: Tensor) -> Tensor:
    """The tensor itself, but a copy of one that was made under `torch.inference_mode`, which can have no gradient."""
    return tensor.clone() if tensor.is_inference() else tensor


def checked_loop(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    steps: int,
    lr: float,
    first_order: bool,
    lr_scope: LrScope,
    adapted: tuple[str, ...] | list[str] | None,
) -> InnerLoop:
    """The loop that these arguments describe, once they are seen to fit together.

    Raises:
        UserError: for names, shapes or labels that do not.
    """
    check_tensors("theta", theta, {name: p.shape for name, p in model.named_parameters()}, "this model")
    rule.check(theta, xi)
    if adapted is not None and (unknown := sorted(set(adapted) - theta.keys())):
        raise unknown_name("parameter", unknown[0], theta)
    names = None if adapted is None else tuple(name for name in theta if name in set(adapted))
    # Labels are read here alone, once a call: on a GPU, reading them in every step would make each wait for the last,
    # and a label beyond the outputs would end the process in an assertion of CUDA that names neither.
    return InnerLoop(steps, lr, first_order, lr_scope, names, episodes.num_classes())


@torch.inference_mode(False)  # and with gradients, whatever the caller's mode
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

    Works under `torch.no_grad` and `torch.inference_mode`, too, as `adapt` and `evaluate` do.

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
        UserError: for names, shapes or labels that do not fit together, or a setting out of range.
    """
    loop = checked_loop(model, rule, theta, xi, episodes, steps, lr, first_order, lr_scope, adapted)
    episodes = episodes.map(differentiable)
    with explained(model, theta, episodes):
        loss, g_theta, g_xi = replica_meta_gradient(
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
    _xi: Sequence[Bound]  # of each chunk of tasks

    @property
    def xi(self) -> dict[str, Tensor]:
        """xi of each task, (T, *shape), as last used: xi_{steps-1}. Built on request, as it may be large."""
        return {
            f"{name}.{part}": _joined([chunk[name][part].materialise().detach() for chunk in self._xi])
            for name, parts in self._xi[0].items()
            for part in parts
        }


@torch.inference_mode(False)
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
    tasks_per_chunk: int | None = None,
) -> Adapted:
    """Adapt to each task from its support set; arguments as in `meta_gradient`.

    Raises:
        UserError: as `meta_gradient`.
    """
    loop = checked_loop(model, rule, theta, xi, episodes, steps, lr, True, lr_scope, adapted)
    size = episodes.num_tasks if tasks_per_chunk is None else tasks_per_chunk
    if size < 1:
        raise UserError(f"tasks_per_chunk must be at least 1, got {tasks_per_chunk}")
    kind = episodes.kind
    chunk_params, chunk_losses, chunk_xi = [], [], []
    for start in range(0, episodes.num_tasks, size):
        part = episodes[start : start + size]
        x, y = differentiable(part.support_x), differentiable(part.support_y)
        losses = []
        walk = inner_loop(model, rule, one_replica(theta), one_replica(xi), x, y, kind, loop, create_graph=False)
        with explained(model, theta, part):
            for state, forward, outputs in walk:
                with torch.no_grad():
                    losses.append(task_losses(forward(x) if state.step == steps else outputs, y, kind))
        chunk_params.append({name: parameter.materialise().detach() for name, parameter in state.theta.items()})
        chunk_losses.append(torch.stack(losses, dim=1))
        chunk_xi.append(state.xi)
    params = {name: _joined([chunk[name] for chunk in chunk_params]) for name in theta}
    return Adapted(params, _joined(chunk_losses), chunk_xi)


@contextmanager
def explained(model: nn.Module, theta: Tensors, episodes: Episodes) -> Iterator[None]:
    """Tell in a sentence that a model does not take the examples; other errors pass as they are.

    Raises:
        UserError: if something failed, and the model fails on the first task's examples alone.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        for part, x in (("support", episodes.support_x[0]), ("query", episodes.query_x[0])):
            try:
                with torch.no_grad():
                    call_with(model, theta, x)
            except Exception as refusal:
                reason = (str(refusal).strip() or type(refusal).__name__).splitlines()[0]
                kinds = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in theta.values()}))
                raise UserError(
                    f"{type(model).__name__}, with parameters of type {kinds}, does not take {part} examples of shape "
                    f"{tuple(x.shape[1:])} and type {str(x.dtype).removeprefix('torch.')}: {reason}"
                ) from error
        raise


def _joined(chunks: Sequence[Tensor]) -> Tensor:
    """Chunks of tasks as one tensor; a single chunk may be a view that all tasks share, and stays one."""
    return chunks[0] if len(chunks) == 1 else torch.cat(list(chunks))
