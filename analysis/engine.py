"""The one place where interventions and probes are carried out: test tasks in, a paired table out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import chain, islice
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn

from analysis.errors import StudyError
from analysis.interventions import Change, Function, Intervention, Noise, relabelled
from analysis.schemas import SCHEMAS
from analysis.snapshots import Probe, Snapshot, carry_out
from analysis.tasks import draw_test_tasks, mark_diverged, run_columns
from core import Episodes, Run
from core.adaptation import one_replica
from core.crew import alone, shared_out
from core.evaluation import as_table, default_chunk, measure, warn_of_diverged
from core.forward import batched_forward
from core.inner_loop import InnerLoop, State, Walk, inner_loop
from core.models.layers import cut, stages
from core.progress import progress_bar
from core.seeds import generator
from core.task_parameter import TaskParameter

Streams = Sequence[torch.Generator]
T = TypeVar("T")
_NOTHING_PROBED = pd.DataFrame({"task": pd.Series(dtype="int64")})


@torch.inference_mode(False)  # and with gradients, whatever the caller's mode
def intervene(
    run: Run,
    interventions: Mapping[str, Intervention | Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None],
    *,
    probes: Mapping[str, Probe] | None = None,
    num_tasks: int = 100,
    seed: int = 0,
    draws: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """Adapt `run` to test tasks under each intervention, and measure after each step.

    All interventions meet the same tasks, so that their differences are paired. What lies below the first layer that
    one of them touches is computed once for all.

    Args:
        run: the run, saved or of a module of your own.
        interventions: by name; None changes nothing, and gives the numbers of `run.evaluate`, bit for bit if there are
            neither probes nor functions, which one thread alone calls (see `core.crew`). A plain function is given the
            parameters of T tasks before adaptation, each (T, *shape) by name, and returns new values of those that it
            changes.
        probes: functions of an `analysis.snapshots.Snapshot`, by name, whose numbers are further columns.
        num_tasks: test tasks.
        seed: seed of the test tasks and of the noise.
        draws: noise draws for each task, for the interventions that are random.
        progress: whether to show a progress bar.

    Returns:
        A table with one row per intervention, draw, task, step and split: the columns of the run, `intervention`,
        `draw` (0 where nothing is random), `task_seed`, `task`, `step`, `split`, `loss` and `accuracy`, as in
        `analysis.schemas.SCHEMAS["layer_roles"]`; and for each probe a column of its name, or several,
        `<probe> <key>`, if it returns numbers by key. Where a loss is not finite or exploded (see `core.evaluate`), and
        everywhere for a run that diverged, the status is "diverged", and loss, accuracy and what was probed are NaN.

    Raises:
        StudyError: for no intervention, fewer than one draw, more test tasks than there are, or a function that
            returns something else.
        UserError: for a layer that the network does not have.
    """
    if not interventions:
        raise StudyError("name at least one intervention; None, for none, is one")
    if draws < 1:
        raise StudyError(f"draws must be at least 1, got {draws}")
    names = list(run.theta)
    plans = {name: _plan(chosen).resolved(run.layers) for name, chosen in interventions.items()}
    for plan in plans.values():  # a misspelt layer is told before the first minute of work
        plan.adapted(names, run.adapted), plan.changed(names)
    if taken := sorted(set(probes or {}) & set(SCHEMAS["layer_roles"])):
        raise StudyError(f"a probe cannot be called {', '.join(taken)}: the table has such a column")
    episodes = draw_test_tasks(run.tasks(seed=seed), num_tasks)
    num_classes = episodes.num_classes()
    jobs = [(name, plan, draw) for name, plan in plans.items() for draw in range(draws if plan.is_random else 1)]
    values: dict[tuple[str, int], list[Tensor]] = {(name, draw): [] for name, _, draw in jobs}
    seen: dict[tuple[str, int], list[pd.DataFrame]] = {key: [] for key in values}
    crew, size = alone(), default_chunk(run.model, episodes)
    if not probes and not any(map(_calls_functions, plans.values())):
        crew, size = shared_out(run.model, run.rule, episodes, each=size)
    with progress_bar(total=len(jobs) * num_tasks, unit="task", shown=progress, leave=False) as bar:

        def of_part(first: int) -> list[tuple[Tensor, pd.DataFrame]]:
            part = episodes[first : first + size]
            inputs = _Inputs(run, part, num_classes)
            measured = []
            for name, plan, draw in jobs:
                bar.set_postfix_str(name, refresh=False)
                streams = [generator(seed, "intervention", first + i, draw) for i in range(part.num_tasks)]
                found, columns = _measure(run, plan, inputs, streams, probes or {})
                measured.append((found, columns.assign(task=columns["task"] + first)))
                with bar.get_lock():
                    bar.update(part.num_tasks)
            return measured

        for measured in crew.each(of_part, range(0, num_tasks, size)):
            for (name, _, draw), (found, columns) in zip(jobs, measured, strict=True):
                values[name, draw].append(found)
                seen[name, draw].append(columns)
    parts = []
    for (name, draw), chunks in values.items():
        table = as_table(torch.cat(chunks)).assign(intervention=name, draw=draw)
        if probes:
            table = table.merge(pd.concat(seen[name, draw], ignore_index=True), on=["task", "step"], validate="m:1")
        parts.append(table)
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(**run_columns(run), task_seed=seed)
    probed = {str(column) for frames in seen.values() for frame in frames for column in frame} - {"task", "step"}
    table = mark_diverged(table, run, ["intervention", "draw", "task"], episodes.kind, also=sorted(probed))
    statuses = table.groupby(["intervention", "draw", "task"], sort=False)["status"].first()
    warn_of_diverged(int(statuses.ne("ok").sum()), len(statuses))
    return table


def _plan(chosen: Intervention | Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None) -> Intervention:
    if chosen is None:
        return Intervention()
    if isinstance(chosen, Intervention):
        return chosen
    if callable(chosen):
        return Intervention(before=(Function(chosen),))
    raise StudyError(f"an intervention is one of `analysis`, a function, or None, not {type(chosen).__name__}")


def _calls_functions(plan: Intervention) -> bool:
    """Whether any of its changes calls a function that may be the user's, and so is called by one thread alone."""
    return bool(plan.updates) or not all(isinstance(change, Noise) for change in (*plan.before, *plan.between))


