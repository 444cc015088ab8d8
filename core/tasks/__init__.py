"""Tasks, by data set name."""

import inspect
import os
from collections.abc import Callable
from typing import Any

from core.device import checked_device
from core.errors import UserError, unknown_name
from core.tasks.base import Episodes, TaskSource
from core.tasks.cifar_fs import cifar_fs
from core.tasks.glyphs import glyphs
from core.tasks.images import ImageTasks
from core.tasks.mini_imagenet import mini_imagenet
from core.tasks.omniglot import omniglot, omniglot_small
from core.tasks.own import as_tasks
from core.tasks.sinusoid import SinusoidTasks
from core.tasks.synthetic import SyntheticTasks

DATASETS: dict[str, Callable[..., TaskSource]] = {
    "synthetic": SyntheticTasks,
    "glyphs": glyphs,
    "omniglot": omniglot,
    "omniglot_small": omniglot_small,
    "cifar_fs": cifar_fs,
    "mini_imagenet": mini_imagenet,
    "sinusoid": SinusoidTasks,
}

__all__ = ["DATASETS", "Episodes", "ImageTasks", "TaskSource", "as_tasks", "download", "make_tasks"]


def make_tasks(dataset: str, **options: Any) -> TaskSource:
    """A source of tasks by data set name.

    Args:
        dataset: a name in `DATASETS`.
        options: keyword arguments of its function, such as `ways`, `shots`, `seed`, `device`, or `root` (the folder
            that holds the files of a data set that is not generated; by default the environment's `DATA_DIR`).

    Raises:
        UserError: for an unknown name, an option that the data set does not have, a missing one, a device that is not
            here, or missing files.
    """
    if dataset not in DATASETS:
        raise unknown_name("dataset", dataset, DATASETS)
    make = DATASETS[dataset]
    accepted = inspect.signature(make).parameters
    if options.get("root") is None:
        options.pop("root", None)
        if "root" in accepted and os.environ.get("DATA_DIR"):
            options["root"] = os.environ["DATA_DIR"]
    if "root" not in accepted:
        options.pop("root", None)
    if refused := sorted(options.keys() - accepted.keys()):
        raise UserError(f"data set {dataset!r} has no option {', '.join(refused)}; it has {', '.join(accepted)}")
    missing = [key for key, p in accepted.items() if p.default is p.empty and key not in options]
    if missing:
        raise UserError(f"data set {dataset!r} needs {', '.join(missing)}")
    if options.get("device") is not None:
        options["device"] = checked_device(options["device"])
    return make(**options)


def download(dataset: str, root: str | os.PathLike[str]) -> None:
    """Fetch a data set's files into the folder `root`, those that are not there yet, and check them.

    Raises:
        UserError: for an unknown name, a data set that is not downloaded, or without a network.
    """
    if dataset not in DATASETS:
        raise unknown_name("dataset", dataset, DATASETS)
    if "download" not in inspect.signature(DATASETS[dataset]).parameters:
        raise UserError(f"data set {dataset!r} is made by adaptlens itself: there is nothing to download")
    make_tasks(dataset, ways=2, shots=1, root=root, download=True)
