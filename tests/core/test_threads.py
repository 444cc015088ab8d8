"""Small work has one thread, larger work all of them, and the process has as many as before."""

import pytest
import torch

from core import TrainConfig, meta_train, training
from core.threads import SMALL_GFLOP, suitable_threads, threads

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
    size = 100
    rows = round(share * SMALL_GFLOP * 1e9 / (2 * size * size))
    x, matrix = torch.ones(rows, size), torch.ones(size, size)
    assert suitable_threads(lambda: x @ matrix) == number
    with threads(1):
        assert suitable_threads(lambda: x @ matrix) == 1


@pytest.mark.parametrize(("small", "number"), [(SMALL_GFLOP, 1), (0.0, 3)], ids=["small", "large"])
def test_an_iteration_on_vectors_has_threads_by_its_size(small, number, monkeypatch):
    """Every iteration alike: a sum over parts of the data would otherwise round differently."""
    seen, gradient = [], training.replica_meta_gradient

    def watched(*arguments, **options):
        seen.append(torch.get_num_threads())
        return gradient(*arguments, **options)

    monkeypatch.setattr("core.threads.SMALL_GFLOP", small)
    monkeypatch.setattr(training, "replica_meta_gradient", watched)
    meta_train(
        TrainConfig(**TRAINING, hidden=(8, 8), meta_optimizer="sgd", meta_lr=1e-6, first_order=False, eval_every=0),
        results=None, device="cpu", progress=False,
    )  # fmt: skip
    _, *iterations = seen  # the first is that which is counted
    assert iterations == [number] * 3
    assert torch.get_num_threads() == 3
