"""One thread for work that is too small to be shared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

# Of the matrix products of a call, below which one thread does it. PyTorch's threads wait for their next turn by
# spinning, on cores that others could use; sharing so little gains less than that takes.
SMALL_GFLOP = 0.05


def suitable_threads(run: Callable[[], object]) -> int:
    """How many threads a call should have: one if it is small, else as many as PyTorch has.

    The arithmetic is counted, not timed, so that the same call has the same answer every time.
    """
    number = torch.get_num_threads()
    if number == 1:
        return 1
    with FlopCounterMode(display=False) as counter:
        run()
    return 1 if counter.get_total_flops() < SMALL_GFLOP * 1e9 else number


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