class _Inputs:
    """The first step, and what reaches each stage before and after it: interventions have them in common."""

    def __init__(self, run: Run, episodes: Episodes, num_classes: int) -> None:
        self.run = run
        self.num_classes = num_classes
        self._known = {0: episodes}
        self._known_at_1 = {0: episodes.query_x}
        self._first: tuple[dict[str, Tensor], Tensor] | None = None
        self._later: Walk | None = None

    def first_step(self) -> tuple[dict[str, Tensor], Tensor]:
        """theta_1 (T, *shape) if all adapt by gradient descent, and loss and accuracy (T, 1, 2 sets, 2 measures) at 0.

        A gradient at theta_0 does not depend on which tensors take it.
        """
        return self._first or self._take_first_step(1)

    def whole_walk(self) -> tuple[Tensor, Walk] | None:
        """What is measured at 0, and the walk from 1 on, if all adapt by gradient descent; None if it was taken before.

        It is that of evaluation, bit for bit, and its first step is the others', too, if it is asked for first.
        """
        if self._first is None:
            self._take_first_step(self.run.config.steps)
        walk, self._later = self._later, None
        return None if walk is None or self._first is None else (self._first[1], walk)

    def _take_first_step(self, steps: int) -> tuple[dict[str, Tensor], Tensor]:
        """The first of so many steps; where the others are wanted, they go on from there."""
        run, config, part = self.run, self.run.config, self._known[0]
        loop = InnerLoop(steps, config.adapt_lr, True, config.lr_scope, num_classes=self.num_classes)
        walk = inner_loop(
            run.model, run.rule, one_replica(run.theta), one_replica(run.xi), part.support_x, part.support_y,
            part.kind, loop, create_graph=False,
        )  # fmt: skip
        at_start = measure(islice(walk, 1), part, steps)
        point = next(walk)
        theta = {name: parameter.detached() for name, parameter in point[0].theta.items()}
        self._first = theta, at_start
        self._later = chain([point], walk) if steps == config.steps else None
        return self._first

    def of(self, stage: int) -> Episodes:
        """The episodes with examples as they reach `stage`."""
        if stage not in self._known:
            before = max(known for known in self._known if known < stage)
            module, part = stages(self.run.model, before, stage), self._known[before]
            theta = one_replica(self.run.theta)
            support, query = (_outputs(module, theta, x, ()) for x in (part.support_x, part.query_x))
            self._known[stage] = Episodes(support, part.support_y, query, part.query_y, part.kind)
        return self._known[stage]

    def query_at_1(self, stage: int) -> Tensor:
        """Query examples as they reach `stage` at theta_1, where all before it adapts."""
        if stage not in self._known_at_1:
            theta_1, _ = self.first_step()
            module = stages(self.run.model, stage - 1, stage)
            self._known_at_1[stage] = _outputs(module, theta_1, self.query_at_1(stage - 1), tuple(theta_1))
        return self._known_at_1[stage]

    def with_query_at_1(self, walk: Walk, adapted: tuple[str, ...], start: int) -> Walk:
        """A walk over the stages from `start` on, from theta_1 on: what query examples give there is partly known."""
        model = self.run.model
        shared = cut(model, [name for name in self.run.theta if name not in adapted])
        if shared > start:
            state, forward, of_support = next(walk)
            module, reached, query_x = stages(model, shared), self.query_at_1(shared), self.of(start).query_x

            def partly_known(x: Tensor) -> Tensor:
                if x is not query_x:
                    return forward(x)
                outputs = batched_forward(module, _of(module, state.theta), reached, adapted)
                for parameter in state.theta.values():
                    parameter.take_record()  # as `forward` does: these uses are no part of the step
                return outputs

            yield state, partly_known, of_support
        yield from walk


