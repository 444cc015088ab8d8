"""Several processes for one run, as `torchrun` starts them: which one this is, and how they agree.

Every process has the same parameters and draws the same batches, which seed and iteration name, so that neither is
sent. Each takes its share of a batch's tasks; one sum over the processes then gives all of them the meta-gradient of
all tasks, and with it every process takes the same outer step. Whether to stop or to save is decided in that sum, too.
Process 0 alone reads states, writes runs and prints. All read runs that are finished, so that processes on several
machines need one folder of results that each of them sees.
"""

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from core.adaptation import MetaGradient, replica_slice
from core.errors import UserError
from core.tasks.base import Episodes, bytes_of

T = TypeVar("T")
Wishes = Callable[[], tuple[bool, bool]]
# How long a process waits for the others before it gives up: longer than any may lawfully be behind, which is while it
# compiles (some minutes on a busy machine). One that has ended is noticed at once.
TIMEOUT_SECONDS = 900.0


class ProcessLost(UserError):
    """Another process of the run has ended, or does not answer."""


class Alone:
    """The one process of a run.

    Attributes:
        rank: the number of this process, from 0.
        size: how many processes there are.
    """

    rank = 0
    size = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def meta_gradient(
        self, compute: Callable[[Episodes], MetaGradient], episodes: Episodes, num_replicas: int
    ) -> MetaGradient:
        """What `compute` finds for the S * T tasks of `episodes`: means over T of losses and of gradients."""
        return compute(episodes)

    def points(self, measure: Callable[[Episodes], Tensor], episodes: Episodes, num_replicas: int) -> Tensor:
        """What `measure` finds for each of the S * T tasks of `episodes`, (S, T, 2 measures)."""
        return measure(episodes)

    def granted(self, wishes: Wishes) -> tuple[bool, bool]:
        """Whether to stop, and whether to save, before the next iteration: what `wishes` says."""
        return wishes()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process; none goes on before all have asked."""
        return flag

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in process 0, where alone it is called."""
        return make()

    def check_alike(self, tensors: Iterable[Tensor], iteration: int) -> None:
        """See that the tensors are the same, bit for bit, in all processes."""


