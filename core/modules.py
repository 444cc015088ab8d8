"""A module of the user's own, before it is trained or measured."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from bounds.words import listed, shown
from core.errors import UserError
from core.forward import without_dropout
from core.seeds import seeded

OwnModel = nn.Module | Callable[[int], nn.Module]


def reinitialised(module: nn.Module, seed: int) -> nn.Module:
    """A copy with random weights, by each layer's own `reset_parameters` under `seed`; layers without one stay.

    The global generators are left as they were.
    """
    copy = deepcopy(module)
    with seeded(seed, "initial weights"):
        for part in copy.modules():
            if reset := _reset_of(part):
                reset()
    return copy


def not_random(module: nn.Module) -> list[str]:
    """Names of the parameters that `reinitialised` leaves as they are: those of layers that cannot reset them."""
    owners = dict(module.named_modules())
    names = (name for name, _ in module.named_parameters())
    return [name for name in names if _reset_of(owners[name.rpartition(".")[0]]) is None]


def _reset_of(part: nn.Module) -> Callable[[], Any] | None:
    """What gives a layer random weights; PyTorch's attention has it by the second name."""
    for name in ("reset_parameters", "_reset_parameters"):
        if callable(reset := getattr(part, name, None)):
            return reset
    return None


def fresh_module(model: OwnModel, seed: int) -> nn.Module:
    """The module that training with `seed` begins with: a copy of the one given, or what the function makes.

    Dropout is turned off in it.

    Raises:
        UserError: as `check_module`, and if it is neither.
    """
    if isinstance(model, type) or not callable(model):  # a module is callable, too
        raise UserError(f"model= must be an nn.Module, or a function of a seed that makes one, not {shown(model)}")
    module = deepcopy(model) if isinstance(model, nn.Module) else model(seed)
    check_module(module)
    return without_dropout(module)


def check_module(module: Any) -> None:
    """See that it is a network whose parameters can adapt.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"a model of your own must be an nn.Module, not {shown(module)}")
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise UserError(f"{name} has no shape yet: call the module once on an example")
        if not parameter.is_floating_point():
            raise UserError(f"{name} is of {parameter.dtype}: only parameters of floating-point numbers can adapt")


def warn_of_frozen(module: nn.Module) -> None:
    """Say that `requires_grad` decides nothing here, where someone seems to think so."""
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    if 0 < len(frozen) < len(list(module.parameters())):
        warnings.warn(
            f"requires_grad is off for {listed(frozen)}: they adapt and are trained all the same, as what adapts is "
            "said by adapted=",
            stacklevel=3,
        )
