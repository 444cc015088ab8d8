"""Episodes and where they come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from core.errors import UserError, unknown_name

Kind = Literal["binary", "classification", "regression"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)  # tensors have no one truth
class Episodes:
    """The support and query sets of `T` tasks, on a leading task axis.

    Shapes: `support_x` is (T, n, *example) and `query_x` (T, q, *example). `support_y` and `query_y` are
    (T, n) and (T, q): class indices (int64) for "classification", 0 or 1 (float) for "binary"; for "regression"
    they are floats (T, n, outputs) and (T, q, outputs).

    `same_points` says that query examples may be in the support set, which `core.evaluate` warns of otherwise.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    kind: Kind = "classification"
    same_points: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("binary", "classification", "regression"):
            raise unknown_name("kind of task", self.kind, ("binary", "classification", "regression"))
        for name in ("support_x", "support_y", "query_x", "query_y"):
            if not isinstance(value := getattr(self, name), Tensor):
                raise UserError(
                    f"{name} must be a tensor, not {type(value).__name__}; torch.as_tensor(...) makes one of an array, "
                    "then .float() for examples, .long() for classes"
                )
        for part in ("support", "query"):
            x, y = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if x.ndim < 3:
                raise UserError(f"{part}_x must be (tasks, examples, *example), got {tuple(x.shape)}")
            if x.shape[:2] != y.shape[:2]:
                raise UserError(
                    f"{part}_x and {part}_y must agree on (tasks, examples): got {tuple(x.shape)} and {tuple(y.shape)}"
                )
            if self.kind == "regression":
                continue
            if y.ndim != 2:
                raise UserError(
                    f"{part}_y must have one label an example, (tasks, examples): got {tuple(y.shape)}; "
                    "targets of a regression need kind='regression'"
                )
            if self.kind == "classification" and y.dtype != torch.int64:
                raise UserError(
                    f"{part}_y must be class indices of type int64, got {y.dtype}; convert with .long(), or say "
                    "kind='binary' or kind='regression'"
                )
            if self.kind == "binary" and not y.is_floating_point():
                raise UserError(f"{part}_y must be 0 or 1 as floats for binary tasks, got {y.dtype}")
        if len(self.support_x) != len(self.query_x):
            raise UserError(f"support has {len(self.support_x)} tasks but query has {len(self.query_x)}")

    @property
    def num_tasks(self) -> int:
        """`T`, the length of the task axis."""
        return len(self.support_x)

    def __getitem__(self, tasks: slice) -> "Episodes":
        """The episodes of a slice of the task axis (views, nothing is copied)."""
        return self.map(lambda tensor: tensor[tasks])

    def num_classes(self) -> int:
        """How many outputs the labels call for: one more than the largest class; 0 for other kinds of task.

        Reads the labels, so that the CPU waits for a GPU that holds them.

        Raises:
            UserError: for a negative class, or a label of a binary task that is neither 0 nor 1.
        """
        labels = torch.cat([self.support_y.flatten(), self.query_y.flatten()])
        if self.kind == "regression" or not len(labels):
            return 0
        if self.kind == "binary":
            if not ((labels == 0) | (labels == 1)).all():
                raise UserError("a label of a binary task is neither 0 nor 1")
            return 0
        smallest, largest = torch.stack(labels.aminmax()).tolist()
        if smallest < 0:
            raise UserError(f"a label is {smallest}, but classes are counted from 0")
        return int(largest) + 1

    def map(self, change: Callable[[Tensor], Tensor]) -> "Episodes":
        """Episodes whose four tensors went through `change`."""
        return Episodes(
            change(self.support_x), change(self.support_y), change(self.query_x), change(self.query_y), self.kind,
            self.same_points,
        )  # fmt: skip

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Episodes":
        """The same episodes on `device`, floating-point tensors as `dtype`; class indices keep their type."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return self.map(move)


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they lie in memory, whatever their type: NumPy does not have all of PyTorch's."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def check_not_empty(episodes: Episodes) -> None:
    """See that there is a task, and something in both of its sets.

    Raises:
        UserError: if there is not.
    """
    support, query = (tuple(x.shape[:2]) for x in (episodes.support_x, episodes.query_x))
    if 0 in support + query:
        raise UserError(f"episodes are empty: (tasks, examples) are {support} of support and {query} of query sets")


def concatenate(episodes: Sequence[Episodes]) -> Episodes:
    """Episodes joined along the task axis; all of one kind and with equal example shapes.

    Where every query set *is* its support set, the joined ones are one tensor, too.

    Raises:
        UserError: if they differ in their numbers of examples, or the shapes of these.
    """
    if len(episodes) == 1:
        return episodes[0]
    shapes = sorted({(tuple(e.support_x.shape[1:]), tuple(e.query_x.shape[1:])) for e in episodes})
    if len(shapes) > 1:
        raise UserError(
            f"tasks cannot go through at once: their support and query sets are {' and '.join(map(str, shapes))}; let "
            "a batch be of equal shapes, whatever its seed"
        )

    def joined(part: str) -> Tensor:
        return torch.cat([getattr(e, part) for e in episodes])

    support = joined("support_x"), joined("support_y")
    same = all(e.query_x is e.support_x and e.query_y is e.support_y for e in episodes)
    query = support if same else (joined("query_x"), joined("query_y"))
    return Episodes(*support, *query, episodes[0].kind, all(e.same_points for e in episodes))


@dataclass(frozen=True)
class TaskShape:
    """What a model has to know of its tasks; a `TaskSource` has it, too.

    Attributes:
        example_shape: shape of one example, such as (1, 28, 28).
        num_outputs: what a model has to output: `ways`, or 1 logit for binary tasks.
    """

    example_shape: tuple[int, ...]
    num_outputs: int


class TaskSource(ABC):
    """Where episodes come from. A source is deterministic: (seed, split, index) names a batch for ever.

    Attributes:
        name: the data set's name, as stored with every result.
        kind: what is learned, see `Episodes`.
        ways: classes a task, 2 for binary tasks, 0 for regression.
        example_shape: shape of one example, such as (1, 28, 28).
        num_outputs: what a model has to output: `ways`, or 1 logit for binary tasks.
        seed: the user's seed of every random stream of this source.
        splits: those that there are tasks of; all, but for tasks of a user's own.
        pool_sizes: how many tasks there are of each split; None where there are new ones for ever.
    """

    name: str
    kind: Kind
    ways: int
    example_shape: tuple[int, ...]
    num_outputs: int
    seed: int
    splits: tuple[str, ...] = SPLITS
    pool_sizes: Mapping[str, int] | None = None

    @abstractmethod
    def draw(self, split: str, num_tasks: int, index: int) -> Episodes:
        """Batch number `index` of `split`: the same episodes whenever and wherever it is asked for.

        Training asks for batches in two threads, at once.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short hex digest of the data and of every setting that shapes an episode, but not of the seed."""

    def with_seed(self, seed: int) -> Self:
        """The same source of tasks with another seed, from its first batch on."""
        other = copy(self)
        other.seed = seed
        other.__dict__.pop("_next_index", None)
        return other

    def sample(self, split: str, num_tasks: int, index: int | None = None) -> Episodes:
        """`num_tasks` episodes of `split` ("train", "validation" or "test").

        Args:
            split: which classes the tasks are made of.
            num_tasks: length of the task axis, at least 1.
            index: the number of the batch; by default the next one that this object has not yet given.

        Returns:
            Episodes with a leading task axis of `num_tasks`.

        Raises:
            UserError: for an unknown split or fewer than one task.
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if num_tasks < 1:
            raise UserError(f"num_tasks must be at least 1, got {num_tasks}")
        if index is None:
            counters: dict[str, int] = self.__dict__.setdefault("_next_index", {})
            index = counters.get(split, 0)
            counters[split] = index + 1
        return self.draw(split, num_tasks, index)
