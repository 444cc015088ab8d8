"""Runs that are trained together: what an iteration changes, what a curve measures, what is saved of them."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bounds.words import shown
from core.adaptation import MetaGradient, replica_meta_gradient, replica_slice
from core.chunking import AUTO, Chunk, checked_chunk, fastest_chunk, kept_chunk
from core.compilation import compile_meta_gradient
from core.config import TrainConfig
from core.distributed import ALONE, Alone
from core.errors import UserError
from core.evaluation import EXPLODED, replica_evaluate
from core.inner_loop import check_no_buffers
from core.methods import METHODS
from core.models import make_model
from core.modules import OwnModel, fresh_module, warn_of_frozen
from core.optimizers.base import check_tensors
from core.outer_optimizer import OPTIMIZER_STATE, OuterOptimizer
from core.own import check_own
from core.reptile import replica_reptile_gradient
from core.runs import (
    FORMAT,
    Run,
    buffers_of,
    curve_table,
    environment,
    module_digest,
    modules_in_training,
    save_run,
    save_tensors,
    start_digest,
)
from core.tasks.base import Episodes, TaskSource, concatenate
from core.threads import iteration_gflop, suitable_threads, threads
from core.version import code_version

LOOKS_EVERY = 20
"""Iterations between two looks at the losses on a GPU, which a look waits for."""

OTHER_MODULE = (
    "run {id} was trained with a module of the same names, shapes and weights that computes something else, such as by "
    "another activation: give yours another name, model='own:<name>'"
)


class Group:
    """Runs that differ in nothing but the seed, trained together.

    Args:
        configs: their configurations.
        sources: the tasks of each.
        results: where the runs are saved; None keeps them in memory.
        device: where they are trained.
        tasks_per_chunk: see `replica_meta_gradient`; "auto" chooses, see `core.chunking`.
        compile: whether to compile the meta-gradient, see `compile_meta_gradient`.
        rematerialise: see `replica_meta_gradient`.
        own_model: the module that a configuration calls `own:<name>`, or a function of a seed that makes it.
        own_tasks: whether the sources are of the user's own.
        team: the processes that share every iteration's tasks; the first of them saves the runs.
    """

    def __init__(
        self,
        configs: Sequence[TrainConfig],
        sources: Sequence[TaskSource],
        results: Path | None,
        device: torch.device,
        tasks_per_chunk: Chunk = None,
        compile: bool = False,
        rematerialise: bool = False,
        own_model: OwnModel | None = None,
        own_tasks: bool = False,
        team: Alone = ALONE,
    ) -> None:
        config = configs[0]
        for source in sources:
            _check_num_tasks(source, config)
        self.configs = list(configs)
        self.sources = list(sources)
        self.results = results
        self.device = device
        self.chooses_chunk = checked_chunk(tasks_per_chunk) == AUTO
        self.tasks_per_chunk = None if tasks_per_chunk == AUTO else tasks_per_chunk
        self.compile = compile
        self.rematerialise = rematerialise
        self.team = team
        self._is_reptile = METHODS[config.method].outer == "reptile"
        if compile and self._is_reptile:
            raise UserError("reptile has no meta-gradient to compile: train it without compile")
        if rematerialise and (compile or self._is_reptile):
            what = "compiled" if compile else "reptile's"
            raise UserError(f"a {what} iteration cannot be rematerialised: leave one of the two out")
        if config.inner_dtype is not None and self._is_reptile:
            raise UserError("reptile's step is a small difference of weights: leave inner_dtype out")
        self._compiled: dict[int, Callable[..., MetaGradient]] = {}  # by number of runs
        self.rule = config.make_rule()
        if config.lr_scope == "xi" and not self.rule.adapts:
            raise UserError(f"{config.method} does not adapt xi: with lr_scope 'xi', adapt_lr would scale nothing")
        self._own_model, self._own_tasks = own_model, own_tasks
        models = [self._fresh_model(c, source) for c, source in zip(configs, sources, strict=True)]
        self.model = models[0]
        if config.inner_dtype is not None:
            check_no_buffers(self.model, torch.bfloat16)
        self.buffers = buffers_of(self.model)
        # Those that are not saved, too: one module serves all seeds.
        first, *others = [dict(model.named_buffers()) for model in models]
        if any(not torch.equal(other[name], tensor) for other in others for name, tensor in first.items()):
            raise UserError("the module has other buffers for other seeds: train one seed at a time")
        self.loop = config.inner_loop([name for name, _ in self.model.named_parameters()])
        self._training_loop = self.loop if config.inner_dtype is None else replace(self.loop, dtype=torch.bfloat16)
        thetas = [{name: p.detach() for name, p in model.named_parameters()} for model in models]
        xis = [self.rule.init(theta) for theta in thetas]
        self.theta = {name: torch.stack([theta[name] for theta in thetas]) for name in thetas[0]}
        self.xi = {name: torch.stack([xi[name] for xi in xis]) for name in xis[0]}
        self.optimizer = OuterOptimizer(config.meta_optimizer, config.meta_lr)
        self.iteration = 0
        self.curves: list[list[tuple[int, str, float, float, int]]] = [[] for _ in configs]
        self.seconds = 0.0  # in `step` and `look`, by the clock
        self.code_version = code_version("core")
        self.finished: list[Run] = []
        self.given_up: list[TrainConfig] = []  # for which the memory did not suffice
        self.loss = torch.full((len(configs),), torch.nan)  # of the last iteration looked at, one for each run
        # Several processes wait for one another in every iteration as it is.
        self._looks_every = LOOKS_EVERY if device.type == "cuda" and team.size == 1 else 1
        self._unseen: list[Tensor] = []  # losses of the iterations since the last look
        # 1 from the first loss of them on that is not finite.
        self._stuck = torch.zeros((), dtype=torch.float32, device=device)
        self._threads: int | None = None  # of an iteration of these runs; found out in the first

    @property
    def target(self) -> int:
        """Iterations to do; none are left when every run has diverged."""
        return self.configs[0].iterations if self.configs else 0

    @property
    def curve_end(self) -> int:
        """The iteration of the curve's last point, -1 if it has none."""
        return self.curves[0][-1][0] if self.curves[0] else -1

    @property
    def label(self) -> str:
        """What is trained, for people."""
        config = (self.configs or self.given_up or [run.config for run in self.finished])[0]
        return f"{config.model} {config.method}"

    @property
    def progress(self) -> str:
        """The last loss looked at and the end of the curve (on its last split, when), means over runs.

        The end is an accuracy; of regression, which has none, a loss.
        """
        losses, accuracies = zip(*(curve[-1][2:4] for curve in self.curves), strict=True)
        end, values = ("loss", losses) if math.isnan(accuracies[0]) else ("acc", accuracies)
        value = sum(values) / len(values)
        loss = self.loss.mean().item()
        seen = "" if math.isnan(loss) else f"loss {loss:.3f} "  # on a GPU none was at first
        return f"{seen}{self.curves[0][-1][1]} {end} {value:.3f} at {self.curve_end}"

    @cached_property
    def fingerprint(self) -> str:
        """That of the runs' data, which no seed changes."""
        return self.sources[0].fingerprint()

    @cached_property
    def module_digest(self) -> str | None:
        """What a module of the user's own computes, beside its weights; None for one of ours, which settings say."""
        return None if self._own_model is None else module_digest(self.model)

    def _fresh_model(self, config: TrainConfig, source: TaskSource) -> nn.Module:
        if self._own_model is not None:
            module = fresh_module(self._own_model, config.seed).to(self.device)
            warn_of_frozen(module)
        else:
            module = make_model(config.model, source, seed=config.seed, **config.model_options()).to(self.device)
        if self._own_model is not None or self._own_tasks:
            check_own(module, source)
        return module

    def step(self, episodes: Episodes) -> None:
        """One meta-training iteration of every run, on its own `tasks_per_iteration` of `episodes`.

        Runs whose loss is not finite are dropped: on a GPU not now, but when the losses are looked at.
        """
        if self._threads is None:
            self._threads = self._suitable_threads(episodes)
        with self._timed(), threads(self._threads):
            self._step(episodes)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """What is done within is training, and its time counts, once where one such block is in another."""
        before, started = self.seconds, time.perf_counter()
        yield
        self.seconds = before + time.perf_counter() - started

    def _step(self, episodes: Episodes) -> None:
        loss, g_theta, g_xi = self.team.meta_gradient(self._meta_gradient, episodes, len(self.configs))
        if self._looks_every > 1:
            self._step_unseen(loss, _named(g_theta, g_xi))
            return
        keep = [i for i, value in enumerate(loss.tolist()) if math.isfinite(value)]
        if len(keep) < len(self.configs):
            self._drop_diverged(keep)
            if not self.configs:
                return
            loss = loss[keep]
            g_theta = {name: g[keep] for name, g in g_theta.items()}
            g_xi = {name: g[keep] for name, g in g_xi.items()}
        self.optimizer.step(_named(self.theta, self.xi), _named(g_theta, g_xi))
        self.iteration += 1
        self.loss = loss

    def _step_unseen(self, loss: Tensor, grads: Mapping[str, Tensor]) -> None:
        """A step that is made if no loss was other than finite since the last look; nothing is waited for."""
        self._unseen.append(loss.clone())  # compiled code may use its memory again
        self._stuck = torch.maximum(self._stuck, (~loss.isfinite().all()).float())
        self.optimizer.step(_named(self.theta, self.xi), grads, unless=self._stuck)
        self.iteration += 1
        if len(self._unseen) >= self._looks_every:
            self.look()

    def look(self) -> None:
        """Look at the losses of the iterations since the last look, and drop the runs of which one is not finite.

        From that iteration on no step was made: the others go back to it, and make theirs. Their tasks are addressed
        by the iteration, so that they come to what they would have come to without the wait.
        """
        while self._unseen:
            with self._timed():
                losses = torch.stack(self._unseen).cpu()  # waits for a GPU, once for all that looks at them
            self._unseen, self.loss = [], losses[-1]
            finite = losses.isfinite().tolist()
            good = next((i for i, each in enumerate(finite) if not all(each)), None)
            if good is None:
                return
            end, back = self.iteration, len(finite) - good
            self.iteration -= back
            self.optimizer.steps -= back
            self._stuck.zero_()
            self._drop_diverged([i for i, each in enumerate(finite[good]) if each])
            while self.configs and self.iteration < end:
                number = self.configs[0].tasks_per_iteration
                self.step(concatenate([source.sample("train", number, self.iteration) for source in self.sources]))

    def _suitable_threads(self, episodes: Episodes) -> int:
        """One for small networks on vectors; what images take is always worth sharing."""
        if self.device.type != "cpu" or episodes.support_x.ndim > 3:
            return torch.get_num_threads()
        gflop = iteration_gflop(self.model, self.theta, self.xi, episodes, self.loop.steps, len(self.configs))
        return suitable_threads(gflop / self.team.size)

    def _meta_gradient(self, episodes: Episodes) -> MetaGradient:
        """The meta-gradient of these tasks, which are this process's share."""
        if self.chooses_chunk and self.tasks_per_chunk is None:
            # The same in all processes: a state has one.
            self.tasks_per_chunk = self.team.from_first(lambda: self._chosen_chunk(episodes))
        if not self.compile:
            return self._uncompiled(episodes, self.tasks_per_chunk)
        if len(self.configs) not in self._compiled:
            self._compiled[len(self.configs)] = compile_meta_gradient(
                self.model, self.rule, self.theta, self.xi, episodes, self._training_loop,
                tasks_per_chunk=self.tasks_per_chunk,
            )  # fmt: skip
        return self._compiled[len(self.configs)](self.theta, self.xi, episodes)

    def _uncompiled(self, episodes: Episodes, tasks_per_chunk: int | None) -> MetaGradient:
        arguments = (self.model, self.rule, self.theta, self.xi, episodes, self._training_loop)
        if self._is_reptile:
            return replica_reptile_gradient(*arguments, tasks_per_chunk=tasks_per_chunk)
        return replica_meta_gradient(*arguments, tasks_per_chunk=tasks_per_chunk, rematerialise=self.rematerialise)

    def _chosen_chunk(self, episodes: Episodes) -> int:
        """The fastest number of tasks at once, measured uncompiled on the first of these tasks."""
        replicas = len(self.configs)

        def run(size: int) -> None:
            loss, _, _ = self._uncompiled(replica_slice(episodes, replicas, 0, size), None)
            loss.tolist()  # waits for a GPU

        num_tasks = episodes.num_tasks // replicas
        what = {
            "run": [replace(self.configs[0], seed=0, iterations=0).canonical_json(), replicas, num_tasks],
            "shapes": {name: list(tensor.shape) for name, tensor in self._tensors().items()},
            "examples": [list(episodes.support_x.shape), list(episodes.query_x.shape)],
            "device": environment(self.device)["device"],
            "rematerialise": self.rematerialise,
        }
        return kept_chunk(what, lambda: fastest_chunk(run, num_tasks))

    def _drop_diverged(self, keep: list[int]) -> None:
        """Finish the runs whose meta-loss is not finite, and go on with those to `keep`."""
        for i in sorted(set(range(len(self.configs))) - set(keep)):
            self.finished.append(self._finish(i, f"diverged at iteration {self.iteration}"))
        self.configs = [self.configs[i] for i in keep]
        self.sources = [self.sources[i] for i in keep]
        self.curves = [self.curves[i] for i in keep]
        if not keep:
            return
        self.theta = {name: tensor[keep].clone() for name, tensor in self.theta.items()}
        self.xi = {name: tensor[keep].clone() for name, tensor in self.xi.items()}
        self.optimizer.keep(keep)
        self._threads = None

    def _tensors(self) -> dict[str, Tensor]:
        return _named(self.theta, self.xi)

    def measure(self, fixed_tasks: Callable[[TaskSource, str, int, int], Episodes]) -> None:
        """Add a point to every run's curve: query loss and accuracy after adaptation, on fixed tasks of each split."""
        self.look()
        if not self.configs:
            return
        config = self.configs[0]
        means = {}
        for split in self.sources[0].splits:
            # Training tasks of the curve are a batch that training itself never reaches.
            index = config.iterations if split == "train" else 0
            episodes = concatenate([fixed_tasks(source, split, config.eval_tasks, index) for source in self.sources])
            means[split] = self.team.points(self._query_points, episodes, len(self.configs)).mean(dim=1).tolist()
        # Only now: a curve has its point of all splits, or none of it.
        for split, values in means.items():
            for curve, (loss, accuracy) in zip(self.curves, values, strict=True):
                curve.append((self.iteration, split, loss, accuracy, config.eval_tasks))

    def _query_points(self, episodes: Episodes) -> Tensor:
        """Query loss and accuracy of each task after adaptation, (S, T, 2)."""
        values = replica_evaluate(
            self.model, self.rule, self.theta, self.xi, episodes, self.loop, query_only_at_end=True,
            tasks_per_chunk=None if self.chooses_chunk else self.tasks_per_chunk,
        )  # fmt: skip
        points = values[:, :, -1, 1].double()
        if episodes.kind != "regression":  # no measurement, and so no accuracy, which would be one of chance
            points[..., 1] = points[..., 1].masked_fill(points[..., 0] > EXPLODED, math.nan)
        return points

    def check_alike(self) -> None:
        """See that all processes have the same parameters, bit for bit.

        Raises:
            UserError: if they have not.
        """
        self.look()
        self.team.check_alike(self._tensors().values(), self.iteration)

    def _finish(self, i: int, status: str) -> Run:
        config = self.configs[i]
        info = {
            **environment(self.device),
            "code_version": self.code_version,
            "compile": self.compile,
            "rematerialise": self.rematerialise,
            "tasks_per_chunk": self.tasks_per_chunk,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": round(self.seconds, 3),
            "trained_together": len(self.configs),
            "processes": self.team.size,
            "iterations_done": self.iteration,
            "example_shape": list(self.sources[i].example_shape),
            "num_outputs": self.sources[i].num_outputs,
            "dataset_fingerprint": self.fingerprint,
        }
        blank = None if self._own_model is None else fresh_module(self._own_model, config.seed)
        if blank is not None:
            info["modules_in_training"] = modules_in_training(self.model)
            info["module"] = self.module_digest
            info["start"] = start_digest(blank)
        run = Run(
            config,
            {name: tensor[i].detach().clone() for name, tensor in self.theta.items()},
            {name: tensor[i].detach().clone() for name, tensor in self.xi.items()},
            curve_table(self.curves[i]),
            status,
            info,
            blank=blank,
            source=self.sources[i] if self._own_tasks else None,
            buffers=self.buffers,
        )
        if self.results is not None:
            run.path = save_run(run, self.results) if self.team.writes else self.results / "runs" / run.id
        return run

    def finish(self) -> None:
        """Save what is left as finished runs.

        One whose last step left weights that are not finite, or whose last meta-loss exploded, has diverged.
        """
        self.check_alike()
        if not self.configs:
            return
        finite = torch.stack(
            [tensor.isfinite().reshape(len(tensor), -1).all(1) for tensor in self._tensors().values()]
        ).all(0)
        if self.sources and self.sources[0].kind != "regression":
            finite &= ~(self.loss > EXPLODED).to(finite.device)
        for i, good in enumerate(finite.tolist()):
            self.finished.append(self._finish(i, "ok" if good else f"diverged at iteration {self.iteration}"))
        self.configs = []

    def save_state(self) -> None:
        """Save everything needed to go on, one file a run, each whole or not at all.

        Raises:
            UserError: if a file cannot be written.
        """
        self.look()
        if self.results is None or not self.team.writes:
            return
        for i, config in enumerate(self.configs):
            tensors = {name: tensor[i] for name, tensor in self._tensors().items()}
            for kind, moments in self.optimizer.moments.items():
                tensors |= {f"optimizer.{kind}.{name}": moment[i] for name, moment in moments.items()}
            counts = OPTIMIZER_STATE[config.meta_optimizer][1] if self.optimizer.steps else ()
            metadata = {
                "format": FORMAT,
                "id": config.id,
                "iteration": self.iteration,
                "seconds": self.seconds,
                "tasks_per_chunk": self.tasks_per_chunk,
                "dataset_fingerprint": self.fingerprint,
                "module": self.module_digest,
                "loss": loss if math.isfinite(loss := self.loss[i].item()) else None,
                "curve": self.curves[i],
                "optimizer": {count: float(self.optimizer.steps) for count in counts},
            }
            save_tensors(self.results / "runs" / config.id / "state.safetensors", tensors, metadata)

    def load_state(self, states: Sequence[tuple[dict[str, Tensor], dict[str, Any]]]) -> None:
        """Go on from saved states, one for each run, all at one iteration.

        Raises:
            UserError: if tensors are missing, unknown or of another shape or type, or training began on other data or
                with a module that computes something else.
        """
        metadata = states[0][1]
        kinds = OPTIMIZER_STATE[self.configs[0].meta_optimizer][0] if metadata["iteration"] else ()
        expected = {name: tensor.shape[1:] for name, tensor in self._tensors().items()}
        expected |= {f"optimizer.{kind}.{name}": shape for kind in kinds for name, shape in expected.items()}
        types = {name: tensor.dtype for name, tensor in self._tensors().items()}
        types |= {f"optimizer.{kind}.{name}": dtype for kind in kinds for name, dtype in types.items()}
        assert self.results is not None
        for config, (tensors, meta) in zip(self.configs, states, strict=True):
            path = self.results / "runs" / config.id / "state.safetensors"
            check_tensors(f"{path}: state", tensors, expected, "this run")
            if strange := [name for name, tensor in tensors.items() if tensor.dtype != types[name]]:
                raise UserError(f"{path} has {shown(strange[0])} of another type than this run has")
            if meta.get("module") not in (None, self.module_digest):
                raise UserError(OTHER_MODULE.format(id=config.id))
            # Older states have none.
            if (began_on := meta.get("dataset_fingerprint")) not in (None, self.fingerprint):
                raise UserError(
                    f"{path} is of training on other data than are found here (fingerprint {shown(began_on)}, not "
                    f"{self.fingerprint}): its training classes may be test classes here; name the folder of its data "
                    "by --data-dir or root="
                )
        self.iteration, self.seconds = metadata["iteration"], metadata["seconds"]
        if self.chooses_chunk:
            self.tasks_per_chunk = metadata.get("tasks_per_chunk")  # chosen once a run, so that it goes on bit for bit
        self.curves = [[tuple(row) for row in meta["curve"]] for _, meta in states]
        self.loss = torch.tensor([math.nan if meta.get("loss") is None else meta["loss"] for _, meta in states])

        def stacked(key: str) -> Tensor:
            return torch.stack([tensors[key] for tensors, _ in states]).to(self.device)

        for name, tensor in self._tensors().items():
            tensor.copy_(stacked(name))
        moments = {kind: {name: stacked(f"optimizer.{kind}.{name}") for name in self._tensors()} for kind in kinds}
        self.optimizer.restore(moments, int(metadata["optimizer"].get("step", self.iteration)))


def _check_num_tasks(source: TaskSource, config: TrainConfig) -> None:
    """See that `source` has tasks to train on, and as many as a run draws at once.

    Raises:
        UserError: if it has not.
    """
    if config.iterations and "train" not in source.splits:
        raise UserError(f"there are no train episodes of {source.name} to train on, only {', '.join(source.splits)}")
    for split, size in (source.pool_sizes or {}).items():
        drawn = config.eval_tasks if split != "train" else max(config.tasks_per_iteration, config.eval_tasks)
        if drawn > size:
            raise UserError(
                f"{drawn} tasks asked for, but the {split} pool of {source.name} has {size}: set eval_tasks"
                f"{' and tasks_per_iteration' if split == 'train' else ''}"
            )


def _named(theta: Mapping[str, Tensor], xi: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"theta.{n}": t for n, t in theta.items()} | {f"xi.{n}": t for n, t in xi.items()}
