"""Batches of training tasks, drawn while the previous one is used."""

from collections.abc import Mapping, Sequence, Set
from concurrent.futures import Future

from core.tasks.base import Episodes, TaskSource, concatenate
from core.threads import thread_pool, threads


class DrawnAhead:
    """The training batches of several sources, one iteration after the other; use it in a `with` statement.

    A second thread draws the next iteration while the caller uses this one. A caller who comes back early draws what
    has not been begun, so that neither thread waits while there is something left to draw. Which thread draws a batch
    cannot change it: it is named by its source, split and iteration. Neither shares its tensor operations among
    PyTorch's threads (see `core.threads`), which would spin on the core that the other one draws on.

    Args:
        sources: where the tasks come from, by a key of the caller's.
        num_tasks: tasks of each source in an iteration.
        start: the first iteration.
    """

    def __init__(self, sources: Mapping[int, TaskSource], num_tasks: int, start: int = 0) -> None:
        self._sources = dict(sources)
        self._num_tasks = num_tasks
        self._iteration = start
        self._thread = thread_pool(1, 1)
        self._upcoming: dict[int, Future[Episodes]] = {}

    def __enter__(self) -> "DrawnAhead":
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self, *groups: Sequence[int]) -> list[Episodes]:
        """The next iteration's `num_tasks` episodes of every source, those of each group of keys joined in its order.

        Errors of drawing are raised here.
        """
        with threads(1):
            # The thread goes through the sources from the first to the last, and the caller comes to meet it.
            drawn = {
                key: self._sources[key].sample("train", self._num_tasks, self._iteration)
                for key in reversed(self._upcoming)
                if self._upcoming[key].cancel()
            }
            batch = {key: drawn[key] if key in drawn else future.result() for key, future in self._upcoming.items()}
            self._iteration += 1
            self._begin()
            return [concatenate([batch[key] for key in group]) for group in groups]

    def only(self, keys: Set[int]) -> None:
        """Draw from these sources alone from now on; what is drawn of others already is thrown away."""
        for key in self._sources.keys() - keys:
            del self._sources[key]
            self._upcoming.pop(key).cancel()

    def _begin(self) -> None:
        self._upcoming = {
            key: self._thread.submit(source.sample, "train", self._num_tasks, self._iteration)
            for key, source in self._sources.items()
        }
