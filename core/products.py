"""Products of matrices, by the faster of the libraries that PyTorch has for them on this CPU.

PyTorch gives a product in single precision to the BLAS it was built with. That is MKL on x86, which takes the shorter
vectors on CPUs of another make than its own; oneDNN, which does the convolutions, takes the long ones, and is more than
twice as fast there. Where both are as fast, the BLAS keeps the product.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

# Multiplications below which a call of oneDNN takes longer than it saves.
LEAST = 2**21
# oneDNN has to be so much faster to be taken: the answer then is the same each time it is measured.
MARGIN = 1.4
_MEASURED = (256, 512, 512)
_CALLS = 5


def product(x: Tensor, y: Tensor) -> Tensor:
    """x y, for x (S, r, p) and y (S, p, q), by either library: they differ by rounding."""
    if _suits_onednn(x, y):
        outs = [onednn_product(a, b) for a, b in zip(x, y, strict=True)]
        return outs[0].unsqueeze(0) if len(outs) == 1 else torch.stack(outs)
    return (x[0] @ y[0]).unsqueeze(0) if len(x) == 1 else x @ y  # a product of two matrices needs no batch


def add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """total += x y, for total (S, r, q) and what `product` takes."""
    if _suits_onednn(x, y):
        for one, a, b in zip(total, x, y, strict=True):
            one.add_(onednn_product(a, b))
    elif len(x) == 1:
        total[0].addmm_(x[0], y[0])
    else:
        total.baddbmm_(x, y)


def _suits_onednn(x: Tensor, y: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or y.dtype != torch.float32:
        return False
    _, r, p = x.shape
    return r * p * y.shape[-1] >= LEAST and onednn_is_faster()


# An operator of our own, as the compiler takes PyTorch's for one whose second factor is a constant.
@torch.library.custom_op("adaptlens::onednn_product", mutates_args=())
def onednn_product(x: Tensor, y: Tensor) -> Tensor:
    """x y, for x (r, p) and y (p, q); without a derivative."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, y.mT, None, "none", [], "")
    return out


@onednn_product.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(len(x), y.shape[-1])


def has_onednn() -> bool:
    """Whether PyTorch was built with it, and has the operation."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is at hand, and faster by `MARGIN` with matrices of some hundred rows; measured once a process."""
    if not has_onednn():
        return False
    with ThreadPoolExecutor(1) as thread:  # where nobody records operations, or counts them
        return thread.submit(_measure).result()


def _measure() -> bool:
    r, p, q = _MEASURED
    x, y = torch.ones(r, p), torch.ones(p, q)
    seconds: dict[Callable[[Tensor, Tensor], Tensor], float] = {}
    for _ in range(_CALLS):  # in turns, as the machine may have something else to do
        for way in (torch.mm, onednn_product):
            started = time.perf_counter()
            way(x, y)
            seconds[way] = min(time.perf_counter() - started, seconds.get(way, float("inf")))
    return seconds[torch.mm] > MARGIN * seconds[onednn_product]
