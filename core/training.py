"""The outer loop: meta-training, of one run or of many at once.

Runs that differ in nothing but the seed are trained together on a replica axis. Groups of runs that meet the same
tasks (several methods on the same seeds) walk through them side by side, so that each batch is drawn once. Neither
changes what a run is: its tasks and initial weights are addressed by its own seed and the iteration.
"""

import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from bounds.words import shown
from core.adaptation import replica_meta_gradient, replica_slice
from core.chunking import AUTO, Chunk, checked_chunk, fastest_chunk, kept_chunk
from core.compilation import MetaGradient, compile_meta_gradient
from core.config import TrainConfig
from core.device import checked_device
from core.distributed import ALONE, Alone, ProcessLost, join, own_device
from core.errors import UserError
from core.evaluation import EXPLODED, replica_evaluate
from core.inner_loop import check_no_buffers
from core.locks import claim
from core.memory import is_out_of_memory
from core.methods import METHODS
from core.models import make_model
from core.optimizers.base import check_tensors
from core.outer_optimizer import OPTIMIZER_STATE, OuterOptimizer
from core.own import OwnModel, OwnTasks, check_own, fresh_module, identified, warn_of_frozen
from core.progress import progress_bar
from core.reptile import replica_reptile_gradient
from core.runs import (
    CURVE_COLUMNS,
    FORMAT,
    Run,
    buffers_of,
    check_format,
    check_sizes,
    environment,
    is_finished,
    is_other_module,
    load_run,
    load_tensors,
    module_digest,
    modules_in_training,
    save_run,
    save_tensors,
    tidy,
    write_config,
)
from core.sources import shared_sources
from core.tasks import TaskSource, as_tasks
from core.tasks.ahead import DrawnAhead
from core.tasks.base import Episodes, TaskShape, concatenate
from core.threads import iteration_gflop, suitable_threads, threads
from core.version import code_version

CHECKPOINT_SECONDS = 60.0


_OTHER_MODULE = (
    "run {id} was trained with a module of the same names, shapes and weights that computes something else, such as by "
    "another activation: give yours another name, model='own:<name>'"
)


