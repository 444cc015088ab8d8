"""Models: plain modules for one task, which know nothing of tasks."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from core.errors import UserError, unknown_name
from core.models.conv import CNN, Downsample, NormMode
from core.models.linear import LR, LinNet
from core.seeds import seeded
from core.tasks.base import TaskShape, TaskSource

MODELS = ("lr", "linnet", "cnn")


def make_model(
    name: str,
    tasks: TaskSource | TaskShape,
    *,
    seed: int,
    depth: int | None = None,
    filters: int | None = None,
    hidden: tuple[int, ...] | None = None,
    bias: bool | None = None,
    init_scale: float | None = None,
    norm_mode: NormMode | None = None,
    downsample: Downsample | None = None,
) -> nn.Module:
    """A freshly initialised model that fits `tasks`, by name.

    Args:
        name: "lr", "linnet" or "cnn".
        tasks: tells the shape of an example and the number of outputs.
        seed: seed of the initial weights. They depend on it, the name and the sizes only, so that methods compared on
            one seed start from the same weights. The global generators are left as they were.
        depth: number of convolutional layers ("cnn" only; default 4).
        filters: output channels of each convolution ("cnn" only; default 64).
        hidden: widths of the hidden layers ("linnet" only, required there).
        norm_mode, downsample: see `CNN` ("cnn" only; default "batch" and "stride").
        bias: whether linear layers have a bias ("lr" and "linnet" only; default False, as in the paper).
        init_scale: what every initial weight and bias is multiplied by, at least 0 ("lr" and "linnet" only; default 1).

    Raises:
        UserError: for an unknown name, an option that the model does not have, a missing one, or a layer of no width.
    """
    options = {
        "depth": depth, "filters": filters, "hidden": hidden, "bias": bias, "norm_mode": norm_mode,
        "downsample": downsample, "init_scale": init_scale,
    }  # fmt: skip
    accepted = {
        "lr": {"bias", "init_scale"},
        "linnet": {"hidden", "bias", "init_scale"},
        "cnn": {"depth", "filters", "norm_mode", "downsample"},
    }  # fmt: skip
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if refused := sorted(given.keys() - accepted[name]):
        known = ", ".join(sorted(accepted[name]))
        raise UserError(f"model {name!r} has no option {', '.join(refused)}; it has {known}")
    if init_scale is not None and not init_scale >= 0:
        raise UserError(f"init_scale must be at least 0, got {init_scale}")
    given.pop("init_scale", None)
    inputs = math.prod(tasks.example_shape)
    check_widths(filters, hidden)
    with seeded(seed, "initial weights"), _single_precision_on_the_cpu():
        if name == "lr":
            return _scaled(LR(inputs, tasks.num_outputs, **given), init_scale)
        if name == "linnet":
            if hidden is None:
                raise UserError("model 'linnet' needs hidden, the widths of its hidden layers, such as (64, 64, 64)")
            return _scaled(LinNet(inputs, tasks.num_outputs, **given), init_scale)
        if len(tasks.example_shape) != 3:
            raise UserError(f"model 'cnn' needs images (channels, height, width), not examples {tasks.example_shape}")
        return CNN(tasks.example_shape[0], tasks.num_outputs, **given)


def check_widths(filters: int | None, hidden: tuple[int, ...] | None) -> None:
    """See that each layer has an output.

    Raises:
        UserError: if one has none.
    """
    if min(1 if filters is None else filters, *(hidden or (1,))) < 1:
        raise UserError(f"a layer has at least 1 output, got filters {filters} and hidden {hidden}")


@contextmanager
def _single_precision_on_the_cpu() -> Iterator[None]:
    """What is made within is of float32, from the CPU's generator: a run's name does not say what its caller prefers.

    Where the default device is "meta", on which nothing has numbers, it stays so.
    """
    before, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        with device if device.type == "meta" else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def _scaled(model: nn.Module, factor: float | None) -> nn.Module:
    """`model` with all its parameters times `factor`; None for 1."""
    if factor is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
    return model
