"""Kronecker-factored meta-optimizers: KLin and KFC (paper, section 4.2)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import relu

from core.errors import UserError
from core.optimizers.base import MetaOptimizer, Parts, identity
from core.task_parameter import Gradient, Product, TaskParameter


def matrix_shape(shape: torch.Size) -> tuple[int, int, int]:
    """How many matrices of how many rows and columns, (N, n, m), a parameter of `shape` is for a Kronecker map.

    A matrix (out, in) is one out x in matrix; a convolution (N, C, H, W) is N matrices of HW x C that share the map
    (A.1.2: m = C, n = HW); a vector is one n x 1 matrix.
    """
    if len(shape) == 4:
        return shape[0], shape[2] * shape[3], shape[1]
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return 1, shape[0], math.prod(shape[1:])


def as_matrices(grad: Tensor) -> Tensor:
    """(T, *shape) as (T, N, n, m), with `matrix_shape` of one task's shape."""
    count, n, m = matrix_shape(grad.shape[1:])
    if grad.ndim == 5:
        return grad.reshape(len(grad), count, m, n).mT
    return grad.reshape(len(grad), count, n, m)


def from_matrices(matrices: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `as_matrices`: (T, N, n, m) as `shape`, (T, *one task's shape)."""
    return (matrices.mT if len(shape) == 5 else matrices).reshape(shape)


def left(factor: TaskParameter, matrices: Tensor) -> Tensor:
    """L G for the matrices (T, N, n, m) of each task."""
    if matrices.shape[1] == 1:
        return factor.left(matrices.squeeze(1)).unsqueeze(1)
    return factor.right_t(matrices.mT).mT  # many matrices share L, which then is applied to all of their columns


class KFC(MetaOptimizer):
    """U(g) = vec(L_h relu(... relu(L_1 G R_1) ...) R_h), equation 7: a network of Kronecker-factored maps.

    Each map is W_i = R_i^T (x) L_i on vec(G), columns stacked: (R^T (x) L) vec(G) = vec(L G R), with L of n x n and R
    of m x m for a gradient G of n x m (see `matrix_shape`). All factors start at the identity, so that U starts as
    relu(g), the positive part of the gradient; with depth 1 as g (that is `KLin`).

    Without biases the network is positively homogeneous, KFC(c g) = c KFC(g) for c > 0. So the rescaling of A.1.2,
    scale * |g| * KFC(g / |g|), equals scale * KFC(g), and is computed as that: no division by a norm that may be
    zero. Its one effect is the learnable `scale`. With biases the norm matters, and is taken.

    Parts per parameter tensor: `L0`, `R0`, ... `L<h-1>`, `R<h-1>`; `b0`, ... with `bias`; `scale` with `unit_norm`.

    Args:
        depth: h, the number of maps.
        unit_norm: whether the gradient is scaled to unit norm before the network and back after it, times a
            learnable `scale` that starts at 1 (A.1.2).
        bias: whether each map adds a bias b of G's shape (equation 5), at zero to begin with. Off in the paper.
        adapts: whether xi is adapted within a task (equation 4), as in the paper.

    Raises:
        UserError: for a depth below 1.
    """

    name = "kfc"

    def __init__(self, *, depth: int, unit_norm: bool = False, bias: bool = False, adapts: bool = True) -> None:
        if depth < 1:
            raise UserError(f"a Kronecker-factored network needs at least 1 map, not {depth}")
        self.depth, self.unit_norm, self.bias, self.adapts = depth, unit_norm, bias, adapts

    @property
    def keeps_zero(self) -> bool:
        """Without biases, which adapt."""
        return not self.bias

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """Identities, zero biases, a scale of 1."""
        count, n, m = matrix_shape(like.shape)
        parts: dict[str, Tensor] = {}
        for i in range(self.depth):
            parts[self._key("L", i)] = identity(n, n, like)
            parts[self._key("R", i)] = identity(m, m, like)
            if self.bias:
                parts[self._key("b", i)] = like.new_zeros((count, n, m) if like.ndim == 4 else (n, m))
        if self.unit_norm:
            parts["scale"] = like.new_ones(())
        return parts

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """Equation 7 for each task."""
        norm = None
        hidden = as_matrices(grad)
        if self.unit_norm and self.bias:
            # The smallest norm allowed keeps a zero gradient at a zero update, with finite derivatives.
            norm = grad.reshape(len(grad), -1).norm(dim=1).clamp_min(torch.finfo(grad.dtype).tiny).view(-1, 1, 1, 1)
            hidden = hidden / norm
        for i in range(self.depth):
            if i > 0:
                # What comes of many matrices is a transposed view, of which R would make a copy: made here, gradients
                # lie as what they are multiplied with.
                hidden = relu(hidden.contiguous())
            # R first: the gradient of L is then a product with what is at hand, L's input, and needs no R^T.
            hidden = left(parts[self._key("L", i)], parts[self._key("R", i)].right(hidden))
            if self.bias:
                b = parts[self._key("b", i)].value()
                hidden = hidden + (b if b.ndim == 4 else b.unsqueeze(1))
        if norm is not None:
            hidden = hidden * norm
        if self.unit_norm:
            hidden = hidden * parts["scale"].value().view(-1, 1, 1, 1)
        return from_matrices(hidden, grad.shape)

    def transform_thin(self, parts: Parts, gradient: Gradient) -> Tensor | Product:
        """Equation 7; of G = C^T X, with data X, two of its products with R cost next to nothing.

        G R_1 = C^T (X R_1), and the update L_h H R_h changes the outputs by (X R_h^T) (L_h H)^T: the products of the
        data with the shared factors are the same in every step.
        """
        if gradient.factors is None or self.bias:
            return self.transform(parts, gradient.dense)
        factors = [(parts[self._key("L", i)], parts[self._key("R", i)]) for i in range(self.depth)]
        hidden = gradient.dense
        for i, (l_factor, r_factor) in enumerate(factors[:-1]):
            through_r = r_factor.right_of(gradient) if i == 0 else r_factor.right(hidden)
            hidden = relu(l_factor.left(through_r))
        l_factor, r_factor = factors[-1]
        rows = l_factor.left(hidden)
        if self.unit_norm:
            rows = rows * parts["scale"].value().view(-1, 1, 1)
        return r_factor.later(rows)

    def _key(self, letter: str, i: int) -> str:
        """The name of part L, R or b of the i-th map."""
        return f"{letter}{i}"


class KLin(KFC):
    """U(g) = vec(L G R) (+ b), equation 5: one Kronecker-factored linear map, starting as plain gradient descent.

    Parts per parameter tensor: `L` (n x n), `R` (m x m), and `b` with `bias`; see `KFC` for the convention.

    Args:
        bias: whether the map adds a bias, at zero to begin with. Off in the paper.
        adapts: whether xi is adapted within a task (equation 4), as in the paper.
    """

    name = "klin"

    def __init__(self, *, bias: bool = False, adapts: bool = True) -> None:
        super().__init__(depth=1, bias=bias, adapts=adapts)

    def _key(self, letter: str, i: int) -> str:
        return letter
