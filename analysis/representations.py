"""How alike two representations of the same examples are.

X (n, p) and Y (n, q) are what two layers, or one layer before and after something, make of n examples. Every measure
is in double precision, centres the columns itself, is 1 for X and X, and does not change if either is scaled or
rotated; but `pwcca` depends on the axes of X.
"""

import torch
from torch import Tensor

from analysis.errors import StudyError

EXAMPLES_PER_FEATURE = 5  # with fewer, canonical correlations of unrelated noise are high as well
VARIANCE_KEPT = 0.99  # of each representation, by SVCCA (Raghu et al., 2017)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment, |Y^T X|^2 / (|X^T X| |Y^T Y|) of centred columns (Kornblith et al., 2019).

    Few examples with many features look alike whatever they are: see `debiased_cka`.

    Raises:
        StudyError: for representations of different examples, or one that is the same for all examples.
    """
    x, y = _centred(x), _centred(y)
    _check(x, y, least=2)
    k, m = x @ x.mT, y @ y.mT
    return float((k * m).sum()) / (float((k * k).sum()) * float((m * m).sum())) ** 0.5


def debiased_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment with unbiased estimates of HSIC (Song et al., 2012; Nguyen et al., 2021).

    Near 0 for unrelated representations however many features they have, and so at times below 0.

    Raises:
        StudyError: for fewer than 4 examples, where an estimate of a norm is not positive, and as `linear_cka`.
    """
    x, y = _centred(x), _centred(y)
    _check(x, y, least=4)
    k, m = (x @ x.mT).fill_diagonal_(0), (y @ y.mT).fill_diagonal_(0)
    norms = [_unbiased_hsic(one, one) for one in (k, m)]
    # Where an output differs for one example alone it is zero but for rounding.
    if any(norm <= 1e-12 * float((one * one).sum()) for norm, one in zip(norms, (k, m), strict=True)):
        raise StudyError("a representation varies too little over examples for an unbiased estimate")
    return _unbiased_hsic(k, m) / (norms[0] * norms[1]) ** 0.5


def svcca(x: Tensor, y: Tensor) -> float:
    """Mean canonical correlation of the leading singular directions (Raghu et al., 2017).

    Of each representation as many directions are kept as hold 99 % of its variance.

    Raises:
        StudyError: for fewer than 5 examples a feature, where the measure misleads, and as `linear_cka`.
    """
    x, y = _enough(x, y)
    _, rho = _canonical(_orthonormal(x, VARIANCE_KEPT), _orthonormal(y, VARIANCE_KEPT))
    return float(rho.mean())


def pwcca(x: Tensor, y: Tensor) -> float:
    """Canonical correlations, weighted by how much of X each direction accounts for (Morcos et al., 2018).

    A direction h, with |h| = 1, weighs sum_j |h . x_j| over the columns x_j of X. Not symmetric in X and Y.

    Raises:
        StudyError: as `svcca`.
    """
    x, y = _enough(x, y)
    directions, rho = _canonical(_orthonormal(x), _orthonormal(y))
    weights = (directions.mT @ x).abs().sum(dim=1)
    return float((weights * rho).sum() / weights.sum())


def _centred(x: Tensor) -> Tensor:
    x = x.detach().double()
    return x - x.mean(dim=0)


def _check(x: Tensor, y: Tensor, *, least: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise StudyError(
            f"{tuple(x.shape)} and {tuple(y.shape)} are no representations (examples, features) to compare"
        )
    if len(x) < least:
        raise StudyError(f"{len(x)} examples are too few, at least {least} are needed")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise StudyError("a representation is not finite")
    if not (x.any() and y.any()):
        raise StudyError("a representation is the same for all examples")


def _enough(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = _centred(x), _centred(y)
    _check(x, y, least=EXAMPLES_PER_FEATURE * max(x.shape[-1], y.shape[-1]))
    return x, y


def _unbiased_hsic(k: Tensor, m: Tensor) -> float:
    """Of Gram matrices (n, n) with zeros on the diagonal, times n (n - 3), which every ratio cancels."""
    n = len(k)
    sums = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(dim=0) @ m.sum(dim=0)) / (n - 2)
    return float((k * m).sum() + sums)


def _orthonormal(x: Tensor, variance: float = 1.0) -> Tensor:
    """An orthonormal basis (n, r) of the span of the leading singular directions that hold this share of variance."""
    left, sizes, _ = torch.linalg.svd(x, full_matrices=False)
    rank = int((sizes > sizes[0] * max(x.shape) * torch.finfo(x.dtype).eps).sum())
    held = (sizes**2).cumsum(0) / (sizes**2).sum()
    return left[:, : min(rank, int((held < variance).sum()) + 1)]


def _canonical(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Canonical directions (n, r) in the span of x, of norm 1, and their correlations (r,); r the smaller rank."""
    u, rho, _ = torch.linalg.svd(x.mT @ y, full_matrices=False)
    return x @ u, rho.clamp(max=1)
