"""Linear rules on the whole gradient vector: unfactored (paper, section 4.1), and of low rank (section 4.2)."""

from torch import Tensor

from core.errors import UserError
from core.optimizers.base import MetaOptimizer, Parts, identity

LARGEST = 2**28  # 1 GiB


class Linear(MetaOptimizer):
    """U(g) = A g (+ b), equation 2, with A of k x k for a parameter tensor of k numbers, g = vec(G) with rows stacked.

    A starts at the identity: plain gradient descent. k^2 numbers are for small models only; every other linear rule
    is a special case of this one, which is how the tests use it.

    Args:
        bias: whether b (k numbers, zero to begin with) is added.
        adapts: whether xi is adapted within a task (equation 4).
    """

    name = "linear"

    def __init__(self, *, bias: bool = False, adapts: bool = True) -> None:
        self.bias, self.adapts = bias, adapts

    @property
    def keeps_zero(self) -> bool:
        """Without a bias, which adapts."""
        return not self.bias

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """The identity and a zero bias.

        Raises:
            UserError: for a tensor whose matrix would take more than `LARGEST` numbers.
        """
        if like.numel() ** 2 > LARGEST:
            raise UserError(
                f"the unfactored rule has a matrix of {like.numel():,} x {like.numel():,} for a tensor of "
                f"{like.numel():,} numbers: it is for small models; klin and kfc are its factored forms"
            )
        parts = {"A": identity(like.numel(), like.numel(), like)}
        if self.bias:
            parts["b"] = like.new_zeros(like.numel())
        return parts

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """A g + b for each task."""
        update = parts["A"].right_t(grad.reshape(len(grad), -1))
        if self.bias:
            update = update + parts["b"].value()
        return update.reshape(grad.shape)


class Cholesky(MetaOptimizer):
    """U(g) = L L^T g, section 4.2: a symmetric positive semi-definite A of rank r, with k r numbers.

    L (k x r, part `L`) starts as the first r columns of the identity, so that U starts as the projection on the first
    r coordinates of vec(G) (rows stacked), and as plain gradient descent only for r = k. The other coordinates come
    to life through the meta-gradient.

    Args:
        rank: r, at least 1; a tensor of fewer than r numbers gets a full square L.
        adapts: whether L is adapted within a task (equation 4).

    Raises:
        UserError: for a rank below 1.
    """

    name = "cholesky"

    def __init__(self, *, rank: int, adapts: bool = True) -> None:
        if rank < 1:
            raise UserError(f"the rank of a Cholesky form is at least 1, not {rank}")
        self.rank, self.adapts = rank, adapts

    @property
    def keeps_zero(self) -> bool:
        """A linear map does."""
        return True

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """The first columns of the identity."""
        k = like.numel()
        return {"L": identity(k, min(k, self.rank), like)}

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """L L^T g for each task."""
        flat = grad.reshape(len(grad), -1)
        return parts["L"].right_t(parts["L"].right(flat)).reshape(grad.shape)
