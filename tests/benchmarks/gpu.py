"""What a GPU makes of the paper's largest experiment: `python -m tests.benchmarks.gpu`, on a machine with one.

CNN-4 with MAML on Omniglot-shaped tasks, 10-way 5-shot, 4 steps, 32 tasks an iteration: the time of an iteration,
drawing and outer step included, in each of the engine's forms beside the naive reference on the same GPU, and the
minutes that the paper's 60,000 iterations take. `--device cpu --tasks 2 --filters 8` goes through the same code
anywhere.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from core import TrainConfig, make_tasks
from core.experiments import experiment
from core.group import Group
from tests import naive

ITERATIONS = 60_000
# Name, TF32, and options of the training.
FORMS: dict[str, tuple[bool, dict[str, object]]] = {
    "eager": (False, {}),
    "eager, TF32": (True, {}),
    "eager, bfloat16": (True, {"inner_dtype": "bfloat16"}),
    "compiled": (False, {"compile": True}),
    "compiled, TF32": (True, {"compile": True}),
    "compiled, bfloat16": (True, {"compile": True, "inner_dtype": "bfloat16"}),
    "rematerialised, TF32": (True, {"rematerialise": True}),
}


@contextmanager
def tensor_cores(allowed: bool) -> Iterator[None]:
    """Whether products and convolutions may be in TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def seconds(run: Callable[[], object], device: torch.device, calls: int) -> float:
    """The median of some calls, each waited for."""
    taken = []
    for _ in range(calls):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def step_of(config: TrainConfig, device: torch.device, inner_dtype: str | None = None, **options: bool) -> Callable:
    """An iteration of a training that has begun."""
    config = replace(config, inner_dtype=inner_dtype)
    source = make_tasks(config.dataset, seed=0, device=device, **config.task_options())
    group = Group([config], [source], None, device, **options)
    return lambda: group.step(source.sample("train", config.tasks_per_iteration, group.iteration))


def naive_step(config: TrainConfig, device: torch.device) -> Callable:
    """The naive reference, task by task, on the same device."""
    source = make_tasks(config.dataset, seed=0, device=device, **config.task_options())
    model = Group([config], [source], None, device).model
    theta = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def run() -> None:
        episodes = source.sample("train", config.tasks_per_iteration, 0)
        naive.meta_gradient(
            model, naive.NaiveRule("sgd"), theta, {}, episodes, steps=config.steps, lr=config.adapt_lr,
            first_order=False,
        )  # fmt: skip

    return run


def main() -> int:
    """Measure and print; the exit code is 2 where there is no such device."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tasks", type=int, default=32, help="tasks in an iteration (default 32)")
    parser.add_argument("--filters", type=int, default=64, help="channels of each convolution (default 64)")
    parser.add_argument("--calls", type=int, default=20, help="iterations that are timed (default 20)")
    parser.add_argument("--form", nargs="+", choices=FORMS, default=list(FORMS), help="default all")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("error: there is no GPU here; --device cpu goes through the same code", file=sys.stderr)
        return 2
    device = torch.device(given.device)
    (config, *_), _ = experiment("glyphs_layers", "paper", tasks_per_iteration=given.tasks, seeds=1)
    config = replace(config, filters=given.filters)
    print(torch.cuda.get_device_name() if device.type == "cuda" else "CPU", torch.__version__)
    reference = naive_step(config, device)
    reference()
    slowest = seconds(reference, device, max(3, given.calls // 5))
    print(f"{'naive':22} {1000 * slowest:9.1f} ms", flush=True)
    for name in given.form:
        tf32, options = FORMS[name]
        with tensor_cores(tf32):
            started = time.perf_counter()
            step = step_of(config, device, **options)  # type: ignore[arg-type]
            seconds(step, device, 3)
            begun = time.perf_counter() - started
            one = seconds(step, device, given.calls)
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
        print(
            f"{name:22} {1000 * one:9.1f} ms  {slowest / one:6.1f} times naive  {ITERATIONS * one / 60:8.1f} minutes "
            f"for {ITERATIONS:,} iterations  {memory:5.1f} GiB at most so far  {begun:4.0f} s to begin",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
