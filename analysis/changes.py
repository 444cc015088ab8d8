"""Interventions beyond freezing and noise: other weights, other updates, and whatever a plain function says.

    zeroed = modify("FC", function=torch.zeros_like)                       # a new one is a function of a tensor
    clipped = modify("C*", function=lambda u: u.clamp(-0.01, 0.01), when="update")

They are passed to `analysis.engine.intervene`, and add up with all others. The meta-optimizer's own parameters
xi stay as they are, and adapt as they do.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from analysis.errors import StudyError
from analysis.interventions import Intervention, OfLayers, at_least_one
from core import Run

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Modified(OfLayers):
    """Parameters put through a function, see `modify`."""

    function: Function

    def __call__(self, parameters: Mapping[str, Tensor], streams: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The targets' new values."""
        return {name: _apply(self.function, parameters[name]) for name in self.targets(list(parameters))}


@dataclass(frozen=True)
class ModifiedUpdate(OfLayers):
    """Updates put through a function, see `modify`."""

    function: Function

    def __call__(self, update: Tensor, step: int) -> Tensor:
        """The new update, whatever the step."""
        return _apply(self.function, update)


@dataclass(frozen=True)
class Stopped(OfLayers):
    """No update after some steps, see `first_steps`."""

    steps: int

    def __call__(self, update: Tensor, step: int) -> Tensor:
        """The update as it is, and then zeros."""
        return update if step <= self.steps else torch.zeros_like(update)


@dataclass(frozen=True)
class Replaced(OfLayers):
    """Parameters with the values of another network, see `swap` and `reset`."""

    values: Mapping[str, Tensor]
    source: str

    def __call__(self, parameters: Mapping[str, Tensor], streams: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The targets' new values, the same for each task."""
        new = {}
        for name in self.targets(list(parameters)):
            like = parameters[name]
            if name not in self.values or self.values[name].shape != like.shape[1:]:
                has = tuple(self.values[name].shape) if name in self.values else "no such parameter"
                raise StudyError(f"{self.source} does not fit: {name} is {tuple(like.shape[1:])}, there {has}")
            new[name] = self.values[name].detach().to(like).expand_as(like)
        return new


def modify(*layers: str, function: Function, when: Literal["before", "between", "update"] = "before") -> Intervention:
    """The tensors of these layers go through a function.

    Args:
        layers: what is changed.
        function: from a tensor (T, *shape), one value for each of T tasks, to another; T is what fits a chunk.
        when: "before" adaptation or "between" its steps, of the parameters; or "update", of what each step adds to
            them.

    Raises:
        StudyError: for no layer, an unknown `when`; and later, if the function returns anything but a tensor of the
            same shape.
    """
    patterns = at_least_one(layers)
    if when == "update":
        return Intervention(updates=(ModifiedUpdate(patterns, function),))
    if when not in ("before", "between"):
        raise StudyError(f"a function changes parameters before or between, or an update, not {when!r}")
    change = (Modified(patterns, function),)
    return Intervention(before=change) if when == "before" else Intervention(between=change)


def scale_update(*layers: str, factor: float) -> Intervention:
    """The adaptation rate of these layers is multiplied by `factor`: 1 changes nothing, 0 is `freeze`.

    Raises:
        StudyError: for no layer, or a factor that is not finite.
    """
    if not math.isfinite(factor):
        raise StudyError(f"factor must be a finite number, got {factor}")
    return modify(*layers, function=lambda update: factor * update, when="update")


def sign_of_update(*layers: str) -> Intervention:
    """Of each update of these layers only the signs are kept, times the update's mean magnitude in each tensor.

    Raises:
        StudyError: for no layer.
    """

    def sign(update: Tensor) -> Tensor:
        axes = tuple(range(1, update.ndim))
        return update.sign() * (update.abs().mean(axes, keepdim=True) if axes else update.abs())

    return modify(*layers, function=sign, when="update")


def top_of_update(*layers: str, share: float) -> Intervention:
    """Of each update only the largest numbers are kept, the `share` of largest magnitude in each tensor and task.

    Args:
        layers: what is changed.
        share: of the numbers, in (0, 1]; at least one number is kept. Equals of the smallest that is kept are kept.

    Raises:
        StudyError: for no layer, or another share.
    """
    if not 0 < share <= 1:
        raise StudyError(f"share must be above 0 and at most 1, got {share}")

    def top(update: Tensor) -> Tensor:
        flat = update.reshape(len(update), -1)
        size = flat.abs()
        count = max(1, math.ceil(share * size.shape[1] - 1e-9))  # 0.07 of 100 is 7, though the product is above it
        smallest = size.topk(count, dim=1).values[:, -1:]
        return torch.where(size >= smallest, flat, 0).view_as(update)

    return modify(*layers, function=top, when="update")


def first_steps(steps: int, *layers: str) -> Intervention:
    """These layers, all if none is named, adapt in the first `steps` adaptation steps and then stay.

    Raises:
        StudyError: for a negative number.
    """
    if steps < 0:
        raise StudyError(f"steps must be at least 0, got {steps}")
    return Intervention(updates=(Stopped(layers or ("*",), steps),))


def swap(*layers: str, source: Run) -> Intervention:
    """Adaptation starts with the weights that `source` has in these layers: what does a layer owe to its own run?

    Raises:
        StudyError: for no layer; and later, if the layers of the two runs differ in shape.
    """
    return Intervention(before=(Replaced(at_least_one(layers), source.theta, f"run {source.id}"),))


def reset(*layers: str, run: Run) -> Intervention:
    """Adaptation starts with the weights that these layers of `run` had before meta-training.

    Raises:
        StudyError: for no layer.
    """
    values = {name: p.detach() for name, p in run.blank_model().named_parameters()}
    return Intervention(before=(Replaced(at_least_one(layers), values, f"the start of run {run.id}"),))


def _apply(function: Function, tensor: Tensor) -> Tensor:
    """What the function makes of a copy, which it may change in place.

    Raises:
        StudyError: if that is not a tensor of the same shape.
    """
    new = function(tensor.clone())
    if not isinstance(new, Tensor) or new.shape != tensor.shape:
        got = f"a tensor {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
        raise StudyError(f"the function was given a tensor {tuple(tensor.shape)}, and must return one, not {got}")
    return new.detach()
