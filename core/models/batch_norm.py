"""Batch normalisation of many tasks at once, whose second derivative costs a handful of passes over the data.

With E the mean over a channel's M numbers, h = r (x - E[x]), r = (var + eps)^(-1/2) and y = w h + b:

    g = dL/dy:    dL/dx = w r (g - s - h t),    dL/dw = M t,    dL/db = M s,    s = E[g],  t = E[g h]

Adaptation by gradient descent differentiates this once more. For cotangents u, u_w, u_b of the three results, with
a = E[u], c = E[u h], d = E[g u] and f = u_w - w r c:

    by g:   w r (u - a - h c) + u_w h + u_b
    by w:   M r (d - s a - t c)
    by x:   r (v - E[v] - h E[v h]) - r h w r (d - s a - t c),    v = f g - w r t u

Each is a sum of g, u and x with a factor a channel, and a constant: two or three passes. PyTorch's own formula makes
some twenty, which were 40 % of the time of a meta-gradient on a CPU.

The first term of what is by g is dL/dx with u in the place of g, and a and c are its s and t: on a GPU, and in half
precision, PyTorch's kernel for a backward pass, with the tasks' channels side by side, serves both derivatives.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.models.convolution import by_task, side_by_side, wants_channels_last


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Each task's channels at mean 0 and variance 1 over its examples and pixels, times `weight`, plus `bias`.

    It can be differentiated twice.

    Args:
        x: (N, n, F, height, width), of N tasks.
        weight, bias: (N, F).
        eps: added to the variance.
    """
    out: Tensor = _BatchNorm.apply(x, weight, bias, eps)
    return out


def batch_norm_in_place(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same without a derivative, in the memory of x where PyTorch's kernel is not taken, see `_has_kernel`."""
    if _has_kernel(x):
        return batch_norm(x, weight, bias, eps)
    mean, inverse = _statistics(x, eps)
    scale = weight * inverse
    return x.mul_(_channels(scale, x)).add_(_channels(bias - mean * scale, x))


# Pixels of an image from which on PyTorch's kernel for the backward pass is faster than the sums here: with 7 x 7 it
# takes half of their time on a CPU, with 4 x 4 from a quarter to all of it, with 2 x 2 from two to forty times as much.
LEAST_PIXELS = 16


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """(N, F) as it multiplies x (N, n, F, height, width), in x's own precision."""
    return values.to(x.dtype)[:, None, :, None, None]


def _has_kernel(x: Tensor) -> bool:
    """Whether to take PyTorch's kernels: not where convolutions leave a pixel's channels next to one another.

    In that layout the kernels for a CPU add one number to the next: in single precision off by 1e-5 for 50 images of
    14 x 14.
    """
    return not wants_channels_last(x)


def _mean(x: Tensor) -> Tensor:
    """E[x], (N, F)."""
    if x.stride(2) == 1:  # rows are of channels
        return x.sum((1, 3, 4), dtype=_precision(x)) / _count(x)
    # Over the examples first: long rows, however small the images.
    return x.sum(1, dtype=_precision(x)).sum((2, 3)) / _count(x)


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """E[x] and r, (N, F)."""
    mean = _mean(x)
    squares = F.mse_loss(x, _channels(mean, x).expand_as(x), reduction="none")  # (x - E[x])^2, in one pass
    return mean, (_mean(squares) + eps).rsqrt()


def _mean_product(x: Tensor, y: Tensor) -> Tensor:
    """E[x y], (N, F)."""
    if not _suits_kernel(x):
        return _mean(x * y)
    one = x.new_ones(x.shape[0] * x.shape[2], dtype=_precision(x))
    # The gradient by a weight of x as it is, with mean 0 and deviation 1: the dot products, and no tensor of products.
    _, sums, _ = torch.ops.aten.native_batch_norm_backward(
        side_by_side(y), side_by_side(x), one, None, None, one - 1, one, True, 0.0, [False, True, False]
    )
    return sums.view(x.shape[0], x.shape[2]) / _count(x)


def _input_gradient(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """w r (g - s - h t), (N, n, F, height, width), and s and t, (N, F)."""
    if _suits_kernel(x):
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            side_by_side(g), side_by_side(x), weight.to(_precision(x)).flatten(), None, None, mean.flatten(),
            inverse.flatten(), True, 0.0, [True, True, True],
        )  # fmt: skip
        s, t = (sums.view_as(mean) / _count(x) for sums in (grad_bias, grad_weight))
        return by_task(grad_x, len(x)), s, t
    s = _mean(g)
    t = inverse * (_mean_product(g, x) - mean * s)
    scale = weight * inverse
    slope = scale * inverse * t
    return _combine(mean * slope - scale * s, (scale, g), (-slope, x)), s, t


def _suits_kernel(x: Tensor) -> bool:
    """Whether to take PyTorch's kernel for a backward pass."""
    return _has_kernel(x) and x.shape[3] * x.shape[4] >= LEAST_PIXELS


def _precision(x: Tensor) -> torch.dtype:
    """That of sums: x's own, and at least single."""
    return torch.promote_types(x.dtype, torch.float32)


def _count(x: Tensor) -> int:
    """Numbers in a channel."""
    return x.shape[1] * x.shape[3] * x.shape[4]


def _combine(constant: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """constant + sum of factor * x, for (N, F) constants and factors."""
    (factor, x), *rest = terms
    out = (x * _channels(factor, x)).add_(_channels(constant, x))  # a third of what addcmul of a broadcast tensor takes
    for factor, x in rest:
        out.addcmul_(x, _channels(factor, x))
    return out


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        if _has_kernel(x):
            scale, shift = (values.to(_precision(x)).flatten() for values in (weight, bias))
            merged, *statistics = torch.native_batch_norm(side_by_side(x), scale, shift, None, None, True, 0.0, eps)
            out = by_task(merged, len(x))
            mean, inverse = (values.view_as(weight) for values in statistics)
        else:
            mean, inverse = _statistics(x, eps)
            scale = weight * inverse
            out = _combine(bias - mean * scale, (scale, x))
        ctx.save_for_backward(x, weight, mean, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return *_Backward.apply(*gradients, *ctx.saved_tensors), None


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_x, s, t = _input_gradient(g, x, weight, mean, inverse)
        ctx.save_for_backward(g, x, weight, mean, inverse, s, t)
        ctx.set_materialize_grads(False)
        return grad_x, t * _count(x), s * _count(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        g, x, weight, mean, inverse, s, t = ctx.saved_tensors
        u, u_weight, u_bias = cotangents
        u_weight = torch.zeros_like(s) if u_weight is None else u_weight
        u_bias = torch.zeros_like(s) if u_bias is None else u_bias
        u = torch.zeros_like(x) if u is None else u
        scale = weight * inverse
        by_g, a, c = _input_gradient(u, x, weight, mean, inverse)
        d = _mean_product(g, u) - s * a - t * c
        by_x = inverse * u_weight
        by_g.addcmul_(x, _channels(by_x, x)).add_(_channels(u_bias - mean * by_x, x))
        # v = f g - w r t u; its mean, and its mean product with h together with what the variance adds.
        f = u_weight - scale * c
        of_u = -scale * t
        mean_v = f * s + of_u * a
        along = f * t + of_u * c + scale * d
        slope = inverse.square() * along
        grad_x = _combine(mean * slope - inverse * mean_v, (inverse * f, g), (inverse * of_u, u), (-slope, x))
        return by_g, grad_x, _count(x) * inverse * d, None, None
