"""Examples that are met where they must not be: a query example in the support set, a test example in training.

Either would be counted as what was learned, and is memory. Examples are told by a number each, so that looking costs a
pass over the examples and a sort; those that share a number are then compared number for number.
"""

import warnings

import torch
from torch import Tensor

from core.tasks.base import Episodes

_NUMBERS_AT_ONCE = 2**17  # of the examples that go through at once: what a cache holds
_ODD = -0x61C8864680B583EB  # with which a number's upper half depends on all of its bits (Knuth, vol. 3, section 6.4)


def occurs(x: Tensor, pool: Tensor) -> Tensor:
    """Which examples of x (B, m, *example) are in the pool (B, n, *example) of their row, bool (B, m)."""
    numbers, order = _numbers(pool).sort(dim=1)
    wanted = _numbers(x)
    place = torch.searchsorted(numbers, wanted).clamp(max=numbers.shape[1] - 1)
    found = numbers.gather(1, place) == wanted
    row, column = found.nonzero(as_tuple=True)
    candidate = order[row, place[row, column]]
    found[row, column] = (x[row, column] == pool[row, candidate]).flatten(1).all(1)
    return found


def warn_of_shared(episodes: Episodes, *, stacklevel: int = 2) -> None:
    """Say so if query examples are in the support set of their task, unless the episodes say `same_points`."""
    if episodes.same_points or episodes.query_x.shape[2:] != episodes.support_x.shape[2:]:
        return
    found = occurs(episodes.query_x, episodes.support_x)
    if count := int(found.sum()):
        tasks = int(found.any(1).sum())
        warnings.warn(
            f"{count} of {found.numel()} query examples, in {tasks} of {len(found)} tasks, are in the support set of "
            "their task: what is measured on them is memory; if that is meant, say Episodes(..., same_points=True)",
            stacklevel=stacklevel + 1,
        )


def warn_of_known(split: str, episodes: Episodes, training: Episodes, *, stacklevel: int = 2) -> None:
    """Say so if examples of `split` are in training tasks: their classes were seen in training.

    Only for classes: a point may have another label, or another target, in each task.
    """
    if episodes.kind != "classification":
        return
    tested, known = (_examples(each) for each in (episodes, training))
    if count := int(occurs(tested, known).sum()):
        warnings.warn(
            f"{count} of {tested.shape[1]} examples of the {split} tasks are in training tasks: their classes were "
            "seen in training",
            stacklevel=stacklevel + 1,
        )


def _examples(episodes: Episodes) -> Tensor:
    """All examples of all tasks, (1, examples, *example)."""
    support, query = (x.flatten(0, 1) for x in (episodes.support_x, episodes.query_x))
    return (torch.cat([support, query]) if support.shape[1:] == query.shape[1:] else support).unsqueeze(0)


def _numbers(x: Tensor) -> Tensor:
    """A number for each example of x (B, n, *example), int32 (B, n); equal examples have equal ones."""
    rows = x.detach().reshape(-1, x[0, 0].numel())
    stream = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**31), 2**31 - 1, (rows.shape[1],), generator=stream, device="cpu")
    factors = (factors | 1).int().to(x.device)
    size = max(1, _NUMBERS_AT_ONCE // rows.shape[1])
    parts = [
        (_whole(rows[start : start + size]) * factors).sum(1, dtype=torch.int32) for start in range(0, len(rows), size)
    ]
    return torch.cat(parts).view(x.shape[:2])


def _whole(x: Tensor) -> Tensor:
    """The bits of each number of x as a whole number, int32; the high bits, where many differ alone, at both ends."""
    if x.is_floating_point():
        x = x + 0.0  # there are two zeros, with other bits
        x = x.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[x.element_size()])
    if x.element_size() == 8:
        x = (x * _ODD) >> 32
    x = x.int()
    return x ^ ((x >> 16) & 0xFFFF)
