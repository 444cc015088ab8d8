"""Networks as users write them, none of them ours: what the engine has to cope with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import Episodes


class WithEverything(nn.Module):
    """Batch norm with running statistics, dropout, a buffer, shared weights, a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.middle = nn.Linear(8, 8, bias=False)
        self.again = self.middle  # a shared module
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.middle.weight  # a shared parameter
        self.register_buffer("offset", torch.linspace(-1, 1, 8))
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.encode(x))).tanh() + self.offset
        return self.scale * self.head(self.tied(self.again(self.middle(x)).tanh()))


class Unmappable(nn.Module):
    """What it computes depends on the data in a way that cannot be mapped over tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        if hidden.mean().item() > 0:
            hidden = hidden * 2
        return self.head(hidden)


class Recurrent(nn.Module):
    """Numbers of an example one after the other, through a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(1, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.body(x.unsqueeze(-1))
        return self.head(outputs[:, -1])


class HigherOmniglot(nn.Sequential):
    """The network of the MAML example that comes with the library `higher`: 64 filters, max-pooling, momentum 1."""

    def __init__(self, ways: int = 5, filters: int = 64) -> None:
        layers: list[nn.Module] = []
        for channels in (1, filters, filters):
            layers += [nn.Conv2d(channels, filters, 3), nn.BatchNorm2d(filters, momentum=1, affine=True)]
            layers += [nn.ReLU(), nn.MaxPool2d(2, 2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(filters, ways))


def episodes(num_tasks: int = 4, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Episodes:
    """3-way tasks with 6 numbers an example, for the first two networks."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, num_tasks, 9, 6, generator=generator, dtype=dtype)
    y = torch.randint(3, (2, num_tasks, 9), generator=generator)
    return Episodes(x[0], y[0], x[1], y[1])


def by_hand(module: nn.Module, part: Episodes, *, steps: int, lr: float) -> tuple[list[float], list[float]]:
    """Query losses and accuracies (steps + 1) of one task by plain gradient descent on a copy of the module."""
    losses, accuracies = [], []
    for step in range(steps + 1):
        logits = module(part.query_x[0])
        losses.append(F.cross_entropy(logits, part.query_y[0]).item())
        accuracies.append(float((logits.argmax(1) == part.query_y[0]).double().mean()))
        if step < steps:
            support = F.cross_entropy(module(part.support_x[0]), part.support_y[0])
            parameters = list(module.parameters())
            grads = torch.autograd.grad(support, parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, grad in zip(parameters, grads, strict=True):
                    if grad is not None:
                        parameter -= lr * grad
    return losses, accuracies
