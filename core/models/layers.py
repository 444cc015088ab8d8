"""Which parameters make up a layer, and where a network can be cut in two."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from core.errors import unknown_name
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


def layers_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The layers of a network by the names of its parameters, in order: `C1.conv.weight` belongs to layer `C1`.

    A layer is what holds parameters at the top level of the module; a list of layers at the top level, as in
    `layers.0.weight`, is resolved into its members.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        depth = 2 if len(parts) > 2 and parts[1].isdecimal() else 1
        found.setdefault(".".join(parts[:depth]), []).append(name)
    return found


def select(names: Sequence[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """The parameters that `patterns` name, in the order of `names`.

    Args:
        names: names of a network's parameters.
        patterns: layers (`C1`, `FC`), parameters (`FC.bias`) or globs over parameters (`*.norm.*`).

    Raises:
        UserError: for a pattern that names nothing, listing the layers.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {n for n in names if n == pattern or n.startswith(f"{pattern}.") or fnmatchcase(n, pattern)}
        if not matched:
            raise unknown_name("layer or parameter", pattern, layers_of(names))
        chosen |= matched
    return tuple(name for name in names if name in chosen)


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
    """Stages `start` to `stop` of a network that `cut` can cut; parameters keep their names."""
    if start == 0 and stop is None:
        return model
    kind = TaskSequential if isinstance(model, TaskSequential) else nn.Sequential
    return kind(OrderedDict(list(model.named_children())[start:stop]))
