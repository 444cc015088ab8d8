"""ReLU and means over space, whose derivatives lie in memory as the activations do, and add no zeros.

PyTorch's gradient of a mean lies in an order of its own, and an operation on two tensors that lie otherwise takes up to
ten times as long; and its second derivative of ReLU makes a tensor of zeros and adds it.
"""

from typing import Any

import torch
from torch import Tensor


def relu(x: Tensor) -> Tensor:
    """max(x, 0); it can be differentiated any number of times."""
    out: Tensor = _ReLU.apply(x)
    return out


def spatial_mean(x: Tensor) -> Tensor:
    """The means (N, n, F) over height and width of (N, n, F, height, width); likewise."""
    out: Tensor = _Mean.apply(x)
    return out


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.relu()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Masked.apply(g, ctx.saved_tensors[0].detach())


class _Masked(torch.autograd.Function):
    """g where `out` is positive, and zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, out: Tensor) -> Tensor:
        ctx.save_for_backward(out)
        masked: Tensor = torch.ops.aten.threshold_backward(g, out, 0)
        return masked

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Masked.apply(g, ctx.saved_tensors[0]), None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.mean((3, 4))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Spread.apply(g, ctx.saved_tensors[0].detach())


class _Spread(torch.autograd.Function):
    """g (N, n, F) divided among the pixels of x (N, n, F, height, width), laid as x."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        share = g / (x.shape[3] * x.shape[4])
        return torch.empty_like(x).copy_(share[..., None, None])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Mean.apply(g), None
