"""What an iteration of meta-training spends beside its meta-step: drawing tasks, logging, evaluation, checkpoints.

Each part is measured by itself in a training at the length that the paper states, and its time is shared out over the
iterations between two of its kind.
"""

import io
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from core import TrainConfig, make_tasks
from core.experiments import EXPERIMENTS
from core.group import Group
from core.side_by_side import CHECKPOINT_SECONDS, is_curve_point
from core.tasks.ahead import DrawnAhead
from core.tasks.base import TaskSource, concatenate
from tests.benchmarks.measuring import this_machine, timed
from tests.benchmarks.suite import typed

PARTS = ("sampling", "logging", "evaluation", "checkpoints")
ENOUGH_SECONDS = 10.0  # of timing a part
POSTFIX_EVERY = 20  # iterations between two texts of the progress bar, as in training


def _of(experiment: str, **wanted: object) -> list[TrainConfig]:
    """The paper's runs of an experiment with these settings, one of each seed."""
    return [c for c in EXPERIMENTS[experiment]() if all(getattr(c, key) == value for key, value in wanted.items())]


_LAYERS = _of("glyphs_layers")[0]
TRAININGS: dict[str, list[TrainConfig]] = {
    "linnet_1_seed": _of("synthetic_linear", model="linnet")[:1],
    "linnet_5_seeds": _of("synthetic_linear", model="linnet"),
    "klin_1_seed": _of("synthetic_linear", method="klin")[:1],
    "klin_5_seeds": _of("synthetic_linear", method="klin"),
    "lr_kfc_5way_1shot": _of("glyphs_linear", method="kfc")[:1],
    "cnn4_maml_5way_1shot": [replace(_LAYERS, ways=5, shots=1, steps=1)],
    "cnn4_maml_10way_5shot_8": [replace(_LAYERS, tasks_per_iteration=8)],
    "cnn4_maml_10way_5shot_32": [_LAYERS],
    "cnn2_kfc_10way_5shot": [replace(_of("glyphs_depth", depth=2, method="kfc")[0], tasks_per_iteration=8)],
    "cnn4_kfc_10way_5shot": [replace(_of("glyphs_depth", depth=4, method="kfc")[0], tasks_per_iteration=8)],
}


def measure(name: str, configs: Sequence[TrainConfig], iterations: int = 20, compile: bool = False) -> pd.DataFrame:
    """The rows of `analysis.schemas.SCHEMAS["outer_loop"]` of one training.

    Args:
        name: of the workload.
        configs: the runs that are trained together.
        iterations: that are timed, or fewer where they are slow.
        compile: whether the meta-gradient is compiled.
    """
    machine, load = this_machine(), os.getloadavg()[0]
    # Thousands of steps on the same tasks would diverge at the rates of the paper, and then be no steps any more.
    configs = [replace(c, meta_lr=1e-9 * c.meta_lr) for c in configs]
    config = configs[0]
    options = config.task_options()
    sources = {c.seed: make_tasks(c.dataset, seed=c.seed, **options) for c in configs}
    # A chunk bounds the memory, as a user of a machine like this one would have it.
    chunk = 4 if config.model == "cnn" and config.shots == 5 else None
    with tempfile.TemporaryDirectory() as folder:
        group = Group(configs, list(sources.values()), Path(folder), torch.device("cpu"), chunk, compile)
        fixed = concatenate([source.sample("train", config.tasks_per_iteration, 0) for source in sources.values()])
        group.step(fixed)
        many = max(1, round(0.05 / timed(lambda: group.step(fixed))))
        with DrawnAhead(sources, config.tasks_per_iteration, group.iteration) as batches:
            batches.take(tuple(sources))

            def drawing() -> None:
                for _ in range(many):
                    group.step(*batches.take(tuple(sources)))

            drawn = _median(drawing, iterations) / many
        step = _median(lambda: [group.step(fixed) for _ in range(many)], iterations) / many
        few = [replace(c, eval_tasks=min(c.eval_tasks, 8)) for c in configs]
        group.configs = few
        point = timed(lambda: group.measure(TaskSource.sample)) * config.eval_tasks / few[0].eval_tasks
        save = min(timed(group.save_state) for _ in range(3))
        logging = _logging_seconds(group)
    points = sum(is_curve_point(i, config) for i in range(config.iterations + 1))
    seconds = {
        "sampling": max(0.0, drawn - step),
        "logging": logging,
        "evaluation": point * points / config.iterations,
        "checkpoints": save * step / CHECKPOINT_SECONDS,
    }
    rows = [
        {
            "workload": name, "engine": "compiled" if compile else "eager", "part": part, "seconds": seconds[part],
            "step_seconds": step, "fraction": seconds[part] / step, "iterations": config.iterations,
            "eval_points": points, "eval_tasks": config.eval_tasks, "cpu": machine.cpu, "cores": machine.cores,
            "threads": machine.threads, "load": load,
        }
        for part in PARTS
    ]  # fmt: skip
    return typed(pd.DataFrame(rows), "outer_loop")


def _median(run: Callable[[], object], calls: int) -> float:
    """Seconds of a call; after `ENOUGH_SECONDS` no further call is made, once there are three."""
    seconds: list[float] = []
    while len(seconds) < calls and (len(seconds) < 3 or sum(seconds) < ENOUGH_SECONDS):
        seconds.append(timed(run))
    return statistics.median(seconds)


def _logging_seconds(group: Group) -> float:
    """Of the progress bar, in an iteration."""
    with tqdm(total=10**6, file=io.StringIO(), mininterval=0.5) as bar:
        updates = timed(lambda: [bar.update() for _ in range(1000)]) / 1000
        text = timed(lambda: [bar.set_postfix({group.label: group.progress}, refresh=False) for _ in range(50)]) / 50
    return updates + text / POSTFIX_EVERY
