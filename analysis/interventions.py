"""Interventions: changes to how a saved run adapts, which leave its meta-training as it was.

    table = intervene(run, {"none": None, "freeze C4": freeze("C4"), "FC noise": perturb("FC", std=0.5)}, num_tasks=100)

`analysis.engine` carries them out. An intervention says which tensors adapt, and what is done to the parameters before
adaptation or between its steps. Interventions compose: `freeze("C1", "C2", "C3") + perturb("FC", std=0.5)`. Layers are
those of the network (`C1`, `FC`), single parameters (`FC.bias`), or globs over parameters (`*.norm.*`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from analysis.errors import StudyError
from core import Episodes
from core.models.layers import layers_of, select

Tensors = Mapping[str, Tensor]


class Change(Protocol):
    """Something done to the parameters of each task."""

    @property
    def is_random(self) -> bool:
        """Whether it draws random numbers, so that a task is worth several draws."""

    def targets(self, names: Sequence[str]) -> tuple[str, ...]:
        """The parameters that it changes, of those called `names`."""

    def __call__(self, parameters: Tensors, streams: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """New values (T, *shape) of its targets, from the values of all parameters and a random stream per task."""


class UpdateChange(Protocol):
    """Something done to what an adaptation step adds to the parameters of each task."""

    def targets(self, names: Sequence[str]) -> tuple[str, ...]:
        """The parameters whose updates it changes, of those called `names`."""

    def __call__(self, update: Tensor, step: int) -> Tensor:
        """The new update (T, *shape) of one target, theta_step - theta_(step - 1), of step 1, 2, ..."""


@dataclass(frozen=True)
class Intervention:
    """A change to how a run adapts; the functions of this module and of `analysis.changes` make them, and they add up.

    Attributes:
        freeze: groups of patterns; what any of them names does not adapt.
        only: groups of patterns; what adapts is named by each of them.
        before: done in this order before adaptation.
        between: done in this order after each adaptation step but the last.
        updates: done in this order to what each adaptation step adds, before anything else is done after it.
        permutes_labels: whether the classes of each task are given other numbers.
    """

    freeze: tuple[tuple[str, ...], ...] = ()
    only: tuple[tuple[str, ...], ...] = ()
    before: tuple[Change, ...] = ()
    between: tuple[Change, ...] = ()
    updates: tuple[UpdateChange, ...] = ()
    permutes_labels: bool = False

    def __add__(self, other: "Intervention") -> "Intervention":
        """Both at once: a tensor adapts if both let it, and changes are made in order."""
        return Intervention(
            self.freeze + other.freeze,
            self.only + other.only,
            self.before + other.before,
            self.between + other.between,
            self.updates + other.updates,
            self.permutes_labels or other.permutes_labels,
        )

    def resolved(self, layers: Mapping[str, Sequence[str]]) -> "Intervention":
        """The same with parameters in place of patterns, in a network with these layers.

        Raises:
            UserError: for a pattern that names none of them.
        """
        names = [name for members in layers.values() for name in members]

        def groups(patterns: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
            return tuple(select(names, group, layers) for group in patterns)

        def changes(given: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(
                replace(change, patterns=select(names, change.patterns, layers))
                if isinstance(change, OfLayers)
                else change
                for change in given
            )

        return Intervention(
            groups(self.freeze), groups(self.only), changes(self.before), changes(self.between), changes(self.updates),
            self.permutes_labels,
        )  # fmt: skip

    def adapted(self, names: Sequence[str], trained: Sequence[str] | None = None) -> tuple[str, ...]:
        """The parameters that adapt, of those called `names`, in their order.

        Args:
            names: all parameters.
            trained: those that adapted in training, None for all. `adapt_only` takes their place, `freeze` takes from
                them.

        Raises:
            UserError: for a pattern that names none of them.
        """
        adapted = set(names if trained is None or self.only else trained)
        for patterns in self.freeze:
            adapted -= set(select(names, patterns))
        for patterns in self.only:
            adapted &= set(select(names, patterns))
        return tuple(name for name in names if name in adapted)

    def changed(self, names: Sequence[str]) -> tuple[str, ...]:
        """The parameters that are changed otherwise than by adaptation.

        Raises:
            UserError: for a pattern that names none of `names`.
        """
        changes: tuple[Change | UpdateChange, ...] = (*self.before, *self.between, *self.updates)
        targets = {name for change in changes for name in change.targets(names)}
        return tuple(name for name in names if name in targets)

    @property
    def is_random(self) -> bool:
        """Whether any of its changes draws random numbers."""
        return self.permutes_labels or any(change.is_random for change in (*self.before, *self.between))


@dataclass(frozen=True)
class OfLayers:
    """What every change has that is made to the parameters of some layers, given by patterns."""

    patterns: tuple[str, ...]

    is_random = False

    def targets(self, names: Sequence[str]) -> tuple[str, ...]:
        """The parameters that the patterns name.

        Raises:
            UserError: for a pattern that names none of `names`.
        """
        return select(names, self.patterns)


@dataclass(frozen=True)
class Function:
    """Parameters put through a plain function of all of them, see `analysis.engine.intervene`."""

    function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]

    is_random = False

    def targets(self, names: Sequence[str]) -> tuple[str, ...]:
        """All of them: which the function changes is not known before."""
        return tuple(names)

    def __call__(self, parameters: Tensors, streams: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The new values that the function returns.

        Raises:
            StudyError: if it returns anything but tensors for some of the parameters, by name and of their shapes.
        """
        new = self.function({name: tensor.clone() for name, tensor in parameters.items()})
        if not isinstance(new, Mapping):
            raise StudyError(f"the function must return new values by parameter name, not {type(new).__name__}")
        for name, tensor in new.items():
            shape = tuple(parameters[name].shape) if name in parameters else None
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                wanted = "is no parameter of this network" if shape is None else f"must be a tensor {shape}, not {got}"
                raise StudyError(f"the function returned {name!r}, which {wanted}")
        return {name: tensor.detach() for name, tensor in new.items()}


