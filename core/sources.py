"""The tasks of several runs: what is read once serves all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from core.config import TrainConfig
from core.own import OwnTasks
from core.tasks import TaskSource, as_tasks, make_tasks


def shared_sources(
    root: str | Path | None, device: torch.device, own: OwnTasks | None = None
) -> Callable[[TrainConfig], TaskSource]:
    """A function from a configuration to its tasks. All seeds share the data, and runs of one seed the source.

    Args:
        root: folder of the data sets' files, see `core.make_tasks`.
        device: where episodes are delivered.
        own: tasks of the user's own, in place of those that are configured.
    """
    data: dict[Any, TaskSource] = {}
    seeded: dict[Any, TaskSource] = {}

    def source_of(config: TrainConfig) -> TaskSource:
        options = config.task_options()
        key = (config.dataset, tuple(options.items()))
        if key not in data and own is not None:
            data[key] = as_tasks(own, device=device)
        elif key not in data:
            data[key] = make_tasks(config.dataset, root=root, device=device, **options)
            data[key].fingerprint()  # images keep it, and so do their copies with other seeds
        if (key, config.seed) not in seeded:
            seeded[key, config.seed] = data[key].with_seed(config.seed)
        return seeded[key, config.seed]

    return source_of
