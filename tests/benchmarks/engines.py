"""Who measures: ours, the naive reference of the tests, and libraries, each as a function for each kind of workload.

Every engine does the same work on the same tasks from the same weights, and returns its results by name, so that they
can be compared before anything is timed. Where a library has no way of its own to treat many tasks at once, it goes
through them one by one, as its documentation shows, and adds the gradients up.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from analysis.fc_noise import fc_noise
from analysis.interventions import Intervention, adapt_only, freeze, perturb
from analysis.layer_roles import layer_roles
from core import Episodes, TrainConfig, evaluate, meta_gradient
from core.adaptation import one_replica
from core.chunking import AUTO, fastest_chunk, kept_chunk
from core.compilation import compile_meta_gradient
from core.group import Group
from core.inner_loop import InnerLoop
from core.models.layers import layers_of
from core.seeds import generator
from core.tasks.ahead import DrawnAhead
from tests import naive
from tests.benchmarks.workloads import DRAWS, NOISE, Problem, Tensors, Workload

META_LR = {"maml": 1.9, "klin": 3.33}  # of the paper's synthetic experiments
# theta, xi and tasks to the mean query loss and its gradients by both.
Gradient = Callable[[Tensors, Tensors, Episodes], tuple[Tensor, Tensors]]
# The same and the names of what adapts to support and query losses (T, steps + 1, 2).
Evaluation = Callable[[Tensors, Tensors, Episodes, Sequence[str]], Tensor]


@dataclass(frozen=True)
class Job:
    """Something to call.

    Attributes:
        run: returns what it computed, by name.
        units: how many of the workload's units a call is worth: iterations, or the share of the tasks.
    """

    run: Callable[[], Tensors]
    units: float = 1.0


class Engine:
    """What all engines have in common, and what most do: seed by seed, task by task.

    Attributes:
        name: in the table.
        package: what has to be installed.
        compiles: whether its first call takes long.
        counted: the engine whose arithmetic stands for its own, where PyTorch does not see it.
        is_exact: whether its results have to be the reference's; how far they are from them is told all the same.
    """

    name = ""
    package = "torch"
    compiles = False
    counted = ""
    is_exact = True

    def refusal(self, workload: Workload) -> str:
        """Why it has no part in the workload; empty if it has."""
        return "" if find_spec(self.package) is not None else f"absent: {self.package} is not installed"

    def gradient(self, problem: Problem, model: nn.Module) -> Gradient:
        """Its meta-gradient of this network."""
        raise NotImplementedError(self.name)

    def evaluation(self, problem: Problem, model: nn.Module) -> Evaluation:
        """Its evaluation of this network."""
        raise NotImplementedError(self.name)

    def job(self, problem: Problem, iterations: int = 20) -> Job:
        """What it does in this workload; `iterations` of a training in a call."""
        workload = problem.workload
        if workload.kind == "training":
            return self.training(problem, iterations)
        model = problem.model()
        theta, xi = problem.start(model)
        if workload.kind == "meta-gradient":
            gradient, episodes = self.gradient(problem, model), problem.episodes

            def run() -> Tensors:
                loss, gradients = gradient(theta, xi, episodes)
                return {"loss": loss, **gradients}

            return Job(run)
        losses = self.evaluation(problem, model)
        if workload.kind == "evaluation":
            return Job(lambda: {"losses": losses(theta, xi, problem.episodes, list(theta))}, workload.share)
        return Job(lambda: {"losses": self.study(problem, losses, theta, xi)}, workload.share)

    def training(self, problem: Problem, iterations: int) -> Job:
        """Some more iterations of every seed, one seed after the other, in a training that is under way."""
        workload = problem.workload
        seeds = range(workload.seeds)
        sources = [problem.source(seed) for seed in seeds]
        models = [problem.model(seed) for seed in seeds]
        gradients = [self.gradient(problem, model) for model in models]
        states = [problem.start(model) for model in models]
        done = 0

        def run() -> Tensors:
            nonlocal done
            for seed in seeds:
                for i in range(done, done + iterations):
                    theta, xi = states[seed]
                    _, found = gradients[seed](theta, xi, sources[seed].sample("train", workload.tasks, i))
                    states[seed] = tuple(
                        {name: tensor - META_LR[workload.method] * found[name] for name, tensor in part.items()}
                        for part in (theta, xi)
                    )
            done += iterations
            return {f"{name}.{seed}": t for seed in seeds for part in states[seed] for name, t in part.items()}

        return Job(run, iterations)

    def study(self, problem: Problem, losses: Evaluation, theta: Tensors, xi: Tensors) -> Tensor:
        """Support and query losses of all interventions, draws, tasks and steps: an evaluation for each of them."""
        found = []
        for plan, draws in interventions(problem.workload, list(theta)):
            for draw in range(draws):
                for i in range(problem.num_measured):
                    start = {name: tensor.unsqueeze(0) for name, tensor in theta.items()}
                    for change in plan.before:
                        start |= change(start, [generator(0, "intervention", i, draw)])
                    moved = {name: tensor.squeeze(0) for name, tensor in start.items()}
                    found.append(losses(moved, xi, problem.episodes[i : i + 1], plan.adapted(list(theta))))
        return torch.cat(found).flatten()


def interventions(workload: Workload, names: Sequence[str]) -> list[tuple[Intervention, int]]:
    """What the study compares, and how many draws of each."""
    layers = layers_of(names)
    if workload.kind == "layer_roles":
        return [(plan, 1) for plan in (Intervention(), *map(freeze, layers), *map(adapt_only, layers))]
    *fixed, _, last = layers
    return [
        (freeze(*fixed) + perturb(last, std=std), DRAWS) if std else (freeze(*fixed), 1) for std in NOISE
    ]  # fmt: skip


class Naive(Engine):
    """`tests/naive.py`: one task at a time, plain autograd, each task's own factors."""

    name = "naive"

    def gradient(self, problem: Problem, model: nn.Module) -> Gradient:
        """One backward pass a step, one graph a task."""
        w = problem.workload

        def run(theta: Tensors, xi: Tensors, episodes: Episodes) -> tuple[Tensor, Tensors]:
            loss, (g_theta, g_xi) = naive.meta_gradient(
                model, problem.naive_rule, theta, xi, episodes, steps=w.steps, lr=w.lr
            )
            return loss, g_theta | g_xi

        return run

    def evaluation(self, problem: Problem, model: nn.Module) -> Evaluation:
        """Gradient descent task by task, in first order."""
        w = problem.workload

        def of_task(theta: Tensors, task: Episodes, adapted: Sequence[str]) -> Tensor:
            theta = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
            points = []
            for step in range(w.steps + 1):
                with torch.no_grad():
                    query = _loss(functional_call(model, theta, (task.query_x[0],)), task.query_y[0])
                with torch.set_grad_enabled(step < w.steps):
                    support = _loss(functional_call(model, theta, (task.support_x[0],)), task.support_y[0])
                points.append(torch.stack([support.detach(), query]))
                if step < w.steps:
                    moving = [theta[name] for name in adapted]
                    grads = torch.autograd.grad(support, moving)
                    moved = zip(adapted, moving, grads, strict=True)
                    theta |= {name: (p - w.lr * g).detach().requires_grad_() for name, p, g in moved}
            return torch.stack(points)

        return lambda theta, xi, episodes, adapted: torch.stack(
            [of_task(theta, episodes[i : i + 1], adapted) for i in range(episodes.num_tasks)]
        )


