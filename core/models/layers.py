"""Which parameters make up a layer, and where a network can be cut in two."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile

from torch import Tensor, nn

from core.errors import UserError, unknown_name
from core.task_parameter import TaskParameter


class TaskSequential(nn.Sequential):
    """A sequence of modules all of which have a `forward_tasks` of their own."""

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """Outputs (N, n, ...) of N tasks, with the parameters of each, on x (N, n, ...)."""
        for stage, module in self.named_children():
            start = f"{stage}."
            own = {name.removeprefix(start): value for name, value in theta.items() if name.startswith(start)}
            x = module.forward_tasks(own, x)  # type: ignore[operator]  # nn.Module's attributes have no types
        return x


Groups = Mapping[str, str | Sequence[str]]


def layers_of(names: Iterable[str], groups: Groups | None = None) -> dict[str, list[str]]:
    """The layers of a network by the names of its parameters, in order: `C1.conv.weight` belongs to layer `C1`.

    A layer is what holds parameters at the top level of the module; a list of layers at the top level, as in
    `layers.0.weight`, is resolved into its members. A parameter that several layers share is of the first alone.

    Args:
        names: names of the parameters, in the model's order.
        groups: other layers, by name, each given by patterns as `select` has them: `{"head": "fc.*"}`. What none of
            them takes stays with the layer it is of by its name.

    Raises:
        UserError: for a pattern that names nothing, a parameter that two groups take, or groups without names.
    """
    if groups is not None and not isinstance(groups, Mapping):
        raise UserError(f"layers are given as names with patterns, such as {{'head': 'fc.*'}}, not as {groups!r}")
    names = list(names)
    taken: dict[str, str] = {}
    for group, patterns in (groups or {}).items():
        for name in select(names, [patterns] if isinstance(patterns, str) else patterns):
            if taken.setdefault(name, group) != group:
                raise UserError(f"parameter {name!r} is in layers {taken[name]!r} and {group!r}; it can be in one")
    found: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        depth = 2 if len(parts) > 2 and parts[1].isdecimal() else 1
        found.setdefault(taken.get(name, ".".join(parts[:depth])), []).append(name)
    return found


def select(
    names: Sequence[str], patterns: Iterable[str], layers: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """The parameters that `patterns` name, in the order of `names`.

    Args:
        names: names of a network's parameters.
        patterns: layers (`C1`, `FC`), parameters (`FC.bias`) or globs over parameters (`*.norm.*`).
        layers: the network's layers where they are not what `layers_of` finds by name.

    Raises:
        UserError: for a pattern that names nothing, listing the layers.
    """
    layers = layers_of(names) if layers is None else layers
    chosen: set[str] = set()
    for pattern in patterns:
        matched = set(layers.get(pattern, ()))
        matched |= {n for n in names if n == pattern or n.startswith(f"{pattern}.") or fnmatchcase(n, pattern)}
        if not matched:
            raise unknown_name("layer or parameter", pattern, layers)
        chosen |= matched
    return tuple(name for name in names if name in chosen)


def output_module(members: Sequence[str]) -> str | None:
    """The submodule whose output is that of the layer with these parameters; None if only the whole model is.

    The smallest submodule that holds all of them; where that is the whole model, the one that holds the last.
    """
    owners = [name.split(".")[:-1] for name in members]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*owners, strict=False))
    return ".".join(parts[0] for parts in common) or ".".join(owners[-1]) or None


def cut(model: nn.Module, needed: Iterable[str]) -> int:
    """How many stages of `model` come before the first that holds a parameter of `needed`: they can be computed once.

    Stages are the members of an `nn.Sequential`; any other network, and one whose stages share parameters, is a whole
    and cut nowhere (0).
    """
    if not isinstance(model, nn.Sequential) or len(model) > len(list(model.children())):
        return 0  # `children` names a module that stands twice but once
    stages = list(model.named_children())
    owned = [name for stage, module in stages for name in (f"{stage}.{n}" for n, _ in module.named_parameters())]
    if owned != [name for name, _ in model.named_parameters()]:
        return 0
    needed = list(needed)
    for i, (stage, _) in enumerate(stages):
        if any(name.startswith(f"{stage}.") for name in needed):
            return i
    return len(stages) - 1  # the last stage stays, so that there is something to measure


def stages(model: nn.Module, start: int, stop: int | None = None) -> nn.Module:
    """Stages `start` to `stop` of a network that `cut` can cut; parameters keep their names.

    What the stages are given may be kept and given to others: stages that are not ours, and might write over it, get a
    copy.
    """
    if start == 0 and stop is None:
        return model
    parts = list(model.named_children())[start:stop]
    if isinstance(model, TaskSequential):
        return TaskSequential(OrderedDict(parts))
    return nn.Sequential(OrderedDict([("copy", _Copy()), *parts] if start else parts))


class _Copy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """The same numbers elsewhere."""
        return x.clone()
