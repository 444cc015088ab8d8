"""Same seed, same numbers: bit for bit where the order of arithmetic is the same, and within a bound where it is not.

The bound is of float32 sums taken in another order, which iterations carry on. `DRIFT` is 20 times the largest that was
measured here: of the runs below, relative to how far training moved the parameters, 2.5e-6 (an x86 CPU).
`python -m tests.test_reproducibility` prints what it is on a machine.
"""

import subprocess
import sys
from concurrent.futures import Future

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import intervene, perturb
from core import TrainConfig, load_run, meta_train, meta_train_many
from core.group import Group
from core.side_by_side import Interrupted
from core.tasks import ahead

QUIET = {"progress": False, "device": "cpu"}
DRIFT = 5e-5
SYNTHETIC = {
    "dataset": "synthetic", "steps": 2, "adapt_lr": 0.5, "first_order": False, "meta_optimizer": "adam",
    "meta_lr": 0.003, "iterations": 20, "tasks_per_iteration": 4, "points": 20, "eval_every": 10, "eval_tasks": 3,
}  # fmt: skip
IMAGES = {
    **SYNTHETIC, "dataset": "glyphs", "model": "cnn", "depth": 2, "filters": 4, "ways": 3, "shots": 2, "points": None,
    "iterations": 6, "eval_every": 3, "adapt_lr": 0.1,
}  # fmt: skip
CONFIGS = {
    "lr maml": TrainConfig(**SYNTHETIC, model="lr", method="maml"),
    "lr klin": TrainConfig(**SYNTHETIC, model="lr", method="klin"),
    "linnet kfc": TrainConfig(**SYNTHETIC, model="linnet", hidden=(5,), method="kfc", rule_depth=2),
    "cnn maml": TrainConfig(**IMAGES, method="maml"),
    "cnn meta_curvature": TrainConfig(**IMAGES, method="meta_curvature"),
}


def parameters(run):
    return {**{f"theta.{n}": t for n, t in run.theta.items()}, **{f"xi.{n}": t for n, t in run.xi.items()}}


def assert_equal(one, other):
    for name, tensor in parameters(one).items():
        assert torch.equal(tensor, parameters(other)[name]), name
    pd.testing.assert_frame_equal(one.curve, other.curve, check_exact=True)


def drift(one, other, start):
    """Largest distance of a tensor of two runs, relative to how far training moved it.

    What does not move is left out, as a convolution's bias before batch norm, on which nothing hangs; what the network
    does is compared by the curve.
    """
    a, b, s = parameters(one), parameters(other), parameters(start)
    moved = [name for name in a if not torch.equal(a[name], s[name])]
    curves = np.abs(one.curve["loss"] / other.curve["loss"] - 1).max()
    return max(curves, *(((a[name] - b[name]).norm() / (a[name] - s[name]).norm()).item() for name in moved))


def trained(name, **options):
    return meta_train(CONFIGS[name], results=None, **QUIET, **options)


@pytest.fixture(scope="module", params=CONFIGS)
def whole(request):
    """Name, run, and the run before its first iteration."""
    start = meta_train(changed(request.param, iterations=0), results=None, **QUIET)
    return request.param, trained(request.param), start


def changed(name, **changes):
    settings = {key: getattr(CONFIGS[name], key) for key in CONFIGS[name].__dataclass_fields__}
    return TrainConfig(**{**settings, **changes})


# Bit for bit.


def test_again(whole):
    name, run, _ = whole
    torch.manual_seed(99)  # nobody's business
    assert_equal(trained(name), run)


def test_beside_other_methods(whole):
    name, run, _ = whole
    other = changed(name, method="meta_sgd", rule_depth=None)
    assert_equal(meta_train_many([other, CONFIGS[name]], results=None, **QUIET)[1], run)


