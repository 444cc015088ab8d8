"""Half-space tasks: binary classification by a random hyperplane through the origin (paper, section 3.2 and A.1.1)."""

import hashlib
import json

import torch

from core.errors import UserError
from core.seeds import generator
from core.tasks.base import Episodes, TaskSource

DIMENSION = 100
POINTS = 1000


class SyntheticTasks(TaskSource):
    """Tasks with a normal vector w ~ N(0, I_d), points x ~ input_scale * N(0, I_d), and labels 1[w . x > 0].

    Every split draws from the same distribution, on random streams of its own, and never runs out.

    Args:
        points: examples in the support set, and in the query set.
        dimension: d, the length of an example.
        input_scale: what the standard normal points are multiplied by; default 1/sqrt(d), so that E|x|^2 = 1. The
            paper states none, which is 1.0 (A.1.1); but with that, and its learning rates, logistic regression does not
            stay at chance and LinNet diverges (`analysis.when_shallow_fails`), and so the default is not the paper's.
        same_points: whether the query set *is* the support set, as equation 1 with its single loss has it, or
            fresh points of the same task.
        seed: seed of every random stream.
        device: where episodes are delivered. They are drawn on the CPU, so that devices see the same tasks.
    """

    name = "synthetic"
    kind = "binary"
    ways = 2
    num_outputs = 1

    def __init__(
        self,
        *,
        points: int = POINTS,
        dimension: int = DIMENSION,
        input_scale: float | None = None,
        same_points: bool = True,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if points < 1 or dimension < 1:
            raise UserError(f"points and dimension must be at least 1, got {points} and {dimension}")
        self.points = points
        self.example_shape = (dimension,)
        self.input_scale = dimension**-0.5 if input_scale is None else float(input_scale)
        if not self.input_scale > 0:
            raise UserError(f"input_scale must be positive, got {input_scale}")
        self.same_points = same_points
        self.seed = seed
        self.device = torch.device(device)

    def draw(self, split: str, num_tasks: int, index: int) -> Episodes:
        """Batch `index` of `split`; its support sets do not depend on `same_points`."""
        (d,) = self.example_shape
        stream = generator(self.seed, "tasks", split, index)
        w = torch.randn(num_tasks, 1, d, generator=stream, dtype=torch.float32, device="cpu")

        def labelled_points() -> tuple[torch.Tensor, torch.Tensor]:
            x = torch.randn(num_tasks, self.points, d, generator=stream, dtype=torch.float32, device="cpu")
            y = (w @ x.mT).squeeze(1).gt(0).to(x.dtype)  # this order: see linear_layers in core.models.linear
            return x.mul_(self.input_scale).to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

        support = labelled_points()
        query = support if self.same_points else labelled_points()
        return Episodes(*support, *query, kind=self.kind, same_points=self.same_points)

    def fingerprint(self) -> str:
        """Digest of the settings; the points themselves are generated."""
        settings = [self.name, self.points, *self.example_shape, self.input_scale, self.same_points]
        return hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()
