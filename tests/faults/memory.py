"""Memory that runs out in one run of several: the others are finished, and that one is told of."""

import random
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import core.__main__
import core.group
from core import TrainConfig, meta_train_many
from core.runs import is_finished
from tests.faults.contents import contents
from tests.faults.jobs import Job
from tests.faults.judge import Case, told
from tests.faults.processes import ended
from tests.faults.works import config, guarded

SAID = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
)
LARGE = 2_000_000  # points of 100 coordinates: 1.6 GB a batch


def sweep(large: int) -> list[TrainConfig]:
    """Three runs, of which the second needs much memory if `large` is large."""
    return [config(), config(points=large), config(seed=1)]


def short_of_memory(mib: int, folder: Path) -> list[str]:
    """The process may have `mib` more than it has."""
    runs = sweep(LARGE)

    def begin() -> Callable[[], int]:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()

        def do() -> int:
            resource.setrlimit(resource.RLIMIT_AS, (now + (mib << 20), resource.RLIM_INFINITY))
            return guarded(lambda: meta_train_many(runs, results=folder, progress=False))()

        return do

    return _judged(runs, f"{mib} MiB more", begin, folder)


def raises(kind: int, iteration: int, victim: int, folder: Path) -> list[str]:
    """The `kind`-th error that says so is raised in an iteration of a run; methods of one seed walk side by side."""
    runs = [config(), config(method="klin"), config(method="meta_sgd")]

    def begin() -> Callable[[], int]:
        gradient = core.group.Group._meta_gradient

        def fails(group: core.group.Group, episodes: object) -> object:
            if group.iteration == iteration and runs[victim] in group.configs:
                raise SAID[kind]
            return gradient(group, episodes)

        core.group.Group._meta_gradient = fails
        return guarded(lambda: meta_train_many(runs, results=folder, progress=False))

    return _judged([runs[victim], *(run for run in runs if run != runs[victim])], f"{SAID[kind]!r}", begin, folder, 0)


def _judged(
    runs: list[TrainConfig], how: str, begin: Callable[[], Callable[[], int]], folder: Path, victim: int = 1
) -> list[str]:
    folder.mkdir(exist_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    alone = folder.with_name(f"without {runs[victim].id}")
    others = [run for k, run in enumerate(runs) if k != victim]
    if not all(is_finished(alone / "runs" / run.id) for run in others):
        # Together, as they are in the end: another number of runs in a group may round differently.
        code = ended(lambda: guarded(lambda: meta_train_many(others, results=alone, progress=False))).code
        assert code == 0
    outcome = ended(begin)
    losses = told(outcome)
    if outcome.code != 2 or "out of memory" not in outcome.said or runs[victim].id not in outcome.said:
        losses.append(f"it ended with {outcome.code} and did not tell of {runs[victim].id}: {outcome.said[-300:]}")
    for run in others:
        if not is_finished(folder / "runs" / run.id):
            losses.append(f"{run.id} was not finished")
        elif contents(folder / "runs" / run.id) != contents(alone / "runs" / run.id):
            losses.append(f"{run.id} is not as alone")
    return [f"{how}: {loss}" for loss in losses]


def jobs(cases: list[Case], scratch: Path, number: int, generator: random.Random) -> list[Job]:
    """A limit at random, and each error in turn at an iteration at random."""
    found: list[Job] = []
    for k in range(number):
        if k % 2:
            found.append(partial(short_of_memory, generator.randrange(150, 1400)))
        else:
            found.append(partial(raises, k // 2 % len(SAID), generator.randrange(6), generator.randrange(3)))
    return found
