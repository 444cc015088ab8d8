"""What an experiment is said to cost."""

import signal
import time

import pytest

from core.__main__ import main
from core.config import TrainConfig
from core.costs import estimate
from core.errors import UserError
from core.group import Group
from core.runs import load_tensors
from core.side_by_side import Interrupted
from core.training import meta_train_many


def config(seed=0, **changes):
    settings = {
        "dataset": "synthetic", "model": "lr", "method": "maml", "steps": 1, "adapt_lr": 0.5, "first_order": False,
        "meta_optimizer": "sgd", "meta_lr": 0.01, "iterations": 50, "tasks_per_iteration": 4, "points": 30,
        "eval_every": 25, "eval_tasks": 5, "seed": seed,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def test_runs_and_iterations_are_counted_once_and_finished_ones_are_not(tmp_path):
    configs = [config(0), config(1), config(1), config(0, method="klin", iterations=7)]
    cost = estimate(configs, results=tmp_path)
    assert (cost.runs, cost.iterations) == (3, 107)
    assert cost.hours > 0
    meta_train_many(configs[:2], results=tmp_path, progress=False)
    cost = estimate(configs, results=tmp_path)
    assert (cost.runs, cost.iterations) == (1, 7)


def test_of_a_stopped_run_the_rest_is_counted(tmp_path, monkeypatch):
    def stop(group, episodes):
        if group.iteration == 40:
            signal.raise_signal(signal.SIGINT)
        step(group, episodes)

    step = Group.step
    with monkeypatch.context() as patch:
        patch.setattr(Group, "step", stop)
        with pytest.raises(Interrupted):
            meta_train_many([config()], results=tmp_path, progress=False)
    left = estimate([config()], results=tmp_path)
    assert (left.runs, left.iterations) == (1, 50 - load_tensors(next(tmp_path.rglob("state.*")))[1]["iteration"])
    assert 0 < left.iterations < 11


def test_nothing_is_trained_or_written(tmp_path):
    estimate([config()], results=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("slow", [False, True])
def test_hours_follow_the_clock(monkeypatch, slow):
    """With a clock that only `step` and `measure` advance, the estimate is their sum over the training."""
    now = 0.0

    def spend(seconds):
        nonlocal now
        now += seconds

    of_step, of_point = (1.0, 0.5) if slow else (0.001, 0.0005)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr("core.costs.Group.step", lambda self, episodes: spend(of_step * episodes.num_tasks))
    monkeypatch.setattr(
        "core.costs.Group.measure", lambda self, sample: spend(sum(of_point * c.eval_tasks for c in self.configs))
    )
    cost = estimate([config(0), config(1)], results="nowhere")
    # Two runs of 50 iterations of 4 tasks; points of 5 tasks after 0, 10, 20, 25 and 50 iterations.
    assert cost.hours * 3600 == pytest.approx(2 * (50 * 4 * of_step + 5 * 5 * of_point))


def test_missing_data_are_told_at_once(tmp_path):
    with pytest.raises(UserError, match="omniglot"):
        estimate(
            [config(dataset="omniglot_small", points=None, ways=5, shots=1)], results=tmp_path, root=tmp_path / "empty"
        )


def test_command(tmp_path, capsys):
    names = ["synthetic_linear", "glyphs_linear"]
    assert main(["cost", *names, "--num-seeds", "1", "--iterations", "20", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "synthetic_linear: 4 runs to train, 80 iterations in all, each of 1 tasks: " in out
    assert "reduced: glyphs_linear: 20 iterations in place of 60,000" in out
    assert main(["cost", "synthetic_linaer"]) == 2
    assert "unknown experiment 'synthetic_linaer'" in capsys.readouterr().err
