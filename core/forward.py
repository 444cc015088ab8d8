"""A module for one task, applied to many tasks at once."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.errors import UserError
from core.memory import is_out_of_memory
from core.models.layers import TaskSequential
from core.models.linear import LR, LinNet
from core.task_parameter import TaskParameter

Tensors = Mapping[str, Tensor]

# The last two have dropout of their own, and nothing else that hangs on their mode.
_DROPOUT = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    nn.MultiheadAttention, nn.RNNBase,
)  # fmt: skip
# Modules that were seen to do what cannot be mapped over tasks.
_one_by_one: WeakSet[nn.Module] = WeakSet()


class KnowsTasks(Protocol):
    """A module with a way of its own to treat many tasks at once."""

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """Outputs (N, n, ...) of N tasks, with the parameters of each, on x (N, n, *example)."""


def batched_forward(model: nn.Module, theta: Mapping[str, TaskParameter], x: Tensor, adapted: Sequence[str]) -> Tensor:
    """Outputs (N, n, ...) of each task's model on its examples x (N, n, *example).

    A module that knows a faster way for many tasks at once says it as `forward_tasks(theta, x)`; any other is mapped
    over the tasks, and one that cannot be is called task by task. So is one that was changed since it was made: by
    hooks, parametrizations, parts put in place of others, or parts that stand in it twice. Parameters that are not
    `adapted` need not be copied for each task. Buffers are left as they are: where a module in training mode would
    change them (running statistics of batch normalisation), each call changes a copy, which is thrown away.

    Raises:
        UserError: if the model returns anything but a tensor.
    """
    for name, parameter in theta.items():
        parameter.adapts = name in adapted
    if knows_tasks(model):
        return model.forward_tasks(theta, x)
    common = {name: parameter.common() for name, parameter in theta.items()}
    shared = {name: tensor for name, tensor in common.items() if tensor is not None}
    own = {name: parameter.value() for name, parameter in theta.items() if name not in shared}
    return map_tasks(model, own, shared, x)[0]


def knows_tasks(model: nn.Module) -> TypeGuard[KnowsTasks]:
    """Whether it is called by its `forward_tasks`, see `batched_forward`."""
    return _is_as_made(model) and _has_forward_tasks(model)


def _has_forward_tasks(model: nn.Module) -> bool:
    """Whether its `forward_tasks` is that of its `forward`, and not of one that a subclass or the user wrote anew."""
    if "forward" in vars(model):
        return False
    for kind in type(model).__mro__:
        if "forward_tasks" in vars(kind):
            if isinstance(model, LR | LinNet):
                return all(type(part) in (nn.Linear, nn.ModuleList) for part in model.modules() if part is not model)
            return not isinstance(model, TaskSequential) or all(map(_has_forward_tasks, model.children()))
        if "forward" in vars(kind):
            return False
    return False


def _is_as_made(model: nn.Module) -> bool:
    """Whether no part has a hook or a parametrization, and no part or parameter stands in the module twice."""
    parts = [part for _, part in model.named_modules(remove_duplicate=False)]
    if any(part._forward_hooks or part._forward_pre_hooks or "parametrizations" in part._modules for part in parts):
        return False
    held = [parameter for part in parts for parameter in part._parameters.values() if parameter is not None]
    return all(len({id(one) for one in several}) == len(several) for several in (parts, held))


def map_tasks(
    model: nn.Module, own: Tensors, shared: Tensors, x: Tensor, watched: Mapping[str, str] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs (N, n, ...) of a module for one task on x (N, n, *example), by its `forward` alone.

    Args:
        model: the module.
        own: (N, *shape), the parameters that each task has for itself.
        shared: (*shape), those that all tasks have.
        x: the examples of each task.
        watched: names of submodules, by whatever name their outputs are to have.

    Returns:
        The outputs, and those (N, ...) of the watched submodules, of each its last in a pass, the first if it gives
        several; one that is not called gives none.

    Raises:
        UserError: as `batched_forward`.
    """
    seen: dict[str, Tensor] = {}

    def one_task(own: Tensors, buffers: Tensors, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen.clear()
        output = call_with(model, {**own, **buffers, **shared}, x)
        if not isinstance(output, Tensor):
            raise UserError(
                f"the model returns {type(output).__name__}, not a tensor; wrap it in a module that returns its logits"
            )
        return output, dict(seen)

    def keep(name: str) -> Callable[[nn.Module, object, Any], None]:
        def hook(module: nn.Module, inputs: object, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple | list) else output

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(keep(name)) for name, path in (watched or {}).items()]
    try:
        with _differentiable_attention(), _differentiable_recurrence(model, x):
            return _mapped(model, one_task, own, x)
    finally:
        for hook in hooks:
            hook.remove()


