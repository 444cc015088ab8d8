"""Regression of sine waves (Finn et al., 2017, section 5.1)."""

import hashlib
import json
import math

import torch
from torch import Tensor

from core.errors import UserError
from core.seeds import generator
from core.tasks.base import Episodes, TaskSource

AMPLITUDES, PHASES, INPUTS = (0.1, 5.0), (0.0, math.pi), (-5.0, 5.0)


class SinusoidTasks(TaskSource):
    """A task is y = A sin(x - p): amplitude A, phase p and inputs x uniform in `AMPLITUDES`, `PHASES` and `INPUTS`.

    Every split draws from the same distribution, on random streams of its own, and never runs out.

    Args:
        shots: support examples of a task.
        query_shots: query examples of a task, at fresh inputs; `shots` by default.
        seed: seed of every random stream.
        device: where episodes are delivered. They are drawn on the CPU, so that devices see the same tasks.
    """

    name = "sinusoid"
    kind = "regression"
    ways = 0
    example_shape = (1,)
    num_outputs = 1

    def __init__(
        self, *, shots: int, query_shots: int | None = None, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        self.shots = shots
        self.query_shots = shots if query_shots is None else query_shots
        if self.shots < 1 or self.query_shots < 1:
            raise UserError(f"a task needs at least 1 shot and 1 query shot, got {shots} and {self.query_shots}")
        self.seed = seed
        self.device = torch.device(device)

    def draw(self, split: str, num_tasks: int, index: int) -> Episodes:
        """Batch `index` of `split`: x and y are (num_tasks, shots, 1)."""
        stream = generator(self.seed, "tasks", split, index)

        def uniform(limits: tuple[float, float], count: int) -> Tensor:
            low, high = limits
            drawn = torch.rand(num_tasks, count, 1, generator=stream, dtype=torch.float32, device="cpu")
            return low + (high - low) * drawn

        amplitude, phase = uniform(AMPLITUDES, 1), uniform(PHASES, 1)
        x = uniform(INPUTS, self.shots + self.query_shots)
        y = amplitude * torch.sin(x - phase)
        k = self.shots
        return Episodes(x[:, :k], y[:, :k], x[:, k:], y[:, k:], kind=self.kind).to(self.device)

    def fingerprint(self) -> str:
        """Digest of the settings; the waves themselves are generated."""
        settings = [self.name, AMPLITUDES, PHASES, INPUTS, self.shots, self.query_shots]
        return hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()
