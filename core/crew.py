"""Tasks shared out among Python's threads, in place of each operation among PyTorch's.

PyTorch's threads share one operation, wait for the last of them, and share the next. Tasks know nothing of one another:
a thread of Python takes some of them from the first operation to the last, and waits for nobody. For convolutional
networks on two cores that is 1.05 to 1.15 times as fast, and more where other work takes turns on a core. Code that was
fused by PyTorch's compiler has no part in it, as it was slower so: by a tenth on tasks of five images.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from core.errors import UserError
from core.forward import knows_tasks
from core.optimizers.base import MetaOptimizer
from core.tasks.base import Episodes
from core.threads import thread_pool

Part = TypeVar("Part")
Result = TypeVar("Result")

MOST = 4  # threads of Python: each holds Python's lock while it says what to compute next, and more would wait for it
UNEVEN = 1.1  # how many times as long the thread with the most tasks may take as if all had equally many
# Numbers in the examples that a thread takes at once. A network makes some sixteen times as many of them, and what has
# 64 MiB or more glibc gives no thread but the first from the memory that it keeps.
MOST_NUMBERS = 2**20
_OURS = ("core", "analysis", "torch")


@dataclass(frozen=True)
class Crew:
    """Who computes what can be computed side by side.

    Attributes:
        size: threads of Python; 1: the caller's alone.
        threads_each: of PyTorch's, that each of them has.
    """

    size: int
    threads_each: int

    def each(self, work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
        """What `work` makes of each part, in the order of the parts, `size` of which are in work at a time.

        An error of `work` is raised here, when no part is in work any more and no further one is begun.
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
            wait(waiting)


def shared_out(
    model: nn.Module,
    rule: MetaOptimizer,
    episodes: Episodes,
    num_replicas: int = 1,
    *,
    together: int | None = None,
    each: int | None = None,
) -> tuple[Crew, int]:
    """Who computes what is asked for tasks like these, and how many of a replica's tasks each of them takes at a time.

    It is the caller's thread alone but for convolutional networks of ours on a CPU: the code of a user is called by one
    thread, and so is what the caller's thread alone is watched in or told of, such as a counter of operations, the
    compiler, a profiler, autocast, or a map of `torch.func`.

    Args:
        model: the module for one task.
        rule: the meta-optimizer.
        episodes: S * T tasks.
        num_replicas: S.
        together: how many of a replica's tasks may be in work at the same time; default all.
        each: how many each thread may take at a time; default an equal share of these.

    Raises:
        UserError: for no task, or none at a time.
    """
    num_tasks = episodes.num_tasks // num_replicas
    together = num_tasks if together is None else min(together, num_tasks)
    each = together if each is None else min(each, together)
    if each < 1:
        raise UserError(f"at least one task must go through at once, not {each}")
    number = torch.get_num_threads()
    sizes = range(min(number, MOST, together), 1, -1) if _can_be_shared(model, rule, episodes) else ()
    numbers = num_replicas * max(episodes.support_x[0].numel(), episodes.query_x[0].numel())
    for size in sizes:
        most = min(each, together // size)
        parts = -(-num_tasks // most)
        parts = -(-parts // size) * size
        tasks_each = -(-num_tasks // parts)
        is_even = parts * tasks_each <= UNEVEN * num_tasks
        if number % size == 0 and is_even and tasks_each * numbers <= MOST_NUMBERS:
            return Crew(size, number // size), tasks_each
    return alone(), each


def alone() -> Crew:
    """The caller, with all of PyTorch's threads."""
    return Crew(1, torch.get_num_threads())


def _can_be_shared(model: nn.Module, rule: MetaOptimizer, episodes: Episodes) -> bool:
    if episodes.support_x.device.type != "cpu" or _is_special():
        return False
    parts = list(model.modules())
    if not any(isinstance(part, nn.Conv2d) for part in parts) or not knows_tasks(model):
        return False
    return all(type(one).__module__.partition(".")[0] in _OURS for one in (rule, *parts))


def _is_special() -> bool:
    """Whether this thread has a state that others do not take over."""
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    maps = torch._C._functorch.peek_interpreter_stack()
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    is_profiled = torch._C._autograd._profiler_enabled()
    return modes > 0 or maps is not None or hooks is not None or is_profiled or torch.is_autocast_enabled("cpu")


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_making = threading.Lock()


def _pool(size: int, threads_each: int) -> ThreadPoolExecutor:
    """The threads, which are kept."""
    with _making:
        if (size, threads_each) not in _pools:
            _pools[size, threads_each] = thread_pool(size, threads_each)
        return _pools[size, threads_each]


def _forget() -> None:
    """A child process has none of its parent's threads, one of which may have held the lock."""
    global _making
    _pools.clear()
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forget)
