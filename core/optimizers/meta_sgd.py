"""A learned rate for every parameter."""

import torch
from torch import Tensor

from core.optimizers.base import MetaOptimizer, Parts


class MetaSGD(MetaOptimizer):
    """U(g) = rate * g, element by element: A = diag(vec(rate)) in equation 2 (Li et al., 2017).

    Part `rate`, of the parameter's own shape, starts at 1, which is plain gradient descent at `adapt_lr`; Li et al.
    have no separate `adapt_lr` and start the rates at it. Fixed within a task by default.

    Args:
        adapts: whether the rates are adapted within a task.
    """

    name = "meta_sgd"

    def __init__(self, *, adapts: bool = False) -> None:
        self.adapts = adapts

    @property
    def keeps_zero(self) -> bool:
        """Rates times zero."""
        return True

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """`rate`, ones."""
        return {"rate": torch.ones_like(like)}

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """rate * grad."""
        return parts["rate"].value() * grad
