"""Speed and peak memory of the engine on linear models, as ratios to the reference of `tests/naive.py`.

    python -m tests.benchmarks.bench_linear            # everything, a minute or two on idle cores
    python -m tests.benchmarks.bench_linear --quick    # fewer rounds

Both sides run here and now, on the same machine, in a shuffled order; a ratio is the median over rounds of the ratio
within a round, so that a machine that slows down in between slows both. Nothing is asserted: numbers are for people.

The reference runs one task (and seed) at a time and gives every task its own copy of each factor, multiplied as
matrices (not the dense Kronecker products of the small tests), with one backward pass a step and no copies made to
look bad.
"""

import argparse
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from core import TrainConfig, make_model, make_optimizer, make_tasks, meta_gradient, meta_train_many
from core.adaptation import InnerLoop, one_replica
from core.compilation import compile_meta_gradient
from core.models.linear import LR
from core.tasks.ahead import DrawnAhead
from core.tasks.base import Episodes, concatenate
from core.training import Group
from tests import naive
from tests.benchmarks.measuring import largest_difference, on_threads, paired, report
from tests.naive import NaiveRule

WAYS, INPUTS, MAPS, STEPS, LR_RATE = 5, 784, 4, 2, 0.01
TASKS = 32
MEMORY_TASKS = (8, 16, 32, 64)
SEEDS = 5


# KFC on logistic regression: 784 inputs, 5-way 1-shot, 2 steps


def omniglot_like(num_tasks: int) -> Episodes:
    """Random images in the shape of 5-way 1-shot tasks, with one query example a class."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, num_tasks, WAYS, INPUTS, generator=generator)
    y = torch.arange(WAYS).expand(num_tasks, WAYS)
    return Episodes(x[0], y, x[1], y)


def kfc_setting(num_tasks: int):
    """Model, theta, xi and episodes; xi slightly off its start, so that nothing is trivially the identity."""
    torch.manual_seed(0)
    model = LR(INPUTS, WAYS)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    xi = naive.randomise(make_optimizer("kfc", depth=MAPS).init(theta), strength=1e-3)
    return model, theta, xi, omniglot_like(num_tasks)


def kfc_step(side: str, num_tasks: int) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
    """One meta-gradient of a side: "ours", "naive", or "naive, one graph" (a single backward pass for all tasks)."""
    model, theta, xi, episodes = kfc_setting(num_tasks)
    rule, naive_rule = make_optimizer("kfc", depth=MAPS), NaiveRule("kfc", depth=MAPS)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        if side == "ours":
            loss, (g_theta, g_xi) = meta_gradient(
                model, rule, theta, xi, episodes, steps=STEPS, lr=LR_RATE, first_order=False
            )
        else:
            loss, (g_theta, g_xi) = naive.meta_gradient(
                model, naive_rule, theta, xi, episodes, steps=STEPS, lr=LR_RATE, one_graph=side != "naive"
            )
        return loss, g_theta | g_xi

    return run


def kfc_compiled(num_tasks: int) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
    """Our meta-gradient as training with `compile` takes it."""
    model, theta, xi, episodes = kfc_setting(num_tasks)
    replica = one_replica(theta), one_replica(xi)
    rule, loop = make_optimizer("kfc", depth=MAPS), InnerLoop(STEPS, LR_RATE, first_order=False)
    compiled = compile_meta_gradient(model, rule, *replica, episodes, loop)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        loss, g_theta, g_xi = compiled(*replica, episodes)
        return loss[0], {name: grad[0] for name, grad in (g_theta | g_xi).items()}

    return run


# Synthetic LinNet: 5 seeds, 1,000 points, one task a step, sampling and the SGD update included


def linnet_configs(iterations: int) -> list[TrainConfig]:
    """The paper's LinNet on synthetic tasks, for each seed; the curve's two ends cost next to nothing."""
    config = TrainConfig(
        dataset="synthetic", model="linnet", hidden=(64, 64, 64), method="maml", steps=1, adapt_lr=1.9,
        first_order=False, meta_optimizer="sgd", meta_lr=1.9, iterations=iterations, tasks_per_iteration=1,
        eval_tasks=1,
    )  # fmt: skip
    return [replace(config, seed=seed) for seed in range(SEEDS)]


def linnet_ours(iterations: int) -> dict[str, Tensor]:
    """Theta of all seeds after a whole training of this length, as a user starts it."""
    runs = meta_train_many(linnet_configs(iterations), results=None, device="cpu", progress=False)
    return {f"{name}.{i}": tensor for i, run in enumerate(runs) for name, tensor in run.theta.items()}


def linnet_steps(*, compile: bool) -> Callable[[int], None]:
    """A function that makes some more iterations of all seeds, sampling included, in a training that is under way."""
    configs = linnet_configs(0)
    sources = {config.seed: make_tasks("synthetic", seed=config.seed) for config in configs}
    group = Group(configs, list(sources.values()), None, torch.device("cpu"), compile=compile)

    def run(iterations: int) -> None:
        with DrawnAhead(sources, 1, group.iteration) as batches:
            for _ in range(iterations):
                group.step(concatenate(list(batches.take().values())))

    return run


def linnet_naive(iterations: int) -> dict[str, Tensor]:
    """The same by the reference: seed by seed, on the same tasks, from the same weights."""
    thetas = {}
    for i, config in enumerate(linnet_configs(iterations)):
        source = make_tasks("synthetic", seed=config.seed)
        model = make_model("linnet", source, seed=config.seed, hidden=config.hidden)
        theta = {name: p.detach() for name, p in model.named_parameters()}
        for iteration in range(iterations):
            episodes = source.sample("train", 1, iteration)
            _, (g_theta, _) = naive.meta_gradient(
                model, NaiveRule("sgd"), theta, {}, episodes, steps=config.steps, lr=config.adapt_lr
            )
            theta = {name: tensor - config.meta_lr * g_theta[name] for name, tensor in theta.items()}
        thetas |= {f"{name}.{i}": tensor for name, tensor in theta.items()}
    return thetas


# Memory


def peak_bytes() -> int:
    """The largest resident size of this process so far.

    On Linux it is read from the process itself: what `getrusage` says starts at the size of the process that started
    this one, and so hides everything smaller.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024


