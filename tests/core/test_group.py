"""Training as on a GPU, whose losses are looked at every few iterations alone: what comes of it is the same."""

import math

import pytest
import torch

from core import Run, load_run, meta_train_many
from core.group import Group
from core.outer_optimizer import OuterOptimizer
from core.tasks.ahead import DrawnAhead
from core.tasks.synthetic import SyntheticTasks

LOSING = [{}, {1: 3}, {1: 3, 2: 5}, {0: 4, 1: 4}, {0: 0, 1: 1, 2: 2}, {2: 10}, {0: 9, 1: 2, 2: 6}]
"""Seeds, and the iteration in which their loss is no number."""


@pytest.fixture
def train(monkeypatch, tiny_config):
    """Trains seeds 0, 1 and 2, and looks at their losses every so many iterations."""
    made, gradient = Group.__init__, Group._meta_gradient

    def call(looks_every: int, losing: dict[int, int], results=None, **settings) -> list[Run]:
        def begun(group: Group, *arguments, **options) -> None:
            made(group, *arguments, **options)
            group._looks_every = looks_every

        def spoilt(group: Group, episodes):
            loss, g_theta, g_xi = gradient(group, episodes)
            for i, config in enumerate(group.configs):
                if losing.get(config.seed) == group.iteration:
                    for tensor in (loss, *g_theta.values(), *g_xi.values()):
                        tensor[i] = math.nan
            return loss, g_theta, g_xi

        monkeypatch.setattr(Group, "__init__", begun)
        monkeypatch.setattr(Group, "_meta_gradient", spoilt)
        configs = [tiny_config(iterations=11, seed=seed, **settings) for seed in (0, 1, 2)]
        return meta_train_many(configs, results=results, progress=False, device="cpu")

    return call


@pytest.mark.parametrize("losing", LOSING, ids=str)
@pytest.mark.parametrize("settings", [{}, {"meta_optimizer": "sgd", "meta_lr": 0.5}], ids=["adam", "sgd"])
def test_a_run_that_diverges_is_found_later_and_changes_no_other(train, settings, losing):
    at_once = train(1, losing, **settings)
    assert [run.status for run in at_once] == [
        f"diverged at iteration {losing[seed]}" if seed in losing else "ok" for seed in (0, 1, 2)
    ]
    for looks_every in (4, 100):
        for one, other in zip(train(looks_every, losing, **settings), at_once, strict=True):
            assert (one.status, len(one.curve)) == (other.status, len(other.curve))
            assert one.info["iterations_done"] == other.info["iterations_done"]
            for name, tensor in {**one.theta, **one.xi}.items():
                # Fewer runs at once round differently, and so do SGD's kernels for a step that may be left out.
                torch.testing.assert_close(tensor, {**other.theta, **other.xi}[name], rtol=1e-5, atol=1e-5)


def test_a_state_has_the_losses_looked_at(train, tmp_path, monkeypatch):
    """A state of a run that has diverged would go on from there as if nothing had been."""
    monkeypatch.setattr("core.side_by_side.CHECKPOINT_SECONDS", -1.0)  # in every iteration
    at_once, later = train(1, {1: 5}), train(4, {1: 5}, tmp_path)
    assert [load_run(run.path).status for run in later] == [run.status for run in at_once]
    for one, other in zip(later, at_once, strict=True):
        torch.testing.assert_close(one.xi, other.xi)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_step_may_be_left_out(kind):
    torch.manual_seed(0)
    grads = [{"w": torch.randn(3, 4)} for _ in range(4)]
    left_out = {1, 2}
    tensors = [{"w": torch.ones(3, 4)} for _ in range(2)]
    plain, asked = OuterOptimizer(kind, 0.1), OuterOptimizer(kind, 0.1)
    for i, grad in enumerate(grads):
        if i not in left_out:
            plain.step(tensors[0], grad)
        asked.step(tensors[1], grad if i not in left_out else {"w": torch.full((3, 4), math.nan)},
                   unless=torch.tensor(float(i in left_out)))  # fmt: skip
    torch.testing.assert_close(tensors[1], tensors[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(asked.moments, plain.moments)


def test_no_tasks_are_drawn_for_runs_that_are_over(tiny_config, monkeypatch):
    drawn, draw = [], SyntheticTasks.draw

    def noted(source, split, num_tasks, index):
        drawn.append((source.seed, index))
        return draw(source, split, num_tasks, index)

    monkeypatch.setattr(SyntheticTasks, "draw", noted)
    with DrawnAhead({seed: SyntheticTasks(points=2, seed=seed) for seed in (0, 1)}, 2) as batches:
        assert batches.take().keys() == {0, 1}
        batches.only({1})
        assert batches.take().keys() == {1}
        assert batches.take().keys() == {1}
    assert {index for seed, index in drawn if seed == 0} <= {0, 1}
    assert {index for seed, index in drawn if seed == 1} >= {0, 1, 2}
