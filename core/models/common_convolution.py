"""Convolutions of many tasks by the same kernels, as before they adapt: one of all their images at once.

It takes a sixth to four fifths of the time of one for each task, the least where images are small, so that kernels are
most of what is read. Half of the convolutions of a meta-gradient of one step are of this kind. The gradient of the
kernels is summed over tasks where it is made.

Tasks' channels lie side by side, and nothing is copied: where channels are last, numbers are in the order of image,
height, width, task and channel, and tasks are a third dimension of space, in which kernels have length 1; otherwise the
order is image, task, channel, height and width, and n images of each of N tasks are N n images.
"""

from typing import Any

import torch
from torch import Tensor

from core.models.convolution import Settings, convolve, gradients, kernel_gradient, wants_channels_last
from core.task_parameter import Collected, TaskParameter

# Tasks below which one convolution of each is faster where they are a dimension of space, and where they are not.
_FEWEST_IN_SPACE, _FEWEST = 3, 2


def suits_common(x: Tensor) -> bool:
    """Whether images x (N, ...) of N tasks are convolved faster by `common_convolution` than task by task."""
    return len(x) >= (_FEWEST_IN_SPACE if wants_channels_last(x) else _FEWEST)


def common_convolution(x: Tensor, weight: TaskParameter, kernels: Tensor, stride: int, padding: int) -> Tensor:
    """Each task's images convolved by what of `weight` is undivided. It can be differentiated any number of times.

    The gradient of the kernels is collected, and a task's own recorded, see `TaskParameter`.

    Args:
        x: (n, N * C, height, width), of N tasks.
        weight: the parameter.
        kernels: (F, C, kernel height, kernel width), its `undivided()`.
        stride, padding: in height and width alike.

    Returns:
        (n, N * F, height, width).
    """
    num_tasks = weight.num_tasks
    images = _merged(x, num_tasks)
    if images.ndim == 4:
        of_all = Settings((stride, stride), (padding, padding))
    else:
        of_all = Settings((stride, stride, 1), (padding, padding, 0))
        kernels = kernels.unsqueeze(4)
    out = _parted(_CommonConvolution.apply(images, kernels, of_all, weight.collected), num_tasks)

    def of_each(g: Tensor) -> Tensor:
        shape = (num_tasks * weight.shape[0], *weight.shape[1:])
        found = kernel_gradient(g, x, shape, Settings((stride, stride), (padding, padding), num_tasks))
        return found.unflatten(0, (num_tasks, -1))

    weight.record(out, of_each)
    return out


def _merged(x: Tensor, num_tasks: int) -> Tensor:
    """(n, N * C, height, width) as (n, C, height, width, N), or as (n * N, C, height, width)."""
    if not wants_channels_last(x):
        return x.unflatten(1, (num_tasks, -1)).flatten(0, 1)
    # Channels come last before they are parted, so that strides say so even where each task has one.
    return x.permute(0, 2, 3, 1).unflatten(3, (num_tasks, -1)).permute(0, 4, 1, 2, 3)


def _parted(x: Tensor, num_tasks: int) -> Tensor:
    """What `_merged` takes, of what it gives."""
    parts = x.permute(0, 4, 1, 2, 3) if x.ndim == 5 else x.unflatten(0, (-1, num_tasks))
    return parts.flatten(1, 2)


class _CommonConvolution(torch.autograd.Function):
    """x * w, of kernels whose gradient is collected."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, settings: Settings, collected: Collected) -> Tensor:
        ctx.save_for_backward(x, kernels)
        ctx.settings, ctx.collected = settings, collected
        return convolve(x, kernels, None, settings)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, kernels = ctx.saved_tensors
        _collect(ctx.collected, g, x, kernels, ctx.settings)
        wanted = ctx.needs_input_grad[0]
        by_x = _CommonInputGradient.apply(g, x.detach(), kernels, ctx.settings, ctx.collected) if wanted else None
        return by_x, None, None, None


class _CommonInputGradient(torch.autograd.Function):
    """B(g, w), shaped as x, of kernels whose gradient is collected."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, kernels: Tensor, settings: Settings, collected: Collected) -> Tensor:
        ctx.save_for_backward(g, kernels)
        ctx.settings, ctx.collected = settings, collected
        found, _, _ = gradients(g, x, kernels, settings, (True, False, False))
        assert found is not None
        return found

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        g, kernels = ctx.saved_tensors
        _collect(ctx.collected, g, u, kernels, ctx.settings)
        wanted = ctx.needs_input_grad[0]
        by_g = _CommonConvolution.apply(u, kernels, ctx.settings, ctx.collected) if wanted else None
        return by_g, None, None, None, None


def _collect(collected: Collected, g: Tensor, x: Tensor, kernels: Tensor, settings: Settings) -> None:
    if collected.open and kernels.requires_grad:
        _, found, _ = gradients(g, x, kernels, settings, (False, True, False))
        assert found is not None
        collected.add(found.reshape(1, *found.shape[:4]))