class Team(Alone):
    """One of several processes of a run; the group of `torch.distributed` has been joined.

    All of them call the same methods in the same order. Each that takes part in an exchange raises `ProcessLost`
    where another process has ended, or does not answer for `TIMEOUT_SECONDS`.

    Args:
        device: where this process trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device
        self._wishes: Wishes = lambda: (False, False)
        self._granted = (False, False)

    def share(self, num_tasks: int) -> tuple[int, int]:
        """The tasks start..stop of `num_tasks` that are this process's; shares differ by one task at the most."""
        return self.rank * num_tasks // self.size, (self.rank + 1) * num_tasks // self.size

    def meta_gradient(
        self, compute: Callable[[Episodes], MetaGradient], episodes: Episodes, num_replicas: int
    ) -> MetaGradient:
        """The means over all tasks, of which each process computes its share; one sum of one flat tensor.

        A loss that is not finite in one process is so in the sum, in the same iteration everywhere.
        """
        num_tasks = episodes.num_tasks // num_replicas
        start, stop = self.share(num_tasks)
        loss, g_theta, g_xi = compute(replica_slice(episodes, num_replicas, start, stop))
        tensors = [loss, *g_theta.values(), *g_xi.values()]
        wishes = loss.new_tensor([float(wish) for wish in self._wishes()])
        flat = torch.cat([*(tensor.flatten() for tensor in tensors), wishes])
        flat[: -len(wishes)] *= (stop - start) / num_tasks  # the means of a share; with this weight they add up
        self._all_reduce(flat)
        *parts, wished = flat.split([*(tensor.numel() for tensor in tensors), len(wishes)])
        to_stop, to_save = (wish > 0 for wish in wished.tolist())
        # Of groups that walk side by side, each has a sum of its own: a wish counts that is in any.
        self._granted = (self._granted[0] or to_stop, self._granted[1] or to_save)
        loss, *grads = (part.view_as(t).to(t.dtype) for part, t in zip(parts, tensors, strict=True))
        split = len(g_theta)
        return loss, dict(zip(g_theta, grads[:split], strict=True)), dict(zip(g_xi, grads[split:], strict=True))

    def points(self, measure: Callable[[Episodes], Tensor], episodes: Episodes, num_replicas: int) -> Tensor:
        """What is measured of each task, by the process whose share it is in; a sum with zeros is exact."""
        num_tasks = episodes.num_tasks // num_replicas
        start, stop = self.share(num_tasks)
        whole = torch.zeros(num_replicas, num_tasks, 2, dtype=torch.float64, device=self.device)
        if start < stop:
            whole[:, start:stop] = measure(replica_slice(episodes, num_replicas, start, stop))
        self._all_reduce(whole)
        return whole

    def granted(self, wishes: Wishes) -> tuple[bool, bool]:
        """What any process wished for at the sums since the last call; at those to come, this one wishes `wishes`."""
        granted, self._granted = self._granted, (False, False)
        self._wishes = wishes
        return granted

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        total = torch.tensor(float(flag), device=self.device)
        self._all_reduce(total)
        return total.item() > 0

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in process 0.

        Raises:
            UserError: the one that `make` raises there.
        """
        outcome: list[Any] = [None, None]  # what it returns, or the sentence of its error
        if self.rank == 0:
            try:
                outcome[0] = make()
            except UserError as error:
                outcome[1] = str(error)
        with self._reaching_the_others():
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise UserError(outcome[1])
        return outcome[0]

    def check_alike(self, tensors: Iterable[Tensor], iteration: int) -> None:
        """See that the tensors are the same, bit for bit, in all processes.

        Raises:
            UserError: if they are not; it names the iteration.
        """
        digest = hashlib.blake2b(digest_size=7)  # 7 bytes: an int64 of either sign
        for tensor in tensors:
            digest.update(bytes_of(tensor))
        number = int.from_bytes(digest.digest())
        extremes = torch.tensor([number, -number], device=self.device)
        self._all_reduce(extremes, dist.ReduceOp.MAX)
        largest, smallest = extremes.tolist()
        if largest != -smallest:
            raise UserError(
                f"the processes' parameters have parted, which was seen at iteration {iteration}: they must run the "
                "same code on the same kind of machine; the last state saved is from before"
            )

    def _all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        with self._reaching_the_others():
            dist.all_reduce(tensor, op)

    @contextmanager
    def _reaching_the_others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ProcessLost(
                f"another of the {self.size} processes has ended or does not answer, which ends this one; the same "
                f"command goes on from the last state saved ({reason})"
            ) from error


ALONE = Alone()


def size_of_environment() -> int:
    """How many processes `torchrun` has started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank_of_environment() -> int:
    """The number of this process among them."""
    return int(os.environ["RANK"]) if size_of_environment() > 1 else 0


def own_device(device: str | torch.device | None) -> str | torch.device | None:
    """The device of this process: of several, each has the GPU of its own number on its machine, or the CPU.

    Raises:
        UserError: if one GPU is named for several processes.
    """
    if size_of_environment() == 1:
        return device
    name = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise UserError(f"{name} is one GPU for several processes; say cuda, and each takes its own")
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else device


def join(device: torch.device) -> Alone:
    """This process among those of the run; joins their group if that was not done before.

    Args:
        device: where this process trains: nccl connects GPUs, gloo CPUs.

    Raises:
        ProcessLost: if the others are not to be found.
    """
    if not dist.is_initialized():
        if size_of_environment() == 1:
            return ALONE
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            # With gloo beside nccl, objects of Python take no way over the GPU.
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=TIMEOUT_SECONDS)
            )
        except (RuntimeError, ValueError) as error:
            raise ProcessLost(f"the processes of this run do not find each other: {error}") from error
    return Team(device) if dist.get_world_size() > 1 else ALONE


def leave() -> None:
    """Wait until all have done what they had to do, and leave the group, if it was joined.

    `torchrun` ends the others as soon as one process ends with another code than 0. When all end, none needs that. A
    process that fails does not come here: it ends, and the others learn of it.
    """
    if not dist.is_initialized():
        return
    try:
        dist.all_reduce(torch.zeros(()))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except RuntimeError:  # another has ended: there is nothing left to wait for
        pass
    dist.destroy_process_group()


@contextmanager
def one_voice() -> Iterator[None]:
    """What is printed to the standard output is printed by process 0 alone."""
    if rank_of_environment() == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield
