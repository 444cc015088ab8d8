"""The paper's experiments have its settings (appendix A.1), and name the runs of the record."""

from pathlib import Path

import pytest

from core.experiments import EXPERIMENTS, experiment

RECORD = Path(__file__).parents[2] / "results" / "training_curves"

SYNTHETIC = {  # model, method: meta and adaptation rate, hidden layers, maps of the rule
    ("lr", "maml"): (0.01, 0.5, None, None),
    ("linnet", "maml"): (1.9, 1.9, (64, 64, 64), None),
    ("lr", "klin"): (3.33, 3.33, None, None),
    ("lr", "kfc"): (3.9, 3.9, None, 2),
}
CHARACTERS = {
    ("lr", "maml"): (0.0005, 1.0, None, None),
    ("linnet", "maml"): (0.0005, 0.08, (256, 128, 64, 64), None),
    ("lr", "klin"): (0.003, 0.9, None, None),
    ("lr", "kfc"): (0.001, 0.01, None, 4),
}
NETWORKS = {  # ways, shots, steps, meta rate, filters, what halves the image
    "omniglot": (10, 5, 4, 0.003, 64, "stride"),
    "cifar_fs": (10, 3, 2, 0.003, 32, "stride"),
    "mini_imagenet": (10, 1, 5, 0.0005, 32, "max_pool"),
}
ADAPT_LR = {  # of two and of four layers, in this order where they differ
    "omniglot": {"maml": (0.8, 0.5), "meta_sgd": (0.5,), "meta_curvature": (0.5,), "kfc": (0.5, 0.5)},
    "cifar_fs": {"maml": (0.7, 0.7), "meta_sgd": (0.5,), "meta_curvature": (0.5,), "kfc": (0.5, 0.5)},
    "mini_imagenet": {"maml": (0.07, 0.07), "meta_sgd": (0.1,), "meta_curvature": (0.09,), "kfc": (0.005, 0.005)},
}


def like(dataset):
    return "omniglot" if dataset in ("glyphs", "omniglot_small") else dataset


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.endswith("_linear")])
def test_linear_experiments_have_the_papers_settings(name):
    of_synthetic = name == "synthetic_linear"
    configs, reductions = experiment(name, "paper")
    assert not reductions
    found = {(c.model, c.method): (c.meta_lr, c.adapt_lr, c.hidden, c.rule_depth) for c in configs}
    assert found == (SYNTHETIC if of_synthetic else CHARACTERS)
    for c in configs:
        common = (c.meta_optimizer, c.steps, c.iterations, c.tasks_per_iteration, c.ways, c.shots, c.first_order)
        stated = ("sgd", 1, 30_000, 1, None, None, False) if of_synthetic else ("adam", 2, 60_000, 32, 5, 1, False)
        assert common == stated
        assert c.bias is None, "the models have none"
        assert c.unit_norm is None, "that is of the nonlinear experiments"


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.endswith(("_depth", "_optimizers", "_layers"))])
def test_nonlinear_experiments_have_the_papers_settings(name):
    dataset, _, kind = name.rpartition("_")
    for c in experiment(name, "paper")[0]:
        found = (c.ways, c.shots, c.steps, c.meta_lr, c.filters, c.downsample)
        assert found == NETWORKS[like(dataset)], c.id
        assert (c.model, c.meta_optimizer, c.norm_mode, c.tasks_per_iteration) == ("cnn", "adam", "batch", 32)
        rates = ADAPT_LR[like(dataset)][c.method]
        assert c.adapt_lr == rates[0 if c.depth <= 2 else 1], c.id
        assert (c.rule_depth, c.unit_norm) == ((4, True) if c.method == "kfc" else (None, None))
    pairs = {(c.depth, c.method) for c in experiment(name, "paper")[0]}
    assert (
        pairs
        == {
            "layers": {(4, "maml")},
            "depth": {(depth, method) for depth in (1, 2, 3, 4) for method in ("maml", "kfc")},
            "optimizers": {(2, method) for method in ("maml", "meta_sgd", "meta_curvature", "kfc")},
        }[kind]
    )


SHORTER = {"iterations": 1000, "tasks_per_iteration": 4, "eval_tasks": 50}  # as results/README.md says


@pytest.mark.parametrize(
    ("name", "preset", "lengths"),
    [
        ("synthetic_linear", "paper", {"seeds": 10}),
        ("glyphs_linear", "quick", {"iterations": 300}),
        ("omniglot_small_linear", "paper", {}),
        *((f"{d}_{kind}", "paper", SHORTER) for d in ("glyphs", "omniglot_small") for kind in ("depth", "optimizers")),
    ],
)
def test_the_runs_are_those_of_the_record(name, preset, lengths):
    configs, _ = experiment(name, preset, **lengths)
    assert {config.id for config in configs} <= {path.stem for path in RECORD.glob("*.parquet")}
