"""Processes that share a run, started as `torchrun` starts them, from a server that has imported core once."""

import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

import core.__main__
import core.distributed
import core.group
import core.side_by_side
import core.training
from core import make_model, make_optimizer
from core.adaptation import replica_meta_gradient
from core.distributed import ALONE, join, leave
from core.errors import UserError
from core.inner_loop import InnerLoop
from core.models.conv import CNN
from core.optimizers.base import MetaOptimizer
from core.reptile import replica_reptile_gradient
from core.tasks.base import Episodes, TaskShape
from tests import naive

# Seconds that a test waits for processes, and for the others once one of them has failed. A slow machine takes 20 to
# import torch; only a test that fails waits as long as this.
LONGEST = 600.0
GRACE = 120.0


@dataclass
class Ended:
    """How a process ended: its exit code, what it printed, and what its function returned."""

    code: int | None
    out: str
    value: object


def on_processes(folder: Path, function, *arguments, size: int = 2, hangs: int | None = None) -> list[Ended]:
    """Call `function` in processes 0, 1, ... of a team; those still there after a while are killed, with code None.

    Process `hangs` is one that will not end, and nobody waits for it.
    """
    deadline = time.monotonic() + LONGEST
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.core.processes"])
    # A store on a free port that the system chose, kept by the parent as by torchrun.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started: list[BaseProcess] = []
    for rank in range(size):
        where = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
            "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0,
        }  # fmt: skip
        environment = {key: str(value) for key, value in where.items()}
        process = context.Process(target=_run, args=(folder, rank, environment, function, arguments))
        process.start()
        started.append(process)
    awaited = [process for rank, process in enumerate(started) if rank != hangs]
    while any(process.is_alive() for process in awaited) and time.monotonic() < deadline:
        time.sleep(0.01)
        # Not when one was killed: it is the group that has to tell the others.
        if any((process.exitcode or 0) > 0 for process in started):
            deadline = min(deadline, time.monotonic() + GRACE)
    ended = []
    for rank, process in enumerate(started):
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        value = folder / f"{rank}.pt"
        ended.append(
            Ended(
                code,
                (folder / f"{rank}.txt").read_text(),
                torch.load(value, weights_only=False) if value.exists() else None,
            )
        )
    return ended


def _run(folder, rank, environment, function, arguments):
    with open(folder / f"{rank}.txt", "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    value = function(*arguments)
    if function is train:
        sys.exit(value)
    torch.save(value, folder / f"{rank}.pt")
    leave()


# What they do


def train(arguments: list[str], trouble=None, *arguments_of_trouble) -> int:
    """The command line, after `trouble` was prepared; only the first process may write."""
    if os.environ["RANK"] != "0":
        core.group.save_run = core.group.save_tensors = core.training.write_config = _may_not_write
    if trouble is not None:
        trouble(*arguments_of_trouble)
    return core.__main__.main(arguments)


def _may_not_write(*_: object) -> None:
    raise AssertionError("this process writes")


def signal_in_step(rank: int, iteration: int, number: int) -> None:
    """Process `rank` sends itself a signal in the middle of an iteration."""
    if int(os.environ["RANK"]) != rank:
        return
    gradient = core.group.Group._meta_gradient

    def with_signal(group, episodes):
        if group.iteration == iteration:
            os.kill(os.getpid(), number)
        return gradient(group, episodes)

    core.group.Group._meta_gradient = with_signal


def signal_and_save_always(rank: int, iteration: int, number: int) -> None:
    """As `signal_in_step`, with a checkpoint after every iteration."""
    core.side_by_side.CHECKPOINT_SECONDS = 0.0
    signal_in_step(rank, iteration, number)


def signal_and_wait_briefly(rank: int, iteration: int, number: int) -> None:
    """As `signal_in_step`; the others wait for 15 seconds, in which a slow machine has begun and not yet hung."""
    core.distributed.TIMEOUT_SECONDS = 15.0
    signal_in_step(rank, iteration, number)


def not_finite(rank: int, iteration: int, replica: int) -> None:
    """In process `rank` alone, the loss of a replica is not finite."""
    gradient = core.group.Group._meta_gradient

    def spoilt(group, episodes):
        loss, *grads = gradient(group, episodes)
        if group.iteration == iteration and int(os.environ["RANK"]) == rank and len(group.configs) > replica:
            loss[replica] = torch.nan
        return loss, *grads

    core.group.Group._meta_gradient = spoilt


def part_in_step(rank: int, iteration: int) -> None:
    """The smallest change of one number in one process, and checkpoints that find it."""
    core.side_by_side.CHECKPOINT_SECONDS = 0.0
    step = core.group.Group.step

    def parting(group, episodes):
        step(group, episodes)
        if group.iteration == iteration and int(os.environ["RANK"]) == rank:
            number = next(iter(group.theta.values())).view(-1)[:1]
            number.copy_(torch.nextafter(number, torch.full_like(number, torch.inf)))

    core.group.Group.step = parting


def compile_nothing() -> None:
    """What would be compiled stays as it is, for the shapes it was made with."""

    def made(model, rule, theta, xi, episodes, loop, *, tasks_per_chunk):
        def run(theta, xi, other):
            assert other.support_x.shape == episodes.support_x.shape
            return replica_meta_gradient(model, rule, theta, xi, other, loop, tasks_per_chunk=tasks_per_chunk)

        return run

    core.group.compile_meta_gradient = made


def other_runs() -> None:
    """Process 1 is asked for another seed than process 0."""
    if int(os.environ["RANK"]) == 1:
        train_all = core.__main__.meta_train_many

        def other(configs, **options):
            return train_all([core.TrainConfig.from_dict({**configs[0].__dict__, "seed": 7})], **options)

        core.__main__.meta_train_many = other


# Meta-gradients


def random_episodes(shape: tuple[int, ...], num_tasks: int, ways: int, shots: int) -> Episodes:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, num_tasks, ways * shots, *shape, generator=generator)
    y = torch.arange(ways).repeat_interleave(shots).expand(num_tasks, -1)
    return Episodes(x[0], y, x[1], y)


