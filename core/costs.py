"""What an experiment costs on this machine, before it starts: a few iterations of each kind are timed."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from core.chunking import Chunk
from core.config import TrainConfig
from core.device import checked_device
from core.group import Group
from core.runs import is_finished
from core.side_by_side import is_curve_point
from core.sources import shared_sources
from core.states import read_state
from core.tasks.base import SPLITS, TaskSource, concatenate

# A first step of one task of one run tells which kind is slow. Those are timed so, and the rest is multiplied.
SLOW_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """An estimate for the runs that are not finished yet.

    Attributes:
        runs: how many.
        iterations: meta-training iterations of all of them together.
        hours: of training on this machine, all runs one after the other or as they are trained together.
    """

    runs: int
    iterations: int
    hours: float


@torch.inference_mode(False)  # and with gradients, whatever the caller's mode
def estimate(
    configs: Sequence[TrainConfig],
    *,
    results: str | Path,
    root: str | Path | None = None,
    device: str | torch.device | None = None,
    tasks_per_chunk: Chunk = None,
) -> Cost:
    """What `core.meta_train_many` of these runs will take, not compiled, from where those that were stopped are.

    Data sets are read, or downloaded, here already, so that none is missed hours later.

    Raises:
        UserError: for settings that do not fit together, missing data, or a damaged state of a stopped run.
    """
    where = checked_device(device)
    families: dict[TrainConfig, list[TrainConfig]] = defaultdict(list)
    for config in dict.fromkeys(configs):
        if not is_finished(Path(results) / "runs" / config.id):
            families[replace(config, seed=0)].append(config)
    seconds, num_left = 0.0, 0
    source_of = shared_sources(root, where)
    for family in families.values():
        whole = _seconds(family, [source_of(config) for config in family], where, tasks_per_chunk)
        left = sum(config.iterations - _iterations_done(config, Path(results)) for config in family)
        seconds += whole * left / max(sum(config.iterations for config in family), 1)
        num_left += left
    return Cost(sum(map(len, families.values())), num_left, seconds / 3600)


def _iterations_done(config: TrainConfig, results: Path) -> int:
    """Where a run that is not finished was when it was last saved."""
    path = results / "runs" / config.id / "state.safetensors"
    return int(read_state(path, config)[1]["iteration"]) if path.exists() else 0


def duration(hours: float) -> str:
    """The time in words, in a unit that suits it."""
    if hours < 1:
        return f"{60 * hours:.1f} minutes"
    return f"{hours:,.1f} hours" if hours < 100 else f"{hours:,.0f} hours ({hours / 24:,.0f} days)"


def _seconds(
    configs: Sequence[TrainConfig], sources: Sequence[TaskSource], device: torch.device, tasks_per_chunk: Chunk
) -> float:
    """Seconds of training runs that differ in the seed alone."""
    config = configs[0]
    alone = Group(configs[:1], sources[:1], None, device, tasks_per_chunk)
    _step_seconds(alone, 1)  # the first of a kind sets things up
    step = _step_seconds(alone, 1)
    if step > SLOW_SECONDS:
        # As slow as this, tasks and runs side by side save little.
        iteration = step * config.tasks_per_iteration * len(configs)
        group, share = alone, config.eval_tasks * len(configs)
    else:
        group, share = Group(configs, sources, None, device, tasks_per_chunk), config.eval_tasks
        iteration = min(_step_seconds(group, config.tasks_per_iteration) for _ in range(2))
    group.configs = [replace(c, eval_tasks=1) for c in group.configs]
    started = time.perf_counter()
    group.measure(TaskSource.sample)
    point = (time.perf_counter() - started) * share
    num_points = sum(is_curve_point(i, config) for i in range(config.iterations + 1))
    return config.iterations * iteration + num_points * point


def _step_seconds(group: Group, num_tasks: int) -> float:
    episodes = concatenate([source.sample(SPLITS[0], num_tasks, 0) for source in group.sources])
    started = time.perf_counter()
    group.step(episodes)
    group.look()  # waits for a GPU
    return time.perf_counter() - started