def _mapped(
    model: nn.Module, one_task: Callable[..., tuple[Tensor, dict[str, Tensor]]], own: Tensors, x: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """`one_task` of all tasks at once, or one by one where that cannot be."""
    buffers = _copied_buffers(model, len(x))
    # A network that was cut is a new module each time, made of the same parts.
    known = not _one_by_one.isdisjoint(model.modules())
    if not known:
        try:
            return vmap(one_task, in_dims=(0, 0, 0), randomness="different")(own, buffers, x)
        except Exception as error:
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    buffers = _copied_buffers(model, len(x))
    tasks = [
        one_task({k: v[i] for k, v in own.items()}, {k: v[i] for k, v in buffers.items()}, x[i]) for i in range(len(x))
    ]
    # Only now: a model that fails for a single task, too, has a fault of its own, which was raised.
    if not known:
        _one_by_one.update(model.modules())
        warnings.warn(
            f"{type(model).__name__} cannot be mapped over tasks and goes through them one by one, slower: {reason}",
            stacklevel=2,
        )
    outputs, seen = zip(*tasks, strict=True)
    return torch.stack(outputs), {name: torch.stack([one[name] for one in seen]) for name in seen[0]}


def without_dropout(module: nn.Module) -> nn.Module:
    """The module itself, its dropout layers turned off: what is measured must not hang on chance."""
    for part in module.modules():
        if isinstance(part, _DROPOUT):
            part.training = False
    return module


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Attention by PyTorch's plain formulas: of the fast ones, one has no derivative and the others no second one."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _differentiable_recurrence(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Recurrent networks by PyTorch's plain formulas on a GPU: cuDNN's have no derivative here, and no second one."""
    if not x.is_cuda or not any(isinstance(part, nn.RNNBase) for part in model.modules()):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield


def check_forward(module: nn.Module, x: Tensor, num_classes: int) -> None:
    """See that the module takes a task's examples, answers twice the same, and has an output for each class.

    Args:
        module: the module.
        x: (1, n, *example), examples of a task.
        num_classes: outputs that the labels call for; 0 where they are no classes.

    Raises:
        UserError: if it does not; a fault of the module's own is raised as it is.
    """
    shared = dict(module.named_parameters())
    with torch.no_grad():
        first, second = (map_tasks(module, {}, shared, x)[0] for _ in range(2))
    # On a GPU sums may be taken in another order each time.
    bound = 0.0 if x.device.type == "cpu" else 1e-4
    if not torch.allclose(first, second, rtol=bound, atol=bound, equal_nan=True):
        raise UserError(
            f"{type(module).__name__} answers differently when it is asked twice: something random is on in it, such "
            "as dropout; turn it off, for example with module.eval()"
        )
    if num_classes and (first.ndim != 3 or first.shape[-1] < num_classes):
        raise UserError(
            f"{type(module).__name__} gives {tuple(first.shape[2:])} for an example, and the tasks have {num_classes} "
            "classes: it must give a logit for each"
        )


def call_with(model: nn.Module, tensors: Tensors, x: Tensor) -> Any:
    """What the module returns for x with these parameters and buffers, by the names of `named_parameters`.

    A tensor goes wherever the parameter of its name is used. `functional_call` can see to that itself, but where two
    names share a whole module it leaves the tensors in it.
    """
    found = _uses.get(model)
    if found is None or not found.hold():
        found = _uses[model] = _Uses.of(model)
    again = {place: tensors[name] for place, name in found.again if name in tensors}
    return functional_call(model, {**tensors, **again}, (x,), tie_weights=False)


@dataclass(frozen=True)
class _Uses:
    """Where a module uses parameters again, under other names than those of `named_parameters`.

    Attributes:
        parts: of each part of the module its parameters and its own parts, as dictionaries of the module's, and what
            was in them. The module itself is not here: what is known of it must not keep it alive.
        again: (place, name) of each further use.
    """

    parts: tuple[tuple[dict[str, Any], tuple[tuple[str, Any], ...]], ...]
    again: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, model: nn.Module) -> "_Uses":
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        again = []
        for prefix, module in model.named_modules():  # each module once
            for part, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                place, name = f"{prefix}.{part}" if prefix else part, names[id(parameter)]
                if place != name:
                    again.append((place, name))
        held: list[dict[str, Any]] = [of for module in model.modules() for of in (module._parameters, module._modules)]
        return cls(tuple((of, tuple(of.items())) for of in held), tuple(again))

    def hold(self) -> bool:
        """Whether the module has the very parts and parameters that it had."""
        return all(
            len(now) == len(then) and all(now.get(name) is value for name, value in then) for now, then in self.parts
        )


_uses: WeakKeyDictionary[nn.Module, _Uses] = WeakKeyDictionary()


def _copied_buffers(model: nn.Module, num_tasks: int) -> dict[str, Tensor]:
    """The buffers of the modules in training mode, a copy for each task: (N, *shape)."""
    return {
        (f"{prefix}.{name}" if prefix else name): buffer.expand(num_tasks, *buffer.shape).clone()
        for prefix, module in model.named_modules()
        if module.training
        for name, buffer in module.named_buffers(recurse=False)
    }
