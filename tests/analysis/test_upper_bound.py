"""The upper bound is plain training of one model a task."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from analysis.errors import StudyError
from analysis.store import _to_arrow
from analysis.upper_bound import upper_bound
from core import Episodes, TrainConfig, list_runs, load_run, make_model, meta_train, run_from_module
from core.seeds import derive_seed


@pytest.fixture(scope="module")
def run(trained_cnn):
    return load_run(list_runs(trained_cnn)["path"].iloc[0])


@pytest.fixture(scope="module")
def linear_run():
    """Of so few examples that the engine keeps changes of its weights thin."""
    config = TrainConfig(
        dataset="glyphs", model="lr", method="maml", ways=5, shots=1, query_shots=2, steps=1, adapt_lr=0.1,
        first_order=False, meta_optimizer="adam", meta_lr=0.01, iterations=1, tasks_per_iteration=1, eval_tasks=1,
    )  # fmt: skip
    return meta_train(config, results=None, progress=False)


@pytest.mark.parametrize(
    ("model", "learns_from"), [("run", "class"), ("run", "support"), ("linear_run", "class"), ("linear_run", "support")]
)
def test_each_task_is_trained_alone_until_it_is_learned(model, learns_from, request):
    """Against a loop over tasks with a module and an optimizer of its own each.

    Few steps: Adam goes a whole step where a gradient is rounding alone, and the two drift apart: on a CPU without
    AVX-512 by 1e-6 after 10 steps, and by 3e-3 after 15.
    """
    run = request.getfixturevalue(model)
    table = upper_bound(run, num_tasks=3, seed=4, learns_from=learns_from, lr=0.05, loss=0.8, max_steps=10)
    source = run.tasks(seed=4)
    assert (table["training_shots"] == {"class": 20 - source.query_shots, "support": source.shots}[learns_from]).all()
    for task, row in enumerate(table.itertuples()):
        model = make_model(
            run.config.model, source, seed=derive_seed(4, "upper bound", task), **run.config.model_options()
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        episodes = source.draw_whole("test", 1, task) if learns_from == "class" else source.sample("test", 1, task)
        for step in range(11):
            loss = cross_entropy(model(episodes.support_x[0]), episodes.support_y[0])
            if loss <= 0.8 or step == 10:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        logits = model(episodes.query_x[0])
        assert row.training_steps == step
        assert row.converged == bool(loss <= 0.8)
        assert row.training_loss == pytest.approx(loss.item(), rel=1e-3)
        assert row.loss == pytest.approx(cross_entropy(logits, episodes.query_y[0]).item(), rel=1e-3)
        assert row.accuracy == pytest.approx((logits.argmax(1) == episodes.query_y[0]).float().mean().item())
    assert table["converged"].any()


def test_a_task_that_is_not_learned_in_time_says_so(run):
    table = upper_bound(run, num_tasks=2, lr=1e-6, max_steps=3)
    assert not table["converged"].any()
    assert (table["training_steps"] == 3).all()


def test_a_diverged_task_is_no_accuracy(run):
    table = upper_bound(run, num_tasks=2, lr=1e37, max_steps=5)
    assert (table["status"] == "diverged").all()
    assert np.isnan(table["accuracy"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"learns_from": "clas"}, "unknown learns_from 'clas'; known: class, support"),
        ({"num_tasks": 0}, "num_tasks must be at least 1"),
    ],
)
def test_mistakes_are_told(run, options, message):
    with pytest.raises(StudyError, match=message):
        upper_bound(run, **{"num_tasks": 2, **options})


def test_regression_has_no_number_of_shots(tiny):
    config = tiny(dataset="sinusoid", model="linnet", hidden=(4,), points=None, shots=5, iterations=1)
    table = upper_bound(
        meta_train(config, results=None, progress=False), num_tasks=2, learns_from="support", max_steps=2
    )
    _to_arrow("upper_bound", table)
    assert table["training_shots"].isna().all()
    assert (table["status"] == "ok").all()


def test_a_network_from_outside_cannot_be_made_anew():
    x, y = torch.zeros(2, 4, 3), torch.tensor([0, 1, 0, 1]).expand(2, -1)
    run = run_from_module(torch.nn.Linear(3, 2), Episodes(x, y, x + 1, y), steps=1, adapt_lr=0.1)
    with pytest.raises(StudyError, match="does not know how to make 'own:Linear'"):
        upper_bound(run, num_tasks=1, learns_from="support")
