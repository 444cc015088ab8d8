import pytest

from core import TrainConfig


@pytest.fixture
def tiny_config():
    """A configuration that trains in a blink; keyword arguments change it."""

    def make(**changes):
        settings = {
            "dataset": "synthetic", "model": "lr", "method": "klin", "steps": 2, "adapt_lr": 1.0, "first_order": False,
            "meta_optimizer": "adam", "meta_lr": 0.01, "iterations": 6, "tasks_per_iteration": 2, "points": 8,
            "eval_every": 2, "eval_tasks": 3,
        }  # fmt: skip
        return TrainConfig(**{**settings, **changes})

    return make
