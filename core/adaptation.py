"""The meta-gradient through the inner loop, and adaptation by itself."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.backpropagation import gradient_of_chunk
from core.crew import shared_out
from core.errors import UserError, unknown_name
from core.forward import map_tasks
from core.inner_loop import Bound, InnerLoop, LrScope, Tensors, inner_loop
from core.losses import task_losses
from core.optimizers.base import MetaOptimizer, check_tensors
from core.tasks.base import Episodes, check_not_empty

MetaGradient = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


def replica_meta_gradient(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    loop: InnerLoop,
    *,
    tasks_per_chunk: int | None = None,
    rematerialise: bool = False,
) -> MetaGradient:
    """Meta-losses and meta-gradients of S replicas at once.

    Args:
        model: the module for one task.
        rule: the meta-optimizer.
        theta: (S, *shape) initial parameters.
        xi: (S, *shape) parameters of the rule.
        episodes: S * T tasks, replica by replica.
        loop: how a task is adapted to.
        tasks_per_chunk: tasks of each replica that go through at once; the others wait, and gradients add up.
        rematerialise: whether steps are computed again in the backward pass, and not kept, see `core.backpropagation`.

    Returns:
        Query losses (S,), means over T tasks, and their gradients (S, *shape) with respect to theta and xi.

    Raises:
        UserError: for fewer than one task a chunk, or if the model's outputs do not fit the labels.
    """
    num_replicas = len(next(iter(theta.values())))
    num_tasks = episodes.num_tasks // num_replicas

    def of_part(part: Episodes) -> MetaGradient:
        return share_of_gradient(model, rule, theta, xi, part, loop, num_tasks, rematerialise=rematerialise)

    check_chunk(tasks_per_chunk)
    crew, size = shared_out(model, rule, episodes, num_replicas, together=tasks_per_chunk)
    return added_up(crew.each(of_part, chunks(episodes, num_replicas, size)))


def share_of_gradient(
    model: nn.Module,
    rule: MetaOptimizer,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    loop: InnerLoop,
    num_tasks: int,
    *,
    rematerialise: bool = False,
) -> MetaGradient:
    """What `episodes`, which are some of each replica's `num_tasks` tasks, contribute to `replica_meta_gradient`."""
    num_replicas = len(next(iter(theta.values())))
    losses, *gradients = gradient_of_chunk(
        model, rule, theta, xi, episodes, loop, scale=1 / num_tasks, rematerialise=rematerialise
    )
    g_theta, g_xi = (
        # Not in the precision of the tasks.
        {name: found[name].to(x.dtype) if name in found else torch.zeros_like(x) for name, x in tensors.items()}
        for found, tensors in zip(gradients, (theta, xi), strict=True)
    )
    return losses.view(num_replicas, -1).sum(dim=1) / num_tasks, g_theta, g_xi


def added_up(shares: Iterable[MetaGradient]) -> MetaGradient:
    """The sum of what some tasks each contribute, from the first to the last."""
    shares = iter(shares)
    loss, g_theta, g_xi = next(shares)
    for more_loss, more_theta, more_xi in shares:
        loss = loss + more_loss
        g_theta = {name: grad + more_theta[name] for name, grad in g_theta.items()}
        g_xi = {name: grad + more_xi[name] for name, grad in g_xi.items()}
    return loss, g_theta, g_xi


def check_chunk(tasks_per_chunk: int | None) -> None:
    """See that at least one task goes through at once; None stands for all.

    Raises:
        UserError: if not.
    """
    if tasks_per_chunk is not None and not isinstance(tasks_per_chunk, int):
        raise UserError(f"tasks_per_chunk must be a whole number here, or None for all tasks, got {tasks_per_chunk!r}")
    if tasks_per_chunk is not None and tasks_per_chunk < 1:
        raise UserError(f"tasks_per_chunk must be at least 1, got {tasks_per_chunk}")


def chunks(episodes: Episodes, num_replicas: int, size: int | None) -> Iterator[Episodes]:
    """The episodes of all replicas, `size` tasks of each at a time; None for all at once."""
    num_tasks = episodes.num_tasks // num_replicas
    step = num_tasks if size is None else size
    for start in range(0, num_tasks, step):
        yield replica_slice(episodes, num_replicas, start, start + step)


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
        UserError: for names, shapes or labels that do not, and for no task.
    """
    check_not_empty(episodes)
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
    rematerialise: bool = False,
    dtype: torch.dtype | None = None,
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
        rematerialise: whether steps are computed again in the backward pass, and not kept: where activations are most
            of the memory, as in a CNN, it then hardly grows with `steps`; see `core.backpropagation`.
        dtype: of what is computed within a task, such as `torch.bfloat16`; default that of theta.

    Returns:
        The mean query loss over tasks, and its gradients with respect to (theta, xi).

    Raises:
        UserError: for names, shapes or labels that do not fit together, or a setting out of range.
    """
    loop = checked_loop(model, rule, theta, xi, episodes, steps, lr, first_order, lr_scope, adapted)
    episodes = episodes.map(differentiable)
    with explained(model, theta, episodes):
        loss, g_theta, g_xi = replica_meta_gradient(
            model, rule, one_replica(theta), one_replica(xi), episodes, replace(loop, dtype=dtype),
            tasks_per_chunk=tasks_per_chunk, rematerialise=rematerialise,
        )  # fmt: skip
    return loss[0], ({n: g[0] for n, g in g_theta.items()}, {n: g[0] for n, g in g_xi.items()})


@dataclass(frozen=True, eq=False)  # tensors have no one truth
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
            f"{name}.{part}": _joined([chunk[name][part].detached() for chunk in self._xi])
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
    check_chunk(tasks_per_chunk)
    kind = episodes.kind
    chunk_params, chunk_losses, chunk_xi = [], [], []
    for part in chunks(episodes, 1, tasks_per_chunk):
        x, y = differentiable(part.support_x), differentiable(part.support_y)
        losses = []
        walk = inner_loop(model, rule, one_replica(theta), one_replica(xi), x, y, kind, loop, create_graph=False)
        with explained(model, theta, part):
            for state, forward, outputs in walk:
                with torch.no_grad():
                    losses.append(task_losses(forward(x) if state.step == steps else outputs, y, kind))
        chunk_params.append({name: parameter.detached() for name, parameter in state.theta.items()})
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
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # what tensors that do not fit are told by
        for part, x in (("support", episodes.support_x[0]), ("query", episodes.query_x[0])):
            try:
                with torch.no_grad():
                    map_tasks(model, {}, theta, x.unsqueeze(0))  # and not the module, whose buffers it would change
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
