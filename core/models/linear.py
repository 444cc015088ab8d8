"""Linear models: logistic regression, and the same function made deep."""

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor, nn


class LR(nn.Module):
    """(Multinomial) logistic regression: logits = W vec(x) (+ b), W of shape (outputs, inputs) named `fc.weight`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, outputs) of examples (n, *example)."""
        if self.fc.bias is not None:
            return self.fc(x.flatten(1))
        return linear_chain([self.fc.weight], x.flatten(1))


class LinNet(nn.Module):
    """A deep linear network: logits = W_h ... W_1 vec(x), no activation between the layers (paper, section 3.2).

    Its parameters are `layers.<i>.weight` of shape (out_i, in_i). Without biases the product is associative, and it
    is multiplied in whichever order costs the fewest multiplications: with 1,000 points and widths 100-64-64-64-1
    the weights collapse first; with 5 points and 784 inputs the points go through layer by layer.

    Args:
        inputs: length of a flattened example.
        outputs: number of logits.
        hidden: widths of the hidden layers, first to last.
        bias: whether each layer adds a bias (then the layers are applied one after the other).
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: Sequence[int], bias: bool = False) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(
            nn.Linear(m, n, bias=bias) for m, n in zip(widths[:-1], widths[1:], strict=True)
        )
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, outputs) of examples (n, *example)."""
        x = x.flatten(1)
        if self.bias:
            for layer in self.layers:
                x = layer(x)
            return x
        return linear_chain([layer.weight for layer in self.layers], x)


def linear_chain(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """Outputs (n, outputs) of inputs (n, m) to the linear layers `weights`, first to last, each (out, in).

    Computed as (W_h ... W_1 x^T)^T: with few outputs and many examples, the products whose long axis comes last, here
    and in the backward pass, are ten times as fast as x W^T when tasks are batched.
    """
    return chain_product([*reversed(weights), x.mT]).mT


def chain_product(matrices: Sequence[Tensor]) -> Tensor:
    """The product of `matrices`, multiplied in the order with the fewest scalar multiplications."""
    if len(matrices) == 1:
        return matrices[0]
    shape = (matrices[0].shape[-2], *(matrix.shape[-1] for matrix in matrices))
    split = cheapest_split(tuple(shape))
    return chain_product(matrices[:split]) @ chain_product(matrices[split:])


@lru_cache(maxsize=None)
def cheapest_split(shape: tuple[int, ...]) -> int:
    """Where to make the last multiplication of a chain whose i-th matrix is shape[i] x shape[i+1]."""
    return _cheapest(shape)[1]


@lru_cache(maxsize=None)
def _cheapest(shape: tuple[int, ...]) -> tuple[int, int]:
    """Least number of scalar multiplications of the chain, and its last split."""
    if len(shape) == 2:
        return 0, 0
    return min(
        (_cheapest(shape[: k + 1])[0] + _cheapest(shape[k:])[0] + shape[0] * shape[k] * shape[-1], k)
        for k in range(1, len(shape) - 1)
    )
