"""The paper's experiments as lists of configurations, at full or reduced length."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from core.config import TrainConfig
from core.errors import UserError, unknown_name
from core.methods import METHODS

PRESETS = ("quick", "paper")

# Each model and method with the learning rates of A.1.1.
_SYNTHETIC: tuple[dict[str, Any], ...] = (
    {"model": "lr", "method": "maml", "meta_lr": 0.01, "adapt_lr": 0.5},
    {"model": "linnet", "hidden": (64, 64, 64), "method": "maml", "meta_lr": 1.9, "adapt_lr": 1.9},
    {"model": "lr", "method": "klin", "meta_lr": 3.33, "adapt_lr": 3.33},
    {"model": "lr", "method": "kfc", "rule_depth": 2, "meta_lr": 3.9, "adapt_lr": 3.9},
)
_IMAGES: tuple[dict[str, Any], ...] = (
    {"model": "lr", "method": "maml", "meta_lr": 0.0005, "adapt_lr": 1.0},
    {"model": "linnet", "hidden": (256, 128, 64, 64), "method": "maml", "meta_lr": 0.0005, "adapt_lr": 0.08},
    {"model": "lr", "method": "klin", "meta_lr": 0.003, "adapt_lr": 0.9},
    {"model": "lr", "method": "kfc", "rule_depth": 4, "meta_lr": 0.001, "adapt_lr": 0.01},
)


def synthetic_linear(*, iterations: int = 30_000, seeds: int = 5) -> list[TrainConfig]:
    """Linear models on half-space tasks (Fig. 1 left, Table 1, Fig. A.1 left)."""
    common = TrainConfig(
        dataset="synthetic",
        model="lr",
        method="maml",
        meta_lr=0.0,
        adapt_lr=0.0,
        steps=1,
        first_order=False,
        meta_optimizer="sgd",
        iterations=iterations,
        tasks_per_iteration=1,
        eval_every=2_000,
        eval_tasks=20,
    )
    return [replace(common, **method, seed=seed) for method in _SYNTHETIC for seed in range(seeds)]


def image_linear(dataset: str, *, iterations: int = 60_000, seeds: int = 3) -> list[TrainConfig]:
    """Linear models on characters, 5-way 1-shot (Fig. 1 right, Table 1, Fig. A.1 right)."""
    common = TrainConfig(
        dataset=dataset,
        model="lr",
        method="maml",
        meta_lr=0.0,
        adapt_lr=0.0,
        steps=2,
        first_order=False,
        meta_optimizer="adam",
        iterations=iterations,
        tasks_per_iteration=32,
        ways=5,
        shots=1,
        eval_every=max(1, iterations // 15),
        eval_tasks=100,
    )
    return [replace(common, **method, seed=seed) for method in _IMAGES for seed in range(seeds)]


# The nonlinear experiments (A.1.2): each data set's tasks, network and meta learning rate, and the adaptation learning
# rate of every method; MAML's on Omniglot is stated for 2 and 4 layers, and taken for 1 and 3 from the next larger.
_CNN: dict[str, dict[str, Any]] = {
    "omniglot": {"ways": 10, "shots": 5, "steps": 4, "filters": 64, "downsample": "stride", "meta_lr": 0.003},
    "cifar_fs": {"ways": 10, "shots": 3, "steps": 2, "filters": 32, "downsample": "stride", "meta_lr": 0.003},
    "mini_imagenet": {"ways": 10, "shots": 1, "steps": 5, "filters": 32, "downsample": "max_pool", "meta_lr": 0.0005},
}
_CNN_ADAPT_LR: dict[str, dict[str, float]] = {
    "omniglot": {"maml": 0.5, "meta_sgd": 0.5, "meta_curvature": 0.5, "kfc": 0.5},
    "cifar_fs": {"maml": 0.7, "meta_sgd": 0.5, "meta_curvature": 0.5, "kfc": 0.5},
    "mini_imagenet": {"maml": 0.07, "meta_sgd": 0.1, "meta_curvature": 0.09, "kfc": 0.005},
}


def image_cnn(
    dataset: str,
    settings: Sequence[tuple[int, str]],
    *,
    iterations: int = 60_000,
    seeds: int = 3,
    tasks_per_iteration: int = 32,
    eval_tasks: int = 50,
) -> list[TrainConfig]:
    """Convolutional networks on images, for each of `settings`, a number of layers and a method.

    The paper states neither the iterations nor, but for Omniglot, the tasks of an iteration: they are those of its
    Omniglot experiments throughout.
    """
    like = "omniglot" if dataset in ("glyphs", "omniglot_small") else dataset
    common = TrainConfig(
        dataset=dataset,
        model="cnn",
        method="maml",
        adapt_lr=0.0,
        first_order=False,
        meta_optimizer="adam",
        iterations=iterations,
        tasks_per_iteration=tasks_per_iteration,
        norm_mode="batch",
        eval_every=max(50, iterations // 10),
        eval_tasks=eval_tasks,
        **_CNN[like],
    )
    configs = []
    for depth, method in settings:
        # Methods that the paper does not have take the rate, and what goes with it, of the one they are variants of.
        base = {"sgd": "maml"}.get(METHODS[method].rule, METHODS[method].rule)
        adapt_lr = 0.8 if like == "omniglot" and base == "maml" and depth <= 2 else _CNN_ADAPT_LR[like][base]
        rule: dict[str, Any] = {"rule_depth": 4, "unit_norm": True} if method == "kfc" else {}
        first_order = METHODS[method].first_order
        of_all_seeds = replace(common, depth=depth, method=method, adapt_lr=adapt_lr, first_order=first_order, **rule)
        configs += [replace(of_all_seeds, seed=seed) for seed in range(seeds)]
    return configs


_CNN_EXPERIMENTS: dict[str, tuple[tuple[int, str], ...]] = {
    "layers": ((4, "maml"),),  # Fig. 2
    "depth": tuple((depth, method) for method in ("maml", "kfc") for depth in (1, 2, 3, 4)),  # Fig. 3, Table A1
    "optimizers": tuple((2, method) for method in ("maml", "meta_sgd", "meta_curvature", "kfc")),  # Table 2
    # Not in the paper: what adapts, whether its rate does, and how the outer loop learns.
    "variants": tuple((2, name) for name in ("maml", "anil", "boil", "fomaml", "reptile", "meta_sgd", "alpha_maml")),
}
IMAGE_DATASETS = ("glyphs", "omniglot", "omniglot_small")

EXPERIMENTS: dict[str, Callable[..., list[TrainConfig]]] = {
    "synthetic_linear": synthetic_linear,
    **{f"{dataset}_linear": partial(image_linear, dataset) for dataset in IMAGE_DATASETS},
    **{
        f"{dataset}_{name}": partial(image_cnn, dataset, settings)
        for dataset in (*IMAGE_DATASETS, "cifar_fs", "mini_imagenet")
        for name, settings in _CNN_EXPERIMENTS.items()
    },
}

# What the quick preset shortens; everything else is as in the paper.
_QUICK_CNN = {"iterations": 30, "tasks_per_iteration": 4, "seeds": 1, "eval_tasks": 20}
QUICK: dict[str, dict[str, int]] = {
    name: {} if name == "synthetic_linear" else {"iterations": 200} if name.endswith("_linear") else _QUICK_CNN
    for name in EXPERIMENTS
}


def experiment(name: str, preset: str, **lengths: int) -> tuple[list[TrainConfig], list[str]]:
    """The configurations of an experiment, and a sentence for each way in which it is shorter than the paper's.

    Args:
        name: a name in `EXPERIMENTS`.
        preset: "paper" for the full length, "quick" for what a laptop does in minutes.
        lengths: `iterations`, `seeds` or (convolutional networks) `tasks_per_iteration` and `eval_tasks`, where they
            differ from the preset's.

    Raises:
        UserError: for an unknown name or preset, or a length that the experiment does not have.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    lengths = {**(QUICK[name] if preset == "quick" else {}), **lengths}
    accepted = inspect.signature(EXPERIMENTS[name]).parameters
    if refused := sorted(lengths.keys() - accepted.keys()):
        raise UserError(f"experiment {name!r} has a fixed number of {', '.join(refused).replace('_', ' ')}")
    for what, number in lengths.items():
        if number < 1:
            raise UserError(f"{what.replace('_', ' ')} must be at least 1, got {number}")
    full, configs = EXPERIMENTS[name](), EXPERIMENTS[name](**lengths)
    reductions = []
    for what in ("iterations", "tasks_per_iteration", "eval_tasks"):
        short, long = getattr(configs[0], what), getattr(full[0], what)
        if short < long:
            reductions.append(f"{name}: {short:,} {what.replace('_', ' ')} in place of {long:,}")
    if len(configs) < len(full):
        reductions.append(f"{name}: {len(configs):,} runs in place of {len(full):,}, by fewer seeds")
    return configs, reductions
