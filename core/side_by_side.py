"""Groups of runs walk through the same tasks side by side, and stop, save and give up where that is asked for."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from core.config import TrainConfig
from core.distributed import Alone, ProcessLost
from core.errors import UserError
from core.group import Group
from core.memory import is_out_of_memory
from core.progress import progress_bar
from core.tasks import TaskSource
from core.tasks.ahead import DrawnAhead
from core.tasks.base import Episodes

CHECKPOINT_SECONDS = 60.0


class Interrupted(Exception):
    """Training stopped at the user's request; where runs are saved, with its state saved."""


def train_side_by_side(groups: list[Group], *, progress: bool, tensorboard: bool) -> None:
    """Train groups that meet the same tasks, one iteration each in turn.

    Those for whose runs the memory does not suffice are left with `given_up`, the others with `finished` runs.

    Raises:
        UserError: if other processes take part and end, or there is no TensorBoard where that is asked for.
        Interrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    first = groups[0]
    team = first.team
    sources = {c.seed: source for c, source in zip(first.configs, first.sources, strict=True)}
    num_tasks = first.configs[0].tasks_per_iteration
    last_saved = time.monotonic()
    target = max(group.target for group in groups)
    bar = progress_bar(
        total=target,
        initial=first.iteration,
        shown=progress and team.writes,
        desc=first.configs[0].dataset if len(groups) > 1 else f"{first.configs[0].dataset} {first.label}",
        unit="it",
        mininterval=0.5,
        dynamic_ncols=True,
    )
    with ExitStack() as stack:
        writers = {id(group): _writer(group) for group in groups} if tensorboard and team.writes else {}
        for writer in writers.values():
            stack.callback(writer.close)
        stack.enter_context(bar)
        batches = stack.enter_context(DrawnAhead(sources, num_tasks, first.iteration, target))
        stop = stack.enter_context(_stop_on_signal(team))
        stack.enter_context(_saved_if_processes_are_lost(groups))

        def wishes() -> tuple[bool, bool]:
            return stop.is_set(), time.monotonic() - last_saved > CHECKPOINT_SECONDS

        def tell() -> None:
            bar.set_postfix({g.label: g.progress for g in groups if g.configs}, refresh=False)

        for group in groups:
            group.check_alike()
        if any(group.compile for group in groups):
            bar.set_postfix_str("compiling first")  # and the bar stands still
        for iteration in range(first.iteration, target + 1):
            # Groups are measured on the same tasks, drawn once for all of them and forgotten.
            fixed_tasks = _drawn_once()
            for group in [group for group in groups if group.configs]:
                if is_curve_point(iteration, group.configs[0]) and group.curve_end < iteration:
                    with _give_up_without_memory([group]):
                        group.measure(fixed_tasks)
                        _log(writers.get(id(group)), group)
            del fixed_tasks
            ending = [group for group in groups if group.configs and iteration == group.target]
            if ending:  # the bar's last words are of the end
                tell()
            for group in ending:
                group.finish()
            to_stop, to_save = team.granted(wishes)
            if to_stop or to_save:
                for group in [group for group in groups if group.configs]:
                    with _give_up_without_memory([group]):  # on a GPU this looks at losses, and may train again
                        group.check_alike()
                        group.save_state()
                last_saved = time.monotonic()
            active = [group for group in groups if group.configs]
            if not active:
                break
            if to_stop:
                team.any(True)  # the first process has saved
                state = "the state is saved" if first.results is not None else "nothing is saved without results"
                raise Interrupted(f"stopped after {iteration} of {target} iterations; {state}")
            keys = list(dict.fromkeys(tuple(c.seed for c in group.configs) for group in active))
            joined: dict[tuple[int, ...], Episodes] = {}
            with _give_up_without_memory(active):  # for the tasks, which all of them meet
                joined = dict(zip(keys, batches.take(*keys), strict=True))
            for group in [group for group in active if group.configs]:
                with _give_up_without_memory([group]):
                    group.step(joined[tuple(c.seed for c in group.configs)])
            batches.only({config.seed for group in active for config in group.configs})
            bar.update()
            if iteration % 20 == 0:
                tell()
        if team.any(stop.is_set()):
            raise Interrupted(f"stopped after the last of {target} iterations; these runs are finished")


def _drawn_once() -> Callable[[TaskSource, str, int, int], Episodes]:
    """`TaskSource.sample` that draws a batch once, and then has it."""
    drawn: dict[tuple[int, str, int, int], Episodes] = {}

    def sample(source: TaskSource, split: str, num_tasks: int, index: int) -> Episodes:
        key = (id(source), split, num_tasks, index)  # a source of the user's own need not be hashable
        if key not in drawn:
            drawn[key] = source.sample(split, num_tasks, index)
        return drawn[key]

    return sample


def check_out_of_memory(error: Exception, team: Alone, configs: Sequence[TrainConfig]) -> None:
    """See that `error` says that memory ran out, and that what is left can go on without these runs.

    Raises:
        UserError: where other processes take part, which cannot go on alone.
        Exception: the error itself, if it says something else.
    """
    if not is_out_of_memory(error):
        raise error
    if team.size > 1:
        raise UserError(without_memory(configs)) from error


@contextmanager
def _give_up_without_memory(groups: Sequence[Group]) -> Iterator[None]:
    """A block after which the runs of these groups are left out, if it needs more memory than there is.

    The state last saved is what they go on from.

    Raises:
        UserError: as `check_out_of_memory`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        check_out_of_memory(error, groups[0].team, [config for group in groups for config in group.configs])
        for group in groups:
            group.given_up, group.configs = group.configs, []


@contextmanager
def _saved_if_processes_are_lost(groups: Sequence[Group]) -> Iterator[None]:
    """Save the state that the first process still has when another ends: nothing of the work done is lost then."""
    try:
        yield
    except ProcessLost:
        for group in groups:
            group.save_state()
        raise


def without_memory(configs: Sequence[TrainConfig]) -> str:
    """The sentence on runs for which the memory did not suffice."""
    ids = ", ".join(config.id for config in configs)
    return f"out of memory in training {ids}: fewer tasks at once (tasks_per_chunk) need less"


def is_curve_point(iteration: int, config: TrainConfig) -> bool:
    """Whether the curve has a point there: the ends, every `eval_every`, and 10, 20, 50, 100, ... before the first."""
    every = config.eval_every
    if iteration in (0, config.iterations) or not every:
        return iteration in (0, config.iterations)
    return iteration % every == 0 or (
        iteration < every and iteration >= 10 and str(iteration).rstrip("0") in {"1", "2", "5"}
    )


def _writer(group: Group) -> Any:
    if group.results is None:
        raise UserError("TensorBoard files go into the run folders: tensorboard=True needs results")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed; install it with: pip install tensorboard") from error
    return SummaryWriter(group.results / "runs" / group.configs[0].id / "tensorboard")


def _log(writer: Any, group: Group) -> None:
    if writer is None:
        return
    for config, curve in zip(group.configs, group.curves, strict=True):
        for iteration, split, loss, accuracy, _ in curve[-len(group.sources[0].splits) :]:
            writer.add_scalar(f"loss/{split}/seed {config.seed}", loss, iteration)
            writer.add_scalar(f"accuracy/{split}/seed {config.seed}", accuracy, iteration)


@contextmanager
def _stop_on_signal(team: Alone) -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that training stops between two iterations; a second Ctrl-C kills.

    One of several processes does not take the second at its word: a terminal sends Ctrl-C to all processes, and
    `torchrun`, which sends it on, kills those that have not ended after 30 seconds.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set() and team.size == 1:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