class Eager(Engine):
    """Ours, operation by operation."""

    name = "eager"
    compile = False
    options: ClassVar[dict[str, Any]] = {}

    def gradient(self, problem: Problem, model: nn.Module) -> Gradient:
        """All tasks at once, or in chunks."""
        w = problem.workload

        def run(theta: Tensors, xi: Tensors, episodes: Episodes) -> tuple[Tensor, Tensors]:
            loss, (g_theta, g_xi) = meta_gradient(
                model, problem.rule, theta, xi, episodes, steps=w.steps, lr=w.lr, first_order=False,
                tasks_per_chunk=_chunk(problem, model, theta, xi), **self.options,
            )  # fmt: skip
            return loss, g_theta | g_xi

        return run

    def evaluation(self, problem: Problem, model: nn.Module) -> Evaluation:
        """All tasks at once, or in chunks of its own choice."""
        w = problem.workload

        def run(theta: Tensors, xi: Tensors, episodes: Episodes, adapted: Sequence[str]) -> Tensor:
            table = evaluate(model, problem.rule, theta, xi, episodes, steps=w.steps, lr=w.lr, adapted=list(adapted))
            return _losses(table).view(episodes.num_tasks, w.steps + 1, 2)

        return run

    def study(self, problem: Problem, losses: Evaluation, theta: Tensors, xi: Tensors) -> Tensor:
        """The study itself, which computes once what interventions have in common."""
        if problem.workload.kind == "layer_roles":
            return _losses(layer_roles(problem.run, num_tasks=problem.num_measured))
        return _losses(fc_noise(problem.run, num_tasks=problem.num_measured, strengths=NOISE, draws=DRAWS))

    def training(self, problem: Problem, iterations: int) -> Job:
        """Some more iterations of all seeds at once, in a training that is under way."""
        w = problem.workload
        config = TrainConfig(
            dataset="synthetic", model=w.model, hidden=(w.width,) * 3 if w.model == "linnet" else None,
            method=w.method, steps=w.steps, adapt_lr=w.lr, first_order=False, meta_optimizer="sgd",
            meta_lr=META_LR[w.method], iterations=0, tasks_per_iteration=w.tasks,
        )  # fmt: skip
        sources = {seed: problem.source(seed) for seed in range(w.seeds)}
        configs = [replace(config, seed=seed) for seed in sources]
        group = Group(configs, list(sources.values()), None, torch.device("cpu"), compile=self.compile)

        def run() -> Tensors:
            with DrawnAhead(sources, w.tasks, group.iteration, group.iteration + iterations) as batches:
                for _ in range(iterations):
                    group.step(*batches.take(tuple(sources)))
            return {f"{name}.{i}": t for part in (group.theta, group.xi) for name, ts in part.items()
                    for i, t in enumerate(ts.clone())}  # fmt: skip

        return Job(run, iterations)


class Compiled(Eager):
    """Ours, recorded once and compiled."""

    name = "compiled"
    compile = True
    compiles = True
    counted = "eager"

    def refusal(self, workload: Workload) -> str:
        """Only meta-gradients are compiled."""
        if workload.kind not in ("training", "meta-gradient"):
            return "not applicable: only meta-gradients are compiled"
        return super().refusal(workload)

    def gradient(self, problem: Problem, model: nn.Module) -> Gradient:
        """As training with `compile` takes it; compiled for the first tasks that it meets."""
        w = problem.workload
        compiled: list[Callable[..., tuple[Tensor, Tensors, Tensors]]] = []

        def run(theta: Tensors, xi: Tensors, episodes: Episodes) -> tuple[Tensor, Tensors]:
            replica = one_replica(theta), one_replica(xi)
            if not compiled:
                loop = InnerLoop(w.steps, w.lr, first_order=False)
                compiled.append(
                    compile_meta_gradient(
                        model, problem.rule, *replica, episodes, loop,
                        tasks_per_chunk=_chunk(problem, model, theta, xi),
                    )
                )  # fmt: skip
            loss, g_theta, g_xi = compiled[0](*replica, episodes)
            return loss[0], {name: grad[0] for name, grad in (g_theta | g_xi).items()}

        return run


class _Variant(Eager):
    """Ours with an option of meta-gradients."""

    def refusal(self, workload: Workload) -> str:
        """Nothing but meta-gradients has the option."""
        if workload.kind != "meta-gradient":
            return "not applicable: an option of meta-gradients"
        return super().refusal(workload)


class Rematerialised(_Variant):
    """Ours, in less memory."""

    name = "rematerialised"
    options: ClassVar[dict[str, Any]] = {"rematerialise": True}


class HalfPrecision(_Variant):
    """Ours, within a task in bfloat16."""

    name = "bfloat16"
    counted = "eager"
    is_exact = False
    options: ClassVar[dict[str, Any]] = {"dtype": torch.bfloat16}


class Library(Engine):
    """A library whose inner loop is gradient descent on a module's own parameters."""

    def refusal(self, workload: Workload) -> str:
        """Neither has learned update rules or interventions."""
        if workload.method != "maml":
            return "not applicable: the library has gradient descent only"
        if workload.kind in ("layer_roles", "fc_noise"):
            return "not applicable: the library has no interventions"
        return super().refusal(workload)

    def module(self) -> object:
        """The library itself."""
        return importlib.import_module(self.package)

    def add_up(
        self, model: nn.Module, of_task: Callable[[nn.Module, Episodes], tuple[Tensor, Sequence[Tensor]]]
    ) -> Gradient:
        """The mean over tasks of a task's query loss and gradients, at other weights in each call."""
        own = dict(model.named_parameters())

        def run(theta: Tensors, xi: Tensors, episodes: Episodes) -> tuple[Tensor, Tensors]:
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(theta[name])
            total = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
            loss = torch.zeros((), dtype=next(iter(theta.values())).dtype)
            for i in range(episodes.num_tasks):
                task_loss, gradients = of_task(model, episodes[i : i + 1])
                for sum_, gradient in zip(total.values(), gradients, strict=True):
                    sum_ += gradient
                loss += task_loss.detach()
            return loss / episodes.num_tasks, {name: sum_ / episodes.num_tasks for name, sum_ in total.items()}

        return run


