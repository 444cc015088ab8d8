"""The comparison is a plain evaluation, with the costs beside it."""

import pytest

from analysis.comparison import comparison
from analysis.tasks import draw_test_tasks
from core import list_runs, load_run, meta_train


@pytest.fixture(scope="module")
def run(trained_cnn):
    return load_run(list_runs(trained_cnn)["path"].iloc[0])


def test_accuracies_are_those_of_evaluate_and_parameters_are_counted(run):
    table = comparison(run, num_tasks=3, seed=2)
    plain = run.evaluate(draw_test_tasks(run.tasks(seed=2), 3))
    assert table["accuracy"].tolist() == plain["accuracy"].tolist()
    # C1 (1 x 4 filters of 9, biases, norm), C2 (4 x 4 filters), FC (4 x 3), by hand.
    assert (table["model_parameters"] == (36 + 4 + 8) + (144 + 4 + 8) + (12 + 3)).all()
    # Two maps L (n x n), R (m x m) and a scale for each tensor: C1.conv 9, 1; C2.conv 9, 4; FC 3, 4; 7 vectors n, 1.
    matrices = (81 + 1) + (81 + 16) + (9 + 16)
    vectors = 6 * (16 + 1) + (9 + 1)
    assert (table["rule_parameters"] == 2 * (matrices + vectors) + 10).all()
    assert set(table["layers"]) == {2}


def test_a_diverged_run_has_no_accuracy(run, monkeypatch):
    monkeypatch.setattr(run, "status", "diverged at iteration 3")
    table = comparison(run, num_tasks=2)
    assert (table["status"] == "diverged").all()
    assert table["accuracy"].isna().all()


def test_rules_of_what_does_not_adapt_are_not_counted(tiny):
    config = tiny(model="linnet", method="meta_sgd", hidden=(4,), adapted=("layers.1",))
    run = meta_train(config, results=None, progress=False)
    assert (comparison(run, num_tasks=2)["rule_parameters"] == 4).all()  # a rate for each weight of the last layer


def test_where_all_tasks_explode_none_is_ok(run, monkeypatch):
    import core.evaluation

    monkeypatch.setattr(core.evaluation, "EXPLODED", 1e-9)
    table = comparison(run, num_tasks=2)
    assert (table["status"] == "diverged").all()
    assert table[["loss", "accuracy"]].isna().all(axis=None)