def _of(module: nn.Module, named: Mapping[str, T]) -> dict[str, T]:
    """What is named by the parameters of a module."""
    return {name: named[name] for name, _ in module.named_parameters()}


def _outputs(module: nn.Module, theta: Mapping[str, Tensor], x: Tensor, adapted: Sequence[str]) -> Tensor:
    """The outputs for x (T, n, ...) with those of the parameters theta, (T, *shape) or (1, *shape), that it has."""
    own = _of(module, theta).items()
    parameters = {name: TaskParameter(tensor, len(x) // len(tensor)) for name, tensor in own}
    with torch.no_grad():
        return batched_forward(module, parameters, x, adapted)


def _measure(
    run: Run, plan: Intervention, inputs: _Inputs, streams: Streams, probes: Mapping[str, Probe]
) -> tuple[Tensor, pd.DataFrame]:
    """Under an intervention, loss and accuracy (T, steps + 1, 2 sets, 2 measures), and what the probes say.

    The latter by task and step, with a column for each of a probe's numbers.
    """
    config, names = run.config, list(run.theta)
    adapted, changed = plan.adapted(names, run.adapted), plan.changed(names)
    # A probe may ask for what any layer does: then the whole network is computed.
    start = 0 if probes else cut(run.model, [name for name in names if name in {*adapted, *changed}])
    module = stages(run.model, start)
    own = {name for name, _ in module.named_parameters()}
    theta = {name: tensor for name, tensor in one_replica(run.theta).items() if name in own}
    xi = {key: tensor for key, tensor in one_replica(run.xi).items() if key.rpartition(".")[0] in own}
    num_tasks, steps = len(streams), config.steps
    plain = not (plan.before or plan.between or plan.updates or plan.permutes_labels)
    shares_first_step = run.rule.is_gradient_descent and steps > 0 and plain and not probes
    values = []
    # Plans that leave adaptation as it is are walked as evaluation walks, to be equal bit for bit; and where nothing
    # adapts, all steps are measured in one way, to be equal to the start.
    if shares_first_step and len(adapted) == len(names) and (walked := inputs.whole_walk()):
        at_start, later = walked
        later = inputs.with_query_at_1(later, adapted, 0)
        return torch.cat([at_start, measure(later, inputs.of(0), steps)], dim=1), _NOTHING_PROBED
    if shares_first_step and 0 < len(adapted) < len(names):
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
            update = state.theta[name].detached() - last[name]
            state.theta[name] = TaskParameter.of_tasks((last[name] + change(update, state.step)).requires_grad_())
        if plan.between and state.step < steps:
            before = {name: parameter.detached() for name, parameter in state.theta.items()}
            for name, tensor in apply(before, plan.between).items():
                if tensor is not before[name]:
                    state.theta[name] = TaskParameter.of_tasks(tensor.detach().requires_grad_())
        for name in last:
            last[name] = state.theta[name].detached()

    chosen = None if adapted == tuple(names) else adapted
    loop = InnerLoop(steps, config.adapt_lr, True, config.lr_scope, chosen, inputs.num_classes)
    walk: Walk = inner_loop(
        module, run.rule, theta, xi, part.support_x, part.support_y, part.kind, loop, create_graph=False,
        between=between,
    )  # fmt: skip
    rows: list[pd.DataFrame] = []
    if values:
        walk = inputs.with_query_at_1(walk, adapted, start)
    if probes:
        walk = _watched(walk, run, part, probes, rows)
    found = torch.cat([*values, measure(walk, part, steps)], dim=1)
    return found, pd.concat(rows, ignore_index=True) if rows else _NOTHING_PROBED


def _watched(
    walk: Walk, run: Run, episodes: Episodes, probes: Mapping[str, Probe], rows: list[pd.DataFrame]
) -> Iterator[Any]:
    """The same walk; `rows` get what the probes say at each of its states."""
    snapshot: Snapshot | None = None
    for state, forward, outputs in walk:
        theta = {name: parameter.detached() for name, parameter in state.theta.items()}
        snapshot = Snapshot(run, episodes, state.step, theta, snapshot)
        rows.append(carry_out(probes, snapshot))
        yield state, forward, outputs