class Higher(Library):
    """higher (Grefenstette et al., 2019)."""

    name = package = "higher"

    def gradient(self, problem: Problem, model: nn.Module) -> Gradient:
        """`innerloop_ctx` for each task."""
        higher, w = self.module(), problem.workload
        inner = torch.optim.SGD(model.parameters(), lr=w.lr)

        def of_task(model: nn.Module, task: Episodes) -> tuple[Tensor, Sequence[Tensor]]:
            with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (fast, optimizer):
                for _ in range(w.steps):
                    optimizer.step(_loss(fast(task.support_x[0]), task.support_y[0]))
                loss = _loss(fast(task.query_x[0]), task.query_y[0])
                return loss, torch.autograd.grad(loss, list(model.parameters()))

        return self.add_up(model, of_task)

    def evaluation(self, problem: Problem, model: nn.Module) -> Evaluation:
        """The same without keeping what the steps were made of."""
        higher, w = self.module(), problem.workload
        inner = torch.optim.SGD(model.parameters(), lr=w.lr)

        def of_task(task: Episodes) -> Tensor:
            points = []
            with higher.innerloop_ctx(model, inner, track_higher_grads=False) as (fast, optimizer):
                for step in range(w.steps + 1):
                    with torch.no_grad():
                        query = _loss(fast(task.query_x[0]), task.query_y[0])
                    with torch.set_grad_enabled(step < w.steps):
                        support = _loss(fast(task.support_x[0]), task.support_y[0])
                    points.append(torch.stack([support.detach(), query]))
                    if step < w.steps:
                        optimizer.step(support)
            return torch.stack(points)

        def run(theta: Tensors, xi: Tensors, episodes: Episodes, adapted: Sequence[str]) -> Tensor:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(theta[name])
            return torch.stack([of_task(episodes[i : i + 1]) for i in range(episodes.num_tasks)])

        return run


class TorchOpt(Library):
    """TorchOpt (Ren et al., 2023)."""

    name = package = "torchopt"

    def refusal(self, workload: Workload) -> str:
        """Its `MetaSGD` always keeps the graph."""
        if workload.kind == "evaluation":
            return "not applicable: its inner optimizer always keeps the graph"
        return super().refusal(workload)

    def gradient(self, problem: Problem, model: nn.Module) -> Gradient:
        """`MetaSGD` for each task, and the network's own weights again after it."""
        torchopt, w = self.module(), problem.workload
        inner = torchopt.MetaSGD(model, lr=w.lr)
        own = list(model.parameters())

        def of_task(model: nn.Module, task: Episodes) -> tuple[Tensor, Sequence[Tensor]]:
            states = [torchopt.extract_state_dict(part, by="reference") for part in (model, inner)]
            for _ in range(w.steps):
                inner.step(_loss(model(task.support_x[0]), task.support_y[0]))
            loss = _loss(model(task.query_x[0]), task.query_y[0])
            gradients = torch.autograd.grad(loss, own)
            for part, state in zip((model, inner), states, strict=True):
                torchopt.recover_state_dict(part, state)
            return loss, gradients

        return self.add_up(model, of_task)


class Jax(Engine):
    """JAX: the inner loop of a task differentiated, mapped over tasks and seeds, and compiled."""

    name = package = "jax"
    compiles = True
    counted = "naive"

    def refusal(self, workload: Workload) -> str:
        """Written for meta-gradients."""
        if workload.kind not in ("training", "meta-gradient"):
            return "not applicable: written for meta-gradients only"
        return super().refusal(workload)

    def gradient(self, problem: Problem, model: nn.Module) -> Gradient:
        """See `jax_engine`."""
        from tests.benchmarks import jax_engine

        return jax_engine.gradient(problem.workload, problem.naive_rule)

    def training(self, problem: Problem, iterations: int) -> Job:
        """All seeds at once."""
        from tests.benchmarks import jax_engine

        seeds = range(problem.workload.seeds)
        sources = [problem.source(seed) for seed in seeds]
        starts = [problem.start(problem.model(seed)) for seed in seeds]
        run = jax_engine.training(
            problem.workload, problem.naive_rule, sources, starts, META_LR[problem.workload.method], iterations
        )
        return Job(run, iterations)


def _chunk(problem: Problem, model: nn.Module, theta: Tensors, xi: Tensors) -> int | None:
    """How many tasks go through at once; measured in the first call for the workload, and kept."""
    w = problem.workload
    if w.per_chunk != AUTO:
        return w.per_chunk

    def run(size: int) -> None:
        meta_gradient(
            model, problem.rule, theta, xi, problem.episodes[:size], steps=w.steps, lr=w.lr, first_order=False
        )

    return kept_chunk({"benchmark": w.settings}, lambda: fastest_chunk(run, problem.num_measured))


def _loss(outputs: Tensor, y: Tensor) -> Tensor:
    """The mean loss of one task: cross-entropy of classes, logistic loss of a single output."""
    return naive.task_loss(outputs, y, "binary" if y.is_floating_point() else "classification")


def _losses(table: pd.DataFrame) -> Tensor:
    """The column, as a flat tensor."""
    return torch.tensor(table["loss"].to_numpy())


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (Naive(), Eager(), Compiled(), Rematerialised(), HalfPrecision(), Higher(), TorchOpt(), Jax())
}
