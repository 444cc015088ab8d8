"""Products of matrices, by the faster of the libraries that PyTorch has for them on a CPU.

PyTorch gives a product in single precision to the BLAS it was built with. On x86 that is MKL, which on CPUs of another
make than Intel's leaves AVX-512 aside; oneDNN, which does the convolutions, does not: on an AMD EPYC a core does 240
GFLOP/s in the one and 107 in the other.
"""

from functools import cache

import torch
from torch import Tensor

from core.device import cpu_entry

# Multiplications, and rows and columns, below which a call of oneDNN costs more than it saves.
LEAST = 2**21
LEAST_SIDE = 16


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
    sides = (*x.shape[1:], y.shape[-1])
    is_large = min(sides) >= LEAST_SIDE and sides[0] * sides[1] * sides[2] >= LEAST
    return is_large and onednn_is_faster() and torch._C._get_mkldnn_enabled()


# An operator of our own, as the compiler takes PyTorch's for one whose second factor is a constant. `custom_op` would
# load the compiler in a process that compiles nothing.
_library = torch.library.Library("adaptlens", "DEF")
_library.define("onednn_product(Tensor x, Tensor y) -> Tensor")


def _multiplied(x: Tensor, y: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, y.mT, None, "none", [], "")
    return out


_library.impl("onednn_product", _multiplied, "CPU")


@torch.library.register_fake("adaptlens::onednn_product", lib=_library)
def _(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(len(x), y.shape[-1])


def onednn_product(x: Tensor, y: Tensor) -> Tensor:
    """x y, for x (r, p) and y (p, q) in single precision on a CPU; without a derivative."""
    out: Tensor = torch.ops.adaptlens.onednn_product(x, y)
    return out


def has_onednn() -> bool:
    """Whether PyTorch was built with it, and has the operation."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN takes longer vectors on this CPU than the BLAS does.

    Told by the CPU, and not by a clock, which may say something else in a process that has a core to itself than in one
    that has not: on one machine the same run has the same numbers.
    """
    has_long_vectors = torch.backends.cpu.get_cpu_capability() == "AVX512"
    is_for_another_make = cpu_entry("vendor_id") not in ("GenuineIntel", None)
    return has_onednn() and torch.backends.mkl.is_available() and has_long_vectors and is_for_another_make
