"""Seconds of a meta-step by one process of several threads, and by as many processes of one thread each.

    torchrun --standalone --nproc-per-node 2 -m tests.benchmarks.bench_distributed            # some minutes
    torchrun --standalone --nproc-per-node 2 -m tests.benchmarks.bench_distributed --quick    # fewer rounds

Rounds are paired and their order is shuffled, the same in every process; nothing is asserted. While the first works
alone, the others sleep.
"""

import argparse
import os
from collections.abc import Callable

import torch
from torch import Tensor

from core import TrainConfig, make_tasks
from core.distributed import ALONE, Alone, join, leave, one_voice
from core.group import Group
from core.threads import threads
from tests.benchmarks.measuring import paired
from tests.benchmarks.suite import difference

WAYS, SHOTS, STEPS, TASKS = 10, 5, 4, 32
TASKS_PER_CHUNK = 4  # of each process, on both sides: bounds the memory
CPU = torch.device("cpu")


def group_of(team: Alone) -> Group:
    """MAML on the network of four layers, before its first iteration."""
    config = TrainConfig(
        dataset="glyphs", ways=WAYS, shots=SHOTS, model="cnn", depth=4, method="maml", steps=STEPS, adapt_lr=0.1,
        first_order=False, meta_optimizer="adam", meta_lr=0.003, iterations=1, tasks_per_iteration=TASKS,
    )  # fmt: skip
    source = make_tasks("glyphs", ways=WAYS, shots=SHOTS, seed=0)
    return Group([config], [source], None, CPU, TASKS_PER_CHUNK, team=team)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if parser.parse_args().quick else 7
    team = join(CPU)
    alone, shared = group_of(ALONE), group_of(team)
    episodes = alone.sources[0].sample("train", TASKS, 0)

    def gradients(group: Group) -> dict[str, Tensor]:
        _, g_theta, g_xi = group.team.meta_gradient(group._meta_gradient, episodes, 1)
        return g_theta | g_xi

    def by_one(num_threads: int) -> None:
        with threads(num_threads):
            if team.rank == 0:
                alone.step(episodes)
            team.any(False)

    def by_all() -> None:
        with threads(1):
            shared.step(episodes)
            team.any(False)

    print(f"PyTorch {torch.__version__}, float32; load of the machine, 1 minute: {os.getloadavg()[0]:.1f}")
    print(f"MAML, CNN of 4 layers, {WAYS}-way {SHOTS}-shot, {STEPS} steps, {TASKS} tasks, {TASKS_PER_CHUNK} at once")
    torch.set_num_threads(1)
    together = gradients(shared)
    if team.rank == 0:
        print(f"largest relative difference of a tensor: {difference(together, gradients(alone)):.1e}")
    reference = f"1 process, {team.size} threads"
    sides: dict[str, Callable[[], object]] = {
        reference: lambda: by_one(team.size),
        "1 process, 1 thread": lambda: by_one(1),
        f"{team.size} processes, 1 thread each": by_all,
    }
    # Every process draws the same order. The gradients above have set things up.
    seconds = paired(sides, rounds)
    for name in sides:
        ratios = seconds[reference] / seconds[name]
        print(
            f"{name}: {seconds[name].median():.2f} s, {ratios.median():.2f} times as fast as {reference} "
            f"({ratios.min():.2f} to {ratios.max():.2f})",
            flush=True,
        )
    print(f"load of the machine, 1 minute: {os.getloadavg()[0]:.1f}")
    leave()


if __name__ == "__main__":
    with one_voice():
        main()
