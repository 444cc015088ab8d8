"""Tasks shared out among Python's threads, in place of each operation among PyTorch's.

PyTorch's threads share one operation, wait for the last of them, and share the next. Tasks know nothing of one another:
a thread of Python takes some of them from the first operation to the last, and waits for nobody. For convolutional
networks on two cores that is 1.05 to 1.15 times as fast, and more where other work takes turns on a core. Compiled code
has no part in it: its operations are so few that PyTorch's threads do not wait, and faster on all tasks.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from core.forward import knows_tasks
from core.tasks.base import Episodes
from core.threads import thread_pool

Part = TypeVar("Part")
Result = TypeVar("Result")

MOST = 4  # threads of Python: each holds Python's lock while it says what to compute next, and more would wait for it


@dataclass(frozen=True)
class Crew:
    """Who computes what can be computed side by side.

    Attributes:
        size: threads of Python; 1: the caller's alone.
        threads_each: of PyTorch's, that each of them has.
    """

    size: int
    threads_each: int

    def tasks_each(self, num_tasks: int, most: int) -> int:
        """How many of `num_tasks` go to a thread at a time, at most `most`, so that all have about equally many."""
        parts = -(-num_tasks // most)
        if self.size > 1:
            parts = min(num_tasks, -(-parts // self.size) * self.size)
            return -(-num_tasks // parts)
        return min(num_tasks, most)

    def each(self, work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
        """What `work` makes of each part, in the order of the parts, `size` of which are in work at a time.

        An error of `work` is raised here, and no further part is begun.
        """
        if self.size == 1:
            yield from map(work, parts)
            return
        pool = _pool(self.size, self.threads_each)
        waiting: deque[Future[Result]] = deque()
        try:
            for part in parts:
                if len(waiting) == self.size:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, part))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def alone() -> Crew:
    """The caller, with all of PyTorch's threads."""
    return Crew(1, torch.get_num_threads())


def crew_for(model: nn.Module, episodes: Episodes, at_once: int) -> Crew:
    """Who computes what is asked of `model` for tasks like these.

    More than the caller's thread for convolutional networks on a CPU whose `forward_tasks` is known to change nothing
    in the module, as a call of any other module may; and not where the caller's thread alone is watched or told
    something: a counter of operations, the compiler, autocast, a map of `torch.func`.

    Args:
        model: the module for one task.
        episodes: the tasks.
        at_once: tasks that may be in work at the same time.
    """
    number = torch.get_num_threads()
    size = min(number, MOST, at_once)
    if size < 2 or episodes.support_x.device.type != "cpu" or _is_special():
        return alone()
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()) or not knows_tasks(model):
        return alone()
    return Crew(size, number // size)


def _is_special() -> bool:
    """Whether this thread has a state that others do not take over."""
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    maps = torch._C._functorch.peek_interpreter_stack()
    return modes > 0 or maps is not None or torch.is_autocast_enabled("cpu")


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_making = threading.Lock()
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def _pool(size: int, threads_each: int) -> ThreadPoolExecutor:
    """The threads, which are kept."""
    with _making:
        if (size, threads_each) not in _pools:
            _pools[size, threads_each] = thread_pool(size, threads_each)
        return _pools[size, threads_each]