@dataclass(frozen=True)
class Noise(OfLayers):
    """Adds normal noise to parameters, see `perturb`."""

    std: float
    relative: bool

    is_random = True

    def __call__(self, parameters: Tensors, streams: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Its targets with noise added; a stream gives one task's noise, whatever the other tasks are."""
        targets = self.targets(list(parameters))
        new = {}
        for members in layers_of(targets).values():
            scale = layer_scale([parameters[name] for name in members]) if self.relative else 1.0
            if self.std and isinstance(scale, Tensor) and not scale.all():
                raise StudyError(
                    f"{members[0]} is zero, and so is noise in units of its scale; give std with relative=False"
                )
            for name in members:
                like = parameters[name]
                noise = torch.stack([torch.randn(like.shape[1:], generator=stream) for stream in streams])
                size = scale.view(-1, *[1] * (like.ndim - 1)) if isinstance(scale, Tensor) else scale
                new[name] = like + self.std * size * noise.to(like)
        return new


def layer_scale(tensors: Sequence[Tensor]) -> Tensor:
    """Root mean square (T,) of a layer's weights in each task: its tensors (T, *shape) but for biases and the like."""
    weights = [tensor for tensor in tensors if tensor.ndim > 2] or list(tensors)
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in weights], dim=1).square().mean(dim=1).sqrt()


def freeze(*layers: str) -> Intervention:
    """These do not adapt; all others do.

    Raises:
        StudyError: for no layer.
    """
    return Intervention(freeze=(at_least_one(layers),))


def adapt_only(*layers: str) -> Intervention:
    """These adapt; no other does.

    Raises:
        StudyError: for no layer.
    """
    return Intervention(only=(at_least_one(layers),))


def perturb(
    *layers: str, std: float, relative: bool = True, when: Literal["before", "between"] = "before"
) -> Intervention:
    """Normal noise is added to these, the same noise times `std` for every `std`.

    Args:
        layers: what is perturbed.
        std: standard deviation of the noise.
        relative: whether `std` is in units of each layer's own scale, the root mean square of its weights (layers as
            they are by the parameters' names); else it is in the units of the weights.
        when: before adaptation, or between its steps (new noise each time).

    Raises:
        StudyError: for no layer or a negative `std`.
    """
    if not 0 <= std < float("inf"):
        raise StudyError(f"std must be a finite number, at least 0, got {std}")
    if when not in ("before", "between"):
        raise StudyError(f"noise is added before adaptation or between its steps, not {when!r}")
    noise = (Noise(at_least_one(layers), float(std), relative),)
    return Intervention(before=noise) if when == "before" else Intervention(between=noise)


def permute_labels() -> Intervention:
    """The classes of each task are given other numbers, a random permutation: the same task to an unbiased learner.

    How far results spread over `draws` says how much hangs on which output stands for which class.
    """
    return Intervention(permutes_labels=True)


def relabelled(episodes: Episodes, streams: Sequence[torch.Generator]) -> Episodes:
    """The episodes with the labels of each task permuted, by a random stream per task.

    Raises:
        StudyError: if labels are not numbers of classes.
    """
    if episodes.kind != "classification":
        raise StudyError(f"only the numbers of classes can be permuted, not the labels of {episodes.kind} tasks")
    # Of each task by itself: an order must not hang on which other tasks are in the chunk.
    labels = torch.cat([episodes.support_y, episodes.query_y], dim=1)
    ways = [int(largest) + 1 for largest in labels.amax(1)]
    orders = torch.arange(max(ways)).repeat(len(ways), 1)
    for order, number, stream in zip(orders, ways, streams, strict=True):
        order[:number] = torch.randperm(number, generator=stream)
    orders = orders.to(labels.device)
    return replace(
        episodes,
        support_y=orders.gather(1, episodes.support_y),
        query_y=orders.gather(1, episodes.query_y),
    )


def at_least_one(layers: tuple[str, ...]) -> tuple[str, ...]:
    """The layers themselves.

    Raises:
        StudyError: if there is none.
    """
    if not layers:
        raise StudyError("name at least one layer, such as C1")
    return layers