class Interrupted(Exception):
    """Training stopped at the user's request; where runs are saved, with its state saved."""


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
        self.seconds = 0.0  # in `step`, by the clock
        self.code_version = code_version("core")
        self.finished: list[Run] = []
        self.given_up: list[TrainConfig] = []  # for which the memory did not suffice
        self.loss = torch.full((len(configs),), torch.nan)  # of the last iteration, one for each run
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
        """Loss of the last iteration and accuracy at the end of the curve (of its last split), means over runs."""
        accuracy = sum(curve[-1][3] for curve in self.curves) / len(self.curves)
        return f"loss {self.loss.mean().item():.3f} {self.curves[0][-1][1]} acc {accuracy:.3f}"

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
        """One meta-training iteration of every run, on its own `tasks_per_iteration` of `episodes`."""
        if self._threads is None:
            self._threads = self._suitable_threads(episodes)
        started = time.perf_counter()
        with threads(self._threads):
            self._step(episodes)
        self.seconds += time.perf_counter() - started

    def _step(self, episodes: Episodes) -> None:
        loss, g_theta, g_xi = self.team.meta_gradient(self._meta_gradient, episodes, len(self.configs))
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
        self.team.check_alike(self._tensors().values(), self.iteration)

    def _finish(self, i: int, status: str) -> Run:
        config = self.configs[i]
        curve = pd.DataFrame(self.curves[i], columns=list(CURVE_COLUMNS)).astype(CURVE_COLUMNS)
        info = {
            **environment(self.device),
            "code_version": self.code_version,
            "compile": self.compile,
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
        if self._own_model is not None:
            info["modules_in_training"] = modules_in_training(self.model)
            info["module"] = self.module_digest
        run = Run(
            config,
            {name: tensor[i].detach().clone() for name, tensor in self.theta.items()},
            {name: tensor[i].detach().clone() for name, tensor in self.xi.items()},
            curve,
            status,
            info,
            blank=None if self._own_model is None else fresh_module(self._own_model, config.seed),
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
                raise UserError(_OTHER_MODULE.format(id=config.id))
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
            raise UserError(f"{drawn} tasks asked for, but the {split} pool of {source.name} has {size}")


def _named(theta: Mapping[str, Tensor], xi: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"theta.{n}": t for n, t in theta.items()} | {f"xi.{n}": t for n, t in xi.items()}


def _read_state(path: Path, config: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata that `Group.save_state` wrote for the run `config`.

    Raises:
        UserError: if the file is damaged, incomplete, or of another format or run.
    """
    tensors, metadata = load_tensors(path)
    check_format(path, metadata.get("format"))
    if metadata.get("id") != config.id:
        raise UserError(f"{path} is of another run; delete it to start again")
    needed = {"iteration": metadata, "seconds": metadata, "curve": metadata, "optimizer": metadata}
    counts = OPTIMIZER_STATE[config.meta_optimizer][1] if metadata.get("iteration") else ()
    optimizer = metadata.get("optimizer", {})
    needed |= {name: optimizer for name in counts if isinstance(optimizer, dict)}
    if missing := sorted(name for name, where in needed.items() if name not in where):
        raise UserError(f"{path} lacks {', '.join(missing)}; delete it to start again")
    if not _is_state(metadata, config) or optimizer.keys() != set(counts):
        raise UserError(f"{path} does not say where the training was; delete it to start again")
    return tensors, metadata


def _is_state(metadata: Mapping[str, Any], config: TrainConfig) -> bool:
    """Whether the numbers of a state are of the kinds that they should be, and its curve one."""
    iteration, seconds, curve = (metadata[name] for name in ("iteration", "seconds", "curve"))
    optimizer = metadata["optimizer"]
    if type(iteration) is not int or not 0 <= iteration <= config.iterations:
        return False
    if not isinstance(optimizer, dict) or not isinstance(curve, list) or (iteration and not curve):  # it has its start
        return False
    chunk, loss = metadata.get("tasks_per_chunk"), metadata.get("loss")  # older states have none
    if (chunk is not None and (type(chunk) is not int or chunk < 1)) or not (loss is None or _is_number(loss)):
        return False
    counts = all(_is_number(count) and 0 <= count <= config.iterations for count in optimizer.values())
    if not counts or not _is_number(seconds) or not 0 <= seconds < math.inf:
        return False
    kinds = [(int,), (str,), (float, int), (float, int), (int,)]  # as in CURVE_COLUMNS
    return all(
        isinstance(row, list)
        and len(row) == len(kinds)
        and all(type(value) in kind for value, kind in zip(row, kinds, strict=True))
        and all(type(value) is str or _is_number(value) for value in row)
        and 0 <= row[0] <= iteration
        for row in curve
    )


def _is_number(value: Any) -> bool:
    """Whether it is a number as a state has them: a float, or a whole one that a float can be."""
    return type(value) is float or (type(value) is int and abs(value) <= 2**53)


@dataclass(frozen=True)
class _Saved:
    """What was found of runs: the ids of those asked for, of the finished, and of those that are another process's.

    `states` are those of others, by id.
    """

    asked: list[str]
    finished: set[str]
    taken: set[str]
    states: dict[str, tuple[dict[str, Tensor], dict[str, Any]]]


def _saved(configs: Sequence[TrainConfig], results: Path | None, claims: ExitStack) -> _Saved:
    """What there is of these runs in `results`; those that are not finished are claimed until `claims` is left.

    Runs that differ in nothing but the seed are claimed as one, as they are trained: which of them are trained together
    is decided by what was asked for and what is saved, not by what another process is at.

    Raises:
        UserError: as `_read_state`, or if a run's folder cannot be written.
    """
    found = _Saved([config.id for config in configs], set(), set(), {})
    if results is None:
        return found
    families: dict[TrainConfig, list[TrainConfig]] = defaultdict(list)
    for config in dict.fromkeys(configs):
        families[replace(config, seed=0, own=None)].append(config)
    for family in families.values():
        with ExitStack() as own:
            for config in family:
                folder = results / "runs" / config.id
                if is_finished(folder):
                    found.finished.add(config.id)
                    tidy(folder)  # for a process that was killed when it had finished it
                    continue
                claimed = claim(folder)
                if claimed is None:
                    # Finished since the question above, if it is not at work.
                    (found.finished if is_finished(folder) else found.taken).add(config.id)
                    continue
                own.callback(claimed.release)
                if is_finished(folder):
                    found.finished.add(config.id)
                elif (folder / "state.safetensors").exists():
                    found.states[config.id] = _read_state(folder / "state.safetensors", config)
            ids = {config.id for config in family} - found.finished
            if ids & found.taken:
                found.taken.update(ids)
            else:
                claims.enter_context(own.pop_all())
    return found


def _without_memory(configs: Sequence[TrainConfig]) -> str:
    ids = ", ".join(config.id for config in configs)
    return f"out of memory in training {ids}: fewer tasks at once (tasks_per_chunk) need less"


def _check_team(team: Alone, configs: Sequence[TrainConfig], saved: _Saved) -> None:
    """See that the processes of `team` can train these runs.

    Raises:
        UserError: if they were asked for different runs, or are more than there are tasks to share.
    """
    if [config.id for config in configs] != saved.asked:
        raise UserError(f"process {team.rank} was asked for other runs than process 0; all train the same ones")
    for config in configs:
        if config.tasks_per_iteration < team.size:
            raise UserError(
                f"{team.size} processes cannot share the {config.tasks_per_iteration} tasks of an iteration of "
                f"{config.id}: start at most {config.tasks_per_iteration}"
            )


def meta_train(config: TrainConfig, **options: Any) -> Run:
    """Meta-train one run; `options` as in `meta_train_many`.

    Raises:
        UserError: as `meta_train_many`.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    return meta_train_many([config], **options)[0]


@torch.inference_mode(False)  # and with gradients, whatever the caller's mode
def meta_train_many(
    configs: Sequence[TrainConfig],
    *,
    model: OwnModel | None = None,
    tasks: OwnTasks | None = None,
    results: str | Path | None = "results",
    root: str | Path | None = None,
    device: str | torch.device | None = None,
    tasks_per_chunk: Chunk = None,
    compile: bool = False,
    rematerialise: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
) -> list[Run]:
    """Meta-train runs, together where that is the same and faster; finished ones are loaded, not repeated.

    Interrupted runs go on where they were. On the CPU the outcome is then the same bit for bit, as long as the same
    runs are trained together (another number of them may round differently).

    Where `torchrun` started several processes, which all call this with the same arguments, they share the tasks of
    every iteration (see `core.distributed`); all return the same runs, and the first saves them. Another number of
    processes may round differently, too.

    A module and tasks of your own are trained under a name that begins with `own:` in the configuration, and given
    beside it. What they are decides a run, too: `TrainConfig.own` has a digest of them.

    A run is trained by one process (or team) at a time. Runs that another is at are left out, with those that differ
    from them in the seed alone; the others are trained, and then it is said which were left out. So it is with runs
    for which the memory does not suffice.

    Args:
        configs: what to train.
        model: the module that the configurations call `own:<name>`, whose weights are those that training begins with;
            or a function of a seed that makes it.
        tasks: the tasks that they call `own:<name>`, as `core.tasks.as_tasks` takes them.
        results: where runs are saved; None keeps them in memory.
        root: folder of the data sets' files, see `core.make_tasks`.
        device: where to train; default the GPU if there is one.
        tasks_per_chunk: tasks of each run that go through at once; bounds the memory, and changes nothing else but
            rounding. Default all; "auto" measures which number is fastest, and remembers it for the machine and the
            shapes (in `$ADAPTLENS_CACHE`, see `core.chunking`).
        compile: whether to compile the meta-gradient, which takes 10 s to minutes a method, see
            `core.compilation.compile_meta_gradient`. A run may be resumed either way; they differ by rounding.
        rematerialise: whether the backward pass computes steps again that it would keep otherwise: less memory where
            steps are many, see `core.backpropagation`.
        progress: whether to show progress bars.
        tensorboard: whether to write TensorBoard event files into the run folders (needs the tensorboard extra).

    Returns:
        The runs, in the order of `configs`.

    Raises:
        UserError: for settings that do not fit together, missing data, damaged files, or another process that ended;
            after the other runs are trained, for those that another process is at, or that need more memory.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    where = checked_device(own_device(device))
    team = join(where)
    if isinstance(tasks, Episodes | Mapping):
        tasks = as_tasks(tasks, device=where)
        tasks.fingerprint()  # kept, so that they are looked through once, and not once a seed
    configs = [identified(config, model, tasks) for config in configs]
    base = None if results is None else Path(results)

    def folder_of(config: TrainConfig) -> Path:
        assert base is not None
        return base / "runs" / config.id

    def load(config: TrainConfig) -> Run:
        own = None if model is None else fresh_module(model, config.seed)
        if own is not None and is_other_module(folder_of(config), own):
            raise UserError(_OTHER_MODULE.format(id=config.id))
        return load_run(folder_of(config), device=where, model=own, tasks=tasks)

    source_of = shared_sources(root, where, tasks)

    def group_of(family: list[TrainConfig]) -> Group:
        for config in family:
            if model is None and config.id in saved.states:  # before there is memory for what the settings describe
                path, (tensors, _) = folder_of(config) / "state.safetensors", saved.states[config.id]
                shape = TaskShape(source_of(config).example_shape, source_of(config).num_outputs)
                check_sizes(config, shape, tensors, path)
        group = Group(
            family, [source_of(config) for config in family], base, where, tasks_per_chunk, compile, rematerialise,
            model, tasks is not None, team,
        )  # fmt: skip
        # Of runs at the very start some may have been saved, and others not before the process died.
        if all(config.id in saved.states for config in family):
            group.load_state([saved.states[config.id] for config in family])
        return group

    done: dict[str, Run] = {}
    given_up: list[TrainConfig] = []
    with ExitStack() as claims:
        saved = team.from_first(lambda: _saved(configs, base, claims))
        _check_team(team, configs, saved)
        unfinished = [c for c in dict.fromkeys(configs) if c.id not in saved.finished | saved.taken]
        done |= {c.id: load(c) for c in dict.fromkeys(configs) if c.id in saved.finished}
        for together in _side_by_side(unfinished, saved):
            groups = []
            for family in together:
                try:
                    groups.append(group_of(family))
                except (MemoryError, RuntimeError) as error:
                    _check_out_of_memory(error, team, family)
                    given_up += family
            if not groups:
                continue
            # Only now: settings that do not fit together leave no folder behind.
            for config in (config for group in groups for config in group.configs):
                if base is not None and team.writes:
                    write_config(config, folder_of(config))
            _train_side_by_side(groups, progress=progress, tensorboard=tensorboard)
            done |= {run.id: run for group in groups for run in group.finished}
            given_up += [config for group in groups for config in group.given_up]
    left_out = []
    if taken := [config for config in dict.fromkeys(configs) if config.id in saved.taken]:
        finished = team.from_first(lambda: [is_finished(folder_of(config)) for config in taken])
        done |= {config.id: load(config) for config, is_there in zip(taken, finished, strict=True) if is_there}
        if not all(finished):
            ids = [config.id for config, is_there in zip(taken, finished, strict=True) if not is_there]
            left_out.append(f"another process is training {', '.join(ids)}")
    if given_up:
        left_out.append(_without_memory(given_up))
    if left_out:
        others = "; the other runs are there" if done else ""
        raise UserError(f"{'; '.join(left_out)}{others}; the same command goes on with what is left")
    for run in done.values():
        run.root = root
    return [done[config.id] for config in configs]


def _side_by_side(configs: Sequence[TrainConfig], saved: _Saved) -> list[list[list[TrainConfig]]]:
    """Runs to train, in sets that meet the same tasks: each of families of runs that differ in their seed alone."""
    waiting: dict[tuple[Any, ...], dict[TrainConfig, list[TrainConfig]]] = defaultdict(lambda: defaultdict(list))
    for config in configs:
        start = saved.states[config.id][1]["iteration"] if config.id in saved.states else 0
        same_tasks = (config.dataset, tuple(config.task_options().items()), config.tasks_per_iteration, start)
        waiting[same_tasks][replace(config, seed=0, own=None)].append(config)
    found: list[list[list[TrainConfig]]] = []
    for families in waiting.values():
        # Families walk side by side only if they have the same seeds.
        by_seeds: dict[tuple[int, ...], list[list[TrainConfig]]] = defaultdict(list)
        for family in families.values():
            by_seeds[tuple(config.seed for config in family)].append(family)
        found += by_seeds.values()
    return found


def _train_side_by_side(groups: list[Group], *, progress: bool, tensorboard: bool) -> None:
    """Train groups that meet the same tasks, one iteration each in turn."""
    first = groups[0]
    team = first.team
    sources = {c.seed: source for c, source in zip(first.configs, first.sources, strict=True)}
    num_tasks = first.configs[0].tasks_per_iteration
    last_saved = time.monotonic()
    target = max(group.target for group in groups)
    bar = progress_bar(
        total=target,
        initial=first.iteration,
        shown=progress and team.writes,
        desc=first.configs[0].dataset if len(groups) > 1 else f"{first.configs[0].dataset} {first.label}",
        unit="it",
        mininterval=0.5,
        dynamic_ncols=True,
    )
    with ExitStack() as stack:
        writers = {id(group): _writer(group) for group in groups} if tensorboard and team.writes else {}
        for writer in writers.values():
            stack.callback(writer.close)
        stack.enter_context(bar)
        batches = stack.enter_context(DrawnAhead(sources, num_tasks, first.iteration))
        stop = stack.enter_context(_stop_on_signal(team))
        stack.enter_context(_saved_if_processes_are_lost(groups))

        def wishes() -> tuple[bool, bool]:
            return stop.is_set(), time.monotonic() - last_saved > CHECKPOINT_SECONDS

        for group in groups:
            group.check_alike()
        for iteration in range(first.iteration, target + 1):
            # Groups are measured on the same tasks, drawn once for all of them and forgotten.
            fixed_tasks = _drawn_once()
            for group in [group for group in groups if group.configs]:
                if is_curve_point(iteration, group.configs[0]) and group.curve_end < iteration:
                    with _give_up_without_memory([group]):
                        group.measure(fixed_tasks)
                        _log(writers.get(id(group)), group)
                if group.configs and iteration == group.target:
                    group.finish()
            del fixed_tasks
            active = [group for group in groups if group.configs]
            if not active:
                break
            to_stop, to_save = team.granted(wishes)
            if to_stop or to_save:
                for group in active:
                    group.check_alike()
                    group.save_state()
                last_saved = time.monotonic()
                if to_stop:
                    team.any(True)  # the first process has saved
                    state = "the state is saved" if first.results is not None else "nothing is saved without results"
                    raise Interrupted(f"stopped after {iteration} of {target} iterations; {state}")
            joined: dict[tuple[int, ...], Episodes] = {}
            with _give_up_without_memory(active):  # for the tasks, which all of them meet
                batch = batches.take()
                for key in {tuple(c.seed for c in group.configs) for group in active}:
                    joined[key] = concatenate([batch[seed] for seed in key])
            for group in [group for group in active if group.configs]:
                with _give_up_without_memory([group]):
                    group.step(joined[tuple(c.seed for c in group.configs)])
            bar.update()
            if iteration % 20 == 0:
                bar.set_postfix({g.label: g.progress for g in active if g.configs}, refresh=False)
        if team.any(stop.is_set()):
            raise Interrupted(f"stopped after the last of {target} iterations; these runs are finished")


def _drawn_once() -> Callable[[TaskSource, str, int, int], Episodes]:
    """`TaskSource.sample` that draws a batch once, and then has it."""
    drawn: dict[tuple[int, str, int, int], Episodes] = {}

    def sample(source: TaskSource, split: str, num_tasks: int, index: int) -> Episodes:
        key = (id(source), split, num_tasks, index)  # a source of the user's own need not be hashable
        if key not in drawn:
            drawn[key] = source.sample(split, num_tasks, index)
        return drawn[key]

    return sample


def _check_out_of_memory(error: Exception, team: Alone, configs: Sequence[TrainConfig]) -> None:
    """See that `error` says that memory ran out, and that what is left can go on without these runs.

    Raises:
        UserError: where other processes take part, which cannot go on alone.
        Exception: the error itself, if it says something else.
    """
    if not is_out_of_memory(error):
        raise error
    if team.size > 1:
        raise UserError(_without_memory(configs)) from error


@contextmanager
def _give_up_without_memory(groups: Sequence[Group]) -> Iterator[None]:
    """A block after which the runs of these groups are left out, if it needs more memory than there is.

    The state last saved is what they go on from.

    Raises:
        UserError: as `_check_out_of_memory`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        _check_out_of_memory(error, groups[0].team, [config for group in groups for config in group.configs])
        for group in groups:
            group.given_up, group.configs = group.configs, []


@contextmanager
def _saved_if_processes_are_lost(groups: Sequence[Group]) -> Iterator[None]:
    """Save the state that the first process still has when another ends: nothing of the work done is lost then."""
    try:
        yield
    except ProcessLost:
        for group in groups:
            group.save_state()
        raise


def is_curve_point(iteration: int, config: TrainConfig) -> bool:
    """Whether the curve has a point there: the ends, every `eval_every`, and 10, 20, 50, 100, ... before the first."""
    every = config.eval_every
    if iteration in (0, config.iterations) or not every:
        return iteration in (0, config.iterations)
    return iteration % every == 0 or (
        iteration < every and iteration >= 10 and str(iteration).rstrip("0") in {"1", "2", "5"}
    )


def _writer(group: Group) -> Any:
    if group.results is None:
        raise UserError("TensorBoard files go into the run folders: tensorboard=True needs results")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed; install it with: pip install adaptlens[tensorboard]") from error
    return SummaryWriter(group.results / "runs" / group.configs[0].id / "tensorboard")


def _log(writer: Any, group: Group) -> None:
    if writer is None:
        return
    for config, curve in zip(group.configs, group.curves, strict=True):
        for iteration, split, loss, accuracy, _ in curve[-len(group.sources[0].splits) :]:
            writer.add_scalar(f"loss/{split}/seed {config.seed}", loss, iteration)
            writer.add_scalar(f"accuracy/{split}/seed {config.seed}", accuracy, iteration)


@contextmanager
def _stop_on_signal(team: Alone) -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that training stops between two iterations; a second Ctrl-C kills.

    One of several processes does not take the second at its word: a terminal sends Ctrl-C to all processes, and
    `torchrun`, which sends it on, kills those that have not ended after 30 seconds.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set() and team.size == 1:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
