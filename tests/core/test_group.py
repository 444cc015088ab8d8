"""Training as on a GPU, whose losses are looked at every few iterations alone: what comes of it is the same."""

import itertools
import math
import signal
from types import SimpleNamespace

import pytest
import torch

from core import Run, meta_train_many
from core.group import Group
from core.runs import load_tensors
from core.side_by_side import Interrupted

LOSING = [{}, {1: 3}, {1: 3, 2: 5}, {0: 4, 1: 4}, {0: 0, 1: 1, 2: 2}, {2: 10}, {0: 9, 1: 2, 2: 6}]
"""Seeds, and the iteration in which their loss is no number."""


@pytest.fixture
def train(monkeypatch, tiny_config):
    """Trains seeds 0, 1 and 2, looks at their losses every so many iterations, and may be stopped in one."""
    made, gradient, step = Group.__init__, Group._meta_gradient, Group.step

    def call(looks_every: int, losing: dict[int, int], results=None, *, stopped_in=-1, **settings) -> list[Run]:
        signals: list[int] = []

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

        def stopping(group: Group, episodes):
            if group.iteration == stopped_in and not signals:
                signals.append(1)  # the iteration may be made again, and a second one would kill
                signal.raise_signal(signal.SIGINT)
            step(group, episodes)

        monkeypatch.setattr(Group, "__init__", begun)
        monkeypatch.setattr(Group, "_meta_gradient", spoilt)
        monkeypatch.setattr(Group, "step", stopping)
        configs = [tiny_config(iterations=11, seed=seed, **settings) for seed in (0, 1, 2)]
        return meta_train_many(configs, results=results, progress=False, device="cpu")

    return call


def assert_same(ones: list[Run], others: list[Run]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert (one.status, len(one.curve)) == (other.status, len(other.curve))
        assert one.info["iterations_done"] == other.info["iterations_done"]
        for name, tensor in {**one.theta, **one.xi}.items():
            # Fewer runs at once round differently, and so do SGD's kernels for a step that may be left out.
            torch.testing.assert_close(tensor, {**other.theta, **other.xi}[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("losing", LOSING, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"eval_every": 0}, {"eval_every": 0, "meta_optimizer": "sgd", "meta_lr": 0.5}],
    ids=["with a curve", "adam", "sgd"],
)
def test_a_run_that_diverges_is_found_later_and_changes_no_other(train, settings, losing):
    at_once = train(1, losing, **settings)
    assert [run.status for run in at_once] == [
        f"diverged at iteration {losing[seed]}" if seed in losing else "ok" for seed in (0, 1, 2)
    ]
    for looks_every in (4, 100):
        assert_same(train(looks_every, losing, **settings), at_once)


@pytest.mark.parametrize("losing", LOSING, ids=str)
def test_a_checkpoint_looks(train, tmp_path, monkeypatch, losing):
    """Also where it finds that there is nothing left to train."""
    monkeypatch.setattr("core.side_by_side.CHECKPOINT_SECONDS", -1.0)  # in every iteration
    assert_same(train(4, losing, tmp_path, eval_every=0), train(1, losing, eval_every=0))


def test_a_state_is_of_the_iterations_looked_at(train, tmp_path):
    """A state of a run that has diverged would go on from there as if nothing had been."""
    with pytest.raises(Interrupted):
        train(100, {1: 5}, tmp_path, stopped_in=7, eval_every=0)
    finished = {path.parent.name for path in tmp_path.glob("runs/*/run.json")}
    states = [load_tensors(path)[1] for path in tmp_path.glob("runs/*/state.safetensors")]
    assert (len(finished), len(states)) == (1, 2)
    for state in states:
        assert (state["iteration"], state["optimizer"]) == (8, {"step": 8.0})
    assert_same(train(100, {1: 5}, tmp_path, eval_every=0), train(1, {1: 5}, eval_every=0))


def test_time_is_counted_once(train, monkeypatch):
    """By a clock that goes on by a second with each question, of which an iteration and a look have two each.

    The fourth and the eighth iteration have a look within them, and one comes after the last.
    """
    ticks = itertools.count()
    monkeypatch.setattr("core.group.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    runs = train(4, {}, eval_every=0)
    assert [run.info["wall_seconds"] for run in runs] == [9 * 1 + 2 * 3 + 1] * 3
    runs = train(4, {1: 3}, eval_every=0)
    assert max(run.info["wall_seconds"] for run in runs) <= next(ticks)


def test_a_loss_that_was_not_looked_at_is_not_shown(train, monkeypatch):
    shown, progress = [], Group.progress.fget
    monkeypatch.setattr(Group, "progress", property(lambda group: shown.append(progress(group)) or shown[-1]))
    train(100, {}, eval_every=0)
    train(1, {}, eval_every=0)
    # At the first iteration and at the end, of each training.
    assert [text.startswith("test acc ") for text in shown] == [True, False, False, False]
    assert [text.split(" at ")[1] for text in shown] == ["0", "11", "0", "11"]
