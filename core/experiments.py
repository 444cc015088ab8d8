"""The paper's experiments as lists of configurations, at full or reduced length."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from core.config import TrainConfig
from core.errors import unknown_name

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


EXPERIMENTS: dict[str, Callable[..., list[TrainConfig]]] = {
    "synthetic_linear": synthetic_linear,
    "glyphs_linear": lambda **lengths: image_linear("glyphs", **lengths),
    "omniglot_linear": lambda **lengths: image_linear("omniglot", **lengths),
    "omniglot_small_linear": lambda **lengths: image_linear("omniglot_small", **lengths),
}

# What the quick preset shortens; everything else is as in the paper.
QUICK: dict[str, dict[str, int]] = {
    "synthetic_linear": {},
    "glyphs_linear": {"iterations": 300},
    "omniglot_linear": {"iterations": 300},
    "omniglot_small_linear": {"iterations": 300},
}


def experiment(name: str, preset: str, **lengths: int) -> tuple[list[TrainConfig], list[str]]:
    """The configurations of an experiment, and a sentence for each way in which it is shorter than the paper's.

    Args:
        name: a name in `EXPERIMENTS`.
        preset: "paper" for the full length, "quick" for what a laptop does in minutes.
        lengths: `iterations` or `seeds`, where they differ from the preset's.

    Raises:
        UserError: for an unknown name or preset.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    lengths = {**(QUICK[name] if preset == "quick" else {}), **lengths}
    full, configs = EXPERIMENTS[name](), EXPERIMENTS[name](**lengths)
    reductions = []
    if configs[0].iterations < full[0].iterations:
        reductions.append(f"{name}: {configs[0].iterations:,} iterations in place of {full[0].iterations:,}")
    return configs, reductions
