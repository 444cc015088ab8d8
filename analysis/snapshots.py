"""What a probe sees: a network on some tasks, as it stands between two adaptation steps.

def largest(snapshot):                                   # a new probe is a function of a snapshot
    return {layer: snapshot.update_of(layer).abs().amax(1) for layer in snapshot.layers}

table = intervene(run, {"as trained": None}, probes={"largest": largest}, num_tasks=50)
"""

from collections.abc import Callable, Mapping
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.errors import StudyError, unknown_name
from core import Episodes, Run
from core.forward import map_tasks
from core.losses import task_losses
from core.models.layers import output_module


class Snapshot:
    """A network on T tasks after `step` adaptation steps.

    Args:
        run: the run that adapts.
        episodes: the T tasks.
        step: adaptation steps taken.
        theta: (T, *shape), the parameters of each task.
        last: the snapshot one step earlier, None before adaptation. What that one followed is let go of.

    Attributes:
        layers: names of the parameters of each layer, first to last.
        first: the snapshot before adaptation, which may be this one.
    """

    def __init__(
        self, run: Run, episodes: Episodes, step: int, theta: Mapping[str, Tensor], last: "Snapshot | None" = None
    ) -> None:
        self.run, self.episodes, self.step, self.theta, self.last = run, episodes, step, dict(theta), last
        self.layers = run.layers
        self.first: Snapshot = self if last is None else last.first
        self._outputs: dict[str, dict[str, Tensor]] = {}
        self.update = (
            {name: torch.zeros_like(tensor) for name, tensor in self.theta.items()}
            if last is None
            else {name: tensor - last.theta[name] for name, tensor in self.theta.items()}
        )
        """(T, *shape) by name: what the last step added; zeros before adaptation."""
        if last is not None:
            last.last = None

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.episodes.num_tasks

    @cached_property
    def gradient(self) -> dict[str, Tensor]:
        """(T, *shape) by name: the gradient of each task's support loss at `theta`."""
        theta = {name: tensor.clone().requires_grad_() for name, tensor in self.theta.items()}
        outputs, _ = map_tasks(self.run.model, theta, {}, self.episodes.support_x)
        losses = task_losses(outputs, self.episodes.support_y, self.episodes.kind)
        grads = torch.autograd.grad(losses.sum(), list(theta.values()), materialize_grads=True)
        return dict(zip(theta, grads, strict=True))

    def outputs(self, split: str) -> dict[str, Tensor]:
        """What comes out of each layer for the examples of the "support" or the "query" set, (T, n, ...) by layer.

        A layer's output is that of the smallest submodule that holds all of its parameters, or, where that is the whole
        network, of the one that holds the last of them. A layer without any is left out.

        Raises:
            StudyError: for another set.
        """
        if split not in ("support", "query"):
            raise StudyError(f"a task has a support and a query set, not {split!r}")
        if split not in self._outputs:
            found = layer_outputs(self.run, self.theta, getattr(self.episodes, f"{split}_x"))
            self._outputs[split] = _ByLayer(found)
        return self._outputs[split]

    def of(self, tensors: Mapping[str, Tensor], layer: str) -> Tensor:
        """(T, k): the k numbers that `tensors`, each (T, *shape) by name, have for a layer."""
        return torch.cat([tensors[name].reshape(self.num_tasks, -1) for name in self.layers[layer]], dim=1)

    def theta_of(self, layer: str) -> Tensor:
        """(T, k): the parameters of a layer."""
        return self.of(self.theta, layer)

    def update_of(self, layer: str) -> Tensor:
        """(T, k): what the last step added to a layer."""
        return self.of(self.update, layer)


class _ByLayer(dict[str, Tensor]):
    """Tensors by layer, that say which layers there are when another is asked for."""

    def __missing__(self, layer: str) -> Tensor:
        raise unknown_name("layer", layer, self)


Probe = Callable[[Snapshot], Tensor | Mapping[str, Tensor] | None]


@torch.no_grad()
def layer_outputs(
    run: Run, theta: Mapping[str, Tensor], x: Tensor, model: nn.Module | None = None
) -> dict[str, Tensor]:
    """What comes out of each layer of `run` for x (T, n, *example), with parameters (T, *shape): (T, n, ...) by layer.

    Args:
        run: says what the layers are.
        theta: the parameters of each task.
        x: examples of each task.
        model: a module of the same architecture with other buffers; by default the run's.
    """
    watched = {layer: path for layer, names in run.layers.items() if (path := output_module(names)) is not None}
    _, seen = map_tasks(run.model if model is None else model, theta, {}, x, watched)
    return {layer: seen[layer] for layer in run.layers if layer in seen}


def carry_out(probes: Mapping[str, Probe], snapshot: Snapshot) -> pd.DataFrame:
    """What the probes say of a snapshot: a row a task, with columns task, step, and one for each of their numbers.

    Raises:
        StudyError: for a probe that returns anything but a number for each task, or those by key.
    """
    columns: dict[str, object] = {"task": range(snapshot.num_tasks), "step": snapshot.step}
    for name, probe in probes.items():
        found = probe(snapshot)
        if found is None:  # which has nothing to say at this step
            continue
        numbers = {name: found} if not isinstance(found, Mapping) else {f"{name} {k}": v for k, v in found.items()}
        for column, values in numbers.items():
            if not isinstance(values, Tensor) or values.shape != (snapshot.num_tasks,):
                got = f"a tensor {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
                raise StudyError(
                    f"probe {name!r} must return a tensor ({snapshot.num_tasks},), a number for each task, or those by "
                    f"key, not {got}"
                )
            columns[column] = values.detach().double().cpu().numpy()
    return pd.DataFrame(columns)
