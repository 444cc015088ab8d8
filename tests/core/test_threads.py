"""Small work has one thread, larger work all of them, and the process has as many as before."""

import pytest
import torch

from core import TrainConfig, group, make_tasks, meta_train
from core.tasks.base import concatenate
from core.threads import SMALL_GFLOP, iteration_gflop, suitable_threads, threads
from tests.benchmarks.measuring import gflop

TRAINING = {"dataset": "synthetic", "model": "linnet", "method": "maml", "steps": 1, "adapt_lr": 1.0, "iterations": 3,
            "tasks_per_iteration": 1}  # fmt: skip


@pytest.fixture(autouse=True)
def three_threads():
    with threads(3):
        yield


def test_threads_are_as_before_afterwards():
    def fail():
        with threads(4):
            assert torch.get_num_threads() == 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("share", "number"), [(0.9, 1), (1.1, 3)])
def test_the_arithmetic_decides(share, number):
    assert suitable_threads(share * SMALL_GFLOP) == number
    with threads(1):
        assert suitable_threads(share * SMALL_GFLOP) == 1


@pytest.mark.parametrize("points", [3, 200])  # LinNet's weights are applied one by one, and multiplied first
@pytest.mark.parametrize("method", ["maml", "meta_sgd", "klin", "kfc"])
@pytest.mark.parametrize("model", ["lr", "linnet"])
def test_sizes_tell_about_what_is_counted(model, method, points):
    """Within a factor of five: around the threshold either number of threads takes about as long."""
    hidden = {"hidden": (64, 64)} if model == "linnet" else {}
    rule = {"rule_depth": 2} if method == "kfc" else {}
    settings = {**TRAINING, "model": model, "method": method, "points": points, "steps": 3, "tasks_per_iteration": 4}
    configs = [
        TrainConfig(**settings, **hidden, **rule, meta_optimizer="sgd", meta_lr=0.1, first_order=False, seed=seed)
        for seed in (0, 1)
    ]
    sources = [make_tasks(config.dataset, seed=config.seed, **config.task_options()) for config in configs]
    episodes = concatenate([source.sample("train", 4, 0) for source in sources])
    runs = group.Group(configs, sources, None, torch.device("cpu"))
    told = iteration_gflop(runs.model, runs.theta, runs.xi, episodes, runs.loop.steps, 2)
    assert 1 / 5 < told / gflop(lambda: runs._meta_gradient(episodes)) < 5


@pytest.mark.parametrize(("small", "number"), [(SMALL_GFLOP, 1), (0.0, 3)], ids=["small", "large"])
def test_an_iteration_on_vectors_has_threads_by_its_size(small, number, monkeypatch):
    """Every iteration alike: a sum over parts of the data would otherwise round differently."""
    seen, gradient = [], group.replica_meta_gradient

    def watched(*arguments, **options):
        seen.append(torch.get_num_threads())
        return gradient(*arguments, **options)

    monkeypatch.setattr("core.threads.SMALL_GFLOP", small)
    monkeypatch.setattr(group, "replica_meta_gradient", watched)
    meta_train(
        TrainConfig(**TRAINING, hidden=(8, 8), meta_optimizer="sgd", meta_lr=1e-6, first_order=False, eval_every=0),
        results=None, device="cpu", progress=False,
    )  # fmt: skip
    assert seen == [number] * 3
    assert torch.get_num_threads() == 3
