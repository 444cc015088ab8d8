"""Interventions: changes to how a saved run adapts, which leave its meta-training as it was.

    table = intervene(run, {"none": None, "freeze C4": freeze("C4"), "FC noise": perturb("FC", std=0.5)}, num_tasks=100)

An intervention says which tensors adapt, and what is done to the parameters before adaptation or between its steps.
Interventions compose: `freeze("C1", "C2", "C3") + perturb("FC", std=0.5)`. Layers are those of the network (`C1`,
`FC`), single parameters (`FC.bias`), or globs over parameters (`*.norm.*`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import Literal, Protocol

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from analysis.errors import StudyError
from analysis.tasks import draw_test_tasks, mark_diverged, run_columns
from core import Episodes, Run
from core.adaptation import InnerLoop, State, inner_loop, one_replica
from core.evaluation import as_table, default_chunk, measure
from core.forward import batched_forward
from core.models.layers import cut, layers_of, select, stages
from core.seeds import generator
from core.task_parameter import TaskParameter

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
            for name in members:
                like = parameters[name]
                noise = torch.stack([torch.randn(like.shape[1:], generator=stream) for stream in streams])
                size = scale.view(-1, *[1] * (like.ndim - 1)) if isinstance(scale, Tensor) else scale
                new[name] = like + self.std * size * noise.to(like)
        return new


def layer_scale(tensors: Sequence[Tensor]) -> Tensor:
    """Root mean square (T,) of a layer's weights in each task: its tensors (T, *shape) but for biases and the like."""
    weights = [tensor for tensor in tensors if tensor.ndim > 2] or list(tensors)
    return torch.cat([tensor.flatten(1) for tensor in weights], dim=1).square().mean(dim=1).sqrt()


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
        relative: whether `std` is in units of each layer's own scale, the root mean square of its weights; else it is
            in the units of the weights.
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
    ways = int(episodes.support_y.max()) + 1
    orders = torch.stack([torch.randperm(ways, generator=stream) for stream in streams]).to(episodes.support_y.device)
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


