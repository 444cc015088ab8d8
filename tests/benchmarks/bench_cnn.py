"""Speed of the engine and of a study on convolutional networks, as ratios to a baseline in the same run.

    python -m tests.benchmarks.bench_cnn            # some minutes on idle cores
    python -m tests.benchmarks.bench_cnn --quick    # fewer rounds

Measured as in `bench_linear`; nothing is asserted. Images are random: how long a step takes does not depend on them.
"""

import argparse
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from analysis.interventions import adapt_only, freeze
from analysis.layer_roles import layer_roles
from analysis.tasks import draw_test_tasks
from core import Episodes, Run, TrainConfig, evaluate, make_optimizer, meta_gradient, meta_train
from core.models.conv import CNN
from core.models.layers import layers_of
from tests import naive
from tests.benchmarks.measuring import largest_difference, on_threads, paired, report
from tests.naive import NaiveRule

WAYS, SHOTS, STEPS, RATE = 10, 5, 4, 0.1
MAPS, TASKS = 4, 8
STUDY_TASKS = 100


# KFC on the network of two layers: a meta-gradient


def kfc_step(side: str, dtype: torch.dtype = torch.float32) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
    """One meta-gradient of a side: "ours", "naive" or "naive, two passes"."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, TASKS, WAYS * SHOTS, 1, 28, 28, generator=generator)
    y = torch.arange(WAYS).repeat_interleave(SHOTS).expand(TASKS, -1)
    episodes = Episodes(x[0], y, x[1], y).to(dtype=dtype)
    torch.manual_seed(0)
    model = CNN(1, WAYS, depth=2).to(dtype)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    rule = make_optimizer("kfc", depth=MAPS, unit_norm=True)
    xi = naive.randomise(rule.init(theta), strength=1e-3)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        if side == "ours":
            loss, (g_theta, g_xi) = meta_gradient(
                model, rule, theta, xi, episodes, steps=STEPS, lr=RATE, first_order=False
            )
        else:
            loss, (g_theta, g_xi) = naive.meta_gradient(
                model, NaiveRule("kfc", depth=MAPS, unit_norm=True), theta, xi, episodes, steps=STEPS, lr=RATE,
                two_passes=side == "naive, two passes",
            )  # fmt: skip
        return loss, g_theta | g_xi

    return run


def without_conv_biases(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch normalisation takes a convolution's bias away: its true gradient is 0, and what is computed is rounding."""
    return {name: gradient for name, gradient in gradients.items() if ".conv.bias" not in name}


# The study of the layers' roles: eleven interventions


def untrained_run() -> Run:
    """A network of four layers on glyphs, as if it had been trained: weights make no difference to the clock."""
    return meta_train(
        TrainConfig(
            dataset="glyphs", ways=WAYS, shots=SHOTS, model="cnn", depth=4, method="maml", steps=STEPS, adapt_lr=RATE,
            first_order=False, meta_optimizer="adam", meta_lr=0.003, iterations=0, tasks_per_iteration=1, eval_tasks=1,
        ),
        results=None,
        device="cpu",
        progress=False,
    )  # fmt: skip


def separate_evaluations(run: Run) -> pd.DataFrame:
    """What the study measures, by an evaluation of the whole network for each intervention on the same tasks."""
    config, names = run.config, list(run.theta)
    episodes = draw_test_tasks(run.tasks(seed=0), STUDY_TASKS)
    layers = layers_of(names)
    plans = [None, *(freeze(layer) for layer in layers), *(adapt_only(layer) for layer in layers)]
    tables = [
        evaluate(
            run.model, run.rule, run.theta, run.xi, episodes, steps=config.steps, lr=config.adapt_lr,
            adapted=None if plan is None else plan.adapted(names),
        )
        for plan in plans
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def differences(study: pd.Series, separate: pd.Series) -> str:
    """That both measured the same, up to rounding.

    A rounding can put a unit on the other side of ReLU's kink, with another derivative, and a task's losses part from
    then on. So the share of losses that agree is told beside the largest difference.
    """
    apart = abs(study.to_numpy() - separate.to_numpy())
    return f"{(apart < 1e-5).mean():.1%} of the losses agree within 1e-5; the largest difference is {apart.max():.1e}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    arguments = parser.parse_args()
    threads = arguments.threads
    torch.set_num_threads(threads)
    print(f"PyTorch {torch.__version__}, float32, {threads} threads\n")

    print(f"KFC with {MAPS} maps, CNN of 2 layers, {WAYS}-way {SHOTS}-shot, {TASKS} tasks, {STEPS} steps, second order")
    # In double precision: in single, unit-norm gradients and ReLU amplify the roundings of both sides alike.
    exact = [without_conv_biases(kfc_step(side, torch.float64)()[1]) for side in ("ours", "naive")]
    print(f"{largest_difference(*exact)} (float64)")
    steps = {side: kfc_step(side) for side in ("ours", "naive", "naive, two passes")}
    seconds = paired(
        {side: (on_threads(threads, step), 1) for side, step in steps.items()}, 3 if arguments.quick else 7
    )
    print(report(seconds, "naive, two passes").to_string(index=False), "\n")

    print(
        f"layer_roles: 11 interventions, CNN of 4 layers, {STUDY_TASKS} tasks, {WAYS}-way {SHOTS}-shot, {STEPS} steps"
    )
    run = untrained_run()
    study, separate = layer_roles(run, num_tasks=STUDY_TASKS), separate_evaluations(run)
    print(differences(study["loss"], separate["loss"]))
    sides: dict[str, tuple[Callable[[], object], int]] = {
        "the study": (on_threads(threads, lambda: layer_roles(run, num_tasks=STUDY_TASKS)), 1),
        "eleven evaluations": (on_threads(threads, lambda: separate_evaluations(run)), 1),
    }
    seconds = paired(sides, 1 if arguments.quick else 3, warm_up=False)
    print(report(seconds, "eleven evaluations").to_string(index=False))


if __name__ == "__main__":
    main()
