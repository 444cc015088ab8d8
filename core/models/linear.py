"""Linear models: logistic regression, and the same function made deep."""

import itertools
from collections.abc import Mapping, Sequence
from functools import cache

from torch import Tensor, nn

from core.task_parameter import TaskParameter


class LR(nn.Module):
    """(Multinomial) logistic regression: logits = W vec(x) (+ b), W of shape (outputs, inputs) named `fc.weight`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, outputs) of examples (n, *example)."""
        return self.fc(x.flatten(1))

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """Logits (N, n, outputs) of each task's examples (N, n, *example) with its own parameters."""
        return linear_layers([theta["fc.weight"]], [theta.get("fc.bias")], x.flatten(2))


class LinNet(nn.Module):
    """A deep linear network: logits = W_h ... W_1 vec(x), no activation between the layers (paper, section 3.2).

    Its parameters are `layers.<i>.weight` of shape (out_i, in_i).

    Args:
        inputs: length of a flattened example.
        outputs: number of logits.
        hidden: widths of the hidden layers, first to last.
        bias: whether each layer adds a bias.
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: Sequence[int], bias: bool = False) -> None:
        super().__init__()
        self._widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(m, n, bias=bias) for m, n in itertools.pairwise(self._widths))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, outputs) of examples (n, *example)."""
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """Logits (N, n, outputs) of each task's examples (N, n, *example) with its own parameters."""
        names = [f"layers.{i}" for i in range(len(self.layers))]
        weights = [theta[f"{name}.weight"] for name in names]
        return linear_layers(weights, [theta.get(f"{name}.bias") for name in names], x.flatten(2))

    def multiplications(self, num_examples: int) -> int:
        """About how many scalar ones `forward_tasks` makes for the examples of a task."""
        return fewest_multiplications([*reversed(self._widths), num_examples])


def linear_layers(weights: Sequence[TaskParameter], biases: Sequence[TaskParameter | None], x: Tensor) -> Tensor:
    """Outputs (N, n, out) of each task's inputs x (N, n, in) to its linear layers, first to last, each (out, in).

    With few examples, the layers are applied one by one and a task's change of a layer stays thin. With many, and no
    biases, the product is multiplied in whichever order costs the fewest multiplications, (W_h ... W_1 x^T)^T: with
    1,000 points and widths 100-64-64-64-1 the weights collapse first. (Products whose long axis comes last, here and
    in the backward pass, are ten times as fast as x W^T when tasks are batched.)
    """
    shapes = [weight.shape for weight in weights]
    thin = x.shape[1] * sum(n + m for n, m in shapes) <= sum(n * m for n, m in shapes)
    thin = thin or x.shape[1] <= min(min(shape) for shape in shapes)
    if not thin and not any(biases):
        return chain_product([*(weight.value() for weight in reversed(weights)), x.mT]).mT
    for weight, bias in zip(weights, biases, strict=True):
        x = weight.right_t(x) if thin else x @ weight.value().mT
        if bias is not None:
            x = x + bias.value().unsqueeze(1)
    return x


def chain_product(matrices: Sequence[Tensor]) -> Tensor:
    """The product of `matrices`, multiplied in the order with the fewest scalar multiplications."""
    if len(matrices) == 1:
        return matrices[0]
    shape = (matrices[0].shape[-2], *(matrix.shape[-1] for matrix in matrices))
    split = cheapest_split(tuple(shape))
    return chain_product(matrices[:split]) @ chain_product(matrices[split:])


def fewest_multiplications(shape: Sequence[int]) -> int:
    """Of a chain whose i-th matrix is shape[i] x shape[i+1]."""
    return _cheapest(tuple(shape))[0]


@cache
def cheapest_split(shape: tuple[int, ...]) -> int:
    """Where to make the last multiplication of a chain whose i-th matrix is shape[i] x shape[i+1]."""
    return _cheapest(shape)[1]


@cache
def _cheapest(shape: tuple[int, ...]) -> tuple[int, int]:
    """Least number of scalar multiplications of the chain, and its last split."""
    if len(shape) == 2:
        return 0, 0
    return min(
        (_cheapest(shape[: k + 1])[0] + _cheapest(shape[k:])[0] + shape[0] * shape[k] * shape[-1], k)
        for k in range(1, len(shape) - 1)
    )
