import shutil

import pytest

from core import TrainConfig, meta_train


@pytest.fixture(scope="session")
def tiny():
    """Makes configurations that train in a blink; keyword arguments change them."""

    def make(**changes):
        settings = {
            "dataset": "synthetic", "model": "lr", "method": "klin", "steps": 1, "adapt_lr": 1.0, "first_order": False,
            "meta_optimizer": "sgd", "meta_lr": 0.1, "iterations": 4, "tasks_per_iteration": 2, "points": 30,
            "eval_every": 2, "eval_tasks": 3,
        }  # fmt: skip
        return TrainConfig(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory):
    """Trained once; tests get copies."""
    results = tmp_path_factory.mktemp("trained")
    for changes in ({"method": "maml"}, {"model": "linnet", "hidden": (4,), "method": "maml"}, {"method": "klin"}):
        meta_train(tiny(**changes), results=results, progress=False)
    return results


@pytest.fixture(scope="session")
def trained_cnn(tiny, tmp_path_factory):
    """A folder with one run of a small CNN on glyphs, trained with KFC."""
    results = tmp_path_factory.mktemp("trained_cnn")
    config = tiny(
        dataset="glyphs", model="cnn", depth=2, filters=4, norm_mode="batch", method="kfc", rule_depth=2,
        unit_norm=True, steps=2, adapt_lr=0.5, points=None, ways=3, shots=2, endless=True,
    )  # fmt: skip
    meta_train(config, results=results, progress=False)
    return results


@pytest.fixture
def saved(trained, tmp_path):
    """A results folder with three finished runs: LR, LinNet and KLin on synthetic tasks."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def saved_cnn(saved, trained_cnn):
    """The same, with a CNN on glyphs beside them."""
    shutil.copytree(trained_cnn, saved, dirs_exist_ok=True)
    return saved
