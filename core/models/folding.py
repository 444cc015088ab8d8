"""A convolution of data and the batch normalisation after it, as one convolution.

Data stay the same while a task is adapted to, and what batch normalisation has to know of y = x * w hangs on their
patches p (K = channels x kernel size numbers each) alone:

    E[y_f] = w_f . m,    Var[y_f] = w_f^T S w_f,    m = E[p],    S = Cov[p].

So with s_f = weight_f (Var[y_f] + eps)^(-1/2),

    weight_f (y_f - E[y_f]) (Var[y_f] + eps)^(-1/2) + bias_f = x * (s_f w_f) + (bias_f - s_f E[y_f]),

and no pass over y is left, forward or backward, first derivative or second: what the statistics depend on are the
weights, which are few. The first layer's activations are a network's largest.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Of a patch: its covariance, K x K, is to be small beside what it saves.
MOST_PATCH_NUMBERS = 64
# Numbers of patches at a time, in double precision.
_AT_ONCE = 2**21


@dataclass(frozen=True)
class Moments:
    """Of each task's patches, in double precision: weights may take differences of pixels that are nearly equal.

    Attributes:
        mean: m (N, K).
        covariance: S (N, K, K).
    """

    mean: Tensor
    covariance: Tensor


def is_foldable(x: Tensor, patch: tuple[int, ...]) -> bool:
    """Whether x are data, a patch has few numbers, and scaled kernels keep their digits, as they do not in bfloat16.

    Args:
        x: (N, n, channels, height, width), what the convolution takes.
        patch: (channels, kernel height, kernel width).
    """
    is_precise = x.dtype in (torch.float32, torch.float64)
    return is_precise and not x.requires_grad and math.prod(patch) <= MOST_PATCH_NUMBERS


@torch.no_grad()
def moments(x: Tensor, kernel_size: tuple[int, int], stride: int) -> Moments:
    """Mean and covariance of the patches of x (N, n, channels, height, width), as a convolution meets them."""
    size = x.shape[2] * kernel_size[0] * kernel_size[1]
    total = x.new_zeros(len(x), size, dtype=torch.float64)
    products = x.new_zeros(len(x), size, size, dtype=torch.float64)
    num_patches = 0
    of_an_image = len(x) * size * x.shape[3] * x.shape[4] // stride**2
    for images in x.split(max(1, _AT_ONCE // of_an_image), dim=1):
        patches = F.unfold(images.flatten(0, 1), kernel_size, stride=stride)  # (N * n, K, positions)
        patches = patches.unflatten(0, images.shape[:2]).transpose(1, 2).flatten(2).double()  # (N, K, n * positions)
        num_patches += patches.shape[2]
        total += patches.sum(2)
        products += patches @ patches.mT
    mean = total / num_patches
    return Moments(mean, products / num_patches - mean.unsqueeze(2) * mean.unsqueeze(1))


def folded(kernels: Tensor, weight: Tensor, bias: Tensor, eps: float, of: Moments) -> tuple[Tensor, Tensor]:
    """The convolution that does what `kernels` and batch normalisation do, on the data whose patches have `of`.

    Args:
        kernels: (N, F, channels, kernel height, kernel width).
        weight, bias: (N, F), of batch normalisation.
        eps: added to the variance.
        of: the moments of each task's patches.

    Returns:
        Its kernels, shaped as `kernels`, and its bias (N, F).
    """
    rows = kernels.flatten(2).double()  # w_f
    mean = (rows @ of.mean.unsqueeze(2)).squeeze(2)
    variance = ((rows @ of.covariance) * rows).sum(2)
    scale = weight * (variance + eps).rsqrt()
    merged = (rows * scale.unsqueeze(2)).to(kernels.dtype).view_as(kernels)
    return merged, (bias - scale * mean).to(bias.dtype)
