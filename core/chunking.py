"""How many tasks go through at once, chosen by a quick measurement that is kept for the machine and the shapes."""

import hashlib
import json
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from core.errors import UserError
from core.files import read_json, write_json
from core.memory import is_out_of_memory
from core.tasks.cache import cache_folder

AUTO: Literal["auto"] = "auto"
Chunk = int | Literal["auto"] | None
CALLS = 3  # of each size, after one that sets up
LONG_SECONDS = 2.0  # a call that takes as long is made once
ENGINE = 6  # to be raised when something else may be fastest now: what was kept before is not asked for any more
CLOSE = 0.03  # of the least seconds a task: a smaller chunk that is so close is taken, as it takes less memory


def checked_chunk(tasks_per_chunk: Chunk) -> Chunk:
    """The argument itself.

    Raises:
        UserError: if it is neither a whole number of at least 1, nor "auto", nor None.
    """
    is_number = isinstance(tasks_per_chunk, int) and not isinstance(tasks_per_chunk, bool)
    if tasks_per_chunk in (None, AUTO) or (is_number and tasks_per_chunk >= 1):
        return tasks_per_chunk
    raise UserError(f"tasks_per_chunk must be at least 1, or {AUTO!r}, got {tasks_per_chunk!r}")


def fastest_chunk(run: Callable[[int], object], num_tasks: int, clock: Callable[[], float] = time.perf_counter) -> int:
    """The size of a chunk with the fewest seconds a task.

    Sizes are 1, 2, 4, ... and `num_tasks`, until two in a row are slower than the best, or the memory ends.

    Args:
        run: does the work of one chunk of so many tasks, and waits until it is done.
        num_tasks: the largest size.
        clock: seconds.
    """
    sizes = sorted({2**i for i in range(num_tasks.bit_length())} | {num_tasks})
    seconds: dict[int, float] = {}
    for size in sizes:
        try:
            seconds[size] = _seconds(lambda size=size: run(size), clock) / size  # type: ignore[misc]
        except (MemoryError, RuntimeError) as error:
            if not seconds or not is_out_of_memory(error):
                raise
            break
        if len(seconds) > 2 and min(seconds, key=seconds.__getitem__) not in list(seconds)[-2:]:
            break
    least = min(seconds.values())
    return next(size for size, one in seconds.items() if one <= least * (1 + CLOSE))


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """The fewest of some calls."""
    taken: list[float] = []
    while len(taken) <= CALLS and (not taken or taken[-1] < LONG_SECONDS):
        started = clock()
        run()
        taken.append(clock() - started)
    return min(taken[1:] or taken)


def kept_chunk(what: Mapping[str, Any], choose: Callable[[], int], folder: Path | None = None) -> int:
    """What `choose` chose the first time on this machine, with its number of threads, for the work called `what`.

    Args:
        what: all that the choice hangs on but the machine, as JSON has it.
        choose: measures.
        folder: where choices are kept; default `cache_folder()`. One that is damaged is made again; where none can be
            kept, a warning says so.
    """
    machine = [platform.node(), platform.machine(), platform.processor(), torch.__version__, torch.get_num_threads()]
    digest = hashlib.blake2b(json.dumps([ENGINE, machine, what], sort_keys=True).encode(), digest_size=8).hexdigest()
    path = (cache_folder() if folder is None else folder) / f"chunk-{digest}.json"
    try:
        found = read_json(path)
        if isinstance(found, dict) and type(found.get("tasks_per_chunk")) is int and found["tasks_per_chunk"] >= 1:
            return int(found["tasks_per_chunk"])
    except UserError:
        pass  # measured below
    chosen = choose()
    try:
        write_json(path, {"tasks_per_chunk": chosen, "of": what})
    except UserError as error:
        warnings.warn(f"{error}; every process will choose its chunks again", stacklevel=2)
    return chosen