def measure_memory(side: str, num_tasks: int) -> None:
    """In a process of its own: print by how many bytes the peak exceeds that of the imports, the data and one task."""
    kfc_step(side, 1)()
    run = kfc_step(side, num_tasks)
    before = peak_bytes()
    run()
    print(peak_bytes() - before)


def memory_table(num_threads: int) -> pd.DataFrame:
    """MiB above a single task's peak of each side, for numbers of tasks."""
    module = [sys.executable, "-m", "tests.benchmarks.bench_linear", "--threads", str(num_threads)]
    rows = []
    for num_tasks in MEMORY_TASKS:
        row: dict[str, float] = {"tasks": num_tasks}
        for side in ("ours", "naive", "naive, one graph"):
            command = [*module, "--memory", side, str(num_tasks)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row[f"{side}, MiB"] = round(int(done.stdout) / 2**20, 1)
        row[f"tasks x {MAPS} x {INPUTS}^2 floats, MiB"] = round(num_tasks * MAPS * INPUTS**2 * 4 / 2**20, 1)
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no memory")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--memory", nargs=2, metavar=("SIDE", "TASKS"), help="used by the benchmark itself")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        measure_memory(arguments.memory[0], int(arguments.memory[1]))
        return
    threads = arguments.threads
    rounds = 3 if arguments.quick else 9
    print(f"PyTorch {torch.__version__}, float32, at most {threads} threads\n")

    print(f"KFC with {MAPS} maps on a {INPUTS} x {WAYS} layer, {TASKS} tasks, {STEPS} steps, second order")
    ours, naive_step, compiled = kfc_step("ours", TASKS), kfc_step("naive", TASKS), kfc_compiled(TASKS)
    for name, step in (("eager", ours), ("compiled", compiled)):
        print(f"{name}: {largest_difference(step()[1], naive_step()[1])}")
    sides = {
        f"ours, {threads} threads": (on_threads(threads, ours), 1),
        f"ours, compiled, {threads} threads": (on_threads(threads, compiled), 1),
        f"naive, {threads} threads": (on_threads(threads, naive_step), 1),
    }
    print(report(paired(sides, rounds)).to_string(index=False), "\n")

    if not arguments.quick:
        print("The same: peak memory above that of one task, each in a process of its own")
        print(memory_table(threads).to_string(index=False), "\n")

    print(f"Synthetic LinNet 100-64-64-64-1, 1,000 points, {SEEDS} seeds, 1 task a step, sampling and update included")
    print(largest_difference(linnet_ours(5), linnet_naive(5)))
    eager, compiled_steps = linnet_steps(compile=False), linnet_steps(compile=True)
    trainings: dict[str, tuple[Callable[[], object], int]] = {}
    for n in sorted({1, threads}):
        trainings |= {
            f"ours, {n} threads": (on_threads(n, lambda: eager(100)), 100),
            f"ours, compiled, {n} threads": (on_threads(n, lambda: compiled_steps(100)), 100),
            f"naive, {n} threads": (on_threads(n, lambda: linnet_naive(20)), 20),
        }
    print(report(paired(trainings, rounds)).to_string(index=False))


if __name__ == "__main__":
    main()
