"""Convolutions of many tasks at once, whose second derivative is as many convolutions of all tasks.

The tasks are groups of channels. With y = x * w, the gradient g = dL/dy, and B and W for the two maps of a
convolution's backward pass, dL/dx = B(g, w) and dL/dw = W(x, g): each is linear in both of its arguments, and for
cotangents u of dL/dx, v of dL/dw and c of dL/db (the sum of g),

    by g:   u * w + x * v + c        by w:   W(u, g)        by x:   B(g, v)

PyTorch's own formula computes what is by w group by group, and copies each group before and after.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Settings(NamedTuple):
    """Of a convolution.

    Attributes:
        stride, padding: in each dimension of space.
        groups: parts of the channels that know nothing of one another.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int = 1


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    """PyTorch's convolution, which can be differentiated twice.

    Args:
        x: (n, groups * C, height, width).
        weight: (groups * F, C, kernel height, kernel width).
        bias: (groups * F), or none.
        settings: stride, padding and groups.
    """
    out: Tensor = _Convolution.apply(x, weight, bias, settings)
    return out


def kernel_gradient(g: Tensor, x: Tensor, shape: Sequence[int], settings: Settings) -> Tensor:
    """W(x, g), the gradient of each group's kernels shaped (groups * F, C, ...); it can be differentiated once."""
    found: Tensor = _Backward.apply(g, x, x.new_empty(shape), settings, (False, True, False))[1]
    return found


def side_by_side(x: Tensor) -> Tensor:
    """(N, n, C, height, width) as (n, N * C, height, width), as convolutions of all tasks leave it: no copy there."""
    return x.transpose(0, 1).flatten(1, 2)


def by_task(x: Tensor, num_tasks: int) -> Tensor:
    """(n, N * C, height, width) as (N, n, C, height, width)."""
    return x.unflatten(1, (num_tasks, -1)).transpose(0, 1)


def wants_channels_last(x: Tensor) -> bool:
    """Whether a pixel's channels are to lie next to one another: on a CPU in full precision.

    Otherwise its convolutions copy all that goes in and comes out, and batch normalisation takes twice as long.
    """
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    """x * w, which autograd does not see through."""
    stride, padding, groups = settings
    return torch.convolution(x, weight, bias, stride, padding, [1] * len(stride), False, [0] * len(stride), groups)


def gradients(
    g: Tensor, x: Tensor, weight: Tensor, settings: Settings, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """B(g, weight), W(x, g) and the sum of g, those that are wanted."""
    stride, padding, groups = settings
    ones, zeros = [1] * len(stride), [0] * len(stride)
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        g, x, weight, [len(weight)], stride, padding, ones, False, zeros, groups, list(wanted)
    )
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        return convolve(x, weight, bias, settings)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        # Of images themselves no gradient is wanted, nor of a bias that is not there.
        wanted = (ctx.needs_input_grad[0], True, ctx.needs_input_grad[2])
        return *_Backward.apply(*cotangents, *ctx.saved_tensors, ctx.settings, wanted), None


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, settings: Settings, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, weight)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return gradients(g, x, weight, settings, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        g, x, weight = ctx.saved_tensors
        u, v, c = cotangents
        terms = [] if c is None else [c.view(-1, 1, 1).expand_as(g)]
        terms += [] if u is None else [convolve(u, weight, None, ctx.settings)]
        terms += [] if v is None else [convolve(x, v, None, ctx.settings)]
        by_g = sum(terms[1:], terms[0]) if terms else None
        by_x = by_weight = None
        if u is not None:
            _, by_weight, _ = gradients(g, u, weight, ctx.settings, (False, True, False))
        if v is not None and ctx.needs_input_grad[1]:
            by_x, _, _ = gradients(g, x, v, ctx.settings, (True, False, False))
        return by_g, by_x, by_weight, None, None