def intervene(
    run: Run,
    interventions: Mapping[str, Intervention | None],
    *,
    num_tasks: int = 100,
    seed: int = 0,
    draws: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """Adapt `run` to test tasks under each intervention, and measure after each step.

    All interventions meet the same tasks, so that their differences are paired. What lies below the first layer that
    one of them touches is computed once for all.

    Args:
        run: the saved run.
        interventions: by name; None changes nothing, and gives the numbers of `run.evaluate` bit for bit.
        num_tasks: test tasks.
        seed: seed of the test tasks and of the noise.
        draws: noise draws for each task, for the interventions that are random.
        progress: whether to show a progress bar.

    Returns:
        A table with one row per intervention, draw, task, step and split: the columns of the run, `intervention`,
        `draw` (0 where nothing is random), `task_seed`, `task`, `step`, `split`, `loss` and `accuracy`, as in
        `analysis.store.SCHEMAS["layer_roles"]`. Where a loss is not finite, and everywhere for a run that diverged,
        the status is "diverged" and loss and accuracy are NaN.

    Raises:
        StudyError: for no intervention, fewer than one draw, or more test tasks than there are.
        UserError: for a layer that the network does not have.
    """
    if not interventions:
        raise StudyError("name at least one intervention; None, for none, is one")
    if draws < 1:
        raise StudyError(f"draws must be at least 1, got {draws}")
    names = list(run.theta)
    plans = {name: Intervention() if chosen is None else chosen for name, chosen in interventions.items()}
    for plan in plans.values():  # a misspelt layer is told before the first minute of work
        plan.adapted(names, run.adapted), plan.changed(names)
    episodes = draw_test_tasks(run.tasks(seed=seed), num_tasks)
    size = default_chunk(run.model, episodes)
    jobs = [(name, plan, draw) for name, plan in plans.items() for draw in range(draws if plan.is_random else 1)]
    values: dict[tuple[str, int], list[Tensor]] = {(name, draw): [] for name, _, draw in jobs}
    with tqdm(total=len(jobs) * num_tasks, unit="task", disable=not progress, leave=False) as bar:
        for first in range(0, num_tasks, size):
            part = episodes[first : first + size]
            inputs = _Inputs(run, part)
            for name, plan, draw in jobs:
                bar.set_postfix_str(name, refresh=False)
                streams = [generator(seed, "intervention", first + i, draw) for i in range(part.num_tasks)]
                values[name, draw].append(_measure(run, plan, inputs, streams))
                bar.update(part.num_tasks)
    parts = [
        as_table(torch.cat(chunks)).assign(intervention=name, draw=draw) for (name, draw), chunks in values.items()
    ]
    table = pd.concat(parts, ignore_index=True).assign(**run_columns(run), task_seed=seed)
    return mark_diverged(table, run, ["intervention", "draw", "task"])


class _Inputs:
    """What interventions have in common: what reaches each stage at theta_0, and the first step. Computed once."""

    def __init__(self, run: Run, episodes: Episodes) -> None:
        self.run = run
        self._known = {0: episodes}
        self._first: tuple[dict[str, Tensor], Tensor] | None = None

    def first_step(self) -> tuple[dict[str, Tensor], Tensor]:
        """theta_1 (T, *shape) if all adapt by gradient descent, and loss and accuracy (T, 1, 2 sets, 2 measures) at 0.

        A gradient at theta_0 does not depend on which tensors take it.
        """
        if self._first is None:
            run, config, part = self.run, self.run.config, self._known[0]
            loop = InnerLoop(1, config.adapt_lr, True, config.lr_scope)
            walk = inner_loop(
                run.model, run.rule, one_replica(run.theta), one_replica(run.xi), part.support_x, part.support_y,
                part.kind, loop, create_graph=False,
            )  # fmt: skip
            at_start = measure(islice(walk, 1), part, 1)
            state, _, _ = next(walk)
            theta = {name: parameter.materialise().detach() for name, parameter in state.theta.items()}
            self._first = theta, at_start
        return self._first

    def of(self, stage: int) -> Episodes:
        """The episodes with examples as they reach `stage`."""
        if stage not in self._known:
            before = max(known for known in self._known if known < stage)
            module = stages(self.run.model, before, stage)
            own = {name for name, _ in module.named_parameters()}
            part = self._known[before]
            theta = {
                name: TaskParameter(tensor, part.num_tasks)
                for name, tensor in one_replica(self.run.theta).items()
                if name in own
            }
            with torch.no_grad():
                support = batched_forward(module, theta, part.support_x, ())
                query = batched_forward(module, theta, part.query_x, ())
            self._known[stage] = Episodes(support, part.support_y, query, part.query_y, part.kind)
        return self._known[stage]


def _measure(run: Run, plan: Intervention, inputs: _Inputs, streams: Sequence[torch.Generator]) -> Tensor:
    """Loss and accuracy (T, steps + 1, 2 sets, 2 measures) under an intervention."""
    config, names = run.config, list(run.theta)
    adapted, changed = plan.adapted(names, run.adapted), plan.changed(names)
    start = cut(run.model, [name for name in names if name in {*adapted, *changed}])
    module = stages(run.model, start)
    own = {name for name, _ in module.named_parameters()}
    theta = {name: tensor for name, tensor in one_replica(run.theta).items() if name in own}
    xi = {key: tensor for key, tensor in one_replica(run.xi).items() if key.rpartition(".")[0] in own}
    num_tasks, steps = len(streams), config.steps
    plain = not (plan.before or plan.between or plan.updates or plan.permutes_labels)
    shares_first_step = run.rule.is_gradient_descent and steps > 0 and plain
    values = []
    # Plans that leave adaptation as it is are walked as evaluation walks, to be equal bit for bit.
    if shares_first_step and len(adapted) < len(names):
        theta_1, at_start = inputs.first_step()
        theta = {name: theta_1[name] if name in adapted else tensor for name, tensor in theta.items()}
        values, steps = [at_start], steps - 1

    def apply(parameters: dict[str, Tensor], changes: Sequence[Change]) -> dict[str, Tensor]:
        return reduce(lambda values, change: {**values, **change(values, streams)}, changes, parameters)

    part = inputs.of(start)
    if plan.permutes_labels:  # drawn before any noise, so that every plan has the same permutations
        part = relabelled(part, streams)
    if plan.before:
        whole = {name: tensor.expand(num_tasks, *tensor.shape[1:]) for name, tensor in theta.items()}
        after = apply(whole, plan.before)
        theta = {name: theta[name] if after[name] is whole[name] else after[name] for name in theta}

    updated = [(change, name) for change in plan.updates for name in change.targets(names) if name in theta]
    last = {name: theta[name].expand(num_tasks, *theta[name].shape[1:]) for _, name in updated}

    def between(state: State) -> None:
        for change, name in updated:
            update = state.theta[name].materialise().detach() - last[name]
            state.theta[name] = TaskParameter.of_tasks((last[name] + change(update, state.step)).requires_grad_())
        if plan.between and state.step < steps:
            before = {name: parameter.materialise().detach() for name, parameter in state.theta.items()}
            for name, tensor in apply(before, plan.between).items():
                if tensor is not before[name]:
                    state.theta[name] = TaskParameter.of_tasks(tensor.detach().requires_grad_())
        for name in last:
            last[name] = state.theta[name].materialise().detach()

    loop = InnerLoop(steps, config.adapt_lr, True, config.lr_scope, None if adapted == tuple(names) else adapted)
    walk = inner_loop(
        module, run.rule, theta, xi, part.support_x, part.support_y, part.kind, loop, create_graph=False,
        between=between,
    )  # fmt: skip
    return torch.cat([*values, measure(walk, part, steps)], dim=1)
