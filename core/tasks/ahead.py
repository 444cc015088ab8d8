"""Batches of training tasks, drawn while earlier ones are used."""

from collections import deque
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import Future

from core.tasks.base import Episodes, TaskSource, concatenate
from core.threads import thread_pool, threads

ITERATIONS_AHEAD = 4
"""With one alone the thread would have nothing to do from the end of a batch until the caller asks for the next; with
two, while a caller who came early draws the second. Where drawing takes longer than the step, four are worth 5 %,
and their batches wait in memory."""


class DrawnAhead:
    """The training batches of several sources, one iteration after the other; use it in a `with` statement.

    A second thread draws the next iterations while the caller uses this one. A caller who comes early draws what has
    not been begun, of this iteration and then of later ones, so that neither thread waits for the other while there is
    something to draw. Which thread draws a batch cannot change it: it is named by its source, split and iteration.
    Neither shares its tensor operations among PyTorch's threads (see `core.threads`), which would spin on the core that
    the other one draws on.

    Args:
        sources: where the tasks come from, by a key of the caller's.
        num_tasks: tasks of each source in an iteration.
        start: the first iteration.
        stop: the first of which none is drawn; None for no end.
    """

    def __init__(
        self, sources: Mapping[int, TaskSource], num_tasks: int, start: int = 0, stop: int | None = None
    ) -> None:
        self._sources = dict(sources)
        self._num_tasks = num_tasks
        self._iteration, self._stop = start, stop
        self._thread = thread_pool(1, 1)
        self._upcoming: deque[dict[int, Future[Episodes]]] = deque()  # of this iteration, the next, ...

    def __enter__(self) -> "DrawnAhead":
        for _ in range(ITERATIONS_AHEAD):
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
            for place, batch in enumerate(self._upcoming):
                for key in reversed(batch):
                    if place > 0 and all(future.done() for future in self._upcoming[0].values()):
                        break
                    if batch[key].cancel():
                        batch[key] = self._drawn(key, self._iteration + place)
            batch = self._upcoming.popleft()
            self._iteration += 1
            self._begin()
            episodes = {key: future.result() for key, future in batch.items()}
            return [concatenate([episodes[key] for key in group]) for group in groups]

    def only(self, keys: Set[int]) -> None:
        """Draw from these sources alone from now on; what is drawn of others already is thrown away."""
        for key in self._sources.keys() - keys:
            del self._sources[key]
            for batch in self._upcoming:
                batch.pop(key).cancel()

    def _drawn(self, key: int, iteration: int) -> "Future[Episodes]":
        """The same as the thread would have drawn; an error waits for its turn, as there."""
        future: Future[Episodes] = Future()
        try:
            future.set_result(self._sources[key].sample("train", self._num_tasks, iteration))
        except Exception as error:
            future.set_exception(error)
        return future

    def _begin(self) -> None:
        """Have the thread draw the first iteration that it was not told to."""
        iteration = self._iteration + len(self._upcoming)
        if self._stop is None or iteration < self._stop:
            self._upcoming.append(
                {
                    key: self._thread.submit(source.sample, "train", self._num_tasks, iteration)
                    for key, source in self._sources.items()
                }
            )
