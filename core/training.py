"""The outer loop: meta-training, of one run or of many at once.

Runs that differ in nothing but the seed are trained together on a replica axis. Groups of runs that meet the same
tasks (several methods on the same seeds) walk through them side by side, so that each batch is drawn once. Neither
changes what a run is: its tasks and initial weights are addressed by its own seed and the iteration.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core.chunking import Chunk
from core.config import TrainConfig
from core.device import checked_device
from core.distributed import Alone, join, own_device
from core.errors import UserError
from core.group import OTHER_MODULE, Group
from core.modules import OwnModel, fresh_module
from core.own import OwnTasks, identified
from core.runs import Run, check_sizes, is_finished, is_other_module, load_run, write_config
from core.side_by_side import check_out_of_memory, train_side_by_side, without_memory
from core.sources import shared_sources
from core.states import Saved, find_saved
from core.tasks import as_tasks
from core.tasks.base import Episodes, TaskShape


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
    for name, given in (("compile", compile), ("rematerialise", rematerialise)):
        if not isinstance(given, bool):  # "no" would be taken for yes
            raise UserError(f"{name} must be True or False, got {given!r}")
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
            raise UserError(OTHER_MODULE.format(id=config.id))
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
    left_out: list[str] = []  # why, a sentence each
    with ExitStack() as claims:
        saved = team.from_first(lambda: find_saved(configs, base, claims))
        _check_team(team, configs, saved)
        left_out += saved.damaged.values()
        left = saved.taken | saved.beside_taken
        unfinished = [c for c in dict.fromkeys(configs) if c.id not in saved.finished | left | saved.damaged.keys()]
        for config in [c for c in dict.fromkeys(configs) if c.id in saved.finished]:
            try:
                done[config.id] = load(config)
            except UserError as error:
                if model is not None or tasks is not None:  # which may not be those of the run
                    raise
                # Told at the end: the others are trained first.
                left_out.append(f"{error}; remove {folder_of(config)} to train it again")
        for together in _of_the_same_tasks(unfinished, saved):
            groups = []
            for family in together:
                try:
                    groups.append(group_of(family))
                except (MemoryError, RuntimeError) as error:
                    check_out_of_memory(error, team, family)
                    given_up += family
            if not groups:
                continue
            # Only now: settings that do not fit together leave no folder behind.
            for config in (config for group in groups for config in group.configs):
                if base is not None and team.writes:
                    write_config(config, folder_of(config))
            train_side_by_side(groups, progress=progress, tensorboard=tensorboard)
            done |= {run.id: run for group in groups for run in group.finished}
            given_up += [config for group in groups for config in group.given_up]
    if taken := [config for config in dict.fromkeys(configs) if config.id in left]:
        finished = team.from_first(lambda: [is_finished(folder_of(config)) for config in taken])
        done |= {config.id: load(config) for config, is_there in zip(taken, finished, strict=True) if is_there}
        ids = [config.id for config, is_there in zip(taken, finished, strict=True) if not is_there]
        if at_work := [id for id in ids if id in saved.taken]:
            left_out.append(f"another process is training {', '.join(at_work)}")
        if beside := [id for id in ids if id in saved.beside_taken]:
            left_out.append(f"{', '.join(beside)} waited for another process, as seeds of one setting train together")
    if given_up:
        left_out.append(without_memory(given_up))
    if left_out:
        others = "; the other runs are there" if done else ""
        raise UserError(f"{'; '.join(left_out)}{others}; the same command goes on with what is left")
    for run in done.values():
        run.root = root
    return [done[config.id] for config in configs]


def _of_the_same_tasks(configs: Sequence[TrainConfig], saved: Saved) -> list[list[list[TrainConfig]]]:
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


def _check_team(team: Alone, configs: Sequence[TrainConfig], saved: Saved) -> None:
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
