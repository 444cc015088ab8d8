"""How many of PyTorch's threads do some work: one where it is too small to be shared, or others work beside it."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from core.optimizers.base import split_key
from core.tasks.base import Episodes

# Billions of additions and multiplications in an iteration, below which one thread does it. PyTorch's threads wait for
# their next turn by spinning, on cores that others could use; sharing so little gains less than that takes.
SMALL_GFLOP = 0.05


def suitable_threads(gflop: float) -> int:
    """How many threads an iteration should have: one if it is small, else as many as PyTorch has."""
    return 1 if gflop < SMALL_GFLOP else torch.get_num_threads()


def iteration_gflop(
    model: nn.Module,
    theta: Mapping[str, Tensor],
    xi: Mapping[str, Tensor],
    episodes: Episodes,
    steps: int,
    num_replicas: int,
) -> float:
    """About how many billions of additions and multiplications the matrix products of a meta-gradient are.

    Of networks on vectors, where every number of theta meets every example unless the model's `multiplications` says
    otherwise, and of rules with square factors. Told by the sizes, so that the same runs have the same answer every
    time, and not counted as it is done, for which PyTorch would load its compiler.

    Args:
        model: the network for one task.
        theta: parameters of S replicas, (S, *shape), by name.
        xi: the rule's, by parameter and part.
        episodes: the S * T tasks of the iteration.
        steps: adaptation steps.
        num_replicas: S.
    """
    sizes = {name: tensor.numel() // num_replicas for name, tensor in theta.items()}
    multiplications = getattr(model, "multiplications", lambda num_examples: num_examples * sum(sizes.values()))
    products = steps * multiplications(episodes.support_x.shape[1]) + multiplications(episodes.query_x.shape[1])
    for key, tensor in xi.items():
        name, _ = split_key(key)
        *_, side = tensor.shape
        if tensor.shape[1:] == (side, side):  # a factor of the gradient of `name`
            products += steps * side * sizes[name]
    return 3 * 2 * products * episodes.num_tasks / 1e9  # forward, and backward by both of what is multiplied


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads of PyTorch within."""
    before = torch.get_num_threads()
    if number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_pool(size: int, threads_each: int) -> ThreadPoolExecutor:
    """So many of Python's threads, each with so many of PyTorch's."""
    pool = ThreadPoolExecutor(size)
    all_are_there = threading.Barrier(size)

    def begin() -> None:
        torch.get_num_threads()  # PyTorch keeps a number for each thread from when it is first asked for
        torch.set_num_threads(threads_each)
        all_are_there.wait()  # or one of them could begin twice

    number = torch.get_num_threads()
    try:
        for future in [pool.submit(begin) for _ in range(size)]:
            future.result()
    except BaseException:  # no thread may be left waiting for one that could not be made
        all_are_there.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(number)  # threads to come begin with what was set last
    return pool