def setting(name: str, dtype: torch.dtype):
    """Function, model, rule, theta, xi, episodes, loop and number of replicas of a case."""
    loop = InnerLoop(steps=2, lr=0.1, first_order=False)
    rule: MetaOptimizer = make_optimizer("sgd")
    if name.startswith("kfc"):
        rule = make_optimizer("kfc", depth=2)
    if name.endswith("cnn"):
        torch.manual_seed(0)
        models = [CNN(1, 3, depth=2, filters=8)]
        episodes = random_episodes((1, 12, 12), 4, 3, 2)
    else:
        models = [make_model("lr", TaskShape((6,), 4), seed=seed) for seed in (0, 1)]
        episodes = random_episodes((6,), 2 * 5, 4, 2)  # 5 tasks of each replica: 2 and 3
    models = [model.to(dtype) for model in models]
    thetas = [{name: p.detach() for name, p in model.named_parameters()} for model in models]
    xis = [naive.randomise(rule.init(theta), strength=0.1) for theta in thetas]
    theta = {name: torch.stack([theta[name] for theta in thetas]) for name in thetas[0]}
    xi = {name: torch.stack([xi[name] for xi in xis]) for name in xis[0]}
    function = replica_reptile_gradient if name.startswith("reptile") else replica_meta_gradient
    return function, models[0], rule, theta, xi, episodes.to(dtype=dtype), loop, len(models)


def meta_gradients(cases: list[tuple[str, torch.dtype, int | None]]):
    """For each case, (of the team, of this process alone): loss and gradients by name; and the tasks computed here."""
    team = join(torch.device("cpu"))
    results = []
    for name, dtype, chunk in cases:
        function, model, rule, theta, xi, episodes, loop, num_replicas = setting(name, dtype)
        computed = []

        def compute(part, function=function, arguments=(model, rule, theta, xi), loop=loop, chunk=chunk, log=computed):
            log.append(part.num_tasks)
            return function(*arguments, part, loop, tasks_per_chunk=chunk)

        both = []
        for who in (team, ALONE):
            loss, g_theta, g_xi = who.meta_gradient(compute, episodes, num_replicas)
            both.append({"loss": loss, **{f"theta.{n}": g for n, g in g_theta.items()}, **g_xi})
        results.append((*both, computed[0]))
    return results


def agreements():
    """What process 1 alone wishes, finds or does, as every process learns of it."""
    team = join(torch.device("cpu"))
    first = team.rank == 0
    called: list[int] = []
    learnt = {"any": team.any(not first), "none": team.any(False), "first": team.from_first(lambda: team.rank)}
    team.from_first(lambda: called.append(team.rank))
    learnt["called"] = called

    def fails():
        raise UserError("no such file")

    try:
        team.from_first(fails)
    except UserError as error:
        learnt["error"] = str(error)
    episodes = random_episodes((6,), 2, 2, 1)
    wishes = [(False, False), (not first, False), (False, first), (True, True)]
    learnt["granted"] = [team.granted(lambda: wishes[0])]
    for k in range(len(wishes)):
        team.granted(lambda k=k: wishes[k])
        for _ in range(2):  # two groups side by side
            team.meta_gradient(lambda part: (torch.ones(1), {}, {}), episodes, 1)
        learnt["granted"].append(team.granted(lambda: (False, False)))
    learnt["points"] = [team.points(first_number, random_episodes((6,), num_tasks, 2, 1), 1) for num_tasks in (1, 3)]
    return learnt


def first_number(episodes: Episodes) -> torch.Tensor:
    """A measurement of each task that is easily told from another's, (1, T, 2)."""
    return episodes.support_x[:, 0, 0].double().reshape(1, -1, 1).expand(-1, -1, 2)
