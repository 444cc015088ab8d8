"""Tasks of a user's own: tensors, or a function that makes them."""

import hashlib
import inspect
import math
import threading
from collections.abc import Callable, Mapping
from functools import cached_property

import torch

from core.errors import UserError, unknown_name
from core.seeds import generator
from core.tasks.base import SPLITS, Episodes, TaskSource, bytes_of, check_not_empty
from core.tasks.overlap import warn_of_known, warn_of_shared

# Batches are drawn ahead by a second thread, and what a function has beside its arguments is the user's.
_one_at_a_time = threading.Lock()
MakeEpisodes = Callable[[str, int, torch.Generator], Episodes]


class OwnTasks(TaskSource):
    """What `TensorTasks` and `FunctionTasks` have in common."""

    name = "own:tasks"

    def __init__(self, like: Episodes, seed: int, device: str | torch.device) -> None:
        self.kind = like.kind
        self.example_shape = tuple(like.support_x.shape[2:])
        self.seed = seed
        self.device = torch.device(device)
        if like.kind == "regression":
            self.ways, self.num_outputs = 0, like.support_y[0, 0].numel()
        elif like.kind == "binary":
            self.ways, self.num_outputs = 2, 1
        else:
            self.ways = self.num_outputs = like.num_classes()


class TensorTasks(OwnTasks):
    """Episodes that are at hand, a pool of tasks for each split.

    A training batch is drawn from its pool without repetition within the batch; batch `i` of `n` tasks of another
    split is the `i`-th run of `n` tasks of the pool, which is read in a circle. Query examples that are in their
    support set, and examples of classes that are in training tasks, too, are warned of.

    Args:
        episodes: by split: "train", "validation", "test". Episodes alone are test tasks: to look at a network, no
            other are needed.
        seed: seed of the training batches.
        device: where episodes are delivered.

    Raises:
        UserError: for an unknown split, none, or episodes of another kind or shape than the others.
    """

    def __init__(
        self, episodes: Episodes | Mapping[str, Episodes], *, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        pools = {"test": episodes} if isinstance(episodes, Episodes) else dict(episodes)
        if unknown := [split for split in pools if split not in SPLITS]:
            raise unknown_name("split", unknown[0], SPLITS)
        if not pools:
            raise UserError(f"episodes of at least one split are needed: {', '.join(SPLITS)}")
        for pool in pools.values():
            check_not_empty(pool)
        like = next(iter(pools.values()))
        super().__init__(like, seed, device)
        for split, pool in pools.items():
            if pool.kind != like.kind or pool.support_x.shape[2:] != like.support_x.shape[2:]:
                raise UserError(
                    f"{split} episodes are {pool.kind} of {tuple(pool.support_x.shape[2:])}, others {like.kind} of "
                    f"{self.example_shape}"
                )
        classes = max(pool.num_classes() for pool in pools.values())  # and labels of other kinds are looked at
        if like.kind == "classification":
            self.ways = self.num_outputs = classes
        for split, pool in pools.items():
            warn_of_shared(pool)
            if split != "train" and "train" in pools:
                warn_of_known(split, pool, pools["train"])
        self._pools = {split: pool.to(self.device) for split, pool in pools.items()}
        self.pool_sizes = {split: pool.num_tasks for split, pool in pools.items()}
        self.splits = tuple(split for split in SPLITS if split in pools)

    def draw(self, split: str, num_tasks: int, index: int) -> Episodes:
        """Batch `index` of `split`.

        Raises:
            UserError: for a split without episodes, or a batch of more tasks than there are.
        """
        if split not in self._pools:
            raise UserError(
                f"there are no {split} episodes, only {', '.join(self.splits)}; give them by split: "
                "{'train': ..., 'validation': ..., 'test': ...}"
            )
        pool = self._pools[split]
        if num_tasks > pool.num_tasks:
            raise UserError(f"{num_tasks} tasks asked for, but there are {pool.num_tasks} {split} episodes")
        if split == "train":
            stream = generator(self.seed, "tasks", split, index)
            chosen = torch.randperm(pool.num_tasks, generator=stream, device="cpu")[:num_tasks]
        else:
            chosen = (index * num_tasks + torch.arange(num_tasks, device="cpu")) % pool.num_tasks
        chosen = chosen.to(self.device)
        return pool.map(lambda tensor: tensor[chosen])

    def fingerprint(self) -> str:
        """Digest of every number."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:  # copies with other seeds have it, too
        digest = hashlib.blake2b(digest_size=8)
        for split, pool in sorted(self._pools.items()):
            digest.update(split.encode())
            _add(digest, pool)
        return digest.hexdigest()


class FunctionTasks(OwnTasks):
    """Episodes that a function makes, new ones for ever.

    Args:
        make: from a split ("train", "validation" or "test"), a number of tasks, and a generator of random numbers to
            episodes with that many tasks. With all its randomness from the generator, which (seed, split, index)
            address, a batch is the same whenever it is asked for.
        seed: seed of every batch.
        device: where episodes are delivered.
    """

    def __init__(self, make: MakeEpisodes, *, seed: int = 0, device: str | torch.device = "cpu") -> None:
        try:
            inspect.signature(make).bind("test", 1, torch.Generator())
        except TypeError as error:
            raise UserError(
                f"a function that makes tasks is called with (split, num_tasks, generator); this one is not: {error}"
            ) from None
        except ValueError:
            pass  # a callable that does not say what it takes
        self._make = make
        self.device = torch.device(device)
        self.seed = seed
        first = self.draw("test", 1, 0)
        warn_of_shared(first)
        super().__init__(first, seed, device)
        if self.fingerprint() != self.fingerprint():
            raise UserError("the function makes other episodes each time: take all its randomness from the generator")

    def draw(self, split: str, num_tasks: int, index: int) -> Episodes:
        """Batch `index` of `split`.

        Raises:
            UserError: if the function returns anything but episodes with as many tasks, or with other classes.
        """
        with _one_at_a_time:
            made = self._make(split, num_tasks, generator(self.seed, "tasks", split, index))
        if not isinstance(made, Episodes) or made.num_tasks != num_tasks:
            got = f"{made.num_tasks} tasks" if isinstance(made, Episodes) else type(made).__name__
            raise UserError(f"the function was asked for Episodes of {num_tasks} tasks, and returned {got}")
        check_not_empty(made)
        # The first tells how many outputs a network has: a loss of more would end the process of a GPU.
        if (classes := made.num_classes()) > getattr(self, "num_outputs", math.inf):
            raise UserError(
                f"a label of {split} batch {index} is {classes - 1}, but the first test task has classes "
                f"0 to {self.num_outputs - 1}: make tasks with as many classes each"
            )
        return made.to(self.device)

    def fingerprint(self) -> str:
        """Digest of the first test task of seed 0, which is as much as can be known of a function."""
        digest = hashlib.blake2b(digest_size=8)
        _add(digest, self.with_seed(0).draw("test", 1, 0))
        return digest.hexdigest()


def as_tasks(
    given: TaskSource | Episodes | Mapping[str, Episodes] | MakeEpisodes,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> TaskSource:
    """A source of tasks from whatever a user has: a source, episodes, episodes by split, or a function.

    Raises:
        UserError: for anything else, and as `TensorTasks` and `FunctionTasks`.
    """
    if isinstance(given, TaskSource):
        there = getattr(given, "device", "cpu")
        if _number(there) != _number(device):
            raise UserError(f"the tasks are delivered on {there}, and wanted on {device}: make them with device=")
        return given.with_seed(seed)
    if isinstance(given, Episodes | Mapping):
        return TensorTasks(given, seed=seed, device=device)
    if callable(given):
        return FunctionTasks(given, seed=seed, device=device)
    raise UserError(
        f"tasks are a TaskSource, Episodes, Episodes by split, or a function of (split, num_tasks, generator), "
        f"not {type(given).__name__}"
    )


def _number(device: str | torch.device) -> tuple[str, int]:
    """A device's type and number; "cuda" alone is the current one."""
    found = torch.device(device)
    return found.type, torch.cuda.current_device() if found.type == "cuda" and found.index is None else found.index or 0


def _add(digest: "hashlib.blake2b", episodes: Episodes) -> None:
    y = episodes.support_y
    if episodes.kind == "regression" and y.ndim == 2 and ((y == 0) | (y == 1)).all():
        digest.update(b"regression")  # the same numbers are a binary task's, which has another loss
    for tensor in (episodes.support_x, episodes.support_y, episodes.query_x, episodes.query_y):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(bytes_of(tensor))