def test_saved_and_loaded(whole, tmp_path):
    name, run, _ = whole
    saved = meta_train(CONFIGS[name], results=tmp_path, **QUIET)
    assert_equal(saved, run)
    loaded = load_run(saved.path)
    assert_equal(loaded, run)
    tables = [
        intervene(each, {"none": None, "noise": perturb("*", std=0.1)}, num_tasks=3, seed=5) for each in (run, loaded)
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize("stops", [(1,), (3,), (1, 2, 3, 5)])
def test_stopped_and_gone_on_with(whole, stops, tmp_path, monkeypatch, steps_made):
    name, run, _ = whole
    step = Group.step

    def until(stop):
        def stopping(group, episodes):
            if group.iteration == stop:
                group.save_state()
                raise Interrupted
            step(group, episodes)

        return stopping

    for stop in stops:
        monkeypatch.setattr(Group, "step", until(stop))
        with pytest.raises(Interrupted):
            meta_train(CONFIGS[name], results=tmp_path, **QUIET)
    monkeypatch.setattr(Group, "step", step)
    assert_equal(meta_train(CONFIGS[name], results=tmp_path, **QUIET), run)
    assert steps_made == list(range(CONFIGS[name].iterations))


class NoThread:
    """In place of the thread that draws ahead: what is asked for is drawn at once, or, `late`, by whoever takes it."""

    late = False

    def __init__(self, size, threads_each):
        assert (size, threads_each) == (1, 1)

    def submit(self, call, *given):
        future = Future()
        if not self.late:
            future.set_result(call(*given))
        return future

    def shutdown(self, **_):
        pass


@pytest.mark.parametrize("late", [False, True])
def test_without_the_thread_that_draws_ahead(whole, late, monkeypatch):
    name, run, _ = whole
    monkeypatch.setattr(NoThread, "late", late)
    monkeypatch.setattr(ahead, "thread_pool", NoThread)
    assert_equal(trained(name), run)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder with the runs as another process trained them."""
    results = tmp_path_factory.mktemp("elsewhere")
    code = (
        "import sys, tests.test_reproducibility as t; from core import meta_train; "
        "[meta_train(config, results=sys.argv[1], **t.QUIET) for config in t.CONFIGS.values()]"
    )
    subprocess.run([sys.executable, "-c", code, str(results)], check=True)
    return results


def test_in_another_process(whole, elsewhere):
    _, run, _ = whole
    assert_equal(load_run(elsewhere / "runs" / run.id), run)


def test_a_task_is_measured_alike_however_many_there_are(whole):
    _, run, _ = whole
    few, many = (intervene(run, {"none": None}, num_tasks=n, seed=5) for n in (2, 5))
    both = few.merge(many, on=["task", "step", "split"], suffixes=("", "_many"))
    assert len(both) == len(few)
    # Tasks of one call are summed in another order than those of a longer one.
    np.testing.assert_allclose(both["loss"], both["loss_many"], rtol=1e-5)


# Within a bound, as sums are taken in another order.


@pytest.mark.parametrize("size", [1, 3])
def test_in_chunks(whole, size):
    name, run, start = whole
    assert drift(trained(name, tasks_per_chunk=size), run, start) < DRIFT


@pytest.mark.parametrize("seeds", [(0, 1), (2, 0, 1, 3)])
def test_with_other_seeds(whole, seeds):
    name, run, start = whole
    together = meta_train_many([changed(name, seed=seed) for seed in seeds], results=None, **QUIET)
    assert drift(together[seeds.index(0)], run, start) < DRIFT


def test_another_number_of_threads(whole):
    name, run, start = whole
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        assert drift(trained(name), run, start) < DRIFT
    finally:
        torch.set_num_threads(before)


def test_another_seed_is_far_beyond_the_bound(whole):
    name, run, start = whole
    assert drift(meta_train(changed(name, seed=1), results=None, **QUIET), run, start) > 100 * DRIFT


if __name__ == "__main__":
    for name in CONFIGS:
        start, run = (meta_train(changed(name, **c), results=None, **QUIET) for c in ({"iterations": 0}, {}))
        found = {f"chunks of {n}": trained(name, tasks_per_chunk=n) for n in (1, 2, 3)}
        for seeds in ((0, 1), (2, 0, 1, 3), range(8)):
            together = meta_train_many([changed(name, seed=seed) for seed in seeds], results=None, **QUIET)
            found[f"{len(seeds)} seeds"] = together[list(seeds).index(0)]
        for threads in (2, 1):
            torch.set_num_threads(threads)
            found[f"{threads} threads"] = trained(name)
        print(name, {what: f"{drift(other, run, start):.1e}" for what, other in found.items()})
